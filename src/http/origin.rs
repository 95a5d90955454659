//! Whose pages may use this server.
//!
//! A browser sends what any page asks it to, also to a server on its own machine, and only keeps the answer from the
//! page unless CORS allows it (the Fetch standard, 3.3). For two things that is too late: a request that does
//! something, and a WebSocket, whose messages no rule keeps from the page (RFC 6455, 10.2). Both name the page's
//! origin, so they are refused if it is neither this host nor an allowed one. With keys only WebSockets are: a page
//! that has a key was given one, and what it sends without is refused anyway.
//!
//! A page can also point its own name at 127.0.0.1, and is this host then. So a server without keys, which serves its
//! own machine alone, answers to no public name: to addresses, and to names that nobody can register, without a dot
//! or under `.localhost` (RFC 6761) and `.internal`, as containers call the machine they run on.
//!
//! Programs name no origin, and all of this does not concern them.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use whisperwire_protocol::ErrorCode;

use super::error::ApiError;
use super::{House, limit};

/// The origins of pages that may use this server, beside its own; with `*` all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    any: bool,
    listed: Vec<String>,
}

/// How long a browser need not ask again.
const REMEMBERED: Duration = Duration::from_secs(3_600);

impl Origins {
    /// From a list of them. The error is a sentence for people.
    pub fn of(origins: &[String]) -> Result<Self, String> {
        let mut all = Self::default();
        for origin in origins.iter().map(|origin| origin.trim()).filter(|origin| !origin.is_empty()) {
            match origin.trim_end_matches('/') {
                "*" => all.any = true,
                "null" => all.listed.push("null".to_owned()),
                plain if site(plain).is_some() => all.listed.push(plain.to_ascii_lowercase()),
                _ => {
                    return Err(format!(
                        "{origin:?} is no origin: write https://example.com, with a port if it is not the usual \
                         one, or * for all"
                    ));
                }
            }
        }
        Ok(all)
    }

    fn allow(&self, origin: &HeaderValue) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        self.any || self.listed.iter().any(|listed| listed.eq_ignore_ascii_case(origin))
    }

    /// Whether a page of this host would be allowed.
    fn allow_host(&self, host: &str) -> bool {
        let hosts = self.listed.iter().filter_map(|listed| site(listed));
        self.any || hosts.into_iter().any(|(listed, _)| listed == host)
    }

    /// What tells browsers so; `None` if there is nothing to tell.
    pub(super) fn layer(&self) -> Option<CorsLayer> {
        if !self.any && self.listed.is_empty() {
            return None;
        }
        let origins = match self.any {
            true => AllowOrigin::any(),
            false => {
                let origins = self.clone();
                AllowOrigin::predicate(move |origin: &HeaderValue, _: &Parts| origins.allow(origin))
            }
        };
        let layer = CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::POST, Method::DELETE, Method::OPTIONS])
            // Client libraries send headers of their own, a dozen of them and more with each version.
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers([
                HeaderName::from_static("x-request-id"),
                HeaderName::from_static("x-cache"),
                HeaderName::from_static("x-task-id"),
                header::LOCATION,
                header::RETRY_AFTER,
                limit::LIMIT,
                limit::REMAINING,
                limit::RESET,
            ])
            .max_age(REMEMBERED);
        Some(layer)
    }
}

/// The layer that keeps strangers' pages out.
pub(super) async fn guard(State(house): State<Arc<House>>, request: Request, next: Next) -> Response {
    match house.check_origin(&request) {
        Ok(()) => next.run(request).await,
        Err(message) => {
            let refused = ApiError::new(ErrorCode::Forbidden, message);
            refused.in_words_of(request.uri().path()).into_response()
        }
    }
}

impl House {
    fn check_origin(&self, request: &Request) -> Result<(), String> {
        let allowed = &self.config.origins;
        let host = host(request);
        let keyless = self.keys.are_none();
        if keyless && self.config.address.ip().is_loopback() {
            let name = host.as_ref().map(|host| name(host.host()));
            if let Some(name) = name.filter(|name| !is_private(name) && !allowed.allow_host(name)) {
                return Err(format!(
                    "This server has no key and serves its own machine alone, so it does not answer to the name \
                     {name:?}. To allow that: --allowed-origins https://{name}, or --api-key."
                ));
            }
        }
        let Some(origin) = request.headers().get(header::ORIGIN) else { return Ok(()) };
        let acts = ![Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
        if !(upgrades(request.headers()) || (keyless && acts)) || allowed.allow(origin) {
            return Ok(());
        }
        let same = origin.to_str().ok().and_then(site).zip(host).is_some_and(|((site, port), host)| {
            let usual = if origin.as_bytes().starts_with(b"https:") { 443 } else { 80 };
            site == name(host.host()) && port == host.port_u16().unwrap_or(usual)
        });
        if same {
            Ok(())
        } else {
            Err("Pages of this origin may not use this server: see --allowed-origins.".into())
        }
    }
}

/// Whether a connection is to become a WebSocket, over HTTP/1.1 or HTTP/2 (RFC 8441).
fn upgrades(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE) || headers.contains_key(header::SEC_WEBSOCKET_VERSION)
}

/// Whom a request was sent to.
fn host(request: &Request) -> Option<Authority> {
    let named = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()?.parse().ok());
    named.or_else(|| request.uri().authority().cloned())
}

/// Host and port of an origin.
fn site(origin: &str) -> Option<(String, u16)> {
    let uri = Uri::from_str(origin).ok()?;
    let usual = match uri.scheme_str()? {
        "https" => 443,
        "http" => 80,
        // Those of browsers' extensions and of programs with a browser inside.
        _ => 0,
    };
    let bare = uri.path_and_query().is_none_or(|path| path.as_str() == "/") && !origin.ends_with('/');
    let authority = uri.authority().filter(|authority| bare && !authority.as_str().contains('@'))?;
    Some((name(authority.host()), authority.port_u16().unwrap_or(usual)))
}

fn name(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// A name that no stranger can point at this machine.
fn is_private(name: &str) -> bool {
    let address = name.trim_start_matches('[').trim_end_matches(']');
    let reserved = [".localhost", ".internal"].iter().any(|end| name.ends_with(end));
    address.parse::<IpAddr>().is_ok() || !name.contains('.') || reserved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read() {
        let of = |list: &str| Origins::of(&list.split(',').map(str::to_owned).collect::<Vec<_>>());
        let some =
            of("https://Example.com, http://localhost:3000/,null,app://obsidian.md,").expect("origins");
        for origin in ["https://example.com", "http://localhost:3000", "null", "app://obsidian.md"] {
            assert!(some.allow(&HeaderValue::from_static(origin)), "{origin}");
        }
        for origin in [
            "http://example.com",
            "https://example.com:444",
            "https://www.example.com",
            "http://localhost",
            "",
        ] {
            assert!(!some.allow(&HeaderValue::from_static(origin)), "{origin}");
        }
        assert!(some.allow_host("example.com") && !some.allow_host("example.org"));
        assert!(of("*").expect("all").allow(&HeaderValue::from_static("https://anybody.example")));
        assert!(of("").expect("none").layer().is_none() && some.layer().is_some());
        for wrong in ["example.com", "https://", "https://example.com/path", "https://a@example.com", "**"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_that_strangers_could_own_are_told_from_others() {
        for ours in [
            "localhost",
            "app.localhost",
            "host.docker.internal",
            "127.0.0.1",
            "[::1]",
            "192.168.1.7",
            "whisper",
        ] {
            assert!(is_private(&name(ours)), "{ours}");
        }
        for theirs in [
            "evil.example",
            "127.0.0.1.nip.example",
            "localhost.evil.example",
            "notinternal.example",
            "Evil.Example.",
        ] {
            assert!(!is_private(&name(theirs)), "{theirs}");
        }
    }
}
