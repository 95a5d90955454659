//! Two legs: audio goes up in requests of its own, and events come down on another. For browsers, whose requests
//! cannot do both, and whose event sources come back by themselves.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Extension, Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use whisperwire_protocol::stream::{ClientMessage, Encoding, Settings};
use whisperwire_protocol::{ErrorCode, FieldError};

use super::registry::OpenStream;
use super::sse;
use super::ws::{forgotten, over};
use crate::http::House;
use crate::http::auth::Principal;
use crate::http::error::ApiError;
use crate::http::intake::Intake;

/// More than any settings there are.
const LONGEST_MESSAGE: usize = 512 << 10;

/// `POST /v1/streams`.
pub(in crate::http) async fn create(
    State(house): State<Arc<House>>,
    Extension(principal): Extension<Principal>,
    body: Body,
) -> Result<Response, ApiError> {
    open(&house, &principal, body).await.map_err(ApiError::native)
}

async fn open(house: &House, principal: &Principal, body: Body) -> Result<Response, ApiError> {
    let settings = match text(body).await?.as_str().trim() {
        "" => Settings::default(),
        text => Settings::from_json(text)?,
    };
    let grace = house.config.resume_grace.as_secs_f64();
    let stream = house.open_stream(principal, no_packets(settings)?, grace).await?;
    stream.fed_by_request();
    let location = format!("/v1/streams/{}", stream.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(house.ready(&stream))).into_response())
}

/// `GET /v1/streams/{id}`.
pub(in crate::http) async fn look(
    State(house): State<Arc<House>>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let stream = find(&house, &id)?;
    Ok(Json(house.ready(&stream)).into_response())
}

/// `POST /v1/streams/{id}/audio`.
pub(in crate::http) async fn audio(
    State(house): State<Arc<House>>,
    Extension(intake): Extension<Intake>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Response, ApiError> {
    let stream = find(&house, &id)?;
    stream.fed_by_request();
    sse::feed(&house, &intake, body, &stream, false).await;
    stream.fed_by_request();
    Ok(Json(taken_in(&stream)).into_response())
}

/// `POST /v1/streams/{id}/messages`.
pub(in crate::http) async fn message(
    State(house): State<Arc<House>>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Response, ApiError> {
    obey(&house, &id, body).await.map_err(ApiError::native)
}

async fn obey(house: &House, id: &str, body: Body) -> Result<Response, ApiError> {
    let stream = find(house, id)?;
    stream.fed_by_request();
    let message = ClientMessage::parse(&text(body).await?)?;
    let sender = stream.send().await;
    let taken = match message {
        ClientMessage::Configure(settings) => {
            house.configure(&stream, no_packets(*settings)?).await?;
            return Ok((StatusCode::ACCEPTED, Json(house.ready(&stream))).into_response());
        }
        ClientMessage::Flush => stream.live.flush().await,
        ClientMessage::End => stream.live.end().await,
        ClientMessage::Ping => Ok(()),
    };
    drop(sender);
    taken.map_err(|_| ApiError::new(ErrorCode::Conflict, "The stream takes nothing more."))?;
    Ok((StatusCode::ACCEPTED, Json(taken_in(&stream))).into_response())
}

/// `GET /v1/streams/{id}/events`.
pub(in crate::http) async fn events(
    State(house): State<Arc<House>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let stream = find(&house, &id)?;
    let query = query.unwrap_or_default();
    let named = query.split('&').find_map(|pair| pair.strip_prefix("after="));
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()).or(named);
    let after = match last.map(str::trim).filter(|last| !last.is_empty()) {
        Some(last) => last.parse().map_err(|_| {
            ApiError::from(FieldError::new("after", "after must be the number of a message.")).native()
        })?,
        None => 0,
    };
    let reader = house.registry.read(&stream, after).ok_or_else(|| forgotten().native())?;
    Ok(sse::events(house, reader))
}

/// `DELETE /v1/streams/{id}`.
pub(in crate::http) async fn close(
    State(house): State<Arc<House>>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let stream = find(&house, &id)?;
    house.registry.remove(&stream.id);
    Ok(StatusCode::NO_CONTENT)
}

/// How much of the audio has arrived.
fn taken_in(stream: &OpenStream) -> Value {
    json!({ "received": super::received(stream) })
}

/// A request's body has no messages that could keep packets apart.
pub(super) fn no_packets(settings: Settings) -> Result<Settings, FieldError> {
    match settings.encoding {
        Some(Encoding::Opus) => {
            let message = "Packets need messages; send opus over a WebSocket, or in Ogg or WebM.";
            Err(FieldError::new("encoding", message))
        }
        _ => Ok(settings),
    }
}

fn find(house: &House, id: &str) -> Result<Arc<OpenStream>, ApiError> {
    house.registry.find(id).ok_or_else(|| over().native())
}

async fn text(body: Body) -> Result<String, ApiError> {
    let too_large = |_| ApiError::new(ErrorCode::TooLarge, "The message is longer than 512 KiB.");
    let bytes: Bytes = to_bytes(body, LONGEST_MESSAGE).await.map_err(too_large)?;
    String::from_utf8(bytes.into())
        .map_err(|_| ApiError::new(ErrorCode::InvalidRequest, "The message is not in UTF-8."))
}
