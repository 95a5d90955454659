//! The file as a demuxer sees it: metered, so that no container can make us read for ever or swallow the whole
//! file at once, and with a header whose lengths have been put right.
//!
//! Deliberately absent: buffering, which the demuxer's own stream does.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use symphonia::core::io::MediaSource;

/// The most bytes that may be read to answer one question. No honest packet and no honest index is larger, and
/// it bounds what a demuxer can hold at a time.
const PER_CALL: u64 = 64 << 20;

/// How often the whole file may be read. Two tracks that are not interleaved cost a read of a kilobyte per
/// packet; a table in which a thousand entries name the same packet costs far more.
const PASSES: u64 = 32;

/// Counts what is read, from outside of the demuxer that owns the [`Source`].
#[derive(Default)]
pub(super) struct Meter {
    call: AtomicU64,
    total: AtomicU64,
}

impl Meter {
    /// Called before each question to the demuxer.
    pub(super) fn next_call(&self) {
        self.call.store(0, Ordering::Relaxed);
    }

    fn count(&self, bytes: u64, length: u64) -> io::Result<()> {
        let call = self.call.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let total = self.total.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if call > PER_CALL || total > PER_CALL + length.saturating_mul(PASSES) {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "the demuxer reads too much"));
        }
        Ok(())
    }
}

/// Bytes that stand in a file but should be others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patch {
    /// Where the four bytes stand.
    pub(super) at: u64,
    /// What they should be.
    pub(super) bytes: [u8; 4],
}

/// A seekable view of a file, which may end before the file or seem to end behind it.
pub(super) struct Source {
    /// The bytes; its own cursor may be moved by others between two reads.
    pub(super) file: File,
    /// How many there really are.
    pub(super) length: u64,
    /// Where the view ends.
    pub(super) end: u64,
    /// Laid over what is read.
    pub(super) patches: Vec<Patch>,
    /// Shared with whoever asks the demuxer.
    pub(super) meter: Arc<Meter>,
    /// Whether the demuxer may know that it can seek.
    pub(super) seekable: bool,
    /// The cursor.
    pub(super) position: u64,
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_sub(self.position);
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        self.file.seek(SeekFrom::Start(self.position))?;
        let got = self.file.read(&mut buffer[..wanted])?;
        self.meter.count(got as u64, self.length)?;
        for patch in &self.patches {
            for (at, byte) in (patch.at..).zip(patch.bytes) {
                let inside = at.checked_sub(self.position).and_then(|offset| usize::try_from(offset).ok());
                if let Some(place) = inside.and_then(|offset| buffer[..got].get_mut(offset)) {
                    *place = byte;
                }
            }
        }
        self.position += got as u64;
        Ok(got)
    }
}

impl Seek for Source {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.end.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}

impl MediaSource for Source {
    fn is_seekable(&self) -> bool {
        self.seekable
    }

    /// What is really there: the probe looks for tags at the end.
    fn byte_len(&self) -> Option<u64> {
        self.seekable.then(|| self.end.min(self.length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn source(bytes: &[u8], patches: Vec<Patch>) -> Source {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(bytes).expect("room on the disk");
        let length = bytes.len() as u64;
        Source { file, length, end: length, patches, meter: Arc::default(), seekable: true, position: 0 }
    }

    #[test]
    fn patches_show_through_any_window() {
        let mut source = source(b"0123456789", vec![Patch { at: 3, bytes: *b"abcd" }]);
        for start in 0..10 {
            let mut all = Vec::new();
            source.seek(SeekFrom::Start(start)).expect("a seek inside of the file");
            source.read_to_end(&mut all).expect("a read");
            assert_eq!(all, b"012abcd789"[start as usize..]);
        }
    }

    #[test]
    fn a_reader_that_never_stops_is_stopped() {
        let mut source = source(&[0; 1 << 20], Vec::new());
        let mut buffer = vec![0; 1 << 20];
        let mut passes = 0;
        let refused = loop {
            source.meter.next_call();
            source.seek(SeekFrom::Start(0)).expect("a seek");
            match source.read(&mut buffer) {
                Ok(_) => passes += 1,
                Err(error) => break error,
            }
            assert!(passes < 1000, "nobody stopped it");
        };
        assert_eq!(refused.kind(), io::ErrorKind::QuotaExceeded);
        assert!(passes >= 32);
    }
}
