//! whisperwire.
pub mod language;
pub mod session;
pub mod transcript;
pub mod vad;
