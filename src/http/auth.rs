//! Who may come in. Keys are compared as hashes and in constant time, so that neither a core dump's strings nor a
//! stopwatch tells them.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};
use tokio_util::sync::CancellationToken;
use whisperwire_protocol::{ErrorCode, realtime, stream};

use super::error::ApiError;
use super::keys::KeysFile;
use super::limit::Quotas;
use super::{House, HttpConfig, peer};

/// Who a request is from: the holder of a key, or anybody. Every request that was let in has one in its extensions.
/// Clones are the same one.
#[derive(Clone, Debug)]
pub(super) struct Principal(Arc<Who>);

#[derive(Debug)]
struct Who {
    id: Arc<str>,
    name: Option<String>,
    subject: Arc<str>,
    quotas: Arc<Quotas>,
}

/// The id of everybody where there are no keys.
const ANYBODY: &str = "anybody";

impl Principal {
    /// Text that stays the same as long as the key does, and does not tell it: what work and streams belong to.
    pub(super) fn id(&self) -> &Arc<str> {
        &self.0.id
    }

    /// What the log calls it: its name in the file of keys, or else its id.
    pub(super) fn called(&self) -> &str {
        self.0.name.as_deref().unwrap_or(&self.0.id)
    }

    /// Whose limits these are: the id, or where there are no keys the peer's address.
    pub(super) fn subject(&self) -> &Arc<str> {
        &self.0.subject
    }

    /// What may be used.
    pub(super) fn quotas(&self) -> &Quotas {
        &self.0.quotas
    }

    /// What a message calls it.
    pub(super) fn kind(&self) -> &'static str {
        if *self.0.id == *ANYBODY { "address" } else { "key" }
    }

    fn holder(hash: &[u8; 32], name: Option<String>, quotas: Quotas) -> Self {
        // Another hash than the one that is kept, so that the one does not help to guess the other.
        let digest = Sha256::new().chain_update(b"principal").chain_update(hash).finalize();
        let id: Arc<str> =
            digest[..8].iter().fold("key_".to_owned(), |id, byte| format!("{id}{byte:02x}")).into();
        Self(Arc::new(Who { subject: id.clone(), id, name, quotas: Arc::new(quotas) }))
    }

    pub(super) fn anybody(address: Option<IpAddr>, quotas: Arc<Quotas>) -> Self {
        let subject = address.map_or_else(|| ANYBODY.into(), peer::subject);
        Self(Arc::new(Who { id: ANYBODY.into(), name: None, subject, quotas }))
    }
}

/// The keys that open the door; with none of them it stands open.
pub(super) struct Keys {
    /// What everybody may use whose key says nothing else.
    quotas: Arc<Quotas>,
    /// From the command line and the environment.
    given: Vec<Key>,
    /// These, and those of the file.
    all: RwLock<Arc<[Key]>>,
}

#[derive(Clone)]
struct Key {
    hash: [u8; 32],
    holder: Principal,
}

impl Keys {
    pub(super) fn new(config: &HttpConfig) -> Self {
        let quotas = Arc::new(config.quotas.clone().in_force());
        let given = config.api_keys.iter().map(|key| {
            let hash = hash(key.trim());
            Key { hash, holder: Principal::holder(&hash, None, (*quotas).clone()) }
        });
        let keys = Self { given: given.collect(), quotas, all: RwLock::new(Arc::default()) };
        keys.take(config.keys_file.as_ref());
        keys
    }

    /// Takes the keys of this file in place of those of an earlier one.
    pub(super) fn take(&self, file: Option<&KeysFile>) {
        let named = file.into_iter().flat_map(KeysFile::keys).map(|key| {
            let quotas = key.quotas.clone().or(&self.quotas).in_force();
            Key { hash: key.hash, holder: Principal::holder(&key.hash, Some(key.name.clone()), quotas) }
        });
        let all = self.given.iter().cloned().chain(named).collect();
        *self.all.write().unwrap_or_else(PoisonError::into_inner) = all;
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.all().len()
    }

    /// Whether nobody needs a key.
    pub(super) fn are_none(&self) -> bool {
        self.all().is_empty()
    }

    /// Whether a holder's key is still one.
    fn know(&self, holder: &Principal) -> bool {
        self.are_none() || self.all().iter().any(|key| key.holder.id() == holder.id())
    }

    /// Whose work it is that belongs to this id. Where there are no keys, all of it is one's, whatever address it
    /// came from.
    pub(super) fn owner(&self, id: &str) -> Principal {
        let all = self.all();
        let known = all.iter().find(|key| &**key.holder.id() == id).map(|key| key.holder.clone());
        known.unwrap_or_else(|| {
            let id: Arc<str> = id.into();
            Principal(Arc::new(Who { subject: id.clone(), id, name: None, quotas: self.quotas.clone() }))
        })
    }

    /// Who brought this key.
    fn holder(&self, brought: &str) -> Option<Principal> {
        let (all, brought) = (self.all(), hash(brought));
        // All are looked at, whichever fits; of two that are the same, the one of the file counts.
        let mut found = 0_u32;
        for (n, key) in (1..).zip(all.iter()) {
            found.conditional_assign(&n, key.hash.ct_eq(&brought));
        }
        Some(all.get(found.checked_sub(1)? as usize)?.holder.clone())
    }

    fn all(&self) -> Arc<[Key]> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Whether somebody may see what is not for everybody: where there are keys, those who bring one.
pub(super) fn may_look(house: &House, headers: &HeaderMap) -> bool {
    house.keys.are_none() || brought(headers).is_some_and(|key| house.keys.holder(key).is_some())
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

/// The layer around everything that wants a key. What it lets in has its [`Principal`] with it.
pub(super) async fn require_key(
    State(house): State<Arc<House>>,
    mut request: Request,
    next: Next,
) -> Response {
    match house.admit(&request) {
        Ok(principal) => {
            request.extensions_mut().insert(principal.clone());
            let mut response = next.run(request).await;
            // For the log.
            response.extensions_mut().insert(principal);
            response
        }
        Err(message) => {
            ApiError::new(ErrorCode::Unauthorized, message).in_words_of(request.uri().path()).into_response()
        }
    }
}

impl House {
    /// Who is there, or why they may not come in.
    fn admit(&self, request: &Request) -> Result<Principal, &'static str> {
        match brought(request.headers()) {
            // A key that was lent for a while opens sessions and nothing else.
            Some(key) if key.starts_with(realtime::EPHEMERAL_PREFIX) => {
                let lender = self.secrets.lender(key).filter(|lender| self.keys.know(lender));
                let lender = lender.filter(|_| request.uri().path().ends_with("/realtime"));
                lender.ok_or("This ephemeral key has expired, or is not for this route.")
            }
            _ if self.keys.are_none() => {
                let address = peer::client(request, &self.config.proxies);
                Ok(Principal::anybody(address, self.keys.quotas.clone()))
            }
            Some(key) => self.keys.holder(key).ok_or("This API key is not known here."),
            None => Err("An API key is missing: send it as Authorization: Bearer KEY."),
        }
    }
}

/// Reads the file of keys again whenever this process is sent SIGHUP, until `stop`. A file that cannot be read
/// changes nothing.
#[cfg(unix)]
pub(super) async fn reread_on_hangup(house: Arc<House>, stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};

    let Some(path) = house.config.keys_file.as_ref().map(|file| file.path().to_owned()) else { return };
    let mut hangups = match signal(SignalKind::hangup()) {
        Ok(hangups) => hangups,
        Err(error) => return tracing::warn!(%error, "SIGHUP will not reread the keys"),
    };
    loop {
        tokio::select! {
            Some(()) = hangups.recv() => {}
            () = stop.cancelled() => return,
        }
        let read = tokio::task::spawn_blocking({
            let path = path.clone();
            move || KeysFile::read(&path)
        });
        match read.await {
            Ok(Ok(file)) => {
                house.keys.take(Some(&file));
                tracing::info!(keys = house.keys.count(), "the keys were read again");
            }
            Ok(Err(reason)) => tracing::error!(reason, "the keys stay as they were"),
            Err(error) => tracing::error!(%error, "the keys stay as they were"),
        }
    }
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

    fn keys(given: &[&str], file: &str) -> Keys {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys.toml");
        std::fs::write(&path, file).expect("it can be written");
        let key = |key: &&str| {
            let hash = hash(key);
            Key { hash, holder: Principal::holder(&hash, None, Quotas::default()) }
        };
        let keys =
            Keys { quotas: Arc::default(), given: given.iter().map(key).collect(), all: RwLock::default() };
        keys.take((!file.is_empty()).then(|| KeysFile::read(&path).expect("a good file")).as_ref());
        keys
    }

    #[test]
    fn a_key_is_brought_in_a_header_or_a_subprotocol() {
        for (name, value, key) in [
            ("authorization", "Bearer one", Some("one")),
            ("authorization", "bearer  one ", Some("one")),
            ("authorization", "Basic one", None),
            ("authorization", "one", None),
            ("x-api-key", "one", Some("one")),
            ("sec-websocket-protocol", "whisperwire.v1, whisperwire.key.one", Some("one")),
            ("sec-websocket-protocol", "realtime, openai-insecure-api-key.one", Some("one")),
            ("cookie", "one", None),
        ] {
            assert_eq!(brought(&headers(name, value)), key, "{name}: {value}");
        }
    }

    #[test]
    fn one_of_the_keys_opens_and_says_whose_it_is() {
        let keys = keys(&["one", "two"], "[alice]\nkey = \"three\"\n[bob]\nkey = \"two\"\nstreams = 4\n");
        let name = |key| keys.holder(key).map(|holder| holder.called().to_owned());
        assert!(name("one").is_some_and(|name| name.starts_with("key_")));
        assert_eq!(name("three").as_deref(), Some("alice"));
        assert_eq!(name("two").as_deref(), Some("bob"), "the file knows more about it");
        for wrong in ["four", "", "onetwo", "One"] {
            assert!(name(wrong).is_none(), "{wrong}");
        }
        let holder = keys.holder("two").expect("it is known");
        assert_eq!(holder.quotas().streams, Some(4));
        assert!(holder.id().starts_with("key_") && holder.id() == holder.subject());
        assert_eq!(holder.id(), keys.holder("two").expect("it is known").id(), "it stays the same");
        assert_ne!(holder.id(), keys.holder("one").expect("it is known").id());
        // Another file takes some away; those of the command line stay.
        let before = keys.holder("three").expect("it is known");
        keys.take(None);
        assert!(keys.holder("three").is_none() && keys.holder("one").is_some() && !keys.know(&before));
    }
}
