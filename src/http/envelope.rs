//! What every request is wrapped in: an id, a span that its lines in the log stand in, a net for panics, and a watch on
//! its body.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use tracing::Instrument;
use whisperwire_protocol::ErrorCode;

use super::auth::Principal;
use super::error::{ApiError, Cause, sentence};
use super::intake::Intake;
use crate::telemetry::{adopt, request_span};

/// Asked every few seconds by those who look after servers.
const PROBES: [&str; 4] = ["/livez", "/readyz", "/health", "/metrics"];

/// More than the library says about anything.
const LONGEST_REFUSAL: usize = 4 << 10;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The outermost layer. The query and the headers are not logged: they may hold keys.
pub(super) async fn wrap(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = format!("req_{}", uuid::Uuid::now_v7().simple());
    let (method, path) = (request.method().clone(), nameless(request.uri().path()));
    let (mut parts, body) = request.into_parts();
    let intake = Intake::new(body, &parts.headers);
    parts.extensions.insert(intake.clone());
    let span = request_span(&id, method.as_str(), &path);
    adopt(&span, parts.headers.get("traceparent").and_then(|value| value.to_str().ok()));
    let request = Request::from_parts(parts, intake.body());
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone()).await;
    intake.hear_out();
    let response = answer.unwrap_or_else(|_| ApiError::internal("a handler panicked").into_response());
    let mut response = in_our_words(response).await;
    let _inside = span.enter();
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let status = response.status().as_u16();
    let ms = started.elapsed().as_millis();
    let key = response.extensions().get::<Principal>().map(Principal::called);
    match response.extensions().get::<Cause>() {
        Some(Cause(cause)) => tracing::error!(status, ms, key, cause, "answered"),
        None if PROBES.contains(&path.as_str()) => tracing::debug!(status, ms, "answered"),
        None => tracing::info!(status, ms, key, "answered"),
    }
    response
}

/// What the library refuses by itself, as a path or a query that is no text, it refuses in plain text.
async fn in_our_words(response: Response) -> Response {
    let kind = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if !response.status().is_client_error() || !kind.starts_with(b"text/plain") {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let said = to_bytes(body, LONGEST_REFUSAL).await.unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let told = ApiError::new(ErrorCode::InvalidRequest, sentence(said.trim_end_matches('.')));
    let (told, body) = told.into_response().into_parts();
    parts.status = told.status;
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.extend(told.headers);
    Response::from_parts(parts, body)
}

/// A path for the log. Whoever knows the id of a live stream may listen to it, so it is left out.
fn nameless(path: &str) -> String {
    const STREAMS: &str = "/v1/streams/";
    let Some(id) = path.strip_prefix(STREAMS) else { return path.to_owned() };
    let rest = id.find('/').map_or("", |slash| &id[slash..]);
    format!("{STREAMS}…{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_does_not_name_streams() {
        assert_eq!(nameless("/v1/streams/stream_abc/events"), "/v1/streams/…/events");
        assert_eq!(nameless("/v1/streams/stream_abc"), "/v1/streams/…");
        assert_eq!(nameless("/v1/models/a/b"), "/v1/models/a/b");
    }
}
