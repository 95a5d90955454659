//! What one process counts by itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::counters::{Question, Tally};
use super::window::Count;

/// Keys and addresses that are remembered at most.
const MOST: usize = 50_000;

/// The counts of this process, by what is counted for whom.
pub(super) struct Memory {
    began: Instant,
    counts: Mutex<Recent<Vec<(u64, Count)>>>,
}

impl Default for Memory {
    fn default() -> Self {
        Self { began: Instant::now(), counts: Mutex::new(Recent::new(MOST)) }
    }
}

impl Memory {
    pub(super) fn ask(&self, question: &Question<'_>) -> Tally {
        self.ask_at(question, self.began.elapsed().as_millis() as u64)
    }

    /// The same at a time of the caller's, in milliseconds.
    pub(super) fn ask_at(&self, question: &Question<'_>, now: u64) -> Tally {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = counts.touch(&question.name());
        let turned = question.rates.iter().map(|rate| {
            let count = kept.iter().find(|(window, _)| *window == rate.window).map(|(_, count)| *count);
            count.unwrap_or_default().turned(now, rate.window)
        });
        let mut tally = Tally { room: true, now, counts: turned.collect() };
        tally.room = question
            .rates
            .iter()
            .zip(&tally.counts)
            .all(|(rate, count)| count.used(now, rate.window) + question.need <= rate.amount);
        if question.cost > 0 && (tally.room || question.need == 0) {
            tally.counts.iter_mut().for_each(|count| count.current += question.cost);
            let windows = question.rates.iter().map(|rate| rate.window);
            *kept = windows.zip(tally.counts.iter().copied()).collect();
        }
        tally
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.young.len() + counts.old.len()
    }
}

/// A map that forgets what was not asked for lately: when half of the room is taken, what is in it becomes the old
/// half, and what was old is gone. Whoever comes back in time becomes young again.
struct Recent<V> {
    most: usize,
    young: HashMap<Arc<str>, V>,
    old: HashMap<Arc<str>, V>,
}

impl<V: Default> Recent<V> {
    fn new(most: usize) -> Self {
        Self { most, young: HashMap::new(), old: HashMap::new() }
    }

    /// What is kept under this name, or a new one.
    fn touch(&mut self, name: &str) -> &mut V {
        if !self.young.contains_key(name) {
            if self.young.len() >= self.most / 2 {
                self.old = std::mem::take(&mut self.young);
            }
            let (name, value) =
                self.old.remove_entry(name).unwrap_or_else(|| (Arc::from(name), V::default()));
            self.young.insert(name, value);
        }
        self.young.get_mut(name).expect("it was put there if it was not")
    }
}

#[cfg(test)]
mod tests {
    use super::super::counters::Currency;
    use super::super::rate::Rates;
    use super::*;

    fn rates(text: &str) -> Rates {
        text.parse().expect("a limit")
    }

    fn one<'a>(who: &'a str, rates: &'a Rates) -> Question<'a> {
        Question { currency: Currency::Requests, who, rates: rates.all(), need: 1, cost: 1 }
    }

    #[test]
    fn all_windows_have_room_or_none_is_charged() {
        let (memory, both) = (Memory::default(), rates("2/second,3/minute"));
        let ask = |now| memory.ask_at(&one("a", &both), now).room;
        assert_eq!([ask(0), ask(1), ask(2)], [true, true, false]);
        // What was refused has cost nothing: the third of this minute is still there.
        assert_eq!([ask(2_000), ask(2_001)], [true, false]);
        assert!(memory.ask_at(&one("b", &both), 2_001).room, "everybody has their own");
        assert!(!ask(59_999));
        assert!(ask(60_000));
    }

    #[test]
    fn what_is_not_asked_for_is_charged_anyway() {
        let (memory, hour) = (Memory::default(), rates("10/hour"));
        let charge = Question { need: 0, cost: 25, ..one("a", &hour) };
        let look = Question { need: 1, cost: 0, ..one("a", &hour) };
        assert!(memory.ask_at(&look, 0).room);
        memory.ask_at(&charge, 0);
        assert_eq!(memory.ask_at(&look, 1), memory.ask_at(&look, 1), "looking costs nothing");
        assert!(!memory.ask_at(&look, 3_600_000).room, "what was too much is still too much");
        assert!(memory.ask_at(&look, 7_200_000).room);
    }

    #[test]
    fn memory_is_bounded_and_whoever_is_busy_is_not_forgotten() {
        let (memory, day) = (Memory::default(), rates("1000000/day"));
        for n in 0..100_000_u64 {
            memory.ask_at(&one(&format!("203.0.113.{n}"), &day), n);
            if n % 10_000 == 0 {
                memory.ask_at(&one("busy", &day), n);
            }
        }
        assert!(memory.remembered() <= MOST, "{} are remembered", memory.remembered());
        assert_eq!(memory.ask_at(&one("busy", &day), 100_000).counts[0].current, 11);
    }
}
