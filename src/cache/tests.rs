//! Keeping and sharing, without a server around them.

use std::pin::pin;
use std::sync::atomic::AtomicUsize;

use tokio::sync::Semaphore;

use super::*;
use crate::transcript::{Gap, Samples, Span};

/// Why a transcript of these tests could not be made.
type Failure = &'static str;

const CONFIG: CacheConfig = CacheConfig { bytes: 1_000_000, ttl: Duration::from_secs(3600) };

fn cache(config: CacheConfig) -> Cache<Failure> {
    Cache::new(config, None)
}

fn key(name: &str) -> Key {
    Key::new(&[7; 32], name)
}

fn transcript(words: usize) -> Transcript {
    let word = |n: usize| Word {
        text: format!(" word{n}"),
        span: Span::new(Samples(n as u64), Samples(n as u64 + 1)),
        probability: 1.0,
        tokens: Vec::new(),
    };
    let segment = Segment {
        utterance: 0,
        span: Span::default(),
        words: (0..words).map(word).collect(),
        temperature: 0.0,
        no_speech: 0.0,
        language: None,
    };
    Transcript { segments: vec![segment], ..Transcript::default() }
}

/// Work that waits for leave, and counts how often it was begun and how often it came to its end.
#[derive(Clone)]
struct Work {
    begun: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    leave: Arc<Semaphore>,
}

impl Work {
    fn new() -> Self {
        Self { begun: Arc::default(), ended: Arc::default(), leave: Arc::new(Semaphore::new(0)) }
    }

    async fn run(self, result: Result<Transcript, Failure>) -> Result<Transcript, Failure> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        let leave = self.leave.acquire().await.expect("it is never closed");
        leave.forget();
        self.ended.fetch_add(1, Ordering::Relaxed);
        result
    }

    fn count(&self) -> (usize, usize) {
        (self.begun.load(Ordering::Relaxed), self.ended.load(Ordering::Relaxed))
    }
}

async fn made(cache: &Cache<Failure>, name: &str, words: usize) -> Outcome {
    let (_, outcome) =
        cache.transcript(key(name), || async move { Ok(transcript(words)) }).await.expect("nothing fails");
    outcome
}

#[test]
fn every_part_of_a_key_counts() {
    assert_eq!(Key::new(&[0; 32], "a"), Key::new(&[0; 32], "a"));
    assert_ne!(Key::new(&[0; 32], "a"), Key::new(&[1; 32], "a"));
    assert_ne!(Key::new(&[0; 32], "a"), Key::new(&[0; 32], "b"));
}

#[tokio::test]
async fn what_was_made_is_kept_and_counted() {
    let cache = cache(CONFIG);
    assert_eq!(made(&cache, "a", 3).await, Outcome::Miss);
    assert_eq!(made(&cache, "a", 4).await, Outcome::Hit);
    assert_eq!(cache.get(key("a")).await.as_deref(), Some(&transcript(3)));
    cache.put(key("a"), &Arc::new(transcript(5))).await;
    assert_eq!(cache.get(key("a")).await.as_deref(), Some(&transcript(5)));
    assert_eq!(cache.get(key("b")).await, None);
    let Stats { hits, joined, misses, entries, bytes, bytes_max } = cache.stats().await;
    assert_eq!((hits, joined, misses, entries, bytes_max), (3, 0, 2, 1, CONFIG.bytes));
    assert!(bytes > 5 * size_of::<Word>() as u64);
}

#[tokio::test]
async fn whoever_leaves_takes_nothing_from_the_others() {
    let (cache, work) = (cache(CONFIG), Work::new());
    let ask = || cache.transcript(key("a"), || work.clone().run(Ok(transcript(1))));
    let mut first = Box::pin(ask());
    let mut second = pin!(ask());
    let mut third = pin!(ask());
    assert!(first.as_mut().now_or_never().is_none());
    assert!(second.as_mut().now_or_never().is_none());
    assert!(third.as_mut().now_or_never().is_none());
    drop(first);
    work.leave.add_permits(1);
    let (made, outcome) = second.await.expect("it goes on");
    assert_eq!((&*made, outcome), (&transcript(1), Outcome::Joined));
    let (same, outcome) = third.await.expect("it is there");
    assert!(Arc::ptr_eq(&same, &made));
    assert_eq!(outcome, Outcome::Joined);
    assert_eq!(work.count(), (1, 1));
}

#[tokio::test]
async fn when_the_last_one_leaves_the_work_stops() {
    let (cache, work) = (cache(CONFIG), Work::new());
    let ask = || cache.transcript(key("a"), || work.clone().run(Ok(transcript(1))));
    let (mut first, mut second) = (Box::pin(ask()), Box::pin(ask()));
    assert!(first.as_mut().now_or_never().is_none());
    assert!(second.as_mut().now_or_never().is_none());
    drop(first);
    drop(second);
    // Nobody holds it any more: what is left is the one of this test.
    assert_eq!(Arc::strong_count(&work.leave), 1);
    work.leave.add_permits(1);
    let (_, outcome) = ask().await.expect("it is begun anew");
    assert_eq!((outcome, work.count()), (Outcome::Miss, (2, 1)));
}

#[tokio::test]
async fn failures_are_told_to_all_and_not_kept() {
    let (cache, work) = (cache(CONFIG), Work::new());
    let fail = || cache.transcript(key("a"), || work.clone().run(Err("broken")));
    let (mut first, mut second) = (pin!(fail()), pin!(fail()));
    assert!(first.as_mut().now_or_never().is_none());
    assert!(second.as_mut().now_or_never().is_none());
    work.leave.add_permits(1);
    assert_eq!(first.await.map(|_| ()).map_err(|error| *error), Err("broken"));
    assert_eq!(second.await.map(|_| ()).map_err(|error| *error), Err("broken"));
    assert_eq!(work.count(), (1, 1));
    assert_eq!(made(&cache, "a", 1).await, Outcome::Miss);
    assert_eq!(made(&cache, "a", 1).await, Outcome::Hit);
}

#[tokio::test]
async fn what_the_engine_failed_on_is_not_kept() {
    let cache = cache(CONFIG);
    for (reason, kept) in
        [(GapReason::Engine, false), (GapReason::Overload, false), (GapReason::Corrupt, true)]
    {
        let gap = Gap { span: Span::default(), reason };
        let with_gap = Transcript { gaps: vec![gap], ..transcript(1) };
        let name = format!("{reason:?}");
        let made = with_gap.clone();
        let (given, _) = cache.transcript(key(&name), || async { Ok(made) }).await.expect("is given");
        assert_eq!(*given, with_gap);
        assert_eq!(cache.get(key(&name)).await.is_some(), kept, "{reason:?}");
    }
}

#[tokio::test]
async fn it_holds_no_more_than_it_may_and_lets_the_oldest_go() {
    let config = CacheConfig { bytes: 100_000, ..CONFIG };
    let cache = cache(config);
    for n in 0..100 {
        made(&cache, &n.to_string(), 100).await;
        // One that is used goes on being kept.
        assert!(cache.get(key("0")).await.is_some(), "{n}");
        assert!(cache.stats().await.bytes <= config.bytes);
    }
    assert!(cache.stats().await.entries > 3);
    assert!(cache.get(key("50")).await.is_none());
    assert!(cache.get(key("99")).await.is_some());
    // One that is larger than all of it is given out, and not kept.
    assert_eq!(made(&cache, "large", 10_000).await, Outcome::Miss);
    assert!(cache.stats().await.bytes <= config.bytes);
    assert!(cache.get(key("large")).await.is_none());
}

#[tokio::test]
async fn with_no_room_there_is_none() {
    let cache = cache(CacheConfig { bytes: 0, ..CONFIG });
    assert!(!cache.is_on());
    assert_eq!(made(&cache, "a", 1).await, Outcome::Miss);
    assert_eq!(made(&cache, "a", 1).await, Outcome::Miss);
    assert_eq!(cache.get(key("a")).await, None);
    assert_eq!(cache.stats().await, Stats::default());
}

#[tokio::test]
async fn a_receipt_is_its_owner_s_and_lasts_as_long_as_the_transcript() {
    let cache = cache(CONFIG);
    let receipt = Receipt { owner: "alice".into(), key: key("one"), began: 1, ended: 2 };
    cache.hand_out("task_1".into(), receipt.clone()).await;
    assert_eq!(
        cache.by_receipt("alice", "task_1").await,
        Some((receipt.clone(), None)),
        "nothing was kept yet"
    );
    let kept = Arc::new(transcript(3));
    cache.put(key("one"), &kept).await;
    assert_eq!(cache.by_receipt("alice", "task_1").await, Some((receipt, Some(kept))));
    assert_eq!(cache.by_receipt("bob", "task_1").await, None);
    assert_eq!(cache.by_receipt("alice", "task_2").await, None);
    assert_eq!((cache.stats().await.hits, cache.stats().await.misses), (0, 0), "these are no questions");

    let brief = Cache::<Failure>::new(CacheConfig { ttl: Duration::from_millis(1), ..CONFIG }, None);
    let receipt = Receipt { owner: "alice".into(), key: key("one"), began: 1, ended: 2 };
    brief.hand_out("task_1".into(), receipt).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(brief.by_receipt("alice", "task_1").await, None);
}

#[tokio::test]
async fn the_newest_receipt_is_always_known() {
    let cache = cache(CONFIG);
    let receipt = Receipt { owner: "alice".into(), key: key("one"), began: 1, ended: 2 };
    for n in 0..receipts::KNOWN + 1_000 {
        cache.hand_out(format!("task_{n}"), receipt.clone()).await;
    }
    cache.inner.receipts.run_pending_tasks().await;
    assert_eq!(cache.inner.receipts.entry_count(), receipts::KNOWN);
    assert!(cache.by_receipt("alice", "task_0").await.is_none(), "the oldest made room");
    let newest = format!("task_{}", receipts::KNOWN + 999);
    assert!(cache.by_receipt("alice", &newest).await.is_some());
}
