//! A client: forms as bytes, requests over HTTP or by hand over a socket, and answers.
//!
//! Forms are written by hand, so that tests decide about the order of the fields, the names and the mistakes. Every
//! [`Answer`] has been checked for its request id, whatever it says.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use tokio::runtime::Runtime;

/// No request of these tests takes longer, on a slow machine that is busy with something else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The clients' threads. Servers have their own.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().expect("threads for the clients")
    })
}

/// Looks again and again until it is so. Fails the test when it is not so in time.
pub(crate) fn until(what: &str, time: Duration, mut so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + time;
    while !so() {
        assert!(std::time::Instant::now() < deadline, "not in {time:?}: {what}");
        rest(Duration::from_millis(10));
    }
}

/// Lets time pass, where that is what a test is about.
pub(crate) fn rest(time: Duration) {
    runtime().block_on(async { tokio::time::sleep(time).await });
}

const BOUNDARY: &str = "a-line-between-parts";

/// A multipart form, written part by part.
#[derive(Clone, Default)]
pub(crate) struct Form {
    parts: Vec<u8>,
}

impl Form {
    /// A form without anything.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// What most requests are: a model and a file.
    pub(crate) fn of(file: &[u8]) -> Self {
        Self::new().text("model", "whisper-1").file("speech.wav", file)
    }

    /// One more text field.
    pub(crate) fn text(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.part(&format!("form-data; name=\"{name}\""), value.as_ref())
    }

    /// The file, under this name.
    pub(crate) fn file(self, name: &str, bytes: &[u8]) -> Self {
        self.part(
            &format!(
                "form-data; name=\"file\"; filename=\"{name}\"\r\nContent-Type: application/octet-stream"
            ),
            bytes,
        )
    }

    /// One more part with this disposition, right or wrong.
    pub(crate) fn part(mut self, disposition: &str, body: &[u8]) -> Self {
        let head = format!("--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n");
        self.parts.extend_from_slice(head.as_bytes());
        self.parts.extend_from_slice(body);
        self.parts.extend_from_slice(b"\r\n");
        self
    }

    /// For the header of that name.
    pub(crate) fn content_type() -> String {
        format!("multipart/form-data; boundary={BOUNDARY}")
    }

    /// The whole body.
    pub(crate) fn body(&self) -> Vec<u8> {
        [&self.parts, format!("--{BOUNDARY}--\r\n").as_bytes()].concat()
    }

    /// As a request that a socket can take: the head with its length, and the body.
    pub(crate) fn request(&self) -> Vec<u8> {
        let body = self.body();
        let head = head(&Self::content_type(), &format!("Content-Length: {}", body.len()));
        [head.as_bytes(), &body].concat()
    }
}

/// The head of an upload by hand.
pub(crate) fn head(content_type: &str, more: &str) -> String {
    format!(
        "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: house\r\nConnection: close\r\n\
         Content-Type: {content_type}\r\n{more}\r\n\r\n"
    )
}

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Sends a request and takes all of the answer.
    pub(crate) fn to(request: reqwest::RequestBuilder) -> Self {
        runtime().block_on(Self::fetch(request))
    }

    /// The same where several clients are at work at once.
    pub(crate) async fn fetch(request: reqwest::RequestBuilder) -> Self {
        let response = request.timeout(PATIENCE).send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await.expect("a whole answer").to_vec();
        Self { status, headers, body }.checked()
    }

    fn checked(self) -> Self {
        let id = self.header("x-request-id");
        assert!(id.starts_with("req_") && id.len() > 20, "the request id is {id:?}");
        self
    }

    /// A header, or nothing where there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("a header of plain text"))
    }

    /// The body as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body in UTF-8")
    }

    /// The body of a request that went well.
    pub(crate) fn good(&self) -> &str {
        assert_eq!(self.status, 200, "{}", self.text());
        self.text()
    }

    /// The same without the id of its task, which is another one in every answer.
    pub(crate) fn nameless(&self) -> String {
        let id = self.header("x-task-id");
        self.good().replace(&format!(",\"task_id\":\"{id}\""), "")
    }

    /// The JSON body of a request that went well.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(self.good()).expect("a body of JSON")
    }

    /// The JSON body, whatever the status.
    pub(crate) fn json_of(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    /// The transcript in a JSON body.
    pub(crate) fn words(&self) -> String {
        self.json()["text"].as_str().expect("a text").to_owned()
    }

    /// Checks that this is OpenAI's error body with this status, code and field, and says its message.
    pub(crate) fn refused(&self, status: u16, code: &str, param: Option<&str>) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or(Value::Null);
        let error = body["error"].as_object().unwrap_or_else(|| panic!("no error body: {self:?}"));
        let mut keys: Vec<&str> = error.keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["code", "message", "param", "type"]);
        let expected = (status, code, param);
        assert_eq!((self.status, error["code"].as_str().unwrap_or(""), error["param"].as_str()), expected);
        assert_eq!(self.header("content-type"), "application/json");
        let family = if status < 500 { "invalid_request_error" } else { "server_error" };
        assert_eq!(error["type"], family);
        error["message"].as_str().filter(|message| message.len() > 10).expect("a sentence").to_owned()
    }
}

/// A connection whose every byte the test decides about.
pub(crate) struct Wire(TcpStream);

impl Wire {
    pub(crate) fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("somebody listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        Self(stream)
    }

    /// Sends as much as the server takes: one that has heard enough may hang up in the middle.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        drop(self.0.write_all(bytes));
    }

    /// Says that nothing more will come, and goes on listening.
    pub(crate) fn finish(&self) {
        drop(self.0.shutdown(Shutdown::Write));
    }

    /// Reads one answer with a length of its own.
    pub(crate) fn answer(mut self) -> Answer {
        let mut all = Vec::new();
        let begin = loop {
            if let Some(at) = all.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(self.read_more(&mut all), "the connection ended before an answer: {all:?}");
        };
        let (status, headers) = read_head(std::str::from_utf8(&all[..begin]).expect("a head of plain text"));
        let length = headers.get("content-length").and_then(|value| value.to_str().ok()?.parse().ok());
        let end = begin + length.unwrap_or(usize::MAX - begin);
        while all.len() < end && self.read_more(&mut all) {}
        Answer { status, headers, body: all.split_off(begin) }.checked()
    }

    /// The status alone, of an answer that may have no request id; `None` where there is none before the end.
    pub(crate) fn bare_status(mut self) -> Option<u16> {
        let mut some = [0; 4096];
        let got = self.0.read(&mut some).unwrap_or(0);
        std::str::from_utf8(&some[..got]).ok()?.split(' ').nth(1)?.parse().ok()
    }

    /// Whether there was more.
    fn read_more(&mut self, all: &mut Vec<u8>) -> bool {
        let mut some = [0; 4096];
        let got = self.0.read(&mut some).expect("the server answers in time");
        all.extend_from_slice(&some[..got]);
        got > 0
    }
}

fn read_head(head: &str) -> (u16, HeaderMap) {
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
    let header = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
    };
    (status, lines.filter_map(header).collect())
}
