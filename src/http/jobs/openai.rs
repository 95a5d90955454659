//! OpenAI's endpoint with `async=true`, and the page of a task: of a job, or of an answer that was given at once.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use whisperwire_protocol::error::ErrorDetail;
use whisperwire_protocol::job::{JobStatus, TaskAccepted, TaskPage};
use whisperwire_protocol::{ErrorCode, FieldError};

use crate::dialect::openai::segments;
use crate::engine::Task;
use crate::http::House;
use crate::http::auth::Principal;
use crate::http::cached::{TASK_ID, Ticket};
use crate::http::error::ApiError;
use crate::http::upload::Upload;
use crate::jobs::{time, wire};
use crate::language::Language;
use crate::transcript::Transcript;

/// Accepts a form that asked for its answer later.
pub(in crate::http) async fn later(
    house: &House,
    principal: &Principal,
    task: Task,
    upload: Upload,
) -> Result<Response, ApiError> {
    let job = house.submit(principal, task, upload).await?;
    let accepted = TaskAccepted {
        message: format!("Accepted. Ask GET /v1/audio/transcriptions/{} for it.", job.id),
        task_id: job.id.clone(),
        status: job.status,
    };
    Ok((StatusCode::ACCEPTED, [(TASK_ID, job.id)], Json(accepted)).into_response())
}

/// Which page is asked for.
#[derive(Deserialize)]
pub(in crate::http) struct Asked {
    page: Option<String>,
    page_size: Option<String>,
}

/// Segments per page, and the most of them.
const PAGE: u32 = 50;
const LONGEST: u32 = 500;

/// `GET /v1/audio/transcriptions/{task_id}`.
pub(in crate::http) async fn task(
    State(house): State<Arc<House>>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Response, ApiError> {
    let page = number("page", asked.page.as_deref(), u32::MAX)?.unwrap_or(1);
    let page_size = number("page_size", asked.page_size.as_deref(), LONGEST)?.unwrap_or(PAGE);
    let (head, transcript) = if Ticket::is(&id) {
        answered(&house, &principal, id).await?
    } else {
        accepted(&house, &principal, &id).await?
    };
    let transcript = transcript.as_deref();
    let segments = transcript.map(segments).unwrap_or_default();
    let total = u32::try_from(segments.len()).unwrap_or(u32::MAX);
    let before = u64::from(page - 1) * u64::from(page_size);
    let skipped = usize::try_from(before).unwrap_or(usize::MAX);
    let shown = segments.into_iter().skip(skipped).take(page_size as usize).collect();
    let Head { task_id, status, progress, duration, created_at, started_at, completed_at, error } = head;
    let told = [(TASK_ID, task_id.clone())];
    let body = TaskPage {
        task_id,
        status,
        progress,
        language: transcript.and_then(|heard| heard.language).map(|one| Language::name(one).to_owned()),
        duration,
        text: transcript.map(Transcript::text),
        segments: shown,
        page,
        page_size,
        total_segments: total,
        total_pages: total.div_ceil(page_size).max(1),
        created_at,
        started_at,
        completed_at,
        error,
    };
    Ok((told, Json(body)).into_response())
}

/// What a page says of its task, whatever page it is.
struct Head {
    task_id: String,
    status: JobStatus,
    progress: f64,
    duration: Option<f64>,
    created_at: String,
    started_at: Option<String>,
    completed_at: Option<String>,
    error: Option<ErrorDetail>,
}

/// A job, and what it has brought.
async fn accepted(
    house: &House,
    principal: &Principal,
    id: &str,
) -> Result<(Head, Option<Arc<Transcript>>), ApiError> {
    let job = house.jobs.look(principal.id(), id).await?;
    let transcript = match job.status {
        JobStatus::Completed => Some(Arc::new(house.jobs.result(&job).await?)),
        _ => None,
    };
    let job = wire(&job, None);
    let head = Head {
        task_id: job.id,
        status: job.status,
        progress: job.progress,
        duration: job.duration,
        created_at: job.created_at,
        started_at: job.started_at,
        completed_at: job.completed_at,
        error: job.error,
    };
    Ok((head, transcript))
}

/// What was answered at once, for as long as it is kept.
async fn answered(
    house: &House,
    principal: &Principal,
    id: String,
) -> Result<(Head, Option<Arc<Transcript>>), ApiError> {
    let Some((receipt, transcript)) = house.cache.by_receipt(principal.id(), &id).await else {
        return Err(ApiError::new(ErrorCode::NotFound, "There is no such task, or not any more."));
    };
    let Some(transcript) = transcript else {
        return Err(ApiError::new(ErrorCode::Gone, "The transcript of this task is not kept any more."));
    };
    let head = Head {
        task_id: id,
        status: JobStatus::Completed,
        progress: 100.0,
        duration: Some(transcript.duration.seconds()),
        created_at: time(receipt.began),
        started_at: Some(time(receipt.began)),
        completed_at: Some(time(receipt.ended)),
        error: None,
    };
    Ok((head, Some(transcript)))
}

fn number(name: &str, text: Option<&str>, most: u32) -> Result<Option<u32>, FieldError> {
    let read = |text: &str| {
        let number = text.trim().parse().ok().filter(|number| (1..=most).contains(number));
        number.ok_or_else(|| match most {
            u32::MAX => FieldError::new(name, format!("{name} must be a number from 1 on.")),
            most => FieldError::new(name, format!("{name} must be a number from 1 to {most}.")),
        })
    };
    text.map(read).transpose()
}
