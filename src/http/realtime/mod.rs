//! OpenAI's Realtime API over HTTP: the socket of a transcription session, and the keys that browsers are lent for
//! one. What is said on the socket is `dialect::realtime`'s business.

mod secrets;
mod socket;

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Extension, RawQuery, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tracing::Instrument;
use whisperwire_protocol::realtime::{
    BETA_SUBPROTOCOL, ClientEvent, ClientEventKind, ClientSecretRequest, ClientSecretResponse, ExpiresAfter,
    MAX_MESSAGE, SUBPROTOCOL, SessionSettings, Shape,
};
use whisperwire_protocol::{ErrorCode, FieldError};

pub(super) use self::secrets::Secrets;
use self::socket::Session;
use super::auth::Principal;
use super::error::ApiError;
use super::websocket::{READ_BUFFER, is_handshake, no_handshake};
use super::{House, auth, epoch_seconds};
use crate::dialect::realtime::{Conversation, order};
use crate::pipeline::{LiveWork, Transcriber};

/// More than any session there is.
const LONGEST_SESSION: usize = 512 << 10;
/// How long a key is good for, in seconds, if nothing else is asked for; and what may be asked for.
const GA_SECONDS: u64 = 600;
const BETA_SECONDS: u64 = 60;
const LEAST_SECONDS: u64 = 10;
const MOST_SECONDS: u64 = 7_200;

/// `GET /v1/realtime`.
pub(super) async fn connect(
    State(house): State<Arc<House>>,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    house.refuse_while_stopping()?;
    let (intent, model) = asked(query.as_deref())?;
    if intent.is_some_and(|intent| intent != "transcription" && intent != "realtime") {
        return Err(FieldError::new("intent", "intent must be transcription.").into());
    }
    let bound = auth::brought(&headers).and_then(|key| house.secrets.find(key));
    let settings = bound.unwrap_or_default();
    let settings = match &model {
        Some(model) if settings.model.is_none() => settings.with_model(model),
        _ => settings,
    };
    let transcriber = house.transcriber(settings.model.as_deref()).await?;
    let mut work = realtime_work(&transcriber, &settings)?;
    work.work = work.work.with_meter(house.limits.meter(&principal));
    let permit = house.limits.stream(&principal).await?;
    let slot = transcriber.admit_stream()?;
    let Some(upgrade) = upgrade.ok().filter(|_| is_handshake(&headers)) else {
        return Ok(no_handshake(&headers, |error| error));
    };
    let live = transcriber.open_stream(slot, work, house.stop.clone(), &house.streams);
    let session = Session { live, transcriber };
    let conversation =
        Conversation::new(session_id(), shape(&headers), settings, house.model(), house.session_end());
    // The task that the upgrade starts is nobody's child: the server must know of it before it begins.
    let token = house.streams.token();
    let upgrade = upgrade
        .protocols([SUBPROTOCOL])
        .read_buffer_size(READ_BUFFER)
        .max_message_size(MAX_MESSAGE)
        .max_frame_size(MAX_MESSAGE);
    let span = tracing::Span::current();
    Ok(upgrade.on_upgrade(move |socket| {
        let talk = async move {
            socket::talk(&house, socket, session, conversation).await;
            drop((permit, token));
        };
        talk.instrument(span)
    }))
}

/// `POST /v1/realtime/client_secrets`.
pub(super) async fn client_secrets(
    State(house): State<Arc<House>>,
    Extension(principal): Extension<Principal>,
    body: Body,
) -> Result<Response, ApiError> {
    let request = read(body).await?;
    object(&request, "expires_after", "expires_after")?;
    let request: ClientSecretRequest = serde_json::from_value(request)
        .map_err(|error| FieldError::new("expires_after", format!("The body cannot be read: {error}.")))?;
    let seconds = lifetime(request.expires_after, GA_SECONDS, "expires_after")?;
    let session = request.session.unwrap_or_else(|| json!({}));
    let settings = SessionSettings::default().update(Shape::Ga, &session)?;
    realtime_work(&house.transcriber(settings.model.as_deref()).await?, &settings)?;
    let (value, expires_at) =
        (house.secrets.lend(settings.clone(), seconds, principal)?, epoch_seconds() + seconds);
    let session = settings.to_json(Shape::Ga, &session_id(), house.model(), house.session_end());
    Ok(Json(ClientSecretResponse { value, expires_at, session }).into_response())
}

/// `POST /v1/realtime/transcription_sessions`, the same in the beta shape.
pub(super) async fn transcription_sessions(
    State(house): State<Arc<House>>,
    Extension(principal): Extension<Principal>,
    body: Body,
) -> Result<Response, ApiError> {
    let session = read(body).await?;
    let secret = object(&session, "client_secret", "client_secret")?;
    let expires =
        secret.map(|secret| object(secret, "expires_at", "client_secret.expires_at")).transpose()?;
    let expires = expires.flatten().cloned().map(serde_json::from_value);
    let expires = expires.transpose().map_err(|error| {
        FieldError::new("client_secret.expires_at", format!("The body cannot be read: {error}."))
    })?;
    let seconds = lifetime(expires, BETA_SECONDS, "client_secret.expires_at")?;
    let settings = SessionSettings::default().update(Shape::Beta, &session)?;
    realtime_work(&house.transcriber(settings.model.as_deref()).await?, &settings)?;
    let (value, expires_at) =
        (house.secrets.lend(settings.clone(), seconds, principal)?, epoch_seconds() + seconds);
    let mut session = settings.to_json(Shape::Beta, &session_id(), house.model(), house.session_end());
    session["client_secret"] = json!({ "value": value, "expires_at": expires_at });
    Ok(Json(session).into_response())
}

/// What the pipeline is to do for a session with this model, or why it cannot be done.
fn realtime_work(transcriber: &Transcriber, settings: &SessionSettings) -> Result<LiveWork, ApiError> {
    let order = order(settings, transcriber.traits())?;
    let work = transcriber.work(order.options, order.language).cut_as(order.endpointing);
    let (format, held_back) = (order.format, order.held_back);
    Ok(LiveWork { work, partials: true, held_back, format, resumable: false })
}

/// The model that a client's message would give its session, if it would give it another one. The inner `None` is the
/// server's own.
fn model_wanted(text: &str, settings: &SessionSettings) -> Option<Option<String>> {
    // Audio comes in thousands of messages, and need not be read twice.
    if !text.contains("session.update") {
        return None;
    }
    let ClientEventKind::Update { shape, session } = ClientEvent::parse(text).ok()?.kind else { return None };
    let model = settings.update(shape, &session).ok()?.model;
    (model != settings.model).then_some(model)
}

impl House {
    /// What answers where a session names no model.
    fn model(&self) -> &str {
        self.shelf.default_name()
    }

    /// When a session that begins now is over at the latest, in seconds since 1970: its audio is then too long.
    fn session_end(&self) -> u64 {
        epoch_seconds() + self.shelf.longest().seconds() as u64
    }
}

/// Intent and model of a query; what else is in it is for other kinds of sessions.
fn asked(query: Option<&str>) -> Result<(Option<String>, Option<String>), FieldError> {
    let pairs: Vec<(String, String)> = serde_urlencoded::from_str(query.unwrap_or_default())
        .map_err(|_| FieldError::new("", "The query string cannot be read."))?;
    let find = |name: &str| {
        let named = pairs.iter().find(|(key, value)| key == name && !value.is_empty());
        named.map(|(_, value)| value.clone())
    };
    Ok((find("intent"), find("model")))
}

fn shape(headers: &HeaderMap) -> Shape {
    let lists = |name: &str, wanted: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| value.trim() == wanted)
    };
    match lists("openai-beta", "realtime=v1")
        || lists(header::SEC_WEBSOCKET_PROTOCOL.as_str(), BETA_SUBPROTOCOL)
    {
        true => Shape::Beta,
        false => Shape::Ga,
    }
}

async fn read(body: Body) -> Result<Value, ApiError> {
    let bytes = to_bytes(body, LONGEST_SESSION)
        .await
        .map_err(|_| ApiError::new(ErrorCode::TooLarge, "The body is too large, or did not arrive."))?;
    if bytes.trim_ascii().is_empty() {
        return Ok(json!({}));
    }
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|error| FieldError::new("", format!("The body is no JSON: {error}.")))?;
    if !value.is_object() {
        return Err(FieldError::new("", "The body must be a JSON object.").into());
    }
    Ok(value)
}

/// What stands under a name, unless it is null. The library would read a list as an object's values.
fn object<'a>(value: &'a Value, name: &str, field: &str) -> Result<Option<&'a Value>, FieldError> {
    match value.get(name).filter(|inner| !inner.is_null()) {
        Some(inner) if !inner.is_object() => {
            Err(FieldError::new(field, format!("{field} must be an object.")))
        }
        inner => Ok(inner),
    }
}

fn lifetime(expires: Option<ExpiresAfter>, usual: u64, field: &str) -> Result<u64, FieldError> {
    let expires = expires.unwrap_or_default();
    if expires.anchor.is_some_and(|anchor| anchor != "created_at") {
        return Err(FieldError::new(format!("{field}.anchor"), "anchor must be created_at."));
    }
    let seconds = expires.seconds.unwrap_or(usual);
    if !(LEAST_SECONDS..=MOST_SECONDS).contains(&seconds) {
        let message = format!("seconds must be from {LEAST_SECONDS} to {MOST_SECONDS}.");
        return Err(FieldError::new(format!("{field}.seconds"), message));
    }
    Ok(seconds)
}

fn session_id() -> String {
    format!("sess_{}", uuid::Uuid::new_v4().simple())
}
