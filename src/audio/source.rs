//! The bytes as a demuxer sees them: metered, so that no container can make us read for ever or swallow everything
//! at once. A [`Source`] is a file, with a header whose lengths have been put right; an [`Inflow`] is a stream, which
//! can be looked at before it is read.
//!
//! Deliberately absent: buffering, which the demuxer's own stream does.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use symphonia::core::io::MediaSource;

/// The most bytes that may be read to answer one question. No honest packet and no honest index is larger, and
/// it bounds what a demuxer can hold at a time.
const PER_CALL: u64 = 64 << 20;

/// How often the whole file may be read. Two tracks that are not interleaved cost a read of a kilobyte per
/// packet; a table in which a thousand entries name the same packet costs far more.
const PASSES: u64 = 32;

/// The same for a stream: there are many at a time, and nobody sends an hour of sound in one piece while speaking.
const PER_CALL_LIVE: u64 = 8 << 20;

/// The bytes that a look ahead asks for at once; a stream gives what it has.
const LOOK: usize = 4096;

/// Counts what is read, from outside of the demuxer that owns the [`Source`] or [`Inflow`].
#[derive(Default)]
pub(super) struct Meter {
    call: AtomicU64,
    total: AtomicU64,
    /// Nanoseconds.
    waited: AtomicU64,
}

impl Meter {
    /// Called before each question to the demuxer.
    pub(super) fn next_call(&self) {
        self.call.store(0, Ordering::Relaxed);
    }

    /// How long was waited for bytes until now.
    pub(super) fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited.load(Ordering::Relaxed))
    }

    fn count(&self, bytes: u64, per_call: u64, in_all: u64) -> io::Result<()> {
        let call = self.call.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let total = self.total.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if call > per_call || total > in_all {
            return Err(io::Error::new(ErrorKind::QuotaExceeded, "the demuxer reads too much"));
        }
        Ok(())
    }

    fn wait(&self, time: Duration) {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.waited.fetch_add(time, Ordering::Relaxed);
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
        self.meter.count(
            got as u64,
            PER_CALL,
            PER_CALL.saturating_add(self.length.saturating_mul(PASSES)),
        )?;
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
        self.position = target.ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?;
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

/// Bytes that arrive while they are read. What was looked at comes out again when it is read.
pub(super) struct Inflow {
    /// Never locked: it only promises the demuxer that nobody else reads at the same time.
    bytes: Mutex<Box<dyn Read + Send>>,
    /// What was looked at, from `consumed` on.
    ahead: Vec<u8>,
    consumed: usize,
    over: bool,
    meter: Arc<Meter>,
}

impl Inflow {
    /// A stream whose every read may block until there is something; 0 bytes are its end.
    pub(super) fn new(bytes: impl Read + Send + 'static) -> Self {
        let bytes = Mutex::new(Box::new(bytes) as Box<dyn Read + Send>);
        Self { bytes, ahead: Vec::new(), consumed: 0, over: false, meter: Arc::default() }
    }

    /// The meter, to ask for the time that was spent waiting.
    pub(super) fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }

    /// What is known of the bytes to come. It may be changed.
    pub(super) fn ahead(&mut self) -> &mut [u8] {
        &mut self.ahead[self.consumed..]
    }

    /// Waits for the next bytes and adds them to those that are [`Inflow::ahead`]. `false` at the end.
    pub(super) fn look(&mut self) -> io::Result<bool> {
        let mut next = [0; LOOK];
        let got = self.fetch(&mut next)?;
        self.ahead.drain(..self.consumed);
        self.consumed = 0;
        self.ahead.extend_from_slice(&next[..got]);
        Ok(got > 0)
    }

    /// Drops the next `count` bytes, as they come. `false` if there are not so many. It is not metered: what is
    /// dropped takes no room, and no more time than its sender's.
    pub(super) fn skip(&mut self, mut count: u64) -> io::Result<bool> {
        let mut waste = [0; LOOK];
        while count > 0 {
            let piece = usize::try_from(count).unwrap_or(LOOK).min(LOOK);
            let got = self.take(&mut waste[..piece])?;
            if got == 0 {
                return Ok(false);
            }
            count -= got as u64;
        }
        Ok(true)
    }

    /// The next bytes, whether they were looked at or not.
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let known = self.ahead.len() - self.consumed;
        if known == 0 {
            return self.fetch(buffer);
        }
        let got = known.min(buffer.len());
        buffer[..got].copy_from_slice(&self.ahead[self.consumed..self.consumed + got]);
        self.consumed += got;
        if got == known {
            (self.ahead, self.consumed) = (Vec::new(), 0);
        }
        Ok(got)
    }

    fn fetch(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.bytes.get_mut().unwrap_or_else(PoisonError::into_inner);
        let begun = Instant::now();
        let got = loop {
            if self.over {
                break 0;
            }
            match bytes.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                answer => break answer?,
            }
        };
        self.meter.wait(begun.elapsed());
        self.over |= got == 0 && !buffer.is_empty();
        Ok(got)
    }
}

impl Read for Inflow {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.take(buffer)?;
        self.meter.count(got as u64, PER_CALL_LIVE, u64::MAX)?;
        Ok(got)
    }
}

impl Seek for Inflow {
    fn seek(&mut self, _: SeekFrom) -> io::Result<u64> {
        Err(ErrorKind::Unsupported.into())
    }
}

impl MediaSource for Inflow {
    fn is_seekable(&self) -> bool {
        false
    }

    fn byte_len(&self) -> Option<u64> {
        None
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

    #[test]
    fn what_was_looked_at_is_still_read() {
        let bytes: Vec<u8> = (0..=255).cycle().take(10_000).collect();
        for (looks, skipped) in [(0, 0), (1, 0), (1, 5), (2, 4096), (2, 9_000), (3, 10_000)] {
            let mut stream = Inflow::new(io::Cursor::new(bytes.clone()));
            for _ in 0..looks {
                assert!(stream.look().expect("a look"));
            }
            assert_eq!(*stream.ahead(), bytes[..(looks * LOOK).min(bytes.len())]);
            assert!(stream.skip(skipped).expect("so many bytes"));
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).expect("a read");
            assert_eq!(rest, bytes[skipped as usize..]);
            assert!(!stream.skip(1).expect("the end") && !stream.look().expect("the end"));
        }
    }

    #[test]
    fn a_stream_that_swallows_too_much_at_once_is_stopped() {
        let mut stream = Inflow::new(io::repeat(1));
        let meter = stream.meter();
        let mut buffer = vec![0; 1 << 20];
        for _ in 0..100 {
            meter.next_call();
            stream.read_exact(&mut buffer).expect("a megabyte per call");
        }
        assert!(stream.skip(100 << 20).expect("skipping takes no room"));
        meter.next_call();
        let refused = (0..100).find_map(|_| stream.read_exact(&mut buffer).err());
        assert_eq!(refused.expect("nobody stopped it").kind(), ErrorKind::QuotaExceeded);
    }
}
