//! What the pool learns about its own speed: what audio costs, how long windows wait, how long streams stay.
//!
//! Everything here is a sum that forgets. The clock is passed in.

use std::time::{Duration, Instant};

use crate::transcript::Samples;

/// The share of the workers' time that finals may take when every stream speaks without a pause. The rest is for
/// partials, and for the moments in which many utterances end at once. Measured on 2 cores with sentences and pauses,
/// final after the endpoint decision at p95: 290 ms with 11 streams, 360 with 14, 710 with the 17 that three quarters
/// allowed.
const TARGET: f64 = 0.625;

/// The share of the workers that are busy when the house counts as full.
const FULL: f64 = 0.75;

/// More streams than any machine serves; what an engine without any cost would otherwise promise.
const MOST_STREAMS: f64 = 10_000.0;

/// Windows shorter than this say little about the cost of a second, as most of theirs does not depend on length.
const TELLING: Samples = Samples::from_millis(2000);

/// After so many seconds of audio, a cost counts half: some fifty windows, so that neither one slow window nor
/// yesterday decides who is admitted. A calibration of a few seconds is soon outweighed.
const COST_HALF_LIFE: f64 = 300.0;

/// After so many seconds of wall time, a wait counts half.
const WAIT_HALF_LIFE: f64 = 3.0;

/// The wait of finals that makes a strain of 1, in seconds: about what a reader notices.
const STRAINED: f64 = 0.2;

/// How many live streams the workers can serve if all but the others have this cost; `others` are how many there are
/// of other models, and at what cost. A model of which nothing is known is taken to keep a worker busy with each
/// stream. One stream there may always be.
pub(super) fn capacity(workers: usize, own: Cost, others: impl Iterator<Item = (usize, Cost)>) -> usize {
    let each = |cost: Cost| cost.per_second().unwrap_or(TARGET);
    let (count, taken) = others.fold((0, 0.0), |(count, taken), (streams, cost)| {
        (count + streams, taken + streams as f64 * each(cost))
    });
    let most = (workers as f64 * TARGET - taken).max(0.0) / each(own);
    let fit = if most.is_nan() { MOST_STREAMS } else { most.min(MOST_STREAMS) };
    (count + fit as usize).max(1)
}

/// How many times what a window should take it may take before it is taken to hang: the fallback ladder, busy
/// neighbors and a machine that swaps are all slowness.
const HANGS: f64 = 50.0;

/// A window is given the time of at least so much audio, since Whisper's encoder always works on 30 s.
const SHORTEST: Samples = Samples::from_millis(30_000);

/// Where nothing was measured, a window may take so many times the least.
const UNMEASURED: u32 = 6;

/// How long a window that has begun may take before it is taken to hang, but never less than `least`.
pub(super) fn patience(least: Duration, cost: Cost, audio: Samples) -> Duration {
    let Some(each) = cost.per_second() else { return least.saturating_mul(UNMEASURED) };
    let long = HANGS * each * audio.max(SHORTEST).seconds();
    Duration::try_from_secs_f64(long).unwrap_or(Duration::MAX).max(least)
}

/// Whether a window that begins while `busy` workers decode, its own included, tells what audio costs when it
/// matters. Workers share caches, memory or a GPU: what they do while most of them idle is faster than what
/// they do when the house is full, and would promise too much.
pub(super) fn is_telling(audio: Samples, busy: usize, workers: usize) -> bool {
    audio >= TELLING && busy as f64 >= FULL * workers as f64
}

/// See [`Pool::strain`](super::Pool::strain); the wait is in seconds.
pub(super) fn strain(wait: f64) -> f32 {
    (wait / STRAINED).min(10.0) as f32
}

/// Wall seconds per second of audio, as an average weighted by audio.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    wall: f64,
    audio: f64,
}

impl Cost {
    /// Takes in a window, both in seconds.
    pub(super) fn note(&mut self, audio: f64, wall: f64) {
        let kept = halved(audio / COST_HALF_LIFE);
        self.audio = self.audio * kept + audio;
        self.wall = self.wall * kept + wall;
    }

    /// `None` before there was any audio.
    pub(super) fn per_second(self) -> Option<f64> {
        (self.audio > 0.0).then(|| self.wall / self.audio)
    }
}

/// How long the windows of a lane wait.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waits {
    seconds: f64,
    weight: f64,
    last: Option<Instant>,
}

impl Waits {
    pub(super) fn note(&mut self, now: Instant, wait: Duration) {
        let kept = self.kept(now);
        self.seconds = self.seconds * kept + wait.as_secs_f64();
        self.weight = self.weight * kept + 1.0;
        self.last = Some(now);
    }

    /// The average over the recent ones in seconds. An average only moves when something happens, so it also
    /// fades with the time since the last one: when nobody asks for anything, nobody waits.
    pub(super) fn recent(&self, now: Instant) -> f64 {
        // The last window weighs 1, so only an average over nothing weighs less.
        self.seconds / self.weight.max(1.0) * self.kept(now)
    }

    fn kept(&self, now: Instant) -> f64 {
        self.last.map_or(1.0, |last| halved(seconds_between(last, now) / WAIT_HALF_LIFE))
    }
}

/// How many live streams there are, and how soon one of them may be expected to end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streams {
    count: usize,
    /// How long all streams together have been in, up to `since`, in seconds.
    lived: f64,
    /// How many have ended.
    ended: f64,
    since: Instant,
}

impl Streams {
    pub(super) fn new(now: Instant) -> Self {
        Self { count: 0, lived: 0.0, ended: 0.0, since: now }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn enter(&mut self, now: Instant) {
        self.pass(now);
        self.count += 1;
    }

    pub(super) fn leave(&mut self, now: Instant) {
        /// The last fifty streams or so count.
        const KEPT: f64 = 0.98;
        self.pass(now);
        self.count -= 1;
        self.lived *= KEPT;
        self.ended = self.ended * KEPT + 1.0;
    }

    /// When there should be fewer than `most`, in seconds: a stream's life is estimated as the time that all have
    /// lived by the number that have ended. Below 2 s nobody should ask again; past 30 s it is a mere guess, and
    /// so it is while none has ended.
    pub(super) fn retry_after(mut self, most: usize, now: Instant) -> u64 {
        if self.ended == 0.0 || self.count == 0 {
            return 30;
        }
        self.pass(now);
        let until_one_ends = self.lived / self.ended / self.count as f64;
        let too_many = (self.count + 1).saturating_sub(most) as f64;
        (too_many * until_one_ends).ceil().clamp(2.0, 30.0) as u64
    }

    fn pass(&mut self, now: Instant) {
        self.lived += self.count as f64 * seconds_between(self.since, now);
        self.since = self.since.max(now);
    }
}

/// What is left after so many half-lives.
fn halved(half_lives: f64) -> f64 {
    0.5_f64.powf(half_lives)
}

/// Zero if they are the wrong way round: a clock that is read before a lock may come late.
fn seconds_between(earlier: Instant, later: Instant) -> f64 {
    later.saturating_duration_since(earlier).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, seconds: f64) -> Instant {
        start + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn capacity_is_what_the_cost_allows() {
        let at = |audio, wall| {
            let mut cost = Cost::default();
            cost.note(audio, wall);
            cost
        };
        let alone = |workers, cost| capacity(workers, cost, std::iter::empty());
        for workers in 1..100 {
            assert_eq!(alone(workers, Cost::default()), workers);
        }
        assert_eq!(alone(3, at(0.0, 1.0)), 3);
        assert_eq!(alone(2, at(10.0, 1.0)), 12);
        assert_eq!(alone(2, at(10.0, 1.1)), 11);
        assert_eq!(alone(1, at(1.0, 5.0)), 1);
        assert_eq!(alone(1, at(5.0, 0.0)), 10_000);
        assert_eq!(alone(64, at(5.0, 1e-9)), 10_000);

        // Streams of other models have taken their share, each at its own cost.
        let (light, heavy, unknown) = (at(10.0, 1.0), at(1.0, 0.5), Cost::default());
        assert_eq!(capacity(2, light, [(0, heavy), (0, unknown)].into_iter()), 12);
        assert_eq!(capacity(2, light, [(2, heavy)].into_iter()), 2 + 2);
        assert_eq!(capacity(2, heavy, [(5, light)].into_iter()), 5 + 1);
        assert_eq!(capacity(2, heavy, [(15, light)].into_iter()), 15);
        assert_eq!(capacity(2, heavy, [(40, light)].into_iter()), 40);
        assert_eq!(capacity(2, unknown, [(6, light)].into_iter()), 6 + 1);
        assert_eq!(capacity(2, light, [(1, unknown)].into_iter()), 1 + 6);
        assert_eq!(capacity(1, at(5.0, 0.0), [(3, heavy)].into_iter()), 3 + 10_000);
    }

    #[test]
    fn patience_follows_what_the_model_needs_here() {
        let least = Duration::from_secs(600);
        let at = |each: f64| {
            let mut cost = Cost::default();
            cost.note(10.0, 10.0 * each);
            cost
        };
        let long = |each, audio| patience(least, at(each), Samples::from_seconds(audio)).as_secs();
        assert_eq!((long(0.0, 10.0), long(0.1, 10.0), long(0.1, 30.0)), (600, 600, 600));
        assert_eq!((long(2.0, 1.0), long(2.0, 30.0), long(2.0, 60.0)), (3000, 3000, 6000));
        assert_eq!(patience(least, Cost::default(), Samples(0)), 6 * least);
        assert_eq!(patience(least, at(f64::MAX / 1e6), Samples(1)), Duration::MAX);
    }

    #[test]
    fn costs_are_weighted_by_audio_and_slowly_forgotten() {
        let mut cost = Cost::default();
        cost.note(2.0, 1.0);
        cost.note(8.0, 0.8);
        let early = cost.per_second().expect("it was measured");
        assert!((0.175..0.185).contains(&early), "{early}");
        let mut slow = Cost::default();
        (0..100).for_each(|_| slow.note(10.0, 1.0));
        slow.note(10.0, 10.0);
        assert!(slow.per_second().expect("it was measured") < 0.13, "one window decides nothing");
        (0..29).for_each(|_| slow.note(10.0, 10.0));
        let half_way = slow.per_second().expect("it was measured");
        assert!((0.5..0.6).contains(&half_way), "{half_way}");
    }

    #[test]
    fn only_long_windows_among_busy_neighbours_tell_the_cost() {
        let seconds = Samples::from_seconds;
        assert!(is_telling(seconds(2.0), 1, 1) && !is_telling(seconds(1.99), 1, 1));
        assert!(is_telling(seconds(9.0), 2, 2) && !is_telling(seconds(9.0), 1, 2));
        assert!(is_telling(seconds(9.0), 3, 4) && !is_telling(seconds(9.0), 2, 4));
    }

    #[test]
    fn strain_follows_the_wait_and_fades() {
        let start = Instant::now();
        let mut waits = Waits::default();
        let at = |waits: &Waits, seconds| strain(waits.recent(after(start, seconds)));
        assert_eq!(at(&waits, 1.0), 0.0);
        for n in 0..20 {
            waits.note(after(start, f64::from(n) * 0.1), Duration::from_millis(200));
        }
        assert!((0.99..1.01).contains(&at(&waits, 1.9)), "{}", at(&waits, 1.9));
        assert!((0.49..0.51).contains(&at(&waits, 4.9)), "{}", at(&waits, 4.9));
        assert!(at(&waits, 60.0) < 0.001);
        // Finals that start at once are believed faster than silence is.
        (0..20).for_each(|n| waits.note(after(start, 2.0 + f64::from(n) * 0.1), Duration::ZERO));
        assert!(at(&waits, 4.0) < 0.45, "{}", at(&waits, 4.0));
        assert_eq!((strain(0.1), strain(0.4), strain(60.0)), (0.5, 2.0, 10.0));
    }

    #[test]
    fn a_place_is_promised_by_how_long_streams_have_stayed() {
        let start = Instant::now();
        let mut streams = Streams::new(start);
        assert_eq!(streams.retry_after(0, start), 30);
        (0..4).for_each(|_| streams.enter(start));
        assert_eq!(streams.retry_after(4, after(start, 5.0)), 30);
        // Four streams of 30 s, of which one has ended: one every 40 s.
        streams.leave(after(start, 30.0));
        streams.enter(after(start, 30.0));
        assert_eq!(streams.retry_after(4, after(start, 30.0)), 30);
        for n in 1..200 {
            streams.leave(after(start, 30.0 + f64::from(n)));
            streams.enter(after(start, 30.0 + f64::from(n)));
        }
        assert_eq!(streams.retry_after(4, after(start, 229.0)), 2);
        assert!((3..8).contains(&streams.retry_after(1, after(start, 229.0))));
        assert_eq!(streams.count(), 4);
    }
}
