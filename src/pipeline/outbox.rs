//! What a live stream has said: kept for its reader, who may be slow, away for a while, or come back.
//!
//! Contract: everything but partials, lag and an end before its time is numbered from 1 and told in order, exactly once to each reader.
//! Partials and lag are worth nothing once there is something newer, so only the newest is kept. A stream that may
//! be come back to keeps what was read too, up to [`KEPT`] messages; another forgets it. Whoever pushes waits while
//! the reader is [`UNREAD`] messages behind, and with it waits the stream's audio: that is the back-pressure.
//!
//! Deliberately absent: the wire. What is kept are events of the house; a dialect puts them into words.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::live::Ended;
use crate::transcript::{Event, Hypothesis, Samples};

/// Numbered messages that may wait for the reader.
const UNREAD: usize = 256;
/// Numbered messages that are kept for a reader who comes back.
const KEPT: usize = 4_096;

/// Something to tell the reader.
#[derive(Clone, Debug)]
pub enum Told {
    /// What the session says.
    Event(Event),
    /// Audio that was taken in and is not decided yet, when that is more than it should be; zero when it has been
    /// caught up with.
    Lag(Samples),
    /// The stream is over. Nothing follows.
    Ended(Ended),
}

/// How far a reader is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor(u64);

/// See the module.
pub(super) struct Outbox {
    state: Mutex<State>,
    /// There is something new to read, or room for more.
    changed: Notify,
    /// Whether what was read is kept.
    keeps: bool,
}

#[derive(Default)]
struct State {
    /// Counts everything that was ever put in: the order in which it is told.
    positions: u64,
    numbers: u64,
    numbered: VecDeque<Entry>,
    partials: VecDeque<(u64, Hypothesis)>,
    lag: Option<(u64, Samples)>,
    /// Up to where somebody has read.
    read: u64,
    /// Since when there has been no room.
    full_since: Option<Instant>,
}

struct Entry {
    position: u64,
    number: u64,
    told: Told,
}

impl Outbox {
    pub(super) fn new(keeps: bool) -> Self {
        Self { state: Mutex::default(), changed: Notify::new(), keeps }
    }

    /// Waits for room, then puts something in. What is not an event, and partials, never wait.
    pub(super) async fn push(&self, told: Told) {
        if matches!(&told, Told::Event(event) if !matches!(event, Event::Partial(_))) {
            loop {
                let changed = self.changed.notified();
                if self.has_room() {
                    break;
                }
                changed.await;
            }
        }
        self.put(told);
    }

    /// Puts something in, whether there is room or not.
    pub(super) fn put(&self, told: Told) {
        let mut state = self.state();
        state.put(told);
        state.forget_read(if self.keeps { KEPT } else { 0 });
        drop(state);
        self.changed.notify_waiters();
    }

    fn has_room(&self) -> bool {
        let mut state = self.state();
        let room = state.unread() < UNREAD;
        state.full_since = if room { None } else { state.full_since.or_else(|| Some(Instant::now())) };
        room
    }

    /// How long somebody has been waiting for room.
    pub(super) fn full_for(&self) -> Duration {
        self.state().full_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// The next thing behind the cursor, with its number where it has one. Never ends by itself: after
    /// [`Told::Ended`] nobody should ask again. Dropping the future loses nothing.
    pub(super) async fn next(&self, cursor: &mut Cursor) -> (Option<u64>, Told) {
        loop {
            let changed = self.changed.notified();
            if let Some(found) = self.state().take(cursor) {
                self.changed.notify_waiters();
                return found;
            }
            changed.await;
        }
    }

    /// A cursor behind the message of this number; `None` if messages after it have been forgotten, or were never
    /// told.
    pub(super) fn after(&self, number: u64) -> Option<Cursor> {
        let state = self.state();
        let numbered = |entry: &&Entry| is_numbered(&entry.told);
        let forgotten = state.numbered.iter().find(numbered).map_or(state.numbers, |entry| entry.number - 1);
        if number < forgotten || number > state.numbers {
            return None;
        }
        let before =
            state.numbered.iter().rev().find(|entry| entry.number <= number && is_numbered(&entry.told));
        let floor = state.numbered.front().map_or(0, |entry| entry.position.saturating_sub(1));
        Some(Cursor(before.map_or(floor, |entry| entry.position)))
    }

    /// The last number that was given out.
    pub(super) fn last_number(&self) -> u64 {
        self.state().numbers
    }

    /// Every critical section is a few moves, so the state is sound even if a thread died in one.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a reader who comes back may name it. An end before its time is told to whoever is there.
fn is_numbered(told: &Told) -> bool {
    !matches!(told, Told::Ended(ended) if !matches!(ended, Ended::Done { .. }))
}

impl State {
    fn unread(&self) -> usize {
        self.numbered.iter().rev().take_while(|entry| entry.position > self.read).count()
    }

    fn put(&mut self, told: Told) {
        self.positions += 1;
        let position = self.positions;
        match told {
            Told::Lag(behind) => self.lag = Some((position, behind)),
            Told::Event(Event::Partial(partial)) => {
                self.partials.retain(|(_, old)| old.utterance != partial.utterance);
                self.partials.push_back((position, partial));
            }
            told => {
                if let Told::Event(Event::Final(segment)) = &told {
                    self.partials.retain(|(_, old)| old.utterance != segment.utterance);
                }
                self.numbers += u64::from(is_numbered(&told));
                self.numbered.push_back(Entry { position, number: self.numbers, told });
            }
        }
    }

    fn take(&mut self, cursor: &mut Cursor) -> Option<(Option<u64>, Told)> {
        let from = self.numbered.partition_point(|entry| entry.position <= cursor.0);
        let numbered = self.numbered.get(from);
        let partial = self.partials.iter().find(|(position, _)| *position > cursor.0);
        let lag = self.lag.filter(|(position, _)| *position > cursor.0);
        let first = [numbered.map(|entry| entry.position), partial.map(|(at, _)| *at), lag.map(|(at, _)| at)]
            .into_iter()
            .flatten()
            .min()?;
        let found = match (numbered, partial, lag) {
            (Some(entry), ..) if entry.position == first => {
                (Some(entry.number).filter(|_| is_numbered(&entry.told)), entry.told.clone())
            }
            (_, Some((at, partial)), _) if *at == first => {
                (None, Told::Event(Event::Partial(partial.clone())))
            }
            (.., Some((_, behind))) => (None, Told::Lag(behind)),
            _ => return None,
        };
        cursor.0 = first;
        self.read = self.read.max(first);
        Some(found)
    }

    /// Forgets what was read, all but the newest `keep`.
    fn forget_read(&mut self, keep: usize) {
        while self.numbered.len() > keep
            && self.numbered.front().is_some_and(|entry| entry.position <= self.read)
        {
            self.numbered.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcript::{Segment, Span};

    fn started(utterance: u32) -> Told {
        Told::Event(Event::SpeechStarted { utterance, at: Samples(0) })
    }

    fn partial(utterance: u32, end: u64) -> Told {
        let span = Span::new(Samples(0), Samples(end));
        Told::Event(Event::Partial(Hypothesis { utterance, stable: vec![], tentative: vec![], span }))
    }

    fn last(utterance: u32) -> Told {
        let (span, words) = (Span::default(), vec![]);
        Told::Event(Event::Final(Segment {
            utterance,
            span,
            words,
            temperature: 0.0,
            no_speech: 0.0,
            language: None,
        }))
    }

    fn tell(told: (Option<u64>, Told)) -> String {
        let what = match told.1 {
            Told::Event(Event::SpeechStarted { utterance, .. }) => format!("start {utterance}"),
            Told::Event(Event::Partial(partial)) => format!("partial {}", partial.span.end.0),
            Told::Event(Event::Final(segment)) => format!("final {}", segment.utterance),
            Told::Lag(behind) => format!("lag {}", behind.0),
            _ => "other".to_owned(),
        };
        told.0.map_or(what.clone(), |number| format!("{number} {what}"))
    }

    async fn all(outbox: &Outbox, cursor: &mut Cursor) -> Vec<String> {
        let mut said = Vec::new();
        while let Ok(told) =
            tokio::time::timeout(std::time::Duration::from_millis(5), outbox.next(cursor)).await
        {
            said.push(tell(told));
        }
        said
    }

    #[tokio::test]
    async fn a_newer_partial_takes_the_place_of_an_older_and_a_final_of_both() {
        let outbox = Outbox::new(false);
        for told in [started(0), partial(0, 1), partial(0, 2), Told::Lag(Samples(7)), partial(0, 3)] {
            outbox.push(told).await;
        }
        let mut cursor = Cursor::default();
        assert_eq!(all(&outbox, &mut cursor).await, ["1 start 0", "lag 7", "partial 3"]);
        for told in [partial(0, 4), last(0), started(1), partial(1, 9)] {
            outbox.push(told).await;
        }
        assert_eq!(all(&outbox, &mut cursor).await, ["2 final 0", "3 start 1", "partial 9"]);
    }

    #[tokio::test]
    async fn who_comes_back_hears_what_was_missed_once() {
        let outbox = Outbox::new(true);
        for utterance in 0..5 {
            outbox.push(started(utterance)).await;
        }
        let mut cursor = Cursor::default();
        assert_eq!(all(&outbox, &mut cursor).await.len(), 5);
        let mut again = outbox.after(3).expect("it is kept");
        assert_eq!(all(&outbox, &mut again).await, ["4 start 3", "5 start 4"]);
        assert!(outbox.after(5).is_some() && outbox.after(6).is_none());
        let mut from_the_start = outbox.after(0).expect("all of it is kept");
        assert_eq!(all(&outbox, &mut from_the_start).await.len(), 5);
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded_and_so_is_what_waits() {
        let outbox = Outbox::new(true);
        let mut cursor = Cursor::default();
        for utterance in 0..2 * KEPT as u32 {
            outbox.push(started(utterance)).await;
            outbox.next(&mut cursor).await;
        }
        assert!(outbox.after(100).is_none());
        assert!(outbox.state().numbered.len() <= KEPT + 1);
        let full = async {
            for utterance in 0.. {
                outbox.push(started(utterance)).await;
            }
        };
        assert!(tokio::time::timeout(std::time::Duration::from_millis(20), full).await.is_err());
        assert_eq!(outbox.state().unread(), UNREAD);
        assert_eq!(all(&outbox, &mut cursor).await.len(), UNREAD);
    }
}
