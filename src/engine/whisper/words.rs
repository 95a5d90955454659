//! From tokens to words: what belongs together, and where it was spoken. Pure.

use crate::transcript::{Phrase, RATE, Samples, Span, Token, Word};

/// What the decoder wrote, in order. Times are samples from the window's start.
pub(super) enum Heard {
    /// Where a phrase begins or ends.
    Timestamp(u64),
    /// A piece of a word.
    Text {
        /// What was written.
        token: Token,
        /// Where it begins.
        start: u64,
        /// Where it ends. Not known from the cross attention, which only says when a token begins.
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

/// A word is rarely longer; what an attention peak leaves open until the next word is mostly a pause.
const LONGEST_WORD: u64 = RATE as u64;

/// A word that is being put together.
struct Draft {
    bytes: Vec<u8>,
    tokens: Vec<Token>,
    start: u64,
    stop: Option<u64>,
}

/// Groups tokens into words, and words into phrases between timestamps.
pub(super) fn phrases(heard: Vec<Heard>, window: Span, temperature: f32, no_speech: f32) -> Vec<Phrase> {
    let mut phrases: Vec<(Vec<Draft>, u64)> = Vec::new();
    let mut open: Vec<Draft> = Vec::new();
    for item in heard {
        match item {
            Heard::Timestamp(at) => phrases.push((std::mem::take(&mut open), at)),
            Heard::Text { token, start, stop } => match open.last_mut() {
                Some(word) if !begins_word(&word.bytes, &token.bytes) => {
                    word.bytes.extend(&token.bytes);
                    word.tokens.push(token);
                    word.stop = stop.or(word.stop);
                }
                _ => open.push(Draft { bytes: token.bytes.clone(), tokens: vec![token], start, stop }),
            },
        }
    }
    phrases.push((open, window.len().0));
    phrases
        .into_iter()
        .filter(|(words, _)| !words.is_empty())
        .map(|(words, until)| Phrase { words: place(words, until, window), temperature, no_speech })
        .collect()
}

/// Puts a phrase's words on the session's timeline and makes their times run forwards inside the window. A word
/// whose end is not known lasts until the next one, or until the phrase's end.
fn place(drafts: Vec<Draft>, until: u64, window: Span) -> Vec<Word> {
    let length = window.len().0;
    let starts: Vec<u64> = drafts.iter().map(|word| word.start).collect();
    let mut floor = 0;
    drafts
        .into_iter()
        .enumerate()
        .map(|(n, word)| {
            let start = word.start.clamp(floor, length);
            let next = starts.get(n + 1).copied().unwrap_or(until);
            let end = word.stop.unwrap_or(next).clamp(start, start + LONGEST_WORD).min(length);
            floor = end;
            let sum: f32 = word.tokens.iter().map(|token| token.logprob).sum();
            Word {
                text: String::from_utf8_lossy(&word.bytes).into_owned(),
                span: Span::new(window.start + Samples(start), window.start + Samples(end)),
                probability: (sum / word.tokens.len() as f32).exp().clamp(0.0, 1.0),
                tokens: word.tokens,
            }
        })
        .collect()
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

/// Entropy of the last 32 tokens, in nats, as whisper.cpp measures it: low when few tokens repeat.
pub(super) fn entropy(heard: &[Heard]) -> f32 {
    let ids: Vec<u32> = heard
        .iter()
        .rev()
        .filter_map(|item| match item {
            Heard::Text { token, .. } => Some(token.id),
            Heard::Timestamp(_) => None,
        })
        .take(32)
        .collect();
    let mut counts = std::collections::HashMap::new();
    ids.iter().for_each(|id| *counts.entry(id).or_insert(0u32) += 1);
    let share = |count: &u32| *count as f32 / ids.len() as f32;
    -counts.values().map(|count| share(count) * share(count).ln()).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8], start: u64) -> Heard {
        let token = Token { id: u32::from(bytes[0]), bytes: bytes.to_vec(), logprob: -0.1 };
        Heard::Text { token, start, stop: None }
    }

    fn read(heard: Vec<Heard>) -> Vec<Vec<(String, u64, u64)>> {
        let window = Span::new(Samples(16_000), Samples(96_000));
        let words = |phrase: &Phrase| {
            let word = |word: &Word| (word.text.clone(), word.span.start.0, word.span.end.0);
            phrase.words.iter().map(word).collect()
        };
        phrases(heard, window, 0.0, 0.0).iter().map(words).collect()
    }

    #[test]
    fn tokens_become_words_and_timestamps_part_phrases() {
        let heard = vec![
            Heard::Timestamp(0),
            text(b" Hel", 1000),
            text(b"lo", 3000),
            text(b",", 5000),
            text(b" you", 8000),
            Heard::Timestamp(12_000),
            Heard::Timestamp(12_000),
            text(b" Bye", 12_500),
            text(b".", 14_000),
        ];
        let expected = vec![
            vec![(" Hello,".to_owned(), 17_000, 24_000), (" you".to_owned(), 24_000, 28_000)],
            vec![(" Bye.".to_owned(), 28_500, 44_500)],
        ];
        assert_eq!(read(heard), expected);
    }

    #[test]
    fn times_run_forwards_inside_the_window() {
        let heard = vec![text(b" a", 9000), text(b" b", 4000), text(b" c", 200_000), Heard::Timestamp(100)];
        let words = read(heard).concat();
        assert!(words.windows(2).all(|pair| pair[0].2 <= pair[1].1), "{words:?}");
        assert!(words.iter().all(|(_, start, end)| start <= end && *end <= 96_000), "{words:?}");
    }

    #[test]
    fn characters_over_several_tokens_stay_whole() {
        let snow = "雪".as_bytes();
        let heard = vec![
            text(&snow[..1], 0),
            text(&snow[1..], 100),
            text("が".as_bytes(), 900),
            text("。".as_bytes(), 1500),
        ];
        let words: Vec<String> = read(heard).concat().into_iter().map(|(text, ..)| text).collect();
        assert_eq!(words, ["雪", "が。"]);
    }

    #[test]
    fn repetition_has_little_entropy() {
        let many: Vec<Heard> = (0..40u8).map(|n| text(&[n + 33], 0)).collect();
        let few: Vec<Heard> = (0..40u8).map(|n| text(&[n % 2 + 33], 0)).collect();
        assert!(entropy(&many) > 2.4 && entropy(&few) < 1.0);
    }
}
