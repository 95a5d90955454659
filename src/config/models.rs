//! Which models are kept in memory, and for how long.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{Bad, ConfigError, EngineChoice, EngineConfig};
use crate::engine::models::Spec;
use crate::engine::script;

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Models in memory")]
pub(super) struct ShelfFlags {
    /// Models to load at the start beside --model, so that no request waits for them; with commas
    #[arg(long, env = "WHISPERWIRE_PRELOAD", value_delimiter = ',')]
    preload: Vec<String>,
    /// Loads --model when it is first asked for, and not at the start
    #[arg(long, env = "WHISPERWIRE_LAZY")]
    lazy: bool,
    /// Which other models a request may bring into memory by naming them
    #[arg(long, env = "WHISPERWIRE_MODELS_ON_REQUEST", value_enum, default_value_t = OnRequest::Local)]
    models_on_request: OnRequest,
    /// How much memory models may take together, in megabytes; by default half of what this machine has
    #[arg(long, env = "WHISPERWIRE_MODELS_MEMORY_MB")]
    models_memory_mb: Option<u64>,
    /// Minutes without use after which a model is unloaded; it is loaded again when it is asked for. 0 keeps it
    #[arg(long, env = "WHISPERWIRE_MODEL_UNLOAD_IDLE_MINUTES", default_value_t = 0.0, value_parser = minutes)]
    model_unload_idle_minutes: f64,
    /// More models of the scripted engine: NAME=MEGABYTES, with commas
    #[arg(long, env = "WHISPERWIRE_SCRIPT_MODELS", hide = true, value_delimiter = ',', value_parser = script_model)]
    script_models: Vec<ScriptModel>,
}

/// Which models a request may bring into memory, beside those that the operator has named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnRequest {
    /// None
    None,
    /// Those that are on this machine: the bundled one and those in the models folder
    Local,
    /// Those, and all of `whisperwire models list`, which are downloaded when they are asked for
    Download,
}

/// A model of the scripted engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptModel {
    /// What requests call it.
    pub name: String,
    /// The memory that it pretends to take, in bytes.
    pub bytes: u64,
}

/// Which models are kept in memory, and for how long.
#[derive(Clone, Debug)]
pub struct ModelsConfig {
    /// Loaded at the start, beside the default one. Names of the scripted engine if that is chosen.
    pub preload: Vec<String>,
    /// Whether the default one waits for its first use.
    pub lazy: bool,
    /// Which others there may be.
    pub on_request: OnRequest,
    /// Bytes for all together; half of the machine's if nothing is said.
    pub memory: Option<u64>,
    /// After how long without use they are unloaded, if ever.
    pub idle: Option<Duration>,
    /// The models of the scripted engine; the first is the default one.
    pub script: Vec<ScriptModel>,
}

impl ShelfFlags {
    pub(super) fn config(self, engine: &EngineConfig) -> Bad<ModelsConfig> {
        let mut script = self.script_models;
        if !script.iter().any(|model| model.name == script::NAME) {
            script.insert(0, ScriptModel { name: script::NAME.to_owned(), bytes: 0 });
        }
        script.sort_by_key(|model| model.name != script::NAME);
        let preload: Vec<String> = self.preload.into_iter().map(|name| name.trim().to_owned()).collect();
        let preload: Vec<String> = preload.into_iter().filter(|name| !name.is_empty()).collect();
        for name in &preload {
            match &engine.choice {
                EngineChoice::Script(_) if script.iter().any(|model| model.name == *name) => {}
                EngineChoice::Script(_) => {
                    return Err(ConfigError::Bad(format!("--preload: the script has no model {name:?}")));
                }
                EngineChoice::Whisper(choice) => {
                    let spec = Spec::named(name, &choice.hub);
                    spec.map_err(|error| ConfigError::Bad(format!("--preload: {error}")))?;
                }
            }
        }
        Ok(ModelsConfig {
            preload,
            lazy: self.lazy,
            on_request: self.models_on_request,
            memory: self.models_memory_mb.map(|megabytes| megabytes * 1_000_000),
            idle: Some(self.model_unload_idle_minutes)
                .filter(|minutes| *minutes > 0.0)
                .map(|minutes| Duration::from_secs_f64(minutes * 60.0)),
            script,
        })
    }
}

/// Up to a year.
fn minutes(text: &str) -> Result<f64, String> {
    let within = |minutes: &f64| (0.0..=525_600.0).contains(minutes);
    text.trim().parse().ok().filter(within).ok_or_else(|| "must be a number of minutes, or 0".into())
}

fn script_model(text: &str) -> Result<ScriptModel, String> {
    let (name, megabytes) = text.split_once('=').unwrap_or((text, "0"));
    let bytes = megabytes.parse::<u64>().map_err(|_| "must be NAME=MEGABYTES".to_owned())? * 1_000_000;
    Ok(ScriptModel { name: name.to_owned(), bytes })
}
