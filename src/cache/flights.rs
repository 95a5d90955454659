//! Work that several wait for.
//!
//! It belongs to those who wait, and to nobody alone: whichever of them is awake drives it, and it is dropped with the
//! last one. So nobody's leaving costs the others anything, and nothing goes on for nobody.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};

use super::Key;

pub(super) type Flight<T> = Shared<BoxFuture<'static, T>>;

/// See the module.
pub(super) struct Flights<T: Clone> {
    air: Arc<Air<T>>,
}

type Air<T> = Mutex<Sky<T>>;

/// What is under way, each with its number.
struct Sky<T: Clone> {
    last: u64,
    flights: HashMap<Key, (u64, WeakShared<BoxFuture<'static, T>>)>,
}

impl<T: Clone> Default for Flights<T> {
    fn default() -> Self {
        Self { air: Arc::new(Mutex::new(Sky { last: 0, flights: HashMap::new() })) }
    }
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    /// The work that is under way for this key, or else what `begin` makes; and whether it was under way. `begin` is
    /// called with a lock held, so it only prepares.
    pub(super) fn join(&self, key: Key, begin: impl FnOnce() -> BoxFuture<'static, T>) -> (Flight<T>, bool) {
        let mut sky = lock(&self.air);
        if let Some(flight) = sky.flights.get(&key).and_then(|(_, flight)| flight.upgrade()) {
            return (flight, true);
        }
        sky.last += 1;
        let (number, work) = (sky.last, begin());
        let landing = Landing { air: self.air.clone(), key, number };
        let flight = async move {
            let _landing = landing;
            work.await
        };
        let flight = flight.boxed().shared();
        let weak = flight.downgrade().expect("it has not been polled, so it has not ended");
        sky.flights.insert(key, (number, weak));
        (flight, false)
    }
}

/// Takes a flight off the list when it ends, or is given up.
struct Landing<T: Clone> {
    air: Arc<Air<T>>,
    key: Key,
    number: u64,
}

impl<T: Clone> Drop for Landing<T> {
    fn drop(&mut self) {
        let mut sky = lock(&self.air);
        // The next one for the same key may have begun between the moment this was given up and now.
        if sky.flights.get(&self.key).is_some_and(|(number, _)| *number == self.number) {
            sky.flights.remove(&self.key);
        }
    }
}

fn lock<T: Clone>(air: &Air<T>) -> MutexGuard<'_, Sky<T>> {
    air.lock().unwrap_or_else(PoisonError::into_inner)
}
