//! The log. It goes to standard error; standard output belongs to what people pipe.
//!
//! Never logged, at any level: audio, transcripts, prompts, keys, ids that open something. What other people's code
//! would say below the level of `info` is not let through, whatever the filter says: it prints the messages and heads
//! that pass through it.

use std::io::IsTerminal;

use tracing_subscriber::filter::{EnvFilter, FilterExt, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::traces::{self, Traces};

/// What is logged, and where traces go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// A level or a filter.
    pub filter: String,
    /// One JSON object per line.
    pub json: bool,
    /// The collector to send traces to.
    pub traces: Option<String>,
}

impl LogConfig {
    /// Starts the log, and the traces where they are wanted; those need a runtime. A second start in one process
    /// changes nothing. A filter that cannot be read is refused.
    pub fn start(&self) -> Result<Traces, String> {
        // The engine writes much about itself, and errors about windows that are answered elsewhere.
        let filter = EnvFilter::try_new(format!("whisper_rs=off,{}", self.filter))
            .map_err(|error| format!("--log: {error}"))?;
        let discreet = filter_fn(|line| {
            line.target().starts_with("whisperwire") || *line.level() <= tracing::Level::INFO
        });
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let lines = if self.json {
            lines.json().flatten_event(true).with_filter(filter.and(discreet)).boxed()
        } else {
            let lines = lines.with_target(false).with_ansi(std::io::stderr().is_terminal()).compact();
            lines.with_filter(filter.and(discreet)).boxed()
        };
        let (kept, sender) = match &self.traces {
            Some(endpoint) => traces::start(endpoint)?,
            None => (Traces::default(), None),
        };
        drop(tracing_subscriber::registry().with(sender).with(lines).try_init());
        if self.traces.is_some() && !traces::AVAILABLE {
            tracing::warn!("traces are wanted, but this build has none: build it with --features otel");
        }
        Ok(kept)
    }
}
