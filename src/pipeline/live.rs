//! A live stream as those see it who carry its bytes: a way in, a way out, and an end.
//!
//! Contract: the stream runs in a task of its own, so it does not care how many connections it takes to feed and
//! read it. Dropping [`LiveStream`] gives everything up: its windows are withdrawn and its slot is free. What was
//! counted as received has been handed over and will be heard, whatever becomes of the connection.
//!
//! Deliberately absent: who may open a stream, how long it may be abandoned, and every word of the wire.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::driver::{Cut, End, Hangup, Listener, Profile};
use super::feed::{Change, Command, Feed};
use super::outbox::{Cursor, Outbox, Told};
use super::{Transcriber, Work};
use crate::audio::{AudioError, Coding, LiveFormat};
use crate::engine::pool::Slot;
use crate::language::Language;
use crate::session::{LiveConfig, Promise};
use crate::transcript::{Account, Event, Samples};

/// Commands that may wait for the stream.
const WAITING: usize = 8;
/// Larger chunks are handed over in pieces of this size, so that little of them is in between at any time.
const PIECE: usize = 64 << 10;

/// What a live stream is to be like.
#[derive(Clone, Debug)]
pub struct LiveWork {
    /// What is asked of the engine, and when utterances begin and end.
    pub work: Work,
    /// Whether to tell hypotheses.
    pub partials: bool,
    /// How much must have been heard behind a word before it is promised; `None` leaves it to the server.
    pub held_back: Option<Samples>,
    /// What the client will send.
    pub format: LiveFormat,
    /// Whether what was read is kept for a reader who comes back.
    pub resumable: bool,
}

impl LiveWork {
    fn config(&self) -> LiveConfig {
        let usual = Promise::default();
        let promise = Promise { held_back: self.held_back.unwrap_or(usual.held_back), ..usual };
        LiveConfig { partials: self.partials, promise }
    }
}

/// How a stream ended.
#[derive(Clone, Debug)]
pub enum Ended {
    /// All of it was heard.
    Done {
        /// How long it was.
        duration: Samples,
        /// Where every sample went.
        account: Account,
        /// What was spoken, where that is known.
        language: Option<Language>,
    },
    /// The audio broke off; what came before has been told.
    Broken(Arc<AudioError>),
    /// We made a mistake.
    Crashed,
    /// The client sent nothing for too long.
    Idle,
}

/// The stream is over and takes nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over;

/// How much has arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Bytes of audio.
    pub bytes: u64,
    /// Frames of raw samples: samples per channel, at the client's rate. 0 for all else.
    pub frames: u64,
    /// Chunks, as the client cut them.
    pub chunks: u64,
}

/// See the module.
pub struct LiveStream {
    commands: mpsc::Sender<Command>,
    outbox: Arc<Outbox>,
    format: Mutex<LiveFormat>,
    bytes: AtomicU64,
    chunks: AtomicU64,
    /// Whether the client has said that there is no more.
    ended: AtomicBool,
    /// Gives the task up.
    gone: CancellationToken,
}

impl Drop for LiveStream {
    fn drop(&mut self) {
        self.gone.cancel();
    }
}

impl Transcriber {
    /// Starts a stream. `stop` ends its audio, after which it tells what it still has to say; the tracker knows its
    /// task.
    pub fn open_stream(
        &self,
        slot: Slot,
        live: LiveWork,
        stop: CancellationToken,
        tasks: &TaskTracker,
    ) -> LiveStream {
        let (commands, taken) = mpsc::channel(WAITING);
        let outbox = Arc::new(Outbox::new(live.resumable));
        let config = live.config();
        let stream = self.stream(slot, live.work, Profile::Live, Some(config));
        let feed = Feed::client(taken, live.format, self.config.file.limits, stop);
        let gone = CancellationToken::new();
        let reader = Reader { outbox: outbox.clone(), gone: gone.clone() };
        // Its lines in the log belong to the request that opened it, even after that has its answer.
        let span = tracing::error_span!("stream");
        let task = async move {
            // A reader who stops reading holds the loop up inside of an event, so the end is waited for out here.
            // A fault of ours must not leave a client waiting for ever.
            let ended = tokio::select! {
                ended = AssertUnwindSafe(stream.run(feed, &reader)).catch_unwind() => ended,
                () = reader.gone.cancelled() => return,
            };
            let told = match ended {
                Ok(Ok(End { account, language, duration, overruled })) => {
                    let (seconds, lost) = (duration.seconds(), Samples(account.lost).seconds());
                    tracing::info!(seconds, lost, overruled, "a live stream has ended");
                    Ended::Done { duration, account, language }
                }
                Ok(Err(Cut::Audio(error))) => Ended::Broken(Arc::new(error)),
                Ok(Err(Cut::Hangup)) => return,
                Err(_panic) => {
                    tracing::error!("a live stream crashed");
                    Ended::Crashed
                }
            };
            tokio::select! {
                () = reader.outbox.push(Told::Ended(told)) => {}
                () = reader.gone.cancelled() => {}
            }
        };
        tasks.spawn(task.instrument(span));
        LiveStream {
            commands,
            outbox,
            format: Mutex::new(live.format),
            bytes: AtomicU64::new(0),
            chunks: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            gone,
        }
    }
}

impl LiveStream {
    /// Hands over a chunk; waits while the stream has enough. Only one caller at a time, or their bytes mix.
    pub async fn audio(&self, mut chunk: Bytes) -> Result<(), Over> {
        if self.ended.load(Ordering::Relaxed) {
            return Err(Over);
        }
        let whole = matches!(self.format(), LiveFormat::OpusPackets { .. });
        loop {
            let piece = chunk.split_to(if whole { chunk.len() } else { chunk.len().min(PIECE) });
            let room = self.commands.reserve().await.map_err(|_| Over)?;
            // From here on nothing waits: what is counted has been handed over.
            self.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
            self.chunks.fetch_add(u64::from(chunk.is_empty()), Ordering::Relaxed);
            room.send(Command::Audio(piece));
            if chunk.is_empty() {
                return Ok(());
            }
        }
    }

    /// Finishes the open utterance.
    pub async fn flush(&self) -> Result<(), Over> {
        self.send(Command::Flush).await
    }

    /// There will be no more audio.
    pub async fn end(&self) -> Result<(), Over> {
        self.ended.store(true, Ordering::Relaxed);
        self.send(Command::End).await
    }

    /// Other settings from here on, and another model, if one is given; its [longest
    /// window](Transcriber::longest_window) must not be shorter. A format is taken only before the first chunk.
    pub async fn change(&self, live: LiveWork, transcriber: Option<Transcriber>) -> Result<(), Over> {
        if self.received().chunks == 0 {
            *self.format.lock().unwrap_or_else(PoisonError::into_inner) = live.format;
            self.send(Command::Format(live.format)).await?;
        }
        let config = live.config();
        let Work { options, language, endpoint, .. } = live.work;
        let options = Arc::new(options);
        let change = Change { options, language, endpoint, live: config, transcriber };
        self.send(Command::Change(Box::new(change))).await
    }

    /// What has arrived. Whoever sends on does so from the start of a frame: what had come of an unfinished one is
    /// forgotten.
    pub async fn resume_input(&self) -> Result<Received, Over> {
        if let Some(frame) = frame_bytes(self.format()) {
            let bytes = self.bytes.load(Ordering::Relaxed);
            self.bytes.store(bytes - bytes % frame, Ordering::Relaxed);
            self.send(Command::NewFrame).await?;
        }
        Ok(self.received())
    }

    /// What has arrived until now.
    pub fn received(&self) -> Received {
        let bytes = self.bytes.load(Ordering::Relaxed);
        let frames = frame_bytes(self.format()).map_or(0, |frame| bytes / frame);
        Received { bytes, frames, chunks: self.chunks.load(Ordering::Relaxed) }
    }

    /// Tells the reader that the client has been silent for too long. The stream's own end will not be told.
    pub fn idle(&self) {
        self.outbox.put(Told::Ended(Ended::Idle));
    }

    /// How long the stream has been waiting for its reader, who has more than enough to read.
    pub fn unread_for(&self) -> Duration {
        self.outbox.full_for()
    }

    /// Gives the stream up, as if it had been dropped.
    pub fn abandon(&self) {
        self.gone.cancel();
    }

    /// The next thing to tell behind the cursor, with its number where it has one.
    pub async fn next(&self, cursor: &mut Cursor) -> (Option<u64>, Told) {
        self.outbox.next(cursor).await
    }

    /// Where a reader goes on who has seen the message of this number; `None` if what followed is forgotten, or was
    /// never told.
    pub fn after(&self, number: u64) -> Option<Cursor> {
        self.outbox.after(number)
    }

    /// The number of the last numbered message; 0 if there is none.
    pub fn last_number(&self) -> u64 {
        self.outbox.last_number()
    }

    fn format(&self) -> LiveFormat {
        *self.format.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, command: Command) -> Result<(), Over> {
        self.commands.send(command).await.map_err(|_| Over)
    }
}

/// Bytes of one frame of raw samples.
fn frame_bytes(format: LiveFormat) -> Option<u64> {
    let LiveFormat::Pcm { coding, channels, .. } = format else { return None };
    let sample = match coding {
        Coding::S16le => 2,
        Coding::F32le => 4,
        Coding::Mulaw | Coding::Alaw => 1,
    };
    Some(sample * u64::from(channels.max(1)))
}

struct Reader {
    outbox: Arc<Outbox>,
    gone: CancellationToken,
}

impl Listener for Reader {
    async fn tell(&self, event: Event) -> Result<(), Hangup> {
        self.outbox.push(Told::Event(event)).await;
        Ok(())
    }

    async fn gone(&self) {
        self.gone.cancelled().await;
    }

    async fn lag(&self, behind: Samples) {
        self.outbox.push(Told::Lag(behind)).await;
    }
}
