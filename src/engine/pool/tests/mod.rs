//! What the pool promises, tried with scripted and gated engines and no sockets.

mod capacity;
mod live;
mod models;
mod stress;

use super::*;
use crate::engine::script::{Script, ScriptConfig};
use crate::engine::{DecodeOptions, Effort, Recognizer};
use crate::transcript::Samples;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const PLENTY: Duration = Duration::from_secs(30);

fn config(workers: usize, slots: usize) -> PoolConfig {
    PoolConfig { workers, slots, streams: None, patience: 1000, hang: HANG }
}

fn scripted(script: ScriptConfig, config: PoolConfig) -> (Pool, Workers) {
    Pool::start(Arc::new(Script::new(script)), config).expect("the script always loads")
}

/// One second of audio that begins at `offset`.
fn request(offset: u64) -> Request {
    Request {
        pcm: vec![0.5; 16_000].into(),
        offset: Samples(offset),
        effort: Effort::Live,
        language: None,
        prior: None,
        options: Arc::new(DecodeOptions::default()),
    }
}

fn wait_for(
    ticket: impl Future<Output = Result<Recognition, EngineError>> + Unpin,
) -> Result<Recognition, EngineError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(PLENTY, ticket).await.expect("every ticket is answered") })
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PLENTY, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// An engine made of two closures: one that may keep the n-th recogniser from being made, one that decodes.
struct Fake<M, H> {
    traits: EngineTraits,
    made: AtomicU64,
    make: M,
    hear: Arc<H>,
}

impl<M, H> Fake<M, H>
where
    M: Fn(u64) -> Result<(), EngineError> + Send + Sync + 'static,
    H: Fn(&Request, &Abort) -> Result<(), EngineError> + Send + Sync + 'static,
{
    fn new(make: M, hear: H) -> Arc<Self> {
        Self::named("script", make, hear)
    }

    fn named(name: &str, make: M, hear: H) -> Arc<Self> {
        let traits = Script::new(ScriptConfig::default()).traits().clone();
        let traits = EngineTraits { name: name.to_owned(), ..traits };
        Arc::new(Self { traits, made: AtomicU64::new(0), make, hear: Arc::new(hear) })
    }
}

impl<M, H> Engine for Fake<M, H>
where
    M: Fn(u64) -> Result<(), EngineError> + Send + Sync + 'static,
    H: Fn(&Request, &Abort) -> Result<(), EngineError> + Send + Sync + 'static,
{
    fn traits(&self) -> &EngineTraits {
        &self.traits
    }

    fn recognizer(&self) -> Result<Box<dyn Recognizer>, EngineError> {
        (self.make)(self.made.fetch_add(1, Ordering::SeqCst))?;
        Ok(Box::new(FakeRecognizer(Arc::clone(&self.hear))))
    }
}

struct FakeRecognizer<H>(Arc<H>);

impl<H: Fn(&Request, &Abort) -> Result<(), EngineError> + Send + Sync> Recognizer for FakeRecognizer<H> {
    fn recognize(&mut self, request: &Request, abort: &Abort) -> Result<Recognition, EngineError> {
        (self.0)(request, abort).map(|()| Recognition::default())
    }
}

/// A pool with one worker that decodes nothing before the gate is opened, and notes what it decoded.
struct Gated {
    pool: Pool,
    open: Arc<AtomicBool>,
    heard: Arc<Mutex<Vec<u64>>>,
    _workers: Workers,
}

impl Gated {
    fn start(config: PoolConfig) -> Self {
        let (open, heard) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (gate, log) = (Arc::clone(&open), Arc::clone(&heard));
        let hear = move |request: &Request, abort: &Abort| {
            while !gate.load(Ordering::SeqCst) {
                if abort.is_set() {
                    return Err(EngineError::Aborted);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            log.lock().expect("nothing panics here").push(request.offset.0);
            Ok(())
        };
        let (pool, workers) = Pool::start(Fake::new(|_| Ok(()), hear), config).expect("it starts");
        Self { pool, open, heard, _workers: workers }
    }

    /// Submits one window that keeps the worker busy, then the others, then opens the gate: gives the order.
    fn order(&self, lanes: &[Lane]) -> Vec<u64> {
        let slot = self.pool.admit().expect("a free slot");
        let first = slot.submit(Lane::Final, request(99));
        wait_until("the worker is busy", || self.pool.load().busy == 1);
        let tickets: Vec<_> =
            lanes.iter().enumerate().map(|(n, lane)| slot.submit(*lane, request(n as u64))).collect();
        self.open.store(true, Ordering::SeqCst);
        for ticket in std::iter::once(first).chain(tickets) {
            wait_for(ticket).expect("it is heard");
        }
        self.heard.lock().expect("nothing panics here").clone()
    }
}

#[test]
fn lanes_are_served_in_order_and_each_lane_first_come_first_served() {
    use Lane::{Batch, Final, Partial};
    let gated = Gated::start(config(1, 1));
    assert_eq!(gated.order(&[Batch, Partial, Final, Batch, Partial, Final]), [99, 2, 5, 1, 4, 0, 3]);
}

#[test]
fn batch_work_is_passed_over_only_so_often() {
    use Lane::{Batch, Final, Partial};
    let gated = Gated::start(PoolConfig { patience: 2, ..config(1, 1) });
    let lanes = [Batch, Batch, Batch, Final, Final, Final, Partial, Partial];
    assert_eq!(gated.order(&lanes), [99, 3, 4, 0, 5, 6, 1, 7, 2]);
}

#[test]
fn a_full_house_is_refused_at_once_until_a_slot_is_given_back() {
    let gated = Gated::start(config(1, 2));
    let (first, second) = (gated.pool.admit().expect("free"), gated.pool.admit().expect("free"));
    let refused = gated.pool.admit().err().expect("both are taken");
    assert_eq!(refused, Overloaded { slots: 2, retry_after: 1 });
    drop(first);
    let first = gated.pool.admit().expect("one was given back");
    let mut tickets: Vec<_> = (0..4).map(|n| first.submit(Lane::Batch, request(n))).collect();
    wait_until("the worker is busy", || gated.pool.load().busy == 1);
    assert_eq!(gated.pool.load().waiting, [0, 0, 3]);
    assert_eq!(gated.pool.admit().err().expect("taken again").retry_after, 4);

    // The queue is bounded by the slots, therefore unanswered tickets count as their slot.
    drop((first, second));
    assert_eq!(gated.pool.load().slots_free, 1);
    gated.open.store(true, Ordering::SeqCst);
    for ticket in &mut tickets {
        wait_for(ticket).expect("it is heard");
    }
    assert_eq!(gated.pool.load().slots_free, 2);
}

#[test]
fn a_dropped_ticket_leaves_the_queue_and_frees_its_audio() {
    let gated = Gated::start(config(1, 1));
    let slot = gated.pool.admit().expect("free");
    let first = slot.submit(Lane::Final, request(0));
    wait_until("the worker is busy", || gated.pool.load().busy == 1);
    let waiting: Vec<_> = (1..6).map(request).collect();
    let mut tickets: Vec<_> = waiting.iter().map(|one| slot.submit(Lane::Final, one.clone())).collect();
    drop(tickets.remove(2));
    assert_eq!(gated.pool.load().waiting, [4, 0, 0]);
    assert_eq!(waiting.iter().map(|one| Arc::strong_count(&one.pcm)).collect::<Vec<_>>(), [2, 2, 1, 2, 2]);
    gated.open.store(true, Ordering::SeqCst);
    for ticket in std::iter::once(first).chain(tickets) {
        wait_for(ticket).expect("it is heard");
    }
    assert!(waiting.iter().all(|one| Arc::strong_count(&one.pcm) == 1));
    assert_eq!(*gated.heard.lock().expect("nothing panics here"), [0, 1, 2, 4, 5]);
    let load = gated.pool.load();
    assert_eq!((load.recognised, load.withdrawn, load.audio_seconds), (5, 1, 5.0));
}

/// Runs on the worker, in the moment in which it answers.
struct Witness {
    pool: Pool,
    pcm: Arc<[f32]>,
    seen: Mutex<Option<(usize, u64, usize)>>,
}

impl std::task::Wake for Witness {
    fn wake(self: Arc<Self>) {
        let load = self.pool.load();
        let seen = (Arc::strong_count(&self.pcm), load.recognised, load.busy);
        *self.seen.lock().expect("nothing panics here") = Some(seen);
    }
}

#[test]
fn an_answer_comes_after_its_audio_is_freed_and_its_cost_is_booked() {
    let gated = Gated::start(config(1, 1));
    let request = request(0);
    let (pool, pcm) = (gated.pool.clone(), Arc::clone(&request.pcm));
    let witness = Arc::new(Witness { pool, pcm, seen: Mutex::new(None) });
    let mut ticket = gated.pool.admit().expect("free").submit(Lane::Final, request);
    let waker = Arc::clone(&witness).into();
    assert!(Pin::new(&mut ticket).poll(&mut Context::from_waker(&waker)).is_pending());
    gated.open.store(true, Ordering::SeqCst);
    let seen = || *witness.seen.lock().expect("nothing panics here");
    wait_until("the ticket is answered", || seen().is_some());
    assert_eq!(seen(), Some((1, 1, 0)));
}

#[test]
fn a_dropped_ticket_stops_what_runs() {
    let script = ScriptConfig { delay: Duration::from_secs(60), ..ScriptConfig::default() };
    let (pool, _workers) = scripted(script, config(1, 1));
    let slot = pool.admit().expect("free");
    let ticket = slot.submit(Lane::Final, request(0));
    wait_until("the worker is busy", || pool.load().busy == 1);
    let start = Instant::now();
    drop((slot, ticket));
    drop(pool.admit().expect("the slot is free although the decoder has not noticed yet"));
    wait_until("the worker is idle", || pool.load().busy == 0);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(pool.load().withdrawn, 1);
}

#[test]
fn a_crash_costs_one_answer() {
    let script = ScriptConfig { panic_every: Some(2), ..ScriptConfig::default() };
    let (pool, _workers) = scripted(script, config(1, 1));
    let slot = pool.admit().expect("free");
    let answers = [0, 1, 2, 3].map(|n| wait_for(slot.submit(Lane::Final, request(n))));
    assert!(answers[0].is_ok() && answers[2].is_ok(), "{answers:?}");
    assert!([1, 3].iter().all(|n| answers[*n] == Err(EngineError::Crashed)), "{answers:?}");
    assert_eq!((pool.load().recognised, pool.load().failed), (2, 2));
}

#[test]
fn a_worker_without_recogniser_tries_again_with_every_window() {
    let make = |attempt| match attempt {
        1 => panic!("a crash while a recogniser is made"),
        2 => Err(EngineError::Load("no memory".to_owned())),
        _ => Ok(()),
    };
    let hear = |request: &Request, _: &Abort| {
        assert_ne!(request.offset.0, 0, "a crash while a window is decoded");
        Ok(())
    };
    let engine = Fake::new(make, hear);
    let (pool, _workers) = Pool::start(engine, config(1, 1)).expect("it starts");
    let slot = pool.admit().expect("free");
    let answers = [0, 1, 2].map(|n| wait_for(slot.submit(Lane::Final, request(n))));
    let failed = EngineError::Failed("no memory".to_owned());
    assert_eq!(answers, [Err(EngineError::Crashed), Err(failed), Ok(Recognition::default())]);
}

#[test]
fn a_pool_that_cannot_make_its_recognisers_does_not_start() {
    let refuse = |attempt| match attempt {
        2 => Err(EngineError::Load("no memory".to_owned())),
        _ => Ok(()),
    };
    let engine = Fake::new(refuse, |_, _| Ok(()));
    let failure = Pool::start(Arc::clone(&engine) as Arc<dyn Engine>, config(4, 1)).err();
    assert_eq!(failure, Some(EngineError::Load("no memory".to_owned())));
    // All threads were joined, and nothing of the pool is left.
    assert_eq!(Arc::strong_count(&engine), 1);
}

#[test]
fn draining_finishes_what_is_queued_and_refuses_what_comes() {
    let script = ScriptConfig { delay: Duration::from_millis(20), ..ScriptConfig::default() };
    let (pool, workers) = scripted(script, config(2, 1));
    let slot = pool.admit().expect("free");
    // Finals first, because they would stop partials.
    let tickets: Vec<_> = (0..8).map(|n| slot.submit(Lane::ALL[n / 3], request(n as u64))).collect();
    assert!(workers.drain(PLENTY));
    assert_eq!(wait_for(slot.submit(Lane::Final, request(0))), Err(EngineError::Closed));
    assert_eq!(pool.load().recognised, 8);
    tickets.into_iter().for_each(|ticket| assert!(wait_for(ticket).is_ok()));
}

#[test]
fn workers_whose_grace_is_over_or_that_are_dropped_abort_and_end() {
    let script = ScriptConfig { delay: Duration::from_secs(60), ..ScriptConfig::default() };
    let ends: [fn(Workers); 2] = [|workers| assert!(!workers.drain(Duration::from_millis(50))), drop];
    for end in ends {
        let (pool, workers) = scripted(script, config(1, 1));
        let slot = pool.admit().expect("free");
        let (running, waiting) = (slot.submit(Lane::Final, request(0)), slot.submit(Lane::Final, request(1)));
        wait_until("the worker is busy", || pool.load().busy == 1);
        let start = Instant::now();
        end(workers);
        assert!(start.elapsed() < PLENTY, "{:?}", start.elapsed());
        assert_eq!(wait_for(running), Err(EngineError::Aborted));
        assert_eq!(wait_for(waiting), Err(EngineError::Closed));
    }
}

#[test]
fn every_ticket_has_exactly_one_answer() {
    let script =
        ScriptConfig { fail_every: Some(7), panic_every: Some(31), delay: Duration::from_micros(300) };
    let (pool, workers) = scripted(script, config(3, 8));
    let outcomes: Vec<[u64; 4]> = std::thread::scope(|scope| {
        let hammer = |thread: u64| {
            let slot = pool.admit().expect("a slot per thread");
            let mut counts = [0; 4];
            for round in 0..60 {
                let lane = Lane::ALL[((thread + round) % 3) as usize];
                let request = request(round);
                let [kept, dropped] = [(); 2].map(|()| slot.submit(lane, request.clone()));
                if round % 2 == thread % 2 {
                    std::thread::sleep(Duration::from_micros(round * 17));
                }
                drop(dropped);
                let kind = match wait_for(kept) {
                    Ok(_) => 0,
                    Err(EngineError::Failed(_)) => 1,
                    Err(EngineError::Crashed) => 2,
                    Err(EngineError::Aborted) if lane == Lane::Partial => 3,
                    Err(error) => panic!("{error}"),
                };
                counts[kind] += 1;
            }
            counts
        };
        let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || hammer(n))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no thread fails")).collect()
    });
    let total = |kind: usize| outcomes.iter().map(|counts| counts[kind]).sum::<u64>();
    assert_eq!((0..4).map(total).sum::<u64>(), 8 * 60);
    assert!(total(0) > 0 && total(1) > 0 && total(2) > 0, "{outcomes:?}");
    assert!(workers.drain(PLENTY));
    let load = pool.load();
    assert_eq!((load.busy, load.waiting, load.slots_free), (0, [0; 3], 8));
    // Of a partial that was stopped for a final and then dropped, the first is what counts.
    assert!(load.preempted >= total(3), "{load:?} {outcomes:?}");
    assert_eq!(load.recognised + load.failed + load.withdrawn + load.preempted, 2 * 8 * 60);
}
