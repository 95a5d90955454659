//! A deterministic engine: everything but recognition can be tested with it, without a model.
//!
//! The timeline is filled with words once and for all, as a pure function of the position: irregular lengths,
//! small gaps, neighbours that never read alike. A word is heard in a window if its span lies wholly inside and
//! the audio under it is loud. So the transcript is a function of the whole recording and not of the windows it
//! was cut into, and a word that the stitching lost, doubled or moved shows when the result is compared with
//! [`words_in`]. Regular words would not do: at a fixed pitch every seam falls at the same place in a word.
//!
//! Deliberately absent: mishearing, drifting times, guesses at half a word. Tests that need those script them
//! at the place they test.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Abort, Effort, Engine, EngineError, EngineTraits, Recognizer, Request};
use crate::language::Language;
use crate::transcript::{Phrase, Recognition, Samples, Span, Token, Word};

/// What the scripted engine is called.
pub const NAME: &str = "script";

/// How the scripted engine behaves, apart from what it hears.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScriptConfig {
    /// Simulated cost: how long the decoding of one second of audio takes at full effort. A draft takes half.
    pub delay: Duration,
    /// Every n-th request fails, counted over all workers.
    pub fail_every: Option<u64>,
    /// Every n-th request panics, counted over all workers.
    pub panic_every: Option<u64>,
}

/// The scripted engine.
#[derive(Debug)]
pub struct Script {
    traits: EngineTraits,
    config: ScriptConfig,
    requests: Arc<AtomicU64>,
}

impl Script {
    /// An engine that behaves as `config` says.
    pub fn new(config: ScriptConfig) -> Self {
        Self::named(NAME, config)
    }

    /// The same under a name of its own, where there are to be several.
    pub fn named(name: &str, config: ScriptConfig) -> Self {
        let traits = EngineTraits {
            name: name.to_owned(),
            languages: Language::all().collect(),
            translates: true,
            max_window: Samples::from_millis(30_000),
            file_window: Samples::from_millis(10_000),
            live_context: Samples(0),
            takes_placeholders: true,
            caveat: Some(
                "It recognises nothing: its words depend on the clock alone, for tests and demonstrations.",
            ),
            device: "no device".to_owned(),
        };
        Self { traits, config, requests: Arc::default() }
    }
}

impl Engine for Script {
    fn traits(&self) -> &EngineTraits {
        &self.traits
    }

    fn recognizer(&self) -> Result<Box<dyn Recognizer>, EngineError> {
        Ok(Box::new(Reader { config: self.config, requests: Arc::clone(&self.requests) }))
    }
}

/// Every word of the script that lies wholly inside `span` and under whose own span the audio is `loud`, in
/// order of time. With the span and the loudness of a whole recording, this is its expected transcript.
pub fn words_in(span: Span, loud: impl Fn(Span) -> bool) -> Vec<Word> {
    phrases_in(span, loud).into_iter().flatten().collect()
}

/// Whether the mean energy of the samples is that of speech: louder than an RMS of 0.01, which is -40 dB.
pub fn is_loud(samples: &[f32]) -> bool {
    let energy: f64 = samples.iter().map(|sample| f64::from(*sample).powi(2)).sum();
    energy > 0.01 * 0.01 * samples.len() as f64
}

struct Reader {
    config: ScriptConfig,
    requests: Arc<AtomicU64>,
}

impl Recognizer for Reader {
    fn recognize(&mut self, request: &Request, abort: &Abort) -> Result<Recognition, EngineError> {
        let count = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let is_due = |every: Option<u64>| every.is_some_and(|n| count.is_multiple_of(n));
        assert!(!is_due(self.config.panic_every), "a crash as scripted");
        if is_due(self.config.fail_every) {
            return Err(EngineError::Failed("as scripted".to_owned()));
        }
        let length = Samples(request.pcm.len() as u64);
        let share = match request.effort {
            Effort::Live | Effort::Full => 1.0,
            Effort::Draft => 0.5,
        };
        take_time(share * self.config.delay.as_secs_f64() * length.seconds(), abort)?;
        Ok(Recognition {
            phrases: hear(request, length),
            language: Some(language_of(request)),
            certainty: None,
        })
    }
}

fn hear(request: &Request, length: Samples) -> Vec<Phrase> {
    let window = Span::new(request.offset, request.offset + length);
    let index = |at: Samples| (at - request.offset).0 as usize;
    phrases_in(window, |span| is_loud(&request.pcm[index(span.start)..index(span.end)]))
        .into_iter()
        .map(|words| Phrase { words, temperature: request.options.temperature, no_speech: 0.01 })
        .collect()
}

/// What the request names; else English, unless the candidates exclude it.
fn language_of(request: &Request) -> Language {
    let candidates = &request.options.candidates;
    let detected = if candidates.contains(&Language::ENGLISH) { None } else { candidates.first().copied() };
    request.language.or(request.prior).or(detected).unwrap_or(Language::ENGLISH)
}

/// Spends wall time as decoding would, in steps between which a withdrawal is noticed.
#[expect(
    clippy::disallowed_methods,
    reason = "the thread it blocks belongs to the pool, as with a real engine"
)]
fn take_time(seconds: f64, abort: &Abort) -> Result<(), EngineError> {
    const STEP: Duration = Duration::from_millis(5);
    let mut left = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    loop {
        if abort.is_set() {
            return Err(EngineError::Aborted);
        }
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(STEP));
        left = left.saturating_sub(STEP);
    }
}

/// The script starts anew in every block of 16 s, so that a late position is found as fast as an early one.
const BLOCK: u64 = 16 * crate::transcript::RATE as u64;
/// More than the words that fit in a block, so that no two words of the timeline have the same number.
const NUMBERS_PER_BLOCK: u64 = 128;

/// The words of [`words_in`], parted where the script ends its phrases. No phrase is empty.
fn phrases_in(span: Span, loud: impl Fn(Span) -> bool) -> Vec<Vec<Word>> {
    let blocks = span.start.0 / BLOCK..span.end.0.div_ceil(BLOCK);
    let heard = |word: &Word| span.start <= word.span.start && word.span.end <= span.end && loud(word.span);
    blocks
        .flat_map(block)
        .map(|phrase| phrase.into_iter().filter(heard).collect::<Vec<_>>())
        .filter(|phrase| !phrase.is_empty())
        .collect()
}

/// The phrases of one block: about seven words each, a capital at the start and a full stop at the end.
fn block(number: u64) -> Vec<Vec<Word>> {
    let spans = spans_of(number);
    let mut phrases = vec![Vec::new()];
    for (index, span) in spans.iter().enumerate() {
        let seed = number * NUMBERS_PER_BLOCK + index as u64;
        let ends = index + 1 == spans.len() || draw(seed, Purpose::End, 7) == 0;
        let phrase = phrases.last_mut().expect("it starts with one and only grows");
        phrase.push(word(seed, *span, phrase.is_empty(), ends));
        if ends && index + 1 < spans.len() {
            phrases.push(Vec::new());
        }
    }
    phrases
}

/// Words of 0.20 to 0.60 s with gaps of 0.02 to 0.12 s, until no further one fits for certain.
fn spans_of(block: u64) -> Vec<Span> {
    let (mut at, end) = (block * BLOCK, (block + 1) * BLOCK);
    let mut spans = Vec::new();
    for seed in block * NUMBERS_PER_BLOCK.. {
        let start = at + 320 + draw(seed, Purpose::Gap, 1601);
        at = start + 3200 + draw(seed, Purpose::Length, 6401);
        if at > end {
            break;
        }
        spans.push(Span::new(Samples(start), Samples(at)));
    }
    spans
}

fn word(number: u64, span: Span, starts: bool, ends: bool) -> Word {
    // Words at the start of a block, at odd and at even places come from lists without a common word, so that
    // neighbours always differ.
    let list: &[&str] = match number % NUMBERS_PER_BLOCK {
        0 => &OPENING,
        odd if odd % 2 == 1 => &ODD,
        _ => &EVEN,
    };
    let plain = list[draw(number, Purpose::Text, list.len() as u64) as usize];
    let (initial, rest) = plain.split_at(1);
    let initial = if starts { initial.to_ascii_uppercase() } else { initial.to_owned() };
    let text = format!(" {initial}{rest}{}", if ends { "." } else { "" });
    let logprob = -0.05 - draw(number, Purpose::Logprob, 400) as f32 / 1000.0;
    let token = Token { id: (number % 50_000) as u32, bytes: text.clone().into_bytes(), logprob };
    Word { text, span, probability: logprob.exp(), tokens: vec![token] }
}

/// Keeps the draws for one word independent of each other.
#[derive(Clone, Copy)]
enum Purpose {
    Gap,
    Length,
    Text,
    End,
    Logprob,
}

/// A number below `bound` that depends on the seed and the purpose alone.
fn draw(seed: u64, purpose: Purpose, bound: u64) -> u64 {
    // The finaliser of SplitMix64: every bit of the input reaches every bit of the output.
    let mut x = (seed * 8 + purpose as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (x ^ (x >> 31)) % bound
}

const OPENING: [&str; 6] = ["today", "after", "when", "since", "every", "once"];
#[rustfmt::skip]
const ODD: [&str; 28] = [
    "river", "stone", "garden", "window", "morning", "bread", "letter", "mountain", "paper", "winter",
    "candle", "harbour", "kitchen", "engine", "forest", "island", "market", "needle", "orange", "pencil",
    "rabbit", "silver", "table", "village", "water", "yellow", "bridge", "copper",
];
#[rustfmt::skip]
const EVEN: [&str; 28] = [
    "walks", "opens", "under", "slowly", "carries", "between", "never", "follows", "gentle", "quickly",
    "answers", "behind", "colder", "draws", "empty", "falls", "greets", "heavy", "inside", "joins",
    "keeps", "listens", "moves", "narrow", "often", "paints", "quiet", "remains",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::DecodeOptions;
    use proptest::prelude::*;

    fn request(pcm: &[f32], span: Span) -> Request {
        let index = |at: Samples| at.0 as usize;
        Request {
            pcm: pcm[index(span.start)..index(span.end)].into(),
            offset: span.start,
            effort: Effort::Full,
            language: None,
            prior: None,
            options: Arc::new(DecodeOptions::default()),
        }
    }

    fn recognize(pcm: &[f32], span: Span) -> Recognition {
        let mut recognizer = Script::new(ScriptConfig::default()).recognizer().expect("it cannot fail");
        recognizer.recognize(&request(pcm, span), &Abort::default()).expect("nobody scripted a failure")
    }

    fn heard(pcm: &[f32], span: Span) -> Vec<Word> {
        recognize(pcm, span).phrases.into_iter().flat_map(|phrase| phrase.words).collect()
    }

    fn seconds(from: f64, to: f64) -> Span {
        Span::new(Samples::from_seconds(from), Samples::from_seconds(to))
    }

    fn tone(length: usize) -> Vec<f32> {
        (0..length).map(|n| 0.3 * (n as f32 * 0.17).sin()).collect()
    }

    #[test]
    fn words_are_dense_irregular_and_differ_from_their_neighbours() {
        let words = words_in(seconds(0.0, 7200.0), |_| true);
        assert!(words.len() > 12_000, "{}", words.len());
        let mut lengths = std::collections::HashSet::new();
        for pair in words.windows(2) {
            let gap = pair[1].span.start - pair[0].span.end;
            assert!((Samples::from_millis(20)..Samples::from_millis(900)).contains(&gap), "{gap}");
            let length = pair[0].span.len();
            assert!((Samples::from_millis(200)..=Samples::from_millis(600)).contains(&length), "{length}");
            let plain = |word: &Word| word.text.trim_matches([' ', '.']).to_ascii_lowercase();
            assert_ne!(plain(&pair[0]), plain(&pair[1]));
            assert_ne!(pair[0].tokens[0].id, pair[1].tokens[0].id);
            lengths.insert(pair[0].span.len());
        }
        assert!(lengths.len() > 3000, "{}", lengths.len());
        let distinct = words.iter().map(|word| &word.text).collect::<std::collections::HashSet<_>>();
        assert!(distinct.len() > 100, "{}", distinct.len());
    }

    #[test]
    fn phrases_are_sentences() {
        let phrases = recognize(&tone(30 * 16_000), seconds(0.0, 30.0)).phrases;
        assert!(phrases.len() >= 4, "{}", phrases.len());
        for phrase in &phrases[..phrases.len() - 1] {
            let text: String = phrase.words.iter().map(|word| word.text.as_str()).collect();
            let rest = text.strip_prefix(' ').expect("a leading space, as Whisper writes it");
            assert!(rest.starts_with(|c: char| c.is_ascii_uppercase()) && rest.ends_with('.'), "{text:?}");
            assert_eq!(rest.matches('.').count(), 1, "{text:?}");
        }
        for word in phrases.iter().flat_map(|phrase| &phrase.words) {
            assert_eq!(word.tokens[0].bytes, word.text.as_bytes());
            assert!((0.0..1.0).contains(&word.probability) && word.tokens[0].logprob < 0.0);
        }
    }

    #[test]
    fn silence_has_no_words_and_one_second_of_speech_has_some() {
        assert_eq!(recognize(&[0.0; 160_000], seconds(0.0, 10.0)).phrases, []);
        assert_eq!(recognize(&[f32::NAN; 160_000], seconds(0.0, 10.0)).phrases, []);
        assert_eq!(recognize(&[], seconds(0.0, 0.0)).phrases, []);
        assert!(!heard(&tone(16_000), seconds(0.0, 1.0)).is_empty());
    }

    #[test]
    fn windows_that_only_touch_lose_words() {
        let pcm = tone(60 * 16_000);
        let pieces = (0..6).map(|n| heard(&pcm, seconds(f64::from(n) * 10.0, f64::from(n + 1) * 10.0)).len());
        assert!(pieces.sum::<usize>() < words_in(seconds(0.0, 60.0), |_| true).len());
    }

    #[test]
    fn the_language_is_what_was_named_or_may_be_detected() {
        let german = Language::parse("de").expect("it is in the table");
        let french = Language::parse("fr").expect("it is in the table");
        let asked = |language, candidates: &[Language]| {
            let options = DecodeOptions { candidates: candidates.to_vec(), ..DecodeOptions::default() };
            language_of(&Request { language, options: Arc::new(options), ..request(&[], Span::default()) })
        };
        assert_eq!(asked(None, &[]), Language::ENGLISH);
        assert_eq!(asked(Some(german), &[french]), german);
        assert_eq!(asked(None, &[french, german]), french);
        assert_eq!(asked(None, &[french, Language::ENGLISH]), Language::ENGLISH);
    }

    #[test]
    fn failures_come_as_scripted() {
        let config = ScriptConfig { fail_every: Some(3), ..ScriptConfig::default() };
        let mut recognizer = Script::new(config).recognizer().expect("it cannot fail");
        let mut fails = || recognizer.recognize(&request(&[], Span::default()), &Abort::default()).is_err();
        assert_eq!([(); 7].map(|()| fails()), [false, false, true, false, false, true, false]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Windows overlap by more than the longest word; each word belongs to the window that owns its middle.
        #[test]
        fn the_transcript_does_not_depend_on_the_windows(
            loudness in proptest::collection::vec((any::<bool>(), 1_000_usize..40_000), 1..40),
            lengths in proptest::collection::vec(1.5..12.0_f64, 1..8),
        ) {
            let pcm: Vec<f32> = loudness
                .iter()
                .flat_map(|(loud, length)| if *loud { tone(*length) } else { vec![0.0; *length] })
                .collect();
            let whole = Span::new(Samples(0), Samples(pcm.len() as u64));
            let expected = words_in(whole, |span| is_loud(&pcm[span.start.0 as usize..span.end.0 as usize]));

            let overlap = Samples::from_millis(700);
            let (mut joined, mut start, mut seam) = (Vec::new(), Samples(0), Samples(0));
            for length in lengths.iter().cycle() {
                let window = Span::new(start, (start + Samples::from_seconds(*length)).min(whole.end));
                let last = window.end == whole.end;
                let next = if last { Samples(u64::MAX) } else { window.end - Samples(overlap.0 / 2) };
                let owned = seam..next;
                joined.extend(heard(&pcm, window).into_iter().filter(|w| owned.contains(&w.span.midpoint())));
                if last {
                    break;
                }
                (start, seam) = (window.end - overlap, next);
            }
            prop_assert_eq!(joined, expected);
        }
    }
}
