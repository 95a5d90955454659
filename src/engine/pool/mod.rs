//! Who gets the engine next.
//!
//! A fixed set of threads, the [`Crew`], serves three lanes of waiting windows, whichever models they are for: there
//! is one crew in a process, because the engine waits busily and threads beyond the cores only slow each other down.
//! A [`Pool`] is the way in for one model, which has a recogniser for each thread. To have work done
//! one needs a [`Slot`], which is granted or refused at once; a slot turns a window into a [`Ticket`], a future
//! that is answered exactly once and withdraws its window when it is dropped. Uploads and live streams are
//! admitted separately, because uploads yield to streams: how many streams there may be is measured, not guessed.
//!
//! Contract: no lock that anybody waits for is held while something decodes. The queue has no size setting, because
//! its length is at most the number of slots times the windows that a holder keeps unanswered; holders bound those. A
//! final waits for no partial, and with more than one worker for at most one window of a file. A recogniser that
//! panics costs one answer and not the thread. A window that waits is never given up for having waited; one that was
//! begun and takes far longer than its model needs here is answered with [`EngineError::Hung`], and its worker counts
//! as lost until it returns. A model and its recognisers are freed when the last pool, slot and
//! window of that model are gone, whatever the threads are doing.
//!
//! Deliberately absent: deadlines for what waits (callers drop what they no longer want), retries, joining several windows into one
//! call of the engine, and which models there are and for how long: that is the shelf's.

mod calibrate;
mod measure;
mod model;
mod queue;
mod times;
mod watchdog;
mod worker;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

pub use self::worker::Workers;

use self::model::Model;
use self::queue::{Entry, Purpose, Shared};
use self::times::Times;
use super::{Abort, Engine, EngineError, EngineTraits, Request};
use crate::telemetry::{Metrics, table};
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

/// What [`PoolConfig::hang`] is where nobody says otherwise: slowness is not an error, so it is long.
pub const HANG: Duration = Duration::from_secs(600);

/// The size of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Threads; each has a recogniser of every model. Zero counts as one.
    pub workers: usize,
    /// How many uploads may have work in the pool at the same time.
    pub slots: usize,
    /// How many live streams may be admitted at the same time, where the operator says so. `None` leaves it to
    /// what is measured, see [`Pool::capacity`].
    pub streams: Option<usize>,
    /// How many times in a row a waiting window of [`Lane::Batch`] is passed over for the other lanes.
    pub patience: u32,
    /// The least time after which a window that was begun is taken to hang. A slow model is given more, see
    /// [`EngineError::Hung`].
    pub hang: Duration,
}

/// The threads and the queue, whichever models they serve. Clones are the same crew.
#[derive(Clone)]
pub struct Crew {
    shared: Arc<Shared>,
}

impl Crew {
    /// Starts the threads. They have no model yet.
    pub fn start(config: PoolConfig) -> Result<(Self, Workers), EngineError> {
        let config = PoolConfig { workers: config.workers.max(1), ..config };
        let shared = Arc::new(Shared::new(config));
        // An early return drops the workers, which ends and joins those that run.
        let mut workers = Workers::new(Arc::clone(&shared));
        for index in 0..config.workers {
            workers.spawn(index)?;
        }
        workers.watch()?;
        Ok((Self { shared }, workers))
    }

    /// Makes a recogniser for each thread, here and one after the other, so that no thread is kept from its work. If
    /// one cannot be made, there is no pool and nothing is left. Blocks, for seconds with a large model.
    pub fn open(&self, engine: Arc<dyn Engine>) -> Result<Pool, EngineError> {
        let ledger = self.shared.state().ledger(&engine.traits().name);
        let model = Model::new(engine, self.shared.config.workers, ledger)?;
        Ok(Pool { crew: self.clone(), model: Arc::new(model) })
    }

    /// Whether an upload would be admitted now. Whoever is told so may still be refused when it has arrived.
    pub fn has_room(&self) -> Result<(), Overloaded> {
        let slots = self.shared.config.slots;
        let state = self.shared.state();
        match state.slots_taken >= slots {
            true => Err(Overloaded { slots, retry_after: state.retry_after() }),
            false => Ok(()),
        }
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

    /// Has the times of windows measured from here on; what was counted anyway is in [`Crew::load`]. Only the first
    /// call counts.
    pub fn measure(&self, metrics: &Metrics) {
        let _ = self.shared.times.set(Times {
            waits: Lane::ALL.map(|lane| metrics.histogram(&table::QUEUE_WAIT_SECONDS, &[lane.name()])),
            full: metrics.histogram(&table::RECOGNIZE_SECONDS, &["full"]),
            draft: metrics.histogram(&table::RECOGNIZE_SECONDS, &["draft"]),
        });
    }

    /// What is going on at this moment, with the costs and the capacity of the model that was opened first.
    pub fn load(&self) -> Load {
        self.shared.load(0)
    }
}

/// The way in for one model. Clones are the same pool.
#[derive(Clone)]
pub struct Pool {
    crew: Crew,
    model: Arc<Model>,
}

impl Pool {
    /// A crew with one model. If its recognisers cannot be made, nothing is started.
    pub fn start(engine: Arc<dyn Engine>, config: PoolConfig) -> Result<(Self, Workers), EngineError> {
        let (crew, workers) = Crew::start(config)?;
        Ok((crew.open(engine)?, workers))
    }

    /// The threads behind it, which other models share.
    pub fn crew(&self) -> &Crew {
        &self.crew
    }

    /// Whether this is a way in for the very same loaded model.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.model, &other.model)
    }

    /// See [`Engine::identity`].
    pub fn identity(&self) -> String {
        self.model.engine.identity()
    }

    /// Grants an upload the right to have work done, or refuses. Never waits. A pool that is closing still grants
    /// slots; what they submit is answered with [`EngineError::Closed`].
    pub fn admit(&self) -> Result<Slot, Overloaded> {
        let slots = self.shared().config.slots;
        let mut state = self.shared().state();
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
        let mut state = self.shared().state();
        let slots = self.shared().capacity(&state, self.model.ledger);
        if state.streams.count() >= slots {
            return Err(Overloaded { slots, retry_after: state.streams.retry_after(slots, now) });
        }
        state.streams.enter(now);
        state.ledgers[self.model.ledger].streams += 1;
        drop(state);
        Ok(self.slot(Guest::Stream))
    }

    /// How many live streams may be admitted at the same time, if those to come are of this model: what the operator
    /// set, or else how many can speak without a pause while their finals take no more than five eighths of the
    /// workers' time, at the costs measured on this machine, each of its own model's. Between 1 and 10 000; as many
    /// as there are workers before anything was measured. It changes slowly with the windows that are decoded.
    /// Streams that are in are never put out.
    pub fn capacity(&self) -> usize {
        self.shared().capacity(&self.shared().state(), self.model.ledger)
    }

    /// See [`Crew::wait`].
    pub fn wait(&self, lane: Lane) -> Duration {
        self.crew.wait(lane)
    }

    /// See [`Crew::strain`].
    pub fn strain(&self) -> f32 {
        self.crew.strain()
    }

    /// What the engine is and can do.
    pub fn traits(&self) -> &EngineTraits {
        self.model.engine.traits()
    }

    /// What is going on at this moment, with the costs and the capacity of this model.
    pub fn load(&self) -> Load {
        self.shared().load(self.model.ledger)
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.crew.shared
    }

    fn slot(&self, guest: Guest) -> Slot {
        let (ledger, shared) = (AtomicUsize::new(self.model.ledger), Arc::clone(self.shared()));
        Slot { admission: Arc::new(Admission { shared, guest, ledger }), model: Arc::clone(&self.model) }
    }
}

/// What a pool is doing and has done since it started, for people and metrics. Calibration is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Threads.
    pub workers: usize,
    /// How many of them decode, those that hang included.
    pub busy: usize,
    /// How many of them hang.
    pub hung: usize,
    /// How many slots there are for uploads.
    pub slots: usize,
    /// How many of them nobody holds.
    pub slots_free: usize,
    /// How many live streams are admitted.
    pub streams: usize,
    /// How many live streams of the model in question may be admitted, see [`Pool::capacity`].
    pub streams_max: usize,
    /// How many windows wait, in the order of [`Lane::ALL`].
    pub waiting: [usize; 3],
    /// How long recent windows waited from their submission to their start, in seconds on average, in the order
    /// of [`Lane::ALL`]. It fades while nothing starts.
    pub wait_seconds: [f64; 3],
    /// Wall seconds that a worker needs for a second of audio at [`Effort::Live`](super::Effort::Live), among
    /// busy neighbours, with the model in question. `None` before it was measured.
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
    model: Arc<Model>,
}

impl Slot {
    /// The same right, for another model of the same crew from here on. Windows that are out are answered by the
    /// model they were meant for. A stream stays in, whatever the other model costs.
    #[must_use]
    pub fn with_model(&self, pool: &Pool) -> Self {
        let Admission { shared, guest, ledger } = &*self.admission;
        let mut state = shared.state();
        let before = ledger.swap(pool.model.ledger, Ordering::Relaxed);
        if *guest == Guest::Stream {
            state.ledgers[before].streams -= 1;
            state.ledgers[pool.model.ledger].streams += 1;
        }
        drop(state);
        Self { admission: Arc::clone(&self.admission), model: Arc::clone(&pool.model) }
    }

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
        let refusal = match () {
            () if state.closed => Some(EngineError::Closed),
            () if state.all_hang() => Some(EngineError::Hung),
            () => None,
        };
        if let Some(refusal) = refusal {
            drop(state);
            // The receiver is in the last line, so there is somebody to hear this.
            let _ = reply.send(Err(refusal));
        } else {
            let (purpose, model) = (Purpose::Window(lane), Arc::clone(&self.model));
            state.push(lane, Entry { id, purpose, model, request, abort: abort.clone(), reply, submitted });
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
    /// Where its stream is counted; changed under the lock of the state.
    ledger: AtomicUsize,
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        match self.guest {
            Guest::Upload => state.slots_taken -= 1,
            Guest::Stream => {
                state.streams.leave(Instant::now());
                state.ledgers[self.ledger.load(Ordering::Relaxed)].streams -= 1;
                // Without streams, files may use every worker.
                self.shared.release(state);
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "threads are tested with the clock on the wall")]
mod tests;
