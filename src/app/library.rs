//! Where the models come from, by engine: the pretended ones of the script, and weights for Whisper.

use std::sync::Arc;

use crate::config::{EngineChoice, EngineConfig, ModelsConfig, ScriptModel};
use crate::engine::models::request_name_known;
use crate::engine::script::{Script, ScriptConfig};
use crate::engine::{Engine, EngineError, EngineTraits};
use crate::pipeline::{Library, Volume};

/// The library, and the models that are wanted at the start. Blocks: weights that the operator has named are
/// downloaded if they are missing.
pub(super) fn open(
    engine: &EngineConfig,
    models: ModelsConfig,
) -> anyhow::Result<(Arc<dyn Library>, Vec<String>)> {
    match &engine.choice {
        EngineChoice::Script(config) => {
            let library = Scripts { config: *config, models: models.script };
            let wanted = std::iter::once(library.default_model().to_owned()).chain(models.preload).collect();
            Ok((Arc::new(library), wanted))
        }
        #[cfg(feature = "whisper")]
        EngineChoice::Whisper(choice) => {
            let (library, wanted) = whisper::Weights::open(choice, engine.pool.workers, &models)?;
            Ok((Arc::new(library), wanted))
        }
        #[cfg(not(feature = "whisper"))]
        EngineChoice::Whisper(_) => anyhow::bail!("this build has no Whisper engine"),
    }
}

/// Loads an engine without a library around it. Blocks.
pub fn load_engine(choice: &EngineChoice) -> anyhow::Result<Arc<dyn Engine>> {
    match choice {
        EngineChoice::Script(config) => Ok(Arc::new(Script::new(*config))),
        #[cfg(feature = "whisper")]
        EngineChoice::Whisper(choice) => whisper::load_alone(choice),
        #[cfg(not(feature = "whisper"))]
        EngineChoice::Whisper(_) => anyhow::bail!("this build has no Whisper engine"),
    }
}

/// Half of the memory that this process may have, in bytes; no limit where the machine does not say.
pub(super) fn half_of_the_memory() -> u64 {
    let Ok(mut system) = sysinfo::System::new() else { return u64::MAX };
    system.refresh_memory();
    let container = system.cgroup_limits().map(|limits| limits.total_memory);
    let total =
        [Some(system.total_memory()), container].into_iter().flatten().filter(|total| *total > 0).min();
    total.map_or(u64::MAX, |total| total / 2)
}

/// The models of the scripted engine: all alike but for their names and what they pretend to weigh.
struct Scripts {
    config: ScriptConfig,
    /// The first is the default one.
    models: Vec<ScriptModel>,
}

impl Scripts {
    fn model(&self, name: &str) -> Option<&ScriptModel> {
        self.models.iter().find(|model| model.name.eq_ignore_ascii_case(name.trim()))
    }
}

impl Library for Scripts {
    fn default_model(&self) -> &str {
        &self.models[0].name
    }

    fn find(&self, asked: &str) -> Option<String> {
        let own = self.model(asked).map(|model| model.name.clone());
        let default = self.default_model();
        own.or_else(|| request_name_known(asked, default).then(|| default.to_owned()))
    }

    fn list(&self) -> Vec<String> {
        self.models.iter().map(|model| model.name.clone()).collect()
    }

    fn describe(&self, name: &str) -> Option<EngineTraits> {
        let model = self.model(name)?;
        let traits = Script::named(&model.name, self.config).traits().clone();
        Some(EngineTraits { device: String::new(), ..traits })
    }

    fn is_pinned(&self, name: &str) -> bool {
        name == self.default_model()
    }

    fn takes_placeholders(&self) -> bool {
        true
    }

    fn fetch(&self, name: &str) -> Result<Volume, EngineError> {
        let missing = || EngineError::Load(format!("the script has no model {name}"));
        let ScriptModel { name, bytes } = self.model(name).cloned().ok_or_else(missing)?;
        let config = self.config;
        Ok(Volume { bytes, load: Box::new(move || Ok(Arc::new(Script::named(&name, config)))) })
    }
}

#[cfg(feature = "whisper")]
mod whisper {
    use std::collections::BTreeMap;

    use anyhow::Context;

    use super::*;
    use crate::config::{AudioCtx, DeviceChoice, OnRequest, WhisperChoice};
    use crate::engine::models::{self, Bar, HubConfig, Resolved, Spec, Weights as Found};
    use crate::engine::whisper::{self, Alignment, AudioContext, Whisper, WhisperConfig};
    use crate::language::Language;

    /// Weights in the program, in the models folder, and on the hub.
    pub(super) struct Weights {
        choice: WhisperChoice,
        workers: usize,
        on_request: OnRequest,
        default: String,
        /// What the operator has named, by its name.
        pinned: BTreeMap<String, Resolved>,
    }

    impl Weights {
        pub(super) fn open(
            choice: &WhisperChoice,
            workers: usize,
            config: &ModelsConfig,
        ) -> anyhow::Result<(Self, Vec<String>)> {
            let default = resolve(choice, &choice.model)?;
            let mut wanted = vec![default.name.clone()];
            let mut pinned = BTreeMap::from([(default.name.clone(), default)]);
            for name in &config.preload {
                let resolved = resolve(choice, &Spec::named(name, &choice.hub)?)?;
                wanted.push(resolved.name.clone());
                // Two files of one name cannot both be asked for: the one of --model is meant.
                pinned.entry(resolved.name.clone()).or_insert(resolved);
            }
            let library = Self {
                choice: choice.clone(),
                workers,
                on_request: config.on_request,
                default: wanted[0].clone(),
                pinned,
            };
            Ok((library, wanted))
        }

        fn hub(&self) -> &HubConfig {
            &self.choice.hub
        }

        /// What a request means that does not mean one of the operator's models, if it may have it.
        fn on_request(&self, asked: &str) -> Option<Spec> {
            let spec = Spec::of_request(asked, self.hub())?;
            let allowed = match self.on_request {
                OnRequest::None => false,
                OnRequest::Local => spec.is_here(self.hub()),
                OnRequest::Download => spec.is_here(self.hub()) || matches!(spec, Spec::Catalogue(_)),
            };
            allowed.then_some(spec)
        }

        fn pinned(&self, asked: &str) -> Option<&str> {
            let names = self.pinned.keys().map(String::as_str);
            let spec = Spec::of_request(asked, self.hub()).and_then(|spec| spec.name());
            let is = |name: &str| name.eq_ignore_ascii_case(asked.trim()) || spec.as_deref() == Some(name);
            names.into_iter().find(|name| is(name))
        }

        fn resolved(&self, name: &str) -> Result<Resolved, EngineError> {
            if let Some(pinned) = self.pinned.get(name) {
                return Ok(pinned.clone());
            }
            let spec = self.on_request(name).ok_or_else(|| EngineError::Load("it has gone".to_owned()))?;
            resolve(&self.choice, &spec).map_err(|error| EngineError::Load(format!("{error:#}")))
        }
    }

    impl Library for Weights {
        fn default_model(&self) -> &str {
            &self.default
        }

        fn find(&self, asked: &str) -> Option<String> {
            if let Some(pinned) = self.pinned(asked) {
                return Some(pinned.to_owned());
            }
            let own = self.on_request(asked).and_then(|spec| spec.name());
            own.or_else(|| request_name_known(asked, &self.default).then(|| self.default.clone()))
        }

        fn absent(&self, asked: &str) -> Option<(String, String)> {
            let spec = Spec::of_request(asked, self.hub())?;
            let (name, here) = (spec.name()?, spec.is_here(self.hub()));
            // Any owner and repository might be a model; what is known is what the catalogue or this machine has.
            if !here && !matches!(spec, Spec::Catalogue(_)) {
                return None;
            }
            let advice = if here {
                "requests may not bring it into memory (--models-on-request)".to_owned()
            } else {
                format!("`whisperwire models pull {name}` brings it here")
            };
            Some((name, advice))
        }

        fn list(&self) -> Vec<String> {
            let here = match self.on_request {
                OnRequest::None => Vec::new(),
                OnRequest::Local | OnRequest::Download => models::on_this_machine(self.hub()),
            };
            self.pinned.keys().cloned().chain(here).collect()
        }

        fn describe(&self, name: &str) -> Option<EngineTraits> {
            let preset = match (self.pinned.get(name), Spec::of_request(name, self.hub())) {
                (Some(pinned), _) => pinned.preset.clone(),
                (None, Some(Spec::Catalogue(entry))) => entry.preset.clone(),
                // Files that the catalogue does not know say themselves what they are.
                (None, Some(spec)) if spec.is_here(self.hub()) => resolve(&self.choice, &spec).ok()?.preset,
                _ => return None,
            };
            Some(EngineTraits {
                name: name.to_owned(),
                languages: languages(preset.languages),
                translates: preset.translates,
                max_window: preset.max_window,
                file_window: preset.file_window,
                live_context: crate::transcript::Samples(0),
                takes_placeholders: false,
                caveat: (name == models::BUNDLED_NAME).then_some(models::BUNDLED_CAVEAT),
                device: String::new(),
            })
        }

        fn is_pinned(&self, name: &str) -> bool {
            self.pinned.contains_key(name)
        }

        fn takes_placeholders(&self) -> bool {
            false
        }

        fn fetch(&self, name: &str) -> Result<Volume, EngineError> {
            let volume = volume(self.resolved(name)?, &self.choice, self.workers);
            volume.map_err(|error| EngineError::Load(format!("{error:#}")))
        }
    }

    /// The first so many of Whisper's table, which is not in the order of ours: before large-v3 there was no
    /// Cantonese.
    fn languages(count: usize) -> Vec<Language> {
        match count {
            0 | 1 => vec![Language::ENGLISH],
            ..100 => Language::all().filter(|language| language.code() != "yue").collect(),
            _ => Language::all().collect(),
        }
    }

    /// Finds weights, and downloads them if they are missing.
    fn resolve(choice: &WhisperChoice, spec: &Spec) -> anyhow::Result<Resolved> {
        let fits = if whisper::GPU_BUILD && choice.device != DeviceChoice::Cpu {
            models::Device::Gpu
        } else {
            models::Device::Cpu
        };
        let found = models::resolve(spec, &choice.hub, fits, &mut Bar::default())?;
        // The bundled model's caveat is told when it is loaded.
        let note = found.note.as_deref().unwrap_or_default().replace(models::BUNDLED_CAVEAT, "");
        let note = note.trim_end_matches("; ");
        if !note.is_empty() {
            tracing::warn!("{note}");
        }
        Ok(found)
    }

    pub(super) fn load_alone(choice: &WhisperChoice) -> anyhow::Result<Arc<dyn Engine>> {
        let volume = volume(resolve(choice, &choice.model)?, choice, 1)?;
        Ok((volume.load)()?)
    }

    /// Looks at the weights before the engine may see them, every time: files change.
    fn volume(found: Resolved, choice: &WhisperChoice, workers: usize) -> anyhow::Result<Volume> {
        let Resolved { name, weights, preset, .. } = found;
        let bundled = weights == Found::Bundled;
        let (weights, size, header) = match weights {
            Found::Bundled => {
                let bytes = models::bundled()?;
                let header = models::inspect_bytes(&bytes).map_err(|error| anyhow::anyhow!("{error}"))?;
                let size = bytes.len() as u64;
                (whisper::Weights::Bytes(Arc::new(bytes)), size, header)
            }
            Found::File(path) => {
                let header = models::inspect(&path)?;
                let size = std::fs::metadata(&path).with_context(|| path.display().to_string())?.len();
                (whisper::Weights::File(path), size, header)
            }
        };
        let config = WhisperConfig {
            name,
            weights,
            device: match choice.device {
                DeviceChoice::Auto => whisper::Device::Auto,
                DeviceChoice::Cpu => whisper::Device::Cpu,
                DeviceChoice::Gpu(n) => whisper::Device::Gpu(n),
            },
            threads: choice.threads,
            beam_size: choice.beam_size.unwrap_or(preset.beam) as usize,
            audio_ctx: match choice.audio_ctx {
                AudioCtx::Auto => AudioContext::Auto {
                    floor: preset.audio_ctx_floor as usize,
                    margin: preset.audio_ctx_margin as usize,
                    whole: preset.whole_context,
                },
                AudioCtx::Full => AudioContext::Full,
                AudioCtx::Positions(n) => AudioContext::Fixed(n as usize),
            },
            max_window: preset.max_window,
            file_window: preset.file_window,
            alignment: match preset.heads {
                Some(heads) => Alignment::Heads(heads),
                // The lower layers' heads attend to more than the sound; OpenAI's own default is the upper half.
                None => Alignment::TopLayers(header.decoder_layers.div_ceil(2)),
            },
            fallback: choice.fallback.unwrap_or(preset.fallback),
            best_of: preset.best_of as usize,
            least_confidence: preset.least_confidence,
            flash_attention: choice.flash_attention,
            translates: preset.translates,
            caveat: bundled.then_some(models::BUNDLED_CAVEAT),
        };
        let candidates = config.beam_size.max(if config.fallback { config.best_of } else { 1 }) as u32;
        let bytes = size + workers as u64 * header.recognizer_bytes(candidates);
        Ok(Volume { bytes, load: Box::new(move || Ok(Arc::new(Whisper::load(config)?))) })
    }
}
