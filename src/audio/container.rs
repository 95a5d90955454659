//! A container as it is being written, read from a stream whose bytes come when they come.
//!
//! The contract: every call blocks until there is something, so it wants a thread of its own; whoever owns the other
//! end of the stream ends it. A packet is decoded as soon as its last byte is there; only in a bare FLAC stream, where
//! nothing says how long a packet is, the demuxer asks for as many bytes as the last ones had. Memory stays bounded however
//! long the stream is, and the time that is spent on it, waiting aside, by the length of what was heard.
//!
//! Deliberately absent: seeking, lengths, and the formats whose index stands at their end.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::demux::Demuxed;
use super::file::GRACE;
use super::opening::{self, Opening};
use super::source::{Inflow, Meter};
use super::wave::WaveStream;
use super::{AudioError, Limits};
use crate::transcript::Samples;

/// A container being decoded. All of it blocks.
pub struct ContainerDecoder {
    feed: Feed,
    meter: Arc<Meter>,
    delivered: u64,
    /// How long the decoding took until now, waiting aside.
    spent: Duration,
}

enum Feed {
    Demuxed(Box<Demuxed>),
    Wave(Box<WaveStream>),
    Over,
}

impl ContainerDecoder {
    /// Reads so much as it takes to know what it is: for most containers their header, for MPEG audio three frames.
    /// `bytes` blocks in `read` until there is more; 0 bytes are the end. The longest duration of the limits is not
    /// asked for here: a stream has no length.
    pub fn open(bytes: impl Read + Send + 'static, limits: &Limits) -> Result<Self, AudioError> {
        let mut stream = Inflow::new(bytes);
        let meter = stream.meter();
        let feed = match opening::recognise(&mut stream)? {
            Opening::Wave(header) => Feed::Wave(Box::new(WaveStream::new(stream, header, limits)?)),
            Opening::Container => Feed::Demuxed(Box::new(Demuxed::follow(stream, *limits)?)),
        };
        Ok(Self { feed, meter, delivered: 0, spent: Duration::ZERO })
    }

    /// Appends 16 kHz mono to `out`, as soon as there is some: mostly one packet. `Ok(false)` at the end, where
    /// something may have been appended too; what stands behind the end of the sound is not read. After an error
    /// there is no more either.
    pub fn read(&mut self, out: &mut Vec<f32>) -> Result<bool, AudioError> {
        let (before, begun, waited) = (out.len(), Instant::now(), self.meter.waited());
        let allowed = GRACE + Duration::from_secs_f64(Samples(self.delivered).seconds());
        let deadline = begun + allowed.saturating_sub(self.spent);
        let more = match &mut self.feed {
            Feed::Demuxed(demuxed) => demuxed.read(1, deadline, out),
            Feed::Wave(wave) => wave.read(out),
            Feed::Over => Ok(false),
        };
        self.spent += begun.elapsed().saturating_sub(self.meter.waited() - waited);
        self.delivered += (out.len() - before) as u64;
        if !matches!(more, Ok(true)) {
            self.feed = Feed::Over;
        }
        more
    }
}
