//! Evidence against what a recogniser wrote, for whoever has it decode again or drops its words. Pure.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;

use crate::transcript::{Phrase, Word, is_speakable};

/// How many times smaller zlib makes a text, as OpenAI's code computes it. Text that repeats itself, with whatever
/// period, is above 2.4. 0 for no text. What is behind the first 64 KB does not count.
pub fn compression_ratio(text: &str) -> f32 {
    const MOST: usize = 64 << 10;
    let text = &text.as_bytes()[..text.len().min(MOST)];
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    // Memory takes every write.
    match encoder.write_all(text).and_then(|()| encoder.finish()) {
        Ok(compressed) if !text.is_empty() => text.len() as f32 / compressed.len() as f32,
        _ => 0.0,
    }
}

/// Phrases of the prompt shorter than this, in words, are what people say.
const SHORTEST_ECHO: usize = 3;
/// The most words of a prompt, and of a phrase, that are compared: more than a window and its prompt ever hold.
const MOST_WORDS: usize = 500;
/// Mean log probability of words that were said: a prompt that holds them makes them likelier than others. An
/// echo over a ringing line has about -0.6, the same words said have -0.3 and above.
const SURE: f32 = -0.4;
/// Above it the model says that nobody spoke.
const NO_SPEECH: f32 = 0.6;

/// Drops phrases that a model took from its prompt and nobody said: those that hold nothing but stretches of the
/// prompt of three words and more, and have further evidence against them. That is a model that doubts its words or
/// that anybody spoke, or words that nobody could say in the time they were given. Words of the prompt that
/// somebody says, as they stand there or among others, are left alone.
pub fn drop_echoes(phrases: &mut Vec<Phrase>, prompt: &str) {
    let prompt: Vec<String> =
        prompt.split_whitespace().map(plain).filter(|word| !word.is_empty()).take(MOST_WORDS).collect();
    if prompt.len() >= SHORTEST_ECHO {
        phrases.retain(|phrase| !(is_from(phrase, &prompt) && is_doubtful(phrase)));
    }
}

/// Whether the phrase is made of stretches of the prompt alone.
fn is_from(phrase: &Phrase, prompt: &[String]) -> bool {
    let text: String = phrase.words.iter().map(|word| word.text.as_str()).collect();
    let said: Vec<String> =
        text.split_whitespace().map(plain).filter(|word| !word.is_empty()).take(MOST_WORDS).collect();
    let mut rest = &said[..];
    while !rest.is_empty() {
        let shared = |from: usize| rest.iter().zip(&prompt[from..]).take_while(|(a, b)| a == b).count();
        let longest = (0..prompt.len()).map(shared).max().unwrap_or(0);
        // The window may have ended within the last stretch.
        let is_end = longest == rest.len() && longest < said.len();
        if longest < SHORTEST_ECHO && !is_end {
            return false;
        }
        rest = &rest[longest..];
    }
    !said.is_empty()
}

fn is_doubtful(phrase: &Phrase) -> bool {
    let unsure = confidence(&phrase.words).is_some_and(|confidence| confidence < SURE);
    unsure || phrase.no_speech > NO_SPEECH || !is_speakable(&phrase.words)
}

/// Mean log probability of the tokens, or of the words where the engine has no tokens.
fn confidence(words: &[Word]) -> Option<f32> {
    let tokens: Vec<f32> = words.iter().flat_map(|word| &word.tokens).map(|token| token.logprob).collect();
    let words = || words.iter().map(|word| word.probability.max(1e-6).ln()).collect();
    let values: Vec<f32> = if tokens.is_empty() { words() } else { tokens };
    (!values.is_empty()).then(|| values.iter().sum::<f32>() / values.len() as f32)
}

fn plain(word: &str) -> String {
    word.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcript::{Samples, Span};
    use proptest::prelude::*;

    /// So many seconds for each word, and so sure of each.
    fn phrase(text: &str, seconds: f64, probability: f32, no_speech: f32) -> Phrase {
        let at = |n: usize| Samples::from_seconds(n as f64 * seconds);
        let word = |(n, word): (usize, &str)| Word {
            text: format!(" {word}"),
            span: Span::new(at(n), at(n + 1)),
            probability,
            tokens: vec![],
        };
        let words = text.split_whitespace().enumerate().map(word).collect();
        Phrase { words, temperature: 0.0, no_speech }
    }

    fn is_kept(prompt: &str, phrase: &Phrase) -> bool {
        let mut phrases = vec![phrase.clone()];
        drop_echoes(&mut phrases, prompt);
        !phrases.is_empty()
    }

    #[test]
    fn repeated_text_is_told_by_zlib_whatever_its_period() {
        assert_eq!(compression_ratio(""), 0.0);
        assert!(compression_ratio("Hello there, how are you?") < 1.1);
        let long = "we went down to the river to look at the boats that had come in overnight";
        for period in ["so ", "thank you ", long] {
            assert!(compression_ratio(&period.repeat(120 / period.len() + 6)) > 2.4, "{period}");
        }
        assert!(compression_ratio(&"no ".repeat(10_000_000)) > 100.0);
    }

    #[test]
    fn what_comes_back_from_the_prompt_over_noise_is_dropped() {
        let prompt = "The assistant is called Jarvix.";
        for (phrase, why) in [
            (phrase("The assistant is called Jarvix.", 0.004, 0.9, 0.0), "in no time"),
            (phrase("The assistant is called Jarvix.", 0.3, 0.54, 0.0), "unsure, as over a ringing line"),
            (phrase("the assistant is called jarvix", 0.3, 0.9, 0.7), "nobody spoke"),
            (
                phrase("The assistant is called Jarvix. The assistant is called Jarvix. The", 0.3, 0.5, 0.0),
                "repeated",
            ),
            (phrase("assistant is called", 0.3, 0.5, 0.0), "a part"),
        ] {
            assert!(!is_kept(prompt, &phrase), "{why}");
        }
    }

    #[test]
    fn words_of_the_prompt_may_be_said() {
        let prompt = "The assistant is called Jarvix. Turn on the lights, turn off the lights.";
        for (phrase, why) in [
            (phrase("The assistant is called Jarvix.", 0.3, 0.8, 0.1), "said clearly"),
            (phrase("Turn on the lights.", 0.3, 0.8, 0.0), "a command that was announced"),
            (phrase("Jarvix.", 0.02, 0.3, 0.9), "too little to tell"),
            (phrase("the lights the lights the lights", 0.2, 0.5, 0.0), "no stretch of three"),
            (phrase("The assistant is called Jarvix and it listens.", 0.3, 0.4, 0.0), "other words too"),
            (phrase("I asked what is on.", 0.3, 0.3, 0.7), "words that happen to be there"),
        ] {
            assert!(is_kept(prompt, &phrase), "{why}");
        }
        assert!(is_kept("", &phrase("Thank you all.", 0.3, 0.3, 0.9)), "no prompt, no echo");
    }

    proptest! {
        #[test]
        fn sure_words_at_a_speakable_rate_are_never_an_echo(
            prompt in "([a-z]{1,8} ){0,40}", said in "([a-z]{1,8} ){0,40}", from_prompt: bool,
        ) {
            let text = if from_prompt { &prompt } else { &said };
            let phrase = phrase(text, 0.3, 0.9, 0.1);
            prop_assert!(is_kept(&prompt, &phrase));
        }

        #[test]
        fn any_text_is_judged(prompt in ".{0,200}", text in ".{0,200}", seconds in 0.0..2.0_f64) {
            is_kept(&prompt, &phrase(&text, seconds, 0.1, 0.9));
            prop_assert!(compression_ratio(&text).is_finite());
        }
    }
}
