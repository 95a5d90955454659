//! `ww bench`: how a server does under live load, as a table and as JSON.
//!
//! The contract: audio is sent in real time, every stream on a clock of its own, and the generator reports how late
//! it was itself, so that a bad measurement shows. What is measured is defined where it is computed, in `tape.rs`.
//! Deliberately absent: judging a server without load, which is `ww file`.

mod figures;
#[cfg(test)]
mod house;
mod idle;
mod live;
mod pacer;
mod process;
mod ramp;
mod recordings;
mod report;
mod swarm;
mod tape;
mod timeline;

use std::io::Write;

use clap::Subcommand;

/// What is measured.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Streams that speak: how long text takes, whether it is right, and how many streams there may be.
    Live(live::Live),
    /// Streams that are open and say nothing: what they cost.
    Idle(idle::Idle),
}

impl Bench {
    pub(crate) async fn run(&self, out: &mut dyn Write, complaints: &mut dyn Write) -> anyhow::Result<u8> {
        match self {
            Self::Live(order) => order.run(out, complaints).await,
            Self::Idle(order) => order.run(out, complaints).await,
        }
    }
}
