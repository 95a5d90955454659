//! One number per short frame: how much it sounds like speech.
//!
//! A detector has no policy. Thresholds, hangover and pre-roll, and the rule that no single frame decides anything,
//! are in `session::endpoint`. Pure: no clock, no files, no log.

mod earshot;
mod energy;
mod level;
#[cfg(feature = "onnx")]
mod silero;
mod webrtc;

use self::level::Leveled;
#[cfg(feature = "onnx")]
pub use self::silero::Silero;

/// The mean power of a quiet room: -60 dB.
const QUIET_ROOM: f32 = 1e-6;

/// Samples per frame: 32 ms at 16 kHz.
pub const FRAME: usize = 512;

/// A voice activity detector for one stream. It remembers what it heard.
pub trait Vad: Send {
    /// How much the frame that follows the previous one sounds like speech, 0 to 1.
    fn probability(&mut self, frame: &[f32; FRAME]) -> f32;

    /// The probability above which it is hardly ever wrong, if there is one.
    fn certain(&self) -> Option<f32> {
        None
    }
}

/// The detectors to choose from. All but the last judge speech at whatever level it comes.
#[derive(Clone, Debug)]
pub enum VadKind {
    /// A small neural network in pure Rust; the default where there is no better one.
    Earshot,
    /// The WebRTC project's detector, voted over 200 ms.
    Webrtc,
    /// Loudness alone: for clean lines, tests, and the scripted engine.
    Energy,
    /// Silero's neural network, whose weights the operator brings; the default where they are.
    #[cfg(feature = "onnx")]
    Silero(Silero),
}

impl VadKind {
    /// Makes a detector for one stream.
    pub fn build(&self) -> Box<dyn Vad> {
        match self {
            Self::Earshot => Box::new(Leveled::new(|| Box::new(earshot::Earshot::new()), QUIET_ROOM)),
            Self::Webrtc => Box::new(Leveled::new(|| Box::new(webrtc::Webrtc::new()), QUIET_ROOM)),
            Self::Energy => Box::new(energy::Energy),
            #[cfg(feature = "onnx")]
            Self::Silero(silero) => Box::new(Leveled::new(|| silero.detector(), 0.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcript::RATE;

    const KINDS: [VadKind; 3] = [VadKind::Earshot, VadKind::Webrtc, VadKind::Energy];

    /// A buzz with the spectrum of a vowel, loud and quiet four times a second as syllables are.
    fn vowels(seconds: u32) -> Vec<f32> {
        (0..seconds * RATE)
            .map(|n| {
                let t = n as f32 / RATE as f32;
                let syllable = (std::f32::consts::TAU * 4.0 * t).sin().max(0.0);
                let voice: f32 = (1..=20)
                    .map(|k| {
                        let hertz = 120.0 * k as f32;
                        let formants = [700.0, 1200.0, 2500.0]
                            .iter()
                            .map(|f: &f32| (-((hertz - f) / 200.0).powi(2)).exp())
                            .sum::<f32>();
                        formants * (std::f32::consts::TAU * hertz * t).sin()
                    })
                    .sum();
                0.15 * syllable * voice
            })
            .collect()
    }

    fn highest(kind: &VadKind, pcm: &[f32]) -> f32 {
        let mut vad = kind.build();
        pcm.as_chunks::<FRAME>().0.iter().map(|frame| vad.probability(frame)).fold(0.0, f32::max)
    }

    #[test]
    fn every_detector_hears_vowels_and_no_silence() {
        for kind in &KINDS {
            assert!(highest(kind, &vec![0.0; 5 * RATE as usize]) < 0.35, "{kind:?} hears silence");
            assert!(highest(kind, &vowels(3)) > 0.5, "{kind:?} is deaf");
        }
    }

    #[test]
    fn quiet_speech_is_heard_and_quiet_noise_is_not() {
        let quiet = |pcm: Vec<f32>, decibels: f32| -> Vec<f32> {
            let gain = 10.0_f32.powf(decibels / 20.0);
            pcm.iter().map(|x| x * gain).collect()
        };
        let mut state = 1u32;
        let mut noise = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let hiss: Vec<f32> = (0..5 * RATE).map(|_| 0.001 * noise()).collect();
        let hum: Vec<f32> = (0..5 * RATE)
            .map(|n| 0.003 * (std::f32::consts::TAU * 50.0 * n as f32 / RATE as f32).sin())
            .collect();
        for kind in [VadKind::Earshot, VadKind::Webrtc] {
            assert!(highest(&kind, &quiet(vowels(3), -30.0)) > 0.5, "{kind:?} is deaf to quiet speech");
            assert!(highest(&kind, &hum) < 0.5, "{kind:?} hears hum");
        }
        assert!(highest(&VadKind::Earshot, &hiss) < 0.5, "earshot hears hiss");
    }

    /// A broken network is one sentence, and a file of another kind does not bring the process down.
    #[cfg(feature = "onnx")]
    #[test]
    fn what_is_not_silero_is_refused() {
        for bytes in [&b""[..], b"hello", &[0x08, 0x07, 0x12, 0xff, 0xff, 0xff, 0x7f][..], &[0xff; 4096][..]]
        {
            let refused = Silero::load(bytes).expect_err("is not a network");
            assert!(refused.starts_with("it is not Silero's network"), "{refused}");
        }
    }

    #[test]
    fn every_probability_is_one() {
        let extremes = [f32::MAX, -1.0, 1.0, 0.0, f32::MIN_POSITIVE];
        for kind in KINDS {
            let mut vad = kind.build();
            for round in 0..50 {
                let frame =
                    std::array::from_fn(|n| extremes[(n * 7 + round) % extremes.len()].clamp(-1.0, 1.0));
                let p = vad.probability(&frame);
                assert!((0.0..=1.0).contains(&p), "{kind:?} said {p}");
            }
        }
    }
}
