//! What the protocol promises, over sessions of every kind: whatever is sent, in whatever pieces, at whatever speed, to
//! an engine that is fast or slow.

use std::ops::Range;
use std::time::Duration;

use futures_util::future::join_all;
use whisperwire_protocol::stream::ServerMessage;

use super::socket::Socket;
use super::story::Story;
use super::{between_words, random, s16le, talk};
use crate::client::runtime;
use crate::house::TestHouse;
use crate::sound::{RATE, scripted};

/// One session of this seed: what was said, and what came of it.
async fn session(house: &TestHouse, seed: u64) -> (Vec<f32>, Story, usize) {
    let mut random = random(seed);
    let pcm = talk(4.0 + random(26) as f64, 1.5 + random(90) as f64 / 10.0);
    let paced = random(2) == 0;
    let size = 2 * (1 + random(if paced { 4_000 } else { 40_000 })) as usize + random(2) as usize;
    let settings = ["", "words=true", "silence_ms=200", "silence_ms=1200&prefix_ms=0", "vad_threshold=0.3"];
    let mut socket = Socket::open(house, settings[random(settings.len() as u64) as usize]).await;
    let mut flushes: Vec<usize> = Vec::new();
    for _ in 0..random(3) {
        let at = between_words(random(pcm.len() as u64) as f64 / RATE as f64);
        flushes.push(at.min(pcm.len()));
    }
    flushes.sort_unstable();
    let bytes = s16le(&pcm);
    let mut sent = 0;
    for stop in flushes.iter().map(|at| at * 2).chain([bytes.len()]) {
        for chunk in bytes[sent..stop].chunks(size) {
            socket.audio(chunk).await;
            if paced {
                // Ten times as fast as it was spoken.
                tokio::time::sleep(Duration::from_millis(chunk.len() as u64 / 32 / 10)).await;
            }
        }
        sent = stop;
        if stop < bytes.len() {
            socket.flush().await;
        }
    }
    let flushed = flushes.iter().filter(|at| **at < pcm.len()).count();
    (pcm, socket.end().await, flushed)
}

fn all_is_well(delay: &str, seeds: Range<u64>, least: (usize, usize)) {
    let house = TestHouse::start(&["--script-delay-ms", delay, "--workers", "2", "--max-streams", "100"]);
    let sessions = runtime().block_on(join_all(seeds.clone().map(|seed| session(&house, seed))));
    let (mut partials, mut stable) = (0, 0);
    for (seed, (pcm, story, flushes)) in seeds.zip(sessions) {
        let story = story.whole();
        assert_eq!((story.close, story.text()), (Some(1000), scripted(&pcm)), "seed {seed}");
        assert_eq!(story.done().account.received, pcm.len() as u64);
        let flushed = story.messages().filter(|message| matches!(message, ServerMessage::Flushed { .. }));
        assert_eq!(flushed.count(), flushes, "seed {seed}");
        for message in story.messages() {
            let ServerMessage::Partial(partial) = message else { continue };
            partials += 1;
            stable += usize::from(!partial.stable.is_empty());
        }
    }
    eprintln!("{partials} partials, {stable} of them with stable words");
    assert!(
        partials >= least.0 && stable >= least.1,
        "{partials} partials, {stable} of them with stable words"
    );
}

#[test]
fn sessions_with_a_fast_engine() {
    all_is_well("0", 0..40, (100, 20));
}

#[test]
fn sessions_with_a_slow_engine() {
    all_is_well("5", 100..124, (1, 0));
}
