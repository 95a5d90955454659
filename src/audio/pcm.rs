//! Raw samples, as a sound card or a telephone line delivers them.
//!
//! The contract: what comes out does not depend on how the bytes were cut into chunks. A frame (one sample of every
//! channel) that is not complete waits for its rest, and nothing else ever waits here but the resampler's block.
//!
//! Deliberately absent: headers.

use super::demux::sane;
use super::resample::Resampler;
use super::{AudioError, Limits};

/// Frames that are decoded at once, so that a chunk of megabytes does not become a second copy of itself.
const STRETCH: usize = 4096;

/// How a sample is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// Two bytes, little-endian, signed.
    S16le,
    /// Four bytes, little-endian, IEEE 754; full scale is 1.
    F32le,
    /// One byte, ITU-T G.711 µ-law.
    Mulaw,
    /// One byte, ITU-T G.711 A-law.
    Alaw,
}

impl Coding {
    /// Bytes per sample.
    pub fn width(self) -> usize {
        match self {
            Self::S16le => 2,
            Self::F32le => 4,
            Self::Mulaw | Self::Alaw => 1,
        }
    }
}

/// Raw samples being turned into 16 kHz mono.
pub(super) struct Pcm {
    coding: Coding,
    channels: usize,
    resampler: Resampler,
    /// The beginning of a frame whose rest has not come yet.
    partial: Vec<u8>,
    mono: Vec<f32>,
}

impl Pcm {
    pub(super) fn new(coding: Coding, rate: u32, channels: u16, limits: &Limits) -> Result<Self, AudioError> {
        let channels = usize::from(channels);
        limits.check(rate, channels)?;
        let no_rate = || AudioError::Unsupported(format!("a sample rate of {rate} Hz"));
        let resampler = Resampler::live(rate).ok_or_else(no_rate)?;
        Ok(Self { coding, channels, resampler, partial: Vec::new(), mono: Vec::new() })
    }

    /// Bytes per frame.
    pub(super) fn frame(&self) -> usize {
        self.coding.width() * self.channels
    }

    /// Any number of bytes.
    pub(super) fn push(&mut self, mut chunk: &[u8], out: &mut Vec<f32>) {
        let frame = self.frame();
        if !self.partial.is_empty() {
            let (rest, later) = chunk.split_at(chunk.len().min(frame - self.partial.len()));
            self.partial.extend_from_slice(rest);
            chunk = later;
            if self.partial.len() < frame {
                return;
            }
            let whole = std::mem::take(&mut self.partial);
            self.decode(&whole, out);
        }
        let (whole, partial) = chunk.split_at(chunk.len() - chunk.len() % frame);
        whole.chunks(frame * STRETCH).for_each(|stretch| self.decode(stretch, out));
        self.partial.extend_from_slice(partial);
    }

    /// Flushes the resampler; an incomplete frame is lost.
    pub(super) fn finish(&mut self, out: &mut Vec<f32>) {
        self.partial.clear();
        self.resampler.finish(out);
    }

    /// Forgets an incomplete frame; how many bytes that were.
    pub(super) fn drop_partial(&mut self) -> usize {
        std::mem::take(&mut self.partial).len()
    }

    /// Whole frames.
    fn decode(&mut self, frames: &[u8], out: &mut Vec<f32>) {
        match self.coding {
            Coding::S16le => self.mix(frames, |&bytes: &[u8; 2]| scale(i16::from_le_bytes(bytes))),
            Coding::F32le => self.mix(frames, |&bytes: &[u8; 4]| sane(f32::from_le_bytes(bytes))),
            Coding::Mulaw => self.mix(frames, |&[byte]: &[u8; 1]| scale(mulaw(byte))),
            Coding::Alaw => self.mix(frames, |&[byte]: &[u8; 1]| scale(alaw(byte))),
        }
        self.resampler.push(&self.mono, out);
    }

    /// The mean of all channels, into `mono`.
    fn mix<const WIDTH: usize>(&mut self, frames: &[u8], value: impl Fn(&[u8; WIDTH]) -> f32) {
        let share = 1.0 / self.channels as f32;
        let (samples, _) = frames.as_chunks::<WIDTH>();
        let frames = samples.chunks_exact(self.channels);
        self.mono.clear();
        self.mono.extend(frames.map(|frame| frame.iter().map(&value).sum::<f32>() * share));
    }
}

fn scale(sample: i16) -> f32 {
    f32::from(sample) / 32_768.0
}

/// ITU-T G.711: sign, three bits of exponent, four of mantissa, all inverted; the steps double from segment to
/// segment, and a bias of 33 (here in units of 4) makes them meet.
fn mulaw(byte: u8) -> i16 {
    const BIAS: i16 = 33 << 2;
    let bits = !byte;
    let (exponent, mantissa) = (bits >> 4 & 7, i16::from(bits & 15));
    let size = (((mantissa << 3) + BIAS) << exponent) - BIAS;
    if bits & 0x80 == 0 { size } else { -size }
}

/// ITU-T G.711: sign, exponent and mantissa with every second bit inverted; the first two segments are one straight
/// line, and every value stands in the middle of its step.
fn alaw(byte: u8) -> i16 {
    let bits = byte ^ 0x55;
    let (exponent, mantissa) = (bits >> 4 & 7, i16::from(bits & 15));
    let middle = (mantissa << 4) + 8;
    let size = if exponent == 0 { middle } else { (middle + 0x100) << (exponent - 1) };
    if bits & 0x80 == 0 { -size } else { size }
}
