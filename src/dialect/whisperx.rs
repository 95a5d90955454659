//! A transcript as clients of a WhisperX server read it.

use whisperwire_protocol::job::{WhisperXResult, WhisperXSegment, WhisperXWord};

use crate::language::Language;
use crate::transcript::{Samples, Segment, Transcript, Word};

/// The body of a result.
pub fn result(transcript: &Transcript) -> WhisperXResult {
    let end = transcript.duration;
    WhisperXResult {
        language: transcript.language.map_or("unknown", Language::code).to_owned(),
        segments: transcript.segments.iter().map(|one| segment(one, end)).collect(),
    }
}

fn segment(segment: &Segment, end: Samples) -> WhisperXSegment {
    WhisperXSegment {
        start: segment.span.start.min(end).seconds(),
        end: segment.span.end.min(end).seconds(),
        text: segment.text().trim().to_owned(),
        speaker: None,
        words: segment.words.iter().map(|one| word(one, end)).collect(),
    }
}

fn word(word: &Word, end: Samples) -> WhisperXWord {
    let probability = f64::from(word.probability);
    WhisperXWord {
        word: word.text.trim().to_owned(),
        start: word.span.start.min(end).seconds(),
        end: word.span.end.min(end).seconds(),
        score: if probability.is_finite() { probability.clamp(0.0, 1.0) } else { 0.0 },
        speaker: None,
    }
}
