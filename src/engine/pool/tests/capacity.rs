//! How many streams there may be: calibration, and the cost of real windows.

use super::*;

#[test]
fn before_anything_is_measured_there_may_be_as_many_streams_as_workers() {
    let (pool, _workers) = scripted(ScriptConfig::default(), config(3, 1));
    assert_eq!((pool.capacity(), pool.load().cost_full), (3, None));
    let streams: Vec<_> = (0..3).map(|_| pool.admit_stream().expect("free")).collect();
    assert_eq!(pool.admit_stream().err().expect("taken").slots, 3);
    drop(streams);
}

#[test]
fn calibration_measures_both_efforts_and_is_nobodys_window() {
    let script = ScriptConfig { delay: Duration::from_millis(40), ..ScriptConfig::default() };
    let (pool, workers) = scripted(script, config(2, 1));
    pool.calibrate(vec![0.5; 5 * 16_000].into()).expect("the script never fails");
    let load = pool.load();
    let (full, draft) = (load.cost_full.expect("measured"), load.cost_draft.expect("measured"));
    assert!((0.04..0.4).contains(&full) && (0.02..full).contains(&draft), "{full} {draft}");
    assert!((3..=31).contains(&pool.capacity()), "{}", pool.capacity());
    assert_eq!((load.recognised, load.audio_seconds, load.busy), (0, 0.0, 0));
    assert!(workers.drain(PLENTY));
    assert_eq!(pool.calibrate(vec![0.5; 16_000].into()), Err(EngineError::Closed));
}

#[test]
fn calibration_keeps_every_worker_busy_at_once() {
    const WORKERS: usize = 3;
    let (inside, met) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (entered, meetings) = (Arc::clone(&inside), Arc::clone(&met));
    // Every one waits for the others of its round, so that a worker that took two would wait for itself.
    let hear = move |_: &Request, _: &Abort| {
        let number = entered.fetch_add(1, Ordering::SeqCst);
        let round_is_full = (number / WORKERS as u64 + 1) * WORKERS as u64;
        let start = Instant::now();
        while entered.load(Ordering::SeqCst) < round_is_full {
            if start.elapsed() > PLENTY {
                return Err(EngineError::Failed("alone".to_owned()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        meetings.fetch_add(1, Ordering::SeqCst);
        Ok(())
    };
    let (pool, _workers) = Pool::start(Fake::new(|_| Ok(()), hear), config(WORKERS, 1)).expect("it starts");
    assert_eq!(pool.calibrate(vec![0.5; 3 * 16_000].into()), Ok(()));
    // Warm-up, full effort, draft.
    assert_eq!(met.load(Ordering::SeqCst), 9);
}

#[test]
fn a_failed_calibration_says_so_and_leaves_the_neutral_capacity() {
    let script = ScriptConfig { fail_every: Some(1), ..ScriptConfig::default() };
    let (pool, _workers) = scripted(script, config(2, 1));
    assert!(matches!(pool.calibrate(vec![0.5; 48_000].into()), Err(EngineError::Failed(_))));
    assert_eq!((pool.capacity(), pool.load().failed), (2, 0));
}

#[test]
fn a_calibration_that_waits_for_its_turn_ends_with_the_workers() {
    let script = ScriptConfig { delay: Duration::from_secs(60), ..ScriptConfig::default() };
    let (pool, workers) = scripted(script, config(1, 1));
    let ticket = pool.admit().expect("free").submit(Lane::Final, request(0));
    wait_until("the worker is busy", || pool.load().busy == 1);
    let calibration = {
        let pool = pool.clone();
        std::thread::spawn(move || pool.calibrate(vec![0.5; 48_000].into()))
    };
    wait_until("the calibration waits", || pool.shared().state().own[0].len() == 1);
    let start = Instant::now();
    drop(workers);
    assert_eq!(calibration.join().expect("it does not fail"), Err(EngineError::Closed));
    assert!(start.elapsed() < PLENTY, "{:?}", start.elapsed());
    assert_eq!(wait_for(ticket), Err(EngineError::Aborted));
    assert_eq!((pool.load().withdrawn, pool.capacity()), (1, 1));
}

#[test]
fn an_engine_without_cost_is_promised_to_ten_thousand_streams_and_the_operator_has_the_last_word() {
    for (most, expected) in [(None, 10_000), (Some(7), 7), (Some(20_000), 20_000)] {
        let engine = Fake::new(|_| Ok(()), |_, _| Ok(()));
        let (pool, _workers) =
            Pool::start(engine, PoolConfig { streams: most, ..config(2, 1) }).expect("it starts");
        pool.calibrate(vec![0.5; 30 * 16_000].into()).expect("nothing fails");
        assert_eq!(pool.capacity(), expected);
    }
}

#[test]
fn capacity_follows_the_cost_of_real_windows() {
    // Milliseconds for a window, whatever its length.
    let cost = Arc::new(AtomicU64::new(0));
    let price = Arc::clone(&cost);
    let hear = move |_: &Request, abort: &Abort| {
        std::thread::sleep(Duration::from_millis(price.load(Ordering::SeqCst)));
        if abort.is_set() { Err(EngineError::Aborted) } else { Ok(()) }
    };
    let (pool, _workers) = Pool::start(Fake::new(|_| Ok(()), hear), config(1, 1)).expect("it starts");
    let slot = pool.admit().expect("free");
    let pcm: Arc<[f32]> = vec![0.5; 30 * 16_000].into();
    let long = || Request { pcm: Arc::clone(&pcm), ..request(0) };
    pool.calibrate(Arc::clone(&pcm)).expect("nothing fails");
    let at_first = pool.capacity();
    assert!(at_first > 100, "{at_first}");

    // None of these tells anything: too short, withdrawn, another effort.
    cost.store(30, Ordering::SeqCst);
    for _ in 0..3 {
        wait_for(slot.submit(Lane::Final, request(0))).expect("it is heard");
        drop(slot.submit(Lane::Batch, long()));
        let draft = Request { effort: Effort::Draft, ..long() };
        wait_for(slot.submit(Lane::Partial, draft)).expect("it is heard");
    }
    let ticket = slot.submit(Lane::Final, long());
    wait_until("the worker is busy", || pool.load().busy == 1);
    drop(ticket);
    wait_until("the worker is idle", || pool.load().busy == 0);
    assert_eq!(pool.capacity(), at_first);
    assert!(pool.load().cost_draft.expect("measured") > 0.0005);

    // 30 s of audio for 60 ms: 0.002, and more on a busy machine.
    cost.store(60, Ordering::SeqCst);
    for lane in [Lane::Final, Lane::Batch].into_iter().cycle().take(30) {
        wait_for(slot.submit(lane, long())).expect("it is heard");
    }
    assert!((1..=500).contains(&pool.capacity()), "{}", pool.capacity());
    cost.store(0, Ordering::SeqCst);
    for _ in 0..120 {
        wait_for(slot.submit(Lane::Final, long())).expect("it is heard");
    }
    assert!(pool.capacity() > 1000, "{}", pool.capacity());
}
