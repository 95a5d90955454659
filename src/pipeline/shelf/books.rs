//! What is on the shelf, and what has to make room. The clock is passed in, and nothing here waits.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::{Budget, COME_BACK, ModelState, ShelfError, Standing, Told};
use crate::engine::EngineTraits;
use crate::engine::pool::Pool;

/// How long a failed load is not tried again.
const RETRY: Duration = Duration::from_secs(10);

/// One entry for every model that was ever asked for: they are as many as the library has.
#[derive(Default)]
pub(super) struct Books(BTreeMap<String, Book>);

struct Book {
    place: Place,
    /// The memory that it takes, or that is kept for it.
    bytes: u64,
    /// Leases that are out. Only what is here has any.
    active: usize,
    /// When it came, or was last used.
    since: Instant,
    last_used: Option<Instant>,
    /// What it turned out to be when it was last loaded.
    traits: Option<EngineTraits>,
}

enum Place {
    Away,
    Coming(watch::Receiver<Told>),
    Here(Pool),
    Broken { why: String, since: Instant },
}

/// What somebody who wants a model has to do.
pub(super) enum Step {
    /// Use it: it is counted as in use from here on.
    Here(Pool),
    /// Wait for somebody else's load.
    Wait(watch::Receiver<Told>),
    /// Load it, tell the others, and wait like them.
    Load(watch::Sender<Told>, watch::Receiver<Told>),
    /// Go away.
    Refused(ShelfError),
}

/// Models that have to go. They are dropped after the lock.
type Gone = Vec<(String, Pool)>;

impl Books {
    pub(super) fn step(&mut self, name: &str, now: Instant) -> Step {
        let book = self.0.entry(name.to_owned()).or_insert_with(|| Book::new(now));
        match &book.place {
            Place::Here(pool) => {
                (book.active, book.since, book.last_used) = (book.active + 1, now, Some(now));
                Step::Here(pool.clone())
            }
            Place::Coming(coming) => Step::Wait(coming.clone()),
            Place::Broken { why, since } if now.saturating_duration_since(*since) < RETRY => {
                let left = RETRY.saturating_sub(now.saturating_duration_since(*since));
                Step::Refused(failed(name, why.clone(), left))
            }
            Place::Broken { .. } | Place::Away => {
                let (tell, coming) = watch::channel(None);
                book.place = Place::Coming(coming.clone());
                Step::Load(tell, coming)
            }
        }
    }

    /// Keeps memory for a model that is coming, and takes out those that have to make room for it: none if that would
    /// not be enough. What the operator has named (`pinned`) need not fit into a budget that was only guessed.
    pub(super) fn make_room(
        &mut self,
        name: &str,
        bytes: u64,
        (budget, pinned): (Budget, bool),
    ) -> Result<Gone, ShelfError> {
        let (limit, firm) = match budget {
            Budget::Firm(limit) => (limit, true),
            Budget::Guessed(limit) => (limit, !pinned),
        };
        if firm && bytes > limit {
            return Err(ShelfError::TooLarge { name: name.to_owned(), bytes, limit });
        }
        let idle: u64 = self.0.values().filter(|book| book.is_idle()).map(|book| book.bytes).sum();
        if firm && self.taken() - idle + bytes > limit {
            return Err(ShelfError::NoRoom { name: name.to_owned(), retry_after: COME_BACK });
        }
        let mut gone = Vec::new();
        for other in self.in_the_way((self.taken() + bytes).saturating_sub(limit)) {
            let pool = self.0.get_mut(&other).and_then(Book::close);
            gone.extend(pool.map(|pool| (other, pool)));
        }
        if let Some(book) = self.0.get_mut(name) {
            book.bytes = bytes;
        }
        Ok(gone)
    }

    /// Idle models that take so much together, if there are enough: those that were used longest ago, without any that
    /// would go in vain.
    fn in_the_way(&self, bytes: u64) -> Vec<String> {
        let mut idle: Vec<_> = self.0.iter().filter(|(_, book)| book.is_idle()).collect();
        idle.sort_by_key(|(_, book)| book.since);
        let (mut freed, mut going) = (0, Vec::new());
        for one in idle {
            if freed < bytes {
                freed += one.1.bytes;
                going.push(one);
            }
        }
        let spared = |(name, book): (&String, &Book)| {
            let needed = freed - book.bytes < bytes;
            freed -= if needed { 0 } else { book.bytes };
            needed.then(|| name.clone())
        };
        going.into_iter().rev().filter_map(spared).collect()
    }

    /// It has been loaded.
    pub(super) fn arrive(&mut self, name: &str, pool: Pool, now: Instant) {
        let Some(book) = self.0.get_mut(name) else { return };
        (book.traits, book.since) = (Some(pool.traits().clone()), now);
        book.place = Place::Here(pool);
    }

    /// There was no room for it. The next who asks may have more luck.
    pub(super) fn turn_away(&mut self, name: &str) {
        let Some(book) = self.0.get_mut(name) else { return };
        (book.place, book.bytes) = (Place::Away, 0);
    }

    /// It could not be loaded.
    pub(super) fn fail(&mut self, name: &str, why: String, now: Instant) -> ShelfError {
        if let Some(book) = self.0.get_mut(name) {
            (book.place, book.bytes) = (Place::Broken { why: why.clone(), since: now }, 0);
        }
        failed(name, why, RETRY)
    }

    /// Takes a model out, if it is here and nobody uses it.
    pub(super) fn close(&mut self, name: &str) -> Result<Option<Pool>, ShelfError> {
        let Some(book) = self.0.get_mut(name) else { return Ok(None) };
        match &book.place {
            Place::Coming(_) => Err(ShelfError::Loading { name: name.to_owned(), retry_after: COME_BACK }),
            Place::Here(_) if book.active > 0 => {
                Err(ShelfError::InUse { name: name.to_owned(), active: book.active })
            }
            _ => Ok(book.close()),
        }
    }

    /// Takes out what nobody has used for `idle`, and says when to look again.
    pub(super) fn sweep(&mut self, now: Instant, idle: Duration) -> (Gone, Duration) {
        let mut gone = Vec::new();
        let mut soonest = idle;
        for (name, book) in self.0.iter_mut().filter(|(_, book)| book.is_idle()) {
            let left = idle.saturating_sub(now.saturating_duration_since(book.since));
            if left.is_zero() {
                gone.extend(book.close().map(|pool| (name.clone(), pool)));
            } else {
                soonest = soonest.min(left);
            }
        }
        (gone, soonest)
    }

    /// A lease has ended.
    pub(super) fn give_back(&mut self, name: &str, now: Instant) {
        if let Some(book) = self.0.get_mut(name) {
            (book.active, book.since, book.last_used) = (book.active - 1, now, Some(now));
        }
    }

    pub(super) fn is_here(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|book| matches!(book.place, Place::Here(_) | Place::Coming(_)))
    }

    pub(super) fn names_here(&self) -> Vec<String> {
        self.0.keys().filter(|name| self.is_here(name)).cloned().collect()
    }

    pub(super) fn active(&self) -> usize {
        self.0.values().map(|book| book.active).sum()
    }

    pub(super) fn taken(&self) -> u64 {
        self.0.values().map(|book| book.bytes).sum()
    }

    /// What a model turned out to be, if it was ever loaded, and where it is.
    pub(super) fn look(&self, name: &str) -> (Option<EngineTraits>, Standing) {
        let Some(book) = self.0.get(name) else { return Default::default() };
        let state = match &book.place {
            Place::Away => ModelState::Unloaded,
            Place::Coming(_) => ModelState::Loading,
            Place::Here(_) => ModelState::Loaded,
            Place::Broken { .. } => ModelState::Failed,
        };
        let Book { bytes, active, last_used, .. } = *book;
        (book.traits.clone(), Standing { state, memory: bytes, last_used, active })
    }
}

impl Book {
    fn new(now: Instant) -> Self {
        Self { place: Place::Away, bytes: 0, active: 0, since: now, last_used: None, traits: None }
    }

    fn is_idle(&self) -> bool {
        matches!(self.place, Place::Here(_)) && self.active == 0
    }

    fn close(&mut self) -> Option<Pool> {
        match std::mem::replace(&mut self.place, Place::Away) {
            Place::Here(pool) => {
                self.bytes = 0;
                Some(pool)
            }
            other => {
                self.place = other;
                None
            }
        }
    }
}

fn failed(name: &str, why: String, left: Duration) -> ShelfError {
    let retry_after = left.as_secs_f64().ceil().max(1.0) as u64;
    ShelfError::Failed { name: name.to_owned(), why, retry_after }
}
