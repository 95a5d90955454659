//! What every request is wrapped in: an id, a span that its lines in the log stand in, a net for panics, and a watch on
//! its body.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use tracing::Instrument;

use super::auth::Principal;
use super::error::{ApiError, Cause};
use super::intake::Intake;
use crate::telemetry::{adopt, request_span};

/// Asked every few seconds by those who look after servers.
const PROBES: [&str; 4] = ["/livez", "/readyz", "/health", "/metrics"];

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
    let _inside = span.enter();
    let mut response = answer.unwrap_or_else(|_| ApiError::internal("a handler panicked").into_response());
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
