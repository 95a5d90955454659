//! A file as a source of audio: decoded on a thread that may block, a few seconds ahead of the session at most.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::audio::{AudioError, FileDecoder, FileOptions};
use crate::transcript::{RATE, Samples};

/// A file that was looked at and is audio, as far as its head tells.
pub struct Source {
    kind: Kind,
    progress: Progress,
}

/// How far a file has been read, which is never far ahead of what was heard. Clones are the same file.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Read>);

#[derive(Debug, Default)]
struct Read {
    samples: AtomicU64,
    /// Zero while that is not known.
    length: AtomicU64,
}

impl Progress {
    /// The share of the file, where its length is known; at most 1.
    pub fn share(&self) -> Option<f64> {
        let length = self.0.length.load(Ordering::Relaxed);
        let read = self.0.samples.load(Ordering::Relaxed);
        (length > 0).then(|| (read as f64 / length as f64).min(1.0))
    }
}

enum Kind {
    File(Box<FileDecoder>),
    /// Stands for an upload that is no audio, where the engine takes placeholders.
    Placeholder,
}

/// Chunks that may wait between the decoder and the session.
const AHEAD: usize = 4;

impl Source {
    /// Blocks.
    pub(super) fn open(file: File, options: &FileOptions, placeholders: bool) -> Result<Self, AudioError> {
        match FileDecoder::open(file, options) {
            Ok(decoder) => Ok(Self::of(Kind::File(Box::new(decoder)))),
            Err(AudioError::Unsupported(_) | AudioError::Corrupt(_)) if placeholders => {
                Ok(Self::of(Kind::Placeholder))
            }
            Err(error) => Err(error),
        }
    }

    fn of(kind: Kind) -> Self {
        Self { kind, progress: Progress::default() }
    }

    /// Tells somebody how far the file has been read.
    #[must_use]
    pub fn watched_by(self, progress: Progress) -> Self {
        let length = self.length_hint().unwrap_or_default();
        progress.0.length.store(length.0, Ordering::Relaxed);
        Self { progress, ..self }
    }

    /// How long the container says it is. Never trusted for more than a progress bar.
    pub fn length_hint(&self) -> Option<Samples> {
        match &self.kind {
            Kind::File(decoder) => decoder.length_hint(),
            Kind::Placeholder => Some(Samples(u64::from(RATE))),
        }
    }

    /// Starts reading. The chunks end where the file ends or breaks; [`Reading::finish`] says which it was.
    pub(super) fn read(self) -> (Reading, mpsc::Receiver<Vec<f32>>) {
        let (send, chunks) = mpsc::channel(AHEAD);
        let Self { kind, progress } = self;
        let task = tokio::task::spawn_blocking(move || match kind {
            Kind::Placeholder => {
                // One second that any detector by loudness takes for speech.
                let tone = (0..RATE).map(|n| 0.3 * (n as f32 * 0.9).sin()).collect();
                drop(send.blocking_send(tone));
                Ok(())
            }
            Kind::File(decoder) => pump(*decoder, &send, &progress),
        });
        (Reading(task), chunks)
    }
}

/// Reads until the end, an error, or until nobody takes the chunks any more.
fn pump(
    mut decoder: FileDecoder,
    send: &mpsc::Sender<Vec<f32>>,
    progress: &Progress,
) -> Result<(), AudioError> {
    loop {
        let mut pcm = Vec::new();
        let more = decoder.read(&mut pcm)?;
        let read = pcm.len() as u64;
        if send.blocking_send(pcm).is_err() || !more {
            return Ok(());
        }
        progress.0.samples.fetch_add(read, Ordering::Relaxed);
    }
}

/// A file that is being read. The thread ends by itself once the receiver of its chunks is gone.
pub(super) struct Reading(JoinHandle<Result<(), AudioError>>);

impl Reading {
    /// How reading ended.
    pub(super) async fn finish(self) -> Result<(), AudioError> {
        self.0.await.unwrap_or_else(|_| Err(crashed()))
    }
}

/// Runs what blocks on a thread for it.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, AudioError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| crashed())
}

fn crashed() -> AudioError {
    AudioError::Corrupt("its decoder crashed".to_owned())
}
