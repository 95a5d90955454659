//! A server for the tests of the load generator: it hears tones, says the same words for each, and can be slow when
//! it has many streams, or full.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use whisperwire_protocol::stream::{
    Account, ClientMessage, Done, Partial, Ready, ServerMessage, Settings, VERSION,
};

use super::recordings::{RATE, Recording, stretches};
use crate::mock::{Heard, Mock, Peer, Talk, said};

const WORDS: &str = "One two three.";
const SILENCE_MS: u32 = 300;

/// How it behaves.
#[derive(Clone, Debug)]
pub(crate) struct House {
    /// Streams at once; it refuses more.
    pub(crate) slots: usize,
    /// Up to so many streams finals come after `quick`, with more after `slow`.
    pub(crate) fast: usize,
    pub(crate) quick: Duration,
    pub(crate) slow: Duration,
    /// Streams that are open.
    pub(crate) open: Arc<AtomicUsize>,
}

impl Default for House {
    fn default() -> Self {
        let quick = Duration::from_millis(50);
        Self { slots: 100, fast: 100, quick, slow: quick, open: Arc::default() }
    }
}

impl House {
    /// Tones of different lengths, with silence around them.
    pub(crate) fn recordings(&self) -> Vec<Recording> {
        let tone = |milliseconds: usize| {
            let silence = std::iter::repeat_n(0, RATE / 5);
            let tone = (0..milliseconds * RATE / 1000).map(|n| ((n as f64 * 0.7).sin() * 8_000.0) as i16);
            let samples: Vec<i16> = silence.clone().chain(tone).chain(silence).collect();
            let speech = stretches(&samples);
            Recording { name: format!("{milliseconds}"), samples, text: Some(WORDS.into()), speech }
        };
        vec![tone(400), tone(600)]
    }

    pub(crate) async fn open(&self) -> Mock {
        let house = self.clone();
        Mock::new(move |_, peer| house.clone().serve(peer)).await
    }

    async fn serve(self, peer: Peer) {
        if self.open.fetch_add(1, Ordering::SeqCst) >= self.slots {
            peer.refuse(503, "retry-after: 1\r\n", "").await;
        } else {
            let mut talk = peer.accept().await;
            talk.say(None, ready()).await;
            self.listen(&mut talk).await;
            talk.close(1000, "").await;
        }
        self.open.fetch_sub(1, Ordering::SeqCst);
    }

    async fn listen(&self, talk: &mut Talk) {
        let mut ear = Ear::default();
        let mut seq = 0;
        let mut number = move || {
            seq += 1;
            seq
        };
        let mut finals: Vec<(Instant, ServerMessage)> = Vec::new();
        loop {
            let due = finals.first().map(|(due, _)| *due);
            let wait = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            let heard = tokio::select! {
                heard = talk.hear() => heard,
                () = wait => {
                    let (_, text) = finals.remove(0);
                    let done = done_of(&text);
                    talk.say(number(), text).await;
                    talk.say(number(), done).await;
                    continue;
                }
            };
            match heard {
                Some(Heard::Audio(bytes)) => {
                    for event in ear.hear(&bytes) {
                        let stopped = matches!(event, ServerMessage::SpeechStopped { .. });
                        let numbered = !matches!(event, ServerMessage::Partial(_));
                        talk.say(numbered.then(&mut number), event).await;
                        if stopped {
                            let late = self.open.load(Ordering::SeqCst) > self.fast;
                            let due = Instant::now() + if late { self.slow } else { self.quick };
                            finals.push((due, ear.last_words()));
                        }
                    }
                }
                Some(Heard::Said(ClientMessage::Ping)) => talk.say(None, ServerMessage::Pong).await,
                Some(Heard::Said(ClientMessage::End)) => break,
                Some(Heard::Said(_)) => {}
                None => return,
            }
        }
        for (_, text) in finals {
            talk.say(number(), text).await;
        }
        let received = ear.samples;
        let account = Account { received, decoded: received, ..Account::default() };
        talk.say(number(), ServerMessage::Done(Done { duration: ear.seconds(), account })).await;
    }
}

fn done_of(text: &ServerMessage) -> ServerMessage {
    let ServerMessage::Final(text) = text else { unreachable!("only finals wait") };
    ServerMessage::UtteranceDone { utterance: text.utterance }
}

fn ready() -> ServerMessage {
    ServerMessage::Ready(Box::new(Ready {
        version: VERSION,
        stream: "s".into(),
        settings: Settings { silence_ms: Some(SILENCE_MS), ..Settings::default() },
        received: Default::default(),
        last_seq: 0,
        caveat: None,
    }))
}

/// Hears when it is loud.
#[derive(Debug, Default)]
struct Ear {
    samples: u64,
    utterance: u32,
    /// Where the tone began.
    since: Option<f64>,
    /// Where it was last loud.
    loud: f64,
    told: bool,
    span: (f64, f64),
}

impl Ear {
    fn seconds(&self) -> f64 {
        self.samples as f64 / RATE as f64
    }

    fn hear(&mut self, bytes: &[u8]) -> Vec<ServerMessage> {
        let loud = bytes.chunks_exact(2).any(|s| i16::from_le_bytes([s[0], s[1]]).unsigned_abs() > 1_000);
        let at = self.seconds();
        self.samples += bytes.len() as u64 / 2;
        let utterance = self.utterance;
        let mut events = Vec::new();
        match self.since {
            None if loud => {
                (self.since, self.told) = (Some(at), false);
                events.push(ServerMessage::SpeechStarted { utterance, at });
            }
            Some(since) if !self.told && at > since + 0.2 => {
                self.told = true;
                let tentative = "One too".to_owned();
                events.push(ServerMessage::Partial(Partial { utterance, tentative, ..Partial::default() }));
            }
            Some(since) if at > self.loud + f64::from(SILENCE_MS) / 1000.0 => {
                (self.since, self.span) = (None, (since, self.loud));
                self.utterance += 1;
                events.push(ServerMessage::SpeechStopped { utterance, at: self.loud });
            }
            _ => {}
        }
        if loud {
            self.loud = self.seconds();
        }
        events
    }

    fn last_words(&self) -> ServerMessage {
        said(self.utterance - 1, WORDS, self.span.0, self.span.1)
    }
}
