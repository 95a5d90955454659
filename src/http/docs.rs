//! The description of every route: `/openapi.json` for machines, Swagger UI at `/docs` and ReDoc at `/redoc` for
//! people. All of it is in the program, so that it is there offline.
//!
//! Contract: a page runs its own scripts, which its policy names by their hashes, and fetches nothing but the
//! description. Deliberately absent: the description itself, which people write (`protocol/openapi.json`).

use std::sync::LazyLock;

use aide::redoc::Redoc;
use aide::swagger::Swagger;
use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

/// The description, whose version is this program's.
const DESCRIPTION: &str = include_str!("../../protocol/openapi.json");
const VERSION: &str = r#""version": "0.0.0""#;
/// Where the pages find it: beside themselves, under whatever prefix a proxy puts them.
const ADDRESS: &str = "openapi.json";

/// What ReDoc would fetch for its last line, and what stands there instead: an image without anything in it.
const LOGO: &str = "https://cdn.redoc.ly/redoc/logo-mini.svg";
const NO_LOGO: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg'/%3E";

static OPENAPI: LazyLock<Document> = LazyLock::new(|| {
    let version = format!(r#""version": "{}""#, env!("CARGO_PKG_VERSION"));
    Document::new("application/json", DESCRIPTION.replacen(VERSION, &version, 1), "default-src 'none'".into())
});
static SWAGGER: LazyLock<Document> = LazyLock::new(|| page(&Swagger::new(ADDRESS).with_title(TITLE).html()));
static REDOC: LazyLock<Document> =
    LazyLock::new(|| page(&Redoc::new(ADDRESS).with_title(TITLE).html().replace(LOGO, NO_LOGO)));
const TITLE: &str = "whisperwire API";
/// A browser that is told of no icon looks for one that is not there.
const ICON: &str = r#"<link rel="icon" href="icon.svg"><title>"#;

/// The three routes.
pub(super) fn files<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/openapi.json", get(async |headers: HeaderMap| OPENAPI.answer(&headers)))
        .route("/docs", get(async |headers: HeaderMap| SWAGGER.answer(&headers)))
        .route("/redoc", get(async |headers: HeaderMap| REDOC.answer(&headers)))
}

/// Something that stays as it is while the program runs.
struct Document {
    kind: &'static str,
    content: Bytes,
    etag: String,
    policy: String,
}

impl Document {
    fn new(kind: &'static str, content: String, policy: String) -> Self {
        let etag = format!("\"{}\"", STANDARD.encode(Sha256::digest(&content)));
        Self { kind, content: content.into(), etag, policy }
    }

    /// The document, or nothing for whoever has it already.
    fn answer(&self, asked: &HeaderMap) -> Response {
        let known = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let known = known.flat_map(|value| value.split(',')).map(str::trim);
        let headers = [
            (header::ETAG, self.etag.as_str()),
            (header::CACHE_CONTROL, "no-cache"),
            (header::CONTENT_SECURITY_POLICY, self.policy.as_str()),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
        ];
        if known.map(|tag| tag.strip_prefix("W/").unwrap_or(tag)).any(|tag| tag == self.etag || tag == "*") {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        (headers, [(header::CONTENT_TYPE, self.kind)], self.content.clone()).into_response()
    }
}

/// A page whose scripts stand in it. Their styles cannot be named one by one: both write them while they run.
fn page(html: &str) -> Document {
    let html = html.replacen("<title>", ICON, 1);
    let hashes: String = scripts(&html)
        .map(|script| format!(" 'sha256-{}'", STANDARD.encode(Sha256::digest(script))))
        .collect();
    let policy = format!(
        "default-src 'none'; script-src{hashes}; style-src 'unsafe-inline'; img-src 'self' data:; \
         font-src data:; connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    Document::new("text/html; charset=utf-8", html, policy)
}

/// What stands in the script elements of a page, as a browser cuts it.
fn scripts(html: &str) -> impl Iterator<Item = &str> {
    let mut rest = html;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once("<script>")?;
        let (script, after) = after.split_once("</script")?;
        rest = after;
        Some(script)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_has_this_programs_version() {
        let told: serde_json::Value = serde_json::from_slice(&OPENAPI.content).expect("it is JSON");
        assert_eq!(told["info"]["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(DESCRIPTION.matches(VERSION).count(), 1);
        assert_eq!(told["servers"][0]["url"], "/");
    }

    #[test]
    fn pages_name_their_scripts_and_load_none() {
        for (page, count) in [(&SWAGGER, 2), (&REDOC, 1)] {
            let html = std::str::from_utf8(&page.content).expect("text");
            assert_eq!(page.policy.matches("'sha256-").count(), count);
            assert_eq!(scripts(html).count(), count);
            assert!(html.contains("openapi.json") && !html.contains("<script "), "scripts stand in the page");
            assert!(!html.contains("//cdn."), "nothing is fetched");
        }
    }

    #[test]
    fn who_has_a_page_already_gets_nothing() {
        let asked = |tag: &str| {
            let tag = axum::http::HeaderValue::from_str(tag).expect("visible text");
            OPENAPI.answer(&HeaderMap::from_iter([(header::IF_NONE_MATCH, tag)])).status()
        };
        assert_eq!(asked("\"other\""), StatusCode::OK);
        for known in [OPENAPI.etag.clone(), format!("\"other\", W/{}", OPENAPI.etag), "*".into()] {
            assert_eq!(asked(&known), StatusCode::NOT_MODIFIED, "{known}");
        }
    }
}
