//! The back office: work that is accepted now and done later, and survives a crash in between.
//!
//! The contract: a job that was accepted is done, or ends with a reason; it ends once, and its webhook is queued in
//! the same step. Owners take turns. What is over is kept for a while and no longer. A server that stops puts back
//! what it cannot finish; one that dies puts it back when it starts again.
//!
//! Deliberately absent: HTTP, and what the answers look like.

mod deliver;
mod depot;
mod runner;
mod store;
#[cfg(test)]
mod tests;
pub mod webhook;
mod wire;

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use whisperwire_protocol::ErrorCode;
use whisperwire_protocol::job::{Delivery, JobStatus};
use whisperwire_protocol::openai::TaskName;

pub use self::store::{Counts, Job, JobError, StoreError};

pub use self::depot::{BucketConfig, DepotConfig};

use self::depot::Depot;
use self::store::{Hook, Keep, Millis, Query, Shared, Sqlite, Store};
use self::webhook::{Courier, Secret, WebhookConfig};
use self::wire::wire_delivery;
pub use self::wire::{time, wire};
use crate::cache::Cache;
use crate::dialect::record;
use crate::link::Link;
use crate::pipeline::{Meter, Shelf, TranscribeError};
use crate::telemetry::Metrics;
use crate::transcript::Transcript;

/// How the back office works.
#[derive(Clone, Debug)]
pub struct JobsConfig {
    /// Where jobs are kept; in a temporary folder that ends with the process if none is given.
    pub folder: Option<PathBuf>,
    /// Where their recordings wait, if not in that folder.
    pub recordings: Option<DepotConfig>,
    /// After how long without a sign of life a job of another server is taken over, where several share them.
    pub takeover: Duration,
    /// How many are worked on at once.
    pub running: usize,
    /// How many may wait.
    pub waiting: u64,
    /// How many times work on a job may begin before it is taken for what kills the server.
    pub attempts: u32,
    /// How long what is over is kept.
    pub keep: Duration,
    /// How much of it is kept, in bytes of results.
    pub keep_bytes: u64,
    /// How often old jobs are looked for.
    pub sweep: Duration,
    /// How news is delivered.
    pub webhooks: WebhookConfig,
}

impl JobsConfig {
    fn expires(&self, job: &Job) -> Option<Millis> {
        let keep = u64::try_from(self.keep.as_millis()).unwrap_or(Millis::MAX);
        job.ended.map(|ended| ended.saturating_add(keep))
    }
}

/// What somebody wants done.
#[derive(Debug)]
pub struct Submission {
    /// Who.
    pub owner: String,
    /// What.
    pub task: TaskName,
    /// By which model, as the client named it.
    pub model: String,
    /// The form, without secrets.
    pub fields: Vec<(String, String)>,
    /// The recording.
    pub file: File,
    /// As the client called it.
    pub file_name: Option<String>,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: [u8; 32],
    /// Whom to tell when it is over.
    pub webhook: Option<Target>,
}

/// Whom to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where.
    pub url: String,
    /// What to sign with.
    pub secret: Option<String>,
}

/// Which jobs are asked for.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Only those in this state.
    pub status: Option<JobStatus>,
    /// Only those that were submitted before this one.
    pub before: Option<String>,
    /// At most so many.
    pub limit: usize,
}

/// Why something cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum JobsError {
    /// There is no such job, or it is somebody else's.
    #[error("there is no such job")]
    Unknown,
    /// There was one.
    #[error("the job was kept for its time and is forgotten")]
    Expired,
    /// Enough is waiting.
    #[error("{0} jobs are waiting already")]
    Full(u64),
    /// Nothing may be delivered there.
    #[error("{0}")]
    Target(String),
    /// This cannot sign anything.
    #[error("{0}")]
    Secret(String),
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
    /// The store cannot do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The disk cannot do it.
    #[error("the recordings of jobs: {0}")]
    Depot(#[from] std::io::Error),
}

/// The way in. Clones are the same back office.
#[derive(Clone)]
pub struct Jobs(Arc<Office>);

struct Office {
    config: JobsConfig,
    store: Box<dyn Store>,
    depot: Arc<Depot>,
    courier: Arc<Courier>,
    /// There may be work.
    wake: Notify,
    /// There may be something to deliver.
    news: Notify,
    /// Counts changes, for those who watch jobs.
    changed: watch::Sender<u64>,
    /// Who is charged for the audio of an owner's jobs.
    meters: OnceLock<MeterOf>,
    /// What is being worked on here.
    running: Mutex<HashMap<String, CancellationToken>>,
    /// Nothing new is begun.
    stop: CancellationToken,
    /// What runs is put back.
    put_back: CancellationToken,
    tasks: TaskTracker,
    /// Whether other servers have the same store.
    shared: bool,
    /// One process has the folder to itself.
    _lock: File,
    /// A folder that ends with the process.
    _folder: Option<TempDir>,
}

/// By the owner.
type MeterOf = Box<dyn Fn(&str) -> Option<Meter> + Send + Sync>;

/// How long a change may go unnoticed where nobody tells us of it.
const LOOK: Duration = Duration::from_secs(1);

impl Jobs {
    /// Opens the store and puts back what was being worked on when the last process died. With a link, and a place
    /// for recordings that other servers reach as well, the store is shared. Must be called on a runtime.
    pub async fn open(config: JobsConfig, link: Option<Link>) -> anyhow::Result<Self> {
        let alone = link.is_some() && config.recordings.is_none();
        if alone {
            tracing::info!("jobs are not shared: --recordings names no place that the other servers reach");
        }
        let link = link.filter(|_| !alone);
        let opened = tokio::task::spawn_blocking({
            let (folder, recordings) = (config.folder.clone(), config.recordings.clone());
            move || open_folder(folder, recordings)
        });
        let (folder, lock, temporary, depot) = opened.await??;
        let shared = link.is_some();
        let store: Box<dyn Store> = match link {
            Some(link) => Box::new(Shared::new(link, config.takeover)),
            None => {
                let file = folder.join("jobs.sqlite");
                Box::new(tokio::task::spawn_blocking(move || Sqlite::open(&file)).await??)
            }
        };
        let recovered = match store.recover(config.attempts, now()).await {
            // It is there later, and so are the jobs.
            Err(StoreError::Away) => 0,
            recovered => recovered?,
        };
        tracing::info!(
            folder = %folder.display(),
            durable = temporary.is_none(),
            shared,
            recovered,
            "the store of jobs is open"
        );
        let jobs = Self(Arc::new(Office {
            courier: Arc::new(Courier::new(config.webhooks)),
            config,
            store,
            shared,
            depot: Arc::new(depot),
            wake: Notify::new(),
            news: Notify::new(),
            changed: watch::Sender::new(0),
            meters: OnceLock::new(),
            running: Mutex::default(),
            stop: CancellationToken::new(),
            put_back: CancellationToken::new(),
            tasks: TaskTracker::new(),
            _lock: lock,
            _folder: temporary,
        }));
        // In a shared place there are recordings whose jobs another server is just about to keep.
        if !shared {
            jobs.clear_depot().await?;
        }
        Ok(jobs)
    }

    /// Starts to work.
    pub fn start(&self, shelf: Shelf, cache: Cache<TranscribeError>, metrics: &Metrics) {
        let Self(office) = self;
        office.tasks.spawn(runner::run(Arc::clone(office), shelf, cache));
        office.tasks.spawn(deliver::run(Arc::clone(office), deliver::Tries::new(metrics)));
        office.tasks.spawn(sweep(Arc::clone(office)));
        if office.shared {
            office.tasks.spawn(take_over(Arc::clone(office)));
        }
    }

    /// Charges the audio that is taken in for each owner's jobs from here on to what this gives. Heard once.
    pub fn charge(&self, meters: impl Fn(&str) -> Option<Meter> + Send + Sync + 'static) {
        drop(self.0.meters.set(Box::new(meters)));
    }

    /// Takes nothing new and begins nothing new.
    pub fn close(&self) {
        self.0.stop.cancel();
    }

    /// Begins nothing new, lets what runs finish within the grace, and puts the rest back. Says whether all of it
    /// was finished.
    pub async fn drain(&self, grace: Duration) -> bool {
        let Self(office) = self;
        self.close();
        office.tasks.close();
        let finished = tokio::time::timeout(grace, office.tasks.wait()).await.is_ok();
        office.put_back.cancel();
        office.tasks.wait().await;
        finished
    }

    /// Accepts work. It will be done when this returns, whatever happens to the process.
    pub async fn submit(&self, submission: Submission) -> Result<Job, JobsError> {
        let Self(office) = self;
        let Submission { owner, task, model, fields, file, file_name, bytes, sha256, webhook } = submission;
        if office.stop.is_cancelled() {
            return Err(JobsError::Stopping);
        }
        let waiting = office.store.counts().await?.by_status[JobStatus::Queued as usize];
        if waiting >= office.config.waiting {
            return Err(JobsError::Full(waiting));
        }
        let id = format!("job_{}", uuid::Uuid::now_v7().simple());
        let created = now();
        let hook = match webhook {
            Some(target) => Some(self.hook(&id, target).await?),
            None => None,
        };
        let job = Job {
            id,
            owner,
            task,
            model,
            fields,
            file_name,
            bytes,
            sha256,
            status: JobStatus::Queued,
            progress: 0.0,
            attempts: 0,
            created,
            started: None,
            ended: None,
            duration: None,
            error: None,
        };
        let (depot, id) = (Arc::clone(&office.depot), job.id.clone());
        blocking(move || depot.put(&id, file)).await?;
        if let Err(error) = office.store.add(job.clone(), hook).await {
            office.forget_recording(&job.id);
            return Err(error.into());
        }
        office.wake.notify_one();
        Ok(job)
    }

    /// A job of this owner.
    pub async fn look(&self, owner: &str, id: &str) -> Result<Job, JobsError> {
        let store = &self.0.store;
        match store.find(id.to_owned()).await?.filter(|job| job.owner == owner) {
            Some(job) => Ok(job),
            None if store.expired(id.to_owned(), owner.to_owned()).await? => Err(JobsError::Expired),
            None => Err(JobsError::Unknown),
        }
    }

    /// The jobs of this owner, newest first.
    pub async fn list(&self, owner: &str, listing: Listing) -> Result<Vec<Job>, JobsError> {
        let Listing { status, before, limit } = listing;
        Ok(self.0.store.list(Query { owner: owner.to_owned(), status, before, limit }).await?)
    }

    /// The transcript of a completed job.
    pub async fn result(&self, job: &Job) -> Result<Transcript, JobsError> {
        let record = self.0.store.result(job.id.clone()).await?.ok_or(JobsError::Unknown)?;
        record::unpack(&record).map_err(|error| StoreError::Failed(error.to_string()).into())
    }

    /// Calls a job off, or forgets it if it is over. Says how it ended, and whether it is gone.
    pub async fn delete(&self, owner: &str, id: &str) -> Result<(Job, bool), JobsError> {
        let job = self.look(owner, id).await?;
        let Self(office) = self;
        if job.status.is_over() && office.store.remove(job.id.clone()).await? {
            return Ok((job, true));
        }
        let job = office.store.cancel(job.id, now()).await?.ok_or(JobsError::Unknown)?;
        if let Some(token) = office.running().remove(&job.id) {
            token.cancel();
        }
        office.forget_recording(&job.id);
        office.over();
        Ok((job, false))
    }

    /// Ends when something may have changed.
    pub async fn changed(&self) {
        let mut changed = self.0.changed.subscribe();
        drop(tokio::time::timeout(LOOK, changed.changed()).await);
    }

    /// Whether the server is stopping, so that whoever watches should look elsewhere.
    pub fn is_stopping(&self) -> bool {
        self.0.stop.is_cancelled()
    }

    /// Where they are kept, if not in a folder that ends with the process.
    pub fn folder(&self) -> Option<&Path> {
        self.0.config.folder.as_deref()
    }

    /// How many jobs there are.
    pub async fn counts(&self) -> Result<Counts, JobsError> {
        Ok(self.0.store.counts().await?)
    }

    /// When a job will be forgotten.
    pub fn expires(&self, job: &Job) -> Option<u64> {
        self.0.config.expires(job)
    }

    /// Tells somebody when a job is over. Returns the id of the event, and when it was asked for.
    pub async fn add_webhook(
        &self,
        owner: &str,
        id: &str,
        target: Target,
    ) -> Result<(String, u64), JobsError> {
        let job = self.look(owner, id).await?;
        if self.0.store.deliveries(job.id.clone()).await?.len() >= WEBHOOKS {
            return Err(JobsError::Target(format!("A job may have {WEBHOOKS} webhooks.")));
        }
        let hook = self.hook(&job.id, target).await?;
        let told = (hook.id.clone(), hook.created);
        self.0.store.add_hook(hook).await?;
        self.0.news.notify_one();
        Ok(told)
    }

    /// What became of a job's webhooks.
    pub async fn deliveries(&self, owner: &str, id: &str) -> Result<Vec<Delivery>, JobsError> {
        let job = self.look(owner, id).await?;
        Ok(self.0.store.deliveries(job.id).await?.into_iter().map(wire_delivery).collect())
    }

    /// Delivers a webhook once more. `None` while its job goes on.
    pub async fn redeliver(&self, owner: &str, hook: &str) -> Result<Option<Delivery>, JobsError> {
        let store = &self.0.store;
        let job = store.job_of_hook(hook.to_owned()).await?.ok_or(JobsError::Unknown)?;
        let job = self.look(owner, &job).await?;
        if !store.redeliver(hook.to_owned(), now()).await? {
            return Ok(None);
        }
        self.0.news.notify_one();
        let log = store.deliveries(job.id).await?.into_iter().find(|log| log.hook.id == hook);
        Ok(Some(wire_delivery(log.ok_or(JobsError::Unknown)?)))
    }

    async fn hook(&self, job: &str, target: Target) -> Result<Hook, JobsError> {
        if let Some(secret) = &target.secret {
            secret.parse::<Secret>().map_err(|error| JobsError::Secret(error.to_string()))?;
        }
        let (courier, url) = (Arc::clone(&self.0.courier), target.url.clone());
        let checked = tokio::task::spawn_blocking(move || courier.check(&url));
        let checked = checked.await.map_err(|error| StoreError::Failed(error.to_string()))?;
        checked.map_err(|error| JobsError::Target(error.to_string()))?;
        let id = format!("evt_{}", uuid::Uuid::now_v7().simple());
        Ok(Hook { id, job: job.to_owned(), url: target.url, secret: target.secret, created: now() })
    }

    /// Removes recordings that belong to no job, or to one that is over: the process died between two steps.
    async fn clear_depot(&self) -> Result<(), JobsError> {
        let Self(office) = self;
        let depot = Arc::clone(&office.depot);
        for name in blocking(move || depot.names()).await? {
            let job = office.store.find(name.clone()).await?;
            if job.is_none_or(|job| job.status.is_over()) {
                office.forget_recording(&name);
            }
        }
        Ok(())
    }
}

/// Webhooks that a job may have.
const WEBHOOKS: usize = 10;

impl Office {
    fn running(&self) -> MutexGuard<'_, HashMap<String, CancellationToken>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn meter(&self, owner: &str) -> Option<Meter> {
        self.meters.get().and_then(|meters| meters(owner))
    }

    /// A job has changed.
    fn change(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// A job is over: those who watch are told, and its webhooks are due.
    fn over(&self) {
        self.change();
        self.news.notify_one();
    }

    fn forget_recording(&self, id: &str) {
        let (depot, id) = (Arc::clone(&self.depot), id.to_owned());
        drop(tokio::task::spawn_blocking(move || {
            if let Err(error) = depot.remove(&id) {
                tracing::warn!(job = id, %error, "a recording that is not needed any more could not be removed");
            }
        }));
    }
}

/// Forgets what is over for long enough.
async fn sweep(office: Arc<Office>) {
    let keep = Keep {
        millis: u64::try_from(office.config.keep.as_millis()).unwrap_or(Millis::MAX),
        bytes: office.config.keep_bytes,
    };
    loop {
        match office.store.sweep(keep, now()).await {
            Ok(gone) if gone.is_empty() => {}
            Ok(gone) => tracing::info!(jobs = gone.len(), "jobs whose time was over were forgotten"),
            Err(error) => tracing::warn!(%error, "old jobs could not be forgotten"),
        }
        tokio::select! {
            () = tokio::time::sleep(office.config.sweep) => {}
            () = office.stop.cancelled() => return,
        }
    }
}

/// Puts back what other servers left, when they are dead.
async fn take_over(office: Arc<Office>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(office.config.takeover / 3) => {}
            () = office.stop.cancelled() => return,
        }
        match office.store.recover(office.config.attempts, now()).await {
            Ok(0) => {}
            Ok(count) => {
                tracing::warn!(jobs = count, "jobs of a server that gave no sign of life were put back");
                office.wake.notify_one();
                office.over();
            }
            Err(error) => tracing::debug!(%error, "no job can be taken over for now"),
        }
    }
}

type Opened = (PathBuf, File, Option<TempDir>, Depot);

fn open_folder(folder: Option<PathBuf>, recordings: Option<DepotConfig>) -> anyhow::Result<Opened> {
    let temporary = if folder.is_none() { Some(tempfile::tempdir()?) } else { None };
    let folder = folder.or_else(|| Some(temporary.as_ref()?.path().to_owned())).unwrap_or_default();
    make_private(&folder)?;
    let lock = File::create(folder.join("lock"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => anyhow::bail!(
            "another server works in {}: give each its own --data-dir, or share jobs with --redis",
            folder.display()
        ),
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    let depot = Depot::open(recordings.unwrap_or_else(|| DepotConfig::Folder(folder.join("recordings"))))?;
    Ok((folder, lock, temporary, depot))
}

/// Recordings and transcripts are nobody else's business.
fn make_private(folder: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

#[expect(clippy::disallowed_methods, reason = "jobs outlive the process, and with it every Instant")]
fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}

/// A failure as a job keeps it.
fn failed(code: ErrorCode, message: impl Into<String>) -> JobError {
    JobError { code, message: message.into() }
}
