//! `/v1/jobs`: our own face.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::multipart::MultipartRejection;
use axum::extract::{Extension, Multipart, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use whisperwire_protocol::FieldError;
use whisperwire_protocol::form::quoted;
use whisperwire_protocol::job::{JobDeleted, JobList, JobStatus};

use super::{Format, written};
use crate::engine::Task;
use crate::http::House;
use crate::http::auth::Principal;
use crate::http::error::ApiError;
use crate::http::intake::Intake;
use crate::http::upload;
use crate::jobs::{Job, Jobs, Listing, wire};

/// `POST /v1/jobs`.
pub(in crate::http) async fn create(
    State(house): State<Arc<House>>,
    Extension(principal): Extension<Principal>,
    Extension(intake): Extension<Intake>,
    form: Result<Multipart, MultipartRejection>,
) -> Result<Response, ApiError> {
    accept(&house, &principal, &intake, form).await.map_err(ApiError::native)
}

async fn accept(
    house: &House,
    principal: &Principal,
    intake: &Intake,
    form: Result<Multipart, MultipartRejection>,
) -> Result<Response, ApiError> {
    let mut upload = upload::receive_form(form, intake, &house.config).await?;
    house.count_upload(upload.file.bytes);
    let task = task(&mut upload.fields)?;
    let job = house.submit(principal, task, upload).await?;
    let location = format!("/v1/jobs/{}", job.id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(wire(&job, None))).into_response())
}

/// What is asked for; the field is this face's alone, the others have a route for each task.
fn task(fields: &mut Vec<(String, String)>) -> Result<Task, FieldError> {
    let Some(place) = fields.iter().position(|(name, _)| name == "task") else { return Ok(Task::Transcribe) };
    let (_, value) = fields.remove(place);
    match value.trim() {
        "" | "transcribe" => Ok(Task::Transcribe),
        "translate" => Ok(Task::Translate),
        other => Err(FieldError::new(
            "task",
            format!("task must be transcribe or translate, not {}.", quoted(other)),
        )),
    }
}

/// What may stand behind the `?` of a listing.
#[derive(Deserialize)]
pub(in crate::http) struct Asked {
    status: Option<String>,
    limit: Option<String>,
    after: Option<String>,
}

/// Jobs per page, and the most of them.
const PAGE: usize = 20;
const LONGEST: usize = 100;

/// `GET /v1/jobs`.
pub(in crate::http) async fn list(
    State(house): State<Arc<House>>,
    Extension(principal): Extension<Principal>,
    Query(asked): Query<Asked>,
) -> Result<Json<JobList>, ApiError> {
    page(&house, &principal, asked).await.map_err(ApiError::native)
}

async fn page(house: &House, principal: &Principal, asked: Asked) -> Result<Json<JobList>, ApiError> {
    let status = asked.status.as_deref().map(|name| {
        let names = JobStatus::ALL.map(JobStatus::name).join(", ");
        let message = || format!("status must be one of {names}, not {}.", quoted(name));
        JobStatus::parse(name).ok_or_else(|| FieldError::new("status", message()))
    });
    let limit = asked.limit.as_deref().map(|text| {
        let limit = text.parse().ok().filter(|limit| (1..=LONGEST).contains(limit));
        limit.ok_or_else(|| FieldError::new("limit", format!("limit must be from 1 to {LONGEST}.")))
    });
    let (status, limit) = (status.transpose()?, limit.transpose()?.unwrap_or(PAGE));
    if let Some(after) = &asked.after {
        house.jobs.look(principal.id(), after).await?;
    }
    // One more than asked for tells whether there are more.
    let listing = Listing { status, before: asked.after, limit: limit + 1 };
    let mut jobs = house.jobs.list(principal.id(), listing).await?;
    let has_more = jobs.len() > limit;
    jobs.truncate(limit);
    let data = jobs.iter().map(|job| wire(job, house.jobs.expires(job))).collect();
    Ok(Json(JobList { object: "list".to_owned(), data, has_more }))
}

/// `GET /v1/jobs/{id}`.
pub(in crate::http) async fn look(
    State(house): State<Arc<House>>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let job = house.jobs.look(principal.id(), &id).await.map_err(native)?;
    Ok(Json(wire(&job, house.jobs.expires(&job))).into_response())
}

/// What may stand behind the `?` of a result.
#[derive(Deserialize)]
pub(in crate::http) struct AsWhat {
    format: Option<String>,
}

/// `GET /v1/jobs/{id}/result`.
pub(in crate::http) async fn result(
    State(house): State<Arc<House>>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
    Query(asked): Query<AsWhat>,
) -> Result<Response, ApiError> {
    let written = async {
        let format = asked.format.as_deref().map(Format::parse).transpose()?;
        let job = house.jobs.look(principal.id(), &id).await?;
        written(&job, &house.transcript_of(&job).await?, format)
    };
    written.await.map_err(ApiError::native)
}

/// `DELETE /v1/jobs/{id}`.
pub(in crate::http) async fn delete(
    State(house): State<Arc<House>>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<Json<JobDeleted>, ApiError> {
    let (job, deleted) = house.jobs.delete(principal.id(), &id).await.map_err(native)?;
    Ok(Json(JobDeleted { id: job.id, object: "job".to_owned(), status: job.status, deleted }))
}

/// Comments keep proxies from closing a stream on which nothing happens.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// `GET /v1/jobs/{id}/events`: the job whenever it has changed, until it is over.
pub(in crate::http) async fn events(
    State(house): State<Arc<House>>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let jobs = house.jobs.clone();
    jobs.look(principal.id(), &id).await.map_err(native)?;
    let told = stream::unfold(Some((jobs, principal, id, None)), |state| async {
        let (jobs, principal, id, last) = state?;
        let (name, job) = next(&jobs, &principal, &id, last.as_ref()).await?;
        let event = Event::default().event(name).data(
            serde_json::to_string(&wire(&job, jobs.expires(&job)))
                .expect("a job is plain data with text keys"),
        );
        let over = job.status.is_over();
        Some((Ok::<_, Infallible>(event), (!over).then_some((jobs, principal, id, Some(job)))))
    });
    let unbuffered = [("x-accel-buffering", "no")];
    Ok((unbuffered, Sse::new(told).keep_alive(KeepAlive::new().interval(HEARTBEAT))).into_response())
}

/// The next news of a job: it, and what to call the event. `None` when there will be none.
async fn next(
    jobs: &Jobs,
    principal: &Principal,
    id: &str,
    last: Option<&Job>,
) -> Option<(&'static str, Job)> {
    loop {
        let job = jobs.look(principal.id(), id).await.ok()?;
        if job.status.is_over() {
            return Some((job.status.name(), job));
        }
        if last.is_none_or(|last| (last.status, last.progress) != (job.status, job.progress)) {
            return Some(("progress", job));
        }
        if jobs.is_stopping() {
            return None;
        }
        jobs.changed().await;
    }
}

fn native(error: impl Into<ApiError>) -> ApiError {
    error.into().native()
}
