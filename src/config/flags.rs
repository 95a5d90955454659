//! The flags, as people write them, and their conversion.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::cache::CacheFlags;
use super::jobs::JobsFlags;
use super::limits::{LimitConfig, LimitFlags, size};
use super::models::ShelfFlags;
use super::ops::OpsFlags;
use super::redis::RedisFlags;
use super::webhooks::WebhookFlags;
use super::{
    AudioCtx, Bad, ConfigError, DeviceChoice, EngineChoice, EngineConfig, Format, ServeConfig,
    TranscribeConfig, WhisperChoice,
};
use crate::audio::{Ffmpeg, FileOptions, Limits};
use crate::engine::models::{HubConfig, ModelsCommand, Spec, default_cache_dir};
use crate::engine::pool::PoolConfig;
use crate::engine::script::ScriptConfig;
use crate::http::{HttpConfig, Tls};
use crate::pipeline::PipelineConfig;
use crate::session::EndpointConfig;
use crate::telemetry::LogConfig;
use crate::transcript::Samples;
use crate::vad::VadKind;

/// The flags of `whisperwire serve`.
#[derive(Debug, Args)]
pub struct ServeFlags {
    #[command(flatten)]
    http: HttpFlags,
    #[command(flatten)]
    jobs: JobsFlags,
    #[command(flatten)]
    webhooks: WebhookFlags,
    #[command(flatten)]
    models: ShelfFlags,
    #[command(flatten)]
    cache: CacheFlags,
    #[command(flatten)]
    limits: LimitFlags,
    #[command(flatten)]
    redis: RedisFlags,
    #[command(flatten)]
    ops: OpsFlags,
    #[command(flatten)]
    work: WorkFlags,
}

/// The flags of `whisperwire transcribe`.
#[derive(Debug, Args)]
pub struct TranscribeFlags {
    /// Recordings, in any format the server takes
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// What to write
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// The folder to write NAME.FORMAT into; standard output if none is given
    #[arg(long, short)]
    pub output: Option<PathBuf>,
    /// What is spoken: a code or an English name; detected if not given
    #[arg(long, short)]
    pub language: Option<String>,
    /// Writes English whatever is spoken
    #[arg(long)]
    pub translate: bool,
    /// Text that stands before the recording, for style and spelling
    #[arg(long)]
    pub prompt: Option<String>,
    #[command(flatten)]
    work: WorkFlags,
}

/// What turns audio into text, with a server and without one.
#[derive(Clone, Debug, Args)]
struct WorkFlags {
    #[command(flatten)]
    engine: EngineFlags,
    #[command(flatten)]
    hub: HubFlags,
    #[command(flatten)]
    pipeline: PipelineFlags,
    #[command(flatten)]
    log: LogFlags,
}

/// The flags of `whisperwire models`.
#[derive(Debug, Args)]
pub struct ModelsFlags {
    /// What to do with them.
    #[command(subcommand)]
    pub command: ModelsCommand,
    #[command(flatten)]
    hub: HubFlags,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
struct HttpFlags {
    /// The address to listen on
    #[arg(long, env = "WHISPERWIRE_HOST", default_value = "127.0.0.1")]
    host: IpAddr,
    /// The port to listen on; 0 takes a free one
    #[arg(long, env = "WHISPERWIRE_PORT", default_value_t = 8000)]
    port: u16,
    /// A certificate to encrypt connections with: PEM, the server's own first, then what it was signed with
    #[arg(long, env = "WHISPERWIRE_TLS_CERT")]
    tls_cert: Option<PathBuf>,
    /// The private key of that certificate: PEM, unencrypted
    #[arg(long, env = "WHISPERWIRE_TLS_KEY")]
    tls_key: Option<PathBuf>,
    /// A key that requests must bring as `Authorization: Bearer KEY`; may be given several times, or with commas
    #[arg(long, env = "WHISPERWIRE_API_KEY", value_delimiter = ',', hide_env_values = true)]
    api_key: Vec<String>,
    /// Serves other machines although there is no key
    #[arg(long, env = "WHISPERWIRE_ALLOW_ANYBODY")]
    allow_anybody: bool,
    /// The largest upload, in megabytes
    #[arg(long, env = "WHISPERWIRE_MAX_UPLOAD_MB", default_value_t = 2048)]
    max_upload_mb: u64,
    /// The same in bytes, or with a unit such as 25MB or 2GiB; stands above the other
    #[arg(long, env = "WHISPERWIRE_MAX_FILE_SIZE", value_name = "SIZE", value_parser = size)]
    max_file_size: Option<u64>,
    /// How long an upload may stand still, in seconds
    #[arg(long, env = "WHISPERWIRE_UPLOAD_TIMEOUT", default_value_t = 30)]
    upload_timeout: u64,
    /// How long running requests get to finish after SIGTERM, in seconds
    #[arg(long, env = "WHISPERWIRE_GRACE", default_value_t = 30)]
    grace: u64,
    /// Whether a request may name a model that this server does not know
    #[arg(long, env = "WHISPERWIRE_UNKNOWN_MODELS", value_enum, default_value_t = UnknownModels::Refuse)]
    unknown_models: UnknownModels,
    /// Where uploads are spooled; the system's temporary folder if not given
    #[arg(long, env = "WHISPERWIRE_SPOOL_DIR")]
    spool_dir: Option<PathBuf>,
    /// How long a live stream may be without audio and messages, in seconds
    #[arg(long, env = "WHISPERWIRE_IDLE_TIMEOUT", default_value_t = 60)]
    idle_timeout: u64,
    /// The longest a live stream may outlive its connection, in seconds; a client may ask for less
    #[arg(long, env = "WHISPERWIRE_RESUME_GRACE", default_value_t = 30)]
    resume_grace: u64,
    /// Adds a route that echoes what comes over a WebSocket, for conformance tests
    #[arg(long, env = "WHISPERWIRE_WS_ECHO", hide = true)]
    ws_echo: bool,
    /// A recording to name in the line that says how to try the server
    #[arg(long, env = "WHISPERWIRE_TRY", hide = true)]
    r#try: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum UnknownModels {
    /// They mean the model that is loaded
    Accept,
    /// They are answered with 404
    Refuse,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Engine")]
struct EngineFlags {
    /// Which engine listens; `script` writes down a fixed script wherever it is loud, for tests
    #[arg(long, env = "WHISPERWIRE_ENGINE", value_enum, default_value_t = EngineName::DEFAULT)]
    engine: EngineName,
    /// A name of `whisperwire models list`, a path, owner/repo or owner/repo:file on the hub, `bundled`, or `auto`
    #[arg(long, env = "WHISPERWIRE_MODEL", default_value = "auto")]
    model: String,
    /// Where to run: auto, cpu or gpu:N
    #[arg(long, env = "WHISPERWIRE_DEVICE", default_value = "auto", value_parser = device)]
    device: DeviceChoice,
    /// How many windows are decoded at once; by default as many as the cores allow
    #[arg(long, env = "WHISPERWIRE_WORKERS")]
    workers: Option<usize>,
    /// Threads per worker; workers times threads should not exceed the cores
    #[arg(long, env = "WHISPERWIRE_THREADS")]
    threads: Option<usize>,
    /// How many uploads are worked on at once before others are told to come back
    #[arg(long, env = "WHISPERWIRE_SLOTS", default_value_t = 32)]
    slots: usize,
    /// How many live streams are followed at once; by default as many as were measured to fit this machine
    #[arg(long, env = "WHISPERWIRE_MAX_STREAMS")]
    max_streams: Option<usize>,
    /// Beams for text that stays; by default what suits the model
    #[arg(long, env = "WHISPERWIRE_BEAM_SIZE", value_parser = clap::value_parser!(u32).range(1..=8))]
    beam_size: Option<u32>,
    /// Encoder positions per window (50 a second): auto fits them to the window, full is 1500, or a number
    #[arg(long, env = "WHISPERWIRE_AUDIO_CTX", default_value = "auto", value_parser = audio_ctx)]
    audio_ctx: AudioCtx,
    /// Whether doubtful windows are tried again at higher temperatures; by default what suits the model
    #[arg(long, env = "WHISPERWIRE_FALLBACK")]
    fallback: Option<bool>,
    /// Fuses the attention: faster on a GPU, with coarser word times
    #[arg(long, env = "WHISPERWIRE_FLASH_ATTENTION")]
    flash_attention: bool,
    /// Seconds after which a part of the audio that the engine has begun with and does not come back from may be
    /// given up. What waits for its turn never is, and a slow model is given 50 times what it was measured to need
    #[arg(long, env = "WHISPERWIRE_HANG_TIMEOUT", default_value_t = 600)]
    hang_timeout: u64,
    /// Milliseconds the scripted engine takes for each second of audio
    #[arg(long, env = "WHISPERWIRE_SCRIPT_DELAY_MS", default_value_t = 0)]
    script_delay_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EngineName {
    Whisper,
    Script,
}

impl EngineName {
    #[cfg(feature = "whisper")]
    const DEFAULT: Self = Self::Whisper;
    #[cfg(not(feature = "whisper"))]
    const DEFAULT: Self = Self::Script;
}

fn device(text: &str) -> Result<DeviceChoice, String> {
    match text.to_ascii_lowercase().as_str() {
        "auto" => Ok(DeviceChoice::Auto),
        "cpu" => Ok(DeviceChoice::Cpu),
        "gpu" | "cuda" | "metal" | "vulkan" => Ok(DeviceChoice::Gpu(0)),
        other => other
            .split_once(':')
            .filter(|(name, _)| matches!(*name, "gpu" | "cuda" | "metal" | "vulkan"))
            .and_then(|(_, n)| n.parse().ok())
            .map(DeviceChoice::Gpu)
            .ok_or_else(|| "must be auto, cpu, or gpu:N".into()),
    }
}

fn audio_ctx(text: &str) -> Result<AudioCtx, String> {
    match text {
        "auto" => Ok(AudioCtx::Auto),
        "full" => Ok(AudioCtx::Full),
        n => match n.parse() {
            Ok(n @ 1..=1500) => Ok(AudioCtx::Positions(n)),
            _ => Err("must be auto, full, or a number from 1 to 1500".into()),
        },
    }
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Models")]
struct HubFlags {
    /// The hub to download models from
    #[arg(long, global = true, env = "WHISPERWIRE_HUB_ENDPOINT", default_value = "https://huggingface.co")]
    hub_endpoint: String,
    /// The token for private models
    #[arg(long, global = true, env = "WHISPERWIRE_HUB_TOKEN", hide_env_values = true)]
    hub_token: Option<String>,
    /// Where models are kept
    #[arg(long, global = true, env = "WHISPERWIRE_MODELS_DIR")]
    models_dir: Option<PathBuf>,
    /// Never asks the hub
    #[arg(long, global = true, env = "WHISPERWIRE_OFFLINE")]
    offline: bool,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Audio")]
struct PipelineFlags {
    /// What decides what is speech; by default silero where its network is in the models folder, else earshot
    #[arg(long, env = "WHISPERWIRE_VAD", value_enum)]
    vad: Option<VadName>,
    /// The ONNX file of Silero's network, version 6; by default silero_vad_v6.onnx in the models folder
    #[arg(long, env = "WHISPERWIRE_VAD_MODEL", value_name = "PATH")]
    vad_model: Option<PathBuf>,
    /// How sure it must be that speech begins, 0 to 1
    #[arg(long, env = "WHISPERWIRE_VAD_THRESHOLD", default_value_t = 0.5, value_parser = share)]
    vad_threshold: f32,
    /// Silence that ends an utterance, in milliseconds
    #[arg(long, env = "WHISPERWIRE_SILENCE_MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(100..=10_000))]
    silence_ms: u64,
    /// The longest window of a file, in seconds; by default what suits the model. More than 15 hold several utterances
    #[arg(long, env = "WHISPERWIRE_FILE_WINDOW", value_parser = window)]
    file_window: Option<f32>,
    /// The longest recording, in minutes
    #[arg(long, env = "WHISPERWIRE_MAX_AUDIO_MINUTES", default_value_t = 360)]
    max_audio_minutes: u64,
    /// The most channels of a recording
    #[arg(long, env = "WHISPERWIRE_MAX_CHANNELS", default_value_t = 32)]
    max_channels: u16,
    /// The highest sample rate of a recording, in Hz
    #[arg(long, env = "WHISPERWIRE_MAX_SAMPLE_RATE", default_value_t = 384_000)]
    max_sample_rate: u32,
    /// Lets ffmpeg read what this program cannot, if it is installed
    #[arg(long, env = "WHISPERWIRE_FFMPEG")]
    ffmpeg: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum VadName {
    Earshot,
    Webrtc,
    Energy,
    Silero,
}

/// The name under which `./dev model vad` puts Silero's network into the models folder.
const SILERO_FILE: &str = "silero_vad_v6.onnx";

/// The most bytes that are read of what is said to be Silero's network, which has 1.2 million.
#[cfg(feature = "onnx")]
const SILERO_BYTES: u64 = 16 << 20;

#[cfg(feature = "onnx")]
fn silero(file: &std::path::Path) -> Bad<VadKind> {
    use std::io::Read;
    let bad = |why: String| ConfigError::Bad(format!("--vad silero: {}: {why}", file.display()));
    let opened = std::fs::File::open(file).map_err(|error| {
        bad(format!("{error}; `./dev model vad` brings it, and --vad-model names another place"))
    })?;
    let mut onnx = Vec::new();
    opened.take(SILERO_BYTES).read_to_end(&mut onnx).map_err(|error| bad(error.to_string()))?;
    let load = crate::vad::Silero::load(&onnx).map(VadKind::Silero);
    load.map_err(|why| bad(format!("{why}; remove it, or use --vad earshot")))
}

#[cfg(not(feature = "onnx"))]
fn silero(_: &std::path::Path) -> Bad<VadKind> {
    Err(ConfigError::Bad(
        "--vad silero: this build cannot read ONNX files; build it with --features onnx".into(),
    ))
}

fn share(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|x| (0.01..=0.99).contains(x)).ok_or_else(|| "must be from 0.01 to 0.99".into())
}

fn window(text: &str) -> Result<f32, String> {
    text.parse()
        .ok()
        .filter(|x| (1.0..=30.0).contains(x))
        .ok_or_else(|| "must be from 1 to 30 seconds".into())
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Log")]
struct LogFlags {
    /// What is logged, on standard error: error, warn, info, debug, trace, or a filter such as whisperwire=debug
    #[arg(long, env = "WHISPERWIRE_LOG", default_value = "info")]
    log: String,
    /// One JSON object per line
    #[arg(long, env = "WHISPERWIRE_LOG_JSON")]
    log_json: bool,
}

impl ServeFlags {
    /// Checks across flags and converts to what the rooms use.
    pub fn config(self) -> Bad<ServeConfig> {
        let hub = self.work.hub.clone().config();
        let TranscribeConfig { engine, pipeline, log } = self.work.config()?;
        let OpsFlags { drain_delay, metrics_open, otlp_endpoint } = self.ops;
        let drain_delay = Duration::from_secs(drain_delay);
        let http = self.http.config(hub, self.limits.config()?)?;
        let http = HttpConfig { drain_delay, metrics_open, ..http };
        let log = LogConfig { traces: otlp_endpoint.filter(|endpoint| !endpoint.is_empty()), ..log };
        let webhooks = self.webhooks.config();
        Ok(ServeConfig {
            jobs: self.jobs.config(http.address.port(), engine.pool.workers, webhooks)?,
            link: self.redis.config()?,
            cache: self.cache.config(),
            models: self.models.config(&engine)?,
            http,
            engine,
            pipeline,
            log,
        })
    }
}

impl TranscribeFlags {
    /// Checks across flags and converts to what the rooms use.
    pub fn config(&self) -> Bad<TranscribeConfig> {
        self.work.clone().config()
    }
}

impl WorkFlags {
    fn config(self) -> Bad<TranscribeConfig> {
        let engine = self.engine.config(&self.hub)?;
        let pipeline = self.pipeline.config(&engine, &self.hub.clone().config())?;
        Ok(TranscribeConfig { engine, pipeline, log: self.log.config() })
    }
}

impl ModelsFlags {
    /// The command and where it works.
    pub fn config(self) -> (ModelsCommand, HubConfig) {
        let hub = self.hub.config();
        (self.command, hub)
    }
}

impl HttpFlags {
    fn config(self, models: HubConfig, limits: LimitConfig) -> Bad<HttpConfig> {
        let keys: Vec<String> = self.api_key.into_iter().filter(|key| !key.trim().is_empty()).collect();
        let keyless = keys.is_empty() && limits.keys_file.is_none();
        if keyless && !self.host.is_loopback() && !self.allow_anybody {
            return Err(ConfigError::Bad(format!(
                "--host {} would serve other machines without a key: give an --api-key or --api-keys-file, or --allow-anybody",
                self.host
            )));
        }
        let tls = match (self.tls_cert, self.tls_key) {
            (Some(certificate), Some(key)) => Some(Tls::load(&certificate, &key).map_err(ConfigError::Bad)?),
            (None, None) => None,
            (Some(_), None) => return Err(ConfigError::Bad("--tls-cert needs its --tls-key as well".into())),
            (None, Some(_)) => return Err(ConfigError::Bad("--tls-key needs its --tls-cert as well".into())),
        };
        Ok(HttpConfig {
            address: (self.host, self.port).into(),
            tls,
            api_keys: keys,
            keys_file: limits.keys_file,
            quotas: limits.quotas,
            origins: limits.origins,
            proxies: limits.proxies,
            max_upload: self.max_file_size.unwrap_or(self.max_upload_mb.max(1) * 1_000_000),
            upload_timeout: Duration::from_secs(self.upload_timeout.max(1)),
            grace: Duration::from_secs(self.grace),
            drain_delay: Duration::ZERO,
            metrics_open: false,
            accept_unknown_models: self.unknown_models == UnknownModels::Accept,
            spool_dir: self.spool_dir,
            idle_timeout: Duration::from_secs(self.idle_timeout.max(1)),
            resume_grace: Duration::from_secs(self.resume_grace),
            ws_echo: self.ws_echo,
            models,
            try_with: self.r#try,
        })
    }
}

impl EngineFlags {
    fn config(self, hub: &HubFlags) -> Bad<EngineConfig> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (workers, threads) = share_cores(cores, self.workers, self.threads);
        let streams = self.max_streams.map(|streams| streams.max(1));
        let pool = PoolConfig {
            workers,
            slots: self.slots.max(1),
            streams,
            patience: 8,
            hang: Duration::from_secs(self.hang_timeout.max(1)),
        };
        let hub = hub.clone().config();
        let choice = match self.engine {
            EngineName::Script => EngineChoice::Script(ScriptConfig {
                delay: Duration::from_millis(self.script_delay_ms),
                ..ScriptConfig::default()
            }),
            EngineName::Whisper => EngineChoice::Whisper(Box::new(WhisperChoice {
                model: Spec::named(&self.model, &hub)
                    .map_err(|error| ConfigError::Bad(format!("--model: {error}")))?,
                hub,
                device: self.device,
                threads,
                beam_size: self.beam_size,
                audio_ctx: self.audio_ctx,
                fallback: self.fallback,
                flash_attention: self.flash_attention,
            })),
        };
        Ok(EngineConfig { choice, pool })
    }
}

/// Workers and threads that fill the cores and no more: the engine waits busily, and threads that wait for each
/// other's core are many times slower. One window is spread over up to four threads, and over none on small
/// machines, where more windows at once are worth more than a faster one.
fn share_cores(cores: usize, workers: Option<usize>, threads: Option<usize>) -> (usize, usize) {
    match (workers.map(|n| n.max(1)), threads.map(|n| n.max(1))) {
        (Some(workers), Some(threads)) => (workers, threads),
        (Some(workers), None) => (workers, (cores / workers).clamp(1, 4)),
        (None, Some(threads)) => ((cores / threads).max(1), threads),
        (None, None) => {
            let threads = if cores <= 2 { 1 } else { (cores / 2).min(4) };
            ((cores / threads).max(1), threads)
        }
    }
}

impl HubFlags {
    fn config(self) -> HubConfig {
        #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
        let cache_dir = self.models_dir.unwrap_or_else(|| default_cache_dir(|name| std::env::var_os(name)));
        HubConfig {
            endpoint: self.hub_endpoint,
            token: self.hub_token.filter(|token| !token.is_empty()),
            offline: self.offline,
            ..HubConfig::new(cache_dir)
        }
    }
}

impl PipelineFlags {
    /// The detector that was asked for, or the best one that is here.
    fn vad(&self, engine: &EngineConfig, models: &HubConfig) -> Bad<VadKind> {
        let file = self.vad_model.clone().unwrap_or_else(|| models.cache_dir.join(SILERO_FILE));
        match (self.vad, &engine.choice) {
            (Some(VadName::Earshot), _) => Ok(VadKind::Earshot),
            (Some(VadName::Webrtc), _) => Ok(VadKind::Webrtc),
            (Some(VadName::Energy), _) => Ok(VadKind::Energy),
            (Some(VadName::Silero), _) => silero(&file),
            // The script is heard where it is loud, so loudness alone must decide.
            (None, EngineChoice::Script(_)) => Ok(VadKind::Energy),
            (None, EngineChoice::Whisper(_)) if self.vad_model.is_some() => silero(&file),
            (None, EngineChoice::Whisper(_)) if cfg!(feature = "onnx") && file.is_file() => silero(&file),
            (None, EngineChoice::Whisper(_)) => Ok(VadKind::Earshot),
        }
    }

    fn config(self, engine: &EngineConfig, models: &HubConfig) -> Bad<PipelineConfig> {
        let vad = self.vad(engine, models)?;
        let ffmpeg = if self.ffmpeg {
            let missing = || ConfigError::Bad("--ffmpeg: there is no ffmpeg on the PATH".into());
            Some(Ffmpeg::find().ok_or_else(missing)?)
        } else {
            None
        };
        Ok(PipelineConfig {
            vad,
            endpoint: EndpointConfig::default()
                .with_threshold(self.vad_threshold)
                .with_hangover(Samples::from_millis(self.silence_ms)),
            file_window: self.file_window.map(|seconds| Samples::from_seconds(seconds.into())),
            file_windows: engine.pool.workers + 1,
            file: FileOptions {
                limits: Limits {
                    duration: Samples::from_millis(self.max_audio_minutes.max(1) * 60_000),
                    channels: self.max_channels.max(1),
                    rate: self.max_sample_rate,
                },
                ffmpeg,
            },
        })
    }
}

impl LogFlags {
    fn config(self) -> LogConfig {
        LogConfig { filter: self.log, json: self.log_json, traces: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_never_outnumber_the_cores_by_default() {
        for cores in 1..=256 {
            let (workers, threads) = share_cores(cores, None, None);
            assert!(
                workers >= 1 && threads >= 1 && workers * threads <= cores,
                "{cores}: {workers} x {threads}"
            );
        }
        assert_eq!(share_cores(2, None, None), (2, 1));
        assert_eq!(share_cores(8, None, None), (2, 4));
        assert_eq!(share_cores(8, Some(8), None), (8, 1));
    }

    #[test]
    fn devices_are_read() {
        assert_eq!(device("gpu:1"), Ok(DeviceChoice::Gpu(1)));
        assert_eq!(device("CUDA"), Ok(DeviceChoice::Gpu(0)));
        assert!(device("gpu:x").is_err() && device("").is_err());
    }
}
