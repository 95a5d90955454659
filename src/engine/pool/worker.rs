//! The threads and what each of them does with a window.

use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::model::Model;
use super::queue::{Shared, Task};
use crate::engine::EngineError;

/// The threads of a pool. Dropping them without [`Workers::drain`] stops what runs, answers what waits with
/// [`EngineError::Closed`], and blocks until all threads have ended.
#[must_use = "dropping the workers ends them"]
pub struct Workers {
    shared: Arc<Shared>,
    /// By worker.
    threads: Vec<JoinHandle<()>>,
    watchdog: Option<JoinHandle<()>>,
}

impl Workers {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let threads = Vec::with_capacity(shared.config.workers);
        Self { shared, threads, watchdog: None }
    }

    /// Refuses new work, finishes what is queued and joins the threads; says whether that was done within `grace`.
    /// After it, what still runs is aborted, what still waits is answered with [`EngineError::Closed`], and the
    /// threads are joined all the same. Blocks: not for a thread that drives futures.
    pub fn drain(self, grace: Duration) -> bool {
        let mut state = self.shared.state();
        state.closed = true;
        self.shared.work.notify_all();
        let in_time = self.shared.ended.wait_timeout_while(state, grace, |state| state.alive > state.hung());
        let (state, _) = in_time.unwrap_or_else(PoisonError::into_inner);
        // The rest is done by dropping the workers.
        state.alive == 0
    }

    pub(super) fn spawn(&mut self, index: usize) -> Result<(), EngineError> {
        let worker = Worker::new(Arc::clone(&self.shared), index);
        let thread = std::thread::Builder::new()
            .name(format!("engine-{index}"))
            .spawn(move || worker.live())
            .map_err(|error| EngineError::Load(format!("cannot start a thread: {error}")))?;
        self.threads.push(thread);
        Ok(())
    }

    /// Starts looking for windows that hang.
    pub(super) fn watch(&mut self) -> Result<(), EngineError> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new()
            .name("engine-watch".to_owned())
            .spawn(move || shared.keep_watch())
            .map_err(|error| EngineError::Load(format!("cannot start a thread: {error}")))?;
        self.watchdog = Some(thread);
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.abandon();
        let hung = self.shared.hung();
        // A worker that hangs ends with the process.
        let ending = self.threads.drain(..).enumerate().filter(|(index, _)| !hung.contains(index));
        for thread in ending.map(|(_, thread)| thread).chain(self.watchdog.take()) {
            // A thread that panicked has ended too, which is all that is asked here.
            let _ = thread.join();
        }
    }
}

/// One thread. Its recognisers are the models' own, one for each of its kind.
struct Worker {
    shared: Arc<Shared>,
    index: usize,
}

impl Worker {
    fn new(shared: Arc<Shared>, index: usize) -> Self {
        shared.state().alive += 1;
        Self { shared, index }
    }

    fn live(self) {
        while let Some(task) = self.shared.next(self.index) {
            let Task { model, purpose, request, abort, submitted } = task;
            let start = Instant::now();
            let answer = match abort.is_set() {
                true => Err(EngineError::Aborted),
                false => model.recognize(self.index, &request, &abort),
            };
            let wall = start.elapsed();
            if let Some(times) = self.shared.times.get() {
                times.begun(purpose, start.saturating_duration_since(submitted));
                if answer.is_ok() {
                    times.recognised(purpose, request.effort, wall);
                }
            }
            // Whoever is answered may rely on the audio being freed and the counts being up to date, and on the
            // model being held by nobody here.
            drop((request, abort));
            let reply = self.shared.settle(self.index, &answer, wall);
            let crashed = matches!(answer, Err(EngineError::Crashed)).then(|| Arc::clone(&model));
            drop(model);
            if let Some(reply) = reply {
                // Nobody listens any more if the ticket was dropped.
                let _ = reply.send(answer);
            }
            if let Some(model) = crashed {
                self.recover(&model);
            }
        }
    }

    /// Makes a new recogniser after a crash without waiting for the next window. If that fails, each following
    /// window tries again.
    fn recover(&self, model: &Model) {
        match model.mend(self.index) {
            Ok(()) => tracing::error!(worker = self.index, "a recogniser crashed and was replaced"),
            Err(error) => {
                tracing::error!(worker = self.index, %error, "a recogniser crashed and cannot be replaced")
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.running[self.index] = None;
        state.alive -= 1;
        let last = state.alive == 0;
        if state.alive <= state.hung() {
            self.shared.ended.notify_all();
        }
        // A wakeup that this one had, another one must have.
        self.shared.release(state);
        if last {
            // Without workers nothing may wait. After an orderly end nothing does.
            self.shared.abandon();
            self.shared.ended.notify_all();
        }
    }
}
