//! What is to be sent, and what was sent a short while ago and may have to be sent again.
//!
//! The contract: everything leaves in the order in which it was pushed. After [`Outgoing::rewind`] the next item is
//! the first that the server does not have; control messages that stand at that place or behind it are sent once
//! more, because nobody knows whether they arrived, and all of them bear it. Items that were sent are kept up to a
//! number of bytes, the oldest go first. Pure: no socket, no clock.

use std::collections::VecDeque;

use tokio_tungstenite::tungstenite::{Bytes, Message};
use whisperwire_protocol::stream::{Encoding, Received, Settings};

/// How much audio is kept to be sent again, in seconds.
const KEPT_SECONDS: usize = 60;
/// How many bytes are kept where a second has no fixed size. 60 s of Opus are a tenth of it.
const KEPT_BYTES: usize = 4 << 20;

/// How many items may wait while nothing can be sent, whatever their size.
const MOST_ITEMS: usize = 100_000;

/// The queue and the memory of one stream.
#[derive(Debug)]
pub(super) struct Outgoing {
    items: VecDeque<Item>,
    /// The item that is sent next, as an index into `items`.
    next: usize,
    /// Bytes of that item which the server has already.
    skip: usize,
    /// Bytes of audio in `items`.
    held: usize,
    /// Those of them that were not sent yet.
    unsent: usize,
    /// How many of them may be kept; 0 where nothing is ever sent again.
    keep: usize,
    /// How places in the audio are counted.
    unit: Unit,
    /// All audio that was ever pushed, in that unit.
    pushed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Bytes,
    Messages,
}

#[derive(Debug)]
enum Item {
    /// Audio, and the place where it begins.
    Audio { at: u64, bytes: Bytes },
    /// A control message, and how much audio stood before it.
    Control { at: u64, text: String },
}

impl Outgoing {
    /// For a stream with these settings in force. If it cannot be resumed, nothing is kept.
    pub(super) fn new(settings: &Settings, resumable: bool) -> Self {
        let encoding = settings.encoding.unwrap_or_default();
        let second = encoding.sample_bytes().map(|sample| {
            sample * settings.sample_rate.unwrap_or(16_000) as usize * settings.channels.unwrap_or(1) as usize
        });
        let keep = if resumable { second.map_or(KEPT_BYTES, |bytes| bytes * KEPT_SECONDS) } else { 0 };
        let unit = if encoding == Encoding::Opus { Unit::Messages } else { Unit::Bytes };
        Self { items: VecDeque::new(), next: 0, skip: 0, held: 0, unsent: 0, keep, unit, pushed: 0 }
    }

    pub(super) fn audio(&mut self, bytes: Bytes) {
        let at = self.pushed;
        self.pushed += match self.unit {
            Unit::Bytes => bytes.len() as u64,
            Unit::Messages => 1,
        };
        self.held += bytes.len();
        self.unsent += bytes.len();
        self.items.push_back(Item::Audio { at, bytes });
    }

    pub(super) fn control(&mut self, text: String) {
        self.items.push_back(Item::Control { at: self.pushed, text });
    }

    /// The next message, which counts as sent from now on.
    pub(super) fn take(&mut self) -> Option<Message> {
        let message = match self.items.get(self.next)? {
            Item::Audio { bytes, .. } => {
                let rest = bytes.slice(self.skip..);
                self.unsent -= rest.len();
                Message::Binary(rest)
            }
            Item::Control { text, .. } => Message::text(text.as_str()),
        };
        self.next += 1;
        self.skip = 0;
        self.forget();
        Some(message)
    }

    /// Whether more may be pushed while nothing can be sent: as much again as is kept.
    pub(super) fn has_room(&self) -> bool {
        self.unsent < self.keep && self.items.len() < MOST_ITEMS
    }

    /// Goes back to the first item that the server lacks. An error is how much of it is not kept any more.
    pub(super) fn rewind(&mut self, received: &Received) -> Result<(), u64> {
        let have = match self.unit {
            Unit::Bytes => received.bytes,
            Unit::Messages => received.messages,
        };
        let unit = self.unit;
        let lacks = |item: &Item| match item {
            Item::Audio { at, bytes } => unit.end(*at, bytes) > have,
            Item::Control { at, .. } => *at >= have,
        };
        let first = self.items.iter().position(lacks).unwrap_or(self.items.len());
        let kept_from = self.items.range(first..).find_map(|item| match item {
            Item::Audio { at, .. } => Some(*at),
            Item::Control { .. } => None,
        });
        let kept_from = kept_from.unwrap_or(self.pushed);
        if kept_from > have {
            return Err(kept_from - have);
        }
        self.next = first;
        self.skip = match self.items.get(first) {
            Some(Item::Audio { at, .. }) if unit == Unit::Bytes => (have - at) as usize,
            _ => 0,
        };
        let rest = self.items.range(first..).map(|item| match item {
            Item::Audio { bytes, .. } => bytes.len(),
            Item::Control { .. } => 0,
        });
        self.unsent = rest.sum::<usize>() - self.skip;
        Ok(())
    }

    /// Drops the oldest items that were sent and exceed what is kept.
    fn forget(&mut self) {
        while self.next > 0 && (self.held > self.keep || self.keep == 0) {
            if let Some(Item::Audio { bytes, .. }) = self.items.pop_front() {
                self.held -= bytes.len();
            }
            self.next -= 1;
        }
    }
}

impl Unit {
    fn end(self, at: u64, bytes: &Bytes) -> u64 {
        at + match self {
            Self::Bytes => bytes.len() as u64,
            Self::Messages => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(encoding: Encoding, resumable: bool) -> Outgoing {
        let settings = Settings { encoding: Some(encoding), sample_rate: Some(100), ..Settings::default() };
        Outgoing::new(&settings, resumable)
    }

    fn all(outgoing: &mut Outgoing) -> String {
        let mut out = String::new();
        while let Some(message) = outgoing.take() {
            match message {
                Message::Binary(bytes) => out += std::str::from_utf8(&bytes).expect("plain text"),
                Message::Text(text) => out += &format!("<{text}>"),
                other => panic!("{other:?}"),
            }
        }
        out
    }

    fn received(bytes: u64, messages: u64) -> Received {
        Received { bytes, messages, ..Received::default() }
    }

    #[test]
    fn what_the_server_lacks_is_sent_again() {
        let mut outgoing = of(Encoding::PcmS16le, true);
        for piece in ["abc", "def"] {
            outgoing.audio(Bytes::from_static(piece.as_bytes()));
        }
        outgoing.control("flush".into());
        outgoing.audio(Bytes::from_static(b"ghi"));
        assert_eq!(all(&mut outgoing), "abcdef<flush>ghi");
        assert_eq!(all(&mut outgoing), "");
        for (have, again) in [
            (0, "abcdef<flush>ghi"),
            (2, "cdef<flush>ghi"),
            (3, "def<flush>ghi"),
            (6, "<flush>ghi"),
            (7, "hi"),
            (9, ""),
        ] {
            assert_eq!(outgoing.rewind(&received(have, 0)), Ok(()), "{have}");
            assert_eq!(all(&mut outgoing), again, "{have}");
        }
    }

    #[test]
    fn packets_are_counted_and_never_cut() {
        let mut outgoing = of(Encoding::Opus, true);
        for piece in ["aaaa", "b", "cc"] {
            outgoing.audio(Bytes::from_static(piece.as_bytes()));
        }
        assert_eq!(all(&mut outgoing), "aaaabcc");
        assert_eq!(outgoing.rewind(&received(5, 1)), Ok(()));
        assert_eq!(all(&mut outgoing), "bcc");
    }

    #[test]
    fn a_minute_is_kept_and_what_is_older_is_missed() {
        let mut outgoing = of(Encoding::PcmS16le, true);
        let second = vec![b'.'; 200];
        for _ in 0..100 {
            outgoing.audio(Bytes::from(second.clone()));
            assert!(outgoing.take().is_some());
        }
        assert_eq!(outgoing.held, 60 * 200);
        assert_eq!(outgoing.rewind(&received(39 * 200, 0)), Err(200));
        assert_eq!(outgoing.rewind(&received(40 * 200 + 2, 0)), Ok(()));
        assert_eq!(outgoing.unsent, 60 * 200 - 2);
        assert_eq!(all(&mut outgoing).len(), 60 * 200 - 2);
        assert!(outgoing.has_room(), "all of it was sent");
    }

    #[test]
    fn without_a_way_back_nothing_is_kept() {
        let mut outgoing = of(Encoding::PcmS16le, false);
        outgoing.audio(Bytes::from_static(b"abc"));
        outgoing.control("end".into());
        assert_eq!(all(&mut outgoing), "abc<end>");
        assert_eq!((outgoing.items.len(), outgoing.held, outgoing.next), (0, 0, 0));
        assert_eq!(outgoing.rewind(&received(3, 0)), Ok(()), "nothing is missing");
        assert_eq!(outgoing.rewind(&received(1, 0)), Err(2));
    }

    #[test]
    fn an_item_that_was_not_sent_is_never_dropped() {
        let mut outgoing = of(Encoding::PcmF32le, true);
        for _ in 0..100 {
            outgoing.audio(Bytes::from(vec![b'.'; 400]));
        }
        assert!(!outgoing.has_room(), "more than 60 s of 400 bytes wait");
        assert_eq!(all(&mut outgoing).len(), 40_000);
    }
}
