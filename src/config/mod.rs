//! Every flag in one place, and its one conversion into what the rooms use.
//!
//! A value comes from the command line, else from `WHISPERWIRE_…` in the environment, else from the name people
//! bring along (`HOST`, `PORT`, `API_KEY`, `WHISPER_MODEL`, `HF_TOKEN`, …), else from the same names in a `.env`
//! file, else from the default. Bad configuration is one sentence, and nothing has been bound or loaded by then.

mod cache;
mod flags;
mod jobs;
mod limits;
mod models;
mod ops;
mod redis;
mod webhooks;

use std::collections::HashMap;
use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

pub use self::flags::{ModelsFlags, ServeFlags, TranscribeFlags};
pub use self::models::{ModelsConfig, OnRequest, ScriptModel};

use crate::cache::CacheConfig;
use crate::engine::models::{HubConfig, Spec};
use crate::engine::pool::PoolConfig;
use crate::engine::script::ScriptConfig;
use crate::http::HttpConfig;
use crate::jobs::JobsConfig;
use crate::link::LinkConfig;
use crate::pipeline::PipelineConfig;
use crate::telemetry::LogConfig;

/// Speech goes in while it is spoken, words come out.
#[derive(Debug, Parser)]
#[command(name = "whisperwire", version, arg_required_else_help = true, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the server
    Serve(Box<ServeFlags>),
    /// Transcribes files without a server
    Transcribe(Box<TranscribeFlags>),
    /// Lists, downloads and deletes models
    Models(ModelsFlags),
}

/// What `whisperwire transcribe` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "the names say it, and a comment would stand in --help")]
pub enum Format {
    Text,
    Srt,
    Vtt,
    Json,
    Tsv,
}

/// What the server needs to start.
#[derive(Debug)]
pub struct ServeConfig {
    /// The skin.
    pub http: HttpConfig,
    /// The engine room.
    pub engine: EngineConfig,
    /// What is kept in memory.
    pub models: ModelsConfig,
    /// How audio becomes text.
    pub pipeline: PipelineConfig,
    /// The back office.
    pub jobs: JobsConfig,
    /// The Redis that several servers share, if there is one.
    pub link: Option<LinkConfig>,
    /// How much of what was transcribed is kept.
    pub cache: CacheConfig,
    /// What is logged.
    pub log: LogConfig,
}

/// What the offline transcription needs.
#[derive(Debug)]
pub struct TranscribeConfig {
    /// The engine room.
    pub engine: EngineConfig,
    /// How audio becomes text.
    pub pipeline: PipelineConfig,
    /// What is logged.
    pub log: LogConfig,
}

/// Which engine, and how it runs.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Which.
    pub choice: EngineChoice,
    /// The threads and slots.
    pub pool: PoolConfig,
}

/// Which engine.
#[derive(Clone, Debug)]
pub enum EngineChoice {
    /// The deterministic one.
    Script(ScriptConfig),
    /// Whisper.
    Whisper(Box<WhisperChoice>),
}

/// Which weights, and how they run. `None` leaves a setting to the model.
#[derive(Clone, Debug)]
pub struct WhisperChoice {
    /// Which weights.
    pub model: Spec,
    /// Where to get them.
    pub hub: HubConfig,
    /// Where to run.
    pub device: DeviceChoice,
    /// Threads per worker.
    pub threads: usize,
    /// Beams for finals.
    pub beam_size: Option<u32>,
    /// Encoder positions per window.
    pub audio_ctx: AudioCtx,
    /// Whether doubtful windows are tried again.
    pub fallback: Option<bool>,
    /// Whether attention is fused.
    pub flash_attention: bool,
}

/// Where to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU if there is one.
    Auto,
    /// The CPU.
    Cpu,
    /// This GPU or none.
    Gpu(u32),
}

/// How many encoder positions a window gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AudioCtx {
    /// As many as it needs, and as the model bears.
    Auto,
    /// All.
    Full,
    /// At least so many.
    Positions(u32),
}

/// Bad configuration: one sentence for people.
#[derive(Debug)]
pub enum ConfigError {
    /// What clap says about a flag, or a request for help, which is no error.
    Usage(clap::Error),
    /// Flags that do not go together, or a value nothing can be done with.
    Bad(String),
}

type Bad<T> = Result<T, ConfigError>;

impl Cli {
    /// Reads the command line, the environment and `.env`.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Bad<Self> {
        let file = dotenvy::dotenv_iter().ok().into_iter().flatten().flatten().collect();
        Self::read_with(arguments, &Environment { file })
    }

    fn read_with(arguments: impl IntoIterator<Item = OsString>, environment: &Environment) -> Bad<Self> {
        let command = environment.fill_in(Self::command());
        let matches = command.try_get_matches_from(arguments).map_err(ConfigError::Usage)?;
        Self::from_arg_matches(&matches).map_err(ConfigError::Usage)
    }
}

/// The names that people bring along, by the name of this program.
const BROUGHT_NAMES: &[(&str, &str)] = &[
    ("WHISPERWIRE_HOST", "HOST"),
    ("WHISPERWIRE_PORT", "PORT"),
    ("WHISPERWIRE_API_KEY", "API_KEY"),
    ("WHISPERWIRE_RATE_LIMITS", "RATE_LIMITS"),
    ("WHISPERWIRE_ALLOWED_ORIGINS", "ALLOWED_ORIGINS"),
    ("WHISPERWIRE_MAX_FILE_SIZE", "MAX_FILE_SIZE"),
    ("WHISPERWIRE_MODEL", "WHISPER_MODEL"),
    ("WHISPERWIRE_HUB_TOKEN", "HF_TOKEN"),
    ("WHISPERWIRE_HUB_ENDPOINT", "HF_ENDPOINT"),
    ("WHISPERWIRE_OFFLINE", "HF_HUB_OFFLINE"),
    ("WHISPERWIRE_DEVICE", "WHISPER_DEVICE"),
    ("WHISPERWIRE_LOG", "RUST_LOG"),
    ("WHISPERWIRE_MAX_CONCURRENT_TASKS", "MAX_CONCURRENT_TASKS"),
    ("WHISPERWIRE_REDIS", "REDIS_URL"),
    ("WHISPERWIRE_CACHE_TTL", "CACHE_TTL"),
    ("WHISPERWIRE_MODEL_UNLOAD_IDLE_MINUTES", "MODEL_UNLOAD_IDLE_MINUTES"),
    ("WHISPERWIRE_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
];

struct Environment {
    /// What `.env` says.
    file: HashMap<String, String>,
}

impl Environment {
    /// Makes what the environment says under other names, or `.env` says, the default of its flag. What it says
    /// under the flag's own name, clap reads itself.
    fn fill_in(&self, command: clap::Command) -> clap::Command {
        let subcommands: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
        subcommands.into_iter().fold(command, |command, name| {
            let quiet = name == "transcribe";
            command.mut_subcommand(name, |subcommand| {
                subcommand.mut_args(|arg| {
                    // Who transcribes a file wants its words, and to hear of what went wrong.
                    let arg = if quiet && arg.get_id() == "log" { arg.default_value("warn") } else { arg };
                    self.fill_in_arg(arg)
                })
            })
        })
    }

    fn fill_in_arg(&self, arg: clap::Arg) -> clap::Arg {
        let Some(name) = arg.get_env().and_then(|name| name.to_str()).map(str::to_owned) else {
            return arg;
        };
        let brought = BROUGHT_NAMES.iter().find(|(own, _)| *own == name).map(|(_, brought)| *brought);
        let value = self
            .file
            .get(&name)
            .cloned()
            .filter(|value| !value.is_empty())
            .or_else(|| brought.and_then(variable))
            .or_else(|| brought.and_then(|name| self.file.get(name).cloned()))
            .filter(|value| !value.is_empty());
        let arg = match arg.get_action() {
            // Environments say 1, yes and on as well.
            clap::ArgAction::SetTrue => arg.value_parser(clap::builder::BoolishValueParser::new()),
            _ => arg,
        };
        match value {
            Some(value) => arg.default_value(value),
            None => arg,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::webhook::WebhookConfig;

    fn read(arguments: &str, file: &[(&str, &str)]) -> Bad<Cli> {
        let file = file.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let arguments = std::iter::once("whisperwire").chain(arguments.split_whitespace());
        Cli::read_with(arguments.map(OsString::from), &Environment { file })
    }

    fn serve(arguments: &str, file: &[(&str, &str)]) -> Bad<ServeConfig> {
        match read(&format!("serve --engine script {arguments}"), file)?.command {
            Command::Serve(flags) => flags.config(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_flags_are_well_formed() {
        Cli::command().debug_assert();
    }

    /// One row per flag of `serve`, as the README has them.
    #[cfg(feature = "whisper")]
    fn table() -> Vec<String> {
        let mut command = Cli::command();
        command.build();
        let serve = command.find_subcommand("serve").expect("there is a server");
        let row = |arg: &clap::Arg| {
            let own = arg.get_env()?.to_str()?.to_owned();
            let brought = BROUGHT_NAMES.iter().filter(|(name, _)| *name == own).map(|(_, brought)| *brought);
            let names: Vec<String> =
                std::iter::once(own.as_str()).chain(brought).map(|name| format!("`{name}`")).collect();
            let default: Vec<&str> =
                arg.get_default_values().iter().filter_map(|value| value.to_str()).collect();
            let (flag, help) = (arg.get_long()?, arg.get_help()?.to_string().replace('\n', " "));
            Some(format!("| `--{flag}` | {} | {} | {help} |", names.join(", "), default.join(",")))
        };
        serve.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(row).collect()
    }

    /// Only of the build that people get: without Whisper, the default engine is another.
    #[test]
    #[cfg(feature = "whisper")]
    fn the_readme_lists_every_flag() {
        let readme = include_str!("../../README.md");
        let table = table();
        assert!(table.len() > 20);
        let missing: Vec<&String> = table.iter().filter(|row| !readme.contains(row.as_str())).collect();
        assert!(
            missing.is_empty(),
            "README.md lacks:\n{}",
            missing.iter().map(|row| row.as_str()).collect::<Vec<_>>().join("\n")
        );
    }

    #[test]
    fn a_flag_beats_the_file_and_the_own_name_beats_the_brought_one() {
        let port = |arguments: &str, file: &[(&str, &str)]| {
            serve(arguments, file).expect("good").http.address.port()
        };
        assert_eq!(port("", &[]), 8000);
        assert_eq!(port("", &[("PORT", "8001")]), 8001);
        assert_eq!(port("", &[("PORT", "8001"), ("WHISPERWIRE_PORT", "8002")]), 8002);
        assert_eq!(port("--port 8003", &[("PORT", "8001"), ("WHISPERWIRE_PORT", "8002")]), 8003);
        assert_eq!(port("", &[("PORT", "")]), 8000);
    }

    #[test]
    fn other_machines_are_served_with_a_key_or_on_purpose_only() {
        assert!(matches!(serve("--host 0.0.0.0", &[]), Err(ConfigError::Bad(_))));
        assert!(serve("--host 0.0.0.0 --allow-anybody", &[]).is_ok());
        let config = serve("--host 0.0.0.0", &[("API_KEY", "one,two")]).expect("has keys");
        assert_eq!(config.http.api_keys, ["one", "two"]);
    }

    #[test]
    fn webhooks_stay_outside_unless_told_otherwise() {
        let usual = serve("", &[]).expect("good").jobs.webhooks;
        assert_eq!(usual, WebhookConfig::default());
        let file = [("WHISPERWIRE_WEBHOOK_ALLOW_PRIVATE", "true")];
        let told = serve("--webhook-timeout 3", &file).expect("good").jobs.webhooks;
        let seconds = std::time::Duration::from_secs(3);
        assert_eq!(told, WebhookConfig { allow_private: true, connect: seconds, total: seconds });
    }

    #[test]
    fn a_shared_server_is_found_and_what_is_wrong_with_it_said_without_its_password() {
        assert!(serve("", &[]).expect("good").link.is_none());
        assert!(serve("", &[("REDIS_URL", "redis://localhost")]).expect("good").link.is_some());
        match serve("", &[("REDIS_URL", "redis://:hunter2@localhost/many")]) {
            Err(ConfigError::Bad(message)) => {
                assert!(message.starts_with("--redis") && !message.contains("hunter2"), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn limits_origins_and_sizes_come_under_the_names_people_bring() {
        let file = [
            ("RATE_LIMITS", "10/minute,50/hour"),
            ("ALLOWED_ORIGINS", "https://a.example,https://b.example"),
            ("MAX_FILE_SIZE", "25MB"),
        ];
        let http = serve("--audio-limits 3600/hour", &file).expect("good").http;
        assert_eq!(http.quotas.requests, "10/minute,50/hour".parse().ok());
        assert_eq!(http.quotas.audio, "3600/hour".parse().ok());
        assert_eq!(http.max_upload, 25_000_000);
        let origins = ["https://a.example".to_owned(), "https://b.example".to_owned()];
        assert_eq!(http.origins, crate::http::Origins::of(&origins).expect("origins"));
        let http = serve("--max-upload-mb 7", &[]).expect("good").http;
        assert_eq!((http.max_upload, http.quotas), (7_000_000, crate::http::Quotas::default()));
    }

    #[test]
    fn a_file_of_keys_is_read_before_anything_is_bound() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys.toml");
        let serve = || serve(&format!("--host 0.0.0.0 --api-keys-file {}", path.display()), &[]);
        assert!(matches!(serve(), Err(ConfigError::Bad(why)) if why.starts_with("--api-keys-file ")));
        std::fs::write(&path, "[alice]\nkey = \"hunter2\"\n").expect("it can be written");
        assert!(serve().is_ok(), "with it, other machines may be served");
    }

    #[test]
    fn models_stay_as_long_as_is_said() {
        let models = |arguments: &str, file: &[(&str, &str)]| serve(arguments, file).expect("good").models;
        let usual = models("", &[]);
        assert_eq!(
            (usual.idle, usual.memory, usual.lazy, usual.on_request),
            (None, None, false, OnRequest::Local)
        );
        let brought = models("--models-memory-mb 8000", &[("MODEL_UNLOAD_IDLE_MINUTES", "30")]);
        assert_eq!(
            (brought.idle.map(|idle| idle.as_secs()), brought.memory),
            (Some(1800), Some(8_000_000_000))
        );
        assert_eq!(models("--model-unload-idle-minutes 0", &[]).idle, None);
        let several = models("--script-models b=10,script=20 --preload b", &[]).script;
        let several: Vec<_> = several.iter().map(|model| (model.name.as_str(), model.bytes)).collect();
        assert_eq!(several, [("script", 20_000_000), ("b", 10_000_000)]);
        assert!(matches!(serve("--preload nobody", &[]), Err(ConfigError::Bad(_))));
    }

    #[test]
    fn nonsense_is_refused() {
        for arguments in [
            "--port 70000",
            "--host nowhere",
            "--audio-ctx 0",
            "--audio-ctx 2000",
            "--device tpu",
            "--vad-threshold 2",
            "--file-window 60",
            "--silence-ms 1",
            "--beam-size 9",
            "--webhook-timeout 0",
            "--rate-limits lots",
            "--max-streams-per-key 0",
            "--trust-proxy everybody",
            "--max-file-size 25apples",
            "--model-unload-idle-minutes soon",
            "--model-unload-idle-minutes=-1",
            "--models-on-request all",
            "--nonsense",
        ] {
            assert!(matches!(serve(arguments, &[]), Err(ConfigError::Usage(_))), "{arguments}");
        }
        assert!(matches!(serve("", &[("PORT", "many")]), Err(ConfigError::Usage(_))));
    }

    #[test]
    fn switches_are_read_from_the_file() {
        assert!(serve("--host 0.0.0.0", &[("WHISPERWIRE_ALLOW_ANYBODY", "1")]).is_ok());
        assert!(serve("--host 0.0.0.0", &[("WHISPERWIRE_ALLOW_ANYBODY", "false")]).is_err());
    }
}
