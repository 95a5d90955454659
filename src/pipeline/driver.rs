//! The one loop: results and audio in, requests and events out.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::Transcriber;
use super::feed::{Feed, Item};
use super::meter::Intake;
use super::watch::Watch;
use crate::audio::AudioError;
use crate::engine::pool::{Lane, Slot, Ticket};
use crate::engine::{DecodeOptions, Effort, EngineError, Request};
use crate::language::Language;
use crate::session::{Input, Output, Session, Window, WindowId, WindowKind};
use crate::transcript::{Account, Event, GapReason, RATE, Recognition, Samples};

/// One stream of audio being transcribed, whoever sends it and whoever listens.
pub(super) struct Stream {
    pub(super) session: Session,
    pub(super) slot: Slot,
    /// Of the model that hears it.
    pub(super) transcriber: Transcriber,
    pub(super) profile: Profile,
    pub(super) options: Arc<DecodeOptions>,
    /// The language, where it is known from the start.
    pub(super) language: Option<Language>,
    /// The most audio that is taken.
    pub(super) longest: Samples,
    /// Whoever wants to know how much is taken.
    pub(super) intake: Intake,
    pub(super) watch: Watch,
}

/// Whether somebody is speaking at this moment. It decides how urgent a window is, and nothing about the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Profile {
    Live,
    File,
}

/// Whoever is told what is heard.
pub(super) trait Listener: Sync {
    /// Takes an event; waits while there is no room for it.
    fn tell(&self, event: Event) -> impl Future<Output = Result<(), Hangup>> + Send;
    /// Ends when nobody listens any more.
    fn gone(&self) -> impl Future<Output = ()> + Send;
    /// Is told how far the engine is behind, if it is.
    fn lag(&self, behind: Samples) -> impl Future<Output = ()> + Send;
}

/// How a stream ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) account: Account,
    pub(super) language: Option<Language>,
    pub(super) duration: Samples,
    /// Finals that did not begin as promised and were made to.
    pub(super) overruled: u64,
}

/// Why a stream ended otherwise than by its end.
#[derive(Debug)]
pub(super) enum Cut {
    /// The reader went away.
    Hangup,
    /// The audio broke off. What had been heard was told.
    Audio(AudioError),
}

/// The reader went away.
#[derive(Debug, PartialEq, Eq)]
pub struct Hangup;

/// A window that failed is asked for once more before it becomes a gap: a crash may have been a neighbour's fault.
const TRIES: u32 = 2;
/// A live stream that is so far ahead of the clock is a recording in truth, and waits like one.
const AHEAD: Samples = Samples::from_millis(10_000);
/// How often a stream that is behind says so.
const LAG: Duration = Duration::from_secs(1);
/// The least between two partials, in audio.
const STEP: Duration = Duration::from_millis(500);
/// Between two partials there is so much more time than the last one took, so that they leave room for others.
const BREATH: f32 = 1.2;
/// And so many times what partials have to wait. As many are decoded without it, but each of them later: the queue
/// would be where the time goes.
const YIELD: u32 = 12;

/// A window that is out, and how often it has been asked for.
struct Asked {
    id: WindowId,
    kind: WindowKind,
    request: Request,
    tries: u32,
    since: Instant,
    ticket: Ticket,
    /// For traces: it ends when the window does.
    span: tracing::Span,
}

impl Stream {
    /// Runs until the feed ends, breaks, or the listener goes away. Audio is only taken while the session wants it,
    /// so whoever sends it has to wait: that is the back-pressure.
    pub(super) async fn run(mut self, mut feed: Feed, listener: &impl Listener) -> Result<End, Cut> {
        let begun = Instant::now();
        let mut out: Vec<Asked> = Vec::new();
        let (mut open, mut broken, mut lag) = (true, None, Lag::default());
        loop {
            while let Some(output) = self.session.poll() {
                match output {
                    Output::Recognize(window) => out.push(self.ask(window, begun)),
                    Output::Refresh(window) => self.refresh(&mut out, window),
                    Output::Withdraw(id) => withdraw(&mut out, id),
                    Output::Event(event) => {
                        self.watch.tells(&event);
                        listener.tell(event).await.map_err(|Hangup| Cut::Hangup)?;
                    }
                    Output::Finished { account, language } => {
                        let (duration, overruled) = (self.session.received(), self.session.overruled());
                        let end = End { account, language, duration, overruled };
                        return broken.map_or(Ok(end), Err);
                    }
                }
            }
            let wanted = open && self.session.wants_audio();
            // Streams that nothing happens to must not wake up: there may be thousands of them.
            let behind = self.session.behind();
            if lag.is_over(open && !wanted, behind) {
                listener.lag(Samples(0)).await;
            }
            // There is no clock for answers: a slow engine takes as long as it takes, and the pool answers for one that
            // hangs.
            let tick = lag.due.filter(|_| self.profile == Profile::Live);
            tokio::select! {
                (asked, result) = answer(&mut out), if !out.is_empty() => {
                    self.take(&mut out, asked, result);
                }
                item = feed.next(), if wanted => match item {
                    Item::Audio(pcm) => {
                        self.watch.heard(pcm.len());
                        self.session.handle(Input::Audio(pcm));
                    }
                    Item::Concealed(pcm) => {
                        self.watch.heard(pcm.len());
                        self.session.handle(Input::Concealed(pcm));
                    }
                    Item::Flush => self.session.handle(Input::Flush),
                    Item::Change(change) => {
                        self.options = change.options;
                        self.language = change.language;
                        if let Some(other) = change.transcriber {
                            self.slot = self.slot.with_model(other.pool());
                            self.transcriber = other;
                        }
                        self.session.handle(Input::Reconfigure(change.endpoint, change.live));
                    }
                    Item::End => {
                        open = false;
                        self.session.handle(Input::End);
                    }
                    Item::Broken(error) => {
                        (open, broken) = (false, Some(Cut::Audio(error)));
                        self.session.handle(Input::End);
                    }
                },
                () = listener.gone() => return Err(Cut::Hangup),
                () = wait_until(tick) => {
                    lag.tell();
                    listener.lag(behind).await;
                }
            }
            self.intake.reach(self.session.received());
            if open && self.session.received() > self.longest {
                (open, broken) = (false, Some(Cut::Audio(AudioError::TooLong { limit: self.longest })));
                self.session.handle(Input::End);
            }
        }
    }

    fn ask(&self, window: Window, begun: Instant) -> Asked {
        let (id, kind, request) = (window.id, window.kind, self.request(window));
        let elapsed = Samples::from_seconds(begun.elapsed().as_secs_f64());
        let lane = match (self.profile, kind) {
            (Profile::File, _) => Lane::Batch,
            _ if self.session.received() > elapsed + AHEAD => Lane::Batch,
            (_, WindowKind::Final) => Lane::Final,
            (_, WindowKind::Partial) => Lane::Partial,
        };
        let seconds = request.pcm.len() as f64 / f64::from(RATE);
        let span = tracing::debug_span!("window", lane = lane.name(), seconds);
        let ticket = self.slot.submit(lane, request.clone());
        Asked { id, kind, request, tries: 1, since: Instant::now(), ticket, span }
    }

    fn request(&self, window: Window) -> Request {
        Request {
            pcm: window.pcm,
            offset: window.span.start,
            effort: match (window.kind, self.profile) {
                (WindowKind::Partial, _) => Effort::Draft,
                (WindowKind::Final, Profile::Live) => Effort::Live,
                (WindowKind::Final, Profile::File) => Effort::Full,
            },
            language: self.language,
            prior: window.language,
            options: self.options.clone(),
        }
    }

    /// The newer partial takes the place of the one that is out, unless a worker has begun with that.
    fn refresh(&self, out: &mut [Asked], window: Window) {
        let Some(asked) = out.iter_mut().find(|asked| asked.kind == WindowKind::Partial) else { return };
        let (id, request) = (window.id, self.request(window));
        if asked.ticket.refresh(request.clone()) {
            (asked.id, asked.request, asked.since) = (id, request, Instant::now());
        }
    }

    fn take(&mut self, out: &mut Vec<Asked>, mut asked: Asked, result: Result<Recognition, EngineError>) {
        let failed = matches!(result, Err(EngineError::Crashed | EngineError::Failed(_)));
        if failed && asked.tries < TRIES && asked.kind == WindowKind::Final {
            asked.tries += 1;
            let lane = if self.profile == Profile::File { Lane::Batch } else { Lane::Final };
            asked.ticket = self.slot.submit(lane, asked.request.clone());
            out.push(asked);
            return;
        }
        // One that had to make room for a final says nothing about what a partial takes.
        if asked.kind == WindowKind::Partial && result.is_ok() {
            self.watch.guessed(asked.since.elapsed());
            let pool = self.transcriber.pool();
            let took = asked.since.elapsed().mul_f32(BREATH) + pool.wait(Lane::Partial) * YIELD;
            let step = took.max(STEP).mul_f32(1.0 + 4.0 * pool.strain());
            self.session.handle(Input::Step(Samples::from_seconds(step.as_secs_f64())));
        }
        let result = result.map_err(|error| {
            if asked.kind == WindowKind::Final {
                asked.span.in_scope(|| tracing::warn!(%error, "a window could not be decoded"));
            }
            GapReason::Engine
        });
        self.session.handle(Input::Recognized(asked.id, result));
    }
}

/// Whether the engine is behind, and when to say so.
#[derive(Default)]
struct Lag {
    due: Option<Instant>,
    told: bool,
}

impl Lag {
    /// Looks at the stream: it lags from the moment in which its audio has to wait until nothing is undecided. True
    /// if that is over and the reader knows of it.
    fn is_over(&mut self, waits: bool, behind: Samples) -> bool {
        if waits {
            self.due.get_or_insert_with(|| Instant::now() + LAG);
        } else if behind == Samples(0) {
            self.due = None;
            return std::mem::take(&mut self.told);
        }
        false
    }

    fn tell(&mut self) {
        (self.due, self.told) = (Some(Instant::now() + LAG), true);
    }
}

/// Dropping a ticket withdraws its window. A partial may be out under an older name than the session's newest.
fn withdraw(out: &mut Vec<Asked>, id: WindowId) {
    let partial = |asked: &Asked| asked.kind == WindowKind::Partial;
    let at = out.iter().position(|asked| asked.id == id).or_else(|| out.iter().position(partial));
    if let Some(at) = at {
        out.swap_remove(at);
    }
}

/// The next answer to any of the windows that are out, which are a handful. Dropping the future loses nothing.
async fn answer(out: &mut Vec<Asked>) -> (Asked, Result<Recognition, EngineError>) {
    std::future::poll_fn(|context| {
        for n in 0..out.len() {
            if let Poll::Ready(result) = std::pin::Pin::new(&mut out[n].ticket).poll(context) {
                return Poll::Ready((out.swap_remove(n), result));
            }
        }
        Poll::Pending
    })
    .await
}

async fn wait_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
