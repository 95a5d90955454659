//! What can go wrong with a live stream, each as one sentence for people and with what a program needs to decide.
//!
//! Deliberately absent: retries. The automatic return after a lost connection is `driver.rs`; what arrives here
//! could not be mended.

use std::time::Duration;

use whisperwire_protocol::error::{ErrorCode, ErrorDetail, TABLE};

/// Why there is no stream, or no stream any more.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The address is not one.
    #[error("\"{0}\" is not a server address; it looks like http://127.0.0.1:8000.")]
    Address(String),
    /// The key cannot be put into a header.
    #[error("The API key holds characters that no key has.")]
    Key,
    /// Settings that this client cannot send.
    #[error("{0}")]
    Settings(String),
    /// Nobody answered, or not in time, or something that is no WebSocket server.
    #[error("The server at {server} cannot be reached: {reason}.")]
    Unreachable {
        /// Who should have answered.
        server: String,
        /// What happened.
        reason: String,
    },
    /// The server said no before there was a stream.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// The server ended the stream before it was done.
    #[error("{message} (close code {close})")]
    Closed {
        /// The WebSocket's close code.
        close: u16,
        /// The row of the protocol's error table, where the server named one or the close code fits one.
        code: Option<ErrorCode>,
        /// The server's sentence, or one about the code.
        message: String,
    },
    /// The connection broke, and could not be mended within the time that the stream outlives it.
    #[error("The connection was lost: {0}.")]
    Lost(String),
    /// The connection came back, but the server lacks audio that is not kept here any more.
    #[error("The connection came back too late: {missing} bytes of audio are lost.")]
    TooFarBehind {
        /// Bytes (packets with Opus) between what the server has and what is still kept.
        missing: u64,
    },
    /// The server said something that this client cannot read.
    #[error("The answer of the server is not what this client expects: {0}.")]
    Answer(String),
    /// Something was to be sent after the end of the stream. The receiver says why it ended.
    #[error("The stream is over.")]
    Over,
}

/// See [`LiveError::Refused`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The body's error, where there was one.
    pub detail: Option<ErrorDetail>,
    /// When to come back, where the server said it.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// The row of the protocol's error table, by its name or else by the status.
    pub fn code(&self) -> Option<ErrorCode> {
        let named = self.detail.as_ref().and_then(|detail| named(detail.code.as_deref()?));
        named.or_else(|| TABLE.iter().find(|row| row.status == self.status).map(|row| row.code))
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let said = self.detail.as_ref().map(|detail| crate::one_sentence(&detail.message));
        let said = said.filter(|said| !said.is_empty()).unwrap_or_else(|| match self.status {
            101 | 200..=299 => "The server answered, but did not open a stream.".into(),
            300..=399 => "The server sends its visitors elsewhere; give the address it redirects to.".into(),
            404 => "There is no such endpoint or stream.".into(),
            503 => "The server has no room for another stream.".into(),
            _ => "The server refused without saying why.".into(),
        });
        write!(f, "{said} (HTTP {})", self.status)
    }
}

impl LiveError {
    /// What a close frame says, with the `error` message that came before it, where one did.
    pub(super) fn closed(close: u16, reason: &str, before: Option<&ErrorDetail>) -> Self {
        let code = before.and_then(|detail| named(detail.code.as_deref()?)).or_else(|| by_close(close));
        let said = before.map_or(reason, |detail| &detail.message);
        let said = crate::one_sentence(said);
        let message = match (said.is_empty(), code) {
            (false, _) => said,
            (true, Some(code)) => format!("The server closed the stream: {code}."),
            (true, None) => "The server closed the stream before it was done.".to_owned(),
        };
        Self::Closed { close, code, message }
    }

    /// The row of the protocol's error table, where this error has one.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::Closed { code, .. } => *code,
            _ => None,
        }
    }

    /// Whether the same may work in a moment: nobody is there, or nobody has room.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Lost(_) => true,
            Self::Refused(refusal) => refusal.status == 429 || refusal.status >= 500,
            _ => false,
        }
    }
}

fn named(name: &str) -> Option<ErrorCode> {
    TABLE.iter().find(|row| row.name == name).map(|row| row.code)
}

/// The first row with this close code; where several share one, the message before it tells more.
fn by_close(close: u16) -> Option<ErrorCode> {
    let listed = TABLE.iter().find(|row| row.close == Some(close)).map(|row| row.code);
    let status = close.checked_sub(4000).filter(|status| *status >= 400);
    listed.or_else(|| TABLE.iter().find(|row| Some(row.status) == status).map(|row| row.code))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_of(close: u16) -> Option<ErrorCode> {
        LiveError::closed(close, "", None).code()
    }

    #[test]
    fn close_codes_are_rows_of_the_table() {
        assert_eq!(code_of(4503), Some(ErrorCode::Overloaded));
        assert_eq!(code_of(4408), Some(ErrorCode::IdleTimeout));
        assert_eq!(code_of(4409), Some(ErrorCode::Conflict));
        assert_eq!(code_of(1001), Some(ErrorCode::Draining));
        assert_eq!((code_of(1000), code_of(4999), code_of(0)), (None, None, None));
        let detail = ErrorDetail {
            message: "Not\u{7}ready.".into(),
            kind: String::new(),
            param: None,
            code: Some("model_loading".into()),
        };
        let error = LiveError::closed(4503, "overloaded", Some(&detail));
        assert_eq!(error.code(), Some(ErrorCode::ModelLoading), "the name says more than the number");
        assert_eq!(error.to_string(), "Not ready. (close code 4503)");
        let silent = LiveError::closed(4408, "", None).to_string();
        assert_eq!(silent, "The server closed the stream: idle_timeout. (close code 4408)");
    }

    #[test]
    fn a_refusal_has_a_code_even_without_a_body() {
        let refusal = |status| Refusal { status, detail: None, retry_after: None };
        assert_eq!(refusal(503).code(), Some(ErrorCode::Overloaded));
        assert_eq!(refusal(401).code(), Some(ErrorCode::Unauthorized));
        assert_eq!(refusal(418).code(), None);
        assert_eq!(refusal(503).to_string(), "The server has no room for another stream. (HTTP 503)");
        assert!(LiveError::Refused(Box::new(refusal(503))).may_pass());
        assert!(!LiveError::Refused(Box::new(refusal(404))).may_pass());
    }
}
