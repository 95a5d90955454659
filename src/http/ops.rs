//! What the server says about itself.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::House;
use crate::cache::Stats;
use crate::engine::pool::Lane;
use crate::link::{Link, LinkState};
use crate::pipeline::ModelState;

/// `GET /` and `GET /v1`.
pub(super) async fn about() -> Json<Value> {
    Json(json!({
        "name": "whisperwire",
        "version": env!("CARGO_PKG_VERSION"),
        "endpoints": [
            "POST /v1/audio/transcriptions",
            "POST /v1/audio/translations",
            "POST /v1/chat/completions",
            "GET /v1/realtime",
            "POST /v1/realtime/client_secrets",
            "POST /v1/realtime/transcription_sessions",
            "GET /v1/stream",
            "POST /v1/stream",
            "POST /v1/streams",
            "GET /v1/streams/{id}",
            "DELETE /v1/streams/{id}",
            "POST /v1/streams/{id}/audio",
            "POST /v1/streams/{id}/messages",
            "GET /v1/streams/{id}/events",
            "POST /v1/jobs",
            "GET /v1/jobs",
            "GET /v1/jobs/{id}",
            "GET /v1/jobs/{id}/result",
            "GET /v1/jobs/{id}/events",
            "DELETE /v1/jobs/{id}",
            "GET /v1/audio/transcriptions/{task_id}",
            "POST /api/v1/transcribe/upload",
            "GET /api/v1/transcribe/status/{id}",
            "GET /api/v1/transcribe/result/{id}",
            "DELETE /api/v1/transcribe/task/{id}",
            "POST /v1/webhooks",
            "GET /v1/webhooks/deliveries",
            "POST /v1/webhooks/deliveries/{id}/redeliver",
            "GET /v1/models",
            "GET /v1/models/{id}",
            "DELETE /v1/models/{id}",
            "POST /v1/models/{id}/load",
            "GET /health",
        ],
    }))
}

/// `GET /health`.
pub(super) async fn health(State(house): State<Arc<House>>) -> Json<Value> {
    let default = house.shelf.default_model();
    let traits = &default.traits;
    let load = house.shelf.crew().load();
    let waiting: serde_json::Map<String, Value> = Lane::ALL
        .iter()
        .zip(load.waiting)
        .map(|(lane, waiting)| (lane.name().to_owned(), waiting.into()))
        .collect();
    Json(json!({
        "status": "ok",
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": house.started.elapsed().as_secs(),
        "model": traits.name,
        "model_loaded": default.standing.state == ModelState::Loaded,
        "models_active": house.shelf.active(),
        "caveat": traits.caveat,
        "device": traits.device,
        "workers": load.workers,
        "workers_busy": load.busy,
        "slots": load.slots,
        "slots_free": load.slots_free,
        "streams": house.registry.count(),
        "streams_followed": load.streams,
        "streams_max": load.streams_max,
        "windows_waiting": waiting,
        "windows_recognised": load.recognised,
        "windows_failed": load.failed,
        "windows_withdrawn": load.withdrawn,
        "audio_seconds": load.audio_seconds,
        "engine_seconds": load.wall_seconds,
        "cache": kept(house.cache.stats().await),
        "redis": house.link.as_ref().map(connection),
    }))
}

/// What is kept of finished transcripts, and of what use it has been.
fn kept(stats: Stats) -> Value {
    let Stats { hits, joined, misses, entries, bytes, bytes_max } = stats;
    json!({
        "hits": hits,
        "joined": joined,
        "misses": misses,
        "entries": entries,
        "bytes": bytes,
        "bytes_max": bytes_max,
    })
}

/// How the link to a shared server is, and for how long it has been so.
fn connection(link: &Link) -> Value {
    let LinkState { up, lasted } = link.state();
    json!({"status": if up { "connected" } else { "away" }, "seconds": lasted.as_secs()})
}
