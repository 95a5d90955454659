//! As many streams as there is room for, and for the next one an answer before any of its audio is read.

use serde_json::Value;

use super::events::Events;
use super::socket::{Socket, native};
use super::{SECOND, open_body, s16le};
use crate::client::{Answer, Form, runtime, until};
use crate::house::TestHouse;
use crate::sound::{scripted, speech, wav};

#[test]
fn a_full_house_says_so_before_it_reads_any_audio() {
    let house = TestHouse::start(&["--max-streams", "2", "--slots", "1", "--script-delay-ms", "100"]);
    let pcm = speech(3.0);
    runtime().block_on(async {
        let mut first = Socket::open(&house, "").await;
        first.audio(&s16le(&pcm)).await;
        let created = Answer::fetch(house.client.post(house.url("/v1/streams"))).await;
        assert_eq!(created.status, 201);

        let Err(refusal) = Socket::at(house.address, "", &[]).await else { panic!("there was room") };
        refusal.is(503, "overloaded", None);
        let retry_after =
            refusal.headers.get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        assert!(retry_after.is_some_and(|seconds: u64| (1..=60).contains(&seconds)), "{retry_after:?}");
        // The body never comes; the answer does.
        let (pieces, body) = open_body();
        for request in [
            house.client.get(house.url("/v1/stream")),
            house.client.post(house.url("/v1/streams")),
            house.client.post(house.url("/v1/stream")).header("content-type", "audio/pcm").body(body),
        ] {
            let answer = Answer::fetch(request).await;
            let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
            native(&body, (answer.status, 503), "overloaded", None);
            assert!(answer.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0));
        }
        drop(pieces);
        // A mistake is told as one all the same.
        let Err(refusal) = Socket::at(house.address, "silence_ms=1", &[]).await else {
            panic!("a bad setting")
        };
        refusal.is(400, "invalid_request", Some("silence_ms"));

        // Uploads have slots of their own, and take none of these.
        let upload = Answer::fetch(house.upload("/v1/audio/transcriptions", &Form::of(&wav(&pcm)))).await;
        assert_eq!(upload.words(), scripted(&pcm));
        assert_eq!(first.end().await.whole().text(), scripted(&pcm));
        let deleted = Answer::fetch(house.client.delete(house.url(created.header("location")))).await;
        assert_eq!(deleted.status, 204);
    });
    until("both have left", SECOND, || house.health()["streams_followed"] == 0);
    // Now there is room, in whichever way.
    runtime().block_on(async {
        let socket = Socket::open(&house, "").await;
        let request = house.client.post(house.url("/v1/stream")).header("content-type", "audio/pcm");
        let story = Events::of(request.body(s16le(&pcm))).await.rest().await.whole();
        assert_eq!(story.text(), scripted(&pcm));
        assert_eq!(socket.end().await.whole().close, Some(1000));
    });
}

#[test]
fn uploads_that_fill_their_slots_leave_room_for_streams() {
    let flags = ["--max-streams", "2", "--slots", "1", "--workers", "2", "--script-delay-ms", "100"];
    let house = TestHouse::start(&flags);
    let long = Form::of(&wav(&speech(60.0)));
    let mut wire = house.wire();
    wire.send(&long.request());
    until("the upload is worked on", std::time::Duration::from_secs(20), || {
        house.health()["workers_busy"] != 0
    });
    house.transcribe(&Form::of(&wav(&speech(1.0)))).refused(503, "overloaded", None);
    let pcm = speech(3.0);
    let text = runtime().block_on(async {
        let mut socket = Socket::open(&house, "").await;
        socket.audio(&s16le(&pcm)).await;
        socket.end().await.whole().text()
    });
    assert_eq!(text, scripted(&pcm));
    assert_eq!(house.health()["slots_free"], 0, "the upload still runs");
    drop(wire);
}
