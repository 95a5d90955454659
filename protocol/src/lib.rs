//! What goes over whisperwire's wire: request fields, response bodies, stream events, the error table and the
//! caption formats. Server, command line client and tests all read these types and no others.
//!
//! The contract: types here are promises. A field may be added, none may change its meaning, and every body has a
//! file in `fixtures/` that it must read and write back unchanged. The crate depends on serde and nothing else: no
//! transport, no clock, no file.
//!
//! The map: [`error`] is the one table of error codes; [`form`] is what a client asks for; [`openai`] is what it
//! gets; [`chat`] is both for chat completions with recordings in them; [`realtime`] is OpenAI's API for live speech,
//! [`stream`] is our own; [`job`] is work that is done later;
//! [`captions`] turns timed text into SRT, WebVTT, TSV and plain text. The README says the same
//! in prose.

pub mod captions;
pub mod chat;
pub mod error;
mod fields;
pub mod form;
pub mod job;
pub mod openai;
pub mod realtime;
pub mod stream;

pub use error::{ErrorBody, ErrorCode};
pub use form::{FieldError, TranscriptionForm};
