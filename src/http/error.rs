//! Any room's error becomes a code of the one table, and the code becomes a response.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use whisperwire_protocol::error::Fault;
use whisperwire_protocol::{ErrorBody, ErrorCode, FieldError};

use super::measure::Told;
use crate::audio::AudioError;
use crate::dialect::audio_fault;
pub(super) use crate::dialect::sentence;
use crate::engine::pool::Overloaded;
use crate::pipeline::TranscribeError;

/// An error on its way to a client.
#[derive(Debug)]
pub(super) struct ApiError {
    code: ErrorCode,
    message: String,
    param: Option<String>,
    /// Seconds after which it is worth coming back.
    retry_after: Option<u64>,
    /// What only the log may know.
    source: Option<String>,
    /// Whether it is told in our own words, and not in OpenAI's.
    native: bool,
}

/// What only the log may know, on its way there in a response's extensions.
#[derive(Clone)]
pub(super) struct Cause(pub(super) String);

impl ApiError {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), param: None, retry_after: None, source: None, native: false }
    }

    /// An error of ours: the client learns no more than that.
    pub(super) fn internal(source: impl std::fmt::Display) -> Self {
        let message = "The server failed. Its log knows more under this answer's x-request-id.";
        Self { source: Some(source.to_string()), ..Self::new(ErrorCode::Internal, message) }
    }

    pub(super) fn no_route() -> Self {
        Self::new(ErrorCode::NotFound, "There is no such route.")
    }

    pub(super) fn wrong_method() -> Self {
        Self::new(ErrorCode::MethodNotAllowed, "This route does not know this method.")
    }

    /// With another time to come back after, in seconds.
    pub(super) fn after(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    /// Whether this field was wrong.
    pub(super) fn is_about(&self, param: &str) -> bool {
        self.param.as_deref() == Some(param)
    }

    pub(super) fn of(self, param: &str) -> Self {
        Self { param: Some(param.to_owned()), ..self }
    }

    /// It is worth coming back after so many seconds.
    pub(super) fn come_back_after(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    /// With what only the log may know.
    pub(super) fn because(self, source: impl std::fmt::Display) -> Self {
        Self { source: Some(source.to_string()), ..self }
    }

    /// What went wrong with a transcription, where its audio came in this field.
    pub(super) fn transcribing(error: &TranscribeError, param: &str) -> Self {
        match error {
            TranscribeError::Audio(error) => Self::from(error).of(param),
            other => other.into(),
        }
    }

    /// In our own words: for the routes that are nobody else's.
    pub(super) fn native(self) -> Self {
        Self { native: true, ..self }
    }

    /// In the words of whoever invented the route: live streams, jobs and webhooks are ours.
    pub(super) fn in_words_of(self, path: &str) -> Self {
        const OURS: [&str; 3] = ["/stream", "/jobs", "/webhooks"];
        let path = path.strip_prefix("/v1").unwrap_or(path);
        if OURS.iter().any(|ours| path.starts_with(ours)) { self.native() } else { self }
    }

    /// What went wrong.
    pub(super) fn code(&self) -> ErrorCode {
        self.code
    }

    /// The body, for an event stream that has already begun.
    pub(super) fn body(&self) -> ErrorBody {
        ErrorBody::new(self.code, &self.message, self.param.as_deref())
    }

    /// The body in our own words: the code is the one of the table.
    pub(super) fn native_body(&self) -> ErrorBody {
        let mut body = self.body();
        body.error.code = Some(self.code.name().to_owned());
        body
    }

    /// What to close a WebSocket with.
    pub(super) fn close(&self) -> u16 {
        self.code.close().unwrap_or(4000 + self.code.status())
    }
}

impl From<FieldError> for ApiError {
    fn from(error: FieldError) -> Self {
        let refused = Self::new(ErrorCode::InvalidRequest, error.message);
        if error.param.is_empty() { refused } else { refused.of(&error.param) }
    }
}

impl From<Overloaded> for ApiError {
    fn from(full: Overloaded) -> Self {
        let message = "All slots are taken. Come back after the time in Retry-After.";
        Self { retry_after: Some(full.retry_after), ..Self::new(ErrorCode::Overloaded, message) }
    }
}

impl From<AudioError> for ApiError {
    fn from(error: AudioError) -> Self {
        Self::from(&error).of("file")
    }
}

impl From<&AudioError> for ApiError {
    fn from(error: &AudioError) -> Self {
        match audio_fault(error) {
            (ErrorCode::Internal, _) => Self::internal(error),
            (code, message) => Self::new(code, message),
        }
    }
}

impl From<TranscribeError> for ApiError {
    fn from(error: TranscribeError) -> Self {
        Self::from(&error)
    }
}

impl From<&TranscribeError> for ApiError {
    fn from(error: &TranscribeError) -> Self {
        match error {
            TranscribeError::Overloaded(full) => (*full).into(),
            TranscribeError::Audio(error) => Self::from(error).of("file"),
            TranscribeError::Engine => Self {
                source: Some(error.to_string()),
                ..Self::new(ErrorCode::EngineFailed, "The engine failed.")
            },
            TranscribeError::Hangup => Self::internal(error),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, body) = match self.native {
            true => (self.code.status(), self.native_body()),
            false => (self.code.openai().status, self.body()),
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(body)).into_response();
        response.extensions_mut().insert(Told(self.code));
        if self.code.retry().after() {
            let seconds = HeaderValue::from(self.retry_after.unwrap_or(1));
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        if self.code == ErrorCode::Unauthorized {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        if let (Fault::Server, Some(source)) = (self.code.fault(), self.source) {
            response.extensions_mut().insert(Cause(source));
        }
        response
    }
}
