//! Live streams from outside: what is said while audio is still being sent, over every transport there is.
//!
//! The audio is made for the scripted engine, whose words depend on the clock alone: a word that was lost, doubled
//! or moved on the way shows when the finals are compared with `scripted`. Every complete [`Story`] is checked for
//! the promises of the protocol, whatever its test is about. `story`, `socket` and `events` are what the others are
//! made of.

mod bad_input;
mod drain;
mod events;
mod gone;
mod keys;
mod legs;
mod models;
mod overload;
pub(crate) mod realtime;
mod resume;
mod rules;
pub(crate) mod socket;
mod sse;
pub(crate) mod story;
mod words;

#[cfg(feature = "whisper")]
pub(crate) mod model;

use bytes::Bytes;
use tokio::sync::mpsc;
use whisperwire::engine::script::words_in;
use whisperwire::transcript::{Samples, Span, Word};

use crate::sound::{RATE, run_ffmpeg, speech, wav};

/// How fast a client learns that its slot is free, or others do.
const SECOND: std::time::Duration = std::time::Duration::from_secs(1);

/// Sentences of `spoken` seconds with a second of silence behind each: the words that begin in a pause are left
/// out, whole words only.
fn talk(seconds: f64, spoken: f64) -> Vec<f32> {
    let mut pcm = speech(seconds);
    let rate = RATE as f64;
    let whole = Span::new(Samples(0), Samples(pcm.len() as u64));
    let turn = spoken + 1.0;
    for word in words_in(whole, |_| true) {
        let (start, end) = (word.span.start.0 as f64 / rate, word.span.end.0 as f64 / rate);
        if end % turn > spoken || start % turn > spoken || end % turn < start % turn {
            pcm[word.span.start.0 as usize..word.span.end.0 as usize].fill(0.0);
        }
    }
    pcm
}

/// A sample in the quiet between two words, the next one after so many seconds that is long enough to cut in: the
/// last 20 ms in front of a cut may belong to what is behind it.
fn between_words(seconds: f64) -> usize {
    const QUIET: u64 = RATE as u64 * 60 / 1_000;
    let from = Samples::from_seconds(seconds);
    let words = words_in(Span::new(Samples(0), from + Samples(16 * RATE as u64)), |_| true);
    let cuttable =
        |two: &&[Word]| two[0].span.end >= from && (two[1].span.start - two[0].span.end).0 >= QUIET;
    let two = words.windows(2).find(cuttable).expect("words go on");
    (two[0].span.end.0 + two[1].span.start.0) as usize / 2
}

/// Signed 16-bit samples.
pub(crate) fn s16le(pcm: &[f32]) -> Vec<u8> {
    pcm.iter().flat_map(|sample| ((sample * 32_767.0) as i16).to_le_bytes()).collect()
}

/// What ffmpeg makes of samples.
fn converted(pcm: &[f32], arguments: &[&str], extension: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("input.wav");
    std::fs::write(&source, wav(pcm)).expect("room for a file");
    run_ffmpeg(&["-i", source.to_str().expect("a plain path")], arguments, extension)
}

/// Opus packets of 20 ms.
fn opus_packets(pcm: &[f32]) -> Vec<Vec<u8>> {
    let mut encoder =
        opus::Encoder::new(RATE as u32, opus::Channels::Mono, opus::Application::Audio).expect("an encoder");
    let encode = |frame: &[f32]| encoder.encode_vec_float(frame, 4_000).expect("a packet");
    pcm.chunks_exact(RATE / 50).map(encode).collect()
}

/// A body of a request that is sent piece by piece; it ends when the sender is dropped.
fn open_body() -> (mpsc::Sender<Bytes>, reqwest::Body) {
    let (pieces, taken) = mpsc::channel::<Bytes>(1);
    let stream = futures_util::stream::unfold(taken, |mut taken| async {
        let piece = taken.recv().await?;
        Some((Ok::<_, std::io::Error>(piece), taken))
    });
    (pieces, reqwest::Body::wrap_stream(stream))
}

/// A random source, the same for the same seed.
fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    }
}
