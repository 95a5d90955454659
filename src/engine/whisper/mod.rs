//! Whisper through whisper-rs (whisper.cpp 1.8.3). The one place that knows the engine, and with it its traps:
//!
//! * The safe abort closure of whisper-rs is unsound, so the raw callback with a flag is used (`guard.rs`).
//! * A failed assertion in the engine ends the process. What a stranger's audio could bring about is ruled out
//!   beforehand (also `guard.rs`); model files are checked before they come here.
//! * `set_language` leaks its string, so parameters are built once per language and cloned (`recognizer.rs`).
//! * Prompts go in as borrowed tokens; as text they would leak too.
//! * Audio under 100 ms is ignored, so windows are padded with silence.
//! * The ladder is climbed here, rung by rung, because the engine judges its rungs by another measure than OpenAI.
//! * What the engine does wrong or twice is mended in the copy of its source that is built: `.cargo/engine.cmake`.

mod device;
mod guard;
mod recognizer;
#[cfg(test)]
mod tests;
mod words;

use std::ffi::c_int;
use std::io::Cursor;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use whisper_rs::{
    DtwAhead, DtwMode, DtwModelPreset, DtwParameters, WhisperContext, WhisperContextParameters, WhisperError,
};

pub use self::device::GPU_BUILD;

use self::recognizer::WhisperRecognizer;
use super::models::{AlignmentHeads, Head, fingerprint};
use super::{Engine, EngineError, EngineTraits, Recognizer};
use crate::language::Language;
use crate::transcript::Samples;

/// What to load and how to run it.
#[derive(Clone, Debug)]
pub struct WhisperConfig {
    /// The name people know the model by.
    pub name: String,
    /// Where the weights are.
    pub weights: Weights,
    /// Where to run.
    pub device: Device,
    /// Threads per recogniser. Workers times threads must not exceed the cores: the engine waits busily.
    pub threads: usize,
    /// Beams for finals; 1 is greedy. At most 8.
    pub beam_size: usize,
    /// How many encoder positions a window gets.
    pub audio_ctx: AudioContext,
    /// The longest window the model decodes well.
    pub max_window: Samples,
    /// The window it is given of a file, where nobody asks for another.
    pub file_window: Samples,
    /// How word times are found.
    pub alignment: Alignment,
    /// Samples of which the best is taken, once the temperature is above zero.
    pub best_of: usize,
    /// Whether a doubtful window is tried again at higher temperatures.
    pub fallback: bool,
    /// Mean log probability below which a window's words are taken to be invented.
    pub least_confidence: Option<f32>,
    /// Whether the attention kernels may be fused. Faster on a GPU, and excludes cross-attention word times.
    pub flash_attention: bool,
    /// Whether the weights know how to translate. OpenAI's turbo was not trained for it.
    pub translates: bool,
    /// One honest sentence about the model's quality, where one is needed.
    pub caveat: Option<&'static str>,
}

/// Where the weights are.
#[derive(Clone)]
pub enum Weights {
    /// A file in whisper.cpp's own format.
    File(PathBuf),
    /// The same, in memory.
    Bytes(Arc<Vec<u8>>),
}

impl std::fmt::Debug for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
        }
    }
}

/// Where to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// A GPU if this build and this machine have one, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// This GPU and no other device.
    Gpu(u32),
}

/// How many encoder positions (20 ms each) a window gets. Fewer are faster; too few make OpenAI's weights loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AudioContext {
    /// As many as the window needs.
    Auto {
        /// The fewest the model is known to bear.
        floor: usize,
        /// Those behind the audio: where the audio fills the context, OpenAI's weights say everything twice.
        margin: usize,
        /// Whether windows that nobody waits for get all the model has.
        whole: bool,
    },
    /// All the model has, as it was trained: 30 s.
    Full,
    /// This many, or as many as the window needs if that is more.
    Fixed(usize),
}

/// How word times are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alignment {
    /// Dynamic time warping over the cross attention of heads that are known to follow the sound.
    Heads(AlignmentHeads),
    /// The same over all heads of the topmost decoder layers; as many as the model has, at most.
    TopLayers(u32),
    /// whisper.cpp's older estimate from timestamp probabilities and loudness.
    Estimate,
}

/// A loaded Whisper model.
pub struct Whisper {
    context: Arc<WhisperContext>,
    config: Arc<WhisperConfig>,
    traits: EngineTraits,
    identity: String,
}

impl Whisper {
    /// Loads the weights. Blocking; seconds for a large model.
    pub fn load(mut config: WhisperConfig) -> Result<Self, EngineError> {
        whisper_rs::install_logging_hooks();
        device::check_instructions()?;
        device::give_memory_back();
        if matches!(config.device, Device::Gpu(_)) && !GPU_BUILD {
            return Err(EngineError::Load(
                "this build has no GPU support: build with --features cuda, vulkan or metal, or use --device cpu"
                    .into(),
            ));
        }
        let mut parameters = WhisperContextParameters::new();
        parameters.use_gpu(GPU_BUILD && config.device != Device::Cpu);
        parameters.flash_attn(config.flash_attention);
        if let Device::Gpu(n) = config.device {
            parameters.gpu_device(n as c_int);
        }
        if !config.flash_attention {
            parameters.dtw_parameters(DtwParameters { mode: dtw(&config.alignment), ..Default::default() });
        }
        let context = match &config.weights {
            Weights::File(path) => WhisperContext::new_with_params(path, parameters),
            Weights::Bytes(bytes) => WhisperContext::new_from_buffer_with_params(bytes, parameters),
        }
        .map_err(|error| {
            EngineError::Load(format!("the model {} could not be loaded: {error}", config.name))
        })?;
        let identity = identity(&config)?;
        // The engine has its own copy by now.
        config.weights = Weights::Bytes(Arc::default());
        let device = device::running_on(config.device)?;
        let languages =
            if context.is_multilingual() { known_languages(&context) } else { vec![Language::ENGLISH] };
        let traits = EngineTraits {
            name: config.name.clone(),
            translates: config.translates && context.is_multilingual(),
            languages,
            max_window: config.max_window,
            file_window: config.file_window,
            live_context: match config.audio_ctx {
                AudioContext::Auto { floor, margin, whole: true } => {
                    Samples::from_millis(20 * floor.saturating_sub(margin + 8) as u64)
                }
                _ => Samples(0),
            },
            takes_placeholders: false,
            caveat: config.caveat,
            device,
        };
        Ok(Self { context: Arc::new(context), config: Arc::new(config), traits, identity })
    }
}

impl Engine for Whisper {
    fn traits(&self) -> &EngineTraits {
        &self.traits
    }

    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn recognizer(&self) -> Result<Box<dyn Recognizer>, EngineError> {
        Ok(Box::new(WhisperRecognizer::new(
            self.context.clone(),
            self.config.clone(),
            self.traits.languages.clone(),
        )?))
    }
}

/// The weights and how they are run; not what they are called, nor where they run and on how many threads.
fn identity(config: &WhisperConfig) -> Result<String, EngineError> {
    let WhisperConfig { beam_size, audio_ctx, max_window, alignment, best_of, fallback, .. } = config;
    let WhisperConfig { least_confidence, flash_attention, translates, .. } = config;
    let weights = match &config.weights {
        Weights::File(path) => std::fs::File::open(path).and_then(fingerprint),
        Weights::Bytes(bytes) => fingerprint(Cursor::new(&**bytes)),
    };
    let weights = weights.map_err(|error| {
        EngineError::Load(format!("the model {} could not be read again: {error}", config.name))
    })?;
    let run = (beam_size, audio_ctx, max_window, alignment, best_of, fallback, least_confidence);
    Ok(format!("whisper {weights} {run:?} {flash_attention} {translates}"))
}

fn known_languages(context: &WhisperContext) -> Vec<Language> {
    // large-v3 brought Cantonese, and with it one token more than the models before it.
    let cantonese = context.n_vocab() >= 51_866;
    Language::all().filter(|language| cantonese || language.code() != "yue").collect()
}

fn dtw(alignment: &Alignment) -> DtwMode<'static> {
    let heads = match alignment {
        Alignment::Estimate => return DtwMode::None,
        Alignment::TopLayers(n) => return DtwMode::TopMost { n_top: *n as c_int },
        Alignment::Heads(heads) => heads,
    };
    let model_preset = match heads {
        AlignmentHeads::Listed(heads) => return DtwMode::Custom { aheads: lasting(heads) },
        AlignmentHeads::TinyEn => DtwModelPreset::TinyEn,
        AlignmentHeads::Tiny => DtwModelPreset::Tiny,
        AlignmentHeads::BaseEn => DtwModelPreset::BaseEn,
        AlignmentHeads::Base => DtwModelPreset::Base,
        AlignmentHeads::SmallEn => DtwModelPreset::SmallEn,
        AlignmentHeads::Small => DtwModelPreset::Small,
        AlignmentHeads::MediumEn => DtwModelPreset::MediumEn,
        AlignmentHeads::Medium => DtwModelPreset::Medium,
        AlignmentHeads::LargeV1 => DtwModelPreset::LargeV1,
        AlignmentHeads::LargeV2 => DtwModelPreset::LargeV2,
        AlignmentHeads::LargeV3 => DtwModelPreset::LargeV3,
        AlignmentHeads::LargeV3Turbo => DtwModelPreset::LargeV3Turbo,
    };
    DtwMode::ModelPreset { model_preset }
}

/// The same heads as the engine wants them. It looks at them whenever it makes a state, so they stay for good: once
/// for all models that have the same.
fn lasting(heads: &[Head]) -> &'static [DtwAhead] {
    static ALL: Mutex<Vec<(Vec<Head>, &'static [DtwAhead])>> = Mutex::new(Vec::new());
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, known)) = all.iter().find(|(known, _)| known == heads) {
        return known;
    }
    let theirs =
        heads.iter().map(|head| DtwAhead { n_text_layer: head.layer as c_int, n_head: head.head as c_int });
    let theirs: &'static [DtwAhead] = Box::leak(theirs.collect());
    all.push((heads.to_vec(), theirs));
    theirs
}

fn failed(error: WhisperError) -> EngineError {
    EngineError::Failed(error.to_string())
}
