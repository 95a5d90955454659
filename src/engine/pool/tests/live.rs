//! Live streams beside files: admission, room for finals, refreshed windows, strain.

use super::*;
use std::collections::HashSet;

/// Windows from this offset on do not notice that they shall stop.
const DEAF: u64 = 1000;

/// A pool in which each window is decoded until its offset is released or it is told to stop.
struct Stage {
    pool: Pool,
    released: Arc<Mutex<HashSet<u64>>>,
    begun: Arc<Mutex<Vec<u64>>>,
    _workers: Workers,
}

impl Stage {
    fn start(config: PoolConfig) -> Self {
        let (released, begun) = (Arc::new(Mutex::new(HashSet::new())), Arc::new(Mutex::new(Vec::new())));
        let (free, log) = (Arc::clone(&released), Arc::clone(&begun));
        let hear = move |request: &Request, abort: &Abort| {
            let offset = request.offset.0;
            log.lock().expect("nothing panics here").push(offset);
            while !free.lock().expect("nothing panics here").contains(&offset) {
                if abort.is_set() && offset < DEAF {
                    return Err(EngineError::Aborted);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        };
        let (pool, workers) = Pool::start(Fake::new(|_| Ok(()), hear), config).expect("it starts");
        Self { pool, released, begun, _workers: workers }
    }

    fn release(&self, offsets: impl IntoIterator<Item = u64>) {
        self.released.lock().expect("nothing panics here").extend(offsets);
    }

    fn begun(&self) -> Vec<u64> {
        self.begun.lock().expect("nothing panics here").clone()
    }

    /// Submits and waits until it is being decoded.
    fn run(&self, slot: &Slot, lane: Lane, offset: u64) -> Ticket {
        let ticket = slot.submit(lane, request(offset));
        wait_until("the window has begun", || self.begun().contains(&offset));
        ticket
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.release(0..2 * DEAF);
    }
}

/// What should not happen is given this long to happen.
fn a_moment() {
    std::thread::sleep(Duration::from_millis(50));
}

fn streams(config: PoolConfig, most: usize) -> PoolConfig {
    PoolConfig { streams: Some(most), ..config }
}

fn all_heard(tickets: impl IntoIterator<Item = Ticket>) {
    tickets.into_iter().for_each(|ticket| assert!(wait_for(ticket).is_ok()));
}

fn aborted(ticket: Ticket) -> bool {
    wait_for(ticket) == Err(EngineError::Aborted)
}

#[test]
fn streams_and_uploads_do_not_take_each_others_places() {
    let stage = Stage::start(streams(config(1, 1), 2));
    let upload = stage.pool.admit().expect("free");
    let (first, second) =
        (stage.pool.admit_stream().expect("free"), stage.pool.admit_stream().expect("free"));
    assert!(stage.pool.admit().is_err());
    let refused = stage.pool.admit_stream().err().expect("both are taken");
    assert_eq!(refused, Overloaded { slots: 2, retry_after: 30 });
    let load = stage.pool.load();
    assert_eq!((load.streams, load.streams_max, load.slots, load.slots_free), (2, 2, 1, 0));

    // An unanswered ticket holds the place of its stream.
    let mut ticket = stage.run(&first, Lane::Final, 0);
    drop((first, upload));
    assert!(stage.pool.admit_stream().is_err());
    stage.release([0]);
    wait_for(&mut ticket).expect("it is heard");
    let third = stage.pool.admit_stream().expect("one was given back");
    let soon = stage.pool.admit_stream().err().expect("taken again").retry_after;
    assert!((2..=30).contains(&soon), "{soon}");
    drop((second, third));
    let load = stage.pool.load();
    assert_eq!((load.streams, load.slots_free), (0, 1));
}

#[test]
fn a_final_stops_the_partial_that_began_last_and_takes_its_worker() {
    let stage = Stage::start(config(2, 1));
    let slot = stage.pool.admit_stream().expect("free");
    let first = stage.run(&slot, Lane::Partial, 1);
    let last = stage.run(&slot, Lane::Partial, 2);
    let urgent = stage.run(&slot, Lane::Final, 3);
    assert!(aborted(last));
    assert_eq!((stage.pool.load().busy, stage.pool.load().preempted), (2, 1));
    stage.release([1, 3]);
    all_heard([urgent, first]);
    let load = stage.pool.load();
    assert_eq!((load.recognised, load.withdrawn, load.preempted), (2, 0, 1));
}

#[test]
fn no_more_partials_are_stopped_than_finals_need() {
    let stage = Stage::start(config(3, 1));
    let slot = stage.pool.admit_stream().expect("free");
    let [a, b] = [1, 2].map(|n| stage.run(&slot, Lane::Partial, n));
    // A worker is idle.
    let idle = stage.run(&slot, Lane::Final, 3);
    a_moment();
    assert_eq!(stage.pool.load().preempted, 0);
    stage.release([3]);
    wait_for(idle).expect("it is heard");

    // One that stops anyway makes room enough, though it takes its time.
    let deaf = stage.run(&slot, Lane::Partial, DEAF);
    drop(deaf);
    let urgent = slot.submit(Lane::Final, request(4));
    a_moment();
    assert_eq!((stage.pool.load().waiting, stage.pool.load().preempted), ([1, 0, 0], 0));
    // A second final needs a second place, a third one a third, and then there is nothing left to stop.
    let more = [5, 6, 7].map(|n| slot.submit(Lane::Final, request(n)));
    assert!(aborted(b) && aborted(a));
    stage.release([4, 5, 6, 7, DEAF]);
    all_heard([urgent].into_iter().chain(more));
    wait_until("the deaf one has finished", || stage.pool.load().busy == 0);
    let load = stage.pool.load();
    // It did so before it noticed.
    assert_eq!((load.preempted, load.recognised, load.withdrawn), (2, 6, 0));
}

#[test]
fn a_partial_that_does_not_stop_is_not_stopped_twice_and_its_answer_counts() {
    let stage = Stage::start(config(1, 1));
    let slot = stage.pool.admit_stream().expect("free");
    let deaf = stage.run(&slot, Lane::Partial, DEAF);
    let urgent = [1, 2].map(|n| slot.submit(Lane::Final, request(n)));
    stage.release([1, 2, DEAF]);
    wait_for(deaf).expect("it finished all the same");
    all_heard(urgent);
    assert_eq!((stage.pool.load().preempted, stage.pool.load().recognised), (0, 3));
}

#[test]
fn only_finals_stop_partials_and_only_partials_are_stopped() {
    let stage = Stage::start(config(2, 1));
    let slot = stage.pool.admit().expect("free");
    let (final_one, batch) = (stage.run(&slot, Lane::Final, 1), stage.run(&slot, Lane::Batch, 2));
    let waiting = slot.submit(Lane::Final, request(3));
    a_moment();
    assert_eq!((stage.begun(), stage.pool.load().waiting), (vec![1, 2], [1, 0, 0]));
    stage.release([1, 2, 3]);
    all_heard([final_one, batch, waiting]);

    let partials = [4, 5].map(|n| stage.run(&slot, Lane::Partial, n));
    let others = [Lane::Batch, Lane::Partial].map(|lane| slot.submit(lane, request(6)));
    a_moment();
    assert_eq!(stage.pool.load().waiting, [0, 1, 1]);
    stage.release([4, 5, 6]);
    all_heard(partials.into_iter().chain(others));
    assert_eq!(stage.pool.load().preempted, 0);
}

#[test]
fn the_place_a_partial_gave_up_is_the_finals_even_if_it_is_the_turn_of_the_batch_lane() {
    let stage = Stage::start(PoolConfig { patience: 1, ..config(1, 1) });
    let slot = stage.pool.admit_stream().expect("free");
    let first = stage.run(&slot, Lane::Final, 1);
    let partial = slot.submit(Lane::Partial, request(2));
    let batch = slot.submit(Lane::Batch, request(3));
    stage.release([1, 3, 4, 5]);
    wait_for(first).expect("it is heard");
    // The partial has used up the patience of the batch lane.
    wait_until("the partial has begun", || stage.begun().contains(&2));
    let urgent = [4, 5].map(|n| slot.submit(Lane::Final, request(n)));
    assert!(aborted(partial));
    all_heard(urgent.into_iter().chain([batch]));
    assert_eq!(stage.begun(), [1, 2, 4, 3, 5]);
}

#[test]
fn a_final_whose_place_went_to_the_batch_lane_gets_another_one() {
    let stage = Stage::start(PoolConfig { patience: 1, ..config(2, 1) });
    let slot = stage.pool.admit_stream().expect("free");
    let deaf = stage.run(&slot, Lane::Partial, DEAF);
    let first = stage.run(&slot, Lane::Final, 1);
    let partial = slot.submit(Lane::Partial, request(2));
    let batch = slot.submit(Lane::Batch, request(3));
    stage.release([1]);
    wait_until("the partial has begun", || stage.begun().contains(&2));
    // The final counts on the place of the one that was withdrawn, but the turn is another's.
    drop(deaf);
    let urgent = slot.submit(Lane::Final, request(4));
    a_moment();
    assert_eq!(stage.pool.load().waiting, [1, 0, 1]);
    stage.release([DEAF]);
    assert!(aborted(partial));
    stage.release([3, 4]);
    all_heard([first, urgent, batch]);
    assert_eq!(stage.begun(), [DEAF, 1, 2, 3, 4]);
}

#[test]
fn files_leave_one_worker_to_live_streams() {
    let stage = Stage::start(config(3, 1));
    let (file, live) = (stage.pool.admit().expect("free"), stage.pool.admit_stream().expect("free"));
    let mut batch: Vec<_> = (0..5).map(|n| file.submit(Lane::Batch, request(n))).collect();
    wait_until("two workers are busy", || stage.pool.load().busy == 2);
    a_moment();
    assert_eq!((stage.pool.load().busy, stage.pool.load().waiting), (2, [0, 0, 3]));
    let urgent = stage.run(&live, Lane::Final, 9);
    stage.release([9]);
    wait_for(urgent).expect("it is heard");
    a_moment();
    assert_eq!((stage.pool.load().busy, stage.pool.load().waiting), (2, [0, 0, 3]));

    // The next is begun when one ends, and all workers are used once the stream has gone.
    stage.release([0]);
    wait_for(batch.remove(0)).expect("it is heard");
    wait_until("the next has begun", || stage.pool.load().waiting == [0, 0, 2]);
    drop(live);
    wait_until("all workers are busy", || stage.pool.load().busy == 3);
    assert_eq!(stage.pool.load().waiting, [0, 0, 1]);
    stage.release(0..5);
    all_heard(batch);
}

#[test]
fn a_single_worker_and_a_closing_pool_keep_nothing_free() {
    let stage = Stage::start(config(1, 1));
    let (file, _live) = (stage.pool.admit().expect("free"), stage.pool.admit_stream().expect("free"));
    let ticket = stage.run(&file, Lane::Batch, 1);
    stage.release([1]);
    wait_for(ticket).expect("it is heard");

    let script = ScriptConfig { delay: Duration::from_millis(200), ..ScriptConfig::default() };
    let (pool, workers) = scripted(script, config(2, 1));
    let (file, _live) = (pool.admit().expect("free"), pool.admit_stream().expect("free"));
    let tickets: Vec<_> = (0..4).map(|n| file.submit(Lane::Batch, request(n))).collect();
    let drain = std::thread::spawn(|| workers.drain(PLENTY));
    wait_until("both workers are busy", || pool.load().busy == 2);
    assert!(drain.join().expect("it does not fail"));
    all_heard(tickets);
}

/// The worker that ended one file's window crashed and is busy with itself; the other one sleeps.
#[test]
fn a_place_that_a_crash_freed_is_taken_by_whoever_sleeps() {
    let mended = Arc::new(AtomicBool::new(false));
    let gate = Arc::clone(&mended);
    let make = move |attempt| {
        let start = Instant::now();
        while attempt >= 2 && !gate.load(Ordering::SeqCst) && start.elapsed() < PLENTY {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    };
    let go = Arc::new(AtomicBool::new(false));
    let signal = Arc::clone(&go);
    let hear = move |request: &Request, _: &Abort| {
        while !signal.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_ne!(request.offset.0, 0, "a crash");
        Ok(())
    };
    let (pool, _workers) = Pool::start(Fake::new(make, hear), config(2, 1)).expect("it starts");
    let (file, _live) = (pool.admit().expect("free"), pool.admit_stream().expect("free"));
    let crashing = file.submit(Lane::Batch, request(0));
    wait_until("a worker is busy", || pool.load().busy == 1);
    let next = file.submit(Lane::Batch, request(1));
    a_moment();
    assert_eq!(pool.load().waiting, [0, 0, 1]);
    go.store(true, Ordering::SeqCst);
    let start = Instant::now();
    assert_eq!(wait_for(crashing), Err(EngineError::Crashed));
    assert!(wait_for(next).is_ok());
    // The other one would have come back after much longer.
    assert!(start.elapsed() < PLENTY / 2, "{:?}", start.elapsed());
    mended.store(true, Ordering::SeqCst);
}

#[test]
fn files_are_not_starved_by_finals_without_end() {
    for workers in [1, 2] {
        let script = ScriptConfig { delay: Duration::from_millis(2), ..ScriptConfig::default() };
        let (pool, _workers) = scripted(script, PoolConfig { patience: 4, ..config(workers, 1) });
        let (file, live) = (pool.admit().expect("free"), pool.admit_stream().expect("free"));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut finals = std::collections::VecDeque::new();
                for n in 0.. {
                    if done.load(Ordering::SeqCst) {
                        break;
                    }
                    finals.push_back(live.submit(Lane::ALL[n % 2], request(n as u64)));
                    if finals.len() > 8 {
                        // Some of the partials are stopped.
                        let _ = wait_for(finals.pop_front().expect("there are eight"));
                    }
                }
            });
            for n in 0..20 {
                let heard = wait_for(file.submit(Lane::Batch, request(n)));
                // The other thread must end whatever happens here.
                if heard.is_err() || n == 19 {
                    done.store(true, Ordering::SeqCst);
                    heard.expect("it is heard");
                    break;
                }
            }
        });
    }
}

#[test]
fn a_refreshed_window_keeps_its_place_and_one_that_has_begun_is_left_alone() {
    let stage = Stage::start(config(1, 1));
    let slot = stage.pool.admit_stream().expect("free");
    let mut running = stage.run(&slot, Lane::Partial, 0);
    let (old, new) = (request(1), request(11));
    let mut first = slot.submit(Lane::Partial, old.clone());
    let second = slot.submit(Lane::Partial, request(2));
    assert!(first.refresh(new.clone()));
    assert_eq!((Arc::strong_count(&old.pcm), Arc::strong_count(&new.pcm)), (1, 2));
    assert_eq!(stage.pool.load().waiting, [0, 2, 0]);
    assert!(!running.refresh(new.clone()));
    assert_eq!(Arc::strong_count(&new.pcm), 2);
    stage.release([0, 11, 2]);
    wait_for(&mut running).expect("it is heard");
    assert!(!running.refresh(new));
    all_heard([first, second]);
    assert_eq!(stage.begun(), [0, 11, 2]);
    assert_eq!((stage.pool.load().recognised, stage.pool.load().withdrawn), (3, 0));
}

#[test]
fn strain_rises_with_the_oldest_final_and_falls_when_the_load_goes() {
    let stage = Stage::start(config(1, 1));
    let slot = stage.pool.admit_stream().expect("free");
    let first = stage.run(&slot, Lane::Final, 0);
    assert!(stage.pool.strain() < 0.5, "{}", stage.pool.strain());
    let second = slot.submit(Lane::Final, request(1));
    wait_until("the final has waited long", || stage.pool.strain() > 2.0);
    stage.release([0, 1]);
    all_heard([first, second]);
    let (strain, load) = (stage.pool.strain(), stage.pool.load());
    // One of two finals has waited 0.4 s or more.
    assert!((0.3..10.0).contains(&strain), "{strain}");
    assert!(load.wait_seconds[0] > 0.05 && load.wait_seconds[1..] == [0.0; 2], "{:?}", load.wait_seconds);
    wait_until("the strain has gone down by itself", || stage.pool.strain() < strain / 2.0);
}

#[test]
fn the_first_words_of_an_utterance_go_before_other_partials() {
    let stage = Stage::start(streams(config(1, 1), 1));
    let slot = stage.pool.admit_stream().expect("free");
    let busy = stage.run(&slot, Lane::Final, 1);
    let long = |offset| Request { pcm: vec![0.5; 40_000].into(), ..request(offset) };
    let mut tickets = vec![busy, slot.submit(Lane::Partial, long(2)), slot.submit(Lane::Partial, long(3))];
    tickets.extend([4, 5].map(|offset| slot.submit(Lane::Partial, request(offset))));
    // One that has been waiting keeps its place although it is long by now, and can be found there.
    assert!(tickets[3].refresh(long(4)));
    drop(tickets.remove(2));
    stage.release(1..=5);
    all_heard(tickets);
    assert_eq!(stage.begun(), [1, 4, 5, 2]);
}

#[test]
fn a_guess_does_not_begin_beside_a_final_but_first_words_do() {
    let stage = Stage::start(streams(config(2, 1), 1));
    let slot = stage.pool.admit_stream().expect("free");
    let last = stage.run(&slot, Lane::Final, 1);
    let guess = slot.submit(Lane::Partial, Request { pcm: vec![0.5; 40_000].into(), ..request(2) });
    let first = stage.run(&slot, Lane::Partial, 3);
    stage.release([3]);
    all_heard([first]);
    a_moment();
    assert_eq!(stage.begun(), [1, 3]);
    stage.release([1, 2]);
    all_heard([last, guess]);
}
