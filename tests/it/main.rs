//! The house from outside: a real server or the real program, loopback, and what a client sees of it.
//!
//! One binary with one module per behaviour. Most of them run the scripted engine, so they pass in a build without
//! Whisper too; what needs recognition runs the bundled model and is left out of such a build. `house`, `client`,
//! `program`, `sound` and `recordings` are what the others are made of.

mod bad_input;
mod cache;
mod chat;
mod cli;
mod client;
mod deploy;
mod drain;
mod hangup;
mod house;
mod jobs;
mod keys;
mod limits;
mod link;
mod live;
mod log;
mod models;
mod openai;
mod openapi;
mod ops;
mod overload;
mod program;
mod redis;
mod sound;
mod tls;

#[cfg(feature = "whisper")]
mod containers;
#[cfg(feature = "whisper")]
mod model;
#[cfg(feature = "whisper")]
mod real;
#[cfg(feature = "whisper")]
mod recordings;
#[cfg(feature = "whisper")]
mod silence;
