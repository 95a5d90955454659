//! Looks for windows that were begun and hang.
//!
//! Only what was begun is looked at: how long a window waits for its turn says nothing about the engine. How long one
//! may take follows what its model needs on this machine. A thread cannot be ended from outside, so the worker of such
//! a window is told to stop and counts as lost, for admission too, until it returns.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::measure;
use super::queue::{Entry, Purpose, Reply, Running, Shared, State};
use crate::engine::EngineError;

/// How long it sleeps where nothing can ever be late.
const DOZE: Duration = Duration::from_secs(3600);

impl Shared {
    /// Answers windows that hang with [`EngineError::Hung`], until the pool closes. Blocks.
    pub(super) fn keep_watch(&self) {
        let mut state = self.state();
        while !state.closed {
            let now = Instant::now();
            let (freed, replies) = state.give_up(now);
            if !replies.is_empty() {
                // If all hang, a drain has nobody to wait for.
                self.ended.notify_all();
                // What waited because another worker was kept free may have its turn now.
                self.release(state);
                for reply in replies.into_iter().chain(freed.into_iter().map(|entry| entry.reply)) {
                    // Nobody listens any more if the ticket was dropped.
                    let _ = reply.send(Err(EngineError::Hung));
                }
                state = self.state();
                continue;
            }
            // What begins while this sleeps is not late before it wakes up.
            let sleep = state.next_late(now).saturating_duration_since(now);
            state = self.watch.wait_timeout(state, sleep).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The workers that hang.
    pub(super) fn hung(&self) -> Vec<usize> {
        let state = self.state();
        let running = state.running.iter().enumerate();
        running.filter(|(_, one)| one.as_ref().is_some_and(|one| one.hangs())).map(|(at, _)| at).collect()
    }
}

impl State {
    /// When the next of the running windows is late, but no later than anything that begins now might be.
    fn next_late(&self, now: Instant) -> Instant {
        let running = self.running.iter().flatten().filter(|running| !running.hangs());
        let late = running.filter_map(|running| running.since.checked_add(self.patience_with(running)));
        late.chain(now.checked_add(self.config.hang)).min().unwrap_or(now + DOZE)
    }

    fn patience_with(&self, running: &Running) -> Duration {
        let cost = self.ledgers.get(running.ledger).map(|ledger| ledger.costs.full).unwrap_or_default();
        measure::patience(self.config.hang, cost, running.audio)
    }

    /// Marks the workers of late windows as lost. Returns what is to be answered for that: the late ones, and what
    /// waits for a lost worker alone or, where no worker is left, at all.
    fn give_up(&mut self, now: Instant) -> (Vec<Entry>, Vec<Reply>) {
        let late = |state: &Self, worker: usize| {
            state.running[worker].as_ref().is_some_and(|running| {
                !running.hangs()
                    && now.saturating_duration_since(running.since) >= state.patience_with(running)
            })
        };
        let late: Vec<usize> = (0..self.running.len()).filter(|worker| late(self, *worker)).collect();
        let mut replies = Vec::new();
        let mut freed: Vec<Entry> = Vec::new();
        for worker in late {
            let Some(running) = &mut self.running[worker] else { continue };
            let seconds = now.saturating_duration_since(running.since).as_secs();
            tracing::error!(worker, seconds, "a worker hangs and counts as lost");
            running.abort.set();
            replies.extend(running.reply.take());
            self.done.failed += u64::from(matches!(running.purpose, Purpose::Window(_)));
            freed.extend(self.own[worker].drain(..));
        }
        if !replies.is_empty() && self.all_hang() {
            tracing::error!("all workers hang: nothing can be decoded until the server is started anew");
            let waiting = self.lanes.iter_mut().flat_map(|lane| lane.drain(..));
            let before = freed.len();
            freed.extend(waiting);
            self.done.failed += (freed.len() - before) as u64;
        }
        (freed, replies)
    }
}
