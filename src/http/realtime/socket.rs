//! One WebSocket, one session. As in our own protocol the two directions run side by side; what they share is the
//! conversation, which decides everything. Contract: answers to a client's events and what the pipeline tells reach
//! the client in the order in which the conversation said them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket};
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use whisperwire_protocol::realtime::{ServerEvent, ServerEventKind};
use whisperwire_protocol::{ErrorCode, FieldError};

use super::{model_wanted, realtime_work};
use crate::dialect::realtime::{Conversation, Deed};
use crate::http::House;
use crate::http::error::ApiError;
use crate::http::websocket::{FAREWELL, LINGER, Parting, SEND, fault, part};
use crate::pipeline::{Ended, LiveStream, Over, Told, Transcriber};
use crate::transcript::Samples;

/// Answers that may wait to be sent. A client that reads none is not listened to any longer.
const REPLIES: usize = 16;
/// How often a client whose audio has to wait is looked after.
const PROBE: Duration = Duration::from_millis(250);

/// The close codes that OpenAI's clients understand (RFC 6455, 7.4.1, and its registry).
const POLICY: u16 = 1008;
const INTERNAL: u16 = 1011;
const RESTART: u16 = 1012;

/// Some clients leave the padding away.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What is behind a socket.
pub(super) struct Session {
    pub(super) live: LiveStream,
    /// Of the model that hears it at first.
    pub(super) transcriber: Transcriber,
}

pub(super) async fn talk(house: &House, socket: WebSocket, session: Session, mut conversation: Conversation) {
    let Session { live, transcriber } = session;
    let (mut sink, mut source) = socket.split();
    let created = conversation.created();
    let conversation = Mutex::new(conversation);
    let (replies, told) = mpsc::channel(REPLIES);
    let parting = tokio::select! {
        parting = hear(house, &mut source, (&live, transcriber), &conversation, replies) => parting,
        parting = tell(house, &mut sink, &live, &conversation, created, told) => parting,
    };
    drop(live);
    match parting {
        Parting::Said(code) => {
            part(&mut sink, &mut source, code).await;
        }
        Parting::Broke(code) => {
            part(&mut sink, &mut source, code).await;
            tokio::time::sleep(LINGER).await;
        }
        Parting::Closed(_) => {
            // The library has put the answer to the close frame in line; it only has to go out.
            let _ = tokio::time::timeout(FAREWELL, sink.flush()).await;
        }
        Parting::Replaced | Parting::Lost => {}
    }
}

/// From the client to the conversation and the pipeline.
async fn hear(
    house: &House,
    source: &mut SplitStream<WebSocket>,
    (live, mut transcriber): (&LiveStream, Transcriber),
    conversation: &Mutex<Conversation>,
    replies: mpsc::Sender<Vec<ServerEvent>>,
) -> Parting {
    let (mut idle, longest) = (false, transcriber.longest_window());
    loop {
        // The clock only runs while we are ready to read: our own slowness is not the client's silence.
        let message = match tokio::time::timeout(house.config.idle_timeout, source.next()).await {
            Err(_) => {
                if !std::mem::replace(&mut idle, true) {
                    live.idle();
                }
                continue;
            }
            Ok(None) => return Parting::Lost,
            Ok(Some(Err(error))) => return fault(error),
            Ok(Some(Ok(message))) => message,
        };
        // There is room for the answer before there is one.
        let Ok(room) = replies.reserve().await else { return Parting::Lost };
        let mut wanted = None;
        let deeds = match message {
            Message::Close(frame) => return Parting::Closed(frame.map(|frame| frame.code)),
            Message::Ping(_) | Message::Pong(_) => continue,
            Message::Binary(_) => {
                let message = "Messages are text; audio comes in base64 with input_audio_buffer.append.";
                let error = ApiError::new(ErrorCode::InvalidRequest, message);
                room.send(vec![lock(conversation).complaint(error.body(), None)]);
                continue;
            }
            Message::Text(text) => {
                let model = model_wanted(&text, lock(conversation).settings());
                if let Some(model) = model {
                    wanted = Some(another(house, longest, model.as_deref()).await);
                }
                let possible = |settings: &_| {
                    let model = match &wanted {
                        Some(Ok(model)) => model,
                        Some(Err(error)) => return Err(error.body()),
                        None => &transcriber,
                    };
                    realtime_work(model, settings).map(drop).map_err(|error| error.body())
                };
                let mut conversation = lock(conversation);
                let (say, deeds) = conversation.hear(&text, possible);
                if !say.is_empty() {
                    room.send(say);
                }
                deeds
            }
        };
        for deed in deeds {
            let done = match deed {
                Deed::Audio { base64, event_id } => match BASE64.decode(&base64) {
                    Ok(audio) => take(live, audio.into(), &replies).await,
                    Err(_) => {
                        let error = ApiError::from(FieldError::new("audio", "audio is no base64."));
                        let Ok(room) = replies.reserve().await else { return Parting::Lost };
                        let mut conversation = lock(conversation);
                        conversation.unheard(&base64);
                        room.send(vec![conversation.complaint(error.body(), event_id)]);
                        continue;
                    }
                },
                Deed::Flush => live.flush().await,
                Deed::Change => {
                    let other = wanted.take().and_then(Result::ok);
                    transcriber = other.clone().unwrap_or(transcriber);
                    let work = realtime_work(&transcriber, lock(conversation).settings());
                    match work {
                        Ok(work) => live.change(work, other).await,
                        Err(_) => continue,
                    }
                }
            };
            if done.is_err() {
                // The stream is over, and says so itself.
                break;
            }
        }
    }
}

/// The model that a session is to go on with.
async fn another(house: &House, longest: Samples, model: Option<&str>) -> Result<Transcriber, ApiError> {
    let other = house.transcriber(model).await?;
    if other.longest_window() >= longest {
        return Ok(other);
    }
    let message = "This model hears less at once than the one before it: name it when you connect.";
    Err(ApiError::new(ErrorCode::InvalidRequest, message).of("model"))
}

/// Hands audio to the stream, which takes it when it has room for it. A client that leaves in the meantime shows only
/// when it is written to, because the end of what it has sent lies behind what nobody reads yet.
async fn take(live: &LiveStream, audio: Bytes, replies: &mpsc::Sender<Vec<ServerEvent>>) -> Result<(), Over> {
    let taken = live.audio(audio);
    tokio::pin!(taken);
    loop {
        tokio::select! {
            biased;
            taken = &mut taken => return taken,
            // If there is no room for it, something is being written anyway.
            () = tokio::time::sleep(PROBE) => drop(replies.try_send(Vec::new())),
        }
    }
}

/// From the conversation and the pipeline to the client.
async fn tell(
    house: &House,
    sink: &mut SplitSink<WebSocket, Message>,
    live: &LiveStream,
    conversation: &Mutex<Conversation>,
    created: ServerEvent,
    mut replies: mpsc::Receiver<Vec<ServerEvent>>,
) -> Parting {
    let Some(mut cursor) = live.after(0) else { return Parting::Lost };
    let (mut events, mut close) = (vec![created], None);
    loop {
        for message in events.iter().map(text) {
            match tokio::time::timeout(SEND, sink.send(message)).await {
                Ok(Ok(())) => {}
                _ => return Parting::Lost,
            }
        }
        if let Some(code) = close {
            return Parting::Said(code);
        }
        (events, close) = tokio::select! {
            biased;
            Some(say) = replies.recv() => {
                // Nothing to say: only to see whether somebody is there.
                if say.is_empty() && sink.send(Message::Ping(Bytes::new())).await.is_err() {
                    return Parting::Lost;
                }
                (say, None)
            }
            (_, told) = live.next(&mut cursor) => {
                let mut conversation = lock(conversation);
                // What the conversation has answered until now comes first.
                let mut events: Vec<_> = std::iter::from_fn(|| replies.try_recv().ok()).flatten().collect();
                let close = match told {
                    Told::Event(event) => {
                        events.extend(conversation.tell(&event));
                        None
                    }
                    Told::Lag(_) => None,
                    Told::Ended(ended) => {
                        events.extend(conversation.end());
                        let (error, code) = farewell(house, ended);
                        let error = error.map(|error| house.counted(error));
                        events.extend(error.map(|error| conversation.complaint(error.body(), None)));
                        Some(code)
                    }
                };
                (events, close)
            }
        };
    }
}

/// Why a session ends that its client did not end, and what to close with.
fn farewell(house: &House, ended: Ended) -> (Option<ApiError>, u16) {
    match ended {
        Ended::Done { .. } if house.stop.is_cancelled() => (None, RESTART),
        Ended::Done { .. } => (None, crate::http::websocket::NORMAL),
        Ended::Broken(error) => (Some(ApiError::from(&*error)), POLICY),
        Ended::Crashed => (Some(ApiError::internal("a session crashed")), INTERNAL),
        Ended::Idle => {
            let message = "Neither audio nor a message came for too long.";
            (Some(ApiError::new(ErrorCode::IdleTimeout, message)), POLICY)
        }
    }
}

fn lock(conversation: &Mutex<Conversation>) -> MutexGuard<'_, Conversation> {
    conversation.lock().unwrap_or_else(PoisonError::into_inner)
}

fn text(event: &ServerEvent) -> Message {
    if let ServerEventKind::Error { error } = &event.event {
        tracing::debug!(code = error.detail.code.as_deref(), "a client was told of an error");
    }
    Message::Text(event.to_json().into())
}
