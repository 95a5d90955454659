//! What happened on one stream, and what it means.
//!
//! A [`Tape`] holds, in seconds of wall time since the stream began, when each chunk was handed to the connection
//! and when each event arrived; the recordings' places tell where speech really was. From that, per utterance:
//!
//! * *first text after speech starts*: arrival of its first partial with text (or final, if that came first) minus
//!   the sending of the sample with which speech starts: the first stretch of speech that ends after
//!   `speech_started.at`.
//! * *final after speech ends*: arrival of its last final minus the sending of the last sample of speech: the end
//!   of the last stretch that begins before `speech_stopped.at`. It includes the silence that the server waits for.
//! * *endpoint decision after speech ends*: arrival of `speech_stopped` minus the sending of the same last sample. A
//!   server that decides late looks good in the next measure, and here it shows.
//! * *final after the endpoint decision*: arrival of its last final minus arrival of `speech_stopped`.
//! * *partial interval*: between two partials with text of the same utterance.
//!
//! Stable words are *retracted* if a later partial, or the final that takes its place, does not begin with them.
//! Tentative words *survive* if they stand in the finals that follow, at the same place (aligned as for a word error
//! rate). Finals are compared with what is said in the recording in whose time their middle lies. Pure.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use whisperwire_client::wer::{self, Score};
use whisperwire_protocol::stream::{Final, Partial, ServerMessage};

use super::recordings::{RATE, Recording};
use super::timeline::Placed;

/// Everything that happened on a stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tape {
    /// When each chunk was handed to the connection.
    pub(crate) sent: Vec<f64>,
    /// Samples per chunk; the last one may be shorter.
    pub(crate) chunk: usize,
    pub(crate) samples: u64,
    pub(crate) placed: Vec<Placed>,
    pub(crate) events: Vec<(f64, ServerMessage)>,
    /// Why it failed, if it did.
    pub(crate) failed: Option<String>,
}

/// What many tapes say. Times are in seconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) first_text: Vec<f64>,
    pub(crate) after_speech: Vec<f64>,
    pub(crate) after_stop: Vec<f64>,
    pub(crate) decision: Vec<f64>,
    pub(crate) intervals: Vec<f64>,
    pub(crate) utterances: usize,
    /// Utterances whose final was the first that was told of them.
    pub(crate) without_partial: usize,
    /// Utterances that ended without a final.
    pub(crate) without_text: usize,
    pub(crate) gaps: usize,
    pub(crate) gap_seconds: f64,
    /// The most that the server said it was behind.
    pub(crate) lag: f64,
    pub(crate) retracted: usize,
    pub(crate) tentative: usize,
    pub(crate) survived: usize,
    /// Samples that `done` calls lost.
    pub(crate) lost: u64,
    /// Streams whose account does not add up, or lacks samples that were sent.
    pub(crate) wrong_accounts: usize,
    pub(crate) score: Score,
    /// The same for each recording, by its place in the list.
    pub(crate) by_recording: BTreeMap<usize, Score>,
    /// The word error rate of each stream that has a reference.
    pub(crate) rates: Vec<f64>,
}

/// One utterance while the events are read.
#[derive(Debug, Default)]
struct Utterance {
    started: Option<f64>,
    stopped: Option<(f64, f64)>,
    first_text: Option<f64>,
    last_final: Option<f64>,
    /// Whether all its finals have been told.
    done: bool,
    last_partial: Option<f64>,
    partials: usize,
    /// What is on the screen and must stay.
    stable: String,
    intervals: Vec<f64>,
    /// The words of each final.
    finals: Vec<Vec<String>>,
    shown: Vec<Shown>,
}

/// A partial as it was compared with what came of it.
#[derive(Debug)]
struct Shown {
    /// How many finals of the utterance stood before it.
    finals: usize,
    /// How many of the words were stable.
    stable: usize,
    words: Vec<String>,
}

impl Tape {
    /// When the chunk with this sample was handed over.
    pub(crate) fn sent_at(&self, sample: u64) -> Option<f64> {
        let chunk = sample / (self.chunk.max(1) as u64);
        self.sent.get(chunk as usize).copied()
    }

    /// Where speech really was, on the stream's clock.
    fn speech<'a>(&'a self, recordings: &'a [Recording]) -> impl DoubleEndedIterator<Item = Range<u64>> + 'a {
        self.placed.iter().flat_map(move |placed| {
            let stretches = recordings[placed.recording].speech.iter();
            stretches.map(|part| placed.start + part.start as u64..placed.start + part.end as u64)
        })
    }

    /// The figures of this stream. With a window only utterances count whose end was told within it, and neither
    /// accounts nor words are compared; one that still waits for a final counts as if it came at the window's end.
    pub(crate) fn figures(&self, recordings: &[Recording], window: Option<Range<f64>>) -> Figures {
        let mut figures = Figures::default();
        let utterances = self.utterances(&mut figures);
        for utterance in utterances.values() {
            let told = utterance.stopped.map(|(told, _)| told);
            match &window {
                Some(window) if !told.is_some_and(|told| window.contains(&told)) => {}
                Some(window) if !utterance.done => {
                    figures.after_stop.extend(told.map(|told| window.end - told));
                }
                _ => self.time(utterance, recordings, &mut figures),
            }
        }
        if window.is_none() {
            self.judge_words(recordings, &mut figures);
            self.judge_account(&mut figures);
        }
        figures
    }

    fn utterances(&self, figures: &mut Figures) -> BTreeMap<u32, Utterance> {
        let mut all: BTreeMap<u32, Utterance> = BTreeMap::new();
        for (at, message) in &self.events {
            match message {
                ServerMessage::SpeechStarted { utterance, at: media } => {
                    all.entry(*utterance).or_default().started = Some(*media);
                }
                ServerMessage::SpeechStopped { utterance, at: media } => {
                    all.entry(*utterance).or_default().stopped = Some((*at, *media));
                }
                ServerMessage::Partial(partial) => {
                    all.entry(partial.utterance).or_default().partial(*at, partial, figures);
                }
                ServerMessage::Final(text) => {
                    all.entry(text.utterance).or_default().settle(*at, text, figures);
                }
                ServerMessage::UtteranceDone { utterance } => all.entry(*utterance).or_default().done = true,
                ServerMessage::Gap { start, end, .. } => {
                    figures.gaps += 1;
                    figures.gap_seconds += end - start;
                }
                ServerMessage::Lag { seconds } => figures.lag = figures.lag.max(*seconds),
                _ => {}
            }
        }
        for utterance in all.values() {
            utterance.count_tentative(figures);
        }
        all
    }

    fn time(&self, utterance: &Utterance, recordings: &[Recording], figures: &mut Figures) {
        figures.utterances += 1;
        if let (Some(first), Some(started)) = (utterance.first_text, utterance.started) {
            let from = sample(started);
            let real = self.speech(recordings).find(|part| part.end > from).map(|part| part.start);
            // Noise that was taken for speech has no beginning.
            let real = real.filter(|real| real.abs_diff(from) < 2 * RATE as u64);
            figures.first_text.extend(real.and_then(|real| self.sent_at(real)).map(|sent| first - sent));
            figures.without_partial += usize::from(utterance.partials == 0);
        }
        let Some((told, stopped)) = utterance.stopped else { return };
        let Some(last) = utterance.last_final else {
            figures.without_text += 1;
            return;
        };
        let real = self.speech(recordings).rev().find(|part| part.start < sample(stopped));
        if let Some(sent) = real.and_then(|part| self.sent_at(part.end - 1)) {
            figures.after_speech.push(last - sent);
            figures.decision.push(told - sent);
        }
        figures.after_stop.push((last - told).max(0.0));
        figures.intervals.extend(&utterance.intervals);
    }

    fn judge_words(&self, recordings: &[Recording], figures: &mut Figures) {
        let mut heard: HashMap<usize, String> = HashMap::new();
        for (_, message) in &self.events {
            let ServerMessage::Final(text) = message else { continue };
            let middle = sample((text.start + text.end) / 2.0);
            // What lies in a pause belongs to the recording before it, or to the first.
            let place = self.placed.partition_point(|placed| placed.start <= middle).saturating_sub(1);
            let words = heard.entry(place).or_default();
            words.push_str(&text.text);
            words.push(' ');
        }
        let mut score = Score::default();
        for (place, placed) in self.placed.iter().enumerate() {
            let Some(reference) = recordings[placed.recording].text.as_deref() else { continue };
            let one = wer::score(reference, heard.get(&place).map_or("", String::as_str));
            score = score + one;
            let all = figures.by_recording.entry(placed.recording).or_default();
            *all = *all + one;
        }
        if score.reference_words > 0 {
            figures.rates.push(score.rate());
        }
        figures.score = figures.score + score;
    }

    fn judge_account(&self, figures: &mut Figures) {
        let Some(ServerMessage::Done(done)) = self.events.last().map(|(_, message)| message) else { return };
        let account = done.account;
        figures.lost += account.lost;
        let adds_up = account.received == account.decoded + account.silence + account.lost;
        figures.wrong_accounts += usize::from(!adds_up || account.received != self.samples);
    }
}

impl Utterance {
    fn partial(&mut self, at: f64, partial: &Partial, figures: &mut Figures) {
        if !partial.stable.starts_with(&self.stable) {
            figures.retracted += words_beyond(&self.stable, &partial.stable);
        }
        self.stable.clone_from(&partial.stable);
        if partial.is_empty() {
            return;
        }
        self.partials += 1;
        self.first_text.get_or_insert(at);
        self.intervals.extend(self.last_partial.map(|last| at - last));
        self.last_partial = Some(at);
        let stable = wer::normalise(&partial.stable).len();
        let all = wer::normalise(&format!("{}{}", partial.stable, partial.tentative));
        self.shown.push(Shown { finals: self.finals.len(), stable, words: all });
    }

    fn settle(&mut self, at: f64, text: &Final, figures: &mut Figures) {
        let stable = self.stable.trim();
        if !text.text.starts_with(stable) {
            figures.retracted += words_beyond(stable, &text.text);
        }
        self.stable.clear();
        self.first_text.get_or_insert(at);
        self.last_final = Some(at);
        self.finals.push(wer::normalise(&text.text));
    }

    /// Compares what was shown with what the finals after it say.
    fn count_tentative(&self, figures: &mut Figures) {
        for Shown { finals, stable, words } in &self.shown {
            let tentative = &words[(*stable).min(words.len())..];
            let later: Vec<&str> = self.finals[*finals..].iter().flatten().map(String::as_str).collect();
            if tentative.is_empty() || later.is_empty() {
                continue;
            }
            // Two words more, so that one that was put in before them does not push the last ones out.
            let from = (*stable).min(later.len());
            let to = (from + tentative.len() + 2).min(later.len());
            let score = wer::score(&tentative.join(" "), &later[from..to].join(" "));
            figures.tentative += score.reference_words;
            figures.survived += score.reference_words - score.substitutions - score.deletions;
        }
    }
}

impl Figures {
    pub(crate) fn add(&mut self, other: Self) {
        self.first_text.extend(other.first_text);
        self.after_speech.extend(other.after_speech);
        self.after_stop.extend(other.after_stop);
        self.decision.extend(other.decision);
        self.intervals.extend(other.intervals);
        self.utterances += other.utterances;
        self.without_partial += other.without_partial;
        self.without_text += other.without_text;
        self.gaps += other.gaps;
        self.gap_seconds += other.gap_seconds;
        self.lag = self.lag.max(other.lag);
        self.retracted += other.retracted;
        self.tentative += other.tentative;
        self.survived += other.survived;
        self.lost += other.lost;
        self.wrong_accounts += other.wrong_accounts;
        self.score = self.score + other.score;
        for (recording, score) in other.by_recording {
            let all = self.by_recording.entry(recording).or_default();
            *all = *all + score;
        }
        self.rates.extend(other.rates);
    }
}

fn sample(seconds: f64) -> u64 {
    (seconds * RATE as f64).max(0.0) as u64
}

/// How many words of a text do not stand at the beginning of another.
fn words_beyond(text: &str, other: &str) -> usize {
    let (words, others) = (wer::normalise(text), wer::normalise(other));
    let same = words.iter().zip(&others).take_while(|(one, other)| one == other).count();
    // A difference in writing alone is one too.
    (words.len() - same).max(1)
}

#[cfg(test)]
#[path = "tape_tests.rs"]
mod tests;
