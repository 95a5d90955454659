//! A transcript as this program keeps it for itself: in a cache, in a store of jobs, in a Redis between servers.
//!
//! The contract: what is read is exactly what was written, to the last bit of every number, or it is refused. A
//! version stands in each record, so that a server never misreads what another one wrote. Numbers with a point are
//! written as their bits, because JSON knows neither infinity nor exactness. Deliberately absent: everything that
//! clients see; their formats are rendered from the transcript.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use serde::{Deserialize, Serialize};

use crate::language::Language;
use crate::transcript::{Account, Gap, GapReason, Samples, Segment, Span, Token, Transcript, Word};

/// Grows whenever the same bytes would mean something else.
const VERSION: u32 = 1;
/// The longest record that is unpacked, in bytes: six hours of fast speech are a tenth of it.
const LONGEST: u64 = 256 << 20;

/// Why something is no record of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// It is not what [`write()`] or [`pack`] makes.
    #[error("it is no record of a transcript")]
    Malformed,
    /// It was written by another version.
    #[error("it is a record of version {0}")]
    Version(u32),
}

/// As JSON, on one line.
pub fn write(transcript: &Transcript) -> String {
    serde_json::to_string(&Record::of(transcript)).expect("a record is plain data without maps")
}

/// The transcript that was written.
pub fn read(record: &[u8]) -> Result<Transcript, BadRecord> {
    let malformed = |_| BadRecord::Malformed;
    // The version first: whatever follows it may have changed.
    match serde_json::from_slice(record).map_err(malformed)? {
        Versioned { v: VERSION } => {}
        Versioned { v } => return Err(BadRecord::Version(v)),
    }
    serde_json::from_slice::<Record>(record).map_err(malformed)?.into_transcript()
}

/// The same, compressed: about a fifth.
pub fn pack(transcript: &Transcript) -> Vec<u8> {
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::fast());
    packed
        .write_all(write(transcript).as_bytes())
        .and_then(|()| packed.finish())
        .expect("memory takes what is written to it")
}

/// The transcript that was packed.
pub fn unpack(packed: &[u8]) -> Result<Transcript, BadRecord> {
    let mut record = Vec::new();
    let unpacked = ZlibDecoder::new(packed).take(LONGEST).read_to_end(&mut record);
    unpacked.map_err(|_| BadRecord::Malformed)?;
    read(&record)
}

#[derive(Deserialize)]
struct Versioned {
    v: u32,
}

#[derive(Serialize, Deserialize)]
struct Record {
    v: u32,
    language: Option<String>,
    duration: u64,
    /// Received, decoded, silence, lost.
    account: (u64, u64, u64, u64),
    gaps: Vec<GapRecord>,
    segments: Vec<SegmentRecord>,
}

/// Start, end, and why.
#[derive(Serialize, Deserialize)]
struct GapRecord(u64, u64, Reason);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reason {
    Corrupt,
    Engine,
    Overload,
}

#[derive(Serialize, Deserialize)]
struct SegmentRecord {
    utterance: u32,
    start: u64,
    end: u64,
    temperature: u32,
    no_speech: u32,
    language: Option<String>,
    words: Vec<WordRecord>,
}

/// Text, start, end, probability, tokens.
#[derive(Serialize, Deserialize)]
struct WordRecord(String, u64, u64, u32, Vec<TokenRecord>);

/// Number, log probability, bytes.
#[derive(Serialize, Deserialize)]
struct TokenRecord(u32, u32, Bytes);

/// Text where it is some: a token may also be a part of a character.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Bytes {
    Text(String),
    Raw(Vec<u8>),
}

impl Record {
    fn of(transcript: &Transcript) -> Self {
        let Transcript { segments, gaps, language, duration, account } = transcript;
        let Account { received, decoded, silence, lost } = *account;
        Self {
            v: VERSION,
            language: code(*language),
            duration: duration.0,
            account: (received, decoded, silence, lost),
            gaps: gaps.iter().map(GapRecord::of).collect(),
            segments: segments.iter().map(SegmentRecord::of).collect(),
        }
    }

    fn into_transcript(self) -> Result<Transcript, BadRecord> {
        let (received, decoded, silence, lost) = self.account;
        Ok(Transcript {
            segments: self.segments.into_iter().map(SegmentRecord::into_segment).collect::<Result<_, _>>()?,
            gaps: self.gaps.into_iter().map(GapRecord::into_gap).collect(),
            language: language(self.language)?,
            duration: Samples(self.duration),
            account: Account { received, decoded, silence, lost },
        })
    }
}

impl GapRecord {
    fn of(gap: &Gap) -> Self {
        let reason = match gap.reason {
            GapReason::Corrupt => Reason::Corrupt,
            GapReason::Engine => Reason::Engine,
            GapReason::Overload => Reason::Overload,
        };
        Self(gap.span.start.0, gap.span.end.0, reason)
    }

    fn into_gap(self) -> Gap {
        let Self(start, end, reason) = self;
        let reason = match reason {
            Reason::Corrupt => GapReason::Corrupt,
            Reason::Engine => GapReason::Engine,
            Reason::Overload => GapReason::Overload,
        };
        Gap { span: span(start, end), reason }
    }
}

impl SegmentRecord {
    fn of(segment: &Segment) -> Self {
        let Segment { utterance, span, words, temperature, no_speech, language } = segment;
        Self {
            utterance: *utterance,
            start: span.start.0,
            end: span.end.0,
            temperature: temperature.to_bits(),
            no_speech: no_speech.to_bits(),
            language: code(*language),
            words: words.iter().map(WordRecord::of).collect(),
        }
    }

    fn into_segment(self) -> Result<Segment, BadRecord> {
        Ok(Segment {
            utterance: self.utterance,
            span: span(self.start, self.end),
            words: self.words.into_iter().map(WordRecord::into_word).collect(),
            temperature: f32::from_bits(self.temperature),
            no_speech: f32::from_bits(self.no_speech),
            language: language(self.language)?,
        })
    }
}

impl WordRecord {
    fn of(word: &Word) -> Self {
        let Word { text, span, probability, tokens } = word;
        let tokens = tokens.iter().map(TokenRecord::of).collect();
        Self(text.clone(), span.start.0, span.end.0, probability.to_bits(), tokens)
    }

    fn into_word(self) -> Word {
        let Self(text, start, end, probability, tokens) = self;
        let tokens = tokens.into_iter().map(TokenRecord::into_token).collect();
        Word { text, span: span(start, end), probability: f32::from_bits(probability), tokens }
    }
}

impl TokenRecord {
    fn of(token: &Token) -> Self {
        let Token { id, bytes, logprob } = token;
        let bytes = match std::str::from_utf8(bytes) {
            Ok(text) => Bytes::Text(text.to_owned()),
            Err(_) => Bytes::Raw(bytes.clone()),
        };
        Self(*id, logprob.to_bits(), bytes)
    }

    fn into_token(self) -> Token {
        let Self(id, logprob, bytes) = self;
        let bytes = match bytes {
            Bytes::Text(text) => text.into_bytes(),
            Bytes::Raw(raw) => raw,
        };
        Token { id, bytes, logprob: f32::from_bits(logprob) }
    }
}

fn span(start: u64, end: u64) -> Span {
    Span::new(Samples(start), Samples(end))
}

fn code(language: Option<Language>) -> Option<String> {
    language.map(|language| language.code().to_owned())
}

/// A language that this version does not know is no reason to leave it out silently.
fn language(code: Option<String>) -> Result<Option<Language>, BadRecord> {
    code.map(|code| Language::parse(&code).ok_or(BadRecord::Malformed)).transpose()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any bits at all, but one NaN for all of them: it is not equal to itself, so it could not be compared.
    fn number() -> impl Strategy<Value = f32> {
        any::<u32>().prop_map(f32::from_bits).prop_filter("can be compared", |number| !number.is_nan())
    }

    fn stretch() -> impl Strategy<Value = Span> {
        (any::<u64>(), any::<u64>()).prop_map(|(a, b)| span(a.min(b), a.max(b)))
    }

    fn spoken() -> impl Strategy<Value = Option<Language>> {
        proptest::option::of(
            (0..100_usize).prop_map(|n| Language::all().nth(n).expect("there are a hundred")),
        )
    }

    fn token() -> impl Strategy<Value = Token> {
        (any::<u32>(), proptest::collection::vec(any::<u8>(), 0..5), number())
            .prop_map(|(id, bytes, logprob)| Token { id, bytes, logprob })
    }

    fn word() -> impl Strategy<Value = Word> {
        (any::<String>(), stretch(), number(), proptest::collection::vec(token(), 0..4))
            .prop_map(|(text, span, probability, tokens)| Word { text, span, probability, tokens })
    }

    fn segment() -> impl Strategy<Value = Segment> {
        let words = proptest::collection::vec(word(), 1..5);
        (any::<u32>(), stretch(), words, number(), number(), spoken()).prop_map(
            |(utterance, span, words, temperature, no_speech, language)| Segment {
                utterance,
                span,
                words,
                temperature,
                no_speech,
                language,
            },
        )
    }

    fn gap() -> impl Strategy<Value = Gap> {
        let reason =
            prop_oneof![Just(GapReason::Corrupt), Just(GapReason::Engine), Just(GapReason::Overload)];
        (stretch(), reason).prop_map(|(span, reason)| Gap { span, reason })
    }

    fn transcript() -> impl Strategy<Value = Transcript> {
        let (segments, gaps) =
            (proptest::collection::vec(segment(), 0..5), proptest::collection::vec(gap(), 0..3));
        (segments, gaps, spoken(), any::<u64>(), any::<[u64; 4]>()).prop_map(
            |(segments, gaps, language, duration, [received, decoded, silence, lost])| Transcript {
                segments,
                gaps,
                language,
                duration: Samples(duration),
                account: Account { received, decoded, silence, lost },
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn what_was_written_is_read_exactly(transcript in transcript()) {
            let back = read(write(&transcript).as_bytes());
            prop_assert_eq!(back.as_ref(), Ok(&transcript));
            prop_assert_eq!(unpack(&pack(&transcript)), Ok(transcript));
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let word = Word { text: " a".into(), span: span(0, 1), probability: f32::NAN, tokens: vec![] };
        let segment = Segment {
            utterance: 0,
            span: span(0, 1),
            words: vec![word],
            temperature: f32::NEG_INFINITY,
            no_speech: -0.0,
            language: None,
        };
        let transcript = Transcript { segments: vec![segment], ..Transcript::default() };
        let back = read(write(&transcript).as_bytes()).expect("it was written here");
        let segment = &back.segments[0];
        assert!(segment.words[0].probability.is_nan());
        assert_eq!(segment.temperature, f32::NEG_INFINITY);
        assert!(segment.no_speech.is_sign_negative());
    }

    #[test]
    fn strangers_are_refused() {
        let record = write(&Transcript::default());
        let newer = record.replace("\"v\":1", "\"v\":2");
        assert_eq!(read(newer.as_bytes()), Err(BadRecord::Version(2)));
        for stranger in
            ["", "{}", "null", "[1]", &record[..record.len() - 1], &record.replace("account", "sum")]
        {
            assert_eq!(read(stranger.as_bytes()), Err(BadRecord::Malformed), "{stranger}");
        }
        assert_eq!(unpack(record.as_bytes()), Err(BadRecord::Malformed));
        let packed = pack(&Transcript::default());
        assert_eq!(unpack(&packed[..packed.len() / 2]), Err(BadRecord::Malformed));
    }
}
