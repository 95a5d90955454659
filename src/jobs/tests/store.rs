//! What every store of jobs promises, asked of the one in a file and of the one that is shared.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use whisperwire_protocol::ErrorCode;
use whisperwire_protocol::job::{DeliveryStatus, JobStatus};
use whisperwire_protocol::openai::TaskName;

use crate::jobs::store::{
    Attempted, Hook, Job, JobError, Keep, LEASE, LOG, Next, Outcome, Query, Shared, Sqlite, Store,
};
use crate::link::{Link, LinkConfig};

/// Where a store is.
enum Place {
    File(TempDir),
    Shared(Redis),
}

impl Place {
    fn in_a_file() -> Self {
        Self::File(tempfile::tempdir().expect("a folder"))
    }

    fn shared() -> Option<Self> {
        Redis::start().map(Self::Shared)
    }

    /// As a process does that starts.
    async fn open(&self) -> Box<dyn Store> {
        match self {
            Self::File(folder) => {
                Box::new(Sqlite::open(&folder.path().join("jobs.sqlite")).expect("a store"))
            }
            // Whatever was not touched this very moment is there to be taken over.
            Self::Shared(redis) => Box::new(Shared::new(redis.link().await, Duration::ZERO)),
        }
    }
}

/// A redis-server that listens on a socket in a folder of its own.
struct Redis {
    folder: TempDir,
    child: Child,
}

impl Redis {
    /// `None`, and a line that says so, where there is none.
    fn start() -> Option<Self> {
        if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
            eprintln!("SKIPPED: there is no redis-server here");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket", "socket", "--dir"])
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed where the tests run");
        Some(Self { folder, child })
    }

    async fn link(&self) -> Link {
        let url = format!("redis+unix://{}", self.folder.path().join("socket").display());
        let link = Link::connect(LinkConfig::new(&url, "test:").expect("an address")).await;
        for _ in 0..2000 {
            if link.is_up() {
                return link;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("redis-server did not start")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Each of these is a test of either store.
macro_rules! promised {
    ($($promise:ident,)*) => {
        mod in_a_file {
            $(#[tokio::test] async fn $promise() { super::$promise(&super::Place::in_a_file()).await })*
        }
        mod shared {
            $(#[tokio::test] async fn $promise() {
                let Some(place) = super::Place::shared() else { return };
                super::$promise(&place).await;
            })*
        }
    };
}

promised! {
    a_job_lives_once_and_is_there_after_the_file_was_opened_again,
    owners_take_turns_whoever_came_first,
    what_goes_down_with_the_server_goes_last_and_is_given_up,
    a_stop_does_not_count_as_an_attempt,
    what_is_called_off_stays_called_off,
    everybody_sees_their_own_newest_first,
    what_is_over_is_forgotten_by_age_and_by_size_and_remembered_as_expired,
    a_webhook_is_due_when_its_job_is_over_and_one_courier_has_it,
}

fn job(id: &str, owner: &str, created: u64) -> Job {
    Job {
        id: id.to_owned(),
        owner: owner.to_owned(),
        task: TaskName::Translate,
        model: "whisper-1".to_owned(),
        fields: vec![
            ("model".to_owned(), "whisper-1".to_owned()),
            ("prompt".to_owned(), "Grüezi".to_owned()),
        ],
        file_name: Some("a.wav".to_owned()),
        bytes: 12,
        sha256: [7; 32],
        status: JobStatus::Queued,
        progress: 0.0,
        attempts: 0,
        created,
        started: None,
        ended: None,
        duration: None,
        error: None,
    }
}

fn hook(id: &str, job: &str) -> Hook {
    let secret = Some("whsec_c2VjcmV0".to_owned());
    Hook { id: id.to_owned(), job: job.to_owned(), url: "https://example.com".to_owned(), secret, created: 1 }
}

fn completed(record: &[u8]) -> Outcome {
    Outcome::Completed { seconds: 1.5, record: record.to_vec() }
}

fn failed() -> Outcome {
    Outcome::Failed(JobError { code: ErrorCode::CorruptAudio, message: "No.".to_owned() })
}

async fn claimed(store: &dyn Store, now: u64) -> Option<String> {
    store.claim(now).await.expect("the store works").map(|job| job.id)
}

async fn a_job_lives_once_and_is_there_after_the_file_was_opened_again(place: &Place) {
    let store = place.open().await;
    store.add(job("job_a", "anna", 5), None).await.expect("it is kept");
    let before = store.find("job_a".into()).await.expect("works").expect("is there");
    assert_eq!(before, job("job_a", "anna", 5));
    let running = store.claim(6).await.expect("works").expect("there is one");
    assert_eq!((running.status, running.attempts, running.started), (JobStatus::Running, 1, Some(6)));
    assert_eq!(claimed(&*store, 7).await, None, "nobody else gets it");
    assert!(store.progress("job_a".into(), 1, 42.0).await.expect("works"));
    assert!(!store.progress("job_a".into(), 2, 50.0).await.expect("works"), "that claim is not good");
    assert_eq!(store.find("job_a".into()).await.expect("works").expect("is there").progress, 42.0);

    // The process dies, and the next one finds what it left.
    drop(store);
    let store = place.open().await;
    assert_eq!(store.recover(10, 8).await.expect("works"), 1);
    assert!(!store.finish("job_a".into(), 1, completed(b"late"), 9).await.expect("works"), "it was put back");
    assert_eq!(claimed(&*store, 9).await.as_deref(), Some("job_a"));
    assert!(
        !store.finish("job_a".into(), 1, completed(b"late"), 9).await.expect("works"),
        "that was attempt 2"
    );
    assert!(store.finish("job_a".into(), 2, completed(b"words"), 10).await.expect("works"));
    assert!(!store.finish("job_a".into(), 2, failed(), 11).await.expect("works"), "a job ends once");
    let done = store.find("job_a".into()).await.expect("works").expect("is there");
    assert_eq!((done.status, done.progress, done.ended), (JobStatus::Completed, 100.0, Some(10)));
    assert_eq!(done.duration, Some(1.5));
    assert_eq!(store.result("job_a".into()).await.expect("works").as_deref(), Some(&b"words"[..]));
    assert_eq!(store.counts().await.expect("works").by_status, [0, 0, 1, 0, 0]);
}

async fn owners_take_turns_whoever_came_first(place: &Place) {
    let store = place.open().await;
    for n in 0..6 {
        store.add(job(&format!("job_a{n}"), "anna", n), None).await.expect("it is kept");
    }
    for n in 0..2 {
        store.add(job(&format!("job_b{n}"), "bert", 10 + n), None).await.expect("it is kept");
    }
    store.add(job("job_c0", "carl", 20), None).await.expect("it is kept");
    let mut order = Vec::new();
    while let Some(id) = claimed(&*store, 30).await {
        order.push(id);
    }
    let expected = ["a0", "b0", "c0", "a1", "b1", "a2", "a3", "a4", "a5"].map(|id| format!("job_{id}"));
    assert_eq!(order, expected, "the fewest running first, then whoever waited longest");
}

async fn what_goes_down_with_the_server_goes_last_and_is_given_up(place: &Place) {
    let store = place.open().await;
    store.add(job("job_bad", "anna", 1), Some(hook("evt_bad", "job_bad"))).await.expect("it is kept");
    store.add(job("job_good", "anna", 2), None).await.expect("it is kept");
    for attempt in 1..=3 {
        assert_eq!(claimed(&*store, 3).await.as_deref(), Some("job_bad"), "{attempt}");
        store.recover(3, 4).await.expect("works");
        if attempt == 1 {
            assert_eq!(claimed(&*store, 3).await.as_deref(), Some("job_good"), "which was never begun");
            assert!(store.finish("job_good".into(), 1, completed(b""), 5).await.expect("works"));
        }
    }
    let bad = store.find("job_bad".into()).await.expect("works").expect("is there");
    assert_eq!(bad.status, JobStatus::Failed);
    assert_eq!(bad.error.map(|error| error.code), Some(ErrorCode::EngineFailed));
    assert_eq!(store.due(10, 9).await.expect("works").len(), 1, "and whoever waits is told");
}

async fn a_stop_does_not_count_as_an_attempt(place: &Place) {
    let store = place.open().await;
    store.add(job("job_a", "anna", 1), None).await.expect("it is kept");
    for _ in 0..20 {
        let job = store.claim(2).await.expect("works").expect("is there");
        assert_eq!(job.attempts, 1);
        assert!(store.finish(job.id, 1, Outcome::PutBack, 3).await.expect("works"));
    }
}

async fn what_is_called_off_stays_called_off(place: &Place) {
    let store = place.open().await;
    for id in ["job_a", "job_b"] {
        store.add(job(id, "anna", 1), Some(hook(&id.replace("job", "evt"), id))).await.expect("it is kept");
    }
    claimed(&*store, 2).await;
    assert!(!store.remove("job_a".into()).await.expect("works"), "it is not over");
    for id in ["job_a", "job_b"] {
        let gone = store.cancel(id.into(), 3).await.expect("works").expect("is there");
        assert_eq!((gone.status, gone.ended), (JobStatus::Cancelled, Some(3)));
    }
    assert!(!store.finish("job_a".into(), 1, completed(b""), 4).await.expect("works"));
    assert!(!store.progress("job_a".into(), 1, 9.0).await.expect("works"), "the runner hears of it");
    assert_eq!(claimed(&*store, 5).await, None);
    let told: Vec<String> =
        store.due(6, 9).await.expect("works").into_iter().map(|due| due.hook.id).collect();
    assert_eq!(told, ["evt_a", "evt_b"]);
    assert!(store.remove("job_a".into()).await.expect("works"));
    assert_eq!(store.find("job_a".into()).await.expect("works"), None);
    assert!(store.deliveries("job_a".into()).await.expect("works").is_empty());
}

async fn everybody_sees_their_own_newest_first(place: &Place) {
    let store = place.open().await;
    for n in 0..5 {
        store
            .add(job(&format!("job_{n}"), ["anna", "bert"][n % 2], n as u64), None)
            .await
            .expect("it is kept");
    }
    let list = |status, before: Option<&str>, limit| {
        store.list(Query { owner: "anna".into(), status, before: before.map(Into::into), limit })
    };
    let ids = |jobs: Vec<Job>| jobs.into_iter().map(|job| job.id).collect::<Vec<_>>();
    assert_eq!(ids(list(None, None, 9).await.expect("works")), ["job_4", "job_2", "job_0"]);
    assert_eq!(ids(list(None, None, 2).await.expect("works")), ["job_4", "job_2"]);
    assert_eq!(ids(list(None, Some("job_2"), 9).await.expect("works")), ["job_0"]);
    claimed(&*store, 9).await;
    assert_eq!(ids(list(Some(JobStatus::Running), None, 9).await.expect("works")), ["job_0"]);
}

async fn what_is_over_is_forgotten_by_age_and_by_size_and_remembered_as_expired(place: &Place) {
    let store = place.open().await;
    for n in 0..4_u64 {
        store.add(job(&format!("job_{n}"), "anna", n), None).await.expect("it is kept");
        claimed(&*store, n).await;
        assert!(store.finish(format!("job_{n}"), 1, completed(&[0; 100]), 1000 * n).await.expect("works"));
    }
    store.add(job("job_waits", "anna", 9), None).await.expect("it is kept");
    let all = Keep { millis: u64::MAX, bytes: 400 };
    assert!(store.sweep(all, 5000).await.expect("works").is_empty(), "all of it fits");
    assert_eq!(store.sweep(Keep { millis: 4500, ..all }, 5000).await.expect("works"), ["job_0"]);
    assert_eq!(store.sweep(Keep { bytes: 299, ..all }, 5000).await.expect("works"), ["job_1"]);
    assert_eq!(store.find("job_1".into()).await.expect("works"), None);
    assert!(store.expired("job_1".into(), "anna".into()).await.expect("works"));
    assert!(
        !store.expired("job_1".into(), "bert".into()).await.expect("works"),
        "that is nobody else's business"
    );
    assert!(!store.expired("job_3".into(), "anna".into()).await.expect("works"));
    assert!(store.find("job_waits".into()).await.expect("works").is_some());
}

async fn a_webhook_is_due_when_its_job_is_over_and_one_courier_has_it(place: &Place) {
    let store = place.open().await;
    store.add(job("job_a", "anna", 1), Some(hook("evt_1", "job_a"))).await.expect("it is kept");
    claimed(&*store, 2).await;
    assert!(store.due(1_000_000, 9).await.expect("works").is_empty(), "its job goes on");
    assert!(!store.redeliver("evt_1".into(), 3).await.expect("works"));
    assert!(store.finish("job_a".into(), 1, completed(b""), 10).await.expect("works"));
    let due = store.due(10, 9).await.expect("works");
    assert_eq!(due.len(), 1);
    assert_eq!(
        (due[0].hook.clone(), due[0].tried, due[0].job.status),
        (hook("evt_1", "job_a"), 0, JobStatus::Completed)
    );
    assert!(store.due(10, 9).await.expect("works").is_empty(), "it is out");
    assert_eq!(store.due(10 + LEASE, 9).await.expect("works").len(), 1, "its courier died");

    let attempted = |at| Attempted { at, status: Some(500), error: Some("busy".into()), millis: 3 };
    store.attempted("evt_1".into(), attempted(20), Next::At(50_000_000)).await.expect("works");
    assert!(store.due(49_999_999, 9).await.expect("works").is_empty());
    assert_eq!(store.due(50_000_000, 9).await.expect("works")[0].tried, 1);
    for at in 0..60 {
        store.attempted("evt_1".into(), attempted(at), Next::GivenUp).await.expect("works");
    }
    let log = &store.deliveries("job_a".into()).await.expect("works")[0];
    assert_eq!((log.status, log.next, log.attempts.len()), (DeliveryStatus::Failed, None, LOG));
    assert_eq!(log.attempts.last(), Some(&attempted(59)));
    assert!(store.due(u64::MAX >> 2, 9).await.expect("works").is_empty(), "it was given up");

    // By hand it goes out again, under the same id.
    assert!(store.redeliver("evt_1".into(), 60).await.expect("works"));
    let again = &store.due(60, 9).await.expect("works")[0];
    assert_eq!((again.hook.id.as_str(), again.tried), ("evt_1", 0));
    let took = Attempted { at: 70, status: Some(204), error: None, millis: 1 };
    store.attempted("evt_1".into(), took, Next::Delivered).await.expect("works");
    let log = &store.deliveries("job_a".into()).await.expect("works")[0];
    assert_eq!(log.status, DeliveryStatus::Delivered);

    // Whoever comes late is told as well.
    store.add_hook(Hook { created: 80, ..hook("evt_2", "job_a") }).await.expect("works");
    let due: BTreeMap<String, u32> =
        store.due(80, 9).await.expect("works").into_iter().map(|due| (due.hook.id, due.tried)).collect();
    assert_eq!(due, BTreeMap::from([("evt_2".to_owned(), 0)]));
    assert_eq!(store.job_of_hook("evt_2".into()).await.expect("works").as_deref(), Some("job_a"));
}

/// What only several servers can do to each other.
#[tokio::test]
async fn a_sign_of_life_keeps_a_job_and_its_lack_gives_it_away() {
    let Some(redis) = Redis::start() else { return };
    let idle = Duration::from_secs(3);
    let (one, other) = (Shared::new(redis.link().await, idle), Shared::new(redis.link().await, idle));
    for id in ["job_a", "job_b"] {
        one.add(job(id, "anna", 1), None).await.expect("it is kept");
    }
    assert_eq!(claimed(&one, 2).await.as_deref(), Some("job_a"));
    assert_eq!(claimed(&one, 2).await.as_deref(), Some("job_b"));
    let mut taken = 0;
    while taken == 0 {
        assert!(one.progress("job_a".into(), 1, 1.0).await.expect("works"), "it is alive");
        tokio::time::sleep(Duration::from_millis(20)).await;
        taken = other.recover(10, 3).await.expect("works");
    }
    assert_eq!(taken, 1, "the one that nobody spoke of");
    assert_eq!(claimed(&other, 4).await.as_deref(), Some("job_b"));
    assert!(!one.progress("job_b".into(), 1, 50.0).await.expect("works"));
    assert!(!one.finish("job_b".into(), 1, completed(b"late"), 5).await.expect("works"));
    assert!(other.finish("job_b".into(), 2, completed(b"words"), 6).await.expect("works"));
    assert!(one.finish("job_a".into(), 1, completed(b"words"), 7).await.expect("works"));
    // The answer to that was lost, so it is asked for again.
    assert!(one.finish("job_a".into(), 1, completed(b"words"), 8).await.expect("works"));
    assert_eq!(other.counts().await.expect("works").by_status, [0, 0, 2, 0, 0]);
}
