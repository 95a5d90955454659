//! The composition root: builds the rooms in order, and drains them in reverse.

use std::io::{Seek, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::audio::{FileDecoder, FileOptions};
use crate::cache::Cache;
use crate::config::{EngineChoice, EngineConfig, ServeConfig};
use crate::engine::pool::{Pool, Workers};
use crate::engine::script::Script;
use crate::engine::{Engine, EngineTraits};
use crate::http::{self, HttpConfig, Rooms, Tls};
use crate::jobs::Jobs;
use crate::link::Link;
use crate::pipeline::Transcriber;

/// A server that is ready to answer.
pub struct App {
    listener: TcpListener,
    http: HttpConfig,
    rooms: Rooms,
    workers: Workers,
}

impl App {
    /// Loads the model, makes the recognisers and binds the address: by the time this returns, requests are
    /// answered. Must be called on a runtime.
    pub async fn build(config: ServeConfig) -> anyhow::Result<Self> {
        let ServeConfig { http, engine, pipeline, link, cache, jobs, .. } = config;
        // The address first: it fails in an instant, and loading may take minutes.
        let listener = TcpListener::bind(http.address)
            .await
            .with_context(|| format!("cannot listen on {}", http.address))?;
        let link = match link {
            Some(link) => Some(Link::connect(link).await),
            None => None,
        };
        let jobs = Jobs::open(jobs, link.clone()).await?;
        let started = tokio::task::spawn_blocking(move || {
            let (pool, workers) = start_engine(&engine)?;
            calibrate(&pool)?;
            anyhow::Ok((pool, workers))
        });
        let (pool, workers) = started.await.context("loading crashed")??;
        let transcriber = Transcriber::new(pool, pipeline);
        let cache = Cache::new(cache, link.clone());
        jobs.start(transcriber.clone(), cache.clone());
        Ok(Self { listener, http, rooms: Rooms { transcriber, jobs, link, cache }, workers })
    }

    /// Where it listens.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// The certificate that it shows, if it speaks TLS.
    pub fn tls(&self) -> Option<&Tls> {
        self.http.tls.as_ref()
    }

    /// What its engine is.
    pub fn traits(&self) -> &EngineTraits {
        self.rooms.transcriber.traits()
    }

    /// Serves until `stop`, then drains: nothing new is taken, what runs is finished within the grace, what is
    /// left is aborted. Says whether everything was finished.
    pub async fn run(self, stop: CancellationToken) -> bool {
        let (grace, tls) = (self.http.grace, self.http.tls.clone());
        let (cache, jobs) = (self.rooms.cache.clone(), self.rooms.jobs.clone());
        let (router, streams) = http::router(self.rooms, self.http, stop.clone());
        let clock = {
            let (stop, jobs) = (stop.clone(), jobs.clone());
            async move {
                stop.cancelled().await;
                jobs.close();
                tracing::info!(grace_seconds = grace.as_secs(), "stopping");
                Instant::now()
            }
        };
        // One grace for all of it: what the requests have used of it, the streams and the workers do not get.
        let serve = http::serve(self.listener, router, tls, stop, grace);
        let (finished, began) = tokio::join!(serve, clock);
        let left = || grace.saturating_sub(began.elapsed());
        streams.close();
        let streamed = tokio::time::timeout(left(), streams.wait()).await.is_ok();
        // Whoever waits for an answer was served; what was accepted for later is finished, or put back.
        let worked_off = jobs.drain(left()).await;
        cache.flush().await;
        let left = if finished && streamed && worked_off { left() } else { Duration::ZERO };
        let workers = self.workers;
        let drained = tokio::task::spawn_blocking(move || workers.drain(left)).await.unwrap_or(false);
        let made_it = finished && streamed && drained;
        if made_it {
            tracing::info!("stopped; every request was finished");
        } else {
            tracing::warn!("stopped; the grace was too short for some requests");
        }
        made_it
    }
}

/// Loads the engine and starts its threads. Blocks, for as long as a download takes.
pub fn start_engine(config: &EngineConfig) -> anyhow::Result<(Pool, Workers)> {
    let started = Instant::now();
    let engine = load_engine(&config.choice)?;
    let traits = engine.traits().clone();
    let (pool, workers) = Pool::start(engine, config.pool)?;
    tracing::info!(
        model = traits.name,
        device = traits.device,
        languages = traits.languages.len(),
        workers = config.pool.workers,
        seconds = started.elapsed().as_secs_f32(),
        "the engine is ready"
    );
    if let Some(caveat) = traits.caveat {
        tracing::warn!("{caveat}");
    }
    Ok((pool, workers))
}

/// A few seconds of speech, to measure with.
const SPEECH: &[u8] = include_bytes!("../tests/audio/sentence-04-slt.flac");

/// Measures what a second of speech costs here, so that no more live streams are let in than can be followed.
/// Blocks.
fn calibrate(pool: &Pool) -> anyhow::Result<()> {
    let mut file = tempfile::tempfile()?;
    file.write_all(SPEECH)?;
    file.rewind()?;
    let mut decoder = FileDecoder::open(file, &FileOptions::default())?;
    let mut pcm = Vec::new();
    while decoder.read(&mut pcm)? {}
    if pool.traits().takes_placeholders {
        // Whatever a scripted engine pretends to cost, it costs in proportion.
        pcm.truncate(1_600);
    }
    let started = Instant::now();
    pool.calibrate(pcm.into())?;
    let load = pool.load();
    tracing::info!(
        streams = load.streams_max,
        seconds = started.elapsed().as_secs_f32(),
        "live streams that this machine can follow were measured"
    );
    Ok(())
}

/// Loads an engine without starting threads for it. Blocks.
pub fn load_engine(choice: &EngineChoice) -> anyhow::Result<Arc<dyn Engine>> {
    match choice {
        EngineChoice::Script(config) => Ok(Arc::new(Script::new(*config))),
        #[cfg(feature = "whisper")]
        EngineChoice::Whisper(choice) => Ok(Arc::new(load_whisper(choice)?)),
        #[cfg(not(feature = "whisper"))]
        EngineChoice::Whisper(_) => anyhow::bail!("this build has no Whisper engine"),
    }
}

#[cfg(feature = "whisper")]
fn load_whisper(choice: &crate::config::WhisperChoice) -> anyhow::Result<crate::engine::whisper::Whisper> {
    use crate::config::{AudioCtx, DeviceChoice};
    use crate::engine::models::{self, Bar, Resolved, Weights};
    use crate::engine::whisper::{self, Alignment, AudioContext, Whisper, WhisperConfig};

    let crate::config::WhisperChoice {
        model,
        hub,
        device,
        threads,
        beam_size,
        audio_ctx,
        fallback,
        flash_attention,
    } = choice;
    let fits = if whisper::GPU_BUILD && *device != DeviceChoice::Cpu {
        models::Device::Gpu
    } else {
        models::Device::Cpu
    };
    let Resolved { name, weights, preset, note } = models::resolve(model, hub, fits, &mut Bar::default())?;
    // The bundled model's caveat is told once, when the engine is ready.
    let note = note.unwrap_or_default().replace(models::BUNDLED_CAVEAT, "");
    let note = note.trim_end_matches("; ");
    if !note.is_empty() {
        tracing::warn!("{note}");
    }
    let bundled = weights == Weights::Bundled;
    let (weights, header) = match weights {
        Weights::Bundled => {
            let bytes = models::bundled()?;
            let header = models::inspect_bytes(&bytes).map_err(|error| anyhow::anyhow!("{error}"))?;
            (whisper::Weights::Bytes(Arc::new(bytes)), header)
        }
        Weights::File(path) => {
            let header = models::inspect(&path)?;
            (whisper::Weights::File(path), header)
        }
    };
    Ok(Whisper::load(WhisperConfig {
        name,
        weights,
        device: match device {
            DeviceChoice::Auto => whisper::Device::Auto,
            DeviceChoice::Cpu => whisper::Device::Cpu,
            DeviceChoice::Gpu(n) => whisper::Device::Gpu(*n),
        },
        threads: *threads,
        beam_size: beam_size.unwrap_or(preset.beam) as usize,
        audio_ctx: match audio_ctx {
            AudioCtx::Auto => AudioContext::Auto { floor: preset.audio_ctx_floor as usize },
            AudioCtx::Full => AudioContext::Full,
            AudioCtx::Positions(n) => AudioContext::Fixed(*n as usize),
        },
        max_window: preset.max_window,
        alignment: match preset.heads {
            Some(heads) => Alignment::Heads(heads),
            // The lower layers' heads attend to more than the sound; OpenAI's own default is the upper half.
            None => Alignment::TopLayers(header.decoder_layers.div_ceil(2)),
        },
        fallback: fallback.unwrap_or(preset.fallback),
        best_of: preset.best_of as usize,
        least_confidence: preset.least_confidence,
        flash_attention: *flash_attention,
        translates: preset.translates,
        caveat: bundled.then_some(models::BUNDLED_CAVEAT),
    })?)
}
