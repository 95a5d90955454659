//! `ww file`: a recording over a live stream, at once or as fast as it was spoken.
//!
//! The contract: WAV is decoded here, whatever else goes as it is, so that the server's own decoders are used; only
//! pacing in real time needs samples (or `--bitrate`), which for FLAC are made here and for the rest by `ffmpeg`,
//! where that is installed. Deliberately absent: encoders.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, ValueEnum};
use whisperwire_protocol::stream::Encoding;

use crate::captions::{Output, Pace, Wishes, caption};
use crate::feed::{self, Feed};

/// The arguments.
#[derive(Debug, Args)]
pub(crate) struct File {
    /// The recording.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    wishes: Wishes,
    /// Send it as fast as it was spoken, not at once.
    #[arg(long)]
    realtime: bool,
    /// How it goes over the wire: samples of a WAV file and the bytes of any other, if not given.
    #[arg(long, value_enum)]
    encoding: Option<Wire>,
    /// How long one message is, with --realtime.
    #[arg(long, default_value = "20ms", value_name = "TIME", value_parser = crate::duration)]
    chunk: Duration,
    /// Bits per second of the file, to pace one that is sent as it is.
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u32).range(100..=100_000_000))]
    bitrate: Option<u32>,
    /// Survive a lost connection for so long.
    #[arg(long, value_name = "TIME", value_parser = crate::duration)]
    grace: Option<Duration>,
}

/// What a file can be sent as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Wire {
    /// Samples of 16 bits.
    PcmS16le,
    /// The file as it is: Opus in Ogg.
    OggOpus,
    /// The file as it is: Opus in WebM.
    WebmOpus,
    /// The file as it is, known by its first bytes.
    Container,
}

impl File {
    pub(crate) async fn run(&self, output: Output<'_>) -> anyhow::Result<u8> {
        let pace = if self.realtime { Pace::RealTime } else { Pace::AtOnce };
        let grace = self.grace.map(|grace| grace.as_secs_f64());
        caption(&self.wishes, self.feed()?, (pace, grace), output).await
    }

    fn feed(&self) -> anyhow::Result<Feed> {
        let chunk = self.realtime.then_some(self.chunk);
        let as_it_is = match self.encoding {
            Some(Wire::OggOpus) => Some(Encoding::OggOpus),
            Some(Wire::WebmOpus) => Some(Encoding::WebmOpus),
            Some(Wire::Container) => Some(Encoding::Container),
            Some(Wire::PcmS16le) | None => None,
        };
        let speed = self.bitrate.map(|bits| f64::from(bits) / 8.0);
        if let Some(encoding) = as_it_is.or(speed.map(|_| Encoding::Container)) {
            if self.realtime && speed.is_none() {
                bail!("To send a file as it is in real time, name its --bitrate.");
            }
            return Feed::raw_file(&self.file, encoding, chunk, speed);
        }
        let samples = self.realtime || self.encoding == Some(Wire::PcmS16le);
        let wav = self.file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("wav"));
        if (samples || wav)
            && let Some(decoded) = Feed::decoded(&self.file, chunk)?
        {
            return Ok(decoded);
        }
        if samples {
            self.by_ffmpeg(chunk)
        } else {
            Feed::raw_file(&self.file, Encoding::Container, None, None)
        }
    }

    fn by_ffmpeg(&self, chunk: Option<Duration>) -> anyhow::Result<Feed> {
        // ffmpeg would say it less plainly.
        std::fs::File::open(&self.file)
            .map_err(|wrong| anyhow::anyhow!("The file cannot be read: {wrong}."))?;
        match feed::ffmpeg(&self.file, chunk) {
            Ok(feed) => Ok(feed),
            Err(wrong) if wrong.kind() == std::io::ErrorKind::NotFound => {
                bail!(
                    "This kind of file is not decoded here; install ffmpeg, or name its --bitrate to pace it."
                )
            }
            Err(wrong) => bail!("ffmpeg cannot be started: {wrong}."),
        }
    }
}
