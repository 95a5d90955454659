//! Bad input is normal input: a clear error with a code of the one table or a gap, and the next stream works.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use whisperwire_protocol::stream::{MAX_MESSAGE, ServerMessage};

use super::socket::{Refusal, Socket, native};
use super::story::Story;
use super::{converted, opus_packets, s16le};
use crate::client::{Answer, runtime};
use crate::house::TestHouse;
use crate::sound::{RATE, ffmpeg_source, scripted, speech, wav};

/// Runs a case, then asks for something good.
fn house(flags: &[&str], case: impl AsyncFnOnce(&TestHouse)) {
    let house = TestHouse::start(flags);
    runtime().block_on(async {
        case(&house).await;
        let pcm = speech(2.0);
        let mut socket = Socket::open(&house, "").await;
        socket.audio(&s16le(&pcm)).await;
        assert_eq!(socket.end().await.whole().text(), scripted(&pcm));
    });
}

/// What a new stream with these settings says to these messages, without an end from us.
async fn told(house: &TestHouse, query: &str, messages: impl IntoIterator<Item = Message>) -> Story {
    let mut socket = Socket::open(house, query).await;
    for message in messages {
        socket.send(message).await;
    }
    socket.rest().await
}

fn in_pieces(bytes: &[u8], size: usize) -> impl Iterator<Item = Message> {
    bytes.chunks(size).map(|chunk| Message::binary(chunk.to_vec()))
}

async fn refused(house: &TestHouse, query: &str) -> Refusal {
    match Socket::at(house.address, query, &[]).await {
        Ok(_) => panic!("{query} was accepted"),
        Err(refusal) => refusal,
    }
}

#[test]
fn messages_that_say_nothing_sensible() {
    house(&[], async |house| {
        let pcm = speech(3.0);
        let mut socket = Socket::open(house, "").await;
        let before = serde_json::to_value(&socket.ready().settings).expect("JSON");
        let cases = [
            ("", None),
            ("no JSON at all", None),
            ("[1,2]", None),
            ("{}", Some("type")),
            (r#"{"type":"dance"}"#, Some("type")),
            (r#"{"type":7}"#, Some("type")),
            (r#"{"type":"flush","now":true}"#, Some("now")),
            (r#"{"type":"configure","lanugage":"de"}"#, Some("lanugage")),
            (r#"{"type":"configure","silence_ms":5,"words":true}"#, Some("silence_ms")),
            (r#"{"type":"configure","sample_rate":1}"#, Some("sample_rate")),
            (r#"{"type":"configure","channels":9}"#, Some("channels")),
            (r#"{"type":"configure","vad_threshold":1.5}"#, Some("vad_threshold")),
            (r#"{"type":"configure","encoding":"mp17"}"#, Some("encoding")),
            (r#"{"type":"configure","words":"yes"}"#, Some("words")),
            (r#"{"type":"configure","prompt":"a\u0000b"}"#, Some("prompt")),
            (r#"{"type":"configure","grace":9}"#, Some("grace")),
            (r#"{"type":"configure","encoding":"container","sample_rate":8000}"#, Some("sample_rate")),
            (r#"{"type":"configure","encoding":"ogg_opus","channels":2}"#, Some("channels")),
        ];
        let deep = "[".repeat(100_000);
        for (text, param) in cases.into_iter().chain([(deep.as_str(), None)]) {
            let errors = socket.story.errors().len();
            socket.say(text).await;
            socket.until("an answer", |story| story.errors().len() > errors).await;
            let shown = &text[..text.len().min(60)];
            let expected = ("invalid_request".to_owned(), param.map(str::to_owned), false);
            assert_eq!(socket.story.errors().last(), Some(&expected), "{shown}");
        }
        socket.say(r#"{"type":"configure","model":"no-such-model"}"#).await;
        let unknown = ("model_not_found".to_owned(), Some("model".to_owned()), false);
        socket.until("an answer", |story| story.errors().last() == Some(&unknown)).await;
        // Nothing of all this counts.
        socket.say(r#"{"type":"configure"}"#).await;
        socket
            .until("ready again", |story| {
                story.messages().filter(|m| matches!(m, ServerMessage::Ready(_))).count() == 2
            })
            .await;
        assert_eq!(serde_json::to_value(&socket.ready().settings).expect("JSON"), before);
        socket.audio_in(&s16le(&pcm), 640).await;
        assert_eq!(socket.end().await.whole().text(), scripted(&pcm));
    });
}

#[test]
fn settings_that_no_stream_can_have() {
    house(&["--unknown-models", "refuse"], async |house| {
        for (query, param) in [
            ("silence_ms=5", "silence_ms"),
            ("sample_rate=7e9", "sample_rate"),
            ("sample_rate=fast", "sample_rate"),
            ("channels=0", "channels"),
            ("grace=-1", "grace"),
            ("grace=NaN", "grace"),
            ("vad_threshold=2", "vad_threshold"),
            ("encoding=flv", "encoding"),
            ("encoding=ogg_opus&sample_rate=48000", "sample_rate"),
            ("encoding=opus&channels=6", "channels"),
            ("lanugage=de", "lanugage"),
            ("words=perhaps", "words"),
            ("words=true&words=true", "words"),
            ("prompt=a%00b", "prompt"),
            ("stream=abc&words=true", "words"),
            ("stream=abc&after=first", "after"),
        ] {
            refused(house, query).await.is(400, "invalid_request", Some(param));
            for request in [
                house.client.get(house.url(&format!("/v1/stream?{query}"))),
                house
                    .client
                    .post(house.url(&format!("/v1/stream?{query}")))
                    .header("content-type", "audio/pcm"),
            ] {
                let answer = Answer::fetch(request).await;
                let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
                // One exchange knows no opus packets, and cannot be resumed.
                let param = body["error"]["param"]
                    .as_str()
                    .filter(|p| ["encoding", "stream"].contains(p))
                    .unwrap_or(param);
                native(&body, (answer.status, 400), "invalid_request", Some(param));
            }
        }
        refused(house, "model=no-such-model").await.is(404, "model_not_found", Some("model"));
        refused(house, "stream=no-such-stream").await.is(404, "not_found", Some("stream"));
        let answer = Answer::fetch(house.client.get(house.url("/v1/stream?stream=no-such-stream"))).await;
        let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
        native(&body, (answer.status, 404), "not_found", Some("stream"));
        // Nothing wrong with these, but they are no handshakes.
        let plain = Answer::fetch(house.client.get(house.url("/v1/stream?language=de"))).await;
        assert_eq!((plain.status, plain.header("upgrade")), (426, "websocket"));
        for body in [json!({"silence_ms": 5}), json!([1]), json!({"lanugage": "de"}), json!("de")] {
            let answer = Answer::fetch(house.client.post(house.url("/v1/streams")).json(&body)).await;
            assert_eq!(answer.status, 400, "{body}");
        }
    });
}

#[test]
fn the_format_is_fixed_once_audio_has_come() {
    house(&[], async |house| {
        let pcm = speech(3.0);
        let mut socket = Socket::open(house, "sample_rate=16000").await;
        socket.audio(&s16le(&pcm)).await;
        socket.say(r#"{"type":"configure","sample_rate":48000}"#).await;
        socket.say(r#"{"type":"configure","encoding":"container"}"#).await;
        socket.until("answers", |story| story.errors().len() == 2).await;
        let fixed = ("invalid_request".to_owned(), Some("encoding".to_owned()), false);
        assert_eq!(socket.story.errors(), [fixed.clone(), fixed]);
        // The same again is no change.
        socket.say(r#"{"type":"configure","encoding":"pcm_s16le","sample_rate":16000,"channels":1}"#).await;
        let story = socket.end().await.whole();
        assert_eq!((story.errors().len(), story.text()), (2, scripted(&pcm)));
    });
}

#[test]
fn a_file_where_raw_samples_were_announced() {
    house(&[], async |house| {
        let pcm = speech(3.0);
        for (query, file) in [
            ("", wav(&pcm)),
            ("encoding=mulaw", converted(&pcm, &[], "ogg")),
            ("encoding=pcm_f32le", converted(&pcm, &[], "flac")),
        ] {
            for size in [1, 640, file.len()] {
                let story = told(house, query, in_pieces(&file, size)).await;
                story.broke("unsupported_audio", 4415);
            }
        }
    });
}

#[test]
fn what_is_no_container() {
    house(&[], async |house| {
        let mut noise = super::random(7);
        let garbage: Vec<u8> = (0..200_000).map(|_| noise(256) as u8).collect();
        for query in ["encoding=container", "encoding=ogg_opus", "encoding=webm_opus"] {
            for size in [1_000, garbage.len()] {
                told(house, query, in_pieces(&garbage, size)).await.broke("unsupported_audio", 4415);
            }
            let text = b"<html><body>404 Not Found</body></html>".repeat(100);
            told(house, query, in_pieces(&text, 100)).await.broke("unsupported_audio", 4415);
        }
    });
}

#[test]
fn a_container_that_breaks_off() {
    house(&[], async |house| {
        let pcm = speech(8.0);
        let file = converted(&pcm, &["-c:a", "libopus", "-page_duration", "20000"], "ogg");
        let mut socket = Socket::open(house, "encoding=ogg_opus").await;
        socket.audio_in(&file[..file.len() / 2], 1_000).await;
        let story = socket.end().await.whole();
        let all = scripted(&pcm);
        assert!(story.text().len() > all.len() / 4 && all.starts_with(&story.text()), "{}", story.text());
    });
}

#[test]
fn packets_that_are_not_opus() {
    // A packet of many frames whose number is none.
    let broken = || Message::binary(vec![0x03, 0x00, 0xFF, 0xFF]);
    house(&[], async |house| {
        let pcm = speech(6.0);
        let mut socket = Socket::open(house, "encoding=opus").await;
        for (n, packet) in opus_packets(&pcm).into_iter().enumerate() {
            // Three in the middle of speech are lost, and one more later.
            let lost = (100..103).contains(&n) || n == 200;
            socket.send(if lost { broken() } else { Message::binary(packet) }).await;
        }
        let story = socket.end().await.whole();
        let gap = |start: f64, end: f64| (start, end, "Corrupt".to_owned());
        assert_eq!(story.gaps(), [gap(2.0, 2.06), gap(4.0, 4.02)]);
        assert_eq!((story.text(), story.done().account.lost), (scripted(&pcm), 4 * 320));

        let story = told(house, "encoding=opus", (0..300).map(|_| broken())).await;
        story.broke("corrupt_audio", 4422);
        let huge = Message::binary(vec![0x5A; MAX_MESSAGE]);
        let mut socket = Socket::open(house, "encoding=opus").await;
        socket.send(huge).await;
        let account = socket.end().await.whole().done().account;
        assert_eq!((account.received, account.lost), (320, 320));
    });
}

#[test]
fn a_message_that_is_too_large() {
    house(&[], async |house| {
        for message in [Message::binary(vec![0; MAX_MESSAGE + 1]), Message::text("x".repeat(MAX_MESSAGE + 1))]
        {
            let story = told(house, "", [message]).await;
            assert_eq!((story.close, story.events.len()), (Some(1009), 1));
        }
    });
}

#[test]
fn too_many_mistakes() {
    house(&[], async |house| {
        let story = told(house, "", (0..150).map(|_| Message::text("hello?"))).await;
        story.broke("invalid_request", 4400);
        assert_eq!(story.errors().len(), 101);
    });
}

#[test]
fn what_comes_after_the_end() {
    house(&[], async |house| {
        let pcm = speech(3.0);
        let mut socket = Socket::open(house, "").await;
        socket.audio(&s16le(&pcm)).await;
        socket.say(r#"{"type":"end"}"#).await;
        socket.audio(&s16le(&speech(60.0))).await;
        socket.flush().await;
        let story = socket.end().await.whole();
        assert_eq!((story.close, story.text()), (Some(1000), scripted(&pcm)));
        assert_eq!(story.done().account.received, pcm.len() as u64);
    });
}

#[test]
fn more_than_a_stream_may_hold() {
    house(&["--max-audio-minutes", "1"], async |house| {
        let pcm = speech(59.0);
        let mut socket = Socket::open(house, "").await;
        socket.audio(&s16le(&pcm)).await;
        assert_eq!(socket.end().await.whole().text(), scripted(&pcm));
        let story = told(house, "", in_pieces(&s16le(&speech(75.0)), 100_000)).await;
        story.broke("too_long", 4413);
        assert!(story.text().len() > scripted(&speech(50.0)).len(), "{}", story.text());
        assert!(story.finals().all(|told| told.end < 75.0));
        // A container that unpacks to much more than it weighs.
        let smallest = ["-compression_level", "12", "-frame_size", "65535"];
        let hours = ffmpeg_source("anullsrc=r=4000:cl=mono:d=36000", &smallest, "flac");
        assert!(hours.len() < RATE * 60, "{} bytes", hours.len());
        told(house, "encoding=container", in_pieces(&hours, 4_096)).await.broke("too_long", 4413);
    });
}
