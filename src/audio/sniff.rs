//! A first look at the bytes, before any demuxer sees them.
//!
//! It answers three questions: is this something that we can name but not read (so that the refusal can say what
//! it is), does a header lie about its lengths (then how it should read), and does a stream without a
//! signature, MPEG audio or ADTS, really consist of frames that follow one another. A demuxer alone would take
//! two bytes of noise for the start of an MP3.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use super::source::Patch;

/// What the first look found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// Something that has a name but no decoder here.
    pub(super) foreign: Option<Foreign>,
    /// Bytes of the header that must read differently.
    pub(super) patches: Vec<Patch>,
    /// Where the recording ends: before the end of the file when something else follows, behind it when some of
    /// it is missing.
    pub(super) end: u64,
    /// Whether its container can be read from front to back without its end.
    pub(super) streamable: bool,
    /// A header that is followed by no audio at all.
    pub(super) hollow: bool,
}

/// Something that the built-in decoders do not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    /// With its article, to be put into a sentence.
    pub(super) name: &'static str,
    /// Whether there may be sound in it, for a program that knows more formats.
    pub(super) media: bool,
}

/// Signatures at fixed offsets: where, what, name, and whether it is a recording at all.
const SIGNATURES: &[(usize, &[u8], &str, bool)] = &[
    (0, b"\x00\x00\x01\xba", "an MPEG program stream", true),
    (0, b"\x00\x00\x01\xb3", "an MPEG video stream", true),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a Windows Media file", true),
    (0, b"#!AMR", "an AMR recording", true),
    (0, b".snd", "an AU recording", true),
    (0, b"FLV\x01", "a Flash video", true),
    (0, b"wvpk", "a WavPack file", true),
    (0, b"MAC ", "a Monkey's Audio file", true),
    (0, b"TTA1", "a True Audio file", true),
    (0, b".RMF", "a RealMedia file", true),
    (0, b"riff\x2e\x91\xcf\x11", "a Wave64 file", true),
    (0, b"\x0b\x77", "an AC-3 stream", true),
    (0, b"\x7f\xfe\x80\x01", "a DTS stream", true),
    (8, b"AVI ", "an AVI video", true),
    (0, b"MThd", "a MIDI score", false),
    (0, b"#EXTM3U", "a playlist", false),
    (0, b"ffconcat", "a playlist", false),
    (0, b"[playlist]", "a playlist", false),
    (0, b"<?xml", "an XML document", false),
    (0, b"%PDF", "a PDF document", false),
    (0, b"PK\x03\x04", "a ZIP archive", false),
    (0, b"\x1f\x8b", "a gzip archive", false),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", false),
    (0, b"\x89PNG", "a picture", false),
    (0, b"\xff\xd8\xff", "a picture", false),
    (0, b"GIF8", "a picture", false),
    (0, b"\x7fELF", "a program", false),
    (0, b"\xff\xfe\x00\x00", "a text", false),
    (0, b"\xef\xbb\xbf", "a text", false),
];

/// How many bytes it takes to know a [`Container`].
pub(super) const MAGIC: usize = 12;

/// A container by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Container {
    Wave,
    Ogg,
    Matroska,
    Flac,
    /// A tag in front of something else, mostly MPEG audio.
    Tagged,
    Caf,
    Aiff,
    Mp4,
}

impl Container {
    /// With its article, to be put into a sentence.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Wave => "a WAV file",
            Self::Ogg => "an Ogg file",
            Self::Matroska => "a WebM or Matroska file",
            Self::Flac => "a FLAC file",
            Self::Tagged => "an MP3 file",
            Self::Caf => "a CAF file",
            Self::Aiff => "an AIFF file",
            Self::Mp4 => "an MP4 file",
        }
    }
}

/// The container that the first [`MAGIC`] bytes announce. With fewer bytes nothing is announced that needs more.
pub(super) fn container(head: &[u8]) -> Option<Container> {
    let inner = |at: usize| head.get(at..at + 4).and_then(|tag| tag.first_chunk::<4>());
    match (inner(0)?, inner(4), inner(8)) {
        (b"RIFF" | b"RF64" | b"BW64", _, Some(b"WAVE")) => Some(Container::Wave),
        (b"FORM", _, Some(b"AIFF" | b"AIFC")) => Some(Container::Aiff),
        (_, Some(b"ftyp"), _) => Some(Container::Mp4),
        (b"OggS", Some([0, ..]), _) => Some(Container::Ogg),
        (b"\x1a\x45\xdf\xa3", ..) => Some(Container::Matroska),
        (b"fLaC", ..) => Some(Container::Flac),
        (b"caff", ..) => Some(Container::Caf),
        (b"ID3\x02" | b"ID3\x03" | b"ID3\x04", ..) => Some(Container::Tagged),
        _ => None,
    }
}

/// The packets of an MPEG transport stream, and of its variant with time codes, begin with this byte.
const TRANSPORT_SYNC: u8 = 0x47;

/// How far behind the tags the first frame of a stream without a signature is looked for.
pub(super) const FRAME_SEARCH: usize = 64 << 10;

/// Looks at a file of `length` bytes.
pub(super) fn look(file: &mut File, length: u64) -> io::Result<Look> {
    let head = read_at(file, 0, 1024)?;
    let mut look = Look { foreign: foreign(&head), end: length, ..Look::default() };
    if matches!(head.get(..4), Some(b"RIFF" | b"RF64" | b"BW64")) && head.get(8..12) == Some(b"WAVE") {
        look_at_wave(file, &mut look)?;
    }
    let streamable: [&[u8]; 3] = [b"OggS", b"\x1a\x45\xdf\xa3", b"FORM"];
    look.streamable = streamable.iter().any(|magic| head.starts_with(magic));
    if head.get(4..8) == Some(b"ftyp") {
        look_at_mp4(file, &mut look)?;
    }
    Ok(look)
}

/// What the head of a file is, if it has a name but no decoder here.
pub(super) fn foreign(head: &[u8]) -> Option<Foreign> {
    let found = |&&(at, magic, ..): &&(usize, &[u8], &str, bool)| {
        head.get(at..).is_some_and(|rest| rest.starts_with(magic))
    };
    if let Some(&(_, _, name, media)) = SIGNATURES.iter().find(found) {
        return Some(Foreign { name, media });
    }
    let transport = [(0, 188), (4, 192)].iter().any(|&(first, stride)| {
        (0..4).all(|packet| head.get(first + packet * stride) == Some(&TRANSPORT_SYNC))
    });
    if transport {
        return Some(Foreign { name: "an MPEG transport stream", media: true });
    }
    let readable = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | 0x0c | 0x20..=0x7e | 0x80..);
    let text = !head.is_empty() && head.iter().all(readable) && std::str::from_utf8(shorten(head)).is_ok();
    text.then_some(Foreign { name: "a text", media: false })
}

/// Without the last few bytes, which may be half a character.
fn shorten(head: &[u8]) -> &[u8] {
    let cut = (0..4).find(|cut| {
        head.len().checked_sub(*cut).is_some_and(|end| std::str::from_utf8(&head[..end]).is_ok())
    });
    &head[..head.len() - cut.unwrap_or(0)]
}

/// Walks the chunks of a WAV file up to its data and corrects lengths that cannot be true. Recorders that write
/// into a pipe leave 0 or 0xFFFFFFFF behind, those that were killed leave less than they promised.
fn look_at_wave(file: &mut File, look: &mut Look) -> io::Result<()> {
    const UNKNOWN: [u8; 4] = [0xff; 4];
    let length = look.end;
    // The demuxer stops at the data chunk anyway, so the outer length is never needed, and often wrong.
    look.patches = vec![Patch { at: 0, bytes: *b"RIFF" }, Patch { at: 4, bytes: UNKNOWN }];
    let mut wide = None;
    let mut at = 12;
    for _ in 0..1000 {
        let header = read_at(file, at, 24)?;
        let (Some(tag), Some(declared)) = (header.get(..4), little_endian(&header, 4)) else { break };
        let body = at + 8;
        if tag == b"ds64" {
            wide = little_endian(&header, 16)
                .zip(little_endian(&header, 20))
                .map(|(low, high)| low | high << 32);
        }
        if tag == b"data" {
            let available = length.saturating_sub(body);
            let honest = if declared == u64::from(u32::MAX) {
                wide.filter(|wide| *wide <= available)
            } else if declared < available.saturating_sub(declared)
                && !are_chunks(file, body + declared + declared % 2, length)?
            {
                // Most of the file is behind the stated end and is nothing else: the field was never filled in, or
                // a recording of more than 4 GB has run over it.
                None
            } else {
                Some(declared).filter(|declared| *declared <= available)
            };
            if honest != Some(declared) {
                look.patches.push(Patch { at: at + 4, bytes: UNKNOWN });
                look.end = body + honest.unwrap_or(available);
            }
            look.hollow = honest.unwrap_or(available) == 0;
            break;
        }
        at = body + declared + declared % 2;
    }
    Ok(())
}

/// Whether the bytes from `at` on are chunks that end exactly with the file: then the empty data chunk before
/// them is truly empty.
fn are_chunks(file: &mut File, mut at: u64, end: u64) -> io::Result<bool> {
    for _ in 0..1000 {
        let header = read_at(file, at, 8)?;
        let (Some(tag), Some(declared)) = (header.get(..4), little_endian(&header, 4)) else {
            return Ok(false);
        };
        if !tag.iter().all(|byte| matches!(byte, 0x20..=0x7e)) {
            return Ok(false);
        }
        at += 8 + declared;
        if at == end || at + declared % 2 == end {
            return Ok(true);
        }
        at += declared % 2;
    }
    Ok(false)
}

/// A download that broke off behind its index is still good for what arrived. The demuxer drops a media box that
/// reaches beyond the end of the file, so the file must seem as long as it was meant to be.
fn look_at_mp4(file: &mut File, look: &mut Look) -> io::Result<()> {
    let (length, mut at, mut index) = (look.end, 0u64, false);
    for _ in 0..1000 {
        let header = read_at(file, at, 16)?;
        let (Some(short), Some(kind)) = (big_endian(&header, 0), header.get(4..8)) else { break };
        let size = match short {
            1 => {
                big_endian(&header, 8).zip(big_endian(&header, 12)).map_or(0, |(high, low)| high << 32 | low)
            }
            short => short,
        };
        index |= kind == b"moov";
        let Some(next) = at.checked_add(size).filter(|_| size >= 8) else { break };
        if next > length {
            if index && kind == b"mdat" && next < 1 << 40 {
                look.end = next;
            }
            break;
        }
        at = next;
    }
    Ok(())
}

/// Whether an MPEG audio or ADTS stream begins near the start of the file: frames of one kind that follow one
/// another without a gap, at least three of them or as many as the file holds.
pub(super) fn has_frames(file: &mut File, length: u64) -> io::Result<bool> {
    let mut start = 0;
    for _ in 0..16 {
        let Some(size) = tag_size(&read_at(file, start, 10)?) else { break };
        start += size;
    }
    let window = read_at(file, start, FRAME_SEARCH + 3 * 8192)?;
    let whole = start + window.len() as u64 >= length;
    Ok(first_frame(&window, whole).is_some())
}

/// The size of the ID3 tag that begins here, with its own header and footer.
pub(super) fn tag_size(head: &[u8]) -> Option<u64> {
    let [b'I', b'D', b'3', _, _, flags, a, b, c, d] = *head.first_chunk()? else { return None };
    let size = [a, b, c, d].iter().fold(0, |size, byte| size << 7 | u64::from(byte & 0x7f));
    let footer = if flags & 0x10 == 0 { 0 } else { 10 };
    Some(10 + size + footer)
}

/// Where the first of a row of frames begins. With `whole` set, the window ends where the stream ends.
pub(super) fn first_frame(window: &[u8], whole: bool) -> Option<usize> {
    (0..window.len().min(FRAME_SEARCH)).find(|first| is_chain(window, *first, whole))
}

/// Whether frames follow one another from `at` on. With `whole` set, the window ends where the file ends.
fn is_chain(window: &[u8], mut at: usize, whole: bool) -> bool {
    let Some((kind, _)) = frame(&window[at..]) else { return false };
    for frames in 0.. {
        if frames >= 3 {
            return true;
        }
        match window.get(at..).and_then(frame) {
            Some((same, length)) if same == kind => at += length,
            // A short file: two frames in a row, or one that fills it to the last byte.
            _ => return whole && (at == window.len() || frames >= 2),
        }
    }
    false
}

/// The kind of frame that begins here (what all frames of a stream have in common) and its length.
fn frame(bytes: &[u8]) -> Option<(u32, usize)> {
    let header = u32::from_be_bytes(*bytes.first_chunk()?);
    if header >> 20 == 0xfff && header & 0x0006_0000 == 0 {
        let length = (usize::from(bytes[3] & 3) << 11)
            | (usize::from(*bytes.get(4)?) << 3)
            | usize::from(*bytes.get(5)? >> 5);
        // Sync word, version, layer, profile, rate and the upper bits of the channels.
        return (length > 7 && (header >> 10) & 15 < 13).then_some((header >> 10, length));
    }
    let (version, layer) = (header >> 19 & 3, header >> 17 & 3);
    let (bits, rate) = (header >> 12 & 15, header >> 10 & 3);
    if header >> 21 != 0x7ff || version == 1 || layer == 0 || bits == 0 || bits == 15 || rate == 3 {
        return None;
    }
    let hertz = [44_100, 48_000, 32_000][rate as usize] >> [2, 0, 1, 0][version as usize];
    let newer = version != 3;
    let kilobits: [u32; 14] = match (newer, layer) {
        (false, 3) => [32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448],
        (false, 2) => [32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384],
        (false, _) => [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
        (true, 3) => [32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256],
        (true, _) => [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
    };
    let (rate_bits, padding) = (kilobits[bits as usize - 1] * 1000, header >> 9 & 1);
    let length = match layer {
        3 => (12 * rate_bits / hertz + padding) * 4,
        1 if newer => 72 * rate_bits / hertz + padding,
        _ => 144 * rate_bits / hertz + padding,
    };
    // Sync word, version, layer and rate; bit rate, padding and stereo mode may change from frame to frame.
    Some(((header & 0xfffe_0c00) >> 10, length as usize))
}

/// Four bytes as a number.
pub(super) fn little_endian(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..)?.first_chunk()?;
    Some(u64::from(u32::from_le_bytes(*field)))
}

fn big_endian(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..)?.first_chunk()?;
    Some(u64::from(u32::from_be_bytes(*field)))
}

/// Up to `count` bytes from `at` on; fewer at the end of the file.
fn read_at(file: &mut File, at: u64, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(at))?;
    file.take(count as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}
