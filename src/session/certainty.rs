//! Whether anybody spoke at all, by what the detector and the engine say together.
//!
//! A detector that is never certain may have heard music, and an engine that writes words over music doubts them, or
//! doubts that anybody spoke, more than of words that were said. An electric guitar became "One, two, three, four.":
//! three frames above 0.9, mean log probability -0.31, no speech 0.23 (Silero 6, OpenAI's `base`). No evidence is enough
//! alone: of 205 utterances of real speech 12 were never certain, one of them, heard right, at -0.32 and 0.04.

use crate::transcript::Phrase;

/// So many frames above [`crate::vad::Vad::certain`] are somebody who speaks: 160 ms.
const CERTAIN_FRAMES: u64 = 5;
/// Mean log probability of the tokens below which the engine's words need a detector that was certain.
const SURE: f32 = -0.4;
/// And so do words of which the engine says with this probability that nobody spoke.
const NO_SPEECH: f32 = 0.15;

/// Counts the frames that are certainly speech, since the last silence.
#[derive(Default)]
pub(super) struct Certainty {
    frames: u64,
}

impl Certainty {
    /// Takes a frame, if the detector has a probability above which it is certain.
    pub(super) fn hear(&mut self, probability: f32, certain: Option<f32>) {
        self.frames += u64::from(certain.is_none_or(|certain| probability >= certain));
    }

    /// A window was cut. Whether somebody certainly spoke; behind a silence the count begins anew.
    pub(super) fn cut(&mut self, silence: bool) -> bool {
        let spoken = self.frames >= CERTAIN_FRAMES;
        if silence {
            self.frames = 0;
        }
        spoken
    }
}

/// Whether the engine is sure enough of these words for nobody to ask the detector.
pub(super) fn is_sure(phrases: &[Phrase]) -> bool {
    let tokens = phrases.iter().flat_map(|phrase| &phrase.words).flat_map(|word| &word.tokens);
    let (sum, count) = tokens.fold((0.0, 0u32), |(sum, count), token| (sum + token.logprob, count + 1));
    let spoken = phrases.iter().all(|phrase| phrase.no_speech <= NO_SPEECH);
    spoken && (count == 0 || sum / count as f32 >= SURE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcript::{Span, Token, Word};

    #[test]
    fn a_few_certain_frames_are_speech_and_silence_begins_anew() {
        let mut certainty = Certainty::default();
        (0..100).for_each(|_| certainty.hear(0.8, Some(0.9)));
        assert!(!certainty.cut(true));
        (0..5).for_each(|_| certainty.hear(0.95, Some(0.9)));
        assert!(certainty.cut(false) && certainty.cut(true) && !certainty.cut(true));
        // A detector that knows no certainty is believed.
        (0..5).for_each(|_| certainty.hear(0.5, None));
        assert!(certainty.cut(true));
    }

    #[test]
    fn words_are_sure_by_the_mean_of_their_tokens() {
        let silent = Phrase { no_speech: 0.23, ..Phrase::default() };
        assert!(!is_sure(&[silent]));
        let phrase = |logprob: f32| {
            let token = Token { id: 1, bytes: b" one".to_vec(), logprob };
            let word =
                Word { text: " one".into(), span: Span::default(), probability: 0.5, tokens: vec![token] };
            Phrase { words: vec![word], ..Phrase::default() }
        };
        assert!(is_sure(&[phrase(-0.2), phrase(-0.5)]) && !is_sure(&[phrase(-0.46)]) && is_sure(&[]));
    }
}
