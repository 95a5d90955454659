//! Which of the words that are being spoken may be shown as settled: local agreement over consecutive hypotheses.
//!
//! The open part of an utterance is decoded again and again while it grows. A word is *stable* once two hypotheses
//! in a row say it in the same place, the later one has heard on for a while behind it, and the model was sure of
//! it (LocalAgreement-2, <https://arxiv.org/abs/2307.14743>; the two further conditions are ours). Stable words
//! are a promise: the final begins with them, whatever the final decode says. That it hardly ever says something
//! else is what the conditions are for.

use crate::transcript::{Phrase, Samples, Span, Word};

use super::stitch::{letters, same};

/// What it takes to promise a word, apart from two hypotheses that agree on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Promise {
    /// How much audio must have been heard behind it: the model revises what stands at the edge of its window.
    pub held_back: Samples,
    /// How sure both hypotheses must be of it, 0 to 1.
    pub sure: f32,
}

impl Default for Promise {
    fn default() -> Self {
        Self { held_back: Samples::from_millis(800), sure: 0.85 }
    }
}

/// What has been said of the open part of one utterance.
#[derive(Default)]
pub(super) struct Agreement {
    promise: Promise,
    /// Told, and not in a final yet.
    stable: Vec<Word>,
    /// What the newest hypothesis says after them.
    tentative: Vec<Word>,
}

impl Agreement {
    pub(super) fn new(promise: Promise) -> Self {
        Self { promise, ..Self::default() }
    }

    /// Takes a hypothesis for the open part, made of the audio up to `heard`. Whether there is something new to show.
    pub(super) fn hear(&mut self, mut words: Vec<Word>, heard: Samples) -> bool {
        words.drain(..covered(&self.stable, &words));
        let edge = heard.saturating_sub(self.promise.held_back);
        let agreed = words
            .iter()
            .zip(&self.tentative)
            .take_while(|(new, old)| {
                // Commas and capitals come and go while a sentence grows; the newer ones are told.
                same(new, old)
                    && new.span.end <= edge
                    && new.probability.min(old.probability) >= self.promise.sure
            })
            .count();
        let before = std::mem::replace(&mut self.tentative, words.split_off(agreed));
        self.stable.append(&mut words);
        agreed > 0 || !before.iter().map(|word| &word.text).eq(self.tentative.iter().map(|word| &word.text))
    }

    pub(super) fn stable(&self) -> &[Word] {
        &self.stable
    }

    pub(super) fn tentative(&self) -> &[Word] {
        &self.tentative
    }

    /// Makes a final keep what was promised, and forgets what it tells. `owned` is the final's part of the audio;
    /// `last` says that it is the rest of its utterance. Whether the final said other words.
    pub(super) fn settle(&mut self, phrases: &mut Vec<Phrase>, owned: Span, last: bool) -> bool {
        let due = if last {
            self.stable.len()
        } else {
            self.stable.partition_point(|word| word.span.midpoint() < owned.end)
        };
        let promised: Vec<Word> = self.stable.drain(..due).collect();
        let changed = keep(&promised, phrases);
        // The final may have told a word too that we had counted to what comes after it.
        let told: Vec<&Word> = phrases.iter().flat_map(|phrase| &phrase.words).collect();
        let again = (1..=self.stable.len().min(told.len())).rev().find(|n| {
            told[told.len() - n..].iter().zip(&self.stable).all(|(told, promised)| same(told, promised))
        });
        self.stable.drain(..again.unwrap_or(0));
        if last {
            self.tentative.clear();
        } else {
            self.tentative.retain(|word| word.span.midpoint() >= owned.end);
        }
        changed
    }
}

/// Puts the promised words in the place of those that say the same. Whether those were other words, and not only
/// written otherwise.
fn keep(promised: &[Word], phrases: &mut Vec<Phrase>) -> bool {
    let heard: Vec<Word> = phrases.iter().flat_map(|phrase| &phrase.words).cloned().collect();
    let said = covered(promised, &heard);
    let alike = |same: fn(&Word, &Word) -> bool| {
        said == promised.len() && promised.iter().zip(&heard).all(|(a, b)| same(a, b))
    };
    if alike(|a, b| a.text == b.text) {
        return false;
    }
    let broken = !alike(|a, b| letters(&a.text) == letters(&b.text));
    let mut gone = said;
    for phrase in phrases.iter_mut() {
        let here = gone.min(phrase.words.len());
        phrase.words.drain(..here);
        gone -= here;
    }
    let end = promised.last().map_or(Samples(0), |word| word.span.end);
    for word in phrases.iter_mut().flat_map(|phrase| &mut phrase.words) {
        word.span = Span::new(word.span.start.max(end), word.span.end.max(end));
    }
    match phrases.first_mut() {
        Some(phrase) => {
            phrase.words.splice(..0, promised.iter().cloned());
        }
        None => phrases.push(Phrase { words: promised.to_vec(), ..Phrase::default() }),
    }
    phrases.retain(|phrase| !phrase.words.is_empty());
    broken
}

/// How many of the first words of `heard` say what `told` says: where the cheapest alignment of the two ends, in
/// edits of whole words; of equally cheap ones one that ends in the same word, and then the one that ends closest
/// in time.
fn covered(told: &[Word], heard: &[Word]) -> usize {
    let Some(end) = told.last().map(|word| word.span.end) else { return 0 };
    let told: Vec<String> = told.iter().map(|word| letters(&word.text)).collect();
    let mut costs: Vec<usize> = (0..=heard.len()).collect();
    for word in &told {
        let mut diagonal = costs[0];
        costs[0] += 1;
        for (n, other) in heard.iter().enumerate() {
            let replaced = diagonal + usize::from(*word != letters(&other.text));
            diagonal = costs[n + 1];
            costs[n + 1] = replaced.min(diagonal + 1).min(costs[n] + 1);
        }
    }
    let apart = |n: usize| match n.checked_sub(1) {
        Some(last) => heard[last].span.end.0.abs_diff(end.0),
        None => end.0.abs_diff(heard.first().map_or(end, |word| word.span.start).0),
    };
    let differs = |n: usize| n.checked_sub(1).is_none_or(|n| told.last() != Some(&letters(&heard[n].text)));
    (0..=heard.len()).min_by_key(|&n| (costs[n], differs(n), apart(n))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words of 300 ms, one every 400 ms.
    fn words(text: &str) -> Vec<Word> {
        let spans =
            (0..).map(|n| Span::new(Samples::from_millis(n * 400), Samples::from_millis(n * 400 + 300)));
        text.split_whitespace()
            .zip(spans)
            .map(|(text, span)| Word { text: format!(" {text}"), span, probability: 0.9, tokens: vec![] })
            .collect()
    }

    fn text(words: &[Word]) -> String {
        words.iter().map(|word| word.text.trim()).collect::<Vec<_>>().join(" ")
    }

    fn phrases(text: &str) -> Vec<Phrase> {
        vec![Phrase { words: words(text), ..Phrase::default() }]
    }

    fn told(phrases: &[Phrase]) -> String {
        phrases.iter().map(|phrase| text(&phrase.words)).collect::<Vec<_>>().join(" ")
    }

    const LATE: Samples = Samples::from_millis(60_000);
    const ALL: Span = Span { start: Samples(0), end: LATE };

    #[test]
    fn two_in_a_row_make_a_word_stable_and_one_does_not() {
        let mut agreement = Agreement::default();
        agreement.hear(words("the cat sat"), LATE);
        assert_eq!(
            (text(agreement.stable()), text(agreement.tentative())),
            (String::new(), "the cat sat".into())
        );
        agreement.hear(words("the cat sits on"), LATE);
        assert_eq!(
            (text(agreement.stable()), text(agreement.tentative())),
            ("the cat".into(), "sits on".into())
        );
        agreement.hear(words("a cat sits on it"), LATE);
        assert_eq!(
            (text(agreement.stable()), text(agreement.tentative())),
            ("the cat sits on".into(), "it".into())
        );
    }

    #[test]
    fn the_edge_of_the_audio_and_doubtful_words_are_held_back() {
        let mut agreement = Agreement::default();
        agreement.hear(words("one two three"), Samples::from_millis(1200));
        agreement.hear(words("one two three"), Samples::from_millis(1600));
        assert_eq!(text(agreement.stable()), "one two");
        let mut doubtful = words("one two three four");
        doubtful[2].probability = 0.3;
        agreement.hear(doubtful.clone(), LATE);
        agreement.hear(doubtful, LATE);
        assert_eq!(text(agreement.stable()), "one two");
    }

    #[test]
    fn a_final_keeps_what_was_promised() {
        for (heard, expected, changed) in [
            ("the cat sat on it", "the cat sat on it", false),
            ("a cat sat on it", "the cat sat on it", true),
            ("cat sat on it", "the cat sat on it", true),
            ("the big cat sat on it", "the cat sat on it", true),
            ("the Cat, sat", "the cat sat", false),
            ("something else entirely here", "the cat entirely here", true),
            ("", "the cat", true),
        ] {
            let mut agreement = Agreement::default();
            agreement.hear(words("the cat"), LATE);
            agreement.hear(words("the cat"), LATE);
            let mut phrases = phrases(heard);
            assert_eq!(
                (agreement.settle(&mut phrases, ALL, true), told(&phrases)),
                (changed, expected.into())
            );
            assert!(agreement.stable.is_empty() && agreement.tentative.is_empty());
        }
    }

    #[test]
    fn words_behind_a_seam_stay_for_the_next_final_and_are_told_once() {
        let mut agreement = Agreement::default();
        agreement.hear(words("one two three four five"), LATE);
        agreement.hear(words("one two three four six"), LATE);
        let seam = Span::new(Samples(0), Samples::from_millis(850));
        // Its last word lies behind the seam by our times and before it by the final's.
        let mut first = phrases("one two three");
        assert!(!agreement.settle(&mut first, seam, false));
        assert_eq!(told(&first), "one two three");
        assert_eq!((text(agreement.stable()), text(agreement.tentative())), ("four".into(), "six".into()));
    }
}
