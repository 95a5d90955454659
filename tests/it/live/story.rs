//! What a stream has said, and whether it keeps what `STREAM.md` promises.

use std::collections::BTreeMap;

use whisperwire_protocol::openai::GapReason;
use whisperwire_protocol::stream::{Done, Final, Ready, ServerEvent, ServerMessage};

/// Everything that was heard on a stream, over one connection or several.
#[derive(Clone, Debug, Default)]
pub(crate) struct Story {
    pub(crate) events: Vec<ServerEvent>,
    /// The code of the close frame, where one came.
    pub(crate) close: Option<u16>,
}

impl Story {
    pub(crate) fn messages(&self) -> impl DoubleEndedIterator<Item = &ServerMessage> {
        self.events.iter().map(|event| &event.message)
    }

    pub(crate) fn finals(&self) -> impl Iterator<Item = &Final> {
        self.messages().filter_map(|message| match message {
            ServerMessage::Final(told) => Some(told),
            _ => None,
        })
    }

    /// The transcript.
    pub(crate) fn text(&self) -> String {
        self.finals().map(|told| told.text.as_str()).collect::<Vec<_>>().join(" ")
    }

    /// The newest `ready`.
    pub(crate) fn ready(&self) -> &Ready {
        let ready = self.messages().rev().find_map(|message| match message {
            ServerMessage::Ready(ready) => Some(ready),
            _ => None,
        });
        ready.expect("every connection begins with it")
    }

    /// Gaps as they were told: from, to, and why.
    pub(crate) fn gaps(&self) -> Vec<(f64, f64, String)> {
        let gap = |message: &ServerMessage| match message {
            ServerMessage::Gap { start, end, reason } => Some((*start, *end, format!("{reason:?}"))),
            _ => None,
        };
        self.messages().filter_map(gap).collect()
    }

    /// Errors: their codes and fields, and whether they are fatal.
    pub(crate) fn errors(&self) -> Vec<(String, Option<String>, bool)> {
        let error = |message: &ServerMessage| match message {
            ServerMessage::Error { error, fatal } => {
                assert!(error.message.len() > 10, "a sentence: {error:?}");
                Some((error.code.clone().unwrap_or_default(), error.param.clone(), *fatal))
            }
            _ => None,
        };
        self.messages().filter_map(error).collect()
    }

    /// The seconds of every `lag`.
    pub(crate) fn lags(&self) -> Vec<f64> {
        let lag = |message: &ServerMessage| match message {
            ServerMessage::Lag { seconds } => Some(*seconds),
            _ => None,
        };
        self.messages().filter_map(lag).collect()
    }

    pub(crate) fn has(&self, so: impl Fn(&ServerMessage) -> bool) -> bool {
        self.messages().any(so)
    }

    /// The number of the last numbered message.
    pub(crate) fn last_seq(&self) -> u64 {
        self.events.iter().rev().find_map(|event| event.seq).unwrap_or(0)
    }

    /// The end of a stream that came to one.
    pub(crate) fn done(&self) -> Done {
        match self.messages().next_back() {
            Some(ServerMessage::Done(done)) => *done,
            last => panic!("it ended with {last:?} and {:?}", self.close),
        }
    }

    /// The numbered messages as text, to be compared with those of another run.
    pub(crate) fn numbered(&self) -> Vec<String> {
        self.events.iter().filter(|event| event.seq.is_some()).map(ServerEvent::to_json).collect()
    }

    /// Goes on with what was heard after a reconnect.
    pub(crate) fn and(mut self, next: Self) -> Self {
        self.events.extend(next.events);
        self.close = next.close;
        self
    }

    /// A fatal error with this code, this close code, and nothing after it.
    pub(crate) fn broke(&self, code: &str, close: u16) {
        assert_eq!(self.close, Some(close), "{:?}", self.errors());
        let Some(ServerMessage::Error { error, fatal: true }) = self.messages().next_back() else {
            panic!("no fatal error: {:?}", self.events.last());
        };
        assert_eq!(error.code.as_deref(), Some(code));
        self.keeps_order();
    }

    /// The whole of a stream that came to its end: what was promised was kept, and the account adds up.
    pub(crate) fn whole(self) -> Self {
        self.keeps_order();
        let Done { duration, account } = self.done();
        assert_eq!(account.received, account.decoded + account.silence + account.lost, "{account:?}");
        assert!((duration - account.received as f64 / 16_000.0).abs() < 0.001, "{duration} {account:?}");
        let lost: f64 = self.gaps().iter().map(|(start, end, _)| end - start).sum();
        assert!((lost * 16_000.0 - account.lost as f64).abs() <= 16.0 * (1 + self.gaps().len()) as f64);
        self
    }

    /// Numbers without holes, utterances in order, promises kept: what holds at any time of any stream.
    pub(crate) fn keeps_order(&self) {
        assert!(matches!(self.messages().next(), Some(ServerMessage::Ready(_))), "`ready` comes first");
        let numbers: Vec<u64> = self.events.iter().filter_map(|event| event.seq).collect();
        assert!(numbers.iter().copied().eq(1..=numbers.len() as u64), "{numbers:?}");
        let mut utterances = BTreeMap::<u32, Utterance>::new();
        // What was made up for a packet that was lost has been heard, so its gap lies within a final's span.
        let (mut told_until, mut gaps_until) = (0.0, 0.0);
        let in_order = |until: &mut f64, start: f64, end: f64| {
            assert!(*until <= start + 0.0011 && start <= end, "{start} to {end} after {until}");
            *until = end;
        };
        for event in &self.events {
            let numbered = !matches!(
                event.message,
                ServerMessage::Ready(_)
                    | ServerMessage::Partial(_)
                    | ServerMessage::Lag { .. }
                    | ServerMessage::Pong
                    | ServerMessage::Error { .. }
            );
            assert_eq!(event.seq.is_some(), numbered, "{event:?}");
            match &event.message {
                ServerMessage::SpeechStarted { utterance, .. } => {
                    assert_eq!(*utterance as usize, utterances.len(), "{event:?}");
                    utterances.insert(*utterance, Utterance::default());
                }
                ServerMessage::Partial(partial) => {
                    let spoken = utterances.get_mut(&partial.utterance).expect("it has started");
                    spoken.show(&partial.stable, &partial.tentative);
                }
                ServerMessage::Final(told) => {
                    utterances.get_mut(&told.utterance).expect("it has started").tell(&told.text);
                    in_order(&mut told_until, told.start, told.end);
                }
                ServerMessage::SpeechStopped { utterance, .. } => {
                    let spoken = utterances.get_mut(utterance).expect("it has started");
                    assert!(!std::mem::replace(&mut spoken.stopped, true), "{event:?} again");
                }
                ServerMessage::UtteranceDone { utterance } => {
                    let spoken = utterances.get_mut(utterance).expect("it has started");
                    assert!(spoken.stopped && !spoken.over && !spoken.shown, "{event:?}: {spoken:?}");
                    assert_eq!(spoken.owed, "", "{event:?} and something was promised");
                    spoken.over = true;
                }
                ServerMessage::Gap { start, end, reason } => {
                    in_order(&mut gaps_until, *start, *end);
                    if *reason != GapReason::Corrupt {
                        in_order(&mut told_until, *start, *end);
                    }
                }
                ServerMessage::Done(_) => {
                    assert!(utterances.values().all(|spoken| spoken.over), "{utterances:?}");
                }
                _ => {}
            }
        }
        let last = self.events.len() - 1;
        let ends = |message: &ServerMessage| {
            matches!(message, ServerMessage::Done(_) | ServerMessage::Error { fatal: true, .. })
        };
        assert!(self.messages().position(ends).is_none_or(|at| at == last), "something came after the end");
    }
}

/// What is shown of an utterance.
#[derive(Debug, Default)]
struct Utterance {
    /// What the finals to come begin with.
    owed: String,
    /// Whether there is text that no final has taken the place of.
    shown: bool,
    stopped: bool,
    over: bool,
}

impl Utterance {
    fn show(&mut self, stable: &str, tentative: &str) {
        let text = format!("{stable}{tentative}");
        assert!(!self.over, "{text:?} after the last final");
        assert!(text.trim() == text && !(stable.is_empty() && tentative.starts_with(' ')), "{text:?}");
        assert!(stable.starts_with(&self.owed), "{:?} was promised, now it is {stable:?}", self.owed);
        (self.owed, self.shown) = (stable.to_owned(), !text.is_empty());
    }

    fn tell(&mut self, text: &str) {
        assert!(!self.over && !text.is_empty() && text.trim() == text, "{text:?}");
        if let Some(rest) = self.owed.strip_prefix(text) {
            self.owed = rest.trim_start().to_owned();
        } else {
            assert!(text.starts_with(&self.owed), "{:?} was promised, {text:?} told", self.owed);
            self.owed.clear();
        }
        self.shown = false;
    }
}
