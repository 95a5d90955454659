//! What went wrong with a recording, in the words of the one table of errors.

use whisperwire_protocol::ErrorCode;

use crate::audio::AudioError;

/// The code, and a sentence for the client. What is [`ErrorCode::Internal`] is for the log alone.
pub fn audio_fault(error: &AudioError) -> (ErrorCode, String) {
    let code = match error {
        AudioError::Empty => ErrorCode::AudioTooShort,
        AudioError::Unsupported(_) => ErrorCode::UnsupportedAudio,
        AudioError::Corrupt(_) => ErrorCode::CorruptAudio,
        AudioError::TooLong { .. } => ErrorCode::TooLong,
        AudioError::Limit(_) => ErrorCode::InvalidRequest,
        AudioError::Io(_) => ErrorCode::Internal,
    };
    (code, sentence(&error.to_string()))
}

/// A room's message as a sentence of its own.
pub fn sentence(message: &str) -> String {
    let mut letters = message.chars();
    let first = letters.next().map(char::to_uppercase);
    first.into_iter().flatten().chain(letters).chain(['.']).collect()
}
