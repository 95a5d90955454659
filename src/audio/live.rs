//! What a client says that it will send, and the decoder for what needs no thread of its own: raw samples and Opus
//! packets, decoded as they come.
//!
//! The contract: [`LiveDecoder::push`] never waits and keeps back only an incomplete frame, the resampler's block of
//! 20 ms and, at the very beginning, at most the 12 bytes that tell raw samples from a file that was sent in
//! their place.
//!
//! Deliberately absent: containers, whose decoder waits for bytes; see [`ContainerDecoder`](super::ContainerDecoder).

use super::packets::Packets;
use super::pcm::{Coding, Pcm};
use super::sniff::{self, MAGIC};
use super::{AudioError, Limits};

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiveFormat {
    /// Raw interleaved samples.
    Pcm {
        /// How a sample is written.
        coding: Coding,
        /// Samples per second and channel.
        rate: u32,
        /// Samples per frame.
        channels: u16,
    },
    /// Opus packets, one per chunk.
    OpusPackets {
        /// 1 or 2.
        channels: u16,
    },
    /// A file as it is being written, whose first bytes tell what it is.
    Container,
}

/// What became of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It was taken as it is.
    Sound,
    /// It was lost or corrupt, and something like what was before it took its place.
    Concealed,
}

/// A stream being decoded chunk by chunk.
pub struct LiveDecoder {
    feed: Feed,
}

enum Feed {
    Pcm {
        pcm: Pcm,
        /// The first bytes, until it is certain that they are no container.
        opening: Option<Vec<u8>>,
    },
    Opus(Packets),
}

impl LiveDecoder {
    /// Ready for the first chunk. Rates from 2,000 Hz up to the limit, channels up to the limit, for Opus 1 or 2. A
    /// container is refused: it has a decoder of its own.
    pub fn new(format: LiveFormat, limits: &Limits) -> Result<Self, AudioError> {
        let feed = match format {
            LiveFormat::Pcm { coding, rate, channels } => {
                Feed::Pcm { pcm: Pcm::new(coding, rate, channels, limits)?, opening: Some(Vec::new()) }
            }
            LiveFormat::OpusPackets { channels } => Feed::Opus(Packets::new(channels, limits)?),
            LiveFormat::Container => {
                return Err(AudioError::Unsupported("a container is not decoded chunk by chunk".to_owned()));
            }
        };
        Ok(Self { feed })
    }

    /// Appends to `out` the 16 kHz mono of the next chunk: of raw samples any number of bytes, of Opus exactly one
    /// packet, or none at all for one that was lost. After an error the decoder is of no more use.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<f32>) -> Result<Heard, AudioError> {
        match &mut self.feed {
            Feed::Opus(packets) => return packets.push(chunk, out),
            Feed::Pcm { pcm, opening: None } => pcm.push(chunk, out),
            Feed::Pcm { pcm, opening: opening @ Some(_) } => {
                let mut first = opening.take().unwrap_or_default();
                let (head, rest) = chunk.split_at(chunk.len().min(MAGIC - first.len()));
                first.extend_from_slice(head);
                if let Some(container) = sniff::container(&first) {
                    let name = container.name();
                    let why = format!("this is {name}, not the raw samples that were announced");
                    return Err(AudioError::Unsupported(why));
                }
                if first.len() < MAGIC {
                    *opening = Some(first);
                } else {
                    pcm.push(&first, out);
                    pcm.push(rest, out);
                }
            }
        }
        Ok(Heard::Sound)
    }

    /// Appends what was kept back, at the end of the stream or before a pause of unknown length. The next chunk
    /// begins anew, with a whole frame.
    pub fn finish(&mut self, out: &mut Vec<f32>) {
        if let Feed::Pcm { pcm, opening } = &mut self.feed {
            if let Some(first) = opening.take() {
                pcm.push(&first, out);
            }
            pcm.finish(out);
        }
    }

    /// Forgets an incomplete frame that waits for its rest, and says how many bytes that were: after a reconnect
    /// the client sends from the start of a frame.
    pub fn drop_partial(&mut self) -> usize {
        match &mut self.feed {
            Feed::Opus(_) => 0,
            Feed::Pcm { pcm, opening: None } => pcm.drop_partial(),
            Feed::Pcm { pcm, opening: Some(first) } => {
                let partial = first.len() % pcm.frame();
                first.truncate(first.len() - partial);
                partial
            }
        }
    }
}
