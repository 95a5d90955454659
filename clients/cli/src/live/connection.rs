//! One WebSocket: where it leads, how it is opened, and what a refusal says.
//!
//! The contract: every wait on the server has a deadline. Deliberately absent: proxies (a WebSocket through one
//! wants CONNECT), and redirects, which a server of this kind never sends.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Request, Response, Uri};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, client_async_tls_with_config};
use whisperwire_protocol::error::{ErrorBody, ErrorDetail};
use whisperwire_protocol::stream::{Ready, ServerEvent, ServerMessage, Settings};

use super::error::{LiveError, Refusal};
use crate::Key;

/// How long it may take to connect, and then to be told `ready`.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest message that is read, in bytes; the server's are a hundredth of it.
const MAX_INCOMING: usize = 8 << 20;
/// The library's own buffers are 128 KiB for reading; thousands of connections need smaller ones.
const READ_BUFFER: usize = 8 << 10;
/// Settings that make the address longer than this go by `configure` instead.
const LONG_QUERY: usize = 4_000;

pub(super) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// The stream endpoint of one server, and the key to it.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// As people write it, for errors.
    server: String,
    /// `ws://…/v1/stream`.
    url: String,
    host: String,
    port: u16,
    key: Option<Key>,
}

impl Target {
    pub(super) fn new(server: &str, key: Option<&str>) -> Result<Self, LiveError> {
        let wrong = || LiveError::Address(server.to_owned());
        let bare = crate::bare_address(server);
        let uri: Uri = bare.parse().map_err(|_| wrong())?;
        let (scheme, port) = match uri.scheme_str() {
            Some("http" | "ws") => ("ws", 80),
            Some("https" | "wss") => ("wss", 443),
            _ => return Err(wrong()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
        let (_, rest) = bare.split_once("://").ok_or_else(wrong)?;
        let key = key.filter(|key| !key.is_empty());
        if key.is_some_and(|key| !key.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(LiveError::Key);
        }
        Ok(Self {
            server: bare.to_owned(),
            url: format!("{scheme}://{rest}/v1/stream"),
            host: host.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(port),
            key: key.map(|key| Key(key.to_owned())),
        })
    }

    /// Opens a WebSocket with this query and waits for `ready`.
    pub(super) async fn open(&self, query: &str) -> Result<(Socket, Ready), LiveError> {
        let connected = async {
            let mut socket = self.connect(query).await?;
            let ready = greeting(&mut socket).await?;
            Ok((socket, ready))
        };
        timeout(PATIENCE, connected)
            .await
            .unwrap_or_else(|_| Err(self.unreachable("it does not answer in time")))
    }

    async fn connect(&self, query: &str) -> Result<Socket, LiveError> {
        let request = self.request(query)?;
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await;
        let tcp = tcp.map_err(|reason| self.unreachable(&reason.to_string()))?;
        // Chunks of 20 ms must not wait for each other.
        tcp.set_nodelay(true).map_err(|reason| self.unreachable(&reason.to_string()))?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .max_message_size(Some(MAX_INCOMING))
            .max_frame_size(Some(MAX_INCOMING));
        match client_async_tls_with_config(request, tcp, Some(config), None).await {
            Ok((socket, _)) => Ok(socket),
            Err(Error::Http(answer)) => Err(LiveError::Refused(Box::new(refusal(&answer)))),
            Err(reason) => Err(self.unreachable(&reason.to_string())),
        }
    }

    fn request(&self, query: &str) -> Result<Request<()>, LiveError> {
        let question = if query.is_empty() { "" } else { "?" };
        let url = format!("{}{question}{query}", self.url);
        let mut request = url.into_client_request().map_err(|_| LiveError::Address(self.server.clone()))?;
        if let Some(Key(key)) = &self.key {
            let mut value = HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| LiveError::Key)?;
            value.set_sensitive(true);
            request.headers_mut().insert("authorization", value);
        }
        let agent = HeaderValue::from_static(concat!("ww/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert("user-agent", agent);
        Ok(request)
    }

    fn unreachable(&self, reason: &str) -> LiveError {
        let reason = crate::one_sentence(reason);
        LiveError::Unreachable {
            server: self.server.clone(),
            reason: reason.trim_end_matches('.').to_owned(),
        }
    }
}

/// The first message, which is `ready` or why there is no stream.
async fn greeting(socket: &mut Socket) -> Result<Ready, LiveError> {
    let mut before: Option<ErrorDetail> = None;
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => match parse(&text)?.message {
                ServerMessage::Ready(ready) => return Ok(*ready),
                ServerMessage::Error { error, .. } => before = Some(error),
                ServerMessage::Unknown => {}
                _ => return Err(LiveError::Answer("the first message is not ready".into())),
            },
            Some(Ok(Message::Close(frame))) => {
                let (close, reason) = close_of(frame.as_ref());
                return Err(LiveError::closed(close, &reason, before.as_ref()));
            }
            Some(Ok(_)) => {}
            Some(Err(reason)) => return Err(LiveError::Lost(crate::one_sentence(&reason.to_string()))),
            None => return Err(LiveError::Lost("the server hung up".into())),
        }
    }
}

/// One text message of the server. A kind that this client does not know is [`ServerMessage::Unknown`].
pub(super) fn parse(text: &str) -> Result<ServerEvent, LiveError> {
    serde_json::from_str(text).map_err(|wrong| LiveError::Answer(crate::one_sentence(&wrong.to_string())))
}

/// Code and reason of a close frame; 1005 is what the standard calls one without a code.
pub(super) fn close_of(frame: Option<&CloseFrame>) -> (u16, String) {
    frame.map_or((1005, String::new()), |frame| (frame.code.into(), frame.reason.to_string()))
}

fn refusal(answer: &Response<Option<Vec<u8>>>) -> Refusal {
    let body = answer.body().as_deref().unwrap_or_default();
    let detail = serde_json::from_slice::<ErrorBody>(body).ok().map(|body| body.error);
    let header = answer.headers().get("retry-after").and_then(|value| value.to_str().ok());
    let seconds = header.and_then(|value| value.trim().parse().ok());
    Refusal { status: answer.status().as_u16(), detail, retry_after: seconds.map(Duration::from_secs) }
}

/// These settings as a query string, and what of them does not fit into one: it goes by `configure`.
pub(super) fn query(settings: &Settings) -> Result<(String, Option<Settings>), LiveError> {
    settings.check().map_err(|wrong| LiveError::Settings(wrong.message))?;
    let mut asked = settings.clone();
    let mut later = Settings::default();
    // In a query a comma separates the items of a list.
    for (list, rest) in
        [(&mut asked.keywords, &mut later.keywords), (&mut asked.languages, &mut later.languages)]
    {
        if list.iter().flatten().any(|item| item.contains(',') || item.trim() != item || item.is_empty()) {
            *rest = list.take();
        }
    }
    let mut text = pairs(&asked);
    if text.len() > LONG_QUERY {
        later.prompt = asked.prompt.take();
        later.keywords = later.keywords.or(asked.keywords.take());
        text = pairs(&asked);
    }
    Ok((text, (later != Settings::default()).then_some(later)))
}

fn pairs(settings: &Settings) -> String {
    let Ok(Value::Object(object)) = serde_json::to_value(settings) else {
        unreachable!("settings are an object with text keys");
    };
    let pairs = object.iter().map(|(name, value)| {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
            other => other.to_string(),
        };
        format!("{name}={}", percent(&value))
    });
    pairs.collect::<Vec<_>>().join("&")
}

/// Every byte but letters, digits and `-._~` as its number.
pub(super) fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out += &format!("%{byte:02X}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use whisperwire_protocol::stream::Encoding;

    use super::*;

    #[test]
    fn addresses_lead_to_the_stream() {
        let url = |server: &str| Target::new(server, None).map(|target| target.url);
        assert_eq!(url("http://a:1/v1/").expect("an address"), "ws://a:1/v1/stream");
        assert_eq!(url("https://a/x").expect("an address"), "wss://a/x/v1/stream");
        let six = Target::new("http://[::1]:80", Some("k")).expect("an address");
        assert_eq!((six.host.as_str(), six.port), ("::1", 80));
        assert!(!format!("{six:?}").contains("\"k\""), "a key does not show itself");
        for wrong in ["", "a:1", "ftp://a", "http://"] {
            assert!(matches!(url(wrong), Err(LiveError::Address(_))), "{wrong}");
        }
        assert!(matches!(Target::new("http://a", Some("a b")), Err(LiveError::Key)));
    }

    #[test]
    fn settings_become_a_query_that_the_protocol_reads() {
        let settings = Settings {
            encoding: Some(Encoding::OggOpus),
            language: Some("de".into()),
            prompt: Some("Grüezi & 100 %+?".into()),
            keywords: Some(vec!["Zürich".into(), "a=b".into()]),
            words: Some(true),
            vad_threshold: Some(0.25),
            grace: Some(30.0),
            ..Settings::default()
        };
        let (text, later) = query(&settings).expect("good settings");
        assert_eq!(later, None);
        assert!(text.is_ascii() && !text.contains(' '), "{text}");
        let plain = |text: &str| {
            let bytes: Vec<u8> = text.bytes().collect();
            let mut out = Vec::new();
            let mut at = 0;
            while at < bytes.len() {
                if bytes[at] == b'%' {
                    let number = std::str::from_utf8(&bytes[at + 1..at + 3]).expect("two digits");
                    out.push(u8::from_str_radix(number, 16).expect("two digits"));
                    at += 3;
                } else {
                    out.push(bytes[at]);
                    at += 1;
                }
            }
            String::from_utf8(out).expect("text")
        };
        let pairs: Vec<(String, String)> = text
            .split('&')
            .map(|pair| pair.split_once('=').expect("a pair"))
            .map(|(name, value)| (plain(name), plain(value)))
            .collect();
        let pairs = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        assert_eq!(Settings::from_query(pairs).expect("reads back"), settings);
    }

    #[test]
    fn what_a_query_cannot_hold_is_configured() {
        let commas = Settings { keywords: Some(vec!["a, b".into()]), ..Settings::default() };
        assert_eq!(query(&commas).expect("good settings"), (String::new(), Some(commas.clone())));
        let long = Settings { prompt: Some("x".repeat(9_000)), words: Some(true), ..Settings::default() };
        let (text, later) = query(&long).expect("good settings");
        assert_eq!(text, "words=true");
        assert_eq!(later.expect("the prompt").prompt, long.prompt);
        let wrong = Settings { channels: Some(9), ..Settings::default() };
        assert!(matches!(query(&wrong), Err(LiveError::Settings(_))));
    }

    #[test]
    fn unknown_messages_are_no_error_and_broken_ones_are() {
        let message = |text| parse(text).map(|event| event.message);
        assert_eq!(message(r#"{"type":"applause","loud":true}"#).expect("forgiven"), ServerMessage::Unknown);
        assert_eq!(message(r#"{"type":"pong","new":1}"#).expect("forgiven"), ServerMessage::Pong);
        for wrong in ["", "[]", "7", r#"{"type":"final"}"#, r#"{"seq":1}"#] {
            assert!(matches!(parse(wrong), Err(LiveError::Answer(_))), "{wrong}");
        }
    }
}
