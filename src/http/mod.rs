//! The skin: the only room that knows HTTP. Every route is on this screen.
//!
//! Contract: whatever comes in, an answer with an `x-request-id` goes out, and on an error it has OpenAI's body.
//! Every wait on a client has a deadline. A client that hangs up drops its handler, and with it its work.
//!
//! Deliberately absent: any knowledge of windows, engines or text. Requests become orders in `dialect`.

mod auth;
mod cached;
mod chat;
mod docs;
mod envelope;
mod error;
mod intake;
mod jobs;
mod keys;
mod limit;
mod listener;
mod measure;
mod models;
mod openai;
mod ops;
mod origin;
mod page;
mod peer;
mod probes;
mod realtime;
mod scrape;
mod stream;
mod tls;
mod upload;
mod websocket;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::header;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{delete, get, post};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use whisperwire_protocol::ErrorCode;

pub use self::keys::KeysFile;
pub use self::limit::{Quotas, Rate, Rates};
pub use self::listener::serve;
pub use self::origin::Origins;
pub use self::peer::Network;
pub use self::tls::Tls;

use self::auth::Keys;
use self::error::ApiError;
use self::limit::Limits;
use self::realtime::Secrets;
use self::stream::Registry;
use crate::cache::Cache;
use crate::engine::models::HubConfig;
use crate::jobs::Jobs;
use crate::link::Link;
use crate::pipeline::{Shelf, TranscribeError};
use crate::telemetry::{Gauge, Machine, Metrics, table};

/// How the server presents itself.
#[derive(Clone)]
pub struct HttpConfig {
    /// Where to listen.
    pub address: SocketAddr,
    /// The certificate to show, if connections are to be encrypted.
    pub tls: Option<Tls>,
    /// Requests must bring one of them; none means that nobody needs one.
    pub api_keys: Vec<String>,
    /// More of them, with limits of their own.
    pub keys_file: Option<KeysFile>,
    /// What a key may use that says nothing else, or without keys an address.
    pub quotas: Quotas,
    /// Whose pages may use the server.
    pub origins: Origins,
    /// Whose word is taken for where a request comes from.
    pub proxies: Vec<Network>,
    /// The largest upload, in bytes.
    pub max_upload: u64,
    /// How long an upload may stand still.
    pub upload_timeout: Duration,
    /// How long running requests get to finish at the end.
    pub grace: Duration,
    /// How long it says that it is not ready, and serves on, before the end begins.
    pub drain_delay: Duration,
    /// Whether figures are told to those without a key too.
    pub metrics_open: bool,
    /// Whether a model nobody knows means the one that is loaded.
    pub accept_unknown_models: bool,
    /// Where uploads are spooled; the system's temporary folder if none is given.
    pub spool_dir: Option<PathBuf>,
    /// How long a live stream may be without audio and messages.
    pub idle_timeout: Duration,
    /// The longest a live stream may outlive its connection.
    pub resume_grace: Duration,
    /// Whether there is a route that echoes what comes over a WebSocket, for conformance tests.
    pub ws_echo: bool,
    /// Where downloaded models are kept.
    pub models: HubConfig,
    /// A recording to name in the line that says how to try the server.
    pub try_with: Option<String>,
}

impl std::fmt::Debug for HttpConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpConfig")
            .field("address", &self.address)
            .field("tls", &self.tls.as_ref().map(Tls::certificate))
            .field("api_keys", &format_args!("{} ***", self.api_keys.len()))
            .field("keys_file", &self.keys_file)
            .field("quotas", &self.quotas)
            .field("max_upload", &self.max_upload)
            .field("upload_timeout", &self.upload_timeout)
            .field("grace", &self.grace)
            .finish_non_exhaustive()
    }
}

/// What stands behind the skin.
pub struct Rooms {
    /// What makes transcripts, by model.
    pub shelf: Shelf,
    /// What is done later.
    pub jobs: Jobs,
    /// The Redis that is shared with other servers, if there is one.
    pub link: Option<Link>,
    /// Finished transcripts.
    pub cache: Cache<TranscribeError>,
    /// Where figures go.
    pub metrics: Metrics,
}

/// How the end comes.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// Cancelled when the server is to stop: it is not ready any more, and serves on.
    pub announced: CancellationToken,
    /// Cancelled when nothing new is taken any more: live streams then end as if their clients had ended them.
    pub begun: CancellationToken,
}

/// What handlers share.
struct House {
    shelf: Shelf,
    jobs: Jobs,
    config: HttpConfig,
    keys: Arc<Keys>,
    limits: Limits,
    started: Instant,
    /// The same moment in seconds since 1970.
    started_at: u64,
    /// What goes on after its handler has answered: event streams, WebSockets, and the live streams behind them.
    streams: TaskTracker,
    /// The live streams of our own protocol.
    registry: Arc<Registry>,
    /// Keys that were lent for a while.
    secrets: Secrets,
    /// The Redis that is shared with other servers, if there is one.
    link: Option<Link>,
    /// Finished transcripts.
    cache: Cache<TranscribeError>,
    ending: Ending,
    /// The second half of the ending.
    stop: CancellationToken,
    metrics: Metrics,
    /// Requests that wait for their answer.
    waiting: Gauge,
    machine: Machine,
}

/// All routes and layers. The tracker tells when the last stream has ended, which all do after the end has begun. Must
/// be called on a runtime.
pub fn router(rooms: Rooms, config: HttpConfig, ending: Ending) -> (Router, TaskTracker) {
    let Rooms { shelf, jobs, link, cache, metrics } = rooms;
    let streams = TaskTracker::new();
    let uploads = config.spool_dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut places = vec![("uploads", uploads), ("models", config.models.cache_dir.clone())];
    places.extend(jobs.folder().map(|folder| ("jobs", folder.to_owned())));
    let house = Arc::new(House {
        keys: Arc::new(Keys::new(&config)),
        limits: Limits::new(link.clone()),
        registry: Registry::new(config.idle_timeout),
        secrets: Secrets::default(),
        shelf,
        jobs,
        link,
        cache,
        config,
        stop: ending.begun.clone(),
        ending,
        started: Instant::now(),
        started_at: epoch_seconds(),
        streams: streams.clone(),
        waiting: metrics.gauge(&table::HTTP_REQUESTS_OPEN, &[]),
        metrics,
        machine: Machine::new(places),
    });
    house.announce_keys();
    house.jobs.charge({
        let (keys, limits) = (house.keys.clone(), house.limits.clone());
        move |owner| limits.meter(&keys.owner(owner))
    });
    #[cfg(unix)]
    tokio::spawn(auth::reread_on_hangup(house.clone(), house.stop.clone()));
    tokio::spawn(scrape::tidy(Arc::downgrade(&house)));
    let cors = house.config.origins.layer();
    // Each layer encloses what stands above it. From outside in: the envelope, figures, cross-origin rules, keys,
    // limits.
    let counted = Router::new()
        .route("/audio/transcriptions", post(openai::transcriptions))
        .route("/audio/transcriptions/{task_id}", get(jobs::task))
        .route("/audio/translations", post(openai::translations))
        .route("/chat/completions", post(chat::completions))
        .route("/jobs", get(jobs::list).post(jobs::create))
        .route("/jobs/{id}", get(jobs::look).delete(jobs::delete))
        .route("/jobs/{id}/result", get(jobs::result))
        .route("/jobs/{id}/events", get(jobs::events))
        .route("/models", get(models::list))
        // Of what is posted there, the one path that ends in /load is a route.
        .route("/models/{*id}", get(models::look).post(models::load).delete(models::delete))
        .route("/realtime", get(realtime::connect))
        .route("/realtime/client_secrets", post(realtime::client_secrets))
        .route("/realtime/transcription_sessions", post(realtime::transcription_sessions))
        .route("/stream", get(stream::socket).post(stream::exchange))
        .route("/streams", post(stream::create))
        .route("/webhooks", post(jobs::register))
        .route("/webhooks/deliveries", get(jobs::deliveries))
        .route("/webhooks/deliveries/{id}/redeliver", post(jobs::redeliver))
        .route_layer(from_fn_with_state(house.clone(), limit::count));
    // What belongs to a stream that was let in.
    let within = Router::new()
        .route("/streams/{id}", get(stream::look).delete(stream::close))
        .route("/streams/{id}/audio", post(stream::audio))
        .route("/streams/{id}/messages", post(stream::message));
    let v1 = counted
        .merge(within)
        .layer(DefaultBodyLimit::disable())
        .route_layer(from_fn_with_state(house.clone(), auth::require_key));
    // The same jobs, as clients of a WhisperX server know them.
    let whisperx = Router::new()
        .route("/upload", post(jobs::upload))
        .route("/status/{id}", get(jobs::status))
        .route("/result/{id}", get(jobs::transcript))
        .route("/task/{id}", delete(jobs::remove))
        .route_layer(from_fn_with_state(house.clone(), limit::count))
        .layer(DefaultBodyLimit::disable())
        .route_layer(from_fn_with_state(house.clone(), auth::require_key));
    let mut open = Router::new()
        // An event source of a browser has no headers to bring a key in; the id itself is the secret.
        .route("/v1/streams/{id}/events", get(stream::events));
    if house.config.ws_echo {
        open = open.route("/v1/ws-echo", get(stream::echo));
    }
    let router = open
        .merge(page::files())
        .merge(docs::files())
        .route("/", get(page::front))
        .route("/v1", get(ops::about))
        .route("/v1/", get(ops::about))
        .route("/livez", get(probes::live))
        .route("/readyz", get(probes::ready))
        .route("/health", get(probes::health))
        .route("/metrics", get(probes::metrics))
        .nest("/v1", v1)
        .nest("/api/v1/transcribe", whisperx)
        .fallback(async || ApiError::no_route())
        .method_not_allowed_fallback(async || ApiError::wrong_method())
        .layer(from_fn_with_state(house.clone(), origin::guard));
    let router = match cors {
        Some(cors) => router.layer(cors),
        None => router,
    };
    let router =
        router.layer(from_fn_with_state(house.clone(), measure::count)).layer(from_fn(envelope::wrap));
    (router.with_state(house), streams)
}

impl House {
    /// Who may come in, for whoever reads the log.
    fn announce_keys(&self) {
        let host = self.config.address.ip();
        match self.keys.count() {
            0 if host.is_loopback() => {
                tracing::info!(%host, "there is no API key: this machine alone is served, and everybody on it");
            }
            0 => tracing::warn!(%host, "there is no API key: whoever reaches this address is served"),
            keys => tracing::info!(%host, keys, "requests must bring an API key"),
        }
    }
}

/// What answers plain HTTP where TLS is spoken. The connection is over then: whoever sent a key over it should not
/// send another.
fn wants_tls() -> Router {
    let message = "This server speaks HTTPS: write https:// in place of http://.";
    Router::new()
        .fallback(async move || {
            ([(header::CONNECTION, "close")], ApiError::new(ErrorCode::InvalidRequest, message))
        })
        .layer(from_fn(envelope::wrap))
}

/// Seconds since 1970.
fn epoch_seconds() -> u64 {
    epoch_millis() / 1000
}

/// Milliseconds since 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "what is told to clients is told by the clock they have themselves"
)]
fn epoch_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
