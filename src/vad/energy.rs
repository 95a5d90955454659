//! Loudness alone: no model, no memory.

use super::{FRAME, Vad};

/// Sure silence below -55 dBFS, sure speech above -35 dBFS.
pub(super) struct Energy;

const SILENT_DB: f32 = -55.0;
const LOUD_DB: f32 = -35.0;

impl Vad for Energy {
    fn probability(&mut self, frame: &[f32; FRAME]) -> f32 {
        let power = frame.iter().map(|x| x * x).sum::<f32>() / FRAME as f32;
        let db = 10.0 * power.max(1e-12).log10();
        ((db - SILENT_DB) / (LOUD_DB - SILENT_DB)).clamp(0.0, 1.0)
    }
}
