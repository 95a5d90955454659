//! Jobs and webhooks: work that is accepted now and done later, in our own shape and in two that others brought.
//!
//! Times are ISO-8601 in UTC, progress is in percent, lengths of audio are seconds. A job ends once: whatever is told
//! of it after that says the same.

use serde::{Deserialize, Serialize};

use crate::error::ErrorDetail;
use crate::openai::{Segment, TaskName};

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    /// Accepted, and waiting for its turn.
    Queued,
    /// Being worked on.
    Running,
    /// There is a result.
    Completed,
    /// There will be no result.
    Failed,
    /// Somebody called it off.
    Cancelled,
}

impl JobStatus {
    /// All of them, in the order of a life.
    pub const ALL: [Self; 5] = [Self::Queued, Self::Running, Self::Completed, Self::Failed, Self::Cancelled];

    /// As the wire writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The status of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }

    /// Whether nothing will happen to the job any more.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// `GET /v1/jobs/{id}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Begins with `job_`.
    pub id: String,
    /// `job`.
    pub object: String,
    /// What is asked for.
    pub task: TaskName,
    /// The model as the client named it.
    pub model: String,
    /// Where it is in its life.
    pub status: JobStatus,
    /// 0 to 100; 100 once it is completed, and not before.
    pub progress: f64,
    /// When it was accepted.
    pub created_at: String,
    /// When work on it began; the last time, if a server died over it.
    pub started_at: Option<String>,
    /// When it was over.
    pub completed_at: Option<String>,
    /// When it will be forgotten; nothing before it is over.
    pub expires_at: Option<String>,
    /// How many times work on it began.
    pub attempts: u32,
    /// How long the audio is, once that is known.
    pub duration: Option<f64>,
    /// What was uploaded.
    pub file: JobFile,
    /// Why there is no result.
    pub error: Option<ErrorDetail>,
}

/// What was uploaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFile {
    /// As the client called it.
    pub name: Option<String>,
    /// Its size.
    pub bytes: u64,
}

/// `GET /v1/jobs`: newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobList {
    /// `list`.
    pub object: String,
    /// The jobs.
    pub data: Vec<Job>,
    /// Whether there are older ones: ask again `after` the last one.
    pub has_more: bool,
}

/// `DELETE /v1/jobs/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobDeleted {
    /// Which.
    pub id: String,
    /// `job`.
    pub object: String,
    /// What it was at the end.
    pub status: JobStatus,
    /// Whether it is gone. One that was not over is called off and stays to be looked at.
    pub deleted: bool,
}

/// The answer to `async=true`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskAccepted {
    /// The job.
    pub task_id: String,
    /// Where it is in its life.
    pub status: JobStatus,
    /// One sentence for people.
    pub message: String,
}

/// `GET /v1/audio/transcriptions/{task_id}`: a job with a page of its segments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskPage {
    /// The job.
    pub task_id: String,
    /// Where it is in its life.
    pub status: JobStatus,
    /// 0 to 100.
    pub progress: f64,
    /// The lower-case English name, where it is known.
    pub language: Option<String>,
    /// Seconds of audio, once known.
    pub duration: Option<f64>,
    /// The whole text, once there is one.
    pub text: Option<String>,
    /// Those of this page.
    pub segments: Vec<Segment>,
    /// Counted from 1.
    pub page: u32,
    /// Segments per page.
    pub page_size: u32,
    /// In the whole transcript.
    pub total_segments: u32,
    /// At least 1.
    pub total_pages: u32,
    /// When it was accepted.
    pub created_at: String,
    /// When work on it began.
    pub started_at: Option<String>,
    /// When it was over.
    pub completed_at: Option<String>,
    /// Why there is no result.
    pub error: Option<ErrorDetail>,
}

/// The statuses that clients of a WhisperX server know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhisperXStatus {
    /// Accepted.
    Pending,
    /// Being worked on.
    Processing,
    /// There is a result.
    Completed,
    /// There will be none: it failed, or was called off.
    Failed,
}

impl From<JobStatus> for WhisperXStatus {
    fn from(status: JobStatus) -> Self {
        match status {
            JobStatus::Queued => Self::Pending,
            JobStatus::Running => Self::Processing,
            JobStatus::Completed => Self::Completed,
            JobStatus::Failed | JobStatus::Cancelled => Self::Failed,
        }
    }
}

/// `POST /api/v1/transcribe/upload`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhisperXAccepted {
    /// The job.
    pub task_id: String,
    /// `pending`.
    pub status: WhisperXStatus,
    /// One sentence for people.
    pub message: String,
}

/// `GET /api/v1/transcribe/status/{id}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WhisperXTask {
    /// The job.
    pub task_id: String,
    /// Where it is in its life.
    pub status: WhisperXStatus,
    /// 0 to 100.
    pub progress: f64,
    /// One sentence for people.
    pub message: String,
    /// When it was accepted.
    pub created_at: String,
    /// When work on it began.
    pub started_at: Option<String>,
    /// When it was over.
    pub completed_at: Option<String>,
    /// Why there is no result.
    pub error: Option<String>,
    /// The result, once there is one.
    pub result: Option<WhisperXResult>,
}

/// `GET /api/v1/transcribe/result/{id}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WhisperXResult {
    /// The code of the language; `unknown` where nothing was said.
    pub language: String,
    /// In order of time.
    pub segments: Vec<WhisperXSegment>,
}

/// A stretch of text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WhisperXSegment {
    /// Seconds.
    pub start: f64,
    /// Seconds.
    pub end: f64,
    /// Without space at its edges.
    pub text: String,
    /// Who spoke; `null` while speakers are not told apart.
    pub speaker: Option<String>,
    /// In order of time.
    pub words: Vec<WhisperXWord>,
}

/// A word.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WhisperXWord {
    /// Without space at its edges.
    pub word: String,
    /// Seconds.
    pub start: f64,
    /// Seconds.
    pub end: f64,
    /// Between 0 and 1.
    pub score: f64,
    /// Who spoke; `null` while speakers are not told apart.
    pub speaker: Option<String>,
}

/// `DELETE /api/v1/transcribe/task/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhisperXDeleted {
    /// The job.
    pub task_id: String,
    /// `cancelled` or `deleted`.
    pub status: String,
    /// One sentence for people.
    pub message: String,
}

/// `POST /v1/webhooks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookRequest {
    /// The job whose end is to be told.
    pub task_id: String,
    /// Where to.
    pub url: String,
    /// What to sign with; unsigned if absent.
    #[serde(default)]
    pub secret: Option<String>,
}

/// The answer to it. The secret is not told again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    /// The delivery, which is also the id of the event: begins with `evt_`.
    pub id: String,
    /// The job.
    pub task_id: String,
    /// Where to.
    pub url: String,
    /// When it was asked for.
    pub created_at: String,
}

/// What a webhook brings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WebhookEvent {
    /// The same on every attempt: whoever has seen it has seen this event.
    pub id: String,
    /// `event`.
    pub object: String,
    /// `transcription.completed`, `transcription.failed` or `transcription.cancelled`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Seconds since 1970.
    pub created_at: u64,
    /// The job.
    pub data: WebhookData,
}

/// The job, under both names of its id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WebhookData {
    /// The same as `id`.
    pub task_id: String,
    /// The job.
    #[serde(flatten)]
    pub job: Job,
}

/// How far a delivery has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryStatus {
    /// It waits for the job, or for its next attempt.
    Pending,
    /// The receiver took it.
    Delivered,
    /// It was given up.
    Failed,
}

impl DeliveryStatus {
    /// As the wire writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }
}

/// A webhook and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// As in [`Webhook`].
    pub id: String,
    /// The job.
    pub task_id: String,
    /// Where to.
    pub url: String,
    /// How far it has come.
    pub status: DeliveryStatus,
    /// The log, oldest first; the last ones if there were many.
    pub attempts: Vec<DeliveryAttempt>,
    /// When it is tried again.
    pub next_attempt_at: Option<String>,
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryAttempt {
    /// When.
    pub at: String,
    /// What the receiver answered.
    pub status: Option<u16>,
    /// Why there was no answer, or why it did not count.
    pub error: Option<String>,
    /// How long it took.
    pub milliseconds: u64,
}

/// `GET /v1/webhooks/deliveries`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryList {
    /// `list`.
    pub object: String,
    /// Oldest first.
    pub data: Vec<Delivery>,
}
