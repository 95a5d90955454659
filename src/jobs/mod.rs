//! The back office: work that is accepted now and done later, and survives a crash in between.

pub mod webhook;
