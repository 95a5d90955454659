//! Guards against invented text: what a recogniser writes when there is nothing to hear, or when it is stuck.
//!
//! The first guard is that nothing but speech is ever asked about, and the second is the engine's own fallback
//! ladder. These are the last ones, after the decode. They remove words only on strong evidence, because a word
//! wrongly removed is as bad as one wrongly invented. Rules and thresholds: OpenAI's `whisper/transcribe.py`
//! (no-speech and log probability); the repetition rule is ours. What needs the prompt or the text as it was decoded is
//! in `engine::guard`.

use crate::transcript::{Phrase, Word, is_speakable};

use super::stitch::letters;

/// Above it the model itself says that nobody spoke, if it was also unsure of its words.
const NO_SPEECH: f32 = 0.6;
/// Mean log probability below which the model was unsure.
const UNSURE: f32 = -1.0;
/// Groups said this often in a row, with nothing between, may be a stuck decoder's.
const STUCK: usize = 4;
/// Single words are said again and again by people too: "no, no, no, no".
const STUCK_WORD: usize = 6;
/// Whole sentences are not.
const STUCK_SENTENCE: usize = 3;
/// The least words of a sentence.
const SENTENCE: usize = 6;
/// So many letters tell whether there was time to say them.
const LETTERS: usize = 20;
/// The most words that a repetition is looked for among: more than a window holds.
const MOST_WORDS: usize = 1000;

/// Removes phrases nobody spoke, and collapses what a stuck decoder repeats.
pub(super) fn guard(phrases: &mut Vec<Phrase>) {
    phrases.retain(|phrase| !invented(phrase));
    collapse(phrases);
    phrases.retain(|phrase| !phrase.words.is_empty());
}

fn invented(phrase: &Phrase) -> bool {
    let wordless = phrase.words.iter().all(|word| letters(&word.text).is_empty());
    wordless || (phrase.no_speech > NO_SPEECH && mean_logprob(&phrase.words) <= UNSURE)
}

/// Mean log probability of the tokens, or of the words where the engine has no tokens.
fn mean_logprob(words: &[Word]) -> f32 {
    let tokens = words.iter().flat_map(|word| &word.tokens).map(|token| token.logprob);
    let words = words.iter().map(|word| word.probability.max(1e-6).ln());
    mean(tokens).or_else(|| mean(words)).unwrap_or(0.0)
}

fn mean(values: impl Iterator<Item = f32>) -> Option<f32> {
    let (sum, count) = values.fold((0.0, 0u32), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f32)
}

/// Words that stand in a row again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    start: usize,
    /// Words of the group.
    period: usize,
    times: usize,
}

impl Run {
    fn end(self) -> usize {
        self.start + self.period * self.times
    }
}

/// Keeps the first of a group that a stuck decoder repeats, across phrases, whatever its length. People repeat
/// themselves too, so there must be evidence: the model says that nobody spoke, or doubts what it repeats, or has put
/// the words into less time than anybody needs to say them. Real repetition has the time that it took.
fn collapse(phrases: &mut [Phrase]) {
    let no_speech = phrases.iter().map(|phrase| phrase.no_speech).fold(0.0, f32::max);
    let words: Vec<Word> =
        phrases.iter().flat_map(|phrase| &phrase.words).take(MOST_WORDS).cloned().collect();
    let said: Vec<String> = words.iter().map(|word| letters(&word.text)).collect();
    let mut keep = vec![true; words.len()];
    let mut at = 0;
    while at < said.len() {
        let Some(run) = repetition(&said, at) else {
            at += 1;
            continue;
        };
        let doubted = no_speech > NO_SPEECH || mean_logprob(&words[run.start..run.end()]) < UNSURE;
        let group = |n: usize| run.start + n * run.period..run.start + (n + 1) * run.period;
        let mut dropped = vec![doubted; run.times];
        // Word times are only about right, so some groups are looked at together: three, and more of short words.
        let letters: usize = said[group(0)].iter().map(|word| word.chars().count()).sum();
        let together = LETTERS.div_ceil(letters.max(1)).clamp(3, run.times.max(3));
        for first in 0..(run.times + 1).saturating_sub(together) {
            let some = first..first + together;
            if !is_speakable(&words[group(some.start).start..group(some.end - 1).end]) {
                dropped[some].fill(true);
            }
        }
        for n in (1..run.times).filter(|n| dropped[*n]) {
            keep[group(n)].fill(false);
        }
        // The window may have ended within the next one.
        let rest = &said[run.end()..];
        if dropped[run.times - 1] && rest.len() < run.period && said[run.start..].starts_with(rest) {
            keep[run.end()..].fill(false);
        }
        at = run.end();
    }
    let mut keep = keep.into_iter();
    for phrase in phrases {
        phrase.words.retain(|_| keep.next().unwrap_or(true));
    }
}

/// The group that stands at `at` more often than people say one, the shortest if there are several.
fn repetition(said: &[String], at: usize) -> Option<Run> {
    let said = &said[at..];
    (1..=said.len() / STUCK_SENTENCE).find_map(|period| {
        let same = said.iter().zip(&said[period..]).take_while(|(a, b)| a == b).count();
        let times = 1 + same / period;
        let most = match period {
            1 => STUCK_WORD,
            SENTENCE.. => STUCK_SENTENCE,
            _ => STUCK,
        };
        (times >= most).then_some(Run { start: at, period, times })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcript::{Samples, Span};
    use proptest::prelude::*;

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

    /// Words of which each is given so many seconds.
    fn said(text: &str, seconds: f64, probability: f32) -> Vec<Phrase> {
        let mut phrase = phrase(text);
        for (n, word) in phrase.words.iter_mut().enumerate() {
            let at = |n: usize| Samples::from_seconds(n as f64 * seconds);
            word.span = Span::new(at(n), at(n + 1));
            word.probability = probability;
        }
        vec![phrase]
    }

    fn text(phrases: &[Phrase]) -> String {
        phrases.iter().flat_map(|p| &p.words).map(|word| word.text.trim()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn real_repetition_takes_its_time_and_is_text() {
        let lights = "the lights are on ".repeat(8);
        let long = "we will go down to the river and look at the boats ".repeat(4);
        for spoken in [&lights, &long, &"no ".repeat(20), &"the lights ".repeat(8)] {
            let mut phrases = said(spoken, 0.25, 0.8);
            guard(&mut phrases);
            assert_eq!(text(&phrases), spoken.trim());
        }
    }

    #[test]
    fn a_loop_of_any_period_is_heard_once_where_there_is_evidence() {
        for period in 1..40 {
            let group: Vec<String> = (0..period).map(|n| format!("word{n}")).collect();
            let group = group.join(" ");
            let again = format!("{group} ").repeat(9) + group.split(' ').next().unwrap_or_default();
            let expected = if period == 1 { "word0" } else { &group };
            for (what, mut phrases) in [
                ("no time", said(&again, 0.01, 0.99)),
                ("doubt", said(&again, 0.4, 0.3)),
                ("no speech", said(&again, 0.4, 0.9)),
            ] {
                if what == "no speech" {
                    phrases[0].no_speech = 0.8;
                }
                guard(&mut phrases);
                assert_eq!(text(&phrases), expected, "{what}, {period}");
            }
        }
    }

    #[test]
    fn a_loop_runs_across_phrases() {
        let mut phrases: Vec<Phrase> = (0..9).map(|_| phrase("thank you for watching this")).collect();
        guard(&mut phrases);
        assert_eq!(text(&phrases), "thank you for watching this");
        assert_eq!(phrases.len(), 1);
    }

    #[test]
    fn only_what_was_crammed_in_is_dropped() {
        let mut phrases = said(&"no ".repeat(40), 0.3, 0.9);
        let words = &mut phrases[0].words;
        let end = words[9].span.end;
        words[10..].iter_mut().for_each(|word| word.span = Span::new(end, end));
        guard(&mut phrases);
        let kept = phrases[0].words.len();
        assert!((8..=10).contains(&kept), "{kept} of ten that were said");
    }

    proptest! {
        #[test]
        fn whatever_is_said_at_a_speakable_rate_with_confidence_is_kept(
            words in proptest::collection::vec("[a-c]{1,5}", 0..300), seconds in 0.2..1.0_f64,
        ) {
            let mut phrases = said(&words.join(" "), seconds, 0.8);
            guard(&mut phrases);
            prop_assert_eq!(text(&phrases), words.join(" "));
        }

        #[test]
        fn only_repeated_words_go_whatever_the_evidence(
            words in proptest::collection::vec("[ab]{1,2}", 0..300),
        ) {
            let mut phrases = said(&words.join(" "), 0.0, 0.9);
            guard(&mut phrases);
            let kept: std::collections::HashSet<String> =
                phrases.iter().flat_map(|p| &p.words).map(|word| word.text.trim().to_owned()).collect();
            prop_assert_eq!(kept, words.into_iter().collect());
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
