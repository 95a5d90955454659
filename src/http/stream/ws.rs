//! One WebSocket, one stream. The two directions run side by side, so that a client that does not read cannot keep
//! us from hearing that it goes, and a stream that takes no audio can still tell what it has heard.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Extension, RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tracing::Instrument;
use whisperwire_protocol::ErrorCode;
use whisperwire_protocol::stream::{ClientMessage, MAX_MESSAGE, SUBPROTOCOL, ServerEvent, ServerMessage};

use super::registry::{OpenStream, Reader};
use super::{Ask, complaint, fatal, unnumbered};
use crate::http::House;
use crate::http::auth::Principal;
use crate::http::error::ApiError;
use crate::http::websocket::{
    FAREWELL, LINGER, NORMAL, Parting, READ_BUFFER, SEND, fault, is_handshake, no_handshake, part,
};
use crate::pipeline::Over;

/// How often a client whose audio has to wait is looked after.
const PROBE: Duration = Duration::from_millis(250);
/// Mistakes that are forgiven on one connection.
const MISTAKES: u32 = 100;
/// What a client closes with that will be back within its grace.
const BACK_SOON: u16 = 4000;
/// The largest message of the echo route.
const ECHO: usize = 32 << 20;
/// Answers to a client's messages that may wait to be sent.
const REPLIES: usize = 16;

type Handshake = (HeaderMap, Result<WebSocketUpgrade, WebSocketUpgradeRejection>);

/// `GET /v1/stream`.
pub(in crate::http) async fn socket(
    State(house): State<Arc<House>>,
    Extension(principal): Extension<Principal>,
    RawQuery(query): RawQuery,
    shake: Handshake,
) -> Result<Response, ApiError> {
    open(house, &principal, query.as_deref(), shake).await.map_err(ApiError::native)
}

async fn open(
    house: Arc<House>,
    principal: &Principal,
    query: Option<&str>,
    (headers, upgrade): Handshake,
) -> Result<Response, ApiError> {
    let headers = &headers;
    let ask = Ask::read(query)?;
    let Some(upgrade) = upgrade.ok().filter(|_| is_handshake(headers)) else {
        // Browsers do not show their scripts why a handshake failed; a plain request tells.
        match &ask {
            Ask::Open(settings) => house.could_open(principal, settings).await?,
            Ask::Resume { stream, .. } => drop(house.registry.find(stream).ok_or_else(over)?),
        }
        return Ok(no_handshake(headers, ApiError::native));
    };
    let stream = match &ask {
        Ask::Open(settings) => house.open_stream(principal, (**settings).clone(), 0.0).await?,
        Ask::Resume { stream, .. } => house.registry.find(stream).ok_or_else(over)?,
    };
    let after = if let Ask::Resume { after, .. } = ask { after } else { 0 };
    let reader = house.registry.read(&stream, after).ok_or_else(forgotten)?;
    // The task that the upgrade starts is nobody's child: the server must know of it before it begins.
    let token = house.streams.token();
    let upgrade = upgrade
        .protocols([SUBPROTOCOL])
        .read_buffer_size(READ_BUFFER)
        .max_message_size(MAX_MESSAGE)
        .max_frame_size(MAX_MESSAGE);
    let span = tracing::Span::current();
    Ok(upgrade.on_upgrade(move |socket| {
        let talk = async move {
            talk(&house, socket, reader).await;
            drop(token);
        };
        talk.instrument(span)
    }))
}

pub(super) fn over() -> ApiError {
    ApiError::new(ErrorCode::NotFound, "There is no such stream, or it is over.").of("stream")
}

pub(super) fn forgotten() -> ApiError {
    let message = "What followed that message is not kept any more, or was never told.";
    ApiError::new(ErrorCode::Conflict, message).of("after")
}

async fn talk(house: &House, socket: WebSocket, mut reader: Reader) {
    let stream = reader.stream.clone();
    let (mut sink, mut source) = socket.split();
    // An earlier connection lets go of the stream before it is known how much of it has arrived.
    let sender = stream.send().await;
    // A stream that is over takes nothing more, and still tells what was missed.
    let _ = stream.live.resume_input().await;
    let first = house.ready(&stream);
    let (replies, told) = mpsc::channel(REPLIES);
    let parting = {
        let hear = hear(house, &mut source, &stream, replies);
        let tell = tell(house, &mut sink, &mut reader, first, told);
        tokio::select! {
            parting = hear => parting,
            parting = tell => parting,
        }
    };
    drop(sender);
    match parting {
        Parting::Said(code) => {
            if part(&mut sink, &mut source, code).await {
                house.registry.remove(&stream.id);
            }
        }
        Parting::Broke(code) => {
            house.registry.remove(&stream.id);
            part(&mut sink, &mut source, code).await;
            tokio::time::sleep(LINGER).await;
        }
        Parting::Closed(code) => {
            // The library has put the answer to the close frame in line; it only has to go out.
            let _ = tokio::time::timeout(FAREWELL, sink.flush()).await;
            if code != Some(BACK_SOON) {
                house.registry.remove(&stream.id);
            }
        }
        Parting::Replaced => {
            let code = ErrorCode::Conflict.close().unwrap_or(NORMAL);
            drop(reader);
            part(&mut sink, &mut source, code).await;
        }
        Parting::Lost => {}
    }
}

/// From the client to the stream.
async fn hear(
    house: &House,
    source: &mut SplitStream<WebSocket>,
    stream: &OpenStream,
    replies: mpsc::Sender<Reply>,
) -> Parting {
    let mut mistakes = 0;
    let mut ended = false;
    loop {
        // The clock only runs while we are ready to read: our own slowness is not the client's silence.
        let message = match tokio::time::timeout(house.config.idle_timeout, source.next()).await {
            Err(_) if ended => continue,
            Err(_) => {
                stream.live.idle();
                ended = true;
                continue;
            }
            Ok(None) => return Parting::Lost,
            Ok(Some(Err(error))) => return fault(error),
            Ok(Some(Ok(message))) => message,
        };
        let reply = match message {
            Message::Binary(_) if ended => continue,
            Message::Binary(bytes) => {
                // A stream that is over takes no more, and says so itself.
                ended |= take(stream, bytes, &replies).await.is_err();
                continue;
            }
            Message::Text(text) => obey(house, stream, &text, &mut ended).await,
            Message::Close(frame) => return Parting::Closed(frame.map(|frame| frame.code)),
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        let reply = match reply {
            Ok(None) => continue,
            Ok(Some(event)) => Reply::Say(event),
            Err(error) => {
                mistakes += 1;
                if mistakes > MISTAKES { Reply::GiveUp(error) } else { Reply::Say(complaint(&error)) }
            }
        };
        if replies.send(reply).await.is_err() {
            return Parting::Lost;
        }
    }
}

/// Hands audio to the stream, which takes it when it has room for it. A client that leaves in the meantime shows only
/// when it is written to, because the end of what it has sent lies behind what nobody reads yet.
async fn take(stream: &OpenStream, bytes: Bytes, replies: &mpsc::Sender<Reply>) -> Result<(), Over> {
    let taken = stream.live.audio(bytes);
    tokio::pin!(taken);
    loop {
        tokio::select! {
            biased;
            taken = &mut taken => return taken,
            // If there is no room for it, something is being written anyway.
            () = tokio::time::sleep(PROBE) => drop(replies.try_send(Reply::Probe)),
        }
    }
}

/// An answer to one of the client's messages.
enum Reply {
    Say(ServerEvent),
    /// Nothing to tell; only to see whether somebody is there.
    Probe,
    /// One mistake too many.
    GiveUp(ApiError),
}

async fn obey(
    house: &House,
    stream: &OpenStream,
    text: &str,
    ended: &mut bool,
) -> Result<Option<ServerEvent>, ApiError> {
    match ClientMessage::parse(text)? {
        ClientMessage::Configure(settings) => {
            house.configure(stream, *settings).await?;
            return Ok(Some(house.ready(stream)));
        }
        ClientMessage::Ping => return Ok(Some(unnumbered(ServerMessage::Pong))),
        ClientMessage::Flush if !*ended => *ended |= stream.live.flush().await.is_err(),
        ClientMessage::End if !*ended => {
            *ended = true;
            // A stream that is over already is as good.
            let _ = stream.live.end().await;
        }
        ClientMessage::Flush | ClientMessage::End => {}
    }
    Ok(None)
}

/// From the stream to the client.
async fn tell(
    house: &House,
    sink: &mut SplitSink<WebSocket, Message>,
    reader: &mut Reader,
    first: ServerEvent,
    mut replies: mpsc::Receiver<Reply>,
) -> Parting {
    let mut next = (text(&first), None);
    loop {
        let (message, close) = next;
        match tokio::time::timeout(SEND, sink.send(message)).await {
            Ok(Ok(())) => {}
            _ => return Parting::Lost,
        }
        if let Some(code) = close {
            return Parting::Said(code);
        }
        let (stream, cursor) = (&reader.stream, &mut reader.cursor);
        next = tokio::select! {
            () = reader.replaced.cancelled() => return Parting::Replaced,
            Some(reply) = replies.recv() => match reply {
                Reply::Say(event) => (text(&event), None),
                Reply::Probe => (Message::Ping(Bytes::new()), None),
                Reply::GiveUp(error) => (text(&unnumbered(fatal(&error))), Some(error.close())),
            },
            told = stream.live.next(cursor) => {
                let (event, close) = house.in_words(stream, told);
                (text(&event), close)
            }
        };
    }
}

fn text(event: &ServerEvent) -> Message {
    Message::Text(event.to_json().into())
}

/// `GET /v1/ws-echo`, for conformance tests of the layer below: text and binary messages come back as they are.
pub(in crate::http) async fn echo(upgrade: WebSocketUpgrade) -> Response {
    let upgrade = upgrade.read_buffer_size(READ_BUFFER).max_message_size(ECHO).max_frame_size(ECHO);
    upgrade.on_upgrade(async |socket| {
        let (mut sink, mut source) = socket.split();
        let code = loop {
            match source.next().await {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                    if sink.send(message).await.is_err() {
                        return;
                    }
                }
                Some(Ok(Message::Close(_))) => {
                    let _ = tokio::time::timeout(FAREWELL, sink.flush()).await;
                    return;
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => match fault(error) {
                    Parting::Broke(code) => break code,
                    _ => return,
                },
                None => return,
            }
        };
        part(&mut sink, &mut source, code).await;
    })
}
