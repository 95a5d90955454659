//! The captions page and what it loads: part of the program, so that it is there offline.

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::ops;

/// Path, content type, content. The module of `clients/js` is the page's own client.
const FILES: [(&str, &str, &str); 8] = [
    ("/app.js", SCRIPT, include_str!("../../clients/web/app.js")),
    ("/capture-worklet.js", SCRIPT, include_str!("../../clients/web/capture-worklet.js")),
    ("/microphone.js", SCRIPT, include_str!("../../clients/web/microphone.js")),
    ("/timing.js", SCRIPT, include_str!("../../clients/web/timing.js")),
    ("/transcript.js", SCRIPT, include_str!("../../clients/web/transcript.js")),
    ("/whisperwire.js", SCRIPT, include_str!("../../clients/js/whisperwire.js")),
    ("/style.css", "text/css; charset=utf-8", include_str!("../../clients/web/style.css")),
    ("/icon.svg", "image/svg+xml", include_str!("../../clients/web/icon.svg")),
];
const SCRIPT: &str = "text/javascript; charset=utf-8";
const PAGE: &str = include_str!("../../clients/web/index.html");

/// The page needs nothing from anywhere else, and nobody may put it into a frame.
const POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; media-src 'self' blob:; \
     object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Everything the page loads.
pub(super) fn files<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.iter().fold(Router::new(), |router, &(path, kind, content)| {
        router.route(path, get(async move || served(kind, content)))
    })
}

/// `GET /`: the page for people, a summary for programs.
pub(super) async fn front(headers: HeaderMap) -> Response {
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accepts.contains("text/html") {
        return served("text/html; charset=utf-8", PAGE);
    }
    let mut summary = ops::about().await.into_response();
    summary.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    summary
}

fn served(kind: &'static str, content: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("permissions-policy"), "microphone=(self)"),
        // After an update nobody should talk to the new server with the old page.
        (header::CACHE_CONTROL, "no-cache"),
        (header::VARY, "accept"),
    ];
    (headers, content).into_response()
}
