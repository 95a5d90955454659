//! The nouns of the house: positions on a timeline, words, segments, gaps, events, and the account of samples.
//!
//! Everything here is plain data without behaviour that could fail, and nothing here is a wire format: the types
//! may change freely, the promises are in the `protocol` crate. Two clocks exist in this program and never mix:
//! media time is [`Samples`] and decides everything about text; wall time appears only outside this file.

use std::fmt;
use std::ops::{Add, Sub};

/// The rate of every timeline: the recogniser hears 16 kHz mono.
pub const RATE: u32 = 16_000;

/// A position (or a length) on a session's 16 kHz mono timeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Samples(pub u64);

impl Samples {
    /// The nearest position to a time in seconds; negative times and NaN become zero.
    pub fn from_seconds(seconds: f64) -> Self {
        Self((seconds.max(0.0) * f64::from(RATE)).round() as u64)
    }

    /// A length given in milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis * RATE as u64 / 1000)
    }

    /// The position in seconds.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / f64::from(RATE)
    }

    /// Never below zero.
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Add for Samples {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl Sub for Samples {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2}", self.seconds())
    }
}

/// A half-open stretch of the timeline. `start <= end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The first sample inside.
    pub start: Samples,
    /// The first sample after it.
    pub end: Samples,
}

impl Span {
    /// The stretch between two positions; an end before the start makes it empty.
    pub fn new(start: Samples, end: Samples) -> Self {
        Self { start, end: end.max(start) }
    }

    /// How long it is.
    pub fn len(self) -> Samples {
        self.end - self.start
    }

    /// Whether nothing is inside.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The middle. A word belongs to the window that owns its midpoint.
    pub fn midpoint(self) -> Samples {
        Samples((self.start.0 + self.end.0) / 2)
    }
}

/// One token as the model wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// The model's own number for it.
    pub id: u32,
    /// Its bytes; a character may be split over several tokens.
    pub bytes: Vec<u8>,
    /// Natural logarithm of the probability it was chosen with.
    pub logprob: f32,
}

/// A word with its punctuation, and where it was heard.
#[derive(Clone, Debug, PartialEq)]
pub struct Word {
    /// As the model wrote it, the leading space included: texts are made by joining words, never by inserting
    /// spaces, so languages that write none stay right.
    pub text: String,
    /// Where it was heard.
    pub span: Span,
    /// Between 0 and 1.
    pub probability: f32,
    /// What it was made of; empty when the engine has no tokens.
    pub tokens: Vec<Token>,
}

impl Word {
    /// Whether the text has more than spaces and punctuation.
    pub fn has_letters(&self) -> bool {
        self.text.contains(char::is_alphanumeric)
    }

    /// About how many Latin letters it takes to write it.
    fn letters(&self) -> f64 {
        // Characters that stand for a syllable or a word: kana, the unified ideographs, Hangul.
        let syllable = |c: char| matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{ac00}'..='\u{d7af}');
        let weight = |c: char| if syllable(c) { 2.5 } else { 1.0 };
        self.text.chars().filter(|c| c.is_alphanumeric()).map(weight).sum()
    }
}

/// Whether people could say these words in the time they were given. Fast speakers reach 25 letters a second; a few
/// letters more are allowed because word times are only about right.
pub fn is_speakable(words: &[Word]) -> bool {
    const LETTERS_PER_SECOND: f64 = 35.0;
    const ALLOWANCE: f64 = 10.0;
    let (Some(first), Some(last)) = (words.first(), words.last()) else { return true };
    let time = last.span.end.saturating_sub(first.span.start).seconds();
    words.iter().map(Word::letters).sum::<f64>() <= ALLOWANCE + LETTERS_PER_SECOND * time
}

/// A run of words that the engine delimited itself, with the figures it judged them by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Phrase {
    /// In order of time.
    pub words: Vec<Word>,
    /// The sampling temperature that was finally used; above the requested one after a fallback.
    pub temperature: f32,
    /// The model's probability that the window held no speech at all.
    pub no_speech: f32,
}

/// What the engine heard in one window, on the session's timeline.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recognition {
    /// In order of time.
    pub phrases: Vec<Phrase>,
    /// What was spoken, where the engine knows.
    pub language: Option<crate::language::Language>,
    /// How sure of the language the engine is, 0 to 1, where it was detected.
    pub certainty: Option<f32>,
}

/// The best guess at the part of an utterance that is not final yet. It replaces the previous one of its utterance.
#[derive(Clone, Debug, PartialEq)]
pub struct Hypothesis {
    /// Which utterance of the stream it belongs to.
    pub utterance: u32,
    /// Words that will not change: the next final of the utterance begins with them.
    pub stable: Vec<Word>,
    /// Words that may.
    pub tentative: Vec<Word>,
    /// From its first word to where the audio was heard for it.
    pub span: Span,
}

/// Text that will not change. Emitted in timeline order.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// Which utterance of the stream it belongs to, counted from 0.
    pub utterance: u32,
    /// From its first word to its last.
    pub span: Span,
    /// Never empty.
    pub words: Vec<Word>,
    /// See [`Phrase::temperature`].
    pub temperature: f32,
    /// See [`Phrase::no_speech`].
    pub no_speech: f32,
    /// What was spoken, where the engine found it out or was told.
    pub language: Option<crate::language::Language>,
}

impl Segment {
    /// The words joined, with the leading space the model wrote.
    pub fn text(&self) -> String {
        self.words.iter().map(|word| word.text.as_str()).collect()
    }
}

/// Why a stretch of audio has no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// The bytes could not be decoded.
    Corrupt,
    /// The engine failed on it.
    Engine,
    /// The server could not keep up.
    Overload,
}

/// A stretch of audio that could not be transcribed, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The stretch.
    pub span: Span,
    /// The reason.
    pub reason: GapReason,
}

/// What a session tells the world. Every reader (socket, event stream, file) consumes exactly this.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Somebody began to speak.
    SpeechStarted {
        /// The utterance that opens.
        utterance: u32,
        /// Where, the pre-roll included.
        at: Samples,
    },
    /// What is being said, until a final says it; empty when there will be none. Live streams only.
    Partial(Hypothesis),
    /// Text that will not change. It stands for all that partials of its utterance have shown; if some of that is
    /// still open, a partial follows at once.
    Final(Segment),
    /// Audio we owe the client an apology for.
    Gap(Gap),
    /// The utterance is over: its endpoint was decided. Its last finals follow as soon as they are decoded.
    SpeechStopped {
        /// The utterance that closes.
        utterance: u32,
        /// Where.
        at: Samples,
    },
    /// All finals of the utterance have been told, if there were any.
    UtteranceDone {
        /// The utterance.
        utterance: u32,
    },
    /// Everything that came before a flush has been told.
    Flushed {
        /// Where the audio was when the flush came.
        at: Samples,
    },
}

/// Where every sample of a stream went. `received == decoded + silence + lost` once the stream has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Everything that came in.
    pub received: u64,
    /// Heard by the engine; overlaps are counted once.
    pub decoded: u64,
    /// Judged not to be speech.
    pub silence: u64,
    /// Reported as gaps.
    pub lost: u64,
}

/// A client's wishes for where utterances begin and end. `None` leaves each to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Endpointing {
    /// How sure the detector must be, 0 to 1.
    pub threshold: Option<f32>,
    /// How much audio before speech belongs to it.
    pub prefix_padding_ms: Option<u32>,
    /// How much silence ends an utterance.
    pub silence_duration_ms: Option<u32>,
}

/// All that was heard in one stream or file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transcript {
    /// In timeline order.
    pub segments: Vec<Segment>,
    /// In timeline order.
    pub gaps: Vec<Gap>,
    /// What was spoken, where it is known.
    pub language: Option<crate::language::Language>,
    /// How long the audio was.
    pub duration: Samples,
    /// Where every sample went.
    pub account: Account,
}

impl Transcript {
    /// The whole text, without space at its edges.
    pub fn text(&self) -> String {
        let joined: String = self.segments.iter().map(Segment::text).collect();
        joined.trim().to_owned()
    }

    /// All words, in order.
    pub fn words(&self) -> impl Iterator<Item = &Word> {
        self.segments.iter().flat_map(|segment| &segment.words)
    }
}
