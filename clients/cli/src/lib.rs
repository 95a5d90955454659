//! The client side of whisperwire: upload a recording, read the answer, ask what models there are; and, in [`live`],
//! speak and read while speaking.
//!
//! The contract: a [`Client`] speaks plain HTTP to one server and blocks until the answer is there. Files are read
//! while they are sent and never held in memory; answers are, up to [`MAX_ANSWER`]. Every failure is one sentence
//! that a person can act on, the server's own where it sent one. Deliberately absent: retries, because an upload
//! that failed is the caller's to repeat, and everything about audio, which is the server's business.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ureq::http::{Response, Uri};
use ureq::unversioned::multipart::{Form, Part};
use ureq::{Agent, Body, Proxy};
use whisperwire_protocol::error::ErrorBody;
use whisperwire_protocol::form::ResponseFormat;
use whisperwire_protocol::openai::ModelList;

pub mod live;
#[cfg(test)]
mod mock;
#[cfg(test)]
mod responder;
pub mod wer;

/// The longest answer that is read, in bytes. Ten hours of speech with a time for every word need a tenth of it.
pub const MAX_ANSWER: u64 = 256 * 1024 * 1024;

/// One server, and the key to it.
#[derive(Clone, Debug)]
pub struct Client {
    agent: Agent,
    /// Without a slash at its end.
    server: String,
    api_key: Option<Key>,
}

/// What to ask for beside the words.
#[derive(Clone, Debug)]
pub struct Options {
    /// The model, or an alias of it.
    pub model: String,
    /// What the answer looks like.
    pub format: ResponseFormat,
    /// The spoken language; `None` lets the server detect it.
    pub language: Option<String>,
    /// Text that stands before the audio.
    pub prompt: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { model: "whisper-1".into(), format: ResponseFormat::Json, language: None, prompt: None }
    }
}

/// What can go wrong. Each is one sentence for people.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is not one.
    #[error("\"{0}\" is not a server address; it looks like http://127.0.0.1:8000.")]
    Address(String),
    /// The key cannot be put into a header.
    #[error("The API key holds characters that no key has.")]
    Key,
    /// The file cannot be opened.
    #[error("The file cannot be read: {0}.")]
    File(io::Error),
    /// Nobody answered, or not in time, or the connection broke.
    #[error("The server at {server} cannot be reached: {reason}.")]
    Connection {
        /// Who should have answered.
        server: String,
        /// What happened.
        reason: Box<ureq::Error>,
    },
    /// The server said no.
    #[error("{message} (HTTP {status})")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The exact error, where the server named one.
        code: Option<String>,
        /// The server's own sentence.
        message: String,
    },
    /// The answer is not of the kind that was asked for.
    #[error("The answer of the server is not what this client expects: {0}.")]
    Answer(String),
}

impl Client {
    /// A client for the server at this address, such as `http://127.0.0.1:8000`. A `/v1` at its end is forgiven.
    /// `patience` is how long one answer may take, the upload included.
    pub fn new(server: &str, api_key: Option<&str>, patience: Duration) -> Result<Self, ClientError> {
        let bare = bare_address(server);
        let uri = bare.parse::<Uri>().ok().filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
        let host = uri.as_ref().and_then(Uri::host).filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| ClientError::Address(server.to_owned()))?;
        let api_key = api_key.filter(|key| !key.is_empty());
        if api_key.is_some_and(|key| !key.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(ClientError::Key);
        }
        // A proxy is for the way out; it could not reach a server on this machine.
        let proxy = if is_this_machine(host) { None } else { Proxy::try_from_env() };
        let agent = Agent::config_builder()
            .proxy(proxy)
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_global(Some(patience))
            .user_agent(concat!("ww/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        Ok(Self { agent, server: bare.to_owned(), api_key: api_key.map(|key| Key(key.to_owned())) })
    }

    /// Sends a file and returns the body of the answer, in the format that was asked for.
    pub fn transcribe(&self, file: &Path, options: &Options) -> Result<String, ClientError> {
        // A folder can be opened like a file; it fails only when it is read, and then the fault seems the network's.
        if file.is_dir() {
            return Err(ClientError::File(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        let part = Part::file(file).map_err(ClientError::File)?.file_name(&safe_name(file));
        let mut form =
            Form::new().text("model", &options.model).text("response_format", options.format.name());
        if let Some(language) = &options.language {
            form = form.text("language", language);
        }
        if let Some(prompt) = &options.prompt {
            form = form.text("prompt", prompt);
        }
        let mut request = self.agent.post(self.url("/v1/audio/transcriptions"));
        if let Some(Key(key)) = &self.api_key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        self.read(request.send(form.part("file", part)))
    }

    /// What models the server answers for.
    pub fn models(&self) -> Result<ModelList, ClientError> {
        let body = self.get("/v1/models")?;
        serde_json::from_str(&body).map_err(|reason| ClientError::Answer(reason.to_string()))
    }

    /// What the server says about its health; an error if it is not well.
    pub fn health(&self) -> Result<String, ClientError> {
        self.get("/health")
    }

    fn get(&self, path: &str) -> Result<String, ClientError> {
        let mut request = self.agent.get(self.url(path));
        if let Some(Key(key)) = &self.api_key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        self.read(request.call())
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.server)
    }

    fn read(&self, answer: Result<Response<Body>, ureq::Error>) -> Result<String, ClientError> {
        let lost = |reason| ClientError::Connection { server: self.server.clone(), reason: Box::new(reason) };
        let mut answer = answer.map_err(lost)?;
        let status = answer.status();
        let body = answer.body_mut().with_config().limit(MAX_ANSWER).read_to_string();
        if status.is_success() {
            return body.map_err(lost);
        }
        // An error without a readable body is still an error with a status.
        Err(refused(status.as_u16(), &body.unwrap_or_default()))
    }
}

/// A server's address without a slash or a `/v1` at its end.
fn bare_address(server: &str) -> &str {
    let bare = server.trim().trim_end_matches('/');
    bare.strip_suffix("/v1").unwrap_or(bare).trim_end_matches('/')
}

/// A secret that does not show itself in a debug print.
#[derive(Clone)]
struct Key(String);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// The server's own sentence where it sent one, and otherwise one about the status.
fn refused(status: u16, body: &str) -> ClientError {
    let detail = serde_json::from_str::<ErrorBody>(body).ok().map(|body| body.error);
    let said = detail.as_ref().map(|detail| one_sentence(&detail.message)).filter(|said| !said.is_empty());
    let message = said.unwrap_or_else(|| match status {
        300..=399 => "The server sends its visitors elsewhere; give the address it redirects to.".into(),
        404 => "There is no such endpoint; this may not be a whisperwire server.".into(),
        _ => "The server refused without saying why.".into(),
    });
    ClientError::Refused { status, code: detail.and_then(|detail| detail.code), message }
}

fn is_this_machine(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// On one line and not endless, without characters that act on a terminal.
fn one_sentence(message: &str) -> String {
    let printable = message.chars().map(|c| if c.is_control() { ' ' } else { c });
    let line: String = printable.take(500).collect();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A file's name as it may stand in a header between quotation marks.
fn safe_name(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.chars().map(|c| if c.is_control() || ['"', '\\'].contains(&c) { '_' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::responder::Responder;

    fn client(server: &str) -> Client {
        Client::new(server, Some("key-1"), Duration::from_secs(20)).expect("an address")
    }

    fn count(body: &[u8], part: &[u8]) -> usize {
        body.windows(part.len()).filter(|window| window == &part).count()
    }

    #[test]
    fn an_upload_carries_the_bytes_and_the_fields() {
        let responder = Responder::new(vec![(200, "{\"text\":\"hi\"}")]);
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a \"b\".wav");
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n * 7 % 251) as u8).collect();
        std::fs::write(&file, &bytes).expect("a file");
        let options =
            Options { language: Some("de".into()), prompt: Some("Grüezi.".into()), ..Options::default() };
        let answer = client(&responder.address).transcribe(&file, &options).expect("an answer");
        assert_eq!(answer, "{\"text\":\"hi\"}");

        let heard = responder.heard();
        assert!(heard[0].head.starts_with("POST /v1/audio/transcriptions HTTP/1.1\r\n"));
        assert!(heard[0].head.contains("authorization: Bearer key-1\r\n"), "{}", heard[0].head);
        assert_eq!(count(&heard[0].body, &bytes), 1);
        for part in [
            "name=\"model\"\r\n\r\nwhisper-1\r\n",
            "name=\"response_format\"\r\n\r\njson\r\n",
            "name=\"language\"\r\n\r\nde\r\n",
            "name=\"prompt\"\r\n\r\nGrüezi.\r\n",
            "name=\"file\"; filename=\"a _b_.wav\"\r\n",
        ] {
            assert_eq!(count(&heard[0].body, part.as_bytes()), 1, "{part}");
        }
    }

    #[test]
    fn a_refusal_is_the_servers_own_sentence() {
        let body = r#"{"error":{"message":"This is\nno audio.","type":"invalid_request_error","param":"file","code":"unsupported_audio"}}"#;
        let responder = Responder::new(vec![(400, body), (502, "<html>"), (302, "")]);
        let client = client(&responder.address);
        let error = client.transcribe(Path::new("Cargo.toml"), &Options::default()).expect_err("refused");
        assert_eq!(error.to_string(), "This is no audio. (HTTP 400)");
        assert!(
            matches!(error, ClientError::Refused { code: Some(code), .. } if code == "unsupported_audio")
        );
        let error = client.health().expect_err("refused");
        assert_eq!(error.to_string(), "The server refused without saying why. (HTTP 502)");
        assert!(client.health().expect_err("redirected").to_string().ends_with("(HTTP 302)"));
        responder.heard();
    }

    #[test]
    fn models_are_read_and_nonsense_is_named() {
        let list = include_str!("../../../protocol/fixtures/models.json");
        let responder = Responder::new(vec![(200, list), (200, "hello")]);
        let client = client(&format!("{}/v1/", responder.address));
        assert_eq!(client.models().expect("a list").data[0].id, "whisper-1");
        assert!(matches!(client.models().expect_err("no list"), ClientError::Answer(_)));
        assert!(responder.heard()[0].head.starts_with("GET /v1/models HTTP/1.1\r\n"));
    }

    #[test]
    fn what_cannot_work_is_said_before_anything_is_sent() {
        for wrong in ["", "127.0.0.1:8000", "ftp://a", "http://", "http://a b"] {
            let error = Client::new(wrong, None, Duration::from_secs(1)).expect_err(wrong);
            assert!(matches!(error, ClientError::Address(_)), "{wrong}: {error}");
        }
        let key = Client::new("http://127.0.0.1:1", Some("a\nb"), Duration::from_secs(1));
        assert!(matches!(key, Err(ClientError::Key)));
        assert!(!format!("{:?}", client("http://127.0.0.1:1")).contains("key-1"));

        // A port that was free a moment ago has nobody behind it.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        drop(listener);
        let client = client(&address);
        assert!(matches!(client.health(), Err(ClientError::Connection { .. })));
        for missing in ["no/such/file.wav", "src"] {
            let error = client.transcribe(Path::new(missing), &Options::default()).expect_err(missing);
            assert!(matches!(error, ClientError::File(_)), "{missing}: {error}");
        }
    }
}
