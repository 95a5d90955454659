//! Guards against invented text: what a recogniser writes when there is nothing to hear, or when it is stuck.
//!
//! The first guard is that nothing but speech is ever asked about, and the second is the engine's own fallback
//! ladder. These are the last ones, after the decode. They remove words only on strong evidence, because a word
//! wrongly removed is as bad as one wrongly invented. Rules and thresholds: OpenAI's `whisper/transcribe.py`
//! (no-speech and log probability); the repetition rule is ours.

use crate::transcript::{Phrase, Word};

use super::stitch::letters;

/// Above it the model itself says that nobody spoke, if it was also unsure of its words.
const NO_SPEECH: f32 = 0.6;
/// Mean log probability below which the model was unsure.
const UNSURE: f32 = -1.0;
/// The longest group of words that is looked for as a repetition.
const LONGEST_GROUP: usize = 5;
/// Groups said this often in a row, with nothing between, are a stuck decoder.
const STUCK: usize = 4;
/// Single words are said again and again by people too: "no, no, no, no".
const STUCK_WORD: usize = 6;

/// Removes phrases nobody spoke, and collapses what a stuck decoder repeats.
pub(super) fn guard(phrases: &mut Vec<Phrase>) {
    phrases.retain(|phrase| !invented(phrase));
    for phrase in phrases {
        collapse(&mut phrase.words);
    }
}

fn invented(phrase: &Phrase) -> bool {
    let wordless = phrase.words.iter().all(|word| letters(&word.text).is_empty());
    wordless || (phrase.no_speech > NO_SPEECH && confidence(phrase) < UNSURE)
}

/// Mean log probability of the tokens, or of the words where the engine has no tokens.
fn confidence(phrase: &Phrase) -> f32 {
    let tokens = phrase.words.iter().flat_map(|word| &word.tokens).map(|token| token.logprob);
    let words = phrase.words.iter().map(|word| word.probability.max(1e-6).ln());
    mean(tokens).or_else(|| mean(words)).unwrap_or(0.0)
}

fn mean(values: impl Iterator<Item = f32>) -> Option<f32> {
    let (sum, count) = values.fold((0.0, 0u32), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f32)
}

/// Keeps the first of a group that is repeated without end.
fn collapse(words: &mut Vec<Word>) {
    let said: Vec<String> = words.iter().map(|word| letters(&word.text)).collect();
    let mut keep = vec![true; words.len()];
    let mut at = 0;
    while at < said.len() {
        let stuck = (1..=LONGEST_GROUP).find_map(|group| {
            let times = repetitions(&said[at..], group);
            (times >= if group == 1 { STUCK_WORD } else { STUCK }).then_some((group, times))
        });
        match stuck {
            Some((group, times)) => {
                keep[at + group..at + group * times].fill(false);
                at += group * times;
            }
            None => at += 1,
        }
    }
    let mut keep = keep.into_iter();
    words.retain(|_| keep.next().unwrap_or(true));
}

/// How often the first `group` words stand in a row.
fn repetitions(said: &[String], group: usize) -> usize {
    let Some(first) = said.get(..group) else { return 0 };
    said.chunks_exact(group).take_while(|next| *next == first).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcript::Span;

    fn phrase(text: &str) -> Phrase {
        let words = text
            .split_whitespace()
            .map(|word| Word {
                text: format!(" {word}"),
                span: Span::default(),
                probability: 0.9,
                tokens: vec![],
            })
            .collect();
        Phrase { words, temperature: 0.0, no_speech: 0.0 }
    }

    fn guarded(text: &str) -> String {
        let mut phrases = vec![phrase(text)];
        guard(&mut phrases);
        phrases.iter().flat_map(|p| &p.words).map(|word| word.text.trim()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_stuck_decoder_is_heard_once() {
        assert_eq!(guarded("thank you thank you Thank you, thank you thank you"), "thank you");
        assert_eq!(guarded("so so so so so so so it went on"), "so it went on");
        assert_eq!(guarded("a b c d e a b c d e a b c d e a b c d e f"), "a b c d e f");
    }

    #[test]
    fn people_may_repeat_themselves() {
        for text in [
            "no, no, no, no",
            "very very very good",
            "bye bye bye",
            "one two one two one two",
            "that that is is",
        ] {
            assert_eq!(guarded(text), text);
        }
    }

    #[test]
    fn punctuation_alone_is_no_word() {
        assert_eq!(guarded(". ... !"), "");
    }

    #[test]
    fn silence_that_the_model_doubts_itself_is_dropped_and_sure_words_are_kept() {
        let mut unsure = phrase("thanks for watching");
        unsure.no_speech = 0.8;
        let mut sure = unsure.clone();
        unsure.words.iter_mut().for_each(|word| word.probability = 0.2);
        sure.words.iter_mut().for_each(|word| word.probability = 0.9);
        let mut phrases = vec![unsure, sure.clone()];
        guard(&mut phrases);
        assert_eq!(phrases, [sure]);
    }
}
