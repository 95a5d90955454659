//! One exchange: events come back while the body is still being sent.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;
use whisperwire_protocol::stream::ServerMessage;

use super::events::Events;
use super::socket::native;
use super::{between_words, converted, open_body, s16le, talk};
use crate::client::{Answer, runtime};
use crate::house::TestHouse;
use crate::sound::{scripted, speech, wav};

#[test]
fn finals_come_while_the_body_is_still_being_sent() {
    let house = TestHouse::start(&[]);
    let one = reqwest::Client::builder().no_proxy().http1_only().build().expect("a client");
    let two = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().expect("a client");
    for (client, version) in [(one, reqwest::Version::HTTP_11), (two, reqwest::Version::HTTP_2)] {
        let mut pcm = speech(20.0);
        // Three sentences, each of which is only sent when the one before has been read.
        let (first, second) = (between_words(5.0), between_words(12.0));
        for from in [first, second] {
            let to = between_words(from as f64 / 16_000.0 + 1.5);
            pcm[from..to].fill(0.0);
        }
        let parts = [0, first + 20_000, second + 20_000, pcm.len()];
        let story = runtime().block_on(async {
            let (pieces, body) = open_body();
            let url = house.url("/v1/stream?language=en");
            let request = client.post(url).header("content-type", "audio/pcm;rate=16000;channels=1");
            let mut events = Events::of(request.body(body)).await;
            assert_eq!(events.version(), version);
            events.until("ready", |story| !story.events.is_empty()).await;
            for (n, part) in parts.windows(2).enumerate() {
                for chunk in s16le(&pcm[part[0]..part[1]]).chunks(1_001) {
                    pieces.send(Bytes::copy_from_slice(chunk)).await.expect("it is sent");
                }
                if n < 2 {
                    let said = |message: &ServerMessage| {
                        matches!(message, ServerMessage::UtteranceDone { utterance } if *utterance == n as u32)
                    };
                    events.until("the sentence", |story| story.has(said)).await;
                    assert!(events.story.has(said));
                }
            }
            drop(pieces);
            events.rest().await.whole()
        });
        assert_eq!((story.text(), story.done().account.received), (scripted(&pcm), pcm.len() as u64));
        assert_eq!(story.ready().settings.language.as_deref(), Some("en"));
    }
}

#[test]
fn the_content_type_says_what_the_body_is() {
    let house = TestHouse::start(&[]);
    let pcm = talk(8.0, 3.0);
    let raw = |format: &str, rate: &str, channels: &str| {
        converted(&pcm, &["-f", format, "-ar", rate, "-ac", channels], "raw")
    };
    let opus = ["-c:a", "libopus", "-ar", "48000"];
    let phone = raw("mulaw", "8000", "1");
    for (content_type, query, body, exact) in [
        (Some("audio/pcm"), "", s16le(&pcm), true),
        (Some("audio/pcm;rate=48000;channels=2"), "", raw("s16le", "48000", "2"), true),
        (Some("audio/PCM; rate=\"24000\"; encoding=pcm_f32le"), "", raw("f32le", "24000", "1"), true),
        (Some("audio/pcm; encoding=alaw; rate=8000"), "", raw("alaw", "8000", "1"), true),
        (Some("audio/pcmu"), "", phone.clone(), true),
        (Some("audio/pcma"), "", raw("alaw", "8000", "1"), true),
        (Some("audio/wav"), "", wav(&pcm), true),
        (Some("audio/flac"), "", converted(&pcm, &[], "flac"), true),
        (Some("audio/ogg; codecs=opus"), "", converted(&pcm, &opus, "ogg"), false),
        (Some("audio/webm;codecs=opus"), "", converted(&pcm, &opus, "webm"), false),
        (Some("audio/mpeg"), "", converted(&pcm, &[], "mp3"), false),
        (Some("application/octet-stream"), "", wav(&pcm), true),
        (None, "", s16le(&pcm), true),
        // The query knows better.
        (Some("application/octet-stream"), "encoding=mulaw&sample_rate=8000", phone, true),
        (
            Some("application/x-www-form-urlencoded"),
            "encoding=pcm_s16le&sample_rate=16000",
            s16le(&pcm),
            true,
        ),
    ] {
        let mut request = house.client.post(house.url(&format!("/v1/stream?{query}"))).body(body);
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let story = runtime().block_on(async { Events::of(request).await.rest().await.whole() });
        // Some coders smear a word's end over the pause behind it.
        let (text, expected) = (story.text(), scripted(&pcm));
        if exact {
            assert_eq!(text, expected, "{content_type:?} {query}");
        } else {
            assert!(text.starts_with(&expected[..expected.len() / 4]), "{content_type:?}: {text}");
        }
    }
}

#[test]
fn comments_fill_the_silence() {
    let house = TestHouse::start(&[]);
    let (_pieces, body) = open_body();
    let request = house.client.post(house.url("/v1/stream")).header("content-type", "audio/pcm").body(body);
    let heard = runtime().block_on(async {
        let mut response = request.send().await.expect("an answer");
        let began = Instant::now();
        let mut heard = Vec::new();
        while !heard.ends_with(b"\n\n:\n\n") {
            assert!(began.elapsed() < Duration::from_secs(25), "{:?}", String::from_utf8_lossy(&heard));
            heard.extend_from_slice(&response.chunk().await.expect("it goes on").expect("it goes on"));
        }
        assert!(began.elapsed() > Duration::from_secs(10), "{:?}", began.elapsed());
        String::from_utf8(heard).expect("UTF-8")
    });
    assert_eq!(heard.matches("data:").count(), 1, "nothing but `ready` was told: {heard}");
}

#[test]
fn what_cannot_be_exchanged() {
    let house = TestHouse::start(&[]);
    runtime().block_on(async {
        for (content_type, query, param) in [
            ("audio/pcm", "stream=stream_0", "stream"),
            ("audio/pcm", "encoding=opus", "encoding"),
            ("audio/pcm;rate=1", "", "sample_rate"),
            ("audio/pcm;rate=fast", "", "sample_rate"),
            ("audio/pcm;channels=0", "", "channels"),
            ("audio/pcm;encoding=opus", "", "encoding"),
            ("audio/wav", "sample_rate=16000", "sample_rate"),
            ("audio/wav", "colour=red", "colour"),
        ] {
            let request = house.client.post(house.url(&format!("/v1/stream?{query}")));
            let answer = Answer::fetch(request.header("content-type", content_type).body("...")).await;
            let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
            native(&body, (answer.status, 400), "invalid_request", Some(param));
        }
        // What shows only in the body is an event.
        for (content_type, body) in [
            ("audio/pcm", wav(&speech(2.0))),
            ("audio/wav", b"<html>not found</html>".repeat(1_000)),
            ("text/plain", b"hello ".repeat(1_000)),
        ] {
            let request = house.client.post(house.url("/v1/stream")).header("content-type", content_type);
            let story = Events::of(request.body(body)).await.rest().await;
            assert_eq!(story.errors(), [("unsupported_audio".to_owned(), None, true)], "{content_type}");
            story.keeps_order();
        }
    });
}
