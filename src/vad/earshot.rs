//! The `earshot` network. It scores 16 ms at a time, so a frame is the mean of its two halves.

use super::{FRAME, Vad};

const HALF: usize = FRAME / 2;

pub(super) struct Earshot(Box<earshot::Detector>);

impl Earshot {
    pub(super) fn new() -> Self {
        Self(earshot::Detector::default_boxed())
    }
}

impl Vad for Earshot {
    fn probability(&mut self, frame: &[f32; FRAME]) -> f32 {
        // The network is only defined on [-1, 1]; a resampler may overshoot.
        let frame = frame.map(|x| x.clamp(-1.0, 1.0));
        let (first, second) = frame.split_at(HALF);
        let mean = 0.5 * (self.0.predict_f32(first) + self.0.predict_f32(second));
        mean.clamp(0.0, 1.0)
    }
}
