//! The streams that are open, by id, and who is on them.
//!
//! Contract: one reader and one sender at a time; a newer one takes an older one's place. A stream without a reader
//! is given up when its grace is over, at once if it has none. Dropping the last handle of a stream ends its work.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;
use whisperwire_protocol::stream::Settings;

use crate::dialect::native::View;
use crate::http::limit::Permit;
use crate::pipeline::{Cursor, LiveStream, Transcriber};

/// How often streams that nobody is on are looked for.
const ROUND: Duration = Duration::from_secs(1);

/// How long a stream may wait for a reader who has more than enough to read.
const UNREAD: Duration = Duration::from_secs(10);

/// All streams of this process.
pub(in crate::http) struct Registry {
    streams: DashMap<String, Arc<OpenStream>>,
    /// How long a stream that is fed by single requests may go without one.
    idle: Duration,
}

/// A stream and what its connections share.
pub(super) struct OpenStream {
    /// A secret: whoever knows it may listen.
    pub(super) id: String,
    pub(super) live: LiveStream,
    /// Of the model that it was opened with.
    pub(super) transcriber: Transcriber,
    wishes: Mutex<Wishes>,
    grace: Duration,
    /// Held by whoever sends.
    input: Arc<tokio::sync::Mutex<()>>,
    state: Mutex<State>,
    /// Its opener's leave to have one more stream.
    _permit: Permit,
}

/// What a client asked for, and what became of it.
pub(super) struct Wishes {
    pub(super) asked: Settings,
    pub(super) in_force: Settings,
    pub(super) view: View,
}

struct State {
    /// Cancelled when a newer reader comes.
    reader: Option<CancellationToken>,
    /// When the last reader left, or the stream was opened.
    left: Instant,
    /// When something was last sent.
    fed: Instant,
    /// Whether it is fed by single requests, between which nobody is there.
    by_requests: bool,
}

/// Somebody who listens. Dropping it leaves the stream.
pub(super) struct Reader {
    pub(super) stream: Arc<OpenStream>,
    pub(super) cursor: Cursor,
    /// Cancelled when another reader has come.
    pub(super) replaced: CancellationToken,
    registry: Arc<Registry>,
}

impl Registry {
    pub(in crate::http) fn new(idle: Duration) -> Arc<Self> {
        let registry = Arc::new(Self { streams: DashMap::new(), idle });
        tokio::spawn(look_after(Arc::downgrade(&registry)));
        registry
    }

    /// How many there are.
    pub(in crate::http) fn count(&self) -> usize {
        self.streams.len()
    }

    /// Takes a new stream in. It has no reader yet.
    pub(super) fn add(
        &self,
        live: LiveStream,
        transcriber: Transcriber,
        (wishes, permit): (Wishes, Permit),
    ) -> Arc<OpenStream> {
        let now = Instant::now();
        let stream = Arc::new(OpenStream {
            id: format!("stream_{}", uuid::Uuid::new_v4().simple()),
            live,
            transcriber,
            grace: Duration::from_secs_f64(wishes.asked.grace.unwrap_or(0.0)),
            wishes: Mutex::new(wishes),
            input: Arc::default(),
            state: Mutex::new(State { reader: None, left: now, fed: now, by_requests: false }),
            _permit: permit,
        });
        self.streams.insert(stream.id.clone(), stream.clone());
        stream
    }

    pub(super) fn find(&self, id: &str) -> Option<Arc<OpenStream>> {
        self.streams.get(id).map(|entry| entry.value().clone())
    }

    /// Gives a stream up, whoever is on it.
    pub(super) fn remove(&self, id: &str) {
        if let Some((_, stream)) = self.streams.remove(id)
            && let Some(reader) = stream.state().reader.take()
        {
            reader.cancel();
        }
    }

    /// Listens to a stream from behind the message of this number; `None` if that cannot be told any more. An
    /// earlier reader is sent away.
    pub(super) fn read(self: &Arc<Self>, stream: &Arc<OpenStream>, after: u64) -> Option<Reader> {
        let cursor = stream.live.after(after)?;
        let replaced = CancellationToken::new();
        if let Some(earlier) = stream.state().reader.replace(replaced.clone()) {
            earlier.cancel();
        }
        Some(Reader { stream: stream.clone(), cursor, replaced, registry: self.clone() })
    }
}

impl OpenStream {
    pub(super) fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until an earlier sender is done.
    pub(super) async fn send(&self) -> OwnedMutexGuard<()> {
        self.input.clone().lock_owned().await
    }

    /// Something is being sent.
    pub(super) fn feed(&self) {
        self.state().fed = Instant::now();
    }

    /// Something was sent by a request of its own.
    pub(super) fn fed_by_request(&self) {
        let mut state = self.state();
        (state.fed, state.by_requests) = (Instant::now(), true);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.replaced.is_cancelled() {
            return;
        }
        let mut state = self.stream.state();
        (state.reader, state.left) = (None, Instant::now());
        drop(state);
        if self.stream.grace.is_zero() {
            self.registry.streams.remove(&self.stream.id);
        }
    }
}

/// Gives up streams that were left for too long, and tells those that nobody feeds.
async fn look_after(registry: Weak<Registry>) {
    loop {
        tokio::time::sleep(ROUND).await;
        let Some(registry) = registry.upgrade() else { return };
        let mut hungry = Vec::new();
        registry.streams.retain(|_, stream| {
            let state = stream.state();
            let abandoned = state.reader.is_none()
                && state.left.elapsed() > stream.grace
                && state.fed.elapsed() > stream.grace;
            if stream.live.unread_for() > UNREAD {
                // Whoever listens has stopped reading without going away. Its connection holds on to the stream, so
                // the work is given up here.
                stream.live.abandon();
                return false;
            }
            if state.by_requests && state.fed.elapsed() > registry.idle {
                hungry.push(stream.clone());
            }
            !abandoned
        });
        for stream in hungry {
            stream.state().by_requests = false;
            stream.live.idle();
        }
    }
}
