//! What whoever operates the server asks it: does it live, is it ready, how is it, and its figures.
//!
//! Contract: `/livez`, `/readyz` and `/health` stay open, because what asks them often has no key to bring. Where keys
//! are configured, whoever brings none learns from `/health` how busy the server is, and nothing of the machine, its
//! disks or what is connected to it; and nothing from `/metrics`, unless the operator opened it. Looking costs the
//! same however often one looks: the machine is looked at once a second at most.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use whisperwire_protocol::ErrorCode;
use whisperwire_protocol::job::JobStatus;

use super::error::ApiError;
use super::{House, auth, scrape};
use crate::cache::Stats;
use crate::engine::EngineTraits;
use crate::engine::pool::Lane;
use crate::jobs::Counts;
use crate::link::{Link, LinkState};
use crate::pipeline::{ModelState, Standing};
use crate::telemetry::Sample;

/// `GET /livez`: the process answers.
pub(super) async fn live() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// `GET /readyz`: it may be sent work. It is ready from its first answer on, because it answers nobody before its
/// model is loaded, and until it is to stop.
pub(super) async fn ready(State(house): State<Arc<House>>) -> Result<Json<Value>, ApiError> {
    if house.ending.announced.is_cancelled() {
        return Err(ApiError::new(ErrorCode::Draining, "The server is about to stop.").native());
    }
    Ok(Json(json!({ "status": "ready" })))
}

/// `GET /metrics`.
pub(super) async fn metrics(
    State(house): State<Arc<House>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if !house.config.metrics_open && !auth::may_look(&house, &headers) {
        let message = "Figures are for those who bring a key: Authorization: Bearer KEY.";
        return Err(ApiError::new(ErrorCode::Unauthorized, message).native());
    }
    let text = scrape::scrape(house).await?;
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Ok((kind, text).into_response())
}

impl House {
    /// Every model that is in memory, or should be.
    async fn models_in_memory(&self) -> Vec<Value> {
        let models = self.shelf.list().await;
        let told = models.iter().filter_map(|model| {
            let state = match model.standing.state {
                ModelState::Unloaded => return None,
                ModelState::Loading => "loading",
                ModelState::Loaded => "loaded",
                ModelState::Failed => "failed",
            };
            let Standing { memory, active, .. } = model.standing;
            let EngineTraits { name, device, .. } = &model.traits;
            Some(json!({ "id": name, "state": state, "device": device, "memory": memory, "active": active }))
        });
        told.collect()
    }
}

/// `GET /health`.
pub(super) async fn health(
    State(house): State<Arc<House>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut told = workload(&house);
    if auth::may_look(&house, &headers) {
        let sample = house.machine_now().await?;
        told.append(&mut machine(&sample));
        told.insert("models".into(), house.models_in_memory().await.into());
        // A store that cannot be read is a fault, and the rest of this is needed most then.
        told.insert(
            "jobs".into(),
            house.jobs.counts().await.map_or(Value::Null, |counts| work_kept(&counts)),
        );
        told.insert("cache".into(), kept(house.cache.stats().await));
        told.insert("redis".into(), house.link.as_ref().map(connection).into());
    }
    let uncached = [(header::CACHE_CONTROL, "no-store"), (HeaderName::from_static("vary"), "authorization")];
    Ok((uncached, Json(told)).into_response())
}

/// What was accepted for later, by state, and what is still to be delivered.
fn work_kept(counts: &Counts) -> Value {
    let by_status = JobStatus::ALL.iter().zip(counts.by_status);
    let mut told: Map<String, Value> =
        by_status.map(|(status, count)| (status.name().to_owned(), count.into())).collect();
    told.insert("webhooks_waiting".into(), counts.deliveries.into());
    told.into()
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

/// How busy it is. These stay as they are: people read them.
fn workload(house: &House) -> Map<String, Value> {
    let default = house.shelf.default_model();
    let traits = &default.traits;
    let load = house.shelf.crew().load();
    let waiting: Map<String, Value> = Lane::ALL
        .iter()
        .zip(load.waiting)
        .map(|(lane, waiting)| (lane.name().to_owned(), waiting.into()))
        .collect();
    let status = if house.ending.announced.is_cancelled() { "draining" } else { "ok" };
    let told = json!({
        "status": status,
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
        "tasks_active": load.slots - load.slots_free,
        "streams": house.registry.count(),
        "streams_followed": load.streams,
        "streams_max": load.streams_max,
        "windows_waiting": waiting,
        "windows_recognised": load.recognised,
        "windows_failed": load.failed,
        "windows_withdrawn": load.withdrawn,
        "audio_seconds": load.audio_seconds,
        "engine_seconds": load.wall_seconds,
    });
    match told {
        Value::Object(told) => told,
        _ => Map::new(),
    }
}

fn machine(sample: &Sample) -> Map<String, Value> {
    let round = |percent: f32| (f64::from(percent) * 10.0).round() / 10.0;
    let free: Map<String, Value> =
        sample.disk_free.iter().map(|(place, bytes)| (format!("{place}_free"), (*bytes).into())).collect();
    let cpu = json!({
        "process_percent": sample.process_cpu.map(round),
        "machine_percent": sample.machine_cpu.map(round),
        "cores": sample.cores,
        "load": sample.load,
    });
    let memory = json!({
        "rss": sample.resident,
        "total": sample.memory_total,
        "available": sample.memory_available,
    });
    Map::from_iter([
        ("cpu".to_owned(), cpu),
        ("memory".to_owned(), memory),
        ("disk".to_owned(), free.into()),
        ("open_files".to_owned(), sample.open_files.into()),
    ])
}
