//! The composition root: builds the rooms in order, and drains them in reverse.

mod library;

use std::io::{Seek, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::audio::{FileDecoder, FileOptions};
use crate::cache::Cache;
use crate::config::{EngineConfig, ModelsConfig, ServeConfig};
use crate::engine::pool::{Crew, Pool, Workers};
use crate::http::{self, Ending, HttpConfig, Rooms, Tls};
use crate::jobs::Jobs;
use crate::link::Link;
use crate::pipeline::{Budget, PipelineConfig, Shelf, ShelfConfig};
use crate::telemetry::{Metrics, Traces};

pub use self::library::load_engine;

/// A server that is ready to answer.
pub struct App {
    listener: TcpListener,
    http: HttpConfig,
    rooms: Rooms,
    workers: Workers,
    traces: Traces,
}

impl App {
    /// Binds the address, starts the threads and loads the models that are wanted at the start: by the time this
    /// returns, requests are answered. Must be called on a runtime.
    pub async fn build(config: ServeConfig) -> anyhow::Result<Self> {
        let ServeConfig { http, engine, models, pipeline, link, cache, jobs, .. } = config;
        // The address first: it fails in an instant, and loading may take minutes.
        let listener = TcpListener::bind(http.address)
            .await
            .with_context(|| format!("cannot listen on {}", http.address))?;
        let link = match link {
            Some(link) => Some(Link::connect(link).await),
            None => None,
        };
        let jobs = Jobs::open(jobs, link.clone()).await?;
        let (crew, workers) = Crew::start(engine.pool)?;
        let metrics = Metrics::new();
        let shelf = stock(crew, engine, models, (pipeline, metrics.clone())).await?;
        let cache = Cache::new(cache, link.clone());
        jobs.start(shelf.clone(), cache.clone(), &metrics);
        let rooms = Rooms { shelf, jobs, link, cache, metrics };
        Ok(Self { listener, http, rooms, workers, traces: Traces::default() })
    }

    /// The same, with these traces to be sent off at the end.
    pub fn with_traces(self, traces: Traces) -> Self {
        Self { traces, ..self }
    }

    /// Where it listens.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// The certificate that it shows, if it speaks TLS.
    pub fn tls(&self) -> Option<&Tls> {
        self.http.tls.as_ref()
    }

    /// Serves until `stop`, then drains: it says that it is not ready and serves on for the delay; then nothing new is
    /// taken, what runs is finished within the grace, what is left is aborted. Says whether everything was finished.
    pub async fn run(self, stop: CancellationToken) -> bool {
        let (grace, delay, tls) = (self.http.grace, self.http.drain_delay, self.http.tls.clone());
        let (cache, jobs) = (self.rooms.cache.clone(), self.rooms.jobs.clone());
        let ending = Ending { announced: stop, begun: CancellationToken::new() };
        let (router, streams) = http::router(self.rooms, self.http, ending.clone());
        let (closing, closed) = (ending.begun.clone(), jobs.clone());
        let clock = async move {
            ending.announced.cancelled().await;
            if !delay.is_zero() {
                tracing::info!(delay_seconds = delay.as_secs(), "not ready any more");
                tokio::time::sleep(delay).await;
            }
            tracing::info!(grace_seconds = grace.as_secs(), "stopping");
            ending.begun.cancel();
            closed.close();
            Instant::now()
        };
        // One grace for all of it: what the requests have used of it, the streams and the workers do not get.
        let serve = http::serve(self.listener, router, tls, closing, grace);
        let (finished, began) = tokio::join!(serve, clock);
        let left = || grace.saturating_sub(began.elapsed());
        streams.close();
        let streamed = tokio::time::timeout(left(), streams.wait()).await.is_ok();
        // Whoever waits for an answer was served; what was accepted for later is finished, or put back.
        let worked_off = jobs.drain(left()).await;
        cache.flush().await;
        let rest = if finished && streamed && worked_off { left() } else { Duration::ZERO };
        let (workers, traces) = (self.workers, self.traces);
        let drained = tokio::task::spawn_blocking(move || workers.drain(rest)).await.unwrap_or(false);
        // What is traced last is told last.
        let flush = left().clamp(FLUSH.0, FLUSH.1);
        drop(tokio::task::spawn_blocking(move || traces.flush(flush)).await);
        let made_it = finished && streamed && worked_off && drained;
        if made_it {
            tracing::info!("stopped; every request was finished");
        } else {
            tracing::warn!("stopped; the grace was too short for some requests");
        }
        made_it
    }
}

/// What the last traces get where nothing is left of the grace, and where much is: a collector that is gone must not
/// hold up the end.
const FLUSH: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

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
const SPEECH: &[u8] = include_bytes!("../../tests/audio/sentence-04-slt.flac");

/// A shelf with the models on it that are wanted at the start. The first of them that cannot be loaded ends it.
async fn stock(
    crew: Crew,
    engine: EngineConfig,
    models: ModelsConfig,
    (pipeline, metrics): (PipelineConfig, Metrics),
) -> anyhow::Result<Shelf> {
    let (lazy, idle, memory) = (models.lazy, models.idle, models.memory);
    // Weights that are missing are downloaded here, so that a lazy server has them too.
    let opened = tokio::task::spawn_blocking(move || library::open(&engine, models));
    let (library, wanted) = opened.await.context("looking for the models crashed")??;
    let speech = Some(speech(library.takes_placeholders())?);
    let memory = memory.map_or_else(|| Budget::Guessed(library::half_of_the_memory()), Budget::Firm);
    let shelf = Shelf::new(crew, library, pipeline, ShelfConfig { memory, idle, speech, metrics });
    let default = shelf.default_name().to_owned();
    for name in wanted.iter().filter(|name| !(lazy && **name == default)) {
        drop(shelf.await_model(name).await?);
    }
    Ok(shelf)
}

/// What the machine is measured with, so that no more live streams are let in than can be followed.
fn speech(scripted: bool) -> anyhow::Result<Arc<[f32]>> {
    let mut file = tempfile::tempfile()?;
    file.write_all(SPEECH)?;
    file.rewind()?;
    let mut decoder = FileDecoder::open(file, &FileOptions::default())?;
    let mut pcm = Vec::new();
    while decoder.read(&mut pcm)? {}
    if scripted {
        // Whatever a scripted engine pretends to cost, it costs in proportion.
        pcm.truncate(1_600);
    }
    Ok(pcm.into())
}
