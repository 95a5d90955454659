//! A WAV file whose end is not written yet.
//!
//! The contract: where its samples are of a kind that [`Pcm`] reads, they come out as they come in; a demuxer would
//! wait for a packet of 1152 frames. Everything else is left to the demuxer, with its lengths put right: who writes
//! into a pipe does not know them, and leaves 0 or a very large number behind.

use std::io::Read;
use std::sync::Arc;

use super::pcm::{Coding, Pcm};
use super::sniff::little_endian;
use super::source::{Inflow, Meter};
use super::{AudioError, Limits};

/// The most bytes before the samples. A header with more in it is left to the demuxer.
const MOST_OF_HEADER: usize = 16 << 10;

/// Lengths from here on are no lengths: they are what programs write that do not know better.
const ENDLESS: u64 = 0x7fff_0000;

/// Bytes that are read at once.
const READ: usize = 4096;

/// Samples that need no demuxer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    coding: Coding,
    rate: u32,
    channels: u16,
    /// Where the samples begin.
    body: u64,
    /// How many bytes they are, if that is known.
    length: Option<u64>,
}

/// Raw samples behind a header.
pub(super) struct WaveStream {
    stream: Inflow,
    meter: Arc<Meter>,
    pcm: Pcm,
    left: Option<u64>,
}

impl WaveStream {
    pub(super) fn new(mut stream: Inflow, header: Header, limits: &Limits) -> Result<Self, AudioError> {
        let pcm = Pcm::new(header.coding, header.rate, header.channels, limits)?;
        stream.skip(header.body)?;
        Ok(Self { meter: stream.meter(), stream, pcm, left: header.length })
    }

    /// Waits for the next sound. `false` at the end, where the last of it is appended.
    pub(super) fn read(&mut self, out: &mut Vec<f32>) -> Result<bool, AudioError> {
        let before = out.len();
        let mut buffer = [0; READ];
        while out.len() == before {
            let wanted = self.left.map_or(READ, |left| usize::try_from(left).unwrap_or(READ).min(READ));
            self.meter.next_call();
            let got = self.stream.read(&mut buffer[..wanted])?;
            if got == 0 {
                self.pcm.finish(out);
                return Ok(false);
            }
            self.left = self.left.map(|left| left - got as u64);
            self.pcm.push(&buffer[..got], out);
        }
        Ok(true)
    }
}

/// Waits for the whole header. `None` leaves the stream to the demuxer.
pub(super) fn look(stream: &mut Inflow) -> Result<Option<Header>, AudioError> {
    loop {
        let head = stream.ahead();
        match parse(head) {
            Parsed::Raw(header) => return Ok(Some(header)),
            Parsed::Other { endless } => {
                head[..8].copy_from_slice(b"RIFF\xff\xff\xff\xff");
                if let Some(length) = endless.and_then(|at| head.get_mut(at..at + 4)) {
                    length.fill(0xff);
                }
                return Ok(None);
            }
            Parsed::Unfinished if head.len() > MOST_OF_HEADER => return Ok(None),
            Parsed::Unfinished => {}
        }
        if !stream.look()? {
            return Ok(None);
        }
    }
}

enum Parsed {
    Unfinished,
    Raw(Header),
    /// `endless` is where a length stands that says nothing.
    Other {
        endless: Option<usize>,
    },
}

fn parse(head: &[u8]) -> Parsed {
    let (mut at, mut format, mut wide) = (12, None, None);
    while let (Some(tag), Some(declared)) = (head.get(at..at + 4), little_endian(head, at + 4)) {
        let body = at + 8;
        let stored = declared as usize;
        match tag {
            b"fmt " => format = head.get(body..body + stored.min(40)).and_then(Format::parse),
            b"ds64" => wide = little_endian(head, body + 8).zip(little_endian(head, body + 12)),
            b"data" => {
                let length = match wide {
                    Some((low, high)) if declared == u64::from(u32::MAX) => high << 32 | low,
                    _ => declared,
                };
                let length =
                    Some(length).filter(|length| *length > 0 && !(ENDLESS..1 << 32).contains(length));
                return match format {
                    Some(Format { coding, rate, channels }) => {
                        Parsed::Raw(Header { coding, rate, channels, body: body as u64, length })
                    }
                    None => Parsed::Other { endless: length.is_none().then_some(at + 4) },
                };
            }
            _ => {}
        }
        at = body.saturating_add(stored + stored % 2);
    }
    Parsed::Unfinished
}

struct Format {
    coding: Coding,
    rate: u32,
    channels: u16,
}

impl Format {
    /// Nothing for what [`Pcm`] does not read.
    fn parse(body: &[u8]) -> Option<Self> {
        let field = |at: usize| Some(u16::from_le_bytes(*body.get(at..)?.first_chunk()?));
        let (channels, rate) = (field(2)?, u32::try_from(little_endian(body, 4)?).ok()?);
        let (align, bits) = (field(12)?, field(14)?);
        // The extensible form names the same codings further behind.
        let tag = if field(0)? == 0xfffe { field(24)? } else { field(0)? };
        let coding = match (tag, bits) {
            (1, 16) => Coding::S16le,
            (3, 32) => Coding::F32le,
            (6, 8) => Coding::Alaw,
            (7, 8) => Coding::Mulaw,
            _ => return None,
        };
        let honest = usize::from(align) == coding.width() * usize::from(channels) && channels > 0;
        honest.then_some(Self { coding, rate, channels })
    }
}
