//! Every figure of `/metrics`: its name, kind, unit, labels and meaning. The README's table is this one, and a server
//! under test shows these and no others.
//!
//! A figure is added in two places: a row here, and one line where it is fed. What only has to be read when somebody
//! asks is fed in `http/scrape.rs`; what happens is fed where it happens, through a handle that was asked for once.
//! A row that nothing feeds is worse than no row.
//!
//! Labels take their values from a fixed, small set: names of lanes, of routes as they are written in the router, of
//! error codes. Nothing that a client chooses is ever one.

/// One figure.
#[derive(Debug)]
pub struct Row {
    /// With the prefix of the house; the unit stands last, before the `_total` of counters.
    pub name: &'static str,
    /// How it moves.
    pub kind: Kind,
    /// What it counts.
    pub unit: &'static str,
    /// What it is told apart by.
    pub labels: &'static [&'static str],
    /// One sentence for people.
    pub meaning: &'static str,
    /// The upper bounds of a histogram's buckets.
    pub(super) buckets: &'static [f64],
}

/// How a figure moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Its spread matters.
    Histogram,
}

impl Kind {
    /// What Prometheus calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// From a millisecond to half a minute: waits and latencies.
const WAITS: &[f64] =
    &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0];
/// From a few milliseconds to ten minutes: requests, which may carry hours of audio.
const ANSWERS: &[f64] = &[0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];

macro_rules! table {
    ($($name:ident $kind:ident $text:literal $unit:literal [$($label:literal),*] $buckets:expr, $meaning:literal;)*) => {
        $(
            #[doc = $meaning]
            pub static $name: Row = Row {
                name: concat!("whisperwire_", $text),
                kind: Kind::$kind,
                unit: $unit,
                labels: &[$($label),*],
                meaning: $meaning,
                buckets: $buckets,
            };
        )*
        /// All of them.
        pub static TABLE: &[&Row] = &[$(&$name),*];
    };
}

table! {
    STREAMS_OPEN Gauge "streams_open" "streams" [] &[],
        "Live streams that are followed now";
    STREAMS_MAX Gauge "streams_max" "streams" [] &[],
        "Live streams that may be followed at once: what the operator set, or what was measured";
    SLOTS Gauge "slots" "uploads" [] &[],
        "Uploads that may be worked on at once";
    SLOTS_FREE Gauge "slots_free" "uploads" [] &[],
        "Uploads that could still be taken";
    WORKERS Gauge "workers" "threads" [] &[],
        "Threads that decode";
    WORKERS_BUSY Gauge "workers_busy" "threads" [] &[],
        "Threads that decode at this moment";
    STRAIN Gauge "strain_ratio" "ratio" [] &[],
        "How late finals are: 0 when they start at once, 1 when they wait 200 ms, at most 10";
    WINDOWS_WAITING Gauge "windows_waiting" "windows" ["lane"] &[],
        "Windows that wait for a worker";
    QUEUE_WAIT_SECONDS Histogram "queue_wait_seconds" "seconds" ["lane"] WAITS,
        "From a window's submission to its start";
    RECOGNIZE_SECONDS Histogram "recognize_seconds" "seconds" ["kind"] WAITS,
        "What a worker took for a window: `full` for text that stays, `draft` for guesses";
    WINDOWS_TOTAL Counter "windows_total" "windows" ["outcome"] &[],
        "Windows by what became of them: recognized, failed, withdrawn, preempted for a final";
    WINDOW_AUDIO_SECONDS_TOTAL Counter "window_audio_seconds_total" "seconds" [] &[],
        "Audio in the windows that were recognized, overlaps and drafts included";
    ENGINE_SECONDS_TOTAL Counter "engine_seconds_total" "seconds" [] &[],
        "Time that the workers together spent on them";
    AUDIO_SECONDS_TOTAL Counter "audio_seconds_total" "seconds" ["profile"] &[],
        "Audio that came in: `live` streams and `file` uploads";
    GAPS_TOTAL Counter "gaps_total" "gaps" ["reason"] &[],
        "Stretches that could not be transcribed: corrupt, engine, overload";
    PARTIAL_LATENCY_SECONDS Histogram "partial_latency_seconds" "seconds" [] WAITS,
        "Live: from asking for a hypothesis to having it";
    FIRST_TEXT_LATENCY_SECONDS Histogram "first_text_latency_seconds" "seconds" [] WAITS,
        "Live: from hearing that somebody speaks to the first text of the utterance";
    FINAL_LATENCY_SECONDS Histogram "final_latency_seconds" "seconds" [] WAITS,
        "Live: from deciding that an utterance is over to its last final";
    HTTP_REQUESTS_TOTAL Counter "http_requests_total" "requests" ["route", "method", "status"] &[],
        "Requests that were answered, by the route as the router writes it; 499 are those whose client left";
    HTTP_REQUEST_SECONDS Histogram "http_request_seconds" "seconds" ["route"] ANSWERS,
        "From a request's head to its answer's head; event streams and sockets go on behind it";
    HTTP_REQUESTS_OPEN Gauge "http_requests_open" "requests" [] &[],
        "Requests that wait for their answer";
    ERRORS_TOTAL Counter "errors_total" "errors" ["code"] &[],
        "Errors by the code of the error table: those that were answers, and those that ended a stream";
    UPLOAD_BYTES_TOTAL Counter "upload_bytes_total" "bytes" [] &[],
        "Recordings that were uploaded whole";
    MODELS_LOADED Gauge "models_loaded" "models" [] &[],
        "Models in memory";
    JOBS Gauge "jobs" "jobs" ["state"] &[],
        "Jobs in the store: queued, running, completed, failed, cancelled";
    WEBHOOKS_WAITING Gauge "webhooks_waiting" "webhooks" [] &[],
        "Webhooks that wait for an attempt";
    WEBHOOK_ATTEMPTS_TOTAL Counter "webhook_attempts_total" "attempts" ["outcome"] &[],
        "Attempts to deliver a webhook: delivered, to be repeated, given up";
    CACHE_LOOKUPS_TOTAL Counter "cache_lookups_total" "lookups" ["outcome"] &[],
        "Questions for a finished transcript: hit, joined to work that was under way, miss";
    CACHE_ENTRIES Gauge "cache_entries" "transcripts" [] &[],
        "Finished transcripts that are kept";
    CACHE_BYTES Gauge "cache_bytes" "bytes" [] &[],
        "What they take in memory";
    REDIS Gauge "redis" "yes or no" ["state"] &[],
        "1 for the state of the shared Redis: connected, away, or none";
    DRAINING Gauge "draining" "yes or no" [] &[],
        "1 once the server is to stop";
    UPTIME_SECONDS Gauge "uptime_seconds" "seconds" [] &[],
        "Since the server was ready";
    BUILD_INFO Gauge "build_info" "1" ["version"] &[],
        "Always 1; its label is what it is for";
    PROCESS_CPU_SECONDS_TOTAL Counter "process_cpu_seconds_total" "seconds" [] &[],
        "Processor time of this process";
    PROCESS_RESIDENT_BYTES Gauge "process_resident_bytes" "bytes" [] &[],
        "Memory of this process";
    PROCESS_OPEN_FDS Gauge "process_open_fds" "files" [] &[],
        "Open files and sockets of this process";
    DISK_FREE_BYTES Gauge "disk_free_bytes" "bytes" ["place"] &[],
        "Free where uploads are spooled, and where models and jobs are kept";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_to_the_rules_of_prometheus() {
        let mut names: Vec<&str> = TABLE.iter().map(|row| row.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len(), "a name stands for one figure");
        for row in TABLE {
            let plain = |text: &str| text.bytes().all(|c| c.is_ascii_lowercase() || c == b'_');
            assert!(plain(row.name) && row.labels.iter().all(|label| plain(label)), "{row:?}");
            assert_eq!(row.kind == Kind::Counter, row.name.ends_with("_total"), "{row:?}");
            assert_eq!(row.kind == Kind::Histogram, !row.buckets.is_empty(), "{row:?}");
            assert!(row.buckets.is_sorted(), "{row:?}");
            // The unit is in the name, where it is one of Prometheus' base units.
            for unit in ["seconds", "bytes", "ratio"] {
                let stem = row.name.trim_end_matches("_total");
                assert_eq!(row.unit == unit, stem.ends_with(unit), "{row:?}");
            }
        }
    }

    #[test]
    fn the_readme_has_the_same_table() {
        let readme = include_str!("../../README.md");
        for row in TABLE {
            let labels: Vec<String> = row.labels.iter().map(|label| format!("`{label}`")).collect();
            let (name, kind, unit, meaning) = (row.name, row.kind.name(), row.unit, row.meaning);
            let line = format!("| `{name}` | {kind} | {unit} | {} | {meaning} |", labels.join(", "));
            assert!(readme.contains(&line), "README.md lacks:\n{line}");
        }
    }
}
