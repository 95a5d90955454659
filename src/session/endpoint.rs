//! Frame probabilities in, starts and ends of utterances out.
//!
//! Hysteresis: speech begins above `onset` and goes on above `offset`. Neither edge is ever decided by a single
//! frame: a start needs `min_speech` of voiced frames close together, an end needs `hangover` without any.

use crate::transcript::{Samples, Span};
use crate::vad::FRAME;

/// When an utterance starts and ends.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointConfig {
    /// Probability above which a frame may begin an utterance.
    pub onset: f32,
    /// Probability below which a frame no longer belongs to one.
    pub offset: f32,
    /// Voiced audio it takes to begin one.
    pub min_speech: Samples,
    /// Unvoiced audio it takes to end one.
    pub hangover: Samples,
    /// Audio before the first voiced frame that is taken along: consonants are quieter than vowels.
    pub preroll: Samples,
    /// Audio after the last voiced frame that is taken along; at most `hangover` is there to take.
    pub postroll: Samples,
}

impl Default for EndpointConfig {
    fn default() -> Self {
        Self {
            onset: 0.5,
            offset: 0.35,
            min_speech: Samples::from_millis(160),
            hangover: Samples::from_millis(500),
            preroll: Samples::from_millis(300),
            postroll: Samples::from_millis(160),
        }
    }
}

impl EndpointConfig {
    /// The least difference between the thresholds: without one they flicker.
    const HYSTERESIS: f32 = 0.15;

    /// Another threshold for a start; the one for an end keeps its distance below it.
    #[must_use]
    pub fn with_threshold(self, onset: f32) -> Self {
        let offset = (onset - Self::HYSTERESIS).max(onset / 2.0);
        Self { onset, offset, ..self }
    }

    /// Another silence to end with. The post-roll is never longer.
    #[must_use]
    pub fn with_hangover(self, hangover: Samples) -> Self {
        let hangover = hangover.max(Samples(2 * FRAME as u64));
        Self { hangover, postroll: Self::default().postroll.min(hangover), ..self }
    }

    /// As much audio around speech as nobody has to wait for: with it, first and last words are heard better.
    #[must_use]
    pub fn with_room(self) -> Self {
        let room = Samples::from_millis(1_000);
        let hangover = self.hangover.max(room);
        Self { preroll: self.preroll.max(room), postroll: self.postroll.max(room), hangover, ..self }
    }

    /// Another pre-roll.
    #[must_use]
    pub fn with_preroll(self, preroll: Samples) -> Self {
        Self { preroll, ..self }
    }
}

/// What a frame decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edge {
    /// An utterance began here, pre-roll included.
    Start(Samples),
    /// The utterance ended here, post-roll included.
    End(Samples),
}

/// Unvoiced audio after which a start that has not gathered `min_speech` is forgotten.
const PATIENCE: Samples = Samples::from_millis(200);

pub(super) struct Endpointer {
    config: EndpointConfig,
    state: State,
    /// The end of the previous utterance: a pre-roll never reaches back into it.
    floor: Samples,
}

enum State {
    Silence,
    /// Voiced frames were heard, but not enough of them yet.
    Maybe {
        /// From the first voiced frame to the last.
        heard: Span,
        voiced: u64,
    },
    Speech {
        last_voiced: Samples,
    },
}

impl Endpointer {
    pub(super) fn new(config: EndpointConfig) -> Self {
        Self { config, state: State::Silence, floor: Samples(0) }
    }

    /// Takes the frame that ends at `end`.
    pub(super) fn push(&mut self, end: Samples, probability: f32) -> Option<Edge> {
        let start = end.saturating_sub(Samples(FRAME as u64));
        match &mut self.state {
            State::Silence if probability >= self.config.onset => {
                self.state = State::Maybe { heard: Span::new(start, end), voiced: FRAME as u64 };
                None
            }
            State::Silence => None,
            State::Maybe { heard, voiced } => {
                if probability >= self.config.onset {
                    heard.end = end;
                    *voiced += FRAME as u64;
                    if *voiced >= self.config.min_speech.0 {
                        let start = heard.start.saturating_sub(self.config.preroll).max(self.floor);
                        self.state = State::Speech { last_voiced: end };
                        return Some(Edge::Start(start));
                    }
                } else if end - heard.end > PATIENCE {
                    self.state = State::Silence;
                }
                None
            }
            State::Speech { last_voiced } => {
                if probability >= self.config.offset {
                    *last_voiced = end;
                    return None;
                }
                (end - *last_voiced >= self.config.hangover).then(|| self.close(end))?
            }
        }
    }

    /// Ends the open utterance now, at `end` at the latest.
    pub(super) fn close(&mut self, end: Samples) -> Option<Edge> {
        let State::Speech { last_voiced } = self.state else {
            return None;
        };
        self.floor = (last_voiced + self.config.postroll).min(end);
        self.state = State::Silence;
        Some(Edge::End(self.floor))
    }

    /// Where the open utterance would end if nobody spoke on, once all that belongs to it has been heard. The
    /// decision follows when the hangover is over.
    pub(super) fn settled(&self, now: Samples) -> Option<Samples> {
        match self.state {
            State::Speech { last_voiced } if now - last_voiced >= self.config.postroll => {
                Some(last_voiced + self.config.postroll)
            }
            _ => None,
        }
    }

    /// Other settings from here on. What has been heard of an utterance stays heard.
    pub(super) fn reconfigure(&mut self, config: EndpointConfig) {
        self.config = config;
    }

    /// Audio before this position will never be asked for again while no utterance is open.
    pub(super) fn needs_from(&self, now: Samples) -> Samples {
        let first = match &self.state {
            State::Maybe { heard, .. } => heard.start,
            _ => now,
        };
        first.saturating_sub(self.config.preroll).max(self.floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One character a frame: `#` voiced, `-` in between, `.` unvoiced. Answers as (start or end, frame of decision).
    fn edges(frames: &str) -> Vec<(char, u64, usize)> {
        let mut endpointer = Endpointer::new(EndpointConfig {
            min_speech: Samples(3 * FRAME as u64),
            hangover: Samples(4 * FRAME as u64),
            preroll: Samples(2 * FRAME as u64),
            postroll: Samples(FRAME as u64),
            ..EndpointConfig::default()
        });
        let mut found = Vec::new();
        for (n, symbol) in frames.chars().enumerate() {
            let probability = match symbol {
                '#' => 0.9,
                '-' => 0.4,
                _ => 0.1,
            };
            match endpointer.push(Samples(((n + 1) * FRAME) as u64), probability) {
                Some(Edge::Start(at)) => found.push(('s', at.0 / FRAME as u64, n)),
                Some(Edge::End(at)) => found.push(('e', at.0 / FRAME as u64, n)),
                None => {}
            }
        }
        found
    }

    #[test]
    fn no_single_frame_decides() {
        assert_eq!(edges(".....#.........#.........."), []);
        assert_eq!(edges("....####...####...####....."), [('s', 2, 6), ('e', 23, 25)]);
    }

    #[test]
    fn a_start_is_forgotten_when_its_frames_are_far_apart() {
        assert_eq!(edges("#.......#.......#......."), []);
        assert_eq!(edges("....#..#..#......"), [('s', 2, 10), ('e', 12, 14)]);
    }

    #[test]
    fn the_band_between_the_thresholds_keeps_speech_and_begins_none() {
        assert_eq!(edges("-----------------"), []);
        assert_eq!(edges("..###-----------...."), [('s', 0, 4), ('e', 17, 19)]);
    }

    #[test]
    fn a_preroll_never_reaches_into_the_previous_utterance() {
        assert_eq!(edges("###....###...."), [('s', 0, 2), ('e', 4, 6), ('s', 5, 9), ('e', 11, 13)]);
    }

    #[test]
    fn closing_ends_only_what_is_open() {
        let mut endpointer = Endpointer::new(EndpointConfig::default());
        assert_eq!(endpointer.close(Samples(10_000)), None);
    }
}
