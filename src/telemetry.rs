//! The log. It goes to standard error; standard output belongs to what people pipe.
//!
//! Never logged, at any level: audio, transcripts, prompts, keys.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// What is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// A level or a filter.
    pub filter: String,
    /// One JSON object per line.
    pub json: bool,
}

impl LogConfig {
    /// Starts the log. A second start in one process changes nothing. A filter that cannot be read is refused.
    pub fn start(&self) -> Result<(), String> {
        // The engine writes much about itself, and errors about windows that are answered elsewhere.
        let filter = EnvFilter::try_new(format!("whisper_rs=off,{}", self.filter))
            .map_err(|error| format!("--log: {error}"))?;
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        let started = if self.json {
            builder.json().flatten_event(true).try_init()
        } else {
            builder.with_target(false).with_ansi(std::io::stderr().is_terminal()).compact().try_init()
        };
        drop(started);
        Ok(())
    }
}
