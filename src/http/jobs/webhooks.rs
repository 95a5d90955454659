//! `/v1/webhooks`: whom to tell, and what became of it.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use whisperwire_protocol::job::{DeliveryList, Webhook, WebhookRequest};
use whisperwire_protocol::{ErrorCode, FieldError};

use crate::http::House;
use crate::http::auth::Principal;
use crate::http::error::ApiError;
use crate::jobs::{Target, time};

/// More than any registration there is.
const LONGEST: usize = 64 << 10;

/// `POST /v1/webhooks`.
pub(in crate::http) async fn register(
    State(house): State<Arc<House>>,
    Extension(principal): Extension<Principal>,
    body: Body,
) -> Result<Response, ApiError> {
    add(&house, &principal, body).await.map_err(ApiError::native)
}

async fn add(house: &House, principal: &Principal, body: Body) -> Result<Response, ApiError> {
    let read = tokio::time::timeout(house.config.upload_timeout, to_bytes(body, LONGEST)).await;
    let body = match read {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return Err(ApiError::new(ErrorCode::TooLarge, "A webhook is a short JSON object.")),
        Err(_) => return Err(ApiError::new(ErrorCode::RequestTimeout, "The body stood still for too long.")),
    };
    let asked: WebhookRequest = serde_json::from_slice(&body).map_err(|error| {
        // What is wrong, and where, but not what stood there: it may be a secret.
        let message = format!("The body must be {{\"task_id\", \"url\", \"secret\"?}} ({}).", place(&error));
        ApiError::from(FieldError::new("", message))
    })?;
    let WebhookRequest { task_id, url, secret } = asked;
    let target = Target { url: url.clone(), secret };
    let (id, created) = house.jobs.add_webhook(principal.id(), &task_id, target).await.map_err(|error| {
        let error = ApiError::from(error);
        match [("webhook_url", "url"), ("webhook_secret", "secret")]
            .iter()
            .find(|(long, _)| error.is_about(long))
        {
            Some((_, short)) => error.of(short),
            None => error,
        }
    })?;
    let webhook = Webhook { id, task_id, url, created_at: time(created) };
    Ok((StatusCode::CREATED, Json(webhook)).into_response())
}

fn place(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Data => "a key is missing or of another type",
        _ => "it is no JSON",
    };
    format!("{what}, line {} column {}", error.line(), error.column())
}

/// Whose deliveries are asked for.
#[derive(Deserialize)]
pub(in crate::http) struct Asked {
    task_id: Option<String>,
}

/// `GET /v1/webhooks/deliveries`.
pub(in crate::http) async fn deliveries(
    State(house): State<Arc<House>>,
    Extension(principal): Extension<Principal>,
    Query(asked): Query<Asked>,
) -> Result<Json<DeliveryList>, ApiError> {
    let Some(task) = asked.task_id else {
        return Err(ApiError::from(FieldError::new("task_id", "task_id is missing.")).native());
    };
    let data =
        house.jobs.deliveries(principal.id(), &task).await.map_err(|error| ApiError::from(error).native())?;
    Ok(Json(DeliveryList { object: "list".to_owned(), data }))
}

/// `POST /v1/webhooks/deliveries/{id}/redeliver`.
pub(in crate::http) async fn redeliver(
    State(house): State<Arc<House>>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let again =
        house.jobs.redeliver(principal.id(), &id).await.map_err(|error| ApiError::from(error).native())?;
    let Some(delivery) = again else {
        let message = "The job is not over, so there is nothing to deliver yet.";
        return Err(ApiError::new(ErrorCode::Conflict, message).native());
    };
    Ok((StatusCode::ACCEPTED, Json(delivery)).into_response())
}
