//! The timeline's audio, and how an open utterance is cut into windows.
//!
//! A window is at most `max` long. Where an utterance goes on beyond that, it is cut at the quietest moment of
//! the window's last `search`: that moment is the *seam*. Both neighbours hear half an overlap beyond it, so that
//! a word at the seam is whole in at least one of them; which words belong to whom is `stitch`'s business.

use std::collections::VecDeque;
use std::sync::Arc;

use super::pack::PackConfig;
use crate::transcript::{Samples, Span};

/// How utterances are cut.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowConfig {
    /// The longest window.
    pub max: Samples,
    /// How much two neighbours share; the seam is in its middle.
    pub overlap: Samples,
    /// How far back from its latest place the seam may move in search of a quiet moment.
    pub search: Samples,
    /// A last window shorter than this is lengthened to the left: models do badly on snippets.
    pub min: Samples,
    /// A last window that is shorter than this hears what was said before its utterance, if only a short silence lies
    /// between: a sentence is heard better with the one before it. Nothing where utterances share windows.
    pub context: Samples,
    /// How several utterances share a window; nothing where each has its own, as where somebody waits for the words.
    pub pack: Option<PackConfig>,
}

impl Default for WindowConfig {
    fn default() -> Self {
        Self {
            max: Samples::from_millis(10_000),
            overlap: Samples::from_millis(500),
            search: Samples::from_millis(2_000),
            min: Samples::from_millis(3_000),
            context: Samples(0),
            pack: None,
        }
    }
}

impl WindowConfig {
    /// Longer than this, a window holds several utterances.
    const SEVERAL: Samples = Samples::from_millis(15_000);

    /// Windows of another length, with the same overlap.
    pub fn with_max(max: Samples) -> Self {
        Self { max, pack: (max > Self::SEVERAL).then(PackConfig::default), ..Self::default() }
    }

    /// What a last window is lengthened to.
    fn enough(&self) -> Samples {
        self.min.max(self.context).min(self.max)
    }

    /// How far before an utterance its windows may begin.
    pub(super) fn look_back(&self) -> Samples {
        if self.context == Samples(0) { Samples(0) } else { self.enough() }
    }

    /// Half an overlap: what either neighbour hears beyond the seam.
    pub(super) fn reach(&self) -> Samples {
        Samples(self.overlap.0 / 2)
    }
}

/// A window's place: what is decoded, and the part of it whose words are its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) heard: Span,
    pub(super) owned: Span,
}

/// The audio that may still be needed, by absolute position.
#[derive(Default)]
pub(super) struct Timeline {
    start: u64,
    pcm: VecDeque<f32>,
}

impl Timeline {
    pub(super) fn push(&mut self, pcm: &[f32]) {
        self.pcm.extend(pcm);
    }

    /// One past the last sample.
    pub(super) fn end(&self) -> Samples {
        Samples(self.start + self.pcm.len() as u64)
    }

    /// Forgets everything before a position.
    pub(super) fn forget_before(&mut self, position: Samples) {
        let gone = position.0.saturating_sub(self.start).min(self.pcm.len() as u64);
        self.pcm.drain(..gone as usize);
        self.start += gone;
    }

    /// Copies a stretch that is wholly here: the one copy between the source and the engine.
    pub(super) fn copy(&self, span: Span) -> Arc<[f32]> {
        self.range(span).copied().collect()
    }

    /// Copies a stretch to the front of a frame.
    pub(super) fn fill(&self, span: Span, frame: &mut [f32]) {
        frame.iter_mut().zip(self.range(span)).for_each(|(to, from)| *to = *from);
    }

    fn range(&self, span: Span) -> impl ExactSizeIterator<Item = &f32> {
        let from = (span.start.0 - self.start) as usize;
        let to = (span.end.0 - self.start) as usize;
        self.pcm.range(from..to)
    }

    /// The middle of the quietest 100 ms in a stretch; the latest of equals, so that silence cuts late.
    pub(super) fn quietest(&self, span: Span) -> Samples {
        const STEP: usize = 160;
        const STEPS: usize = 10;
        let mut power: Vec<f32> = Vec::new();
        let mut sum = 0.0;
        for (n, x) in self.range(span).enumerate() {
            sum += x * x;
            if n % STEP == STEP - 1 {
                power.push(std::mem::take(&mut sum));
            }
        }
        let quietest = power
            .windows(STEPS)
            .map(|steps| steps.iter().sum::<f32>())
            .enumerate()
            .min_by(|(a, x), (b, y)| x.total_cmp(y).then(b.cmp(a)))
            .map_or(0, |(n, _)| n);
        let middle = (quietest * STEP + STEPS * STEP / 2) as u64;
        (span.start + Samples(middle)).min(span.end)
    }
}

/// Cuts one open utterance.
pub(super) struct Cutter {
    /// From where on audio may be heard: where the utterance began, or the one whose words it is heard with.
    first: Samples,
    /// Where the utterance began.
    start: Samples,
    /// Where the next window's own part begins.
    seam: Samples,
}

impl Cutter {
    /// An utterance that begins at `start`, and may be heard with what was said since `context`.
    pub(super) fn new(start: Samples, context: Samples) -> Self {
        Self { first: context.min(start), start, seam: start }
    }

    /// A full window, once `judged` is far enough. It is never the timeline's own end that decides: how far that
    /// is ahead of `judged` depends on the chunks the audio came in.
    pub(super) fn full(
        &mut self,
        timeline: &Timeline,
        judged: Samples,
        config: &WindowConfig,
    ) -> Option<Cut> {
        let start = self.heard_from(config);
        let longest = start + config.max;
        if judged < longest {
            return None;
        }
        let latest = longest - config.reach();
        // A seam must leave the window something of its own, however short windows are set.
        let earliest = latest.saturating_sub(config.search).max(self.seam + config.reach());
        let seam = timeline.quietest(Span::new(earliest.min(latest), latest));
        let cut = Cut { heard: Span::new(start, seam + config.reach()), owned: Span::new(self.seam, seam) };
        self.seam = seam;
        Some(cut)
    }

    /// The rest of the utterance, which ends at `end`.
    pub(super) fn rest(&self, end: Samples, config: &WindowConfig) -> Cut {
        let end = end.max(self.seam);
        let start = self.heard_from(config).min(end.saturating_sub(config.enough())).max(self.first);
        Cut { heard: Span::new(start, end), owned: Span::new(self.seam, end) }
    }

    /// Audio before this position will never be asked for again.
    pub(super) fn needs_from(&self, config: &WindowConfig) -> Samples {
        self.seam.saturating_sub(config.enough().max(config.reach())).max(self.first)
    }

    /// Where a window's audio begins; the first window of an utterance has no neighbor to overlap with.
    fn heard_from(&self, config: &WindowConfig) -> Samples {
        self.seam
            .saturating_sub(if self.seam == self.start { Samples(0) } else { config.reach() })
            .max(self.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: u64) -> f32 {
        let x = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ((x >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 0.5
    }

    #[test]
    fn the_seam_is_in_the_pause() {
        let config = WindowConfig::default();
        let pause = Samples::from_seconds(8.4).0..Samples::from_seconds(8.55).0;
        let mut timeline = Timeline::default();
        let pcm: Vec<f32> = (0..200_000).map(|n| if pause.contains(&n) { 0.0 } else { noise(n) }).collect();
        timeline.push(&pcm);
        let mut cutter = Cutter::new(Samples(0), Samples(0));
        let cut = cutter.full(&timeline, timeline.end(), &config).expect("12.5 s are more than a window");
        assert!(pause.contains(&cut.owned.end.0), "{cut:?}");
        assert!(cut.heard.len() <= config.max);
        assert_eq!(cut.heard.end - cut.owned.end, Samples(4000));
        let rest = cutter.rest(timeline.end(), &config);
        assert_eq!(rest.owned.start, cut.owned.end);
        assert_eq!(rest.owned.start - rest.heard.start, Samples(4000));
        assert_eq!(cut.heard.end - rest.heard.start, config.overlap);
    }

    #[test]
    fn a_short_rest_is_lengthened_to_the_left_but_owns_only_its_part() {
        let config = WindowConfig::default();
        let cutter = Cutter { first: Samples(0), start: Samples(0), seam: Samples(160_000) };
        let rest = cutter.rest(Samples(164_000), &config);
        assert_eq!(rest.heard.len(), config.min);
        assert_eq!(rest.owned, Span::new(Samples(160_000), Samples(164_000)));
        let whole = Cutter::new(Samples(1000), Samples(1000)).rest(Samples(5000), &config);
        assert_eq!(whole.heard, whole.owned);
    }

    #[test]
    fn forgetting_keeps_positions() {
        let mut timeline = Timeline::default();
        timeline.push(&[0.0, 1.0, 2.0, 3.0]);
        timeline.forget_before(Samples(2));
        timeline.push(&[4.0]);
        assert_eq!(*timeline.copy(Span::new(Samples(2), Samples(5))), [2.0, 3.0, 4.0]);
        timeline.forget_before(Samples(99));
        assert_eq!(timeline.end(), Samples(5));
    }
}
