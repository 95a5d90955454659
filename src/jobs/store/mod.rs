//! Where jobs and webhooks are kept so that no crash loses them.
//!
//! The contract, whichever store it is: what was added is there after `kill -9`; a job is claimed by one runner at a
//! time and ends once, whoever tries again; a delivery is queued in the same step that ends its job. Times are
//! milliseconds since 1970, told by the caller, so that a test can be its own clock.

mod redis;
mod sqlite;

pub(super) use self::redis::Shared;
pub(super) use self::sqlite::Sqlite;

use futures_util::future::BoxFuture;
use whisperwire_protocol::ErrorCode;
use whisperwire_protocol::job::{DeliveryStatus, JobStatus};
use whisperwire_protocol::openai::TaskName;

/// Milliseconds since 1970.
pub(super) type Millis = u64;

/// A job as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Begins with `job_`; later ones sort after earlier ones.
    pub id: String,
    /// The principal who submitted it. Nobody else may see it.
    pub owner: String,
    /// What is asked for.
    pub task: TaskName,
    /// The model as the client named it.
    pub model: String,
    /// The form as it came, without secrets.
    pub fields: Vec<(String, String)>,
    /// As the client called the file.
    pub file_name: Option<String>,
    /// The size of the file.
    pub bytes: u64,
    /// The SHA-256 of the file.
    pub sha256: [u8; 32],
    /// Where it is in its life.
    pub status: JobStatus,
    /// 0 to 100.
    pub progress: f64,
    /// How many times work on it began. Together with the id, it names a claim.
    pub attempts: u32,
    /// When it was accepted.
    pub created: Millis,
    /// When work on it began last.
    pub started: Option<Millis>,
    /// When it was over.
    pub ended: Option<Millis>,
    /// Seconds of audio.
    pub duration: Option<f64>,
    /// Why there is no result.
    pub error: Option<JobError>,
}

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobError {
    /// The code of the one table.
    pub code: ErrorCode,
    /// One sentence for people.
    pub message: String,
}

/// How a run of a job ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    /// With a transcript, as `dialect::record` writes it.
    Completed { seconds: f64, record: Vec<u8> },
    /// Without one, for good.
    Failed(JobError),
    /// The server stops: it is somebody's turn later, and this attempt does not count.
    PutBack,
}

/// Which jobs are asked for.
#[derive(Clone, Debug)]
pub(super) struct Query {
    pub(super) owner: String,
    pub(super) status: Option<JobStatus>,
    /// Only those before this one.
    pub(super) before: Option<String>,
    pub(super) limit: usize,
}

/// How long and how much is kept of what is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    /// Since the end of a job.
    pub(super) millis: Millis,
    /// Results in all, in bytes; the oldest go first.
    pub(super) bytes: u64,
}

/// A webhook that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hook {
    /// Begins with `evt_`.
    pub(super) id: String,
    pub(super) job: String,
    pub(super) url: String,
    pub(super) secret: Option<String>,
    pub(super) created: Millis,
}

/// A webhook that is due: its job is over.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Due {
    pub(super) hook: Hook,
    pub(super) job: Job,
    /// Attempts before this one, in this round.
    pub(super) tried: u32,
}

/// One line of a delivery's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempted {
    pub(super) at: Millis,
    pub(super) status: Option<u16>,
    pub(super) error: Option<String>,
    pub(super) millis: u64,
}

/// What follows from an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Delivered,
    /// Not before then.
    At(Millis),
    GivenUp,
}

/// A webhook and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeliveryLog {
    pub(super) hook: Hook,
    pub(super) status: DeliveryStatus,
    pub(super) attempts: Vec<Attempted>,
    /// When it is tried again, if that is known.
    pub(super) next: Option<Millis>,
}

/// How many jobs there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// In the order of [`JobStatus::ALL`].
    pub by_status: [u64; 5],
    /// Webhooks that wait for an attempt, their jobs being over.
    pub deliveries: u64,
}

/// What can go wrong in this room.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached at the moment, and it heals by itself.
    #[error("the store of jobs is away")]
    Away,
    /// It failed, and the log should know.
    #[error("the store of jobs failed: {0}")]
    Failed(String),
}

pub(super) type Stored<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// The most attempts of a delivery that its log keeps.
pub(super) const LOG: usize = 50;
/// How long whoever took a due delivery has it to themselves.
pub(super) const LEASE: Millis = 60_000;

/// What is told of a job that was begun too often.
const KILLER: &str = "The server went down each time it worked on this recording.";

pub(super) trait Store: Send + Sync {
    /// Keeps a job, and its webhook if it has one. It is safe when this returns.
    fn add(&self, job: Job, hook: Option<Hook>) -> Stored<'_, ()>;

    fn find(&self, id: String) -> Stored<'_, Option<Job>>;

    /// Newest first.
    fn list(&self, query: Query) -> Stored<'_, Vec<Job>>;

    /// Takes the next job whose turn it is, and counts the attempt. Owners take turns: whoever has the fewest
    /// running, and of those whoever waited longest.
    fn claim(&self, now: Millis) -> Stored<'_, Option<Job>>;

    /// Says how far a claimed job is, which is also a sign of life. `false` if the claim is no longer good.
    fn progress(&self, id: String, attempt: u32, percent: f64) -> Stored<'_, bool>;

    /// Ends a claimed job. `false`, and nothing happens, if the claim is no longer good.
    fn finish(&self, id: String, attempt: u32, outcome: Outcome, now: Millis) -> Stored<'_, bool>;

    /// Calls a job off if it is not over; returns it as it is then.
    fn cancel(&self, id: String, now: Millis) -> Stored<'_, Option<Job>>;

    /// Forgets a job that is over. `false` if there is none.
    fn remove(&self, id: String) -> Stored<'_, bool>;

    /// The record of a completed job.
    fn result(&self, id: String) -> Stored<'_, Option<Vec<u8>>>;

    /// Puts back what dead servers were working on; gives up jobs that were begun `attempts` times. Returns how many
    /// it was.
    fn recover(&self, attempts: u32, now: Millis) -> Stored<'_, usize>;

    /// Forgets what is over for too long, or is too much. Those ids are known as expired for a while.
    fn sweep(&self, keep: Keep, now: Millis) -> Stored<'_, Vec<String>>;

    /// Whether there was such a job of this owner.
    fn expired(&self, id: String, owner: String) -> Stored<'_, bool>;

    fn counts(&self) -> Stored<'_, Counts>;

    /// Keeps a webhook. If its job is over already, it is due at once.
    fn add_hook(&self, hook: Hook) -> Stored<'_, ()>;

    /// Takes webhooks whose jobs are over and whose time has come, for [`LEASE`].
    fn due(&self, now: Millis, limit: usize) -> Stored<'_, Vec<Due>>;

    fn attempted(&self, id: String, attempted: Attempted, next: Next) -> Stored<'_, ()>;

    /// Oldest first.
    fn deliveries(&self, job: String) -> Stored<'_, Vec<DeliveryLog>>;

    /// The job of a webhook.
    fn job_of_hook(&self, id: String) -> Stored<'_, Option<String>>;

    /// Makes a webhook due again from the first attempt on, whatever became of it. `false` while its job goes on.
    fn redeliver(&self, id: String, now: Millis) -> Stored<'_, bool>;
}
