//! Who may come in. Keys are compared as hashes and in constant time, so that neither a core dump's strings nor a
//! stopwatch tells them.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use whisperwire_protocol::{ErrorCode, realtime, stream};

use super::House;
use super::error::ApiError;

/// Who sends a request.
#[derive(Clone, Debug)]
pub(super) struct Principal(Arc<str>);

impl Principal {
    pub(super) fn id(&self) -> &Arc<str> {
        &self.0
    }
}

/// The keys that open the door; with none of them it stands open.
pub(super) struct Keys(Vec<[u8; 32]>);

impl Keys {
    pub(super) fn new(keys: &[String]) -> Self {
        Self(keys.iter().map(|key| hash(key.trim())).collect())
    }

    fn admit(&self, headers: &HeaderMap) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let Some(brought) = brought(headers).map(hash) else { return false };
        // All are looked at, whichever fits.
        self.0.iter().fold(false, |fits, key| fits | bool::from(key.ct_eq(&brought)))
    }
}

/// `Authorization: Bearer KEY`, or `X-API-Key: KEY`; or, from a browser's WebSocket, which has no headers of its
/// own, a subprotocol that names it.
pub(super) fn brought(headers: &HeaderMap) -> Option<&str> {
    let text = |name: header::HeaderName| headers.get(name)?.to_str().ok();
    let bearer = text(header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let subprotocol = || {
        let offered = text(header::SEC_WEBSOCKET_PROTOCOL)?;
        let prefixes = [stream::KEY_SUBPROTOCOL, realtime::KEY_SUBPROTOCOL];
        let key = |offer| prefixes.iter().find_map(|prefix| str::strip_prefix(offer, prefix));
        offered.split(',').map(str::trim).find_map(key)
    };
    bearer.or_else(|| text(header::HeaderName::from_static("x-api-key"))).or_else(subprotocol)
}

pub(super) fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// The layer around `/v1`.
pub(super) async fn require_key(State(house): State<Arc<House>>, request: Request, next: Next) -> Response {
    let mut request = request;
    request.extensions_mut().insert(Principal("anybody".into()));
    // A key that was lent for a while opens sessions and nothing else.
    let lent = brought(request.headers()).filter(|key| key.starts_with(realtime::EPHEMERAL_PREFIX));
    let admitted = match lent {
        Some(key) => request.uri().path().ends_with("/realtime") && house.secrets.find(key).is_some(),
        None => house.keys.admit(request.headers()),
    };
    if admitted {
        return next.run(request).await;
    }
    let message = match brought(request.headers()) {
        Some(_) if lent.is_some() => "This ephemeral key has expired, or is not for this route.",
        Some(_) => "This API key is not known here.",
        None => "An API key is missing: send it as Authorization: Bearer KEY.",
    };
    let refused = ApiError::new(ErrorCode::Unauthorized, message);
    // Live streams are our own protocol, whose errors have our own names.
    let native = request.uri().path().trim_start_matches("/v1").starts_with("/stream");
    if native { refused.native().into_response() } else { refused.into_response() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(
            header::HeaderName::from_static(name),
            HeaderValue::from_str(value).expect("visible text"),
        )])
    }

    #[test]
    fn one_of_the_keys_opens() {
        let keys = Keys::new(&["one".into(), "two".into()]);
        assert!(keys.admit(&headers("authorization", "Bearer two")));
        assert!(keys.admit(&headers("authorization", "bearer one")));
        assert!(keys.admit(&headers("x-api-key", "one")));
        for wrong in ["Bearer three", "Bearer ", "one", "Basic one", "Bearer onetwo"] {
            assert!(!keys.admit(&headers("authorization", wrong)), "{wrong}");
        }
        assert!(!keys.admit(&HeaderMap::new()));
        assert!(Keys::new(&[]).admit(&HeaderMap::new()));
    }
}
