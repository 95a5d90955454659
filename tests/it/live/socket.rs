//! A client on a WebSocket. It reads whenever it sends or waits, as clients must, and at no other time, so that a test
//! decides what is heard when. Dropping it drops the connection, without a word to the server.

use std::net::SocketAddr;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message, http};
use whisperwire_protocol::stream::{Ready, ServerEvent, ServerMessage};

use super::story::Story;
use crate::client::PATIENCE;
use crate::house::TestHouse;

type Bare = WebSocketStream<TcpStream>;

/// See the module.
pub(crate) struct Socket {
    sink: SplitSink<Bare, Message>,
    source: SplitStream<Bare>,
    pub(crate) story: Story,
    open: bool,
}

/// A handshake that was answered otherwise than by an upgrade.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Value,
}

impl Refusal {
    /// Checks that this is the native error body with this status, code and field.
    pub(crate) fn is(&self, status: u16, code: &str, param: Option<&str>) {
        native(&self.body, (self.status, status), code, param);
    }
}

/// Checks an error body of our own.
pub(crate) fn native(body: &Value, (got, status): (u16, u16), code: &str, param: Option<&str>) {
    let error = &body["error"];
    assert_eq!((got, error["code"].as_str(), error["param"].as_str()), (status, Some(code), param), "{body}");
    assert!(error["message"].as_str().is_some_and(|message| message.len() > 10), "{body}");
    let family = if status < 500 { "invalid_request_error" } else { "server_error" };
    assert_eq!(error["type"], family, "{body}");
}

impl Socket {
    /// A new stream with these settings.
    pub(crate) async fn open(house: &TestHouse, query: &str) -> Self {
        Self::at(house.address, query, &[]).await.expect("an upgrade")
    }

    /// Comes back to a stream.
    pub(crate) async fn resume(house: &TestHouse, stream: &str, after: u64) -> Result<Self, Refusal> {
        Self::at(house.address, &format!("stream={stream}&after={after}"), &[]).await
    }

    /// The same with headers, at any server.
    pub(crate) async fn at(
        address: SocketAddr,
        query: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, Refusal> {
        let tcp = TcpStream::connect(address).await.expect("somebody listens");
        let bare = shake_hands(tcp, query, headers).await?;
        let (sink, source) = bare.split();
        let mut socket = Self { sink, source, story: Story::default(), open: true };
        socket.until("`ready`", |story| !story.events.is_empty()).await;
        Ok(socket)
    }

    pub(crate) fn ready(&self) -> &Ready {
        self.story.ready()
    }

    /// One binary message.
    pub(crate) async fn audio(&mut self, bytes: &[u8]) {
        self.send(Message::binary(bytes.to_vec())).await;
    }

    /// Many, cut like this.
    pub(crate) async fn audio_in(&mut self, bytes: &[u8], size: usize) {
        for chunk in bytes.chunks(size) {
            self.audio(chunk).await;
        }
    }

    pub(crate) async fn say(&mut self, text: &str) {
        self.send(Message::text(text)).await;
    }

    pub(crate) async fn flush(&mut self) {
        self.say(r#"{"type":"flush"}"#).await;
    }

    /// Waits until the server has taken everything that was sent so far.
    pub(crate) async fn taken(&mut self) {
        let pongs = |story: &Story| story.messages().filter(|m| matches!(m, ServerMessage::Pong)).count();
        let before = pongs(&self.story);
        self.say(r#"{"type":"ping"}"#).await;
        self.until("pong", |story| pongs(story) > before).await;
    }

    /// Says that no more comes, and listens to the rest.
    pub(crate) async fn end(mut self) -> Story {
        self.say(r#"{"type":"end"}"#).await;
        self.rest().await
    }

    /// Listens until the server closes or the connection is gone.
    pub(crate) async fn rest(mut self) -> Story {
        self.until("the close", |_| false).await;
        self.story
    }

    /// Listens until it is so, or until nothing more comes.
    pub(crate) async fn until(&mut self, what: &str, so: impl Fn(&Story) -> bool) {
        let listen = async {
            while self.open && !so(&self.story) {
                let heard = self.source.next().await;
                take(heard, &mut self.story, &mut self.open);
            }
        };
        tokio::time::timeout(PATIENCE, listen).await.unwrap_or_else(|_| panic!("never came: {what}"));
    }

    /// The closing handshake from this side, with this code.
    pub(crate) async fn close(mut self, code: u16) -> Story {
        let frame = CloseFrame { code: code.into(), reason: "".into() };
        self.send(Message::Close(Some(frame))).await;
        self.rest().await
    }

    /// Makes the connection break with a reset when it is dropped.
    pub(crate) fn breaking(self) -> Self {
        let Self { sink, source, story, open } = self;
        let bare = source.reunite(sink).expect("they are halves of one");
        bare.get_ref().set_zero_linger().expect("an option of the socket");
        let (sink, source) = bare.split();
        Self { sink, source, story, open }
    }

    /// Sends and listens at the same time. What a server that has closed does not take any more is lost.
    pub(crate) async fn send(&mut self, message: Message) {
        let Self { sink, source, story, open } = self;
        let sending = sink.send(message);
        tokio::pin!(sending);
        let both = async {
            while *open {
                tokio::select! {
                    _ = &mut sending => return,
                    heard = source.next() => take(heard, story, open),
                }
            }
        };
        tokio::time::timeout(PATIENCE, both).await.expect("the server takes what it is sent");
    }
}

fn take(heard: Option<Result<Message, Error>>, story: &mut Story, open: &mut bool) {
    match heard {
        Some(Ok(Message::Text(text))) => {
            let event: ServerEvent = serde_json::from_str(&text).expect("a message of the protocol");
            assert_ne!(event.message, ServerMessage::Unknown, "{text}");
            story.events.push(event);
        }
        Some(Ok(Message::Close(frame))) => story.close = frame.map(|frame| frame.code.into()),
        Some(Ok(_)) => {}
        Some(Err(_)) | None => *open = false,
    }
}

/// A connection that was upgraded, and nothing more: its `ready` has not been read.
pub(crate) async fn shake_hands(
    tcp: TcpStream,
    query: &str,
    headers: &[(&'static str, &str)],
) -> Result<Bare, Refusal> {
    let mut request = format!("ws://house/v1/stream?{query}").into_client_request().expect("a plain address");
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().expect("a plain header"));
    }
    match tokio_tungstenite::client_async(request, tcp).await {
        Ok((bare, _)) => Ok(bare),
        Err(Error::Http(response)) => {
            let body = response.body().as_deref().unwrap_or_default();
            let body = serde_json::from_slice(body).unwrap_or(Value::Null);
            Err(Refusal { status: response.status().as_u16(), headers: response.headers().clone(), body })
        }
        Err(error) => panic!("no handshake: {error}"),
    }
}
