//! What is measured while a stream is driven: how much is heard, how late text is, what is lost. The session itself
//! measures nothing; its events are looked at on their way out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::driver::Profile;
use crate::telemetry::{Counter, Histogram, Metrics, table};
use crate::transcript::{Event, GapReason, Samples};

/// Where the figures of all streams go.
pub(super) struct Figures {
    /// Counted in samples, because a counter of seconds would lose every chunk that is shorter than one.
    live: AtomicU64,
    file: AtomicU64,
    gaps: [Counter; REASONS.len()],
    partial: Histogram,
    first: Histogram,
    last: Histogram,
}

/// In the order of [`place`].
const REASONS: [&str; 3] = ["corrupt", "engine", "overload"];

fn place(reason: GapReason) -> usize {
    match reason {
        GapReason::Corrupt => 0,
        GapReason::Engine => 1,
        GapReason::Overload => 2,
    }
}

impl Figures {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            live: AtomicU64::new(0),
            file: AtomicU64::new(0),
            gaps: REASONS.map(|reason| metrics.counter(&table::GAPS_TOTAL, &[reason])),
            partial: metrics.histogram(&table::PARTIAL_LATENCY_SECONDS, &[]),
            first: metrics.histogram(&table::FIRST_TEXT_LATENCY_SECONDS, &[]),
            last: metrics.histogram(&table::FINAL_LATENCY_SECONDS, &[]),
        }
    }

    /// What was heard since the start: of live streams, of files.
    pub(super) fn heard(&self) -> (Samples, Samples) {
        let read = |count: &AtomicU64| Samples(count.load(Ordering::Relaxed));
        (read(&self.live), read(&self.file))
    }
}

/// One stream under watch.
pub(super) struct Watch {
    figures: Arc<Figures>,
    profile: Profile,
    /// The utterance that has begun and has no text yet.
    silent: Option<(u32, Instant)>,
    /// Utterances that are over, and owe their last final.
    owing: VecDeque<(u32, Instant)>,
}

impl Watch {
    pub(super) fn new(figures: Arc<Figures>, profile: Profile) -> Self {
        Self { figures, profile, silent: None, owing: VecDeque::new() }
    }

    /// Audio came in.
    pub(super) fn heard(&self, samples: usize) {
        let count = match self.profile {
            Profile::Live => &self.figures.live,
            Profile::File => &self.figures.file,
        };
        count.fetch_add(samples as u64, Ordering::Relaxed);
    }

    /// A hypothesis was asked for this long ago, and is here.
    pub(super) fn guessed(&self, took: Duration) {
        self.figures.partial.record(took);
    }

    /// An event is about to be told.
    pub(super) fn tells(&mut self, event: &Event) {
        if let Event::Gap(gap) = event {
            self.figures.gaps[place(gap.reason)].increment(1);
        }
        // Nobody waits for the words of a file.
        if self.profile == Profile::File {
            return;
        }
        match event {
            Event::SpeechStarted { utterance, .. } => self.silent = Some((*utterance, Instant::now())),
            Event::Partial(guess) if !(guess.stable.is_empty() && guess.tentative.is_empty()) => {
                self.has_text(guess.utterance);
            }
            Event::Final(segment) => self.has_text(segment.utterance),
            Event::SpeechStopped { utterance, .. } => self.owing.push_back((*utterance, Instant::now())),
            Event::UtteranceDone { utterance } => {
                while let Some((owed, since)) = self.owing.front().filter(|(owed, _)| owed <= utterance) {
                    if owed == utterance {
                        self.figures.last.record(since.elapsed());
                    }
                    self.owing.pop_front();
                }
            }
            _ => {}
        }
    }

    fn has_text(&mut self, utterance: u32) {
        if let Some((_, since)) = self.silent.take_if(|(silent, _)| *silent == utterance) {
            self.figures.first.record(since.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcript::{Gap, Hypothesis, Segment, Span};

    fn metrics(events: &[Event], profile: Profile) -> String {
        let metrics = Metrics::new();
        let figures = Arc::new(Figures::new(&metrics));
        let mut watch = Watch::new(figures.clone(), profile);
        watch.heard(8_000);
        watch.heard(160);
        events.iter().for_each(|event| watch.tells(event));
        let (live, file) = figures.heard();
        assert_eq!(live.0 + file.0, 8_160);
        assert_eq!(live.0 == 0, profile == Profile::File);
        metrics.render()
    }

    #[test]
    fn an_utterance_is_timed_from_its_endpoint_to_its_end() {
        let at = Samples(0);
        let span = Span::new(at, at);
        let segment = |utterance| {
            let (words, language) = (Vec::new(), None);
            Event::Final(Segment { utterance, span, words, temperature: 0.0, no_speech: 0.0, language })
        };
        let (stable, tentative) = (Vec::new(), Vec::new());
        let empty = Event::Partial(Hypothesis { utterance: 1, stable, tentative, span });
        let events = [
            Event::SpeechStarted { utterance: 0, at },
            segment(0),
            segment(0),
            Event::SpeechStopped { utterance: 0, at },
            // The next one begins before the last final of this one.
            Event::SpeechStarted { utterance: 1, at },
            segment(0),
            Event::UtteranceDone { utterance: 0 },
            empty,
            Event::SpeechStopped { utterance: 1, at },
            Event::Gap(Gap { span, reason: GapReason::Overload }),
            Event::UtteranceDone { utterance: 1 },
        ];
        let live = metrics(&events, Profile::Live);
        for line in [
            "whisperwire_final_latency_seconds_count 2",
            "whisperwire_first_text_latency_seconds_count 1",
            "whisperwire_gaps_total{reason=\"overload\"} 1",
        ] {
            assert!(live.lines().any(|found| found == line), "{line}\n{live}");
        }
        let file = metrics(&events, Profile::File);
        assert!(file.contains("whisperwire_final_latency_seconds_count 0"), "{file}");
        assert!(file.contains("whisperwire_gaps_total{reason=\"overload\"} 1"), "{file}");
    }
}
