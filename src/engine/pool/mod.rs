//! Who gets the engine next.
//!
//! A fixed set of threads, each with its own recogniser, serves three lanes of waiting windows. To have work done
//! one needs a [`Slot`], which is granted or refused at once; a slot turns a window into a [`Ticket`], a future
//! that is answered exactly once and withdraws its window when it is dropped.
//!
//! Contract: no lock is held while something decodes. The queue has no size setting, because its length is at most
//! the number of slots times the windows that a holder keeps unanswered; holders bound those. A recogniser that
//! panics costs one answer and not the thread.
//!
//! Deliberately absent: deadlines (callers drop what they no longer want), retries, and joining several windows
//! into one call of the engine.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Abort, Engine, EngineError, EngineTraits, Recognizer, Request};
use crate::transcript::{Recognition, Samples};

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
    /// How many streams and uploads may have work in the pool at the same time.
    pub slots: usize,
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
        let mut workers =
            Workers { shared: Arc::clone(&shared), threads: Vec::with_capacity(config.workers) };
        let (ready, reports) = sync_channel(config.workers);
        for index in 0..config.workers {
            workers.spawn(index, ready.clone())?;
        }
        drop(ready);
        reports.iter().collect::<Result<(), _>>()?;
        Ok((Self { shared }, workers))
    }

    /// Grants the right to have work done, or refuses. Never waits. A pool that is closing still grants slots;
    /// what they submit is answered with [`EngineError::Closed`].
    pub fn admit(&self) -> Result<Slot, Overloaded> {
        let slots = self.shared.config.slots;
        let mut state = self.shared.state();
        if state.slots_taken >= slots {
            return Err(Overloaded { slots, retry_after: state.retry_after() });
        }
        state.slots_taken += 1;
        drop(state);
        Ok(Slot { admission: Arc::new(Admission { shared: Arc::clone(&self.shared) }) })
    }

    /// What the engine is and can do.
    pub fn traits(&self) -> &EngineTraits {
        self.shared.engine.traits()
    }

    /// What is going on at this moment.
    pub fn load(&self) -> Load {
        let state = self.shared.state();
        Load {
            workers: self.shared.config.workers,
            busy: state.busy(),
            slots: self.shared.config.slots,
            slots_free: self.shared.config.slots - state.slots_taken,
            waiting: [0, 1, 2].map(|lane| state.lanes[lane].len()),
            ..state.done
        }
    }
}

/// What a pool is doing and has done since it started, for people and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Threads with a recogniser each.
    pub workers: usize,
    /// How many of them decode.
    pub busy: usize,
    /// How many slots there are.
    pub slots: usize,
    /// How many of them nobody holds.
    pub slots_free: usize,
    /// How many windows wait, in the order of [`Lane::ALL`].
    pub waiting: [usize; 3],
    /// Windows that were recognised.
    pub recognised: u64,
    /// Windows that the engine failed on, crashes included.
    pub failed: u64,
    /// Windows that were withdrawn or abandoned before they had an answer.
    pub withdrawn: u64,
    /// Seconds of audio in the windows that were recognised.
    pub audio_seconds: f64,
    /// Wall seconds that the workers together spent on them.
    pub wall_seconds: f64,
}

/// All slots are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all {slots} slots are taken, try again in {retry_after} s")]
pub struct Overloaded {
    /// How many slots there are.
    pub slots: usize,
    /// When to try again, in seconds; an estimate between 1 and 60.
    pub retry_after: u64,
}

/// The right to have work done. It is given back when the slot is dropped and every ticket made with it has been
/// answered or dropped, so that the work in the pool never exceeds what the slots in force may ask for. A slot
/// keeps the pool alive, but not its workers.
pub struct Slot {
    admission: Arc<Admission>,
}

impl Slot {
    /// Queues a window. Whoever holds the slot bounds the number of tickets it keeps unanswered.
    pub fn submit(&self, lane: Lane, request: Request) -> Ticket {
        let (reply, answer) = oneshot::channel();
        let abort = Abort::default();
        let shared = &self.admission.shared;
        let mut state = shared.state();
        let id = state.next_id;
        state.next_id += 1;
        if state.closed {
            drop(state);
            // The receiver is in the next line, so there is somebody to hear this.
            let _ = reply.send(Err(EngineError::Closed));
        } else {
            state.lanes[lane as usize].push_back(Entry { id, request, abort: abort.clone(), reply });
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
        let queue = &mut state.lanes[self.lane as usize];
        // Numbers only grow, so each lane is sorted by them.
        let withdrawn =
            queue.binary_search_by_key(&self.id, |entry| entry.id).ok().and_then(|at| queue.remove(at));
        state.done.withdrawn += u64::from(withdrawn.is_some());
        // The audio is freed after the lock.
        drop(state);
        drop(withdrawn);
    }
}

/// The threads of a pool. Dropping them without [`Workers::drain`] stops what runs, answers what waits with
/// [`EngineError::Closed`], and blocks until all threads have ended.
#[must_use = "dropping the workers ends them"]
pub struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Refuses new work, finishes what is queued and joins the threads; says whether that was done within `grace`.
    /// After it, what still runs is aborted, what still waits is answered with [`EngineError::Closed`], and the
    /// threads are joined all the same. Blocks: not for a thread that drives futures.
    pub fn drain(self, grace: Duration) -> bool {
        let mut state = self.shared.state();
        state.closed = true;
        self.shared.work.notify_all();
        let in_time = self.shared.ended.wait_timeout_while(state, grace, |state| state.alive > 0);
        let (state, _) = in_time.unwrap_or_else(PoisonError::into_inner);
        // The rest is done by dropping the workers.
        state.alive == 0
    }

    fn spawn(&mut self, index: usize, ready: SyncSender<Result<(), EngineError>>) -> Result<(), EngineError> {
        let worker = Worker::new(Arc::clone(&self.shared), index);
        let thread = std::thread::Builder::new()
            .name(format!("engine-{index}"))
            .spawn(move || worker.live(ready))
            .map_err(|error| EngineError::Load(format!("cannot start a thread: {error}")))?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.abandon();
        for thread in self.threads.drain(..) {
            // A thread that panicked has ended too, which is all that is asked here.
            let _ = thread.join();
        }
    }
}

/// Counts a slot for as long as it or one of its unanswered tickets exists.
struct Admission {
    shared: Arc<Shared>,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.shared.state().slots_taken -= 1;
    }
}

/// One thread and its recogniser.
struct Worker {
    shared: Arc<Shared>,
    index: usize,
    /// Absent after a crash, until a new one can be made.
    recognizer: Option<Box<dyn Recognizer>>,
}

impl Worker {
    fn new(shared: Arc<Shared>, index: usize) -> Self {
        shared.state().alive += 1;
        Self { shared, index, recognizer: None }
    }

    fn live(mut self, ready: SyncSender<Result<(), EngineError>>) {
        let made = self.make_recognizer();
        let failed = made.is_err();
        // Nobody listens any more if another worker has failed already.
        let _ = ready.send(made);
        drop(ready);
        if failed {
            return;
        }
        while let Some(Entry { request, abort, reply, .. }) = self.shared.next(self.index) {
            let (answer, wall) = self.answer(&request, &abort);
            let audio = Samples(request.pcm.len() as u64);
            // Whoever is answered may rely on the audio being freed and the counts being up to date.
            drop((request, abort));
            self.shared.settle(self.index, &answer, audio, wall);
            let crashed = matches!(answer, Err(EngineError::Crashed));
            // Nobody listens any more if the ticket was dropped.
            let _ = reply.send(answer);
            if crashed {
                self.recover();
            }
        }
    }

    fn answer(&mut self, request: &Request, abort: &Abort) -> (Result<Recognition, EngineError>, Duration) {
        let start = Instant::now();
        (self.recognize(request, abort), start.elapsed())
    }

    fn recognize(&mut self, request: &Request, abort: &Abort) -> Result<Recognition, EngineError> {
        if abort.is_set() {
            return Err(EngineError::Aborted);
        }
        if self.recognizer.is_none() {
            self.make_recognizer().map_err(|error| EngineError::Failed(error.to_string()))?;
        }
        let recognizer = self.recognizer.as_mut().expect("it was there or has just been made");
        match catch_unwind(AssertUnwindSafe(|| recognizer.recognize(request, abort))) {
            Ok(answer) => answer,
            Err(_panic) => {
                let broken = self.recognizer.take();
                // What panicked once may do so again when it is thrown away.
                let _ = catch_unwind(AssertUnwindSafe(|| drop(broken)));
                Err(EngineError::Crashed)
            }
        }
    }

    /// Makes a new recogniser after a crash without waiting for the next window. If that fails, each following
    /// window tries again.
    fn recover(&mut self) {
        match self.make_recognizer() {
            Ok(()) => tracing::error!(worker = self.index, "a recogniser crashed and was replaced"),
            Err(error) => {
                tracing::error!(worker = self.index, %error, "a recogniser crashed and cannot be replaced")
            }
        }
    }

    fn make_recognizer(&mut self) -> Result<(), EngineError> {
        let made = catch_unwind(AssertUnwindSafe(|| self.shared.engine.recognizer()));
        self.recognizer = Some(made.unwrap_or(Err(EngineError::Crashed))?);
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.running[self.index] = None;
        state.alive -= 1;
        let last = state.alive == 0;
        drop(state);
        if last {
            // Without workers nothing may wait. After an orderly end nothing does.
            self.shared.abandon();
            self.shared.ended.notify_all();
        }
    }
}

/// What the holders of slots, the tickets and the workers have in common.
struct Shared {
    engine: Arc<dyn Engine>,
    config: PoolConfig,
    state: Mutex<State>,
    /// There is something to take, or nothing will come any more.
    work: Condvar,
    /// The last worker has ended.
    ended: Condvar,
}

impl Shared {
    fn new(engine: Arc<dyn Engine>, config: PoolConfig) -> Self {
        let state = State { running: vec![None; config.workers], ..State::default() };
        Self { engine, config, state: Mutex::new(state), work: Condvar::new(), ended: Condvar::new() }
    }

    /// Every critical section is a few assignments, so the state is sound even if a thread died in one.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for an entry and marks the worker busy with it. `None` once the pool is closed and the queue empty.
    fn next(&self, worker: usize) -> Option<Entry> {
        let mut state = self.state();
        loop {
            if let Some(entry) = state.take(self.config.patience) {
                state.running[worker] = Some(entry.abort.clone());
                return Some(entry);
            }
            if state.closed {
                return None;
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Books an answer and marks the worker idle.
    fn settle(
        &self,
        worker: usize,
        answer: &Result<Recognition, EngineError>,
        audio: Samples,
        wall: Duration,
    ) {
        let mut state = self.state();
        state.running[worker] = None;
        match answer {
            Ok(_) => {
                state.done.recognised += 1;
                state.done.audio_seconds += audio.seconds();
                state.done.wall_seconds += wall.as_secs_f64();
            }
            Err(EngineError::Aborted) => state.done.withdrawn += 1,
            Err(_) => state.done.failed += 1,
        }
    }

    /// Takes no more work, tells running windows to stop and gives up those that wait.
    fn abandon(&self) {
        let mut state = self.state();
        state.closed = true;
        state.running.iter().flatten().for_each(Abort::set);
        let waiting: Vec<Entry> = state.lanes.iter_mut().flat_map(|lane| lane.drain(..)).collect();
        state.done.withdrawn += waiting.len() as u64;
        drop(state);
        self.work.notify_all();
        for entry in waiting {
            let _ = entry.reply.send(Err(EngineError::Closed));
        }
    }
}

#[derive(Default)]
struct State {
    /// In the order of [`Lane::ALL`]; each in the order of submission.
    lanes: [VecDeque<Entry>; 3],
    /// How often in a row the batch lane had to wait although it had work.
    passed_over: u32,
    /// By worker: how to stop what it decodes.
    running: Vec<Option<Abort>>,
    slots_taken: usize,
    next_id: u64,
    /// Workers whose thread has not ended.
    alive: usize,
    closed: bool,
    /// The counts since the start; the rest of it is filled in when somebody asks.
    done: Load,
}

impl State {
    fn take(&mut self, patience: u32) -> Option<Entry> {
        let [finals, partials, batch] = &mut self.lanes;
        if !batch.is_empty()
            && self.passed_over < patience
            && let Some(urgent) = finals.pop_front().or_else(|| partials.pop_front())
        {
            self.passed_over += 1;
            return Some(urgent);
        }
        self.passed_over = 0;
        batch.pop_front().or_else(|| finals.pop_front()).or_else(|| partials.pop_front())
    }

    fn busy(&self) -> usize {
        self.running.iter().flatten().count()
    }

    /// The time in which the work at hand should be done, in seconds.
    fn retry_after(&self) -> u64 {
        let each = match self.done.recognised {
            0 => 1.0,
            count => self.done.wall_seconds / count as f64,
        };
        let windows = self.busy() + self.lanes.iter().map(VecDeque::len).sum::<usize>();
        // Past a minute the estimate is worth nothing.
        (windows as f64 * each / self.running.len() as f64).ceil().clamp(1.0, 60.0) as u64
    }
}

/// A window that waits.
struct Entry {
    id: u64,
    request: Request,
    abort: Abort,
    reply: oneshot::Sender<Result<Recognition, EngineError>>,
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "threads are tested with the clock on the wall")]
mod tests;
