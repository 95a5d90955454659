//! What all WebSockets of this house have in common: the handshake (RFC 6455, 4), the ways a connection ends, and how
//! to part from a client so that it learns why.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use whisperwire_protocol::ErrorCode;

use super::error::ApiError;

/// The library would reserve 128 KiB for each connection, most of which are silent most of the time.
pub(super) const READ_BUFFER: usize = 16 << 10;
/// How long a client may take to make room for a message before it counts as gone.
pub(super) const SEND: Duration = Duration::from_secs(10);
/// How long to wait for the client's half of the closing handshake.
pub(super) const FAREWELL: Duration = Duration::from_secs(3);
/// What is still unread after a broken rule cannot be read any more, and a socket that is closed over unread bytes
/// takes our close frame with it: so it stays open for the time it takes the frame to arrive.
pub(super) const LINGER: Duration = Duration::from_millis(250);

/// RFC 6455, 7.4.1: the purpose of the connection has been fulfilled.
pub(super) const NORMAL: u16 = 1000;

/// The answer to what is no handshake, or not one of this protocol (RFC 6455, 4.2.2 and 4.4). `in_words` makes it an
/// error of the route's own kind.
pub(super) fn no_handshake(headers: &HeaderMap, in_words: impl Fn(ApiError) -> ApiError) -> Response {
    let wants =
        headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let version = headers.get(header::SEC_WEBSOCKET_VERSION);
    let known = version.is_some_and(|version| version == "13");
    if wants && known {
        let message = "The WebSocket handshake is not complete.";
        return in_words(ApiError::new(ErrorCode::InvalidRequest, message)).into_response();
    }
    let message = "This route speaks WebSocket, version 13.";
    let mut response = in_words(ApiError::new(ErrorCode::UpgradeRequired, message)).into_response();
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    response
}

/// What the library leaves unchecked of a handshake (RFC 6455, 4.2.1).
pub(super) fn is_handshake(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let upgrades =
        text(header::CONNECTION).split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    // 16 bytes in base64.
    let key = text(header::SEC_WEBSOCKET_KEY).strip_suffix("==").unwrap_or_default();
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    upgrades && key.len() == 22 && key.bytes().all(letters) && headers.contains_key(header::HOST)
}

/// How a connection came to its end.
pub(super) enum Parting {
    /// The last message was sent; this is the code to close with.
    Said(u16),
    /// The client closed, with this code if it named one.
    Closed(Option<u16>),
    /// The client broke the rules of WebSocket.
    Broke(u16),
    /// The connection is gone.
    Lost,
    /// Another connection has taken its place.
    Replaced,
}

/// Closes from our side and waits for the client to do the same. Whether it did.
pub(super) async fn part(
    sink: &mut SplitSink<WebSocket, Message>,
    source: &mut SplitStream<WebSocket>,
    code: u16,
) -> bool {
    let close = Message::Close(Some(CloseFrame { code, reason: Utf8Bytes::from_static("") }));
    let farewell = async {
        if sink.send(close).await.is_err() {
            return false;
        }
        while let Some(Ok(message)) = source.next().await {
            if matches!(message, Message::Close(_)) {
                return true;
            }
        }
        false
    };
    tokio::time::timeout(FAREWELL, farewell).await.unwrap_or(false)
}

/// What a broken rule is called in a close frame (RFC 6455, 7.4.1).
pub(super) fn fault(error: axum::Error) -> Parting {
    match error.into_inner().downcast_ref::<Error>() {
        // Nobody is there any more who could have broken a rule.
        Some(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => Parting::Lost,
        Some(Error::Capacity(CapacityError::MessageTooLong { .. })) => Parting::Broke(1009),
        Some(Error::Capacity(_) | Error::Protocol(_)) => Parting::Broke(1002),
        Some(Error::Utf8(_)) => Parting::Broke(1007),
        _ => Parting::Lost,
    }
}
