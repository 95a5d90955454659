//! What the server tells its operator: the log, the figures, the traces, and the state of the machine.
//!
//! Contract: whatever is told here is about work and never about what was said. No audio, transcript, prompt, key or
//! secret comes into this room. Rooms that compute (session, vad, dialect) know nothing of it: their outputs are the
//! log, and what is measured is measured by those who drive them.
//!
//! Figures belong to one server and not to the process: each [`Metrics`] is a registry of its own that is passed to
//! whoever feeds it. A global recorder would mix the figures of the many servers that run in one process under test,
//! and a recorder that is bound to a thread does not follow a task that moves between threads.

mod log;
mod machine;
mod metrics;
pub mod table;
mod traces;

pub use self::log::LogConfig;
pub use self::machine::{Machine, Sample};
pub use self::metrics::{Counter, Gauge, Histogram, Metrics};
pub use self::traces::{Traces, adopt, answered, request_span};
