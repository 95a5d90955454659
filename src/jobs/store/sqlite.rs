//! The embedded store: one SQLite file, and the only SQL in the house.
//!
//! Write-ahead log with full synchronisation: what was committed survives a crash of the process and of the machine.
//! One connection behind a lock, on threads that may block; its statements take microseconds, its commits as long as
//! the disk needs. One process has the folder to itself (see `Jobs::start`), so every running job is its own. Only
//! how far running jobs are is kept in memory: it would be lost with the run anyway.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension, Row, Transaction, named_params, params};
use whisperwire_protocol::ErrorCode;
use whisperwire_protocol::job::{DeliveryStatus, JobStatus};
use whisperwire_protocol::openai::TaskName;

use super::{
    Attempted, Counts, DeliveryLog, Due, Hook, Job, JobError, KILLER, Keep, LEASE, LOG, Millis, Next,
    Outcome, Query, Store, StoreError, Stored,
};

/// The shape of the file. A change needs a new number and a way from the old one.
const VERSION: u32 = 1;

const SCHEMA: &str = "
create table jobs (
    seq integer primary key,
    id text not null unique,
    owner text not null,
    task text not null,
    model text not null,
    fields text not null,
    file_name text,
    bytes integer not null,
    sha256 blob not null,
    status text not null,
    attempts integer not null default 0,
    created integer not null,
    started integer,
    ended integer,
    duration real,
    error_code text,
    error_message text
) strict;
create index jobs_by_status on jobs (status, owner, attempts, seq);
create index jobs_by_owner on jobs (owner, seq);
create index jobs_by_end on jobs (ended) where ended is not null;

-- When each owner had their last turn.
create table turns (owner text primary key, turn integer not null) strict, without rowid;

create table results (id text primary key references jobs (id) on delete cascade, record blob not null) strict;

create table hooks (
    seq integer primary key,
    id text not null unique,
    job text not null references jobs (id) on delete cascade,
    url text not null,
    secret text,
    created integer not null,
    status text not null default 'pending',
    tried integer not null default 0,
    -- Null while the job goes on.
    due integer
) strict;
create index hooks_by_job on hooks (job);
create index hooks_by_due on hooks (due) where status = 'pending' and due is not null;

create table attempts (
    seq integer primary key,
    hook text not null references hooks (id) on delete cascade,
    at integer not null,
    status integer,
    error text,
    millis integer not null
) strict;
create index attempts_by_hook on attempts (hook, seq);

-- Jobs that were there once.
create table expired (id text primary key, owner text not null, at integer not null) strict, without rowid;
";

/// How many expired ids are remembered.
const REMEMBERED: u64 = 100_000;

/// Clones are the same store.
#[derive(Clone)]
pub(crate) struct Sqlite(Arc<Shared>);

struct Shared {
    connection: Mutex<Connection>,
    progress: Mutex<HashMap<String, f64>>,
}

impl Sqlite {
    /// Opens the file, or makes it. Blocks.
    pub(crate) fn open(file: &Path) -> Result<Self, StoreError> {
        let mut connection = Connection::open(file)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        match version {
            0 => {
                let change = connection.transaction()?;
                change.execute_batch(SCHEMA)?;
                change.pragma_update(None, "user_version", VERSION)?;
                change.commit()?;
            }
            VERSION => {}
            other => {
                let message = format!("{} is of version {other}, which is not known here", file.display());
                return Err(StoreError::Failed(message));
            }
        }
        let shared = Shared { connection: Mutex::new(connection), progress: Mutex::default() };
        Ok(Self(Arc::new(shared)))
    }

    /// Runs one change, all of it or nothing, on a thread that may block.
    fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Stored<'_, T> {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let changed = tokio::task::spawn_blocking(move || -> rusqlite::Result<T> {
                let mut connection = shared.connection.lock().unwrap_or_else(PoisonError::into_inner);
                let change = connection.transaction()?;
                let done = work(&change)?;
                change.commit()?;
                Ok(done)
            });
            Ok(changed.await.map_err(|error| StoreError::Failed(error.to_string()))??)
        })
    }

    fn forget_progress(&self, id: &str) {
        self.0.progress.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// A job as it is read, with how far it is.
    fn with_progress(&self, mut job: Job) -> Job {
        if job.status == JobStatus::Running {
            let known = self.0.progress.lock().unwrap_or_else(PoisonError::into_inner);
            job.progress = known.get(&job.id).copied().unwrap_or(0.0);
        }
        job
    }
}

impl Store for Sqlite {
    fn add(&self, job: Job, hook: Option<Hook>) -> Stored<'_, ()> {
        self.change(move |change| {
            let fields = serde_json::to_string(&job.fields).map_err(unwritable)?;
            change.execute(
                "insert into jobs (id, owner, task, model, fields, file_name, bytes, sha256, status, created)
                 values (:id, :owner, :task, :model, :fields, :file_name, :bytes, :sha256, 'queued', :created)",
                named_params! {
                    ":id": job.id, ":owner": job.owner, ":task": task_name(job.task), ":model": job.model,
                    ":fields": fields, ":file_name": job.file_name, ":bytes": int(job.bytes),
                    ":sha256": job.sha256, ":created": int(job.created),
                },
            )?;
            hook.map_or(Ok(()), |hook| add_hook(change, &hook, None))
        })
    }

    fn find(&self, id: String) -> Stored<'_, Option<Job>> {
        let found = self.change(move |change| find(change, &id));
        Box::pin(async move { Ok(found.await?.map(|job| self.with_progress(job))) })
    }

    fn list(&self, query: Query) -> Stored<'_, Vec<Job>> {
        let found = self.change(move |change| {
            let mut statement = change.prepare_cached(
                "select * from jobs where owner = :owner and (:status is null or status = :status)
                 and (:before is null or seq < (select seq from jobs where id = :before))
                 order by seq desc limit :limit",
            )?;
            let jobs = statement.query_map(
                named_params! {
                    ":owner": query.owner, ":status": query.status.map(JobStatus::name),
                    ":before": query.before, ":limit": int(query.limit as u64),
                },
                read_job,
            )?;
            jobs.collect::<rusqlite::Result<Vec<Job>>>()
        });
        Box::pin(async move { Ok(found.await?.into_iter().map(|job| self.with_progress(job)).collect()) })
    }

    fn claim(&self, now: Millis) -> Stored<'_, Option<Job>> {
        self.change(move |change| {
            let owner: Option<String> = change
                .prepare_cached(
                    "select owner from jobs as waiting where status = 'queued' group by owner order by
                     (select count(*) from jobs where status = 'running' and owner = waiting.owner),
                     coalesce((select turn from turns where owner = waiting.owner), 0), min(seq) limit 1",
                )?
                .query_row([], |row| row.get(0))
                .optional()?;
            let Some(owner) = owner else { return Ok(None) };
            change.execute(
                "insert into turns (owner, turn) values (?1, (select coalesce(max(turn), 0) + 1 from turns))
                 on conflict (owner) do update set turn = excluded.turn",
                [&owner],
            )?;
            // What was begun before goes last: if it is what kills servers, it kills them after the others are done.
            change
                .query_row(
                    "update jobs set status = 'running', attempts = attempts + 1, started = ?2 where seq =
                     (select seq from jobs where status = 'queued' and owner = ?1 order by attempts, seq limit 1)
                     returning *",
                    params![owner, int(now)],
                    read_job,
                )
                .optional()
        })
    }

    fn progress(&self, id: String, attempt: u32, percent: f64) -> Stored<'_, bool> {
        Box::pin(async move {
            let job = self.find(id).await?;
            let mine = job.filter(|job| job.status == JobStatus::Running && job.attempts == attempt);
            let Some(job) = mine else { return Ok(false) };
            let mut known = self.0.progress.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(job.id, percent);
            Ok(true)
        })
    }

    fn finish(&self, id: String, attempt: u32, outcome: Outcome, now: Millis) -> Stored<'_, bool> {
        self.forget_progress(&id);
        self.change(move |change| {
            let claim = named_params! { ":id": id, ":attempt": attempt };
            if let Outcome::PutBack = outcome {
                let sql = "update jobs set status = 'queued', attempts = attempts - 1
                           where id = :id and attempts = :attempt and status = 'running'";
                return Ok(change.execute(sql, claim)? == 1);
            }
            let (status, seconds, error) = match &outcome {
                Outcome::Completed { seconds, .. } => (JobStatus::Completed, Some(*seconds), None),
                Outcome::Failed(error) => (JobStatus::Failed, None, Some(error)),
                Outcome::PutBack => return Ok(false),
            };
            let ended = change.execute(
                "update jobs set status = :status, ended = :now, duration = :seconds, error_code = :code,
                 error_message = :message where id = :id and attempts = :attempt and status = 'running'",
                named_params! {
                    ":id": id, ":attempt": attempt, ":now": int(now), ":status": status.name(),
                    ":seconds": seconds, ":code": error.map(|error| error.code.name()),
                    ":message": error.map(|error| &error.message),
                },
            )?;
            if ended == 0 {
                return Ok(false);
            }
            if let Outcome::Completed { record, .. } = outcome {
                change.execute("insert into results (id, record) values (?1, ?2)", params![id, record])?;
            }
            make_due(change, &id, now)?;
            Ok(true)
        })
    }

    fn cancel(&self, id: String, now: Millis) -> Stored<'_, Option<Job>> {
        self.forget_progress(&id);
        self.change(move |change| {
            let sql = "update jobs set status = 'cancelled', ended = ?2 where id = ?1 and ended is null";
            if change.execute(sql, params![id, int(now)])? == 1 {
                make_due(change, &id, now)?;
            }
            find(change, &id)
        })
    }

    fn remove(&self, id: String) -> Stored<'_, bool> {
        self.change(move |change| {
            Ok(change.execute("delete from jobs where id = ?1 and ended is not null", [id])? == 1)
        })
    }

    fn result(&self, id: String) -> Stored<'_, Option<Vec<u8>>> {
        self.change(move |change| {
            let sql = "select record from results where id = ?1";
            change.query_row(sql, [id], |row| row.get(0)).optional()
        })
    }

    fn recover(&self, attempts: u32, now: Millis) -> Stored<'_, usize> {
        self.change(move |change| {
            let given_up = change
                .prepare(
                    "update jobs set status = 'failed', ended = ?2, error_code = ?3, error_message = ?4
                     where status = 'running' and attempts >= ?1 returning id",
                )?
                .query_map(params![attempts, int(now), ErrorCode::EngineFailed.name(), KILLER], |row| {
                    row.get::<_, String>(0)
                })?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            for id in &given_up {
                make_due(change, id, now)?;
            }
            let put_back =
                change.execute("update jobs set status = 'queued' where status = 'running'", [])?;
            Ok(given_up.len() + put_back)
        })
    }

    fn sweep(&self, keep: Keep, now: Millis) -> Stored<'_, Vec<String>> {
        self.change(move |change| {
            let mut gone = change
                .prepare_cached("select id, owner from jobs where ended < ?1")?
                .query_map([int(now.saturating_sub(keep.millis))], id_and_owner)?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            // What does not fit, counted from the newest on.
            let mut too_much = change
                .prepare_cached(
                    "select id, owner from (select jobs.id, owner, sum(length(record)) over (order by ended desc,
                     seq desc) as kept from jobs join results using (id)) where kept > ?1",
                )?
                .query_map([int(keep.bytes)], id_and_owner)?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            gone.append(&mut too_much);
            for (id, owner) in &gone {
                change.execute("delete from jobs where id = ?1", [id])?;
                change.execute("insert or replace into expired values (?1, ?2, ?3)", params![id, owner, int(now)])?;
            }
            change.execute(
                "delete from expired where id not in (select id from expired order by at desc, id limit ?1)",
                [int(REMEMBERED)],
            )?;
            Ok(gone.into_iter().map(|(id, _)| id).collect())
        })
    }

    fn expired(&self, id: String, owner: String) -> Stored<'_, bool> {
        self.change(move |change| {
            let sql = "select 1 from expired where id = ?1 and owner = ?2";
            Ok(change.query_row(sql, [id, owner], |_| Ok(())).optional()?.is_some())
        })
    }

    fn counts(&self) -> Stored<'_, Counts> {
        self.change(|change| {
            let mut counts = Counts::default();
            let mut statement = change.prepare_cached("select status, count(*) from jobs group by status")?;
            let found = statement
                .query_map([], |row| Ok((row.get::<_, String>(0)?, unsigned(row.get(1)?))))?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            for (name, count) in found {
                if let Some(status) = JobStatus::parse(&name) {
                    counts.by_status[status as usize] = count;
                }
            }
            let sql = "select count(*) from hooks where status = 'pending' and due is not null";
            counts.deliveries = unsigned(change.query_row(sql, [], |row| row.get(0))?);
            Ok(counts)
        })
    }

    fn add_hook(&self, hook: Hook) -> Stored<'_, ()> {
        self.change(move |change| {
            let sql = "select 1 from jobs where id = ?1 and ended is not null";
            let over = change.query_row(sql, [&hook.job], |_| Ok(())).optional()?.is_some();
            add_hook(change, &hook, over.then_some(hook.created))
        })
    }

    fn due(&self, now: Millis, limit: usize) -> Stored<'_, Vec<Due>> {
        self.change(move |change| {
            let hooks = change
                .prepare_cached(
                    "update hooks set due = ?2 where seq in (select seq from hooks where status = 'pending'
                     and due <= ?1 order by due limit ?3) returning *",
                )?
                .query_map(params![int(now), int(now + LEASE), int(limit as u64)], |row| {
                    Ok((read_hook(row)?, row.get::<_, u32>("tried")?))
                })?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            let mut due = Vec::with_capacity(hooks.len());
            for (hook, tried) in hooks {
                if let Some(job) = find(change, &hook.job)? {
                    due.push(Due { hook, job, tried });
                }
            }
            Ok(due)
        })
    }

    fn attempted(&self, id: String, attempted: Attempted, next: Next) -> Stored<'_, ()> {
        self.change(move |change| {
            let (status, due) = match next {
                Next::Delivered => (DeliveryStatus::Delivered, None),
                Next::At(due) => (DeliveryStatus::Pending, Some(int(due))),
                Next::GivenUp => (DeliveryStatus::Failed, None),
            };
            let sql = "update hooks set status = ?2, due = ?3, tried = tried + 1 where id = ?1";
            if change.execute(sql, params![id, status.name(), due])? == 0 {
                // Its job was forgotten meanwhile, and it with it.
                return Ok(());
            }
            change.execute(
                "insert into attempts (hook, at, status, error, millis) values (?1, ?2, ?3, ?4, ?5)",
                params![id, int(attempted.at), attempted.status, attempted.error, int(attempted.millis)],
            )?;
            change.execute(
                "delete from attempts where hook = ?1 and seq not in
                 (select seq from attempts where hook = ?1 order by seq desc limit ?2)",
                params![id, int(LOG as u64)],
            )?;
            Ok(())
        })
    }

    fn deliveries(&self, job: String) -> Stored<'_, Vec<DeliveryLog>> {
        self.change(move |change| {
            let mut logs = change
                .prepare_cached("select * from hooks where job = ?1 order by seq")?
                .query_map([job], |row| {
                    let (hook, next) = (read_hook(row)?, row.get::<_, Option<i64>>("due")?.map(unsigned));
                    let status = match row.get::<_, String>("status")?.as_str() {
                        "delivered" => DeliveryStatus::Delivered,
                        "failed" => DeliveryStatus::Failed,
                        _ => DeliveryStatus::Pending,
                    };
                    Ok(DeliveryLog { hook, status, attempts: Vec::new(), next })
                })?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            let mut statement =
                change.prepare_cached("select * from attempts where hook = ?1 order by seq")?;
            for log in &mut logs {
                let attempts = statement.query_map([&log.hook.id], |row| {
                    Ok(Attempted {
                        at: unsigned(row.get("at")?),
                        status: row.get("status")?,
                        error: row.get("error")?,
                        millis: unsigned(row.get("millis")?),
                    })
                })?;
                log.attempts = attempts.collect::<rusqlite::Result<_>>()?;
            }
            Ok(logs)
        })
    }

    fn job_of_hook(&self, id: String) -> Stored<'_, Option<String>> {
        self.change(move |change| {
            change.query_row("select job from hooks where id = ?1", [id], |row| row.get(0)).optional()
        })
    }

    fn redeliver(&self, id: String, now: Millis) -> Stored<'_, bool> {
        self.change(move |change| {
            let sql = "update hooks set status = 'pending', tried = 0, due = ?2 where id = ?1 and
                       exists (select 1 from jobs where jobs.id = job and ended is not null)";
            Ok(change.execute(sql, params![id, int(now)])? == 1)
        })
    }
}

fn find(change: &Transaction<'_>, id: &str) -> rusqlite::Result<Option<Job>> {
    change.prepare_cached("select * from jobs where id = ?1")?.query_row([id], read_job).optional()
}

fn add_hook(change: &Transaction<'_>, hook: &Hook, due: Option<Millis>) -> rusqlite::Result<()> {
    change.execute(
        "insert into hooks (id, job, url, secret, created, due) values (?1, ?2, ?3, ?4, ?5, ?6)",
        params![hook.id, hook.job, hook.url, hook.secret, int(hook.created), due.map(int)],
    )?;
    Ok(())
}

/// The job is over: what waited for that may be delivered.
fn make_due(change: &Transaction<'_>, job: &str, now: Millis) -> rusqlite::Result<()> {
    change.execute("update hooks set due = ?2 where job = ?1 and due is null", params![job, int(now)])?;
    Ok(())
}

fn read_job(row: &Row<'_>) -> rusqlite::Result<Job> {
    let status: String = row.get("status")?;
    let status = JobStatus::parse(&status).unwrap_or(JobStatus::Failed);
    let task = match row.get::<_, String>("task")?.as_str() {
        "translate" => TaskName::Translate,
        _ => TaskName::Transcribe,
    };
    let code: Option<String> = row.get("error_code")?;
    let message: Option<String> = row.get("error_message")?;
    let error = code.map(|code| JobError {
        code: ErrorCode::parse(&code).unwrap_or(ErrorCode::Internal),
        message: message.unwrap_or_default(),
    });
    Ok(Job {
        id: row.get("id")?,
        owner: row.get("owner")?,
        task,
        model: row.get("model")?,
        fields: serde_json::from_str(&row.get::<_, String>("fields")?).unwrap_or_default(),
        file_name: row.get("file_name")?,
        bytes: unsigned(row.get("bytes")?),
        sha256: row.get("sha256")?,
        status,
        progress: if status == JobStatus::Completed { 100.0 } else { 0.0 },
        attempts: row.get("attempts")?,
        created: unsigned(row.get("created")?),
        started: row.get::<_, Option<i64>>("started")?.map(unsigned),
        ended: row.get::<_, Option<i64>>("ended")?.map(unsigned),
        duration: row.get("duration")?,
        error,
    })
}

fn read_hook(row: &Row<'_>) -> rusqlite::Result<Hook> {
    Ok(Hook {
        id: row.get("id")?,
        job: row.get("job")?,
        url: row.get("url")?,
        secret: row.get("secret")?,
        created: unsigned(row.get("created")?),
    })
}

fn id_and_owner(row: &Row<'_>) -> rusqlite::Result<(String, String)> {
    Ok((row.get(0)?, row.get(1)?))
}

fn task_name(task: TaskName) -> &'static str {
    match task {
        TaskName::Transcribe => "transcribe",
        TaskName::Translate => "translate",
    }
}

/// SQLite knows signed numbers only; nothing here comes near the difference.
fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn unwritable(error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(error.into())
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error.to_string())
    }
}
