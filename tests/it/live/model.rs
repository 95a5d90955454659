//! The bundled model: the same recording uploaded, in a burst and in real time gives the same text.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use whisperwire_client::wer::{self, Score};
use whisperwire_protocol::stream::ServerMessage;

use super::s16le;
use super::socket::Socket;
use super::story::Story;
use crate::client::{Form, runtime};
use crate::house::{TestHouse, shared};
use crate::recordings::{manifest, recording, samples};

/// 20 ms.
const CHUNK: usize = 640;

/// What a recording is named, what is said in it, and what is heard of it as an upload.
fn recordings(kind: impl Fn(&str) -> bool) -> Vec<(String, String, String)> {
    let text = |entry: &Value, key: &str| entry[key].as_str().expect("a text").to_owned();
    let all = manifest().into_iter().map(|entry| (text(&entry, "file"), text(&entry, "text")));
    let wanted = all.filter(|(name, _)| kind(name));
    wanted
        .map(|(name, said)| {
            let heard = shared().transcribe(&Form::of(&recording(&name))).words();
            (name, said, heard)
        })
        .collect()
}

/// A recording as a live stream, in real time or as fast as it goes.
async fn streamed(name: &str, paced: bool) -> Story {
    streamed_to(shared(), "", name, paced).await
}

/// The same at any server, with these settings.
pub(crate) async fn streamed_to(house: &TestHouse, query: &str, name: &str, paced: bool) -> Story {
    let bytes = s16le_exactly(&samples(name));
    let mut socket = Socket::open(house, query).await;
    let mut clock = tokio::time::interval(Duration::from_millis(20));
    for chunk in bytes.chunks(CHUNK) {
        if paced {
            clock.tick().await;
        }
        socket.audio(chunk).await;
    }
    let story = socket.end().await.whole();
    assert_eq!((story.close, story.done().account.received), (Some(1000), bytes.len() as u64 / 2), "{name}");
    story
}

/// The samples as they stand in the recording.
fn s16le_exactly(pcm: &[f32]) -> Vec<u8> {
    let scaled: Vec<f32> = pcm.iter().map(|sample| sample * 32_768.0 / 32_767.0).collect();
    let bytes = s16le(
        &scaled.iter().map(|sample| sample + 0.25_f32.copysign(*sample) / 32_767.0).collect::<Vec<_>>(),
    );
    for (sample, pair) in pcm.iter().zip(bytes.chunks_exact(2)) {
        assert_eq!(f32::from(i16::from_le_bytes([pair[0], pair[1]])) / 32_768.0, *sample);
    }
    bytes
}

/// Compares, and says how well the model heard.
fn same(how: &str, recordings: &[(String, String, String)], stories: &[Story]) {
    let (mut live, mut file, mut differ) = (Score::default(), Score::default(), Vec::new());
    for ((name, said, uploaded), story) in recordings.iter().zip(stories) {
        let streamed = story.text();
        live = [live, wer::score(said, &streamed)].into_iter().sum();
        file = [file, wer::score(said, uploaded)].into_iter().sum();
        if streamed != *uploaded {
            differ.push(format!("{name}\n  upload: {uploaded}\n  {how}: {streamed}"));
        }
    }
    eprintln!("{how}: word error rate {:.1} %, uploaded {:.1} %", 100.0 * live.rate(), 100.0 * file.rate());
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

#[test]
fn a_burst_is_heard_like_an_upload() {
    let all = recordings(|name| !name.contains("stereo"));
    assert!(all.len() >= 14);
    let mut stories = Vec::new();
    for some in all.chunks(3) {
        let some = some.iter().map(|(name, ..)| streamed(name, false));
        stories.extend(runtime().block_on(join_all(some)));
    }
    same("in a burst", &all, &stories);
}

#[test]
fn speech_is_heard_like_an_upload() {
    let names = ["sentence-04-slt.flac", "sentence-08-slt.flac", "sentence-10-espeak.flac"];
    let all = recordings(|name| names.contains(&name));
    let stories = runtime().block_on(join_all(all.iter().map(|(name, ..)| streamed(name, true))));
    same("in real time", &all, &stories);
    for story in &stories {
        assert!(story.has(|message| matches!(message, ServerMessage::Partial(_))), "nobody saw it coming");
    }
}
