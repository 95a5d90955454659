//! Opus packets that come one per message, without a container around them.
//!
//! The contract: every packet, good or bad, moves the time on. One that is lost or does not decode is made up by
//! libopus from what it heard before, as long as the last good one; after [`MOST_FAULTS`] bad ones in a row the
//! stream is given up. The packets are decoded at 16 kHz, so nothing is resampled.
//!
//! Deliberately absent: waiting for the next packet to repair the last one, and cutting off the encoder's start-up
//! delay (mostly 6.5 ms), which only a container would tell.

use opus::{Channels, Decoder};

use super::demux::sane;
use super::live::Heard;
use super::{AudioError, Limits};
use crate::transcript::RATE;

/// The longest packet: 120 ms.
const LONGEST: usize = RATE as usize * 120 / 1000;

/// What stands in for a packet when none was heard before: 20 ms.
const USUAL: usize = RATE as usize / 50;

/// The most bytes of a packet: 48 pieces of 2.5 ms and 1275 bytes each, with their lengths.
const MOST_BYTES: usize = 48 * 1277 + 2;

/// Corrupt packets in a row after which the stream is given up.
const MOST_FAULTS: u32 = 100;

/// A stream of packets being decoded.
pub(super) struct Packets {
    decoder: Decoder,
    channels: usize,
    /// Room for the longest packet, interleaved.
    room: Vec<f32>,
    /// Samples per channel of the last good packet.
    last: usize,
    /// Corrupt packets in a row.
    faults: u32,
}

impl Packets {
    pub(super) fn new(channels: u16, limits: &Limits) -> Result<Self, AudioError> {
        let count = usize::from(channels);
        limits.check(RATE, count)?;
        let layout = match channels {
            1 => Channels::Mono,
            2 => Channels::Stereo,
            _ => {
                let why = format!("Opus packets with {channels} channels; 1 or 2 are");
                return Err(AudioError::Unsupported(why));
            }
        };
        let out_of_memory = |_| AudioError::Io(std::io::ErrorKind::OutOfMemory.into());
        let decoder = Decoder::new(RATE, layout).map_err(out_of_memory)?;
        Ok(Self { decoder, channels: count, room: vec![0.0; LONGEST * count], last: USUAL, faults: 0 })
    }

    /// One packet; an empty one is one that was lost.
    pub(super) fn push(&mut self, packet: &[u8], out: &mut Vec<f32>) -> Result<Heard, AudioError> {
        if let Some(samples) = self.decode(packet) {
            (self.last, self.faults) = (samples, 0);
            self.mix(samples, out);
            return Ok(Heard::Sound);
        }
        if !packet.is_empty() {
            self.faults += 1;
            if self.faults >= MOST_FAULTS {
                let why = format!("{MOST_FAULTS} Opus packets in a row do not decode");
                return Err(AudioError::Corrupt(why));
            }
        }
        let room = &mut self.room[..self.last * self.channels];
        if self.decoder.decode_float(&[], room, false).is_err() {
            room.fill(0.0);
        }
        self.mix(self.last, out);
        Ok(Heard::Concealed)
    }

    /// The number of samples per channel that are now in `room`.
    fn decode(&mut self, packet: &[u8]) -> Option<usize> {
        if packet.is_empty() || packet.len() > MOST_BYTES {
            return None;
        }
        self.decoder.decode_float(packet, &mut self.room, false).ok().filter(|samples| *samples > 0)
    }

    fn mix(&self, samples: usize, out: &mut Vec<f32>) {
        let share = 1.0 / self.channels as f32;
        let frames = self.room[..samples * self.channels].chunks_exact(self.channels);
        out.extend(frames.map(|frame| frame.iter().copied().map(sane).sum::<f32>() * share));
    }
}
