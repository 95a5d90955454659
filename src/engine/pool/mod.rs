//! Who gets the engine next.
//!
//! A fixed set of threads, each with its own recogniser, serves three lanes of waiting windows. To have work done
//! one needs a [`Slot`], which is granted or refused at once; a slot turns a window into a [`Ticket`], a future
//! that is answered exactly once and withdraws its window when it is dropped. Uploads and live streams are
//! admitted separately, because uploads yield to streams: how many streams there may be is measured, not guessed.
//!
//! Contract: no lock is held while something decodes. The queue has no size setting, because its length is at most
//! the number of slots times the windows that a holder keeps unanswered; holders bound those. A final waits for
//! no partial, and with more than one worker for at most one window of a file. A recogniser that panics costs one
//! answer and not the thread.
//!
//! Deliberately absent: deadlines (callers drop what they no longer want), retries, and joining several windows
//! into one call of the engine.

mod calibrate;
mod measure;
mod queue;
mod worker;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

pub use self::worker::Workers;

use self::queue::{Entry, Purpose, Shared};
use super::{Abort, Engine, EngineError, EngineTraits, Request};
use crate::transcript::Recognition;

/// How urgent a window is. Lanes are served in this order, but see [`PoolConfig::patience`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Live text that will stay.
    Final,
    /// Live text that will be replaced.
    Partial,
    /// Files: nobody watches them word by word.
    Batch,
}

impl Lane {
    /// All lanes, in the order in which they are served.
    pub const ALL: [Self; 3] = [Self::Final, Self::Partial, Self::Batch];

    /// What people and metrics call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Final => "final",
            Self::Partial => "partial",
            Self::Batch => "batch",
        }
    }
}

/// The size of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Threads with a recogniser each; zero counts as one.
    pub workers: usize,
    /// How many uploads may have work in the pool at the same time.
    pub slots: usize,
    /// How many live streams may be admitted at the same time, where the operator says so. `None` leaves it to
    /// what is measured, see [`Pool::capacity`].
    pub streams: Option<usize>,
    /// How many times in a row a waiting window of [`Lane::Batch`] is passed over for the other lanes.
    pub patience: u32,
}

/// The way in. Clones are the same pool.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

impl Pool {
    /// Starts the threads, makes one recogniser on each and waits until all are ready. If one cannot be made, the
    /// first failure is returned after all threads have ended.
    pub fn start(engine: Arc<dyn Engine>, config: PoolConfig) -> Result<(Self, Workers), EngineError> {
        let config = PoolConfig { workers: config.workers.max(1), ..config };
        let shared = Arc::new(Shared::new(engine, config));
        // An early return drops the workers, which ends and joins those that run.
        let mut workers = Workers::new(Arc::clone(&shared));
        let (ready, reports) = sync_channel(config.workers);
        for index in 0..config.workers {
            workers.spawn(index, ready.clone())?;
        }
        drop(ready);
        reports.iter().collect::<Result<(), _>>()?;
        Ok((Self { shared }, workers))
    }

    /// Grants an upload the right to have work done, or refuses. Never waits. A pool that is closing still grants
    /// slots; what they submit is answered with [`EngineError::Closed`].
    pub fn admit(&self) -> Result<Slot, Overloaded> {
        let slots = self.shared.config.slots;
        let mut state = self.shared.state();
        if state.slots_taken >= slots {
            return Err(Overloaded { slots, retry_after: state.retry_after() });
        }
        state.slots_taken += 1;
        drop(state);
        Ok(self.slot(Guest::Upload))
    }

    /// Grants a live stream the right to have work done, or refuses when there are as many as
    /// [`Pool::capacity`]. Never waits. While a stream is admitted, one worker is kept free of files.
    pub fn admit_stream(&self) -> Result<Slot, Overloaded> {
        let now = Instant::now();
        let mut state = self.shared.state();
        let slots = self.shared.capacity(&state);
        if state.streams.count() >= slots {
            return Err(Overloaded { slots, retry_after: state.streams.retry_after(slots, now) });
        }
        state.streams.enter(now);
        drop(state);
        Ok(self.slot(Guest::Stream))
    }

    /// How many live streams may be admitted at the same time: what the operator set, or else how many can speak
    /// without a pause while their finals take no more than three quarters of the workers' time, at the cost
    /// measured on this machine. Between 1 and 10 000; as many as there are workers before anything was measured.
    /// It changes slowly with the windows that are decoded. Streams that are in are never put out.
    pub fn capacity(&self) -> usize {
        self.shared.capacity(&self.shared.state())
    }

    /// How long windows of a lane have been waiting for a worker, in the recent average.
    pub fn wait(&self, lane: Lane) -> Duration {
        let now = Instant::now();
        Duration::try_from_secs_f64(self.shared.state().waits[lane as usize].recent(now)).unwrap_or_default()
    }

    /// How late finals are: 0 when they start at once, 1 when the recent ones waited 200 ms on average or the
    /// oldest one still waiting has done so already, in proportion in between and above, at most 10. Falls back
    /// within seconds when the load goes.
    pub fn strain(&self) -> f32 {
        let now = Instant::now();
        let state = self.shared.state();
        let waited = state.waits[Lane::Final as usize].recent(now);
        let oldest = state.lanes[Lane::Final as usize].front();
        let waiting = oldest.map_or(0.0, |entry| entry.age(now).as_secs_f64());
        drop(state);
        measure::strain(waited.max(waiting))
    }

    /// What the engine is and can do.
    pub fn traits(&self) -> &EngineTraits {
        self.shared.engine.traits()
    }

    /// See [`Engine::identity`].
    pub fn identity(&self) -> String {
        self.shared.engine.identity()
    }

    /// What is going on at this moment.
    pub fn load(&self) -> Load {
        let now = Instant::now();
        let state = self.shared.state();
        Load {
            workers: self.shared.config.workers,
            busy: state.busy(),
            slots: self.shared.config.slots,
            slots_free: self.shared.config.slots - state.slots_taken,
            streams: state.streams.count(),
            streams_max: self.shared.capacity(&state),
            waiting: [0, 1, 2].map(|lane| state.lanes[lane].len()),
            wait_seconds: [0, 1, 2].map(|lane| state.waits[lane].recent(now)),
            cost_full: state.costs.full.per_second(),
            cost_draft: state.costs.draft.per_second(),
            ..state.done
        }
    }

    fn slot(&self, guest: Guest) -> Slot {
        Slot { admission: Arc::new(Admission { shared: Arc::clone(&self.shared), guest }) }
    }
}

/// What a pool is doing and has done since it started, for people and metrics. Calibration is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Threads with a recogniser each.
    pub workers: usize,
    /// How many of them decode.
    pub busy: usize,
    /// How many slots there are for uploads.
    pub slots: usize,
    /// How many of them nobody holds.
    pub slots_free: usize,
    /// How many live streams are admitted.
    pub streams: usize,
    /// How many live streams may be admitted, see [`Pool::capacity`].
    pub streams_max: usize,
    /// How many windows wait, in the order of [`Lane::ALL`].
    pub waiting: [usize; 3],
    /// How long recent windows waited from their submission to their start, in seconds on average, in the order
    /// of [`Lane::ALL`]. It fades while nothing starts.
    pub wait_seconds: [f64; 3],
    /// Wall seconds that a worker needs for a second of audio at [`Effort::Full`](super::Effort::Full), among
    /// busy neighbours. `None` before it was measured.
    pub cost_full: Option<f64>,
    /// The same at [`Effort::Draft`](super::Effort::Draft).
    pub cost_draft: Option<f64>,
    /// Windows that were recognised.
    pub recognised: u64,
    /// Windows that the engine failed on, crashes included.
    pub failed: u64,
    /// Windows that were withdrawn or abandoned before they had an answer.
    pub withdrawn: u64,
    /// Partials that were stopped to make room for a final.
    pub preempted: u64,
    /// Seconds of audio in the windows that were recognised.
    pub audio_seconds: f64,
    /// Wall seconds that the workers together spent on them.
    pub wall_seconds: f64,
}

/// All slots of the kind that was asked for are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all {slots} slots are taken, try again in {retry_after} s")]
pub struct Overloaded {
    /// How many slots of that kind there are.
    pub slots: usize,
    /// When to try again, in seconds; an estimate between 1 and 60 for uploads, between 2 and 30 for streams.
    pub retry_after: u64,
}

/// The right to have work done. It is given back when the slot is dropped and every ticket made with it has been
/// answered or dropped, so that the work in the pool never exceeds what the slots in force may ask for. A slot
/// keeps the pool alive, but not its workers. Clones are the same right, for work that comes one after the other.
#[derive(Clone)]
pub struct Slot {
    admission: Arc<Admission>,
}

impl Slot {
    /// Queues a window. Whoever holds the slot bounds the number of tickets it keeps unanswered. A final that no
    /// worker is free for stops a running partial, whose ticket is answered with [`EngineError::Aborted`]; who
    /// withdraws a partial for its own final therefore does so first, or two partials are lost.
    pub fn submit(&self, lane: Lane, request: Request) -> Ticket {
        let (reply, answer) = oneshot::channel();
        let abort = Abort::default();
        let shared = &self.admission.shared;
        let submitted = Instant::now();
        let mut state = shared.state();
        let id = state.next_id;
        state.next_id += 1;
        if state.closed {
            drop(state);
            // The receiver is in the last line, so there is somebody to hear this.
            let _ = reply.send(Err(EngineError::Closed));
        } else {
            let purpose = Purpose::Window(lane);
            state.push(lane, Entry { id, purpose, request, abort: abort.clone(), reply, submitted });
            drop(state);
            shared.work.notify_one();
        }
        Ticket { answer, abort, lane, id, admission: Some(Arc::clone(&self.admission)) }
    }
}

/// The answer to one window, to be awaited; answered exactly once. Dropping it withdraws the window: a waiting one
/// leaves the queue at once and its audio is freed, a running one is told to stop.
#[must_use = "dropping a ticket withdraws its window"]
pub struct Ticket {
    answer: oneshot::Receiver<Result<Recognition, EngineError>>,
    abort: Abort,
    lane: Lane,
    id: u64,
    /// Absent once the answer was taken.
    admission: Option<Arc<Admission>>,
}

impl Ticket {
    /// Replaces a window that still waits by another one, which keeps its place in the queue. False if it has
    /// begun or was answered; then nothing changes.
    pub fn refresh(&mut self, request: Request) -> bool {
        let Some(admission) = &self.admission else { return false };
        let mut state = admission.shared.state();
        let old = state.find(self.lane, self.id).map(|entry| std::mem::replace(&mut entry.request, request));
        // Audio is freed after the lock: the old one's or, if the window has begun, the new one's.
        drop(state);
        old.is_some()
    }
}

impl Future for Ticket {
    type Output = Result<Recognition, EngineError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = std::task::ready!(Pin::new(&mut self.answer).poll(context));
        self.admission = None;
        // A reply is only ever lost with the worker that owed it.
        Poll::Ready(answer.unwrap_or(Err(EngineError::Closed)))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some(admission) = &self.admission else { return };
        self.abort.set();
        let mut state = admission.shared.state();
        let withdrawn = state.withdraw(self.lane, self.id);
        // The audio is freed after the lock.
        drop(state);
        drop(withdrawn);
    }
}

/// Who holds a slot.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Guest {
    Upload,
    Stream,
}

/// Counts a slot for as long as it or one of its unanswered tickets exists.
struct Admission {
    shared: Arc<Shared>,
    guest: Guest,
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        match self.guest {
            Guest::Upload => state.slots_taken -= 1,
            Guest::Stream => {
                state.streams.leave(Instant::now());
                // Without streams, files may use every worker.
                self.shared.release(state);
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "threads are tested with the clock on the wall")]
mod tests;
