//! The one loop: results and audio in, requests and events out.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;

use crate::engine::pool::{Lane, Slot};
use crate::engine::{DecodeOptions, Effort, EngineError, Request};
use crate::language::Language;
use crate::session::{Input, Output, Session, Window, WindowId};
use crate::transcript::{Account, Event, GapReason, Recognition, Samples};

/// One stream of audio being transcribed, whoever sends it and whoever listens.
pub(super) struct Stream {
    pub(super) session: Session,
    pub(super) slot: Slot,
    pub(super) lane: Lane,
    pub(super) options: Arc<DecodeOptions>,
    /// The language, where it is known from the start.
    pub(super) language: Option<Language>,
}

/// How a stream ended.
#[derive(Debug)]
pub(super) struct End {
    pub(super) account: Account,
    pub(super) language: Option<Language>,
    pub(super) duration: Samples,
}

/// The reader went away.
#[derive(Debug, PartialEq, Eq)]
pub struct Hangup;

/// A window that failed is asked for once more before it becomes a gap: a crash may have been a neighbour's fault.
const TRIES: u32 = 2;

/// A window that is out, and how often it has been asked for.
struct Asked {
    id: WindowId,
    request: Request,
    tries: u32,
}

type Answer = Pin<Box<dyn Future<Output = (Asked, Result<Recognition, EngineError>)> + Send>>;

impl Stream {
    /// Runs until the source ends or the reader hangs up. A chunk is only taken while the session wants it, so the
    /// channel fills up and the source waits: that is the back-pressure.
    pub(super) async fn run(
        mut self,
        mut audio: mpsc::Receiver<Vec<f32>>,
        events: mpsc::Sender<Event>,
    ) -> Result<End, Hangup> {
        let mut out = FuturesUnordered::new();
        let mut open = true;
        loop {
            while let Some(output) = self.session.poll() {
                match output {
                    Output::Recognize(window) => out.push(self.ask(self.question(window))),
                    Output::Event(event) => events.send(event).await.map_err(|_| Hangup)?,
                    Output::Finished { account, language } => {
                        return Ok(End { account, language, duration: self.session.received() });
                    }
                }
            }
            tokio::select! {
                Some((asked, result)) = out.next() => match result {
                    Err(EngineError::Crashed | EngineError::Failed(_)) if asked.tries < TRIES => {
                        out.push(self.ask(asked));
                    }
                    result => {
                        let result = result.map_err(|error| {
                            tracing::warn!(%error, "a window could not be decoded");
                            GapReason::Engine
                        });
                        self.session.handle(Input::Recognized(asked.id, result));
                    }
                },
                chunk = audio.recv(), if open && self.session.wants_audio() => match chunk {
                    Some(chunk) => self.session.handle(Input::Audio(&chunk)),
                    None => {
                        open = false;
                        self.session.handle(Input::End);
                    }
                },
                () = events.closed() => return Err(Hangup),
            }
        }
    }

    fn question(&self, window: Window) -> Asked {
        let request = Request {
            pcm: window.pcm,
            offset: window.span.start,
            effort: Effort::Full,
            language: self.language.or(window.language),
            options: self.options.clone(),
        };
        Asked { id: window.id, request, tries: 0 }
    }

    /// The answer to a window. Dropping it withdraws the question.
    fn ask(&self, mut asked: Asked) -> Answer {
        asked.tries += 1;
        let ticket = self.slot.submit(self.lane, asked.request.clone());
        Box::pin(async move { (asked, ticket.await) })
    }
}
