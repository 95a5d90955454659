//! Finals as text that only grows, and what they are counted as, the same in every dialect of OpenAI's.

use crate::transcript::{Samples, Word};

/// A text that only grows. All deltas joined are the text, which has no space at its edges.
#[derive(Clone, Debug, Default)]
pub(super) struct Deltas {
    text: String,
    /// Space at the end of the text, which only belongs to it if more comes.
    held: String,
    /// Whether something of the paragraph has been told.
    begun: bool,
}

impl Deltas {
    /// What is new with this final. `None` if there is nothing in it to read.
    pub(super) fn more(&mut self, final_text: &str) -> Option<String> {
        let joined = std::mem::take(&mut self.held) + final_text;
        let fresh = if self.begun { &joined } else { joined.trim_start() };
        let words = fresh.trim_end();
        self.held = fresh[words.len()..].to_owned();
        if words.is_empty() {
            return None;
        }
        let parted = !self.begun && !self.text.is_empty();
        let delta = if parted { format!("\n{words}") } else { words.to_owned() };
        self.begun = true;
        self.text += &delta;
        Some(delta)
    }

    /// What comes now stands on a line of its own, if it is anything at all.
    pub(super) fn paragraph(&mut self) {
        self.begun = false;
        self.held.clear();
    }

    /// Whether the next final begins the text, or a line of it.
    pub(super) fn at_edge(&self) -> bool {
        !self.begun
    }

    /// All deltas so far.
    pub(super) fn into_text(self) -> String {
        self.text
    }
}

/// Samples in one `audio_token`: ours are tenths of a second. OpenAI's are not documented; readers only want a whole
/// number that grows with the audio.
const AUDIO_TOKEN: u64 = 1_600;

/// What a recording counts as.
pub(super) fn audio_tokens(duration: Samples) -> u64 {
    duration.0.div_ceil(AUDIO_TOKEN)
}

/// What a word counts as: one, if its engine has no tokens.
pub(super) fn text_tokens(word: &Word) -> u64 {
    word.tokens.len().max(1) as u64
}
