//! Orders the start and the stop. Exit codes: 64 for bad configuration, before anything was bound or loaded; 1 for
//! a failure, and for files that could not be transcribed; 0 for everything else.

use std::process::ExitCode;

use whisperwire::cli;
use whisperwire::config::{Cli, Command, ConfigError};

fn main() -> ExitCode {
    match Cli::read(std::env::args_os()).and_then(run) {
        Ok(code) => code,
        Err(ConfigError::Usage(error)) => {
            drop(error.print());
            if error.use_stderr() { cli::BAD_CONFIG.into() } else { ExitCode::SUCCESS }
        }
        Err(ConfigError::Bad(sentence)) => {
            cli::complain(&sentence);
            cli::BAD_CONFIG.into()
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, ConfigError> {
    match cli.command {
        Command::Serve(flags) => cli::serve(flags.config()?),
        Command::Transcribe(flags) => cli::transcribe(&flags, flags.config()?),
        Command::Models(flags) => {
            let (command, hub) = flags.config();
            Ok(cli::models(command, &hub))
        }
    }
}
