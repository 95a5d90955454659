//! The flags of the back office.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{Bad, ConfigError};
use crate::jobs::webhook::WebhookConfig;
use crate::jobs::{BucketConfig, DepotConfig, JobsConfig};

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Jobs")]
pub(super) struct JobsFlags {
    /// Where jobs are kept; by default a folder of this user's for this port, and a temporary one for port 0
    #[arg(long, env = "WHISPERWIRE_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Where their recordings wait: a folder, or s3://BUCKET/PREFIX with the usual AWS_… variables; by default there too
    #[arg(long, env = "WHISPERWIRE_RECORDINGS")]
    recordings: Option<String>,
    /// How many jobs are worked on at once; by default as many as there are workers
    #[arg(long, env = "WHISPERWIRE_MAX_CONCURRENT_TASKS")]
    max_concurrent_tasks: Option<usize>,
    /// How many jobs may wait before others are told to come back
    #[arg(long, env = "WHISPERWIRE_MAX_QUEUED_TASKS", default_value_t = 10_000)]
    max_queued_tasks: u64,
    /// How many times work on a job may begin before it is taken for what kills the server
    #[arg(long, env = "WHISPERWIRE_MAX_TASK_ATTEMPTS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    max_task_attempts: u32,
    /// How long finished jobs are kept, in hours
    #[arg(long, env = "WHISPERWIRE_JOBS_KEEP_HOURS", default_value_t = 168.0, value_parser = hours)]
    jobs_keep_hours: f64,
    /// How much of their results is kept, in megabytes; the oldest go first
    #[arg(long, env = "WHISPERWIRE_JOBS_KEEP_MB", default_value_t = 1024)]
    jobs_keep_mb: u64,
    /// After how many seconds without a sign of life a shared job of another server is taken over
    #[arg(long, env = "WHISPERWIRE_JOBS_TAKEOVER_SECONDS", default_value_t = 15, hide = true, value_parser = clap::value_parser!(u64).range(1..=3600))]
    jobs_takeover_seconds: u64,
    /// How often old jobs are looked for, in seconds
    #[arg(long, env = "WHISPERWIRE_JOBS_SWEEP_SECONDS", default_value_t = 60, hide = true)]
    jobs_sweep_seconds: u64,
}

fn hours(text: &str) -> Result<f64, String> {
    let hours = text.parse().ok().filter(|hours| (0.0..=100_000.0).contains(hours));
    hours.ok_or_else(|| "must be from 0 to 100000".into())
}

impl JobsFlags {
    pub(super) fn config(self, port: u16, workers: usize, webhooks: WebhookConfig) -> Bad<JobsConfig> {
        Ok(JobsConfig {
            recordings: self.recordings.as_deref().map(depot).transpose()?,
            folder: self.data_dir.or_else(|| default_folder(port)),
            takeover: Duration::from_secs(self.jobs_takeover_seconds),
            running: self.max_concurrent_tasks.unwrap_or(workers).max(1),
            waiting: self.max_queued_tasks,
            attempts: self.max_task_attempts,
            keep: Duration::from_secs_f64(self.jobs_keep_hours * 3600.0),
            keep_bytes: self.jobs_keep_mb * 1_000_000,
            sweep: Duration::from_secs(self.jobs_sweep_seconds.max(1)),
            webhooks,
        })
    }
}

/// A folder, or a bucket.
fn depot(text: &str) -> Bad<DepotConfig> {
    let Some(place) = text.strip_prefix("s3://") else { return Ok(DepotConfig::Folder(text.into())) };
    let (name, prefix) = place.split_once('/').unwrap_or((place, ""));
    let needed = |variable: &str| {
        let missing = || ConfigError::Bad(format!("--recordings {text} needs {variable} in the environment"));
        set(variable).ok_or_else(missing)
    };
    if name.is_empty() {
        return Err(ConfigError::Bad(format!("--recordings {text} names no bucket")));
    }
    let region = set("AWS_REGION").or_else(|| set("AWS_DEFAULT_REGION")).unwrap_or("us-east-1".to_owned());
    let prefix = prefix.trim_end_matches('/');
    Ok(DepotConfig::Bucket(BucketConfig {
        endpoint: set("AWS_ENDPOINT_URL_S3")
            .or_else(|| set("AWS_ENDPOINT_URL"))
            .unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com")),
        region,
        name: name.to_owned(),
        prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
        key: needed("AWS_ACCESS_KEY_ID")?,
        secret: needed("AWS_SECRET_ACCESS_KEY")?,
        token: set("AWS_SESSION_TOKEN"),
    }))
}

#[expect(clippy::disallowed_methods, reason = "the names that every client of such a service reads")]
fn set(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|value| !value.is_empty())
}

/// Each port has a folder of its own, so that two servers of one user do not meet. Port 0 is another one each time.
fn default_folder(port: u16) -> Option<PathBuf> {
    if port == 0 {
        return None;
    }
    let state = set("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(set("HOME")?).join(".local/state")))
        .or_else(|| Some(PathBuf::from(set("LOCALAPPDATA")?)))?;
    Some(state.join("whisperwire").join(format!("port-{port}")))
}
