//! From tokens to words: what belongs together, and where it was spoken. Pure.
//!
//! The cross attention tells where each token ends, on a path that must pass through all of the sound. A word that
//! stands beside a pause has some of that pause in it, so edges are moved to where sound begins and ends.

use crate::transcript::{Phrase, RATE, Samples, Span, Token, Word};

/// What the decoder wrote, in order. Times are samples from the window's start.
pub(super) enum Heard {
    /// Where a phrase begins or ends.
    Timestamp(u64),
    /// A piece of a word.
    Text {
        /// What was written.
        token: Token,
        /// Where it begins. The cross attention tells only where a token ends, which is where the next one begins.
        start: Option<u64>,
        /// Where it ends.
        stop: Option<u64>,
    },
}

impl Heard {
    pub(super) fn logprob(&self) -> Option<f32> {
        match self {
            Self::Text { token, .. } => Some(token.logprob),
            Self::Timestamp(_) => None,
        }
    }
}

/// Shorter than any word, so that none is without length: 20 ms.
const SHORTEST_WORD: u64 = RATE as u64 / 50;

/// A word that is being put together.
struct Draft {
    bytes: Vec<u8>,
    tokens: Vec<Token>,
    start: u64,
    stop: Option<u64>,
}

/// Groups tokens into words, and words into phrases between timestamps.
pub(super) fn phrases(
    heard: Vec<Heard>,
    loudness: &Loudness,
    window: Span,
    temperature: f32,
    no_speech: f32,
) -> Vec<Phrase> {
    // How many words there are up to each phrase's end, and where that is.
    let mut ends: Vec<(usize, u64)> = Vec::new();
    let mut drafts: Vec<Draft> = Vec::new();
    let (mut open, mut at) = (false, 0);
    for item in heard {
        match item {
            Heard::Timestamp(time) => {
                ends.push((drafts.len(), time));
                open = false;
            }
            Heard::Text { token, start, stop } => {
                let begins = start.unwrap_or(at);
                at = stop.unwrap_or(begins);
                match drafts.last_mut() {
                    Some(word) if open && !begins_word(&word.bytes, &token.bytes) => {
                        word.bytes.extend(&token.bytes);
                        word.tokens.push(token);
                        word.stop = stop.or(word.stop);
                    }
                    _ => {
                        open = true;
                        let bytes = token.bytes.clone();
                        drafts.push(Draft { bytes, tokens: vec![token], start: begins, stop });
                    }
                }
            }
        }
    }
    ends.push((drafts.len(), window.len().0));
    let spans = place(&drafts, &ends, loudness, window.len().0);
    let mut words = drafts.into_iter().zip(spans).map(|(word, span)| {
        let sum: f32 = word.tokens.iter().map(|token| token.logprob).sum();
        Word {
            text: String::from_utf8_lossy(&word.bytes).into_owned(),
            span: Span::new(window.start + span.start, window.start + span.end),
            probability: (sum / word.tokens.len() as f32).exp().clamp(0.0, 1.0),
            tokens: word.tokens,
        }
    });
    let mut told = 0;
    ends.into_iter()
        .map(|(end, _)| {
            let words = words.by_ref().take(end - std::mem::replace(&mut told, end)).collect();
            Phrase { words, temperature, no_speech }
        })
        .filter(|phrase| !phrase.words.is_empty())
        .collect()
}

/// Where each word lies: in order, inside the window, with some length, and without the pauses beside it.
fn place(drafts: &[Draft], ends: &[(usize, u64)], loudness: &Loudness, length: u64) -> Vec<Span> {
    let shortest = SHORTEST_WORD.min(length / (drafts.len() as u64 + 1));
    let mut spans: Vec<Span> = Vec::with_capacity(drafts.len());
    let mut floor = 0;
    for (n, word) in drafts.iter().enumerate() {
        let phrase_end = ends.iter().find(|(end, _)| *end > n).map_or(length, |(_, at)| *at);
        let next = drafts.get(n + 1).map_or(phrase_end, |next| next.start);
        let start = word.start.clamp(floor, length);
        let end = word.stop.unwrap_or(next).clamp(start, length);
        let sounding = loudness.trim(start, end);
        let end = sounding.end.0.max(sounding.start.0 + shortest);
        floor = end.min(length);
        spans.push(Span::new(sounding.start, Samples(end)));
    }
    // What was pushed behind the window's end is pushed back.
    let mut ceiling = length;
    for span in spans.iter_mut().rev() {
        span.end = Samples(span.end.0.min(ceiling));
        span.start = Samples(span.start.0.min(span.end.0.saturating_sub(shortest)));
        ceiling = span.start.0;
    }
    spans
}

/// How loud each 10 ms of a window is.
pub(super) struct Loudness {
    /// Mean power.
    frames: Vec<f32>,
    /// Below it a frame is quiet.
    threshold: f32,
}

impl Loudness {
    const FRAME: u64 = RATE as u64 / 100;
    /// So far below the loud parts is quiet: 30 dB.
    const RANGE: f32 = 1e-3;
    /// So far above the quietest parts is sound: 6 dB.
    const ABOVE: f32 = 4.0;
    /// A burst of sound that is no longer than this beside a pause belongs to the word on the pause's other side.
    const BURST: usize = 6;
    /// So much quiet is a pause, and less is part of a word: 80 ms.
    const PAUSE: usize = 8;

    /// Measures a window.
    pub(super) fn of(pcm: &[f32]) -> Self {
        let power = |frame: &[f32]| frame.iter().map(|x| x * x).sum::<f32>() / frame.len() as f32;
        let frames: Vec<f32> = pcm.chunks(Self::FRAME as usize).map(power).collect();
        let mut sorted: Vec<f32> = frames.iter().copied().filter(|power| *power > 0.0).collect();
        sorted.sort_by(f32::total_cmp);
        let share = |share: usize| sorted.get(sorted.len() * share / 100).copied().unwrap_or(0.0);
        // Where everything is about equally loud there are no pauses to be seen.
        let threshold = (share(90) * Self::RANGE).max(share(10) * Self::ABOVE).min(share(90) * 0.05);
        Self { frames, threshold }
    }

    /// The part of a stretch that sounds; all of it where nothing does.
    fn trim(&self, start: u64, end: u64) -> Span {
        let whole = Span::new(Samples(start), Samples(end));
        let (first, last) = ((start / Self::FRAME) as usize, (end / Self::FRAME) as usize);
        let last = last.min(self.frames.len());
        if first >= last {
            return whole;
        }
        let loud: Vec<bool> = self.frames[first..last].iter().map(|power| *power >= self.threshold).collect();
        let Some(mut from) = loud.iter().position(|loud| *loud) else { return whole };
        let mut to = loud.iter().rposition(|loud| *loud).map_or(from, |last| last + 1);
        // The neighbour's first or last sound, cut off by a path that is only about right.
        let quiet = |at: usize| loud[at..].iter().take_while(|loud| !**loud).count();
        let burst = loud[from..to].iter().take_while(|loud| **loud).count();
        if burst <= Self::BURST && from + burst < to && quiet(from + burst) >= Self::PAUSE {
            from += burst + quiet(from + burst);
        }
        let burst = loud[from..to].iter().rev().take_while(|loud| **loud).count();
        let before = loud[from..to - burst].iter().rev().take_while(|loud| !**loud).count();
        if burst <= Self::BURST && burst < to - from && before >= Self::PAUSE {
            to -= burst + before;
        }
        let at = |frame: usize| (first + frame) as u64 * Self::FRAME;
        Span::new(Samples(at(from).clamp(start, end)), Samples(at(to).clamp(start, end)))
    }
}

/// Whether a token begins a new word: after a space, and in scripts that write none after every whole character.
fn begins_word(word: &[u8], next: &[u8]) -> bool {
    if next.first() == Some(&b' ') {
        return true;
    }
    let whole = std::str::from_utf8(word).is_ok();
    let first = String::from_utf8_lossy(next).chars().next().unwrap_or(' ');
    let last = String::from_utf8_lossy(word).chars().last().unwrap_or(' ');
    whole && (writes_no_spaces(first) || (writes_no_spaces(last) && first.is_alphanumeric()))
}

/// Thai, Lao, Burmese, Khmer, and the scripts of Chinese and Japanese. Punctuation is none of them, so it joins
/// the word before it.
fn writes_no_spaces(c: char) -> bool {
    matches!(c,
        '\u{0E00}'..='\u{0EFF}' | '\u{1000}'..='\u{109F}' | '\u{1780}'..='\u{17FF}'
        | '\u{3040}'..='\u{30FF}' | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}'
        | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{3FFFF}')
}

/// The text.
pub(super) fn written(heard: &[Heard]) -> String {
    let bytes = heard.iter().filter_map(|item| match item {
        Heard::Text { token, .. } => Some(&token.bytes[..]),
        Heard::Timestamp(_) => None,
    });
    String::from_utf8_lossy(&bytes.collect::<Vec<_>>().concat()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8], stop: u64) -> Heard {
        let token = Token { id: u32::from(bytes[0]), bytes: bytes.to_vec(), logprob: -0.1 };
        Heard::Text { token, start: None, stop: Some(stop) }
    }

    /// 5 s that sound in these stretches and are silent elsewhere.
    fn sound(stretches: &[(u64, u64)]) -> Vec<f32> {
        let sounds = |n: u64| stretches.iter().any(|(from, to)| (*from..*to).contains(&n));
        (0..80_000).map(|n| if sounds(n) { 0.3 * (n as f32 * 0.9).sin() } else { 0.0 }).collect()
    }

    fn read(heard: Vec<Heard>, stretches: &[(u64, u64)]) -> Vec<Vec<(String, u64, u64)>> {
        let window = Span::new(Samples(16_000), Samples(96_000));
        let words = |phrase: &Phrase| {
            let word = |word: &Word| (word.text.clone(), word.span.start.0, word.span.end.0);
            phrase.words.iter().map(word).collect()
        };
        phrases(heard, &Loudness::of(&sound(stretches)), window, 0.0, 0.0).iter().map(words).collect()
    }

    const ALL: [(u64, u64); 1] = [(0, 80_000)];

    #[test]
    fn tokens_become_words_and_timestamps_part_phrases() {
        let heard = vec![
            Heard::Timestamp(0),
            text(b" Hel", 3200),
            text(b"lo", 4800),
            text(b",", 8000),
            text(b" you", 12_000),
            Heard::Timestamp(12_000),
            Heard::Timestamp(12_000),
            text(b" Bye", 14_400),
            text(b".", 16_000),
        ];
        let expected = vec![
            vec![(" Hello,".to_owned(), 16_000, 24_000), (" you".to_owned(), 24_000, 28_000)],
            vec![(" Bye.".to_owned(), 28_000, 32_000)],
        ];
        assert_eq!(read(heard, &ALL), expected);
    }

    #[test]
    fn pauses_belong_to_no_word() {
        // The attention leaves the first word in the middle of the pause, and the second one long after its end.
        let heard = vec![text(b" one", 30_000), text(b" two", 70_000)];
        let words = read(heard, &[(8_000, 16_000), (40_000, 48_000)]).concat();
        let spans: Vec<(u64, u64)> =
            words.iter().map(|(_, start, end)| (*start - 16_000, *end - 16_000)).collect();
        assert_eq!(spans, [(8_000, 16_000), (40_000, 48_000)]);
        // It leaves the first word a little late, so that the second one has the last of its sound.
        let heard = vec![text(b" one", 15_200), text(b" two", 70_000)];
        let words = read(heard, &[(8_000, 16_000), (40_000, 48_000)]).concat();
        assert_eq!((words[1].1 - 16_000, words[1].2 - 16_000), (40_000, 48_000));
    }

    #[test]
    fn every_word_has_a_length_and_times_run_forwards_inside_the_window() {
        for stops in [[9000, 4000, 200_000], [0, 0, 0], [80_000, 80_000, 80_000], [5000, 5000, 5001]] {
            let heard = vec![
                text(b" a", stops[0]),
                text(b" b", stops[1]),
                text(b" c", stops[2]),
                Heard::Timestamp(100),
            ];
            let words = read(heard, &ALL).concat();
            assert!(words.windows(2).all(|pair| pair[0].2 <= pair[1].1), "{words:?}");
            assert!(words.iter().all(|(_, start, end)| start < end && *end <= 96_000), "{words:?}");
        }
    }

    #[test]
    fn characters_over_several_tokens_stay_whole() {
        let snow = "雪".as_bytes();
        let heard = vec![
            text(&snow[..1], 100),
            text(&snow[1..], 900),
            text("が".as_bytes(), 1500),
            text("。".as_bytes(), 2000),
        ];
        let words: Vec<String> = read(heard, &ALL).concat().into_iter().map(|(text, ..)| text).collect();
        assert_eq!(words, ["雪", "が。"]);
    }
}
