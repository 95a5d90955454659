//! Speech is heard at whatever level it comes: a detector that judges a frame as it is, and a second one that judges it
//! turned up.

use super::{FRAME, Vad};

/// How far the second one's frames are turned up: 24 dB.
const GAIN: f32 = 16.0;

/// Two detectors of one kind.
pub(super) struct Leveled {
    plain: Box<dyn Vad>,
    turned_up: Box<dyn Vad>,
    floor: f32,
}

impl Leveled {
    /// Frames whose mean power is below `floor` are not turned up, where a detector takes the noise of a quiet room or
    /// line for speech.
    pub(super) fn new(detector: impl Fn() -> Box<dyn Vad>, floor: f32) -> Self {
        Self { plain: detector(), turned_up: detector(), floor }
    }
}

impl Vad for Leveled {
    fn probability(&mut self, frame: &[f32; FRAME]) -> f32 {
        let loudest = frame.iter().fold(0.0_f32, |loudest, x| loudest.max(x.abs()));
        let plain = self.plain.probability(frame);
        // Not so far that it would be cut off, and distorted.
        let gain = if loudest * GAIN > 1.0 { 1.0 / loudest } else { GAIN };
        let turned_up = self.turned_up.probability(&frame.map(|x| x * gain));
        let power = frame.iter().map(|x| x * x).sum::<f32>() / FRAME as f32;
        // What is loud is judged as it is.
        if gain < GAIN || power < self.floor { plain } else { plain.max(turned_up) }
    }

    fn certain(&self) -> Option<f32> {
        self.plain.certain()
    }
}
