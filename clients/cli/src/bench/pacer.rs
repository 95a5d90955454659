//! One clock for all streams: who is to send next, and when.
//!
//! The contract: a key is due again exactly one period after it was due, not after it was served, so nothing drifts;
//! one timer is armed at a time, however many keys there are. The caller compares its clock with the due time: that
//! is its lateness.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Keys in the order in which they are due.
#[derive(Debug, Default)]
pub(crate) struct Pacer {
    due: BinaryHeap<Reverse<(Instant, usize)>>,
}

impl Pacer {
    /// Makes a key due at this time.
    pub(crate) fn add(&mut self, key: usize, at: Instant) {
        self.due.push(Reverse((at, key)));
    }

    /// Waits for the next key and takes it out. Waits for ever if there is none; may be dropped while it waits.
    pub(crate) async fn next(&mut self) -> (usize, Instant) {
        match self.due.peek() {
            // The runtime's timers count whole milliseconds; what is due already is not sent through them.
            Some(Reverse((at, _))) if *at > Instant::now() => sleep_until(*at).await,
            Some(_) => {}
            None => std::future::pending().await,
        }
        let Reverse((at, key)) = self.due.pop().expect("it was there before the wait");
        (key, at)
    }

    /// Makes a key due one period after it was.
    pub(crate) fn again(&mut self, key: usize, was: Instant, period: Duration) {
        self.add(key, was + period);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn keys_come_when_they_are_due_and_do_not_drift() {
        let start = Instant::now();
        let mut pacer = Pacer::default();
        let period = Duration::from_millis(20);
        for key in 0..4_usize {
            pacer.add(key, start + Duration::from_millis(5) * (key as u32));
        }
        let mut order = Vec::new();
        for _ in 0..400 {
            let (key, due) = pacer.next().await;
            assert!(Instant::now() >= due && Instant::now() < due + Duration::from_millis(2));
            order.push(key);
            pacer.again(key, due, period);
        }
        assert!(order.chunks(4).all(|round| round == [0, 1, 2, 3]));
        let elapsed = start.elapsed();
        assert!(elapsed.abs_diff(period * 100) <= period, "100 rounds take 100 periods: {elapsed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_late_is_served_at_once_and_catches_up() {
        let start = Instant::now();
        let mut pacer = Pacer::default();
        pacer.add(7, start);
        tokio::time::advance(Duration::from_millis(100)).await;
        let mut served = 0;
        while start.elapsed() < Duration::from_millis(101) {
            let (key, due) = pacer.next().await;
            pacer.again(key, due, Duration::from_millis(20));
            served += 1;
        }
        assert_eq!(served, 7, "0, 20, 40, 60, 80 and 100 at once, then 120 in its time");
    }
}
