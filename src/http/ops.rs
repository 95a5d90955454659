//! What the server says about itself.

use axum::Json;
use serde_json::{Value, json};

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
            "GET /livez",
            "GET /readyz",
            "GET /health",
            "GET /metrics",
            "GET /openapi.json",
            "GET /docs",
            "GET /redoc",
        ],
    }))
}
