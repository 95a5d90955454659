//! One exchange: the body goes up while somebody speaks, and events come back on the same request.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::header;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use tracing::Instrument;
use whisperwire_protocol::FieldError;
use whisperwire_protocol::stream::ServerEvent;

use super::legs::no_packets;
use super::registry::{OpenStream, Reader};
use super::{Ask, settings_of_type, type_name};
use crate::http::House;
use crate::http::auth::Principal;
use crate::http::error::ApiError;
use crate::http::intake::Intake;

/// Comments keep proxies from closing a stream on which nobody speaks.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// `POST /v1/stream`.
pub(in crate::http) async fn exchange(
    State(house): State<Arc<House>>,
    Extension(principal): Extension<Principal>,
    request: Request,
) -> Result<Response, ApiError> {
    begin(house, &principal, request).await.map_err(ApiError::native)
}

async fn begin(house: Arc<House>, principal: &Principal, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let (headers, query) = (&parts.headers, parts.uri.query());
    let intake = parts.extensions.get::<Intake>().cloned().ok_or_else(|| ApiError::internal("no intake"))?;
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let Ask::Open(settings) = Ask::read(query)? else {
        let message = "An exchange cannot be resumed; use a WebSocket, or two legs.";
        return Err(FieldError::new("stream", message).into());
    };
    let settings = settings_of_type(content_type.unwrap_or_default())?.with(*settings);
    settings.check()?;
    let settings = no_packets(settings)?;
    let stream = house.open_stream(principal, settings, 0.0).await?;
    let reader = house.registry.read(&stream, 0).ok_or_else(super::ws::forgotten)?;
    // The body is read beside the answer, and by nobody else.
    intake.take_over();
    house.streams.spawn({
        let house = house.clone();
        async move { feed(&house, &intake, body, &stream, true).await }.in_current_span()
    });
    Ok(events(house, reader))
}

/// Takes a body in. Where it does not end the stream, the stream waits for more.
pub(super) async fn feed(house: &House, intake: &Intake, body: Body, stream: &OpenStream, ends: bool) {
    let sender = stream.send().await;
    let mut chunks = body.into_data_stream();
    loop {
        intake.allow();
        match tokio::time::timeout(house.config.idle_timeout, chunks.next()).await {
            Err(_) => {
                stream.live.idle();
                break;
            }
            Ok(Some(Err(_))) => break,
            Ok(None) => break,
            Ok(Some(Ok(chunk))) if chunk.is_empty() => {}
            Ok(Some(Ok(chunk))) => {
                stream.feed();
                if stream.live.audio(chunk).await.is_err() {
                    break;
                }
            }
        }
    }
    drop(sender);
    if ends {
        // What arrived before a body broke off is still told, if anybody listens.
        let _ = stream.live.end().await;
    }
}

/// Everything the stream says, until it has said all.
pub(super) fn events(house: Arc<House>, reader: Reader) -> Response {
    let first = house.ready(&reader.stream);
    let told = stream::unfold(Some((house, reader, Some(first))), |state| async {
        let (house, mut reader, first) = state?;
        if let Some(first) = first {
            return Some((Ok::<_, Infallible>(frame(&first)), Some((house, reader, None))));
        }
        let (stream, cursor) = (&reader.stream, &mut reader.cursor);
        let told = tokio::select! {
            () = reader.replaced.cancelled() => return None,
            told = stream.live.next(cursor) => told,
        };
        let (event, close) = house.in_words(stream, told);
        let event = frame(&event);
        if close.is_some() {
            // Whoever has read this far has read everything.
            house.registry.remove(&stream.id);
            return Some((Ok(event), None));
        }
        Some((Ok(event), Some((house, reader, None))))
    });
    let unbuffered = [("x-accel-buffering", "no")];
    (unbuffered, Sse::new(told).keep_alive(KeepAlive::new().interval(HEARTBEAT))).into_response()
}

fn frame(event: &ServerEvent) -> Event {
    let frame = Event::default().event(type_name(&event.message)).data(event.to_json());
    match event.seq {
        Some(seq) => frame.id(seq.to_string()),
        None => frame,
    }
}
