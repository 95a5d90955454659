//! Bytes in, 16 kHz mono samples out.
//!
//! The contract: whatever a stranger sends, the answer is samples between -1 and 1 or an [`AudioError`] whose
//! sentence the stranger may read. The bytes decide what a file is, never its name. Memory stays bounded by
//! constants of this room, time by the size of the file and by [`Limits`]; nothing in here panics on bad bytes.
//!
//! * [`FileDecoder`] turns a file into samples, stretch by stretch.
//! * [`LiveDecoder`] turns raw samples and Opus packets into samples, chunk by chunk, without ever waiting.
//! * [`ContainerDecoder`] does it with a container that is still being written, and waits for its bytes.
//! * [`Resampler`] brings mono samples of any rate to 16 kHz.
//! * [`Ffmpeg`] is the last resort for what the built-in decoders cannot read, where the operator allows it.
//!
//! Deliberately absent: anything asynchronous. Decoding blocks; the caller brings the thread.

mod container;
mod demux;
mod ffmpeg;
mod file;
mod fragments;
mod live;
#[cfg(test)]
mod live_tests;
mod opening;
mod packets;
mod pcm;
#[cfg(test)]
mod raw_tests;
mod resample;
mod sniff;
mod source;
#[cfg(test)]
mod tests;
mod wave;

pub use container::ContainerDecoder;
pub use ffmpeg::Ffmpeg;
pub use file::{FileDecoder, FileOptions};
pub use live::{Heard, LiveDecoder, LiveFormat};
pub use pcm::Coding;
pub use resample::Resampler;

use crate::transcript::Samples;

/// The lowest input rate that is still taken for sound, in Hz. Real recordings start at 6 kHz; a header that
/// names one sample per second would only blow up the output.
const LOWEST_RATE: u32 = 2_000;

/// What a file may ask for before it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest audio, as a length of the output.
    pub duration: Samples,
    /// The most channels.
    pub channels: u16,
    /// The highest input rate, in Hz.
    pub rate: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { duration: Samples::from_millis(6 * 3_600_000), channels: 32, rate: 384_000 }
    }
}

impl Limits {
    /// Refuses a signal of `channels` channels at `rate` Hz that is outside of the limits.
    fn check(&self, rate: u32, channels: usize) -> Result<(), AudioError> {
        if channels == 0 {
            return Err(AudioError::Corrupt("it claims to have no channels".to_owned()));
        }
        if channels > usize::from(self.channels) {
            let most = self.channels;
            return Err(AudioError::Limit(format!(
                "{channels} audio channels are more than the {most} allowed"
            )));
        }
        if rate > self.rate {
            let highest = self.rate;
            return Err(AudioError::Limit(format!(
                "a sample rate of {rate} Hz is above the {highest} Hz allowed"
            )));
        }
        if rate < LOWEST_RATE {
            return Err(AudioError::Unsupported(format!("a sample rate of {rate} Hz is too low for speech")));
        }
        Ok(())
    }
}

/// Why there is no sound (any more). The sentences may be shown to a client: they name no path and no content.
#[derive(Debug, thiserror::Error)]
pub enum AudioError {
    /// Nothing was sent, or what was sent holds not one sample.
    #[error("the file holds no audio")]
    Empty,
    /// No decoder at hand reads this.
    #[error("the audio format is not supported: {0}")]
    Unsupported(String),
    /// The format is known, but the bytes break its rules.
    #[error("the audio is damaged: {0}")]
    Corrupt(String),
    /// The audio is longer than [`Limits::duration`].
    #[error("the audio is longer than the {} seconds allowed", limit.seconds())]
    TooLong {
        /// The longest that is taken.
        limit: Samples,
    },
    /// Another of the [`Limits`] is exceeded.
    #[error("{0}")]
    Limit(String),
    /// Our own disk or our own child process failed; not the client's fault.
    #[error("the audio could not be read")]
    Io(#[from] std::io::Error),
}
