//! What a stream is, found out from as few of its bytes as possible: somebody is already speaking.
//!
//! The contract: what was looked at stays in the stream, except for what no decoder needs, tags in front and noise
//! before the first frame of an MPEG stream. What cannot be read from front to back is refused here, by its name.

use super::AudioError;
use super::sniff::{self, Container, FRAME_SEARCH, MAGIC};
use super::source::Inflow;
use super::wave::{self, Header};

/// The largest tag that is skipped, pictures and all.
const MOST_OF_TAG: u64 = 7 << 20;

/// Bytes that are enough to tell a text from an MPEG stream that begins in the middle of a frame.
const LOOK: usize = 1024;

/// Who will read it.
pub(super) enum Opening {
    /// A demuxer.
    Container,
    /// We, because its samples are raw.
    Wave(Header),
}

/// Looks at the first bytes of a stream.
pub(super) fn recognise(stream: &mut Inflow) -> Result<Opening, AudioError> {
    for _ in 0..16 {
        while stream.ahead().len() < MAGIC && stream.look()? {}
        let head = stream.ahead();
        if head.is_empty() {
            return Err(AudioError::Empty);
        }
        match sniff::container(head) {
            Some(Container::Tagged) => skip_tag(stream)?,
            Some(Container::Wave) => return Ok(wave::look(stream)?.map_or(Opening::Container, Opening::Wave)),
            Some(Container::Mp4) => return index_first(stream).map(|()| Opening::Container),
            Some(Container::Caf) => return Err(only_as_a_file(Container::Caf)),
            Some(_) => return Ok(Opening::Container),
            None => return find_frames(stream).map(|()| Opening::Container),
        }
    }
    Err(nothing_known())
}

fn skip_tag(stream: &mut Inflow) -> Result<(), AudioError> {
    let size = sniff::tag_size(stream.ahead()).unwrap_or(0);
    if size > MOST_OF_TAG {
        return Err(AudioError::Limit(
            "the tag in front of the audio is too large for a live stream".to_owned(),
        ));
    }
    match stream.skip(size)? {
        true => Ok(()),
        false => Err(AudioError::Empty),
    }
}

/// An MP4 tells only in its index where its sound is. Where the sound comes first, we would have to keep all of it.
fn index_first(stream: &mut Inflow) -> Result<(), AudioError> {
    let mut at = 0;
    loop {
        match stream.ahead().get(at..).and_then(|rest| rest.first_chunk::<8>()).copied() {
            Some([_, _, _, _, b'm', b'o', b'o', b'v']) => return Ok(()),
            Some([_, _, _, _, b'm', b'd', b'a', b't']) => return Err(only_as_a_file(Container::Mp4)),
            Some([a, b, c, d, ..]) => {
                at += (u32::from_be_bytes([a, b, c, d]) as usize).clamp(8, FRAME_SEARCH + 1);
            }
            None if at > FRAME_SEARCH => return Ok(()),
            None if stream.look()? => {}
            None => return Ok(()),
        }
    }
}

/// Waits for frames that follow one another, and drops what is before them.
fn find_frames(stream: &mut Inflow) -> Result<(), AudioError> {
    let (mut judged, mut over) = (0, false);
    loop {
        let head = stream.ahead();
        let long = head.len() >= LOOK || over;
        if let Some(foreign) = sniff::foreign(head).filter(|_| long) {
            return Err(AudioError::Unsupported(format!("this is {}", foreign.name)));
        }
        // Not after every byte: all of it is judged again each time.
        if head.len() >= judged + judged / 8 + 64 || over {
            judged = head.len();
            if let Some(first) = sniff::first_frame(head, over) {
                stream.skip(first as u64)?;
                return Ok(());
            }
        }
        if over || head.len() >= FRAME_SEARCH + 3 * 8192 {
            return Err(nothing_known());
        }
        over = !stream.look()?;
    }
}

fn only_as_a_file(container: Container) -> AudioError {
    let name = container.name();
    AudioError::Unsupported(format!(
        "{name} of this kind can only be read as a whole, not while it is written"
    ))
}

fn nothing_known() -> AudioError {
    AudioError::Unsupported("no known audio format was recognised".to_owned())
}
