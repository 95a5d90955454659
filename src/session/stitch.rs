//! Joins what neighbouring windows heard, so that no word is lost or doubled at a seam.
//!
//! By time first: a word belongs to the window that owns its midpoint. Times are only about right, so by agreement
//! second: where both neighbours heard the same word and both thought it theirs, the later one drops it; where both
//! gave it away, the later one keeps it. Two texts are never joined by their letters alone.

use crate::transcript::{Phrase, Recognition, Samples, Span, Word};

use super::window::Cut;

/// How far two windows may disagree about when the same word was spoken.
const DRIFT: Samples = Samples::from_millis(500);
/// How many words at a seam are compared.
const REACH: usize = 5;

/// Remembers what the previous window of the utterance said about the seam.
#[derive(Clone, Default)]
pub(super) struct Stitcher {
    /// The last words it kept.
    kept: Vec<Word>,
    /// The words it heard beyond its part and left to its neighbour.
    left: Vec<Word>,
}

impl Stitcher {
    /// Reduces what a window heard to its own words. `last` says that no window of the utterance follows, `first`
    /// that none came before: at the utterance's own edges there is nobody to leave a word to.
    pub(super) fn own(&mut self, recognition: Recognition, cut: Cut, first: bool, last: bool) -> Vec<Phrase> {
        if first {
            *self = Self::default();
        }
        let left_to_us = std::mem::take(&mut self.left);
        let mut ours = Vec::new();
        for mut phrase in recognition.phrases {
            let mut words = Vec::with_capacity(phrase.words.len());
            for mut word in phrase.words {
                word.span = clamp(word.span, cut.heard);
                let midpoint = word.span.midpoint();
                if !last && midpoint >= cut.owned.end {
                    self.left.push(word);
                } else if first || midpoint >= cut.owned.start || left_to_us.iter().any(|w| same(w, &word)) {
                    words.push(word);
                }
            }
            phrase.words = words;
            ours.push(phrase);
        }
        self.drop_heard_twice(&mut ours);
        ours.retain(|phrase| !phrase.words.is_empty());
        ours
    }

    /// How many of the first words repeat the last ones that were told, whatever their times: those of a draft are
    /// only guesses, and one that is lengthened to the left hears its neighbour's words too.
    pub(super) fn repeated(&self, words: &[Word]) -> usize {
        let said = |word: &Word| letters(&word.text);
        (1..=words.len().min(self.kept.len()))
            .rev()
            .find(|n| self.kept[self.kept.len() - n..].iter().map(said).eq(words[..*n].iter().map(said)))
            .unwrap_or(0)
    }

    /// Forgets the neighbour: its audio was lost, so nothing it said can be doubled.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Removes the longest run of first words that equals a run of the neighbour's last ones.
    fn drop_heard_twice(&self, ours: &mut [Phrase]) {
        let heads: Vec<&Word> = ours.iter().flat_map(|phrase| &phrase.words).take(REACH).collect();
        let twice = (1..=heads.len().min(self.kept.len()))
            .rev()
            .find(|n| {
                self.kept[self.kept.len() - n..].iter().zip(&heads).all(|(theirs, ours)| same(theirs, ours))
            })
            .unwrap_or(0);
        let mut left = twice;
        for phrase in ours.iter_mut() {
            let here = left.min(phrase.words.len());
            phrase.words.drain(..here);
            left -= here;
        }
        let Some(end) = self.kept.last().map(|word| word.span.end) else { return };
        // What is left may still overlap the neighbour's last word by a little.
        for word in ours.iter_mut().flat_map(|phrase| &mut phrase.words) {
            word.span = Span::new(word.span.start.max(end), word.span.end.max(end));
        }
    }

    /// Remembers what was told of a window, to compare the next one with it.
    pub(super) fn told(&mut self, ours: &[Phrase]) {
        let mut tail: Vec<Word> =
            ours.iter().flat_map(|phrase| &phrase.words).rev().take(REACH).cloned().collect();
        tail.reverse();
        if !tail.is_empty() {
            self.kept = tail;
        }
    }
}

/// Whether two windows mean the same spoken word.
pub(super) fn same(a: &Word, b: &Word) -> bool {
    let apart = a.span.midpoint().0.abs_diff(b.span.midpoint().0);
    apart <= DRIFT.0 && !letters(&a.text).is_empty() && letters(&a.text) == letters(&b.text)
}

/// A word without its spaces, punctuation and capitals.
pub(super) fn letters(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

fn clamp(span: Span, within: Span) -> Span {
    Span::new(span.start.clamp(within.start, within.end), span.end.clamp(within.start, within.end))
}
