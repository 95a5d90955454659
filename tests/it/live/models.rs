//! Streams that name their models: whose words they are, and that no model goes from under a stream.

use serde_json::json;

use super::s16le;
use super::socket::Socket;
use crate::client::{Answer, Form, runtime, until};
use crate::house::TestHouse;
use crate::sound::{quiet, scripted, speech, wav};

fn house(flags: &[&str]) -> TestHouse {
    let models = ["--script-models=second=60,third=60", "--models-memory-mb=100"];
    TestHouse::start(&[&models, flags].concat())
}

fn active(house: &TestHouse, id: &str) -> u64 {
    let model = house.get(&format!("/v1/models/{id}")).json();
    model["whisperwire"]["active"].as_u64().expect("a number")
}

#[test]
fn a_model_stays_as_long_as_a_stream_is_followed_by_it() {
    let house = house(&["--model-unload-idle-minutes=0.002"]);
    let pcm = [speech(2.0), quiet(1.0)].concat();
    let other = Form::new().text("model", "third").file("speech.wav", &wav(&speech(1.0)));
    runtime().block_on(async {
        let mut socket = Socket::open(&house, "model=second").await;
        assert_eq!(socket.ready().settings.model.as_deref(), Some("second"));
        socket.audio(&s16le(&pcm)).await;
        socket.until("a final", |story| story.finals().next().is_some()).await;

        // There is no room beside it, and nobody can take its place: not by asking, by hand, or by waiting.
        let get = |path: &str| Answer::fetch(house.client.get(house.url(path)));
        let busy = Answer::fetch(house.upload("/v1/audio/transcriptions", &other)).await;
        busy.refused(503, "overloaded", Some("model"));
        assert!(busy.header("retry-after").parse().is_ok_and(|seconds: u64| seconds >= 1));
        let unload = Answer::fetch(house.client.delete(house.url("/v1/models/second"))).await;
        assert!(unload.refused(409, "conflict", Some("model")).contains("second"));
        let model = get("/v1/models/second").await.json()["whisperwire"].clone();
        assert_eq!((&model["state"], &model["active"]), (&json!("loaded"), &json!(1)));

        // A stream keeps its model, by whatever name it is called.
        socket.say(r#"{"type":"configure","model":"second","words":true}"#).await;
        socket.say(r#"{"type":"configure","model":"third"}"#).await;
        socket.until("a complaint", |story| !story.errors().is_empty()).await;
        let story = socket.end().await;
        assert_eq!(story.errors(), [("invalid_request".to_owned(), Some("model".to_owned()), false)]);
        assert_eq!(story.text(), scripted(&pcm));
    });
    until("the stream has let go of it", super::SECOND * 10, || active(&house, "second") == 0);
    assert_eq!(house.transcribe(&other).words(), scripted(&speech(1.0)));
    let unknown = runtime().block_on(Socket::at(house.address, "model=nobody", &[]));
    unknown.err().expect("there is none").is(404, "model_not_found", Some("model"));
}
