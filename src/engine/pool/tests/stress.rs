//! Everything at once: no ticket without an answer, no worker asleep beside work, nothing left over.

use super::*;

/// A generator of no quality but a seed, so that a failure can be had again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[derive(Default)]
struct Tally {
    submitted: u64,
    answered: u64,
    dropped: u64,
    refreshed: u64,
}

const STEPS: u64 = 1500;
const THREADS: u64 = 6;

#[test]
fn nothing_is_lost_under_random_submits_drops_and_refreshes() {
    for workers in 1..=4 {
        let most = THREADS as usize;
        let config = PoolConfig { workers, slots: most, streams: Some(most), patience: 3, hang: HANG };
        let (pool, threads) = Pool::start(Fake::new(|_| Ok(()), hear), config).expect("it starts");
        let over = AtomicBool::new(false);
        let tallies = std::thread::scope(|scope| {
            let (pool, over) = (&pool, &over);
            let watch = scope.spawn(move || worst_idleness(pool, over));
            let hammers: Vec<_> = (0..THREADS)
                .map(|n| scope.spawn(move || hammer(pool, n + 1 + 100 * workers as u64)))
                .collect();
            let tallies: Vec<_> = hammers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            over.store(true, Ordering::SeqCst);
            let idle = watch.join().expect("it does not fail");
            assert!(idle < Duration::from_secs(5), "work waited {idle:?} beside a worker that slept");
            tallies.into_iter().map(|tally| tally.expect("no thread fails")).collect::<Vec<_>>()
        });
        let sum = |count: fn(&Tally) -> u64| tallies.iter().map(count).sum::<u64>();
        let (submitted, answered) = (sum(|tally| tally.submitted), sum(|tally| tally.answered));
        assert_eq!(answered + sum(|tally| tally.dropped), submitted);
        assert!(submitted > 1000 && answered > 100 && sum(|tally| tally.refreshed) > 10);
        wait_until("the last withdrawn windows have stopped", || pool.load().busy == 0);
        let load = pool.load();
        assert_eq!((load.waiting, load.streams, load.slots_free), ([0; 3], 0, most));
        assert_eq!(load.recognised + load.failed + load.withdrawn + load.preempted, submitted);
        assert!(threads.drain(PLENTY));
    }
}

/// Takes up to some tenths of a millisecond, heeds a withdrawal, and fails or crashes now and then.
fn hear(request: &Request, abort: &Abort) -> Result<(), EngineError> {
    let seed = request.offset.0;
    if seed.is_multiple_of(97) {
        std::panic::resume_unwind(Box::new("a crash without a report"));
    }
    if seed.is_multiple_of(31) {
        return Err(EngineError::Failed("now and then".to_owned()));
    }
    for _ in 0..seed % 6 {
        if abort.is_set() {
            return Err(EngineError::Aborted);
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    Ok(())
}

/// One holder of slots: comes and goes as a stream or an upload, and does at random what holders do.
fn hammer(pool: &Pool, seed: u64) -> Tally {
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut tally = Tally::default();
    let mut tickets: Vec<Ticket> = Vec::new();
    let mut slot = pool.admit_stream().expect("a place per thread");
    for _ in 0..STEPS {
        let which = dice.below(tickets.len().max(1) as u64) as usize;
        match dice.below(20) {
            0 => {
                // The place is only free when the tickets are gone.
                tally.answered += answer_all(&mut tickets);
                drop(slot);
                let stream = dice.below(2) == 0;
                slot = if stream { pool.admit_stream() } else { pool.admit() }.expect("a place per thread");
            }
            1..=9 if tickets.len() < 12 => {
                let lane = Lane::ALL[dice.below(3) as usize];
                tickets.push(slot.submit(lane, request_at(&mut dice)));
                tally.submitted += 1;
            }
            10..=12 if !tickets.is_empty() => {
                drop(tickets.swap_remove(which));
                tally.dropped += 1;
            }
            13..=15 if !tickets.is_empty() => {
                tally.refreshed += u64::from(tickets[which].refresh(request_at(&mut dice)));
            }
            16 => std::thread::sleep(Duration::from_micros(dice.below(400))),
            _ if !tickets.is_empty() => {
                check(wait_for(tickets.swap_remove(which)));
                tally.answered += 1;
            }
            _ => {}
        }
    }
    tally.answered += answer_all(&mut tickets);
    tally
}

fn answer_all(tickets: &mut Vec<Ticket>) -> u64 {
    let answers = tickets.drain(..).map(|ticket| check(wait_for(ticket)));
    answers.count() as u64
}

/// A partial may be stopped, but nothing is told that the pool is closed.
fn check(answer: Result<Recognition, EngineError>) {
    assert_ne!(answer, Err(EngineError::Closed));
}

fn request_at(dice: &mut Dice) -> Request {
    Request { pcm: [0.5; 160].into(), ..request(dice.below(1_000_000)) }
}

/// The longest time in which a worker slept at every look although there was something that it might have taken.
fn worst_idleness(pool: &Pool, over: &AtomicBool) -> Duration {
    let (mut worst, mut since) = (Duration::ZERO, Instant::now());
    while !over.load(Ordering::SeqCst) {
        let state = pool.shared().state();
        let forgotten = state.sleeping > 0 && state.has_work();
        drop(state);
        if forgotten {
            worst = worst.max(since.elapsed());
        } else {
            since = Instant::now();
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    worst
}
