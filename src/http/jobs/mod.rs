//! Work that is done later, under three faces: our own (`/v1/jobs`), OpenAI's endpoint with `async=true`, and the
//! one that clients of a WhisperX server know. One store, one lifecycle: what one face accepted, the others show.
//!
//! Contract: nobody sees anybody else's jobs. What an answer would be refused for at once, a job is refused for at
//! once: a bad field, a model nobody knows, bytes that are no audio.

mod native;
mod openai;
mod webhooks;
mod whisperx;

pub(super) use self::native::{create, delete, events, list, look, result};
pub(super) use self::openai::{later, task};
pub(super) use self::webhooks::{deliveries, redeliver, register};
pub(super) use self::whisperx::{remove, status, transcript, upload};

use axum::http::header;
use axum::response::{IntoResponse, Response};
use whisperwire_protocol::form::{FieldError, ResponseFormat, quoted};
use whisperwire_protocol::job::JobStatus;
use whisperwire_protocol::openai::TaskName;
use whisperwire_protocol::{ErrorCode, TranscriptionForm, captions};

use super::House;
use super::auth::Principal;
use super::error::ApiError;
use super::upload::{Recording, Upload};
use crate::dialect::openai::{as_captions, order, render};
use crate::engine::Task;
use crate::jobs::{Job, JobsError, StoreError, Submission, Target};
use crate::transcript::Transcript;

impl From<JobsError> for ApiError {
    fn from(error: JobsError) -> Self {
        match error {
            JobsError::Unknown => Self::new(ErrorCode::NotFound, "There is no such job."),
            JobsError::Expired => {
                Self::new(ErrorCode::Gone, "The job was kept for its time and is forgotten.")
            }
            JobsError::Full(waiting) => {
                let message = format!("{waiting} jobs are waiting already. Come back later.");
                Self::new(ErrorCode::Overloaded, message).after(FULL)
            }
            JobsError::Target(why) => Self::new(ErrorCode::InvalidRequest, sentence(&why)).of("webhook_url"),
            JobsError::Secret(why) => {
                Self::new(ErrorCode::InvalidRequest, sentence(&why)).of("webhook_secret")
            }
            JobsError::Stopping => Self::new(ErrorCode::Draining, "The server is stopping."),
            JobsError::Store(StoreError::Away) => {
                Self::new(ErrorCode::Overloaded, "The store of jobs cannot be reached for now.").after(AWAY)
            }
            JobsError::Store(error) => Self::internal(error),
            JobsError::Depot(error) => Self::internal(error),
        }
    }
}

/// When to come back to a queue that is full, in seconds.
const FULL: u64 = 30;
/// When to come back to a store that is away.
const AWAY: u64 = 2;

fn sentence(message: &str) -> String {
    super::error::sentence(message.trim_end_matches('.'))
}

impl House {
    /// Accepts an upload as a job.
    async fn submit(&self, principal: &Principal, task: Task, upload: Upload) -> Result<Job, ApiError> {
        let Upload { fields, file } = upload;
        let form = TranscriptionForm::from_fields(&fields, task == Task::Translate)?;
        if !self.shelf.takes_placeholders() {
            form.check()?;
        }
        if form.stream {
            let message = "A job is not streamed: ask for its events instead.";
            return Err(FieldError::new("stream", message).into());
        }
        self.limits.hear(&self.keys.owner(principal.id())).await?;
        // It is loaded when its turn has come. What it can do is known before.
        let model = self.shelf.look(&self.model_name(Some(&form.model))?).await?;
        order(&form, &model.traits, task)?;
        if form.webhook_secret.is_some() && form.webhook_url.is_none() {
            return Err(FieldError::new("webhook_secret", "webhook_secret needs a webhook_url.").into());
        }
        let webhook = form.webhook_url.map(|url| Target { url, secret: form.webhook_secret });
        let Recording { file, name, bytes, sha256 } = file;
        // Bytes that are no audio are refused now, and not by an event that somebody has to wait for.
        let head = file.try_clone().map_err(ApiError::internal)?;
        drop(self.shelf.open(head).await?);
        let submission = Submission {
            owner: principal.id().to_string(),
            task: match task {
                Task::Transcribe => TaskName::Transcribe,
                Task::Translate => TaskName::Translate,
            },
            model: form.model,
            fields: fields.into_iter().filter(|(name, _)| is_kept(name)).collect(),
            file,
            file_name: name,
            bytes,
            sha256,
            webhook,
        };
        Ok(self.jobs.submit(submission).await?)
    }

    /// The transcript of a job that has one.
    async fn transcript_of(&self, job: &Job) -> Result<Transcript, ApiError> {
        let message = match job.status {
            JobStatus::Completed => return Ok(self.jobs.result(job).await?),
            JobStatus::Queued | JobStatus::Running => {
                format!("The job is {}; its result is not there yet.", job.status.name())
            }
            JobStatus::Cancelled => "The job was cancelled.".to_owned(),
            JobStatus::Failed => {
                let why = job.error.as_ref().map_or("", |error| error.message.as_str());
                format!("The job failed. {why}").trim_end().to_owned()
            }
        };
        Err(ApiError::new(ErrorCode::Conflict, message))
    }
}

/// Which fields are written down: not the secret, which is kept with the webhook, and not recordings of known
/// speakers, which change nothing.
fn is_kept(name: &str) -> bool {
    !name.starts_with("webhook_") && !name.starts_with("known_speaker_references")
}

/// How a result is written down.
enum Format {
    OpenAi(ResponseFormat),
    Tsv,
}

impl Format {
    fn parse(name: &str) -> Result<Self, FieldError> {
        if name == "tsv" {
            return Ok(Self::Tsv);
        }
        let known = ResponseFormat::ALL.into_iter().find(|format| format.name() == name);
        known.map(Self::OpenAi).ok_or_else(|| {
            let names = ResponseFormat::ALL.map(ResponseFormat::name).join(", ");
            FieldError::new("format", format!("format must be one of {names}, tsv, not {}.", quoted(name)))
        })
    }
}

/// A result, as its job asked for it or as somebody asks now.
fn written(job: &Job, transcript: &Transcript, format: Option<Format>) -> Result<Response, ApiError> {
    let task = match job.task {
        TaskName::Transcribe => Task::Transcribe,
        TaskName::Translate => Task::Translate,
    };
    let mut form = TranscriptionForm::from_fields(&job.fields, task == Task::Translate)?;
    match format {
        Some(Format::Tsv) => {
            let tsv = "text/tab-separated-values; charset=utf-8";
            return Ok(
                ([(header::CONTENT_TYPE, tsv)], captions::tsv(&as_captions(transcript))).into_response()
            );
        }
        Some(Format::OpenAi(format)) => form.response_format = format,
        None => {}
    }
    let rendered = render(transcript, &form, task, None);
    Ok(([(header::CONTENT_TYPE, rendered.content_type)], rendered.body).into_response())
}
