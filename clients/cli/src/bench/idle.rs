//! `ww bench idle`: streams that are open and say nothing, to see what an open stream costs.
//!
//! Memory per connection is what the server's process holds with all of them open less what it held before, divided
//! by their number; what the kernel keeps for sockets is not in it. Each stream says `ping` every 20 s, at a moment
//! of its own, so that the server's idle timeout does not end it. With `--audio silence` each streams silence.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use futures_util::future::join_all;
use serde::Serialize;
use tokio::time::{Instant, sleep_until, timeout_at};
use whisperwire_client::live::{Bytes, LiveClient, LiveError, LiveSender, LiveStream, Tried};
use whisperwire_protocol::stream::{ServerMessage, Settings};

use super::figures::{Summary, tenths};
use super::live::{Meter, write_json};
use super::pacer::Pacer;
use super::process::{Process, raise_file_limit};
use super::recordings::RATE;
use super::report::{Usage, line};
use super::timeline::Dice;
use crate::Place;

/// How many streams are being opened at once.
const AT_ONCE: usize = 64;
const PING: Duration = Duration::from_secs(20);

/// The arguments.
#[derive(Debug, Args)]
pub(crate) struct Idle {
    #[command(flatten)]
    place: Place,
    /// How many streams are open.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    connections: u32,
    /// How long they are held once all are open.
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = crate::duration)]
    duration: Duration,
    /// What they hear.
    #[arg(long, value_enum, default_value = "none")]
    audio: Heard,
    /// How long one message of silence is.
    #[arg(long, default_value = "100ms", value_name = "TIME", value_parser = crate::duration)]
    chunk: Duration,
    /// The server's process, if it cannot be found by its port.
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Write the result as JSON into this file as well; `-` is standard output, instead of the table.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Heard {
    /// Nothing at all.
    None,
    /// Silence, as fast as it would be recorded.
    Silence,
}

/// The result.
#[derive(Debug, Serialize)]
struct Report {
    asked: usize,
    opened: usize,
    refusals: BTreeMap<String, usize>,
    /// Streams that ended before they should.
    ended_early: usize,
    audio: Heard,
    /// From the first connection to the last `ready`.
    seconds_to_open: f64,
    /// Milliseconds from connecting to `ready`.
    ready_after: Option<Summary>,
    memory_before_mib: Option<f64>,
    memory_open_mib: Option<f64>,
    memory_end_mib: Option<f64>,
    kib_per_connection: Option<f64>,
    /// Milliseconds that pings and chunks left late.
    sent_late: Option<Summary>,
    /// Chunks for which there was no room.
    not_taken: usize,
    usage: Usage,
}

impl Idle {
    pub(crate) async fn run(&self, out: &mut dyn Write, complaints: &mut dyn Write) -> anyhow::Result<u8> {
        let client = LiveClient::new(&self.place.server, self.place.api_key.as_deref())?;
        let server = Process::of_server(self.server_pid, &self.place.server);
        let asked = self.connections as usize;
        if let Some(limit) = raise_file_limit()
            && limit < asked as u64 + 64
        {
            writeln!(complaints, "ww: The system allows {limit} open files only (ulimit -n).")?;
        }
        let before = server.and_then(Process::memory);
        let begun = Instant::now();
        let opened = open(&client, asked).await;
        let seconds_to_open = tenths(begun.elapsed().as_secs_f64());
        let after = server.and_then(Process::memory);

        let ended = Arc::new(AtomicUsize::new(0));
        let count = opened.streams.len();
        let mut senders = Vec::with_capacity(count);
        for LiveStream { sender, mut receiver, .. } in opened.streams {
            senders.push(sender);
            let ended = ended.clone();
            tokio::spawn(async move {
                while let Some(Ok(event)) = receiver.next().await {
                    if matches!(event.message, ServerMessage::Done(_)) {
                        break;
                    }
                }
                ended.fetch_add(1, Ordering::Relaxed);
            });
        }
        let meter = Meter::start(server);
        let held = self.hold(&mut senders).await;
        let mib = |bytes: Option<u64>| bytes.map(|bytes| tenths(bytes as f64 / 1_048_576.0));
        let per_connection = after
            .zip(before)
            .map(|(after, before)| tenths((after as f64 - before as f64) / 1024.0 / count.max(1) as f64));
        let report = Report {
            asked,
            opened: count,
            refusals: opened.refused,
            ended_early: ended.load(Ordering::Relaxed),
            audio: self.audio,
            seconds_to_open,
            ready_after: Summary::of_seconds(&opened.after),
            memory_before_mib: mib(before),
            memory_open_mib: mib(after),
            memory_end_mib: mib(server.and_then(Process::memory)),
            kib_per_connection: per_connection,
            sent_late: Summary::of_seconds(&held.late),
            not_taken: held.not_taken,
            usage: meter.stop(count),
        };
        if self.json.as_deref().is_none_or(|file| file.as_os_str() != "-") {
            write!(out, "{}", report.table())?;
        }
        write_json(&report, self.json.as_deref(), out)?;
        Ok(if count < asked || report.ended_early > 0 { crate::SOME_FAILED } else { crate::ALL_WELL })
    }

    /// Keeps them open. One clock for pings and chunks: even keys are pings, odd ones silence.
    async fn hold(&self, senders: &mut [LiveSender]) -> Held {
        let chunk = self.chunk.clamp(Duration::from_millis(1), Duration::from_secs(10));
        let mut dice = Dice(1);
        let samples = (RATE as f64 * chunk.as_secs_f64()) as usize;
        let silence: Bytes =
            (0..samples).flat_map(|_| dice.noise().to_le_bytes()).collect::<Vec<u8>>().into();
        let (start, count) = (Instant::now(), senders.len().max(1) as f64);
        let mut pacer = Pacer::default();
        for number in 0..senders.len() {
            let share = number as f64 / count;
            pacer.add(2 * number, start + PING.mul_f64(share));
            if self.audio == Heard::Silence {
                pacer.add(2 * number + 1, start + chunk.mul_f64(share));
            }
        }
        let end = start + self.duration;
        let mut held = Held::default();
        while let Ok((key, due)) = timeout_at(end, pacer.next()).await {
            if held.late.len() < 1_000_000 {
                held.late.push(due.elapsed().as_secs_f64());
            }
            let sender = &mut senders[key / 2];
            if key % 2 == 0 {
                // A stream that is over is counted by its listener.
                let _ = sender.ping().await;
                pacer.again(key, due, PING);
            } else {
                held.not_taken += usize::from(sender.try_audio(silence.clone()) == Tried::Full);
                pacer.again(key, due, chunk);
            }
        }
        sleep_until(end).await;
        held
    }
}

#[derive(Default)]
struct Held {
    late: Vec<f64>,
    not_taken: usize,
}

#[derive(Default)]
struct Opened {
    streams: Vec<LiveStream>,
    refused: BTreeMap<String, usize>,
    /// Seconds from connecting to `ready`.
    after: Vec<f64>,
}

async fn open(client: &LiveClient, count: usize) -> Opened {
    let next = AtomicUsize::new(0);
    let opener = || async {
        let mut mine = Opened::default();
        while next.fetch_add(1, Ordering::Relaxed) < count {
            let begun = Instant::now();
            match client.open(&Settings::default()).await {
                Ok(stream) => {
                    mine.after.push(begun.elapsed().as_secs_f64());
                    mine.streams.push(stream);
                }
                Err(wrong) => {
                    *mine.refused.entry(wrong.to_string()).or_default() += 1;
                    // A full house stays full; a crowd of refusals tells nothing more.
                    if matches!(wrong, LiveError::Refused(_)) {
                        next.store(count, Ordering::Relaxed);
                    }
                }
            }
        }
        mine
    };
    let mut all = Opened::default();
    for opened in join_all((0..AT_ONCE).map(|_| opener())).await {
        all.streams.extend(opened.streams);
        all.after.extend(opened.after);
        for (why, count) in opened.refused {
            *all.refused.entry(why).or_default() += count;
        }
    }
    all
}

impl Report {
    fn table(&self) -> String {
        let mut out = String::new();
        let Self { asked, opened, ended_early, seconds_to_open, .. } = self;
        line(
            &mut out,
            "connections",
            &format!("{asked} asked for, {opened} opened in {seconds_to_open} s, {ended_early} ended early"),
        );
        for (why, count) in &self.refusals {
            line(&mut out, "", &format!("{count} x {why}"));
        }
        if let Some(after) = self.ready_after {
            line(&mut out, "ready after", &format!("p50 {} ms, p99 {} ms", after.p50, after.p99));
        }
        let shown = |value: Option<f64>, unit: &str| {
            value.map_or("not available".to_owned(), |value| format!("{value} {unit}"))
        };
        let memory = format!(
            "{} before, {} open, {} at the end: {} per connection",
            shown(self.memory_before_mib, "MiB"),
            shown(self.memory_open_mib, "MiB"),
            shown(self.memory_end_mib, "MiB"),
            shown(self.kib_per_connection, "KiB")
        );
        line(&mut out, "memory", &memory);
        let each = shown(self.usage.server_cpu_percent_per_stream, "%");
        let cpu = format!("{} of a core, {each} per stream", shown(self.usage.server_cpu_percent, "%"));
        line(&mut out, "server CPU", &cpu);
        line(&mut out, "this program", &format!("{} of a core", shown(self.usage.client_cpu_percent, "%")));
        if let Some(late) = self.sent_late {
            let late =
                format!("p50 {} ms, p99 {} ms, {} chunks not taken", late.p50, late.p99, self.not_taken);
            line(&mut out, "sent late", &late);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::bench::house::House;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        idle: Idle,
    }

    async fn held(house: House, arguments: &str) -> (u8, serde_json::Value) {
        let mock = house.open().await;
        let fixed = ["x", "--server", &mock.address, "--json", "-"];
        let line = Line::try_parse_from(fixed.into_iter().chain(arguments.split(' '))).expect("arguments");
        let mut out = Vec::new();
        let code = line.idle.run(&mut out, &mut Vec::new()).await.expect("a result");
        (code, serde_json::from_slice(&out).expect("JSON"))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn open_streams_are_held_and_fed() {
        let house = House::default();
        let (code, report) = held(house, "--connections 20 --duration 1s --audio silence --chunk 50ms").await;
        assert_eq!(
            (code, &report["opened"], &report["ended_early"]),
            (crate::ALL_WELL, &20.into(), &0.into())
        );
        // 20 pings, and 20 chunks a second for each.
        let sent = report["sent_late"]["count"].as_u64().expect("a number");
        assert!((380..=424).contains(&sent), "{report}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_full_house_is_reported() {
        let house = House { slots: 5, ..House::default() };
        let (code, report) = held(house, "--connections 20 --duration 0s").await;
        assert_eq!((code, &report["opened"]), (crate::SOME_FAILED, &5.into()));
        assert!(report["refusals"].to_string().contains("HTTP 503"), "{report}");
    }
}
