//! The face that clients of a WhisperX server know: `/api/v1/transcribe/…`.

use std::sync::Arc;

use axum::Json;
use axum::extract::multipart::MultipartRejection;
use axum::extract::{Extension, Multipart, Path, State};
use whisperwire_protocol::job::{
    JobStatus, WhisperXAccepted, WhisperXDeleted, WhisperXResult, WhisperXStatus, WhisperXTask,
};

use crate::dialect::whisperx;
use crate::engine::Task;
use crate::http::House;
use crate::http::auth::Principal;
use crate::http::error::ApiError;
use crate::http::intake::Intake;
use crate::http::upload as form;
use crate::jobs::wire;

/// What is asked for where no model is named.
const MODEL: &str = "whisper-1";

/// `POST /api/v1/transcribe/upload`.
pub(in crate::http) async fn upload(
    State(house): State<Arc<House>>,
    Extension(principal): Extension<Principal>,
    Extension(intake): Extension<Intake>,
    form: Result<Multipart, MultipartRejection>,
) -> Result<Json<WhisperXAccepted>, ApiError> {
    let mut upload = form::receive_form(form, &intake, &house.config).await?;
    house.count_upload(upload.file.bytes);
    if !upload.fields.iter().any(|(name, value)| name == "model" && !value.trim().is_empty()) {
        upload.fields.retain(|(name, _)| name != "model");
        upload.fields.push(("model".to_owned(), MODEL.to_owned()));
    }
    let job = house.submit(&principal, Task::Transcribe, upload).await?;
    Ok(Json(WhisperXAccepted {
        message: "Accepted; it waits for its turn.".to_owned(),
        status: WhisperXStatus::Pending,
        task_id: job.id,
    }))
}

/// `GET /api/v1/transcribe/status/{id}`.
pub(in crate::http) async fn status(
    State(house): State<Arc<House>>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<Json<WhisperXTask>, ApiError> {
    let job = house.jobs.look(principal.id(), &id).await?;
    let result = match job.status {
        JobStatus::Completed => Some(whisperx::result(&house.jobs.result(&job).await?)),
        _ => None,
    };
    let message = match job.status {
        JobStatus::Queued => "It waits for its turn.",
        JobStatus::Running => "It is being transcribed.",
        JobStatus::Completed => "It is done.",
        JobStatus::Failed => "It failed.",
        JobStatus::Cancelled => "It was cancelled.",
    };
    let job = wire(&job, None);
    let error = match job.status {
        JobStatus::Cancelled => Some(message.to_owned()),
        _ => job.error.map(|error| error.message),
    };
    Ok(Json(WhisperXTask {
        task_id: job.id,
        status: job.status.into(),
        progress: job.progress,
        message: message.to_owned(),
        created_at: job.created_at,
        started_at: job.started_at,
        completed_at: job.completed_at,
        error,
        result,
    }))
}

/// `GET /api/v1/transcribe/result/{id}`.
pub(in crate::http) async fn transcript(
    State(house): State<Arc<House>>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<Json<WhisperXResult>, ApiError> {
    let job = house.jobs.look(principal.id(), &id).await?;
    Ok(Json(whisperx::result(&house.transcript_of(&job).await?)))
}

/// `DELETE /api/v1/transcribe/task/{id}`.
pub(in crate::http) async fn remove(
    State(house): State<Arc<House>>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<Json<WhisperXDeleted>, ApiError> {
    let (job, deleted) = house.jobs.delete(principal.id(), &id).await?;
    let (status, message) = match deleted {
        true => ("deleted", "The task and its result are gone."),
        false => ("cancelled", "The task was cancelled."),
    };
    Ok(Json(WhisperXDeleted { task_id: job.id, status: status.to_owned(), message: message.to_owned() }))
}
