//! The words come out as they went in, however the audio is coded and cut.

use serde_json::json;
use whisperwire_protocol::stream::{MAX_MESSAGE, ServerMessage};

use super::socket::Socket;
use super::story::Story;
use super::{between_words, converted, opus_packets, s16le, talk};
use crate::client::{Form, runtime};
use crate::house::TestHouse;
use crate::sound::{RATE, scripted, speech, wav};

/// What a stream makes of these chunks.
fn told<'a>(house: &TestHouse, query: &str, chunks: impl IntoIterator<Item = &'a [u8]>) -> Story {
    runtime().block_on(async {
        let mut socket = Socket::open(house, query).await;
        for chunk in chunks {
            socket.audio(chunk).await;
        }
        let story = socket.end().await.whole();
        assert_eq!(story.close, Some(1000), "{query}");
        story
    })
}

#[test]
fn bytes_may_be_cut_anywhere() {
    let house = TestHouse::start(&[]);
    let pcm = talk(24.0, 5.0);
    let bytes = s16le(&pcm);
    let first = told(&house, "", bytes.chunks(640));
    assert_eq!(first.text(), scripted(&pcm));
    assert_eq!(first.done().account.received, pcm.len() as u64);
    assert!(first.gaps().is_empty() && first.errors().is_empty());
    for size in [333, 4_001, 100_000, bytes.len()] {
        let story = told(&house, "", bytes.chunks(size));
        assert_eq!(story.text(), scripted(&pcm), "in chunks of {size}");
        assert_eq!(story.done(), first.done(), "in chunks of {size}");
    }
    let short = speech(3.0);
    let story = told(&house, "", s16le(&short).chunks(1));
    assert_eq!(story.text(), scripted(&short), "byte by byte");
    assert_eq!(story.done().account.received, short.len() as u64);
    let empty = [&[][..], &bytes, &[]];
    assert_eq!(told(&house, "", empty).done(), first.done(), "with empty messages");
}

#[test]
fn the_largest_message_there_may_be() {
    let house = TestHouse::start(&[]);
    let pcm = talk((MAX_MESSAGE / 2) as f64 / RATE as f64, 7.0);
    let bytes = s16le(&pcm);
    assert_eq!(bytes.len(), MAX_MESSAGE);
    let story = told(&house, "", [&bytes[..]]);
    assert_eq!((story.text(), story.done().account.received), (scripted(&pcm), pcm.len() as u64));
    // One byte less: half a sample at the end is none.
    let story = told(&house, "", [&bytes[..MAX_MESSAGE - 1]]);
    assert_eq!(story.done().account.received, pcm.len() as u64 - 1);
    assert_eq!(story.text(), scripted(&pcm[..pcm.len() - 1]));
}

#[test]
fn raw_samples_of_every_kind() {
    let house = TestHouse::start(&[]);
    let pcm = talk(14.0, 4.0);
    let raw = |format: &str, rate: &str, channels: &str| {
        converted(&pcm, &["-f", format, "-ar", rate, "-ac", channels], "raw")
    };
    for (query, bytes) in [
        ("sample_rate=8000", raw("s16le", "8000", "1")),
        ("encoding=pcm_s16le&sample_rate=44100", raw("s16le", "44100", "1")),
        ("sample_rate=48000&channels=2", raw("s16le", "48000", "2")),
        ("encoding=pcm_f32le", raw("f32le", "16000", "1")),
        ("encoding=pcm_f32le&sample_rate=22050&channels=3", raw("f32le", "22050", "3")),
        ("encoding=mulaw", raw("mulaw", "8000", "1")),
        ("encoding=alaw", raw("alaw", "8000", "1")),
        ("encoding=mulaw&sample_rate=16000&channels=2", raw("mulaw", "16000", "2")),
    ] {
        let story = told(&house, query, bytes.chunks(1_111));
        assert_eq!(story.text(), scripted(&pcm), "{query}");
        let off = story.done().account.received as i64 - pcm.len() as i64;
        assert!(off.abs() <= 2, "{query} is {off} samples longer");
    }
}

#[test]
fn opus_packets_one_per_message() {
    let house = TestHouse::start(&[]);
    let pcm = speech(12.0);
    let packets = opus_packets(&pcm);
    let story = told(&house, "encoding=opus", packets.iter().map(Vec::as_slice));
    assert_eq!((story.text(), story.done().account.received), (scripted(&pcm), pcm.len() as u64));
    // An empty message stands for a packet that was lost.
    let sparse = packets.iter().enumerate().map(|(n, packet)| if n == 150 { &[] } else { packet.as_slice() });
    let story = told(&house, "encoding=opus", sparse);
    assert_eq!(story.gaps(), [(3.0, 3.02, "Corrupt".to_owned())]);
    assert_eq!((story.text(), story.done().account.received), (scripted(&pcm), pcm.len() as u64));
}

#[test]
fn containers_as_they_are_written() {
    let house = TestHouse::start(&[]);
    let pcm = speech(12.0);
    let opus = ["-c:a", "libopus", "-ar", "48000"];
    for (query, bytes) in [
        ("encoding=container", wav(&pcm)),
        ("encoding=container", converted(&pcm, &[], "flac")),
        ("encoding=container", converted(&pcm, &["-b:a", "64k"], "mp3")),
        ("encoding=container", converted(&pcm, &opus, "ogg")),
        ("encoding=ogg_opus", converted(&pcm, &opus, "ogg")),
        ("encoding=webm_opus", converted(&pcm, &[&opus[..], &["-live", "1"]].concat(), "webm")),
    ] {
        let uploaded = house.transcribe(&Form::of(&bytes)).words();
        for size in [700, 60_000] {
            let story = told(&house, query, bytes.chunks(size));
            assert_eq!(story.text(), uploaded, "{query}");
            assert_eq!(story.text(), scripted(&pcm), "{query}");
        }
    }
}

#[test]
fn the_first_message_may_say_what_comes() {
    let house = TestHouse::start(&[]);
    let pcm = talk(10.0, 4.0);
    let bytes = converted(&pcm, &["-f", "f32le", "-ar", "48000", "-ac", "2"], "raw");
    let story = runtime().block_on(async {
        let mut socket = Socket::open(&house, "language=de").await;
        let wanted = json!({
            "type": "configure", "encoding": "pcm_f32le", "sample_rate": 48_000, "channels": 2, "words": true,
            "partials": false, "silence_ms": 300,
        });
        socket.say(&wanted.to_string()).await;
        socket.until("the answer", |story| story.events.len() == 2).await;
        let settings = serde_json::to_value(&socket.ready().settings).expect("JSON");
        for (name, value) in wanted.as_object().expect("an object").iter().filter(|(name, _)| *name != "type")
        {
            assert_eq!(settings[name], *value, "{settings}");
        }
        assert_eq!(settings["language"], "de");
        socket.audio_in(&bytes, 5_003).await;
        socket.taken().await;
        // What is not about the format may change later, too.
        socket.say(r#"{"type":"configure","words":false,"language":""}"#).await;
        socket.end().await.whole()
    });
    assert_eq!((story.text(), story.close), (scripted(&pcm), Some(1000)));
    assert!(!story.has(|message| matches!(message, ServerMessage::Partial(_))));
    for told in story.finals() {
        assert!(told.language.is_none() || told.language.as_deref() == Some("de"), "{told:?}");
        let Some(words) = &told.words else { continue };
        let joined = words.iter().map(|word| word.word.as_str()).collect::<Vec<_>>().join(" ");
        assert_eq!(joined, told.text);
        assert!(words.iter().all(|word| told.start <= word.start && word.start < word.end));
        assert!(words.windows(2).all(|two| two[0].end <= two[1].start));
    }
    assert!(story.finals().next().is_some_and(|told| told.words.is_some()), "{:?}", story.finals().next());
}

#[test]
fn a_flush_finishes_what_is_open_and_says_so() {
    let house = TestHouse::start(&[]);
    let pcm = speech(8.0);
    let cut = between_words(3.0);
    let bytes = s16le(&pcm);
    let story = runtime().block_on(async {
        let mut socket = Socket::open(&house, "").await;
        socket.flush().await;
        socket.until("nothing to flush", |story| story.last_seq() == 1).await;
        let Some(ServerMessage::Flushed { at: 0.0 }) = socket.story.messages().next_back() else {
            panic!("{:?}", socket.story)
        };
        socket.audio_in(&bytes[..cut * 2], 640).await;
        socket.flush().await;
        socket
            .until("the flush", |story| {
                matches!(story.messages().next_back(), Some(ServerMessage::Flushed { .. }))
                    && story.last_seq() > 1
            })
            .await;
        assert_eq!(socket.story.text(), scripted(&pcm[..cut]));
        let kinds: Vec<String> = socket.story.numbered()[1..]
            .iter()
            .filter_map(|event| Some(event.split_once("\"type\":\"")?.1.split_once('"')?.0.to_owned()))
            .collect();
        assert_eq!(kinds, ["speech_started", "speech_stopped", "final", "utterance_done", "flushed"]);
        socket.audio_in(&bytes[cut * 2..], 640).await;
        socket.end().await.whole()
    });
    assert_eq!((story.text(), story.done().account.received), (scripted(&pcm), pcm.len() as u64));
}

#[test]
fn a_stream_without_a_sample_and_one_of_silence() {
    let house = TestHouse::start(&[]);
    let story = told(&house, "", []);
    assert_eq!((story.events.len(), story.done().account.received), (2, 0));
    let story = told(&house, "", [&[0; 64_000][..]]);
    assert_eq!((story.events.len(), story.done().account.silence), (2, 32_000));
    let story = told(&house, "encoding=container", []);
    assert_eq!((story.events.len(), story.done().duration), (2, 0.0));
}
