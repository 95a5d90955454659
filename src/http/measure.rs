//! The layer that counts requests. It names a route as the router writes it, and never what a client wrote: figures
//! must not grow with what strangers ask for.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use tracing::Span;
use whisperwire_protocol::ErrorCode;

use super::House;
use super::error::ApiError;
use crate::telemetry::{Gauge, Metrics, answered, table};

/// The error that an answer tells, on its way out in a response's extensions.
#[derive(Clone, Copy)]
pub(super) struct Told(pub(super) ErrorCode);

/// The layer.
pub(super) async fn count(State(house): State<Arc<House>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    let mut open = Open {
        route: route.map_or("none", MatchedPath::as_str).to_owned(),
        method: known(request.method()),
        began: Instant::now(),
        // A client that leaves drops this future.
        status: LEFT,
        metrics: house.metrics.clone(),
        waiting: house.waiting.clone(),
    };
    open.waiting.increment(1);
    let response = next.run(request).await;
    open.status = response.status().as_u16();
    answered(&Span::current(), &open.route, open.status);
    if let Some(Told(code)) = response.extensions().get() {
        house.count_error(*code);
    }
    response
}

impl House {
    /// An error was told, on a stream or as an answer.
    pub(super) fn count_error(&self, code: ErrorCode) {
        self.metrics.counter(&table::ERRORS_TOTAL, &[code.name()]).increment(1);
    }

    /// The same for an error that does not become an answer of its own.
    pub(super) fn counted(&self, error: ApiError) -> ApiError {
        self.count_error(error.code());
        error
    }

    /// Recordings of so many bytes came in whole.
    pub(super) fn count_upload(&self, bytes: u64) {
        self.metrics.counter(&table::UPLOAD_BYTES_TOTAL, &[]).increment(bytes);
    }
}

/// What other servers call a request whose client did not wait for the answer.
const LEFT: u16 = 499;

/// A request that waits for its answer. It is counted when it is dropped, whatever drops it.
struct Open {
    route: String,
    method: &'static str,
    began: Instant,
    status: u16,
    metrics: Metrics,
    waiting: Gauge,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.waiting.decrement(1);
        let status = if std::thread::panicking() { 500 } else { self.status };
        let (route, status) = (self.route.as_str(), status.to_string());
        self.metrics.counter(&table::HTTP_REQUESTS_TOTAL, &[route, self.method, &status]).increment(1);
        self.metrics.histogram(&table::HTTP_REQUEST_SECONDS, &[route]).record(self.began.elapsed());
    }
}

/// A client may call its method whatever it likes.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}
