//! The flags of the back office.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::jobs::JobsConfig;
use crate::jobs::webhook::WebhookConfig;

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Jobs")]
pub(super) struct JobsFlags {
    /// Where jobs are kept; by default a folder of this user's for this port, and a temporary one for port 0
    #[arg(long, env = "WHISPERWIRE_DATA_DIR")]
    data_dir: Option<PathBuf>,
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
    /// How often old jobs are looked for, in seconds
    #[arg(long, env = "WHISPERWIRE_JOBS_SWEEP_SECONDS", default_value_t = 60, hide = true)]
    jobs_sweep_seconds: u64,
}

fn hours(text: &str) -> Result<f64, String> {
    let hours = text.parse().ok().filter(|hours| (0.0..=100_000.0).contains(hours));
    hours.ok_or_else(|| "must be from 0 to 100000".into())
}

impl JobsFlags {
    pub(super) fn config(self, port: u16, workers: usize, webhooks: WebhookConfig) -> JobsConfig {
        JobsConfig {
            folder: self.data_dir.or_else(|| default_folder(port)),
            running: self.max_concurrent_tasks.unwrap_or(workers).max(1),
            waiting: self.max_queued_tasks,
            attempts: self.max_task_attempts,
            keep: Duration::from_secs_f64(self.jobs_keep_hours * 3600.0),
            keep_bytes: self.jobs_keep_mb * 1_000_000,
            sweep: Duration::from_secs(self.jobs_sweep_seconds.max(1)),
            webhooks,
        }
    }
}

/// Each port has a folder of its own, so that two servers of one user do not meet. Port 0 is another one each time.
#[expect(clippy::disallowed_methods, reason = "where a user's files are is not a setting of this server")]
fn default_folder(port: u16) -> Option<PathBuf> {
    if port == 0 {
        return None;
    }
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME")
        .or_else(|| Some(set("HOME")?.join(".local/state")))
        .or_else(|| set("LOCALAPPDATA"))?;
    Some(state.join("whisperwire").join(format!("port-{port}")))
}
