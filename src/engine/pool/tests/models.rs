//! Several models on one crew: who answers, what is freed when, and how many streams fit.

use super::*;
use std::sync::Weak;

type Heard = Arc<Mutex<Vec<(&'static str, u64)>>>;

/// An engine that notes what it hears. Where the offset is that of `gate`, it waits until the gate is opened.
fn noting(name: &'static str, heard: &Heard, gate: &Arc<AtomicBool>) -> Arc<dyn Engine> {
    let (heard, gate) = (Arc::clone(heard), Arc::clone(gate));
    let hear = move |request: &Request, _: &Abort| {
        heard.lock().expect("nothing panics here").push((name, request.offset.0));
        while request.offset.0 == GATED && !gate.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    };
    Fake::named(name, |_| Ok(()), hear)
}

const GATED: u64 = 7;

fn two(workers: usize) -> (Pool, Pool, Heard, Arc<AtomicBool>, Workers) {
    let (heard, gate) = (Heard::default(), Arc::new(AtomicBool::new(false)));
    let (crew, threads) = Crew::start(config(workers, 4)).expect("it starts");
    let [a, b] = ["a", "b"].map(|name| crew.open(noting(name, &heard, &gate)).expect("nothing fails"));
    (a, b, heard, gate, threads)
}

#[test]
fn each_window_is_heard_by_its_own_model_on_the_same_threads() {
    let (a, b, heard, _gate, _threads) = two(1);
    assert_eq!((a.traits().name.as_str(), b.traits().name.as_str()), ("a", "b"));
    let slot = a.admit().expect("free");
    let other = slot.with_model(&b);
    for (slot, offset) in [(&slot, 1), (&other, 2), (&slot, 3), (&other, 4)] {
        wait_for(slot.submit(Lane::Batch, request(offset))).expect("it is heard");
    }
    assert_eq!(*heard.lock().expect("nothing panics here"), [("a", 1), ("b", 2), ("a", 3), ("b", 4)]);
    // It was one right all along, and what was decoded was decoded by one crew.
    assert_eq!((a.load().slots_free, b.load().recognised), (3, 4));
    drop((slot, other));
    assert_eq!(a.load().slots_free, 4);
}

#[test]
fn recognisers_are_made_when_a_model_is_opened_and_kept() {
    let (crew, _threads) = Crew::start(config(3, 1)).expect("it starts");
    let engine = Fake::new(|_| Ok(()), |_, _| Ok(()));
    let pool = crew.open(Arc::clone(&engine) as Arc<dyn Engine>).expect("nothing fails");
    let slot = pool.admit().expect("free");
    for _ in 0..3 {
        let tickets: Vec<_> = (0..9).map(|n| slot.submit(Lane::Final, request(n))).collect();
        tickets.into_iter().for_each(|ticket| assert!(wait_for(ticket).is_ok()));
    }
    assert_eq!(engine.made.load(Ordering::SeqCst), 3);
}

#[test]
fn a_model_that_cannot_be_opened_leaves_nothing_and_disturbs_nobody() {
    let (a, _b, _heard, _gate, _threads) = two(2);
    let make = |attempt| match attempt {
        1 => panic!("a crash while a recogniser is made"),
        _ => Ok(()),
    };
    let broken = Fake::named("broken", make, |_, _| Ok(()));
    let opened = a.crew().open(Arc::clone(&broken) as Arc<dyn Engine>);
    assert_eq!(opened.err(), Some(EngineError::Crashed));
    assert_eq!(Arc::strong_count(&broken), 1);
    assert!(wait_for(a.admit().expect("free").submit(Lane::Final, request(0))).is_ok());
    // The next attempt is another one.
    assert!(a.crew().open(broken).is_ok());
}

#[test]
fn a_model_is_freed_at_once_though_the_threads_are_busy_with_another_one() {
    let (a, b, heard, gate, _threads) = two(1);
    let engine: Weak<dyn Engine> = Arc::downgrade(&b.model.engine);
    let slot = a.admit().expect("free");
    wait_for(slot.with_model(&b).submit(Lane::Batch, request(0))).expect("it is heard");
    let busy = slot.submit(Lane::Batch, request(GATED));
    wait_until("the thread is busy", || heard.lock().expect("nothing panics here").contains(&("a", GATED)));
    // A window that waits holds on to its model, until it is withdrawn.
    let waiting = slot.with_model(&b).submit(Lane::Batch, request(1));
    drop(b);
    assert!(engine.upgrade().is_some());
    drop(waiting);
    assert!(engine.upgrade().is_none());
    gate.store(true, Ordering::SeqCst);
    wait_for(busy).expect("it is heard");
}

#[test]
fn a_model_is_not_freed_under_a_window_that_runs_and_is_when_that_is_answered() {
    let (a, b, heard, gate, _threads) = two(1);
    let engine: Weak<dyn Engine> = Arc::downgrade(&b.model.engine);
    let running = b.admit().expect("free").submit(Lane::Batch, request(GATED));
    wait_until("the thread is busy", || heard.lock().expect("nothing panics here").contains(&("b", GATED)));
    drop(b);
    assert!(engine.upgrade().is_some());
    gate.store(true, Ordering::SeqCst);
    assert!(wait_for(running).is_ok());
    assert!(engine.upgrade().is_none());
    drop(a);
}

#[test]
fn streams_take_what_their_own_model_costs() {
    // So long for each window, whatever its length.
    let priced = |name: &str, millis: u64| -> Arc<dyn Engine> {
        Fake::named(
            name,
            |_| Ok(()),
            move |_, _| {
                std::thread::sleep(Duration::from_millis(millis));
                Ok(())
            },
        )
    };
    let (crew, _threads) = Crew::start(config(1, 1)).expect("it starts");
    let light = crew.open(priced("light", 10)).expect("nothing fails");
    let heavy = crew.open(priced("heavy", 180)).expect("nothing fails");
    assert_eq!((light.capacity(), heavy.capacity()), (1, 1));
    let pcm: Arc<[f32]> = vec![0.5; 5 * 16_000].into();
    let slot = light.admit().expect("free");
    for pool in [&light, &heavy] {
        let long = || Request { pcm: Arc::clone(&pcm), ..request(0) };
        for _ in 0..3 {
            wait_for(slot.with_model(pool).submit(Lane::Batch, long())).expect("it is heard");
        }
    }
    // 5 s of audio for 180 ms or more, beside 10 or more.
    let most = heavy.capacity();
    assert!((1..=20).contains(&most) && light.capacity() > 40, "{most} {}", light.capacity());
    let first = heavy.admit_stream().expect("one there may always be");
    let rest: Vec<_> = std::iter::from_fn(|| heavy.admit_stream().ok()).collect();
    assert_eq!(rest.len() + 1, most);
    // One that goes over to the light model makes room.
    let before = light.capacity();
    let first = {
        let other = first.with_model(&light);
        drop(first);
        other
    };
    assert!(light.capacity() > before, "{before} {}", light.capacity());
    drop((first, rest));
    assert_eq!((heavy.load().streams, heavy.capacity()), (0, most));

    // What it costs is remembered when it is opened again.
    drop(heavy);
    let again = crew.open(priced("heavy", 0)).expect("nothing fails");
    assert_eq!((again.capacity(), crew.open(priced("new", 0)).expect("nothing fails").capacity()), (most, 1));
}
