//! Word error rate: how far what was recognised is from what was said.
//!
//! Both texts are normalised, then compared word by word with the smallest number of substitutions, deletions and
//! insertions. The normaliser is a basic one: lower case, apostrophes dropped (`don't` is `dont`), every other
//! punctuation mark and symbol a space. Deliberately absent: numbers as words, spellings, abbreviations, and
//! languages that write no spaces; figures from here compare only with figures from here.

use std::iter::Sum;
use std::ops::Add;

/// What it takes to turn what was recognised into what was said. Scores of many texts add up to the score of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// Words recognised as others.
    pub substitutions: usize,
    /// Words not recognised.
    pub deletions: usize,
    /// Words that nobody said.
    pub insertions: usize,
    /// Words said.
    pub reference_words: usize,
}

impl Score {
    /// All errors together.
    pub fn errors(&self) -> usize {
        self.substitutions + self.deletions + self.insertions
    }

    /// Errors per word said, 0 at best and above 1 where much was invented. Of silence, invented words count whole.
    pub fn rate(&self) -> f64 {
        self.errors() as f64 / self.reference_words.max(1) as f64
    }
}

impl Add for Score {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            substitutions: self.substitutions + other.substitutions,
            deletions: self.deletions + other.deletions,
            insertions: self.insertions + other.insertions,
            reference_words: self.reference_words + other.reference_words,
        }
    }
}

impl Sum for Score {
    fn sum<I: Iterator<Item = Self>>(scores: I) -> Self {
        scores.fold(Self::default(), Add::add)
    }
}

/// Compares what was recognised with what was said. Takes time with the product of both lengths, and memory with
/// the length of one.
pub fn score(reference: &str, hypothesis: &str) -> Score {
    let (said, heard) = (normalise(reference), normalise(hypothesis));
    // One row of the Levenshtein table: the best way from no word said, so far, to each beginning of what was heard.
    let invented = |insertions| Score { insertions, ..Score::default() };
    let mut row: Vec<Score> = (0..=heard.len()).map(invented).collect();
    for said in &said {
        let mut diagonal = row[0];
        row[0].deletions += 1;
        for (n, heard) in heard.iter().enumerate() {
            let above = row[n + 1];
            let substituted =
                Score { substitutions: diagonal.substitutions + usize::from(said != heard), ..diagonal };
            let deleted = Score { deletions: above.deletions + 1, ..above };
            let inserted = Score { insertions: row[n].insertions + 1, ..row[n] };
            // The first of equals is taken, so the same texts always get the same split.
            let best = [substituted, deleted, inserted].into_iter().min_by_key(Score::errors);
            row[n + 1] = best.expect("three candidates");
            diagonal = above;
        }
    }
    Score { reference_words: said.len(), ..row[heard.len()] }
}

/// The words of a text as they are compared.
pub fn normalise(text: &str) -> Vec<String> {
    let spaced: String = text
        .chars()
        .filter(|c| !['\'', '’', '‘', 'ʼ'].contains(c))
        .map(|c| if is_mark(c) { ' ' } else { c })
        .collect();
    spaced.split_whitespace().map(str::to_lowercase).collect()
}

/// Punctuation and symbols, by the blocks of Unicode they live in. Not simply all that is neither letter nor digit:
/// many scripts write vowels as marks that are neither.
fn is_mark(c: char) -> bool {
    let block = matches!(c,
        '\0'..='\u{bf}' | '\u{d7}' | '\u{f7}' | '\u{55a}'..='\u{55f}' | '\u{589}'..='\u{58a}'
        | '\u{5be}' | '\u{60c}' | '\u{61b}' | '\u{61f}' | '\u{66a}'..='\u{66d}' | '\u{6d4}' | '\u{964}'..='\u{965}'
        | '\u{2000}'..='\u{206f}' | '\u{20a0}'..='\u{20cf}' | '\u{2100}'..='\u{2bff}' | '\u{3000}'..='\u{303f}'
        | '\u{30fb}' | '\u{fe30}'..='\u{fe6f}' | '\u{ff00}'..='\u{ff65}' | '\u{1f000}'..='\u{1faff}');
    block && !c.is_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(reference: &str, hypothesis: &str) -> (usize, usize, usize, usize) {
        let score = score(reference, hypothesis);
        (score.substitutions, score.deletions, score.insertions, score.reference_words)
    }

    #[test]
    fn the_normaliser_is_basic() {
        assert_eq!(normalise("  Don't—stop, it’s 5 p.m.!\n"), ["dont", "stop", "its", "5", "p", "m"]);
        assert_eq!(normalise("¿Qué? «ÜBER» well-known"), ["qué", "über", "well", "known"]);
        assert_eq!(normalise("नमस्ते दुनिया।"), ["नमस्ते", "दुनिया"]);
        assert_eq!(normalise("你好，世界。"), ["你好", "世界"]);
        assert!(normalise(" … -- ♪ ").is_empty());
    }

    #[test]
    fn each_kind_of_error_is_counted() {
        assert_eq!(split("The cat sat.", "the cat sat"), (0, 0, 0, 3));
        assert_eq!(split("the cat sat", "the hat sat"), (1, 0, 0, 3));
        assert_eq!(split("the cat sat", "the sat"), (0, 1, 0, 3));
        assert_eq!(split("the cat sat", "the big cat sat"), (0, 0, 1, 3));
        assert_eq!(split("a b c d", "b x d e"), (1, 1, 1, 4));
        assert_eq!(split("", "thank you"), (0, 0, 2, 0));
        assert_eq!(split("thank you", ""), (0, 2, 0, 2));
        assert_eq!(split("", ""), (0, 0, 0, 0));
    }

    #[test]
    fn scores_add_up_and_rates_are_per_word_said() {
        let all: Score = [score("a b c", "a b"), score("d", "d e f")].into_iter().sum();
        assert_eq!(all, Score { substitutions: 0, deletions: 1, insertions: 2, reference_words: 4 });
        assert_eq!(all.rate(), 0.75);
        assert_eq!(score("", "two words").rate(), 2.0);
        assert_eq!(score("", "").rate(), 0.0);
    }

    #[test]
    fn the_cost_is_a_distance() {
        let texts = ["", "a", "a b a", "b a b a", "c c a", "a a a a a"];
        for one in texts {
            for other in texts {
                let (there, back) = (score(one, other), score(other, one));
                assert_eq!(there.errors(), back.errors(), "{one:?} {other:?}");
                assert_eq!(there.errors() == 0, one == other);
                let (said, heard) = (normalise(one).len(), normalise(other).len());
                assert_eq!(said + there.insertions, heard + there.deletions, "{one:?} {other:?}");
                assert!(there.errors() <= said.max(heard));
            }
        }
    }
}
