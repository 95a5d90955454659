//! Conversations: what goes over the wire on one side, what the house does on the other.
//!
//! A dialect is one file. It turns a client's words into an order for the pipeline, and the pipeline's transcript or
//! events into bytes that the client understands; the transports only carry them. The contract: everything here is
//! a pure function or a plain state machine, so that every conversation can be tested without a socket. Seconds and
//! wire types appear here and nowhere deeper. Deliberately absent: sockets, files, clocks, tasks and logs, and any
//! decision about text.

pub mod chat;
mod deltas;
mod faults;
pub mod native;
pub mod openai;
pub mod realtime;
pub mod record;
pub mod whisperx;
mod wishes;

pub use self::faults::{audio_fault, sentence};
pub use self::wishes::Endpointing;

use crate::transcript::{Segment, Transcript};

/// An answer that leaves while it is made: finals in, events out. Each event is the data of one server-sent event,
/// on one line; the transport frames it.
pub trait Narrator {
    /// What is told before there is any text.
    fn begin(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// What is told of a final.
    fn segment(&mut self, segment: &Segment) -> Vec<String>;

    /// A recording is over, and all its finals have been told.
    fn end(&mut self, transcript: &Transcript);

    /// What is told once all recordings are over.
    fn done(self) -> Vec<String>;
}
