//! `/metrics`: what only has to be read when somebody asks is read here, and put beside what was counted on the way.
//!
//! This is the place for figures of rooms that keep count themselves: a row in `telemetry/table.rs`, a line here.

use std::sync::Arc;
use std::time::Duration;

use whisperwire_protocol::job::JobStatus;

use super::House;
use super::error::ApiError;
use crate::engine::pool::Lane;
use crate::telemetry::{Counter, Metrics, Sample, table};

/// How often histograms are put in order where nobody asks for figures.
const TIDY: Duration = Duration::from_secs(10);

/// All figures as they are now.
pub(super) async fn scrape(house: Arc<House>) -> Result<String, ApiError> {
    let sample = house.machine_now().await?;
    work(&house);
    back_office(&house).await;
    process(&house, &sample);
    // Sorting thousands of values takes its time.
    tokio::task::spawn_blocking(move || house.metrics.render()).await.map_err(ApiError::internal)
}

impl House {
    /// The state of the machine, which the system may take its time to tell.
    pub(super) async fn machine_now(self: &Arc<Self>) -> Result<Sample, ApiError> {
        let house = self.clone();
        tokio::task::spawn_blocking(move || house.machine.sample()).await.map_err(ApiError::internal)
    }
}

/// Keeps the figures small where nobody asks for them, for as long as the house stands.
pub(super) async fn tidy(house: std::sync::Weak<House>) {
    loop {
        tokio::time::sleep(TIDY).await;
        let Some(house) = house.upgrade() else { return };
        house.metrics.tidy();
    }
}

/// What the pool and the pipeline have counted.
fn work(house: &House) {
    let crew = house.shelf.crew();
    let load = crew.load();
    let metrics = &house.metrics;
    let gauge = |row, value: usize| metrics.gauge(row, &[]).set(value as f64);
    gauge(&table::STREAMS_OPEN, load.streams);
    gauge(&table::STREAMS_MAX, load.streams_max);
    gauge(&table::SLOTS, load.slots);
    gauge(&table::SLOTS_FREE, load.slots_free);
    gauge(&table::WORKERS, load.workers);
    gauge(&table::WORKERS_BUSY, load.busy);
    for (lane, waiting) in Lane::ALL.iter().zip(load.waiting) {
        metrics.gauge(&table::WINDOWS_WAITING, &[lane.name()]).set(waiting as f64);
    }
    metrics.gauge(&table::STRAIN, &[]).set(crew.strain());
    for (outcome, count) in [
        ("recognized", load.recognised),
        ("failed", load.failed),
        ("withdrawn", load.withdrawn),
        ("preempted", load.preempted),
    ] {
        metrics.counter(&table::WINDOWS_TOTAL, &[outcome]).absolute(count);
    }
    seconds(&metrics.counter(&table::WINDOW_AUDIO_SECONDS_TOTAL, &[]), load.audio_seconds);
    seconds(&metrics.counter(&table::ENGINE_SECONDS_TOTAL, &[]), load.wall_seconds);
    let (live, file) = house.shelf.heard();
    seconds(&metrics.counter(&table::AUDIO_SECONDS_TOTAL, &["live"]), live.seconds());
    seconds(&metrics.counter(&table::AUDIO_SECONDS_TOTAL, &["file"]), file.seconds());
    // They are there from the start, so that the first one shows as a step.
    metrics.counter(&table::UPLOAD_BYTES_TOTAL, &[]).increment(0);
    for row in whisperwire_protocol::error::TABLE {
        metrics.counter(&table::ERRORS_TOTAL, &[row.name]).increment(0);
    }
    gauge(&table::MODELS_LOADED, house.shelf.loaded());
    gauge(&table::DRAINING, usize::from(house.ending.announced.is_cancelled()));
}

/// What is kept: jobs, transcripts, and the link to a shared server.
async fn back_office(house: &House) {
    let metrics = &house.metrics;
    // A store that cannot be read leaves its figures as they were; that it cannot be read shows in the errors.
    if let Ok(counts) = house.jobs.counts().await {
        for (status, count) in JobStatus::ALL.iter().zip(counts.by_status) {
            metrics.gauge(&table::JOBS, &[status.name()]).set(count as f64);
        }
        metrics.gauge(&table::WEBHOOKS_WAITING, &[]).set(counts.deliveries as f64);
    }
    let stats = house.cache.stats().await;
    for (outcome, count) in [("hit", stats.hits), ("joined", stats.joined), ("miss", stats.misses)] {
        metrics.counter(&table::CACHE_LOOKUPS_TOTAL, &[outcome]).absolute(count);
    }
    metrics.gauge(&table::CACHE_ENTRIES, &[]).set(stats.entries as f64);
    metrics.gauge(&table::CACHE_BYTES, &[]).set(stats.bytes as f64);
    let redis = house.link.as_ref().map_or("none", |link| if link.is_up() { "connected" } else { "away" });
    for state in ["none", "connected", "away"] {
        metrics.gauge(&table::REDIS, &[state]).set(u32::from(state == redis));
    }
}

fn process(house: &House, sample: &Sample) {
    let metrics: &Metrics = &house.metrics;
    metrics.gauge(&table::UPTIME_SECONDS, &[]).set(house.started.elapsed().as_secs_f64());
    metrics.gauge(&table::BUILD_INFO, &[env!("CARGO_PKG_VERSION")]).set(1);
    if let Some(seconds) = sample.cpu_seconds {
        metrics.counter(&table::PROCESS_CPU_SECONDS_TOTAL, &[]).absolute(seconds);
    }
    let gauge = |row, value: Option<u64>| {
        if let Some(value) = value {
            metrics.gauge(row, &[]).set(value as f64);
        }
    };
    gauge(&table::PROCESS_RESIDENT_BYTES, sample.resident);
    gauge(&table::PROCESS_OPEN_FDS, sample.open_files);
    for (place, free) in &sample.disk_free {
        metrics.gauge(&table::DISK_FREE_BYTES, &[*place]).set(*free as f64);
    }
}

/// Counters of the library are whole numbers, so what is behind the point comes with the next second.
fn seconds(counter: &Counter, value: f64) {
    counter.absolute(value as u64);
}
