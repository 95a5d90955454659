//! `ww bench live`: N streams that speak for a while, or with `--ramp` as many as the server bears.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use tokio::time::{Instant, sleep};
use whisperwire_client::live::LiveClient;

use super::figures::tenths;
use super::process::{Process, raise_file_limit};
use super::ramp::{self, Ramp};
use super::recordings::{self, Recording};
use super::report::{Load, Usage};
use super::swarm::{Swarm, warm_up};
use crate::Place;

/// Beyond a stream's last sample, how long its last words may take.
const LAST_WORDS: Duration = Duration::from_secs(120);

/// Utterances that a step of the ramp needs, so that its p95 means something.
const LEAST_FINALS: usize = 10;

/// The arguments.
#[derive(Debug, Args)]
pub(crate) struct Live {
    #[command(flatten)]
    place: Place,
    /// How many streams speak; with --ramp the most that are tried.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    streams: u32,
    /// A folder of WAV and FLAC files; each stream plays them in an order of its own.
    #[arg(long, value_name = "DIR")]
    audio: PathBuf,
    /// Only recordings with this in their name.
    #[arg(long = "match", value_name = "TEXT", default_value = "", hide_default_value = true)]
    pattern: String,
    /// What is said in them: a JSON list of {"file", "text"}. The folder's manifest.json, if not given.
    #[arg(long, value_name = "FILE")]
    refs: Option<PathBuf>,
    /// How long one message is.
    #[arg(long, default_value = "20ms", value_name = "TIME", value_parser = crate::duration)]
    chunk: Duration,
    /// How long recordings are begun; the last ones are finished.
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = crate::duration)]
    duration: Duration,
    /// The streams begin within this time.
    #[arg(long, default_value = "3s", value_name = "TIME", value_parser = crate::duration)]
    spread: Duration,
    /// One stream speaks for so long before anything is measured.
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = crate::duration)]
    warmup: Duration,
    /// Add streams step by step until the finals come too late or the server refuses one.
    #[arg(long)]
    ramp: bool,
    /// With --ramp: 95 of 100 finals must come within this time after the endpoint decision.
    #[arg(long, default_value = "500ms", value_name = "TIME", value_parser = crate::duration)]
    bound: Duration,
    /// With --ramp: how many streams a step adds.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    step: u32,
    /// With --ramp: how long a step is.
    #[arg(long, default_value = "20s", value_name = "TIME", value_parser = crate::duration)]
    step_time: Duration,
    /// With --ramp: afterwards run so many times the streams that were found, for --duration.
    #[arg(long, value_name = "TIMES")]
    beyond: Option<f64>,
    /// The server's process, if it cannot be found by its port.
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Write the result as JSON into this file as well; `-` is standard output, instead of the table.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    load: Option<Load>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ramp: Option<ramp::Found>,
    #[serde(skip_serializing_if = "Option::is_none")]
    beyond: Option<Load>,
}

/// What every load of one command shares.
struct Bench {
    client: LiveClient,
    recordings: Arc<Vec<Recording>>,
    chunk: Duration,
    server: Option<Process>,
}

impl Live {
    pub(crate) async fn run(&self, out: &mut dyn Write, complaints: &mut dyn Write) -> anyhow::Result<u8> {
        let chunk = self.chunk.clamp(Duration::from_millis(1), Duration::from_secs(10));
        // Whole samples: what is not one would make the clock drift.
        let chunk = Duration::from_secs_f64((chunk.as_secs_f64() * 16_000.0).round() / 16_000.0);
        let recordings = Arc::new(recordings::load(&self.audio, &self.pattern, self.refs.as_deref()).await?);
        let client = LiveClient::new(&self.place.server, self.place.api_key.as_deref())?;
        let server = Process::of_server(self.server_pid, &self.place.server);
        let bench = Bench { client, recordings, chunk, server };
        if let Some(limit) = raise_file_limit()
            && limit < u64::from(self.streams) + 64
        {
            writeln!(complaints, "ww: The system allows {limit} open files only (ulimit -n).")?;
        }
        let table = self.json.as_deref().is_none_or(|file| file.as_os_str() != "-");

        warm_up(&bench.client, &bench.recordings, self.warmup).await;
        let mut report = Report::default();
        if self.ramp {
            let ramp = Ramp {
                bound: self.bound,
                step: self.step as usize,
                step_time: self.step_time,
                most: self.streams as usize,
                least: LEAST_FINALS,
            };
            let mut swarm = bench.swarm();
            let found = ramp.climb(&mut swarm, |step| writeln!(complaints, "ww: {step}")).await?;
            swarm.cut(Duration::from_secs(30)).await;
            if table {
                write!(out, "{}", found.table(self.bound))?;
            }
            if let Some(times) = self.beyond.filter(|_| found.streams > 0) {
                let streams = (found.streams as f64 * times).ceil() as usize;
                let load = bench.load(streams, self.spread, self.duration).await;
                if table {
                    write!(out, "\n{times} times as many:\n{}", load.table())?;
                }
                report.beyond = Some(load);
            }
            report.ramp = Some(found);
        } else {
            let load = bench.load(self.streams as usize, self.spread, self.duration).await;
            if table {
                write!(out, "{}", load.table())?;
            }
            report.load = Some(load);
        }
        write_json(&report, self.json.as_deref(), out)?;
        let failed = [&report.load, &report.beyond].into_iter().flatten().any(|load| load.streams.failed > 0);
        let none = report.load.as_ref().is_some_and(|load| load.streams.opened == 0);
        Ok(if failed || none { crate::SOME_FAILED } else { crate::ALL_WELL })
    }
}

impl Bench {
    fn swarm(&self) -> Swarm {
        Swarm::new(self.client.clone(), self.recordings.clone(), self.chunk)
    }

    /// So many streams for so long. Processors are measured from when all are open until the first may end.
    async fn load(&self, streams: usize, spread: Duration, duration: Duration) -> Load {
        let mut swarm = self.swarm();
        let begun = Instant::now();
        swarm.add(streams, spread).await;
        let meter = Meter::start(self.server);
        sleep(duration.saturating_sub(begun.elapsed())).await;
        let usage = meter.stop(swarm.streams.len());
        let longest = self.recordings.iter().map(|one| one.samples.len()).max().unwrap_or(0);
        swarm.finish(Duration::from_secs((longest / recordings::RATE) as u64) + LAST_WORDS).await;
        Load::of(&swarm, streams, usage)
    }
}

/// Processor time between two moments.
pub(crate) struct Meter {
    server: Option<Process>,
    since: Instant,
    server_cpu: Option<f64>,
    own_cpu: Option<f64>,
}

impl Meter {
    pub(crate) fn start(server: Option<Process>) -> Self {
        let server_cpu = server.and_then(Process::cpu);
        Self { server, since: Instant::now(), server_cpu, own_cpu: Process::own().cpu() }
    }

    pub(crate) fn stop(&self, streams: usize) -> Usage {
        let seconds = self.since.elapsed().as_secs_f64().max(0.001);
        let share = |before: Option<f64>, process: Option<Process>| {
            let used = process.and_then(Process::cpu)? - before?;
            Some(100.0 * used / seconds)
        };
        let server = share(self.server_cpu, self.server);
        Usage {
            server_cpu_percent: server.map(tenths),
            server_cpu_percent_per_stream: server
                .map(|cpu| (cpu / streams.max(1) as f64 * 1e3).round() / 1e3),
            server_memory_mib: self
                .server
                .and_then(Process::memory)
                .map(|bytes| tenths(bytes as f64 / 1_048_576.0)),
            client_cpu_percent: share(self.own_cpu, Some(Process::own())).map(tenths),
        }
    }
}

/// Writes a result where it is wanted.
pub(crate) fn write_json(
    report: &impl Serialize,
    file: Option<&std::path::Path>,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let Some(file) = file else { return Ok(()) };
    let text = serde_json::to_string_pretty(report)? + "\n";
    if file.as_os_str() == "-" {
        return Ok(out.write_all(text.as_bytes())?);
    }
    std::fs::write(file, text).with_context(|| file.display().to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::bench::house::House;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        live: Live,
    }

    /// Exit code, the JSON and the table.
    async fn measured(house: House, arguments: &str) -> (u8, serde_json::Value, String) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut list = Vec::new();
        for recording in house.recordings() {
            let name = format!("{}.wav", recording.name);
            let spec = hound::WavSpec {
                channels: 1,
                sample_rate: 16_000,
                bits_per_sample: 16,
                sample_format: hound::SampleFormat::Int,
            };
            let mut writer = hound::WavWriter::create(folder.path().join(&name), spec).expect("a file");
            recording.samples.iter().for_each(|sample| writer.write_sample(*sample).expect("written"));
            writer.finalize().expect("written");
            list.push(serde_json::json!({"file": name, "text": recording.text}));
        }
        let manifest = serde_json::to_string(&list).expect("plain data");
        std::fs::write(folder.path().join("manifest.json"), manifest).expect("a file");
        let mock = house.open().await;
        let (audio, json) = (folder.path().display().to_string(), folder.path().join("out.json"));
        let json_name = json.display().to_string();
        let fixed = ["x", "--server", &mock.address, "--audio", &audio, "--json", &json_name];
        let line = Line::try_parse_from(fixed.into_iter().chain(arguments.split(' '))).expect("arguments");
        let mut out = Vec::new();
        let code = line.live.run(&mut out, &mut Vec::new()).await.expect("a result");
        let text = std::fs::read_to_string(json).expect("it was written");
        (code, serde_json::from_str(&text).expect("JSON"), String::from_utf8(out).expect("text"))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_load_is_measured() {
        let house = House { slots: 4, quick: Duration::from_millis(200), ..House::default() };
        let arguments = "--streams 6 --duration 4s --spread 500ms --warmup 0s";
        let (code, report, table) = measured(house, arguments).await;
        let (load, streams) = (&report["load"], &report["load"]["streams"]);
        assert_eq!((code, &streams["opened"], &streams["refused"]), (crate::ALL_WELL, &4.into(), &2.into()));
        let latency =
            |name: &str, percentile: &str| load["latency"][name][percentile].as_f64().expect("a number");
        let decision = latency("final_after_endpoint_decision", "p50");
        assert!((200.0..290.0).contains(&decision), "{report}");
        // 300 ms of silence, 200 ms of work, and what 20 ms chunks add.
        let speech = latency("final_after_speech_ends", "p50");
        assert!((490.0..640.0).contains(&speech), "{report}");
        let silence = latency("endpoint_decision_after_speech_ends", "p50");
        assert!((290.0..400.0).contains(&silence), "{report}");
        let first = latency("first_text_after_speech_starts", "p50");
        assert!((190.0..320.0).contains(&first), "{report}");
        assert_eq!(load["text"]["word_error_rate"], 0.0);
        assert_eq!(load["text"]["stable_words_retracted"], 0);
        // "One" stays, "too" does not.
        assert_eq!(load["text"]["tentative_words_that_survive"], 0.5);
        assert_eq!(load["audio"]["accounts_that_do_not_add_up"], 0);
        assert!(load["audio"]["seconds_sent"].as_f64().expect("a number") > 16.0);
        assert!(table.contains("6 asked for, 4 opened, 2 refused, 0 failed"), "{table}");
        assert!(table.contains("2 x The server has no room for another stream. (HTTP 503)"), "{table}");
    }
}
