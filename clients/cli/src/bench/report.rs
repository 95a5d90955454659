//! The result of a measurement, as JSON and as a table. Times are in milliseconds.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use serde::Serialize;

use super::figures::{Summary, tenths};
use super::recordings::Recording;
use super::swarm::Swarm;
use super::tape::Figures;

/// What was measured under one load.
#[derive(Debug, Serialize)]
pub(crate) struct Load {
    pub(crate) streams: Streams,
    pub(crate) latency: Latency,
    pub(crate) text: Text,
    pub(crate) audio: Audio,
    pub(crate) usage: Usage,
}

/// How many streams there were.
#[derive(Debug, Serialize)]
pub(crate) struct Streams {
    pub(crate) asked: usize,
    pub(crate) opened: usize,
    pub(crate) refused: usize,
    /// The server's sentences, and how often each was said.
    pub(crate) refusals: BTreeMap<String, usize>,
    pub(crate) failed: usize,
    pub(crate) failures: BTreeMap<String, usize>,
}

/// See `tape.rs` for what each is.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) first_text_after_speech_starts: Option<Summary>,
    pub(crate) final_after_speech_ends: Option<Summary>,
    pub(crate) endpoint_decision_after_speech_ends: Option<Summary>,
    pub(crate) final_after_endpoint_decision: Option<Summary>,
    pub(crate) partial_interval: Option<Summary>,
    /// The most that the server said it was behind, in seconds.
    pub(crate) greatest_lag: f64,
}

/// Whether the text is right, and whether it was trustworthy while it grew.
#[derive(Debug, Serialize)]
pub(crate) struct Text {
    pub(crate) utterances: usize,
    pub(crate) without_partial: usize,
    pub(crate) without_text: usize,
    pub(crate) stable_words_retracted: usize,
    pub(crate) tentative_words: usize,
    /// From 0 to 1; nothing where no tentative word was shown.
    pub(crate) tentative_words_that_survive: Option<f64>,
    pub(crate) reference_words: usize,
    /// Of all streams together, from 0. Nothing where there is no reference.
    pub(crate) word_error_rate: Option<f64>,
    /// Percentiles over the streams, in per cent.
    pub(crate) word_error_percent_per_stream: Option<Summary>,
    /// In per cent, by the recording's name.
    pub(crate) word_error_percent_per_recording: BTreeMap<String, f64>,
}

/// Whether all audio arrived, and whether it was sent in time.
#[derive(Debug, Serialize)]
pub(crate) struct Audio {
    pub(crate) seconds_sent: f64,
    pub(crate) gaps: usize,
    pub(crate) gap_seconds: f64,
    /// As the accounts in `done` say, at 16,000 per second.
    pub(crate) samples_dropped: u64,
    pub(crate) accounts_that_do_not_add_up: usize,
    /// How late this program handed over its chunks.
    pub(crate) chunks_late: Option<Summary>,
    /// Chunks that the connection did not take at once.
    pub(crate) chunks_held_up: usize,
}

/// In per cent of one processor core. Nothing where it could not be seen.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Usage {
    pub(crate) server_cpu_percent: Option<f64>,
    pub(crate) server_cpu_percent_per_stream: Option<f64>,
    pub(crate) server_memory_mib: Option<f64>,
    pub(crate) client_cpu_percent: Option<f64>,
}

impl Load {
    pub(crate) fn of(swarm: &Swarm, asked: usize, usage: Usage) -> Self {
        let figures = swarm.figures(None);
        let (refusals, failures) = (swarm.refused.clone(), swarm.failed());
        Self {
            streams: Streams {
                asked,
                opened: swarm.streams.len(),
                refused: refusals.values().sum(),
                failed: failures.values().sum(),
                refusals,
                failures,
            },
            latency: Latency::of(&figures),
            text: Text::of(&figures, &swarm.recordings),
            audio: Audio {
                seconds_sent: tenths(swarm.audio_seconds()),
                gaps: figures.gaps,
                gap_seconds: tenths(figures.gap_seconds),
                samples_dropped: figures.lost,
                accounts_that_do_not_add_up: figures.wrong_accounts,
                chunks_late: Summary::of_seconds(&swarm.punctuality.late()),
                chunks_held_up: swarm.punctuality.held_up.load(Ordering::Relaxed),
            },
            usage,
        }
    }

    /// Lines for people.
    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        let Streams { asked, opened, refused, failed, .. } = self.streams;
        line(
            &mut out,
            "streams",
            &format!("{asked} asked for, {opened} opened, {refused} refused, {failed} failed"),
        );
        for (why, count) in self.streams.refusals.iter().chain(&self.streams.failures) {
            line(&mut out, "", &format!("{count} x {why}"));
        }
        let latency = &self.latency;
        out += &heading("milliseconds");
        out += &row("first text after speech starts", latency.first_text_after_speech_starts);
        out += &row("final after speech ends", latency.final_after_speech_ends);
        out += &row("endpoint decision after speech ends", latency.endpoint_decision_after_speech_ends);
        out += &row("final after the endpoint decision", latency.final_after_endpoint_decision);
        out += &row("partial interval", latency.partial_interval);
        out += &row("chunks sent late by this program", self.audio.chunks_late);
        self.text.lines(&mut out);
        let audio = &self.audio;
        let lost = format!(
            "{} gaps ({} s), {} samples dropped, {} accounts that do not add up, greatest lag {} s",
            audio.gaps,
            audio.gap_seconds,
            audio.samples_dropped,
            audio.accounts_that_do_not_add_up,
            latency.greatest_lag
        );
        line(
            &mut out,
            "audio",
            &format!("{} s sent, {} chunks held up", audio.seconds_sent, audio.chunks_held_up),
        );
        line(&mut out, "", &lost);
        self.usage.lines(&mut out);
        out
    }
}

impl Latency {
    fn of(figures: &Figures) -> Self {
        Self {
            first_text_after_speech_starts: Summary::of_seconds(&figures.first_text),
            final_after_speech_ends: Summary::of_seconds(&figures.after_speech),
            final_after_endpoint_decision: Summary::of_seconds(&figures.after_stop),
            endpoint_decision_after_speech_ends: Summary::of_seconds(&figures.decision),
            partial_interval: Summary::of_seconds(&figures.intervals),
            greatest_lag: tenths(figures.lag),
        }
    }
}

impl Text {
    fn of(figures: &Figures, recordings: &[Recording]) -> Self {
        let share = |part: usize, whole: usize| (whole > 0).then(|| part as f64 / whole as f64);
        let rates: Vec<f64> = figures.rates.iter().map(|rate| rate * 100.0).collect();
        Self {
            utterances: figures.utterances,
            without_partial: figures.without_partial,
            without_text: figures.without_text,
            stable_words_retracted: figures.retracted,
            tentative_words: figures.tentative,
            tentative_words_that_survive: share(figures.survived, figures.tentative),
            reference_words: figures.score.reference_words,
            word_error_rate: (figures.score.reference_words > 0).then(|| figures.score.rate()),
            word_error_percent_per_stream: Summary::of(&rates),
            word_error_percent_per_recording: figures
                .by_recording
                .iter()
                .map(|(place, score)| (recordings[*place].name.clone(), tenths(score.rate() * 100.0)))
                .collect(),
        }
    }

    fn lines(&self, out: &mut String) {
        let Self { utterances, without_partial, without_text, .. } = self;
        let what = format!(
            "{utterances} utterances, {without_partial} without a partial, {without_text} without text"
        );
        line(out, "text", &what);
        let survived = self.tentative_words_that_survive.map_or("none shown".to_owned(), percent);
        let what = format!(
            "{} stable words retracted; of {} tentative words survive: {survived}",
            self.stable_words_retracted, self.tentative_words
        );
        line(out, "", &what);
        let what = match (self.word_error_rate, self.word_error_percent_per_stream) {
            (Some(rate), Some(each)) => format!(
                "word error rate {} of {} words; per stream p50 {} %, p95 {} %, worst {} %",
                percent(rate),
                self.reference_words,
                each.p50,
                each.p95,
                each.max
            ),
            _ => "word error rate: no reference text".to_owned(),
        };
        line(out, "", &what);
    }
}

impl Usage {
    fn lines(&self, out: &mut String) {
        let shown = |value: Option<f64>, unit| {
            value.map_or("not available".to_owned(), |value| format!("{value}{unit}"))
        };
        let server = format!(
            "{} of a core, {} per stream, {} of memory",
            shown(self.server_cpu_percent, " %"),
            shown(self.server_cpu_percent_per_stream, " %"),
            shown(self.server_memory_mib, " MiB")
        );
        line(out, "server", &server);
        line(out, "this program", &format!("{} of a core", shown(self.client_cpu_percent, " %")));
    }
}

pub(crate) fn line(out: &mut String, name: &str, text: &str) {
    // Writing into a string cannot fail.
    let _ = writeln!(out, "{name:<14}{text}");
}

pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn heading(unit: &str) -> String {
    format!("{unit:<36}{:>8}{:>10}{:>10}{:>10}{:>10}\n", "count", "p50", "p95", "p99", "max")
}

fn row(name: &str, summary: Option<Summary>) -> String {
    match summary {
        Some(Summary { count, p50, p95, p99, max }) => {
            format!("{name:<36}{count:>8}{p50:>10.1}{p95:>10.1}{p99:>10.1}{max:>10.1}\n")
        }
        None => format!("{name:<36}{:>8}\n", 0),
    }
}
