//! Two legs: audio goes up in requests of its own, and events come down on another.

use std::time::Duration;

use serde_json::{Value, json};
use whisperwire_protocol::stream::{Ready, ServerEvent, ServerMessage};

use super::events::Events;
use super::socket::native;
use super::{between_words, open_body, s16le, talk};
use crate::client::{Answer, PATIENCE, runtime, until};
use crate::house::TestHouse;
use crate::sound::{scripted, speech};

/// A stream on two legs.
struct Legs<'a> {
    house: &'a TestHouse,
    url: String,
}

impl<'a> Legs<'a> {
    async fn create(house: &'a TestHouse, settings: &Value) -> Self {
        let answer = Answer::fetch(house.client.post(house.url("/v1/streams")).json(settings)).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        let url = house.url(answer.header("location"));
        let ready = ready(&answer);
        assert!(url.ends_with(&format!("/v1/streams/{}", ready.stream)));
        assert_eq!((ready.received.bytes, ready.last_seq), (0, 0));
        Self { house, url }
    }

    async fn audio(&self, bytes: &[u8]) -> Value {
        let request = self.house.client.post(format!("{}/audio", self.url)).body(bytes.to_vec());
        Answer::fetch(request).await.json()["received"].clone()
    }

    async fn say(&self, message: &Value) -> Answer {
        Answer::fetch(self.house.client.post(format!("{}/messages", self.url)).json(message)).await
    }

    async fn events(&self) -> Events {
        Events::of(self.house.client.get(format!("{}/events", self.url))).await
    }

    async fn look(&self) -> Answer {
        Answer::fetch(self.house.client.get(&self.url)).await
    }
}

fn ready(answer: &Answer) -> Ready {
    let event: ServerEvent = serde_json::from_slice(&answer.body).expect("a message");
    match event.message {
        ServerMessage::Ready(ready) => *ready,
        other => panic!("{other:?}"),
    }
}

#[test]
fn audio_in_many_requests_and_events_on_another() {
    let house = TestHouse::start(&[]);
    let pcm = talk(16.0, 4.0);
    let cut = between_words(12.0);
    let bytes = s16le(&pcm);
    let story = runtime().block_on(async {
        let legs = Legs::create(&house, &json!({"words": true, "keywords": ["quay"]})).await;
        let mut events = legs.events().await;
        for (n, chunk) in bytes[..2 * cut].chunks(9_999).enumerate() {
            assert_eq!(legs.audio(chunk).await["bytes"], (9_999 * (n + 1)).min(2 * cut));
        }
        let seen = ready(&legs.look().await);
        assert_eq!((seen.received.bytes, seen.received.samples), (2 * cut as u64, cut as u64));
        assert_eq!(legs.say(&json!({"type": "flush"})).await.status, 202);
        events.until("flushed", |story| story.has(|m| matches!(m, ServerMessage::Flushed { .. }))).await;
        assert_eq!(events.story.text(), scripted(&pcm[..cut]));
        assert!(ready(&legs.look().await).last_seq >= events.story.last_seq());

        let configured = legs.say(&json!({"type": "configure", "words": false})).await;
        assert_eq!((configured.status, ready(&configured).settings.words), (202, Some(false)));
        for (message, param) in [
            (json!({"type": "configure", "silence_ms": 1}), Some("silence_ms")),
            (json!({"type": "configure", "sample_rate": 8000}), Some("encoding")),
            (json!({"type": "dance"}), Some("type")),
            (json!("flush"), None),
        ] {
            let refused = legs.say(&message).await;
            let body: Value = serde_json::from_slice(&refused.body).expect("JSON");
            native(&body, (refused.status, 400), "invalid_request", param);
        }
        assert_eq!(legs.say(&json!({"type": "ping"})).await.status, 202);
        // A body may come while somebody speaks, too.
        let (pieces, body) = open_body();
        let request = house.client.post(format!("{}/audio", legs.url)).body(body);
        let sending = async {
            for chunk in bytes[2 * cut..].chunks(5_001) {
                pieces.send(chunk.to_vec().into()).await.expect("it is sent");
            }
            drop(pieces);
        };
        let (answer, ()) = tokio::join!(Answer::fetch(request), sending);
        assert_eq!(answer.json()["received"]["bytes"], bytes.len());
        assert_eq!(legs.say(&json!({"type": "end"})).await.status, 202);
        events.rest().await.whole()
    });
    assert_eq!((story.text(), story.done().account.received), (scripted(&pcm), pcm.len() as u64));
    assert!(story.finals().next().is_some_and(|told| told.words.is_some()));
    assert!(story.finals().last().is_some_and(|told| told.words.is_none()));
    until("nothing is left", super::SECOND, || house.health()["streams"] == 0);
}

#[test]
fn hanging_up() {
    let house = TestHouse::start(&["--script-delay-ms", "1000", "--max-streams", "2"]);
    runtime().block_on(async {
        let legs = Legs::create(&house, &json!({})).await;
        let mut events = legs.events().await;
        legs.audio(&s16le(&speech(8.0))).await;
        events.until("somebody speaks", |story| story.last_seq() > 0).await;
        assert_eq!(Answer::fetch(house.client.delete(&legs.url)).await.status, 204);
        let story = events.rest().await;
        story.keeps_order();
        assert!(!story.has(|message| matches!(message, ServerMessage::Done(_))));
        for gone in [
            house.client.delete(&legs.url),
            house.client.get(&legs.url),
            house.client.get(format!("{}/events", legs.url)),
            house.client.post(format!("{}/audio", legs.url)),
            house.client.post(format!("{}/messages", legs.url)).body(r#"{"type":"end"}"#),
        ] {
            let answer = Answer::fetch(gone).await;
            let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
            native(&body, (answer.status, 404), "not_found", Some("stream"));
        }
    });
    until("the slot is free", super::SECOND, || house.health()["streams_followed"] == 0);
}

#[test]
fn a_second_reader_takes_the_place_of_the_first() {
    let house = TestHouse::start(&[]);
    let pcm = speech(4.0);
    let (first, second) = runtime().block_on(async {
        let legs = Legs::create(&house, &Value::Object(Default::default())).await;
        let mut first = legs.events().await;
        first.until("ready", |story| !story.events.is_empty()).await;
        let second = legs.events().await;
        let first = first.rest().await;
        legs.audio(&s16le(&pcm)).await;
        assert_eq!(legs.say(&json!({"type": "end"})).await.status, 202);
        (first, second.rest().await.whole())
    });
    assert_eq!((first.events.len(), second.text()), (1, scripted(&pcm)));
}

#[test]
fn the_end_is_the_end() {
    let house = TestHouse::start(&[]);
    let pcm = speech(4.0);
    let story = runtime().block_on(async {
        let legs = Legs::create(&house, &json!({"grace": 20})).await;
        legs.audio(&s16le(&pcm)).await;
        for expected in [202, 409] {
            assert_eq!(legs.say(&json!({"type": "end"})).await.status, expected);
            said_all(&house).await;
        }
        assert_eq!(legs.audio(&s16le(&pcm)).await["bytes"], pcm.len() * 2);
        // All of it is told to whoever comes late.
        legs.events().await.rest().await.whole()
    });
    assert_eq!((story.text(), story.done().account.received), (scripted(&pcm), pcm.len() as u64));
}

/// Waits until a stream has nothing more to say, though nobody reads it.
async fn said_all(house: &TestHouse) {
    let calm = async {
        while Answer::fetch(house.client.get(house.url("/health"))).await.json()["streams_followed"] != 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, calm).await.expect("it ends");
}

#[test]
fn a_stream_that_nobody_reads_or_feeds_is_given_up() {
    let house = TestHouse::start(&[]);
    runtime().block_on(async {
        let legs = Legs::create(&house, &json!({"grace": 0.5})).await;
        assert_eq!(legs.look().await.status, 200);
    });
    until("it is forgotten", Duration::from_secs(5), || house.health()["streams"] == 0);
}
