//! A server for tests that speaks WebSocket: each connection is given to a function of the test, which decides what
//! it hears and says. It knows nothing of speech.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};
use whisperwire_protocol::stream::{
    ClientMessage, Encoding, Final, Ready, Received, ServerEvent, ServerMessage, Settings, VERSION,
};

/// A listener that lives as long as the test's runtime.
pub(crate) struct Mock {
    pub(crate) address: String,
    connections: Arc<AtomicUsize>,
}

/// A connection that has not said anything yet.
pub(crate) struct Peer(TcpStream);

/// An open WebSocket.
pub(crate) struct Talk {
    /// What stood behind the question mark.
    pub(crate) query: String,
    /// The header `Authorization`.
    pub(crate) authorization: String,
    socket: WebSocketStream<TcpStream>,
}

impl Mock {
    /// Gives each connection, numbered from 0, to `serve`.
    pub(crate) async fn new<F, Fut>(serve: F) -> Self
    where
        F: Fn(usize, Peer) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.expect("a client");
                tokio::spawn(serve(counter.fetch_add(1, Ordering::SeqCst), Peer(tcp)));
            }
        });
        Self { address, connections }
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Peer {
    #[expect(clippy::result_large_err, reason = "the library's callback wants this type")]
    pub(crate) async fn accept(self) -> Talk {
        let (mut query, mut authorization) = (String::new(), String::new());
        let look = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
            query = request.uri().query().unwrap_or_default().to_owned();
            let header = request.headers().get("authorization").and_then(|value| value.to_str().ok());
            authorization = header.unwrap_or_default().to_owned();
            Ok(response)
        };
        let socket = accept_hdr_async(self.0, look).await.expect("a handshake");
        Talk { query, authorization, socket }
    }

    /// Answers the handshake with this status instead. `headers` end in a line break.
    pub(crate) async fn refuse(mut self, status: u16, headers: &str, body: &str) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.expect("a request"));
        }
        let length = body.len();
        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{headers}\r\n{body}");
        self.0.write_all(answer.as_bytes()).await.expect("the client listens");
        let _ = self.0.shutdown().await;
    }
}

impl Talk {
    /// Says `ready` for a stream of plain samples named `s1`.
    pub(crate) async fn ready(&mut self, bytes: u64, last_seq: u64, grace: f64) {
        let settings =
            Settings { encoding: Some(Encoding::PcmS16le), grace: Some(grace), ..Settings::default() };
        let ready = Ready {
            version: VERSION,
            stream: "s1".into(),
            settings,
            received: Received { bytes, samples: bytes / 2, messages: 0 },
            last_seq,
            caveat: None,
        };
        self.say(None, ServerMessage::Ready(Box::new(ready))).await;
    }

    pub(crate) async fn say(&mut self, seq: impl Into<Option<u64>>, message: ServerMessage) {
        let event = ServerEvent { seq: seq.into(), message };
        let sent = self.socket.send(Message::text(event.to_json())).await;
        // A client that has gone is the test's business.
        drop(sent);
    }

    pub(crate) async fn say_raw(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.expect("the client listens");
    }

    /// The next message that is audio or a command. `None` where the client has closed or gone.
    pub(crate) async fn hear(&mut self) -> Option<Heard> {
        loop {
            match self.socket.next().await? {
                Ok(Message::Binary(bytes)) => return Some(Heard::Audio(bytes.to_vec())),
                Ok(Message::Text(text)) => {
                    return Some(Heard::Said(
                        ClientMessage::parse(&text).expect("a message of the protocol"),
                    ));
                }
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Reads audio until there are so many bytes.
    pub(crate) async fn hear_bytes(&mut self, count: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < count {
            match self.hear().await {
                Some(Heard::Audio(bytes)) => all.extend(bytes),
                other => panic!("audio was due, not {other:?}"),
            }
        }
        all
    }

    pub(crate) async fn close(mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        self.socket.close(Some(frame)).await.expect("the client listens");
        while let Some(Ok(_)) = self.socket.next().await {}
    }
}

/// What a client said.
#[derive(Debug, PartialEq)]
pub(crate) enum Heard {
    Audio(Vec<u8>),
    Said(ClientMessage),
}

/// A final that says this.
pub(crate) fn said(utterance: u32, text: &str, start: f64, end: f64) -> ServerMessage {
    ServerMessage::Final(Final {
        utterance,
        text: text.into(),
        start,
        end,
        confidence: 0.5,
        ..Final::default()
    })
}
