//! Every error that can cross the wire, in one table, and the body that OpenAI's clients expect.
//!
//! The code decides everything else: whose fault it is, the HTTP status, whether to try again, the WebSocket close
//! code. The OpenAI endpoints show a view of the same row: their own names for type and code, and 400 where HTTP
//! would have 415 or 422, because OpenAI never answers with those and its SDKs branch on the status alone.
//! Deliberately absent: what led to an error. That is for the server's log.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What went wrong, as the wire names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// A field is missing, unknown in this place, or holds a value that is not allowed.
    InvalidRequest,
    /// There is too little audio to transcribe, or none.
    AudioTooShort,
    /// No key, or a wrong one.
    Unauthorized,
    /// The key is known but not allowed here.
    Forbidden,
    /// No such route or resource.
    NotFound,
    /// No such model.
    ModelNotFound,
    /// The route exists, the method does not.
    MethodNotAllowed,
    /// A stream was silent for too long.
    IdleTimeout,
    /// An upload stalled.
    RequestTimeout,
    /// A job or stream is not in a state that allows this, or a newer connection has taken the stream.
    Conflict,
    /// It was there, and was forgotten when its time was over.
    Gone,
    /// More bytes than the limit.
    TooLarge,
    /// More seconds of audio than the limit.
    TooLong,
    /// The bytes are no audio that this server reads.
    UnsupportedAudio,
    /// The bytes were audio once, but cannot be decoded.
    CorruptAudio,
    /// The route speaks another protocol, and the request did not ask for it.
    UpgradeRequired,
    /// The quota of this key is used up for now.
    RateLimited,
    /// The engine failed.
    EngineFailed,
    /// Something else failed in the server.
    Internal,
    /// All slots are taken.
    Overloaded,
    /// The model is not ready yet.
    ModelLoading,
    /// The server is shutting down.
    Draining,
}

/// All that follows from an [`ErrorCode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Which code this row is about.
    pub code: ErrorCode,
    /// The code as text.
    pub name: &'static str,
    /// Whose fault it is.
    pub fault: Fault,
    /// The HTTP status on whisperwire's own endpoints.
    pub status: u16,
    /// Whether sending the same again can help.
    pub retry: Retry,
    /// The close code on a WebSocket; `None` where the error cannot happen on one.
    pub close: Option<u16>,
    /// The same error on the OpenAI endpoints.
    pub openai: OpenAiView,
}

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request was wrong; the message says how.
    Client,
    /// The server failed; the message says no more than that.
    Server,
}

/// Whether sending the same request again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It would fail again.
    Never,
    /// At once.
    Now,
    /// After the time that `Retry-After` names.
    Later,
    /// At another server, or at this one after it has restarted; `Retry-After` is a guess.
    Elsewhere,
}

impl Retry {
    /// Whether a `Retry-After` header belongs to the answer.
    pub fn after(self) -> bool {
        matches!(self, Self::Later | Self::Elsewhere)
    }
}

/// How an error looks on the OpenAI endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenAiView {
    /// The value of `error.type`.
    pub kind: &'static str,
    /// The value of `error.code`.
    pub code: &'static str,
    /// The HTTP status.
    pub status: u16,
}

impl ErrorCode {
    /// The code of that name.
    pub fn parse(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.name == name).map(|row| row.code)
    }

    /// The row of the table.
    pub fn row(self) -> &'static Row {
        TABLE
            .iter()
            .find(|row| row.code == self)
            .expect("the table has a row for every code; a test counts them")
    }

    /// The code as text.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The HTTP status on whisperwire's own endpoints.
    pub fn status(self) -> u16 {
        self.row().status
    }

    /// The close code on a WebSocket, where the error can happen on one.
    pub fn close(self) -> Option<u16> {
        self.row().close
    }

    /// Whether sending the same again can help.
    pub fn retry(self) -> Retry {
        self.row().retry
    }

    /// Whose fault it is.
    pub fn fault(self) -> Fault {
        self.row().fault
    }

    /// The same error on the OpenAI endpoints.
    pub fn openai(self) -> OpenAiView {
        self.row().openai
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The error body of the OpenAI endpoints, and of an event stream that fails after its first byte.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The only key.
    pub error: ErrorDetail,
}

/// What is inside an [`ErrorBody`]. All four keys are always written; when reading, those that other servers leave
/// out are forgiven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// One sentence for people.
    pub message: String,
    /// The family of the error.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The field that was wrong, where one was.
    #[serde(default)]
    pub param: Option<String>,
    /// The exact error.
    #[serde(default)]
    pub code: Option<String>,
}

impl ErrorBody {
    /// The body for a code, with a sentence for people and the field that was wrong, where one was.
    pub fn new(code: ErrorCode, message: impl Into<String>, param: Option<&str>) -> Self {
        let view = code.openai();
        Self {
            error: ErrorDetail {
                message: message.into(),
                kind: view.kind.to_owned(),
                param: param.map(str::to_owned),
                code: Some(view.code.to_owned()),
            },
        }
    }
}

/// The table, in order of status.
pub static TABLE: &[Row] = &[
    client(ErrorCode::InvalidRequest, "invalid_request", 400, invalid(400, "invalid_value")),
    client(ErrorCode::AudioTooShort, "audio_too_short", 400, invalid(400, "audio_too_short")),
    client(ErrorCode::Unauthorized, "unauthorized", 401, invalid(401, "invalid_api_key")),
    client(ErrorCode::Forbidden, "forbidden", 403, view("permission_error", 403, "insufficient_scope")),
    client(ErrorCode::NotFound, "not_found", 404, invalid(404, "not_found")),
    client(ErrorCode::ModelNotFound, "model_not_found", 404, invalid(404, "model_not_found")),
    Row {
        close: None,
        ..client(ErrorCode::MethodNotAllowed, "method_not_allowed", 405, invalid(405, "method_not_allowed"))
    },
    Row {
        retry: Retry::Now,
        ..client(ErrorCode::IdleTimeout, "idle_timeout", 408, invalid(408, "idle_timeout"))
    },
    Row {
        retry: Retry::Now,
        close: None,
        ..client(ErrorCode::RequestTimeout, "request_timeout", 408, invalid(408, "request_timeout"))
    },
    client(ErrorCode::Conflict, "conflict", 409, invalid(409, "conflict")),
    Row { close: None, ..client(ErrorCode::Gone, "gone", 410, invalid(410, "gone")) },
    client(ErrorCode::TooLarge, "too_large", 413, invalid(413, "file_too_large")),
    client(ErrorCode::TooLong, "too_long", 413, invalid(413, "file_too_large")),
    client(ErrorCode::UnsupportedAudio, "unsupported_audio", 415, invalid(400, "unsupported_audio")),
    client(ErrorCode::CorruptAudio, "corrupt_audio", 422, invalid(400, "corrupt_audio")),
    Row {
        close: None,
        ..client(ErrorCode::UpgradeRequired, "upgrade_required", 426, invalid(426, "upgrade_required"))
    },
    Row {
        retry: Retry::Later,
        ..client(
            ErrorCode::RateLimited,
            "rate_limited",
            429,
            view("rate_limit_error", 429, "rate_limit_exceeded"),
        )
    },
    server(ErrorCode::EngineFailed, "engine_failed", 500, Retry::Now),
    server(ErrorCode::Internal, "internal", 500, Retry::Now),
    server(ErrorCode::Overloaded, "overloaded", 503, Retry::Later),
    server(ErrorCode::ModelLoading, "model_loading", 503, Retry::Later),
    // 1001 is WebSocket's own word for a server that goes away; clients reconnect on it.
    Row { close: Some(1001), ..server(ErrorCode::Draining, "draining", 503, Retry::Elsewhere) },
];

/// A client's fault that will not go away by itself.
const fn client(code: ErrorCode, name: &'static str, status: u16, openai: OpenAiView) -> Row {
    Row { code, name, fault: Fault::Client, status, retry: Retry::Never, close: Some(4000 + status), openai }
}

/// A server's fault. OpenAI's view of it differs in nothing.
const fn server(code: ErrorCode, name: &'static str, status: u16, retry: Retry) -> Row {
    let openai = view("server_error", status, name);
    Row { code, name, fault: Fault::Server, status, retry, close: Some(4000 + status), openai }
}

const fn invalid(status: u16, code: &'static str) -> OpenAiView {
    view("invalid_request_error", status, code)
}

const fn view(kind: &'static str, status: u16, code: &'static str) -> OpenAiView {
    OpenAiView { kind, code, status }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_one_row_under_its_wire_name() {
        // `Draining` is the last variant; a new one that is not put into the table fails here.
        assert_eq!(TABLE.len(), ErrorCode::Draining as usize + 1);
        for (n, row) in TABLE.iter().enumerate() {
            assert_eq!(row.code as usize, n, "{} stands in the order of the enum", row.name);
            let wire = serde_json::to_value(row.code).expect("a code is a string");
            assert_eq!(wire, row.name);
            assert_eq!(serde_json::from_value::<ErrorCode>(wire).expect("reads back"), row.code);
        }
    }

    #[test]
    fn statuses_follow_the_rules_of_the_house() {
        for row in TABLE {
            assert_eq!(row.fault == Fault::Server, row.status >= 500, "{}", row.name);
            assert!(![415, 422].contains(&row.openai.status), "{}: OpenAI has neither", row.name);
            assert!(
                row.close.is_none_or(|close| close == 1001 || close - 4000 == row.status),
                "{}",
                row.name
            );
            assert_eq!(row.retry.after(), [429, 503].contains(&row.status), "{}", row.name);
        }
    }

    #[test]
    fn the_body_always_has_four_keys() {
        let body = ErrorBody::new(ErrorCode::InvalidRequest, "temperature must be between 0 and 1.", None);
        let json = serde_json::to_string(&body).expect("plain data");
        assert_eq!(
            json,
            r#"{"error":{"message":"temperature must be between 0 and 1.","type":"invalid_request_error","param":null,"code":"invalid_value"}}"#
        );
        let fixture = include_str!("../fixtures/error.json");
        let body: ErrorBody = serde_json::from_str(fixture).expect("the fixture is an error body");
        assert_eq!(body.error.param.as_deref(), Some("file"));
        let again: serde_json::Value = serde_json::from_str(fixture).expect("json");
        assert_eq!(serde_json::to_value(&body).expect("plain data"), again);
        let foreign: ErrorBody = serde_json::from_str(r#"{"error":{"message":"no"}}"#).expect("is forgiven");
        assert_eq!(foreign.error.code, None);
    }

    #[test]
    fn the_readme_has_the_same_table() {
        let readme = include_str!("../README.md");
        for row in TABLE {
            let retry = match row.retry {
                Retry::Never => "no",
                Retry::Now => "yes",
                Retry::Later => "later",
                Retry::Elsewhere => "elsewhere",
            };
            let close = row.close.map_or("—".to_owned(), |close| close.to_string());
            let OpenAiView { code, status, .. } = row.openai;
            let line = format!("| `{}` | {} | {status} `{code}` | {retry} | {close} |", row.name, row.status);
            assert!(readme.contains(&line), "{line}");
        }
    }
}
