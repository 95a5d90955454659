//! The shelf with a library of pretended models, whose loads wait at a gate and fail on demand.

use std::sync::Condvar;

use super::*;
use crate::audio::FileOptions;
use crate::engine::Abort;
use crate::engine::pool::{PoolConfig, Workers};
use crate::engine::script::{Script, ScriptConfig};
use crate::session::EndpointConfig;
use crate::vad::VadKind;

const PLENTY: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Fake {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Loads that were begun, in order.
    begun: Vec<String>,
    /// Whether loads wait.
    shut: bool,
    /// How many of the next loads fail.
    failing: usize,
    /// Every engine that was ever made.
    engines: Vec<(String, Weak<dyn Engine>)>,
}

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics here")
    }

    fn open_the_gate(&self) {
        self.state().shut = false;
        self.changed.notify_all();
    }

    fn begun(&self) -> Vec<String> {
        self.state().begun.clone()
    }

    /// The models whose engines exist.
    fn alive(&self) -> Vec<String> {
        let state = self.state();
        let alive = state.engines.iter().filter(|(_, engine)| engine.upgrade().is_some());
        alive.map(|(name, _)| name.clone()).collect()
    }

    fn load(&self, name: &str) -> Result<Arc<dyn Engine>, EngineError> {
        let mut state = self.state();
        state.begun.push(name.to_owned());
        let (mut state, late) =
            self.changed.wait_timeout_while(state, PLENTY, |state| state.shut).expect("nothing panics here");
        assert!(!late.timed_out(), "nobody opened the gate");
        if state.failing > 0 {
            state.failing -= 1;
            return Err(EngineError::Load("no luck".to_owned()));
        }
        let engine: Arc<dyn Engine> = Arc::new(Script::named(name, ScriptConfig::default()));
        state.engines.push((name.to_owned(), Arc::downgrade(&engine)));
        Ok(engine)
    }
}

/// Names are a letter and how many bytes the model takes.
struct Shared(Arc<Fake>);

impl Library for Shared {
    fn default_model(&self) -> &str {
        "a40"
    }

    fn find(&self, asked: &str) -> Option<String> {
        match asked {
            "alias" => Some("a40".to_owned()),
            "unknown" => None,
            name => Some(name.to_owned()),
        }
    }

    fn list(&self) -> Vec<String> {
        ["b30", "c30", "a40"].map(str::to_owned).into()
    }

    fn describe(&self, name: &str) -> Option<EngineTraits> {
        Some(EngineTraits { name: name.to_owned(), ..EngineTraits::default() })
    }

    fn takes_placeholders(&self) -> bool {
        true
    }

    fn is_pinned(&self, name: &str) -> bool {
        name == "a40" || name.starts_with('p')
    }

    fn fetch(&self, name: &str) -> Result<Volume, EngineError> {
        let bytes =
            name[1..].parse().map_err(|_| EngineError::Load("its weight is not in its name".to_owned()))?;
        let (fake, name) = (self.0.clone(), name.to_owned());
        Ok(Volume { bytes, load: Box::new(move || fake.load(&name)) })
    }
}

struct Room {
    shelf: Shelf,
    fake: Arc<Fake>,
    _workers: Workers,
}

fn pipeline() -> PipelineConfig {
    PipelineConfig {
        vad: VadKind::Energy,
        endpoint: EndpointConfig::default(),
        file_window: None,
        file_windows: 2,
        file: FileOptions::default(),
    }
}

fn room(memory: Budget) -> Room {
    let fake = Arc::new(Fake::default());
    let pool =
        PoolConfig { workers: 2, slots: 4, streams: None, patience: 8, hang: crate::engine::pool::HANG };
    let (crew, workers) = Crew::start(pool).expect("threads");
    let config = ShelfConfig { memory, idle: None, speech: None, metrics: Metrics::silent() };
    let shelf = Shelf::new(crew, Arc::new(Shared(fake.clone())), pipeline(), config);
    Room { shelf, fake, _workers: workers }
}

impl Room {
    async fn get(&self, name: &str) -> Transcriber {
        self.shelf.get(name).await.expect("it can be loaded")
    }

    async fn refused(&self, name: &str) -> ShelfError {
        self.shelf.get(name).await.map(drop).expect_err("it cannot be had")
    }

    async fn standing(&self, name: &str) -> Standing {
        self.shelf.look(name).await.expect("the library knows it").standing
    }

    async fn loading(&self, count: usize) {
        let begun = async {
            while self.fake.begun().len() < count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PLENTY, begun).await.expect("the load begins");
    }
}

#[tokio::test]
async fn a_model_is_loaded_when_it_is_first_asked_for_and_once() {
    let room = room(Budget::Firm(100));
    assert_eq!(room.standing("a40").await, Standing::default());
    let first = room.get("alias").await;
    assert_eq!(first.traits().name, "a40");
    let second = room.get("a40").await;
    assert!(first.pool().is_same(second.pool()));
    assert_eq!(room.fake.begun(), ["a40"]);
    let standing = room.standing("alias").await;
    assert_eq!((standing.state, standing.memory, standing.active), (ModelState::Loaded, 40, 2));
    let clone = second.clone();
    drop((first, second));
    assert_eq!(room.shelf.active(), 1, "a clone is the same use");
    drop(clone);
    assert_eq!(room.shelf.active(), 0);
    assert_eq!(room.shelf.memory(), (100, 40));
    let unknown = ShelfError::Unknown { asked: "unknown".to_owned(), default: "a40".to_owned() };
    assert_eq!(room.refused("unknown").await, unknown);
}

#[tokio::test]
async fn everybody_waits_for_one_load_which_goes_on_without_whoever_began_it() {
    let room = room(Budget::Firm(100));
    room.fake.state().shut = true;
    let (shelf, begun) = (room.shelf.clone(), room.loading(1));
    let first = tokio::spawn(async move { shelf.get("a40").await.map(drop) });
    begun.await;
    first.abort();
    assert!(first.await.is_err_and(|error| error.is_cancelled()));
    let standing = room.standing("a40").await;
    assert_eq!((standing.state, standing.memory, standing.active), (ModelState::Loading, 40, 0));
    let others: Vec<_> = (0..20)
        .map(|_| {
            let shelf = room.shelf.clone();
            tokio::spawn(async move { shelf.get("a40").await.map(|found| found.traits().name.clone()) })
        })
        .collect();
    // Another one does not wait for it.
    let unload = room.shelf.unload("a40").await.expect_err("it is on its way");
    assert!(matches!(unload, ShelfError::Loading { .. }), "{unload}");
    room.fake.open_the_gate();
    for other in others {
        assert_eq!(other.await.expect("it does not fail"), Ok("a40".to_owned()));
    }
    assert_eq!((room.fake.begun(), room.shelf.active()), (vec!["a40".to_owned()], 0));
}

#[tokio::test]
async fn a_failure_is_told_to_all_who_wait_and_is_tried_again_later_and_not_at_once() {
    let room = room(Budget::Firm(100));
    room.fake.state().shut = true;
    room.fake.state().failing = 1;
    let waiting: Vec<_> = (0..5)
        .map(|_| {
            let shelf = room.shelf.clone();
            tokio::spawn(async move { shelf.get("b30").await.map(drop) })
        })
        .collect();
    room.loading(1).await;
    room.fake.open_the_gate();
    for refused in waiting {
        let error = refused.await.expect("it does not fail").expect_err("there was no luck");
        assert!(matches!(&error, ShelfError::Failed { why, .. } if why == "no luck"), "{error}");
    }
    let standing = room.standing("b30").await;
    assert_eq!((standing.state, standing.memory), (ModelState::Failed, 0));
    let ShelfError::Failed { retry_after, .. } = room.refused("b30").await else { panic!("it failed") };
    assert!((1..=10).contains(&retry_after), "{retry_after}");
    assert_eq!(room.fake.begun(), ["b30"], "nobody has tried again");
    // The time is over.
    let later = Instant::now() + Duration::from_secs(11);
    let step = room.shelf.0.books().step("b30", later);
    assert!(matches!(step, Step::Load(..)));
    // Weights that are not what they should be are a failure too, before the engine has seen them.
    assert!(matches!(room.refused("heavy").await, ShelfError::Failed { .. }));
}

#[tokio::test]
async fn the_least_recently_used_idle_one_makes_room_and_what_is_in_use_stays() {
    let room = room(Budget::Firm(100));
    let a = room.get("a40").await;
    drop(room.get("b30").await);
    drop(room.get("c30").await);
    drop(room.get("b30").await);
    assert_eq!(room.fake.alive(), ["a40", "b30", "c30"]);
    // The oldest is in use, and of the others c was used before b.
    drop(room.get("d20").await);
    assert_eq!(room.fake.alive(), ["a40", "b30", "d20"]);
    assert_eq!((room.standing("c30").await.state, room.shelf.memory().1), (ModelState::Unloaded, 90));
    // No more go than have to.
    drop(room.get("z25").await);
    assert_eq!(room.fake.alive(), ["a40", "d20", "z25"]);
    // As many as it takes.
    let e = room.get("e60").await;
    assert_eq!((room.fake.alive(), room.shelf.memory().1), (vec!["a40".to_owned(), "e60".to_owned()], 100));
    drop(e);
    drop(room.get("s1").await);
    assert_eq!(room.fake.alive(), ["a40", "s1"]);
    drop(room.get("t50").await);
    // The small one was used before, but would go in vain.
    drop(room.get("s1").await);
    drop(room.get("t50").await);
    drop(room.get("u55").await);
    assert_eq!(room.fake.alive(), ["a40", "s1", "u55"]);
    let e = room.get("e60").await;
    assert_eq!(room.fake.alive(), ["a40", "e60"]);

    // None goes where that would not be enough, and nothing is kept for those who were sent away.
    drop(e);
    let refused = room.refused("f70").await;
    assert_eq!(refused, ShelfError::NoRoom { name: "f70".to_owned(), retry_after: COME_BACK });
    let large = room.refused("g101").await;
    assert!(matches!(large, ShelfError::TooLarge { bytes: 101, limit: 100, .. }), "{large}");
    assert_eq!(room.fake.alive(), ["a40", "e60"]);
    let standing = room.standing("f70").await;
    assert_eq!((standing.state, standing.memory), (ModelState::Unloaded, 0));
    drop(a);
    drop(room.get("f70").await);
    assert_eq!(room.fake.alive(), ["f70"]);
}

#[tokio::test]
async fn a_guessed_budget_binds_requests_and_not_the_operator() {
    let room = room(Budget::Guessed(50));
    drop(room.get("a40").await);
    let pinned = room.get("p60").await;
    assert_eq!((room.fake.alive(), room.shelf.memory()), (vec!["p60".to_owned()], (50, 60)));
    let refused = room.refused("b30").await;
    assert!(matches!(refused, ShelfError::NoRoom { .. }), "{refused}");
    let large = room.refused("b51").await;
    assert!(matches!(large, ShelfError::TooLarge { .. }), "{large}");
    drop(pinned);
    drop(room.get("b30").await);
    assert_eq!(room.fake.alive(), ["b30"]);
}

#[tokio::test]
async fn what_is_in_use_is_not_unloaded_by_hand_and_what_is_not_is_freed() {
    let room = room(Budget::Firm(100));
    assert_eq!(room.shelf.unload("a40").await, Ok(false));
    let transcriber = room.get("a40").await;
    let refused = room.shelf.unload("alias").await;
    assert_eq!(refused, Err(ShelfError::InUse { name: "a40".to_owned(), active: 1 }));
    drop(transcriber);
    assert_eq!(room.shelf.unload("alias").await, Ok(true));
    assert_eq!((room.fake.alive(), room.shelf.memory().1), (vec![], 0));
    assert!(matches!(room.shelf.unload("unknown").await, Err(ShelfError::Unknown { .. })));
    // It comes back when it is asked for, and was used before.
    let standing = room.standing("a40").await;
    assert!(standing.state == ModelState::Unloaded && standing.last_used.is_some());
    drop(room.get("a40").await);
    assert_eq!(room.fake.begun(), ["a40", "a40"]);
}

#[tokio::test]
async fn what_nobody_uses_goes_when_its_time_is_over() {
    let idle = Duration::from_secs(60);
    let room = room(Budget::Firm(100));
    let start = Instant::now();
    drop(room.get("a40").await);
    let b = room.get("b30").await;
    let sweep = |after: u64| {
        let (gone, next) = room.shelf.0.books().sweep(start + Duration::from_secs(after), idle);
        (gone.into_iter().map(|(name, _)| name).collect::<Vec<_>>(), next)
    };
    let (gone, next) = sweep(50);
    assert!(gone.is_empty() && next >= Duration::from_secs(10) && next < Duration::from_secs(40), "{next:?}");
    // Loading may have taken until then.
    assert_eq!(sweep(59 + PLENTY.as_secs() * 2), (vec!["a40".to_owned()], idle));
    assert_eq!(room.fake.alive(), ["b30"]);
    drop(b);
    assert_eq!(sweep(3600).0, ["b30"]);
    assert_eq!(room.fake.alive(), Vec::<String>::new());
}

#[tokio::test]
async fn the_list_begins_with_the_default_model_and_names_each_once() {
    let room = room(Budget::Firm(100));
    drop(room.get("x10").await);
    let names: Vec<_> = room.shelf.list().await.into_iter().map(|model| model.traits.name).collect();
    assert_eq!(names, ["a40", "b30", "c30", "x10"]);
}

#[tokio::test]
async fn a_model_that_is_loaded_hears() {
    let room = room(Budget::Firm(100));
    let transcriber = room.get("b30").await;
    let request = crate::engine::Request {
        pcm: vec![0.5; 32_000].into(),
        offset: Samples(0),
        effort: crate::engine::Effort::Full,
        language: None,
        prior: None,
        options: Arc::default(),
    };
    let alone = Script::named("b30", ScriptConfig::default());
    let mut alone = alone.recognizer().expect("it cannot fail");
    let expected = alone.recognize(&request, &Abort::default());
    let slot = transcriber.admit().expect("free");
    assert_eq!(slot.submit(crate::engine::pool::Lane::Batch, request).await, expected);
    assert!(expected.is_ok_and(|heard| !heard.phrases.is_empty()));
}
