//! OpenAI's endpoint with `async=true`, and the page of a task.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use whisperwire_protocol::FieldError;
use whisperwire_protocol::job::{JobStatus, TaskAccepted, TaskPage};

use crate::dialect::openai::segments;
use crate::engine::Task;
use crate::http::House;
use crate::http::auth::Principal;
use crate::http::error::ApiError;
use crate::http::upload::Upload;
use crate::jobs::wire;
use crate::language::Language;

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
    Ok((StatusCode::ACCEPTED, [("x-task-id", job.id)], Json(accepted)).into_response())
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
    let job = house.jobs.look(principal.id(), &id).await?;
    let transcript = match job.status {
        JobStatus::Completed => Some(house.jobs.result(&job).await?),
        _ => None,
    };
    let segments = transcript.as_ref().map(segments).unwrap_or_default();
    let total = u32::try_from(segments.len()).unwrap_or(u32::MAX);
    let before = u64::from(page - 1) * u64::from(page_size);
    let skipped = usize::try_from(before).unwrap_or(usize::MAX);
    let shown = segments.into_iter().skip(skipped).take(page_size as usize).collect();
    let job = wire(&job, None);
    let body = TaskPage {
        task_id: job.id.clone(),
        status: job.status,
        progress: job.progress,
        language: transcript
            .as_ref()
            .and_then(|heard| heard.language)
            .map(|one| Language::name(one).to_owned()),
        duration: job.duration,
        text: transcript.as_ref().map(crate::transcript::Transcript::text),
        segments: shown,
        page,
        page_size,
        total_segments: total,
        total_pages: total.div_ceil(page_size).max(1),
        created_at: job.created_at,
        started_at: job.started_at,
        completed_at: job.completed_at,
        error: job.error,
    };
    Ok(([("x-task-id", job.id)], Json(body)).into_response())
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
