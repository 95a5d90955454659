//! Conversations: what goes over the wire on one side, what the house does on the other.
//!
//! A dialect is one file. It turns a client's words into an order for the pipeline, and the pipeline's transcript or
//! events into bytes that the client understands; the transports only carry them. The contract: everything here is
//! a pure function or a plain state machine, so that every conversation can be tested without a socket. Seconds and
//! wire types appear here and nowhere deeper. Deliberately absent: sockets, files, clocks, tasks and logs, and any
//! decision about text.

pub mod native;
pub mod openai;
pub mod realtime;
mod wishes;

pub use self::wishes::Endpointing;
