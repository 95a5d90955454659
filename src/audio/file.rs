//! A file, whatever it is called and whatever is in it, as 16 kHz mono.
//!
//! The contract: [`FileDecoder::open`] decodes the head of the file before it returns, so that a caller who has
//! a decoder knows that there is sound. Every fault after that comes out of [`FileDecoder::read`], after which
//! the decoder is at its end. A file that may be longer than allowed is refused as soon as that is certain.
//!
//! Deliberately absent: names. Neither a file's extension nor a declared content type is asked for.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::time::{Duration, Instant};

use super::demux::Demuxed;
use super::ffmpeg::{Conversion, Ffmpeg};
use super::sniff::{self, Foreign};
use super::{AudioError, Limits};
use crate::transcript::{RATE, Samples};

/// How much is decoded per [`FileDecoder::read`], at least: one second.
const STRETCH: usize = RATE as usize;

/// How much longer than the audio that came out the decoding may have taken. Honest files are a hundred times
/// faster than that; without a bound, a crafted one would keep its thread for days.
pub(super) const GRACE: Duration = Duration::from_secs(60);

/// What is allowed.
#[derive(Clone, Debug, Default)]
pub struct FileOptions {
    /// What a file may ask for.
    pub limits: Limits,
    /// The last resort for what the built-in decoders cannot read; `None` where the operator does not allow it.
    pub ffmpeg: Option<Ffmpeg>,
}

/// A file being decoded. All of it blocks.
pub struct FileDecoder {
    feed: Feed,
    limit: Samples,
    hint: Option<Samples>,
    delivered: u64,
    /// How long the decoding took until now.
    spent: Duration,
    /// What was decoded on opening.
    head: Vec<f32>,
}

enum Feed {
    Demuxed(Box<Demuxed>),
    Converted(Conversion),
    Over,
}

impl FileDecoder {
    /// Finds out what the file is and decodes its first stretch. The file may have no name any more.
    pub fn open(mut file: File, options: &FileOptions) -> Result<Self, AudioError> {
        let length = file.metadata()?.len();
        if length == 0 {
            return Err(AudioError::Empty);
        }
        let look = sniff::look(&mut file, length)?;
        if look.hollow {
            return Err(AudioError::Empty);
        }
        let foreign = look.foreign;
        let limits = options.limits;
        let built_in = match foreign {
            Some(foreign) => Err(refuse(foreign, options.ffmpeg.is_some())),
            None => file
                .try_clone()
                .map_err(AudioError::Io)
                .and_then(|file| Demuxed::open(file, look, limits))
                .and_then(|demuxed| {
                    let hint = demuxed.length_hint();
                    Self::begin(Feed::Demuxed(Box::new(demuxed)), hint, limits)
                }),
        };
        match (&options.ffmpeg, built_in) {
            (Some(ffmpeg), Err(AudioError::Unsupported(_)))
                if foreign.is_none_or(|foreign| foreign.media) =>
            {
                file.seek(SeekFrom::Start(0))?;
                Self::begin(Feed::Converted(ffmpeg.convert(file)?), None, limits)
            }
            (_, decided) => decided,
        }
    }

    /// How long the container says the audio is: good enough for a progress bar, never to be trusted.
    pub fn length_hint(&self) -> Option<Samples> {
        self.hint
    }

    /// Appends the next stretch of 16 kHz mono to `out`: about a second, never more than a few. `Ok(false)` when
    /// there is no more. After an error there is no more either.
    pub fn read(&mut self, out: &mut Vec<f32>) -> Result<bool, AudioError> {
        if !self.head.is_empty() {
            out.append(&mut self.head);
            return Ok(true);
        }
        let before = out.len();
        let result = self.advance(out);
        if result.is_err() {
            self.feed = Feed::Over;
        }
        result.map(|()| out.len() > before)
    }

    fn begin(feed: Feed, hint: Option<Samples>, limits: Limits) -> Result<Self, AudioError> {
        let mut decoder = Self {
            feed,
            limit: limits.duration,
            hint,
            delivered: 0,
            spent: Duration::ZERO,
            head: Vec::new(),
        };
        let mut head = Vec::new();
        decoder.advance(&mut head)?;
        if head.is_empty() {
            return Err(AudioError::Empty);
        }
        decoder.head = head;
        Ok(decoder)
    }

    fn advance(&mut self, out: &mut Vec<f32>) -> Result<(), AudioError> {
        let (before, begun) = (out.len(), Instant::now());
        let allowed = GRACE + Duration::from_secs_f64(Samples(self.delivered).seconds());
        let deadline = begun + allowed.saturating_sub(self.spent);
        let more = match &mut self.feed {
            Feed::Demuxed(demuxed) => demuxed.read(STRETCH, deadline, out)?,
            Feed::Converted(conversion) => conversion.read(STRETCH, deadline, out)?,
            Feed::Over => false,
        };
        self.spent += begun.elapsed();
        if !more {
            self.feed = Feed::Over;
        }
        self.delivered += (out.len() - before) as u64;
        if self.delivered > self.limit.0 {
            return Err(AudioError::TooLong { limit: self.limit });
        }
        Ok(())
    }
}

fn refuse(foreign: Foreign, ffmpeg_allowed: bool) -> AudioError {
    let name = foreign.name;
    AudioError::Unsupported(match foreign.media {
        true if !ffmpeg_allowed => format!("this is {name}; the operator can allow ffmpeg for these"),
        _ => format!("this is {name}"),
    })
}
