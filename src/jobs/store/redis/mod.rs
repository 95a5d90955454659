//! The shared store: a Redis or Valkey, for several servers that take each other's jobs over.
//!
//! Every step is a script (`jobs.lua`), and a script is all or nothing. Jobs wait in streams and are read by one group
//! of servers; a server that works on one touches its entry twice a second. What nobody has touched for
//! [`Shared::idle`] is put back by whoever notices first: its server is dead, or cannot reach the Redis, and will find
//! that its claim is no longer good. So a job may be worked on twice, and ends once.
//!
//! What is kept is as safe as the Redis keeps it; see its `appendonly` and `appendfsync`. While it is away, every
//! question is answered with [`StoreError::Away`]. Deliberately absent: Redis Cluster, whose scripts would have to
//! name all of their keys beforehand.

use std::collections::HashMap;
use std::time::Duration;

use redis::{FromRedisValue, Script, ToRedisArgs};
use serde::{Deserialize, Serialize};
use whisperwire_protocol::ErrorCode;
use whisperwire_protocol::job::{DeliveryStatus, JobStatus};
use whisperwire_protocol::openai::TaskName;

use super::{
    Attempted, Counts, DeliveryLog, Due, Hook, Job, JobError, KILLER, Keep, LEASE, LOG, Millis, Next,
    Outcome, Query, Store, StoreError, Stored,
};
use crate::link::{Away, Link};

/// See the module.
pub(crate) struct Shared {
    link: Link,
    script: Script,
    prefix: String,
    /// This server, among those that read the streams.
    server: String,
    idle: Duration,
}

/// Fields and their values.
type Fields = HashMap<String, String>;

impl Shared {
    /// The store behind a link. What was not touched for `idle` belongs to nobody.
    pub(crate) fn new(link: Link, idle: Duration) -> Self {
        Self {
            prefix: link.key("jobs:"),
            script: Script::new(include_str!("jobs.lua")),
            server: uuid::Uuid::new_v4().simple().to_string(),
            link,
            idle,
        }
    }

    /// One step of the script.
    async fn step<T: FromRedisValue>(&self, name: &str, arguments: Vec<Vec<u8>>) -> Result<T, StoreError> {
        let mut step = self.script.arg(&self.prefix);
        step.arg(name);
        for argument in arguments {
            step.arg(argument);
        }
        self.link.script(&step).await.map_err(|Away| StoreError::Away)
    }
}

/// The arguments of a step, as the Redis gets them.
macro_rules! arguments {
    ($($argument:expr),* $(,)?) => {{
        let mut all: Vec<Vec<u8>> = Vec::new();
        $( $argument.write_redis_args(&mut all); )*
        all
    }};
}

impl Store for Shared {
    fn add(&self, job: Job, hook: Option<Hook>) -> Stored<'_, ()> {
        Box::pin(async move {
            let fields = job_fields(&job)?;
            let mut all = arguments![&job.id, &job.owner, fields.len() * 2];
            all.extend(flat(fields));
            if let Some(hook) = &hook {
                all.extend(arguments![&hook.id]);
                all.extend(flat(hook_fields(hook)));
            }
            self.step("add", all).await
        })
    }

    fn find(&self, id: String) -> Stored<'_, Option<Job>> {
        Box::pin(async move { read_job(self.step("find", arguments![id]).await?) })
    }

    fn list(&self, query: Query) -> Stored<'_, Vec<Job>> {
        Box::pin(async move {
            let Query { owner, status, before, limit } = query;
            let status = status.map_or("", JobStatus::name);
            let all = arguments![owner, status, before.unwrap_or_default(), limit];
            let jobs: Vec<Fields> = self.step("list", all).await?;
            jobs.into_iter().filter_map(|job| read_job(job).transpose()).collect()
        })
    }

    fn claim(&self, now: Millis) -> Stored<'_, Option<Job>> {
        Box::pin(async move { read_job(self.step("claim", arguments![&self.server, now]).await?) })
    }

    fn progress(&self, id: String, attempt: u32, percent: f64) -> Stored<'_, bool> {
        Box::pin(async move { self.step("progress", arguments![&self.server, id, attempt, percent]).await })
    }

    fn finish(&self, id: String, attempt: u32, outcome: Outcome, now: Millis) -> Stored<'_, bool> {
        Box::pin(async move {
            match outcome {
                Outcome::Completed { seconds, record } => {
                    let mut all = arguments![id, attempt, now, seconds];
                    all.push(record);
                    self.step("complete", all).await
                }
                Outcome::Failed(JobError { code, message }) => {
                    self.step("fail", arguments![id, attempt, now, code.name(), message]).await
                }
                Outcome::PutBack => self.step("put_back", arguments![id, attempt]).await,
            }
        })
    }

    fn cancel(&self, id: String, now: Millis) -> Stored<'_, Option<Job>> {
        Box::pin(async move { read_job(self.step("cancel", arguments![id, now]).await?) })
    }

    fn remove(&self, id: String) -> Stored<'_, bool> {
        Box::pin(async move { self.step("remove", arguments![id]).await })
    }

    fn result(&self, id: String) -> Stored<'_, Option<Vec<u8>>> {
        Box::pin(async move { self.step("result", arguments![id]).await })
    }

    fn recover(&self, attempts: u32, now: Millis) -> Stored<'_, usize> {
        Box::pin(async move {
            // Nobody could touch anything while the Redis was away, so everybody gets their time anew.
            if self.link.state().lasted < self.idle {
                return Ok(0);
            }
            let idle = u64::try_from(self.idle.as_millis()).unwrap_or(u64::MAX);
            let all = arguments![&self.server, attempts, now, idle, ErrorCode::EngineFailed.name(), KILLER];
            self.step("recover", all).await
        })
    }

    fn sweep(&self, keep: Keep, now: Millis) -> Stored<'_, Vec<String>> {
        let before = now.saturating_sub(keep.millis);
        Box::pin(async move { self.step("sweep", arguments![before, keep.bytes]).await })
    }

    fn expired(&self, id: String, owner: String) -> Stored<'_, bool> {
        Box::pin(async move { self.step("expired", arguments![id, owner]).await })
    }

    fn counts(&self) -> Stored<'_, Counts> {
        Box::pin(async move {
            let (deliveries, by_name): (u64, HashMap<String, u64>) = self.step("counts", Vec::new()).await?;
            let by_status = JobStatus::ALL.map(|status| by_name.get(status.name()).copied().unwrap_or(0));
            Ok(Counts { by_status, deliveries })
        })
    }

    fn add_hook(&self, hook: Hook) -> Stored<'_, ()> {
        Box::pin(async move {
            let mut all = arguments![&hook.id, &hook.job, hook.created];
            all.extend(flat(hook_fields(&hook)));
            self.step("add_hook", all).await
        })
    }

    fn due(&self, now: Millis, limit: usize) -> Stored<'_, Vec<Due>> {
        Box::pin(async move {
            let all = arguments![now, limit, now.saturating_add(LEASE)];
            let due: Vec<(Fields, Fields)> = self.step("due", all).await?;
            let mut read = Vec::with_capacity(due.len());
            for (hook, job) in due {
                let tried = number(&hook, "tried")?;
                if let Some(job) = read_job(job)? {
                    read.push(Due { hook: read_hook(hook)?, job, tried });
                }
            }
            Ok(read)
        })
    }

    fn attempted(&self, id: String, attempted: Attempted, next: Next) -> Stored<'_, ()> {
        Box::pin(async move {
            let (status, due) = match next {
                Next::Delivered => (DeliveryStatus::Delivered, String::new()),
                Next::At(due) => (DeliveryStatus::Pending, due.to_string()),
                Next::GivenUp => (DeliveryStatus::Failed, String::new()),
            };
            let Attempted { at, status: answered, error, millis } = attempted;
            let line = serde_json::to_string(&Line { at, status: answered, error, millis });
            let line = line.map_err(|error| StoreError::Failed(error.to_string()))?;
            self.step("attempted", arguments![id, status.name(), due, line, LOG]).await
        })
    }

    fn deliveries(&self, job: String) -> Stored<'_, Vec<DeliveryLog>> {
        Box::pin(async move {
            let logs: Vec<(Fields, Vec<String>)> = self.step("deliveries", arguments![job]).await?;
            logs.into_iter().map(read_log).collect()
        })
    }

    fn job_of_hook(&self, id: String) -> Stored<'_, Option<String>> {
        Box::pin(async move { self.step("job_of_hook", arguments![id]).await })
    }

    fn redeliver(&self, id: String, now: Millis) -> Stored<'_, bool> {
        Box::pin(async move { self.step("redeliver", arguments![id, now]).await })
    }
}

/// One line of a delivery's log.
#[derive(Serialize, Deserialize)]
struct Line {
    at: Millis,
    status: Option<u16>,
    error: Option<String>,
    millis: u64,
}

/// What is written of a job when it comes. What happens to it later is written by the script.
fn job_fields(job: &Job) -> Result<Vec<(&'static str, String)>, StoreError> {
    let fields = serde_json::to_string(&job.fields).map_err(|error| StoreError::Failed(error.to_string()))?;
    let task = match job.task {
        TaskName::Transcribe => "transcribe",
        TaskName::Translate => "translate",
    };
    let sha256 = job.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut all = vec![
        ("task", task.to_owned()),
        ("model", job.model.clone()),
        ("fields", fields),
        ("bytes", job.bytes.to_string()),
        ("sha256", sha256),
        ("created", job.created.to_string()),
    ];
    all.extend(job.file_name.clone().map(|name| ("file_name", name)));
    Ok(all)
}

fn hook_fields(hook: &Hook) -> Vec<(&'static str, String)> {
    let mut all = vec![("url", hook.url.clone()), ("created", hook.created.to_string())];
    all.extend(hook.secret.clone().map(|secret| ("secret", secret)));
    all
}

fn flat(fields: Vec<(&'static str, String)>) -> impl Iterator<Item = Vec<u8>> {
    fields.into_iter().flat_map(|(name, value)| [name.as_bytes().to_vec(), value.into_bytes()])
}

/// A job, or nothing where there is none.
fn read_job(mut fields: Fields) -> Result<Option<Job>, StoreError> {
    if fields.is_empty() {
        return Ok(None);
    }
    let status: JobStatus = JobStatus::parse(text(&fields, "status")?).ok_or_else(|| strange("status"))?;
    let code = fields.remove("error_code");
    let error = code.map(|code| JobError {
        code: ErrorCode::parse(&code).unwrap_or(ErrorCode::Internal),
        message: fields.remove("error_message").unwrap_or_default(),
    });
    let progress = match status {
        JobStatus::Completed => 100.0,
        JobStatus::Running => number(&fields, "progress")?,
        _ => 0.0,
    };
    Ok(Some(Job {
        task: match text(&fields, "task")? {
            "translate" => TaskName::Translate,
            _ => TaskName::Transcribe,
        },
        fields: serde_json::from_str(text(&fields, "fields")?).map_err(|_| strange("fields"))?,
        bytes: number(&fields, "bytes")?,
        sha256: bytes(text(&fields, "sha256")?).ok_or_else(|| strange("sha256"))?,
        status,
        progress,
        attempts: number(&fields, "attempts")?,
        created: number(&fields, "created")?,
        started: optional(&fields, "started")?,
        ended: optional(&fields, "ended")?,
        duration: optional(&fields, "duration")?,
        error,
        file_name: fields.remove("file_name"),
        id: fields.remove("id").ok_or_else(|| strange("id"))?,
        owner: fields.remove("owner").ok_or_else(|| strange("owner"))?,
        model: fields.remove("model").ok_or_else(|| strange("model"))?,
    }))
}

fn read_hook(mut fields: Fields) -> Result<Hook, StoreError> {
    let created = number(&fields, "created")?;
    let mut take = |name: &'static str| fields.remove(name).ok_or_else(|| strange(name));
    let (id, job, url) = (take("id")?, take("job")?, take("url")?);
    Ok(Hook { id, job, url, secret: fields.remove("secret"), created })
}

fn read_log((fields, lines): (Fields, Vec<String>)) -> Result<DeliveryLog, StoreError> {
    let status = match text(&fields, "status")? {
        "delivered" => DeliveryStatus::Delivered,
        "failed" => DeliveryStatus::Failed,
        _ => DeliveryStatus::Pending,
    };
    let attempt = |line: String| {
        let Line { at, status, error, millis } =
            serde_json::from_str(&line).map_err(|_| strange("attempts"))?;
        Ok(Attempted { at, status, error, millis })
    };
    let attempts = lines.into_iter().map(attempt).collect::<Result<_, StoreError>>()?;
    Ok(DeliveryLog { status, attempts, next: optional(&fields, "due")?, hook: read_hook(fields)? })
}

fn text<'a>(fields: &'a Fields, name: &'static str) -> Result<&'a str, StoreError> {
    fields.get(name).map(String::as_str).ok_or_else(|| strange(name))
}

fn number<T: std::str::FromStr>(fields: &Fields, name: &'static str) -> Result<T, StoreError> {
    text(fields, name)?.parse().map_err(|_| strange(name))
}

fn optional<T: std::str::FromStr>(fields: &Fields, name: &'static str) -> Result<Option<T>, StoreError> {
    if fields.contains_key(name) { number(fields, name).map(Some) } else { Ok(None) }
}

fn bytes(digits: &str) -> Option<[u8; 32]> {
    let byte = |n: usize| u8::from_str_radix(digits.get(2 * n..2 * n + 2)?, 16).ok();
    let all: Vec<u8> = (0..32).map_while(byte).collect();
    all.try_into().ok()
}

fn strange(field: &str) -> StoreError {
    StoreError::Failed(format!("a {field} in the Redis is none of ours"))
}
