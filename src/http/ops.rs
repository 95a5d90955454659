//! What the server says about itself.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};
use whisperwire_protocol::ErrorCode;
use whisperwire_protocol::openai::{Model, ModelDeleted, ModelDetails, ModelList};

use super::House;
use super::error::{ApiError, sentence};
use crate::cache::Stats;
use crate::engine::models::{ModelError, REQUEST_ALIASES, is_loaded, remove, request_name_known};
use crate::engine::pool::Lane;
use crate::link::{Link, LinkState};

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
            "GET /health",
        ],
    }))
}

/// `GET /health`.
pub(super) async fn health(State(house): State<Arc<House>>) -> Json<Value> {
    let traits = house.transcriber.traits();
    let load = house.transcriber.pool().load();
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

/// `GET /v1/models`: the loaded model, then the other services' names for it.
pub(super) async fn models(State(house): State<Arc<House>>) -> Json<ModelList> {
    let loaded = house.transcriber.traits().name.as_str();
    let names = std::iter::once(loaded).chain(REQUEST_ALIASES);
    Json(ModelList::new(names.map(|name| entry(&house, name)).collect()))
}

/// `GET /v1/models/{id}`; ids may hold slashes.
pub(super) async fn model(
    State(house): State<Arc<House>>,
    Path(id): Path<String>,
) -> Result<Json<Model>, ApiError> {
    let traits = house.transcriber.traits();
    if traits.takes_placeholders || request_name_known(&id, &traits.name) {
        return Ok(Json(entry(&house, &id)));
    }
    let message = format!("The model {id:?} does not exist here; this server runs {}.", traits.name);
    Err(ApiError::new(ErrorCode::ModelNotFound, message).of("model"))
}

/// `DELETE /v1/models/{id}`: removes a downloaded model that is not running. An engine that takes placeholders has no
/// models, and deletes none.
pub(super) async fn delete_model(
    State(house): State<Arc<House>>,
    Path(id): Path<String>,
) -> Result<Json<ModelDeleted>, ApiError> {
    let traits = house.transcriber.traits();
    if !traits.takes_placeholders {
        let of_model = |code, message: String| ApiError::new(code, message).of("model");
        if is_loaded(&id, &traits.name) {
            let message = format!("The model {id:?} is the one that is running: {}.", traits.name);
            return Err(of_model(ErrorCode::Conflict, message));
        }
        let (name, hub) = (id.clone(), house.config.models.clone());
        let removed = tokio::task::spawn_blocking(move || remove(&name, &hub)).await;
        removed.map_err(ApiError::internal)?.map_err(|error| match error {
            ModelError::NoFileOfItsOwn | ModelError::Busy(_) => {
                of_model(ErrorCode::Conflict, sentence(&error.to_string()))
            }
            ModelError::Unknown(_)
            | ModelError::NoFile(_)
            | ModelError::NotOneModel
            | ModelError::NothingToRemove(_) => {
                let message = format!("There is no downloaded model {id:?} here.");
                of_model(ErrorCode::ModelNotFound, message)
            }
            other => ApiError::internal(other),
        })?;
        tracing::info!(model = id, "a model was removed");
    }
    Ok(Json(ModelDeleted::new(id)))
}

/// When OpenAI published Whisper. The library wants a date, and the weights' own is not known.
const PUBLISHED: u64 = 1_663_718_400;

fn entry(house: &House, id: &str) -> Model {
    let traits = house.transcriber.traits();
    Model {
        whisperwire: Some(ModelDetails {
            model: traits.name.clone(),
            languages: traits.languages.iter().map(|language| language.code().to_owned()).collect(),
            translates: traits.translates,
            device: Some(traits.device.clone()),
            caveat: traits.caveat.map(str::to_owned),
        }),
        ..Model::new(id, PUBLISHED, "whisperwire")
    }
}
