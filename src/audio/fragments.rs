//! A fragmented MP4 that goes on for hours, in portions that a demuxer can forget.
//!
//! The contract: the demuxer keeps the index of every fragment that it has read. After so many of them its stream
//! seems to end, at a fragment's border; the next [`Fragments`] begins with the head of the file again and goes on
//! where the last one ended. From the first fragment on, boxes that hold neither an index nor sound are left out.
//! Where a fragment names its place in the file, it names its place in the portion afterwards.
//!
//! Deliberately absent: everything else that stands in the boxes.

use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError};

use symphonia::core::io::MediaSource;

use super::source::Inflow;

/// Fragments per portion, and the bytes of their index.
const MOST_FRAGMENTS: u32 = 512;
const MOST_OF_INDEX: u64 = 1 << 20;

/// The most bytes of one fragment's index.
const MOST_OF_MOOF: u64 = 4 << 20;

/// One portion of the stream.
pub(super) struct Fragments {
    shared: Arc<Mutex<Shared>>,
    /// How much of the head was given, where it is given again.
    given: usize,
    again: bool,
}

/// The stream, with what is known of the box that it stands in.
struct Shared {
    stream: Inflow,
    /// Everything up to the end of the index in front.
    head: Vec<u8>,
    headed: bool,
    /// Bytes that were read and not given yet: the header of a box, or all of a fragment's index.
    ready: Vec<u8>,
    /// What is left of the box behind them.
    left: u64,
    kind: [u8; 4],
    /// A fragment's index begins, of which only the header was read.
    moof: bool,
    /// How many bytes of the stream were read, and how many the portion has given.
    position: u64,
    place: u64,
    fragments: u32,
    index: u64,
    /// The portion has ended, the stream has not.
    cut: bool,
}

impl Fragments {
    /// The first portion.
    pub(super) fn new(stream: Inflow) -> Self {
        let shared = Shared {
            stream,
            head: Vec::new(),
            headed: false,
            ready: Vec::new(),
            left: 0,
            kind: [0; 4],
            moof: false,
            position: 0,
            place: 0,
            fragments: 0,
            index: 0,
            cut: false,
        };
        Self { shared: Arc::new(Mutex::new(shared)), given: 0, again: false }
    }

    /// Another hold of the same stream, for [`Fragments::next`].
    pub(super) fn handle(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), given: 0, again: true }
    }

    /// The next portion, once one has ended before the stream has.
    pub(super) fn next(&self) -> Option<Self> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let more = std::mem::take(&mut shared.cut);
        shared.place = 0;
        drop(shared);
        more.then(|| self.handle())
    }
}

impl Shared {
    /// Reads the header of the next box that matters. `false` at the end of the portion or of the stream.
    fn begin_box(&mut self) -> io::Result<bool> {
        loop {
            if self.cut {
                return Ok(false);
            }
            let mut header = [0; 16];
            if !fill(&mut self.stream, &mut header[..8])? {
                return Ok(false);
            }
            let [a, b, c, d, kind @ ..] = *header.first_chunk::<8>().expect("the header is longer");
            let (length, size) = match u32::from_be_bytes([a, b, c, d]) {
                0 => (8, u64::MAX),
                1 if !fill(&mut self.stream, &mut header[8..])? => return Ok(false),
                1 => (16, u64::from_be_bytes(*header.last_chunk().expect("the header is longer"))),
                short => (8, u64::from(short)),
            };
            self.left = size.checked_sub(length as u64).ok_or(ErrorKind::InvalidInput)?;
            self.position += length as u64;
            self.kind = kind;
            self.moof = kind == *b"moof";
            let fragmented = self.fragments > 0;
            if !fragmented || self.moof || [b"mdat", b"moov"].contains(&&kind) {
                self.ready = header[..length].to_vec();
                self.count();
                return Ok(!self.cut);
            }
            self.position = self.position.saturating_add(self.left);
            if !self.stream.skip(std::mem::take(&mut self.left))? {
                return Ok(false);
            }
        }
    }

    fn count(&mut self) {
        if self.moof {
            self.cut = self.fragments >= MOST_FRAGMENTS || self.index > MOST_OF_INDEX;
            if self.cut {
                (self.fragments, self.index) = (0, 0);
            }
            self.fragments += 1;
            self.index = self.index.saturating_add(self.left);
        }
    }

    /// The rest of a fragment's index, with the places put right that it names. `false` if it is torn.
    fn load_moof(&mut self) -> io::Result<bool> {
        self.moof = false;
        if self.left > MOST_OF_MOOF {
            return Err(ErrorKind::InvalidInput.into());
        }
        let header = self.ready.len();
        let shift = (self.position - header as u64).wrapping_sub(self.place);
        let left = std::mem::take(&mut self.left);
        self.ready.resize(header + left as usize, 0);
        self.position += left;
        let whole = fill(&mut self.stream, &mut self.ready[header..])?;
        if shift != 0 {
            for_each_box(&mut self.ready[header..], *b"traf", |traf| {
                for_each_box(traf, *b"tfhd", |tfhd| move_base(tfhd, shift));
            });
        }
        Ok(whole)
    }

    /// The next bytes of the box, with the end of the head noticed.
    fn give(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = if self.ready.is_empty() {
            let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
            let got = self.stream.read(&mut buffer[..room])?;
            self.left -= got as u64;
            self.position += got as u64;
            got
        } else {
            let got = self.ready.len().min(buffer.len());
            buffer[..got].copy_from_slice(&self.ready[..got]);
            self.ready.drain(..got);
            got
        };
        if !self.headed {
            self.head.extend_from_slice(&buffer[..got]);
            self.headed = self.kind == *b"moov" && self.left == 0 && self.ready.is_empty();
        }
        Ok(got)
    }
}

impl Read for Fragments {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if self.again && self.given < shared.head.len() {
            let rest = &shared.head[self.given..];
            let got = rest.len().min(buffer.len());
            buffer[..got].copy_from_slice(&rest[..got]);
            self.given += got;
            shared.place += got as u64;
            return Ok(got);
        }
        if shared.ready.is_empty() && shared.left == 0 && !shared.begin_box()? {
            return Ok(0);
        }
        if shared.cut || (shared.moof && !shared.load_moof()?) {
            return Ok(0);
        }
        let got = shared.give(buffer)?;
        shared.place += got as u64;
        Ok(got)
    }
}

impl Seek for Fragments {
    fn seek(&mut self, _: SeekFrom) -> io::Result<u64> {
        Err(ErrorKind::Unsupported.into())
    }
}

impl MediaSource for Fragments {
    fn is_seekable(&self) -> bool {
        false
    }

    fn byte_len(&self) -> Option<u64> {
        None
    }
}

/// `false` if the stream ends before the buffer is full.
fn fill(stream: &mut Inflow, buffer: &mut [u8]) -> io::Result<bool> {
    match stream.read_exact(buffer) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        answer => answer.map(|()| true),
    }
}

/// Calls on every box of one kind that stands directly in `boxes`, with its body.
fn for_each_box(boxes: &mut [u8], kind: [u8; 4], mut call: impl FnMut(&mut [u8])) {
    let mut rest = boxes;
    while let Some([a, b, c, d, this @ ..]) = rest.first_chunk::<8>().copied() {
        let size = (u32::from_be_bytes([a, b, c, d]) as usize).clamp(8, rest.len());
        let (one, later) = rest.split_at_mut(size);
        if this == kind {
            call(&mut one[8..]);
        }
        rest = later;
    }
}

/// The place in the file that a fragment's header may name, if it does.
fn move_base(tfhd: &mut [u8], shift: u64) {
    const NAMED: u8 = 1;
    if tfhd.get(3).is_some_and(|flags| flags & NAMED != 0)
        && let Some(field) = tfhd.get_mut(8..).and_then(|field| field.first_chunk_mut::<8>())
    {
        *field = u64::from_be_bytes(*field).wrapping_sub(shift).to_be_bytes();
    }
}
