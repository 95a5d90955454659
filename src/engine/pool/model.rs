//! A model at work: the engine, and a recogniser for each thread.
//!
//! The recognisers lie with the model and not with the threads. So they are gone with it, at once, even while a thread
//! is busy with another model or asleep; and none of them has to be told.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::engine::{Abort, Engine, EngineError, Recognizer, Request};
use crate::transcript::Recognition;

/// See the module.
pub(super) struct Model {
    pub(super) engine: Arc<dyn Engine>,
    /// By worker. Only its worker ever takes the lock, so nobody waits for it.
    seats: Box<[Mutex<Seat>]>,
    /// Its place among the pool's ledgers.
    pub(super) ledger: usize,
}

/// Absent after a crash, until a new one can be made.
type Seat = Option<Box<dyn Recognizer>>;

impl Model {
    /// Makes all recognisers, one after the other.
    pub(super) fn new(engine: Arc<dyn Engine>, workers: usize, ledger: usize) -> Result<Self, EngineError> {
        let seats = (0..workers).map(|_| make(&*engine).map(|made| Mutex::new(Some(made))));
        let seats = seats.collect::<Result<_, _>>()?;
        Ok(Self { engine, seats, ledger })
    }

    /// Decodes on the thread of this worker. A recogniser that panics is thrown away.
    pub(super) fn recognize(
        &self,
        worker: usize,
        request: &Request,
        abort: &Abort,
    ) -> Result<Recognition, EngineError> {
        let mut seat = self.seat(worker);
        let recognizer = match &mut *seat {
            Some(recognizer) => recognizer,
            empty => {
                let made = make(&*self.engine).map_err(|error| EngineError::Failed(error.to_string()))?;
                empty.insert(made)
            }
        };
        match catch_unwind(AssertUnwindSafe(|| recognizer.recognize(request, abort))) {
            Ok(answer) => answer,
            Err(_panic) => {
                let broken = seat.take();
                // What panicked once may do so again when it is thrown away.
                let _ = catch_unwind(AssertUnwindSafe(|| drop(broken)));
                Err(EngineError::Crashed)
            }
        }
    }

    /// A new recogniser for this worker.
    pub(super) fn mend(&self, worker: usize) -> Result<(), EngineError> {
        *self.seat(worker) = Some(make(&*self.engine)?);
        Ok(())
    }

    /// A seat holds a recogniser or none, so it is sound even if a thread died beside it.
    fn seat(&self, worker: usize) -> MutexGuard<'_, Seat> {
        self.seats[worker].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make(engine: &dyn Engine) -> Result<Box<dyn Recognizer>, EngineError> {
    catch_unwind(AssertUnwindSafe(|| engine.recognizer())).unwrap_or(Err(EngineError::Crashed))
}
