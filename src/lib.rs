//! The map of the house. ARCHITECTURE.md says the same with reasons; `tests/layers.rs` keeps it true.
//!
//! ```text
//!         bytes                 16 kHz f32              windows                 words
//!  client ─────► http ──► audio ─────────► pipeline ◄──────────► session      engine
//!    ▲            │                          │  ▲   Input/Output   (pure)        ▲
//!    │   JSON     │        Event             ▼  └──────────────────────────┐    │
//!    └────────────┴── dialect ◄──────────────┴──────────────► pool (threads)┴────┘
//! ```
//!
//! * [`session`] is the brain: a state machine without input or output.
//! * [`engine`] is the muscle: a blocking trait, a fixed set of threads, three lanes, admission by slot.
//! * [`pipeline`] is the one loop that joins them.
//! * [`dialect`] holds the conversations: wire messages to orders, transcripts to bodies.
//! * [`http`] is the skin: the only room that knows axum.
//! * [`jobs`] is the back office: work that is done later, and the news of it. [`cache`] keeps what was transcribed,
//!   [`link`] is the way to a Redis that several servers share.
//! * [`audio`] turns bytes into samples, [`vad`] frames into probabilities.
//! * [`transcript`] and [`language`] are the nouns everybody shares.
//!
//! The session never waits. The engine never talks to clients. Dropping a future cancels its work.

pub mod app;
pub mod audio;
pub mod cache;
pub mod cli;
pub mod config;
pub mod dialect;
pub mod engine;
pub mod http;
pub mod jobs;
pub mod language;
pub mod link;
pub mod pipeline;
pub mod session;
pub mod telemetry;
pub mod transcript;
pub mod vad;
