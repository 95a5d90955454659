//! Several models: loaded when they are asked for or by hand, unloaded when others need the room, when nobody uses
//! them, or by hand. The scripted engine pretends to have some of them, of some size in megabytes.

use serde_json::{Value, json};

use crate::client::{Answer, Form, PATIENCE, runtime, until};
use crate::house::TestHouse;
use crate::sound::{scripted, speech, wav};

/// A house with three models beside the default one, of which two have room.
fn several(flags: &[&str]) -> TestHouse {
    let models = "--script-models=second=50,third=60,me/fourth=10";
    TestHouse::start(&[&[models, "--models-memory-mb=100"], flags].concat())
}

fn model(house: &TestHouse, id: &str) -> Value {
    house.get(&format!("/v1/models/{id}")).json()["whisperwire"].clone()
}

fn states(house: &TestHouse) -> Vec<(String, String)> {
    let list = house.get("/v1/models").json();
    let entry = |entry: &Value| {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        (text(&entry["id"]), text(&entry["whisperwire"]["state"]))
    };
    let all = list["data"].as_array().expect("entries").iter().map(entry);
    all.filter(|(id, _)| id == "script" || id.contains("th") || id == "second").collect()
}

fn loaded(house: &TestHouse) -> Vec<String> {
    let loaded = states(house).into_iter().filter(|(_, state)| state == "loaded");
    loaded.map(|(id, _)| id).collect()
}

fn load(house: &TestHouse, id: &str) -> Answer {
    Answer::to(house.client.post(house.url(&format!("/v1/models/{id}/load"))))
}

fn unload(house: &TestHouse, id: &str) -> Answer {
    Answer::to(house.client.delete(house.url(&format!("/v1/models/{id}"))))
}

fn by(model: &str, file: &[u8]) -> Form {
    Form::new().text("model", model).file("speech.wav", file)
}

#[test]
fn models_come_when_they_are_asked_for_and_make_room_for_others() {
    let house = several(&[]);
    let pcm = speech(4.0);
    let (file, text) = (wav(&pcm), scripted(&pcm));
    let all = ["script", "me/fourth", "second", "third"];
    assert_eq!(states(&house).iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), all);
    assert_eq!(loaded(&house), ["script"]);
    let before = model(&house, "second");
    assert_eq!(
        (&before["memory"], &before["last_used"], &before["active"]),
        (&json!(0), &Value::Null, &json!(0))
    );
    assert!(before["device"].is_null() && before["languages"].as_array().is_some_and(|all| all.len() > 90));

    let answer = load(&house, "second").json();
    assert_eq!((&answer["id"], &answer["object"]), (&json!("second"), &json!("model")));
    let details = &answer["whisperwire"];
    assert_eq!((&details["state"], &details["memory"]), (&json!("loaded"), &json!(50_000_000)));
    // Loading it again changes nothing, and an id may have slashes.
    assert_eq!(load(&house, "second").json()["whisperwire"]["state"], "loaded");
    assert_eq!(load(&house, "me%2Ffourth").json()["whisperwire"]["state"], "loaded");
    assert_eq!(load(&house, "me/fourth").json()["id"], "me/fourth");
    assert_eq!(loaded(&house), ["script", "me/fourth", "second"]);

    // The one that was used longer ago has to go, and one is enough.
    assert_eq!(house.transcribe(&by("me/fourth", &file)).words(), text);
    assert_eq!(house.transcribe(&by("third", &file)).words(), text);
    assert_eq!(loaded(&house), ["script", "me/fourth", "third"]);
    let third = model(&house, "third");
    assert!(third["last_used"].as_u64().is_some_and(|seconds| seconds > 1_700_000_000), "{third}");
    assert_eq!((&third["active"], house.health()["models_active"].as_u64()), (&json!(0), Some(0)));
    assert_eq!(house.transcribe(&by("second", &file).text("stream", "true")).status, 200);
    assert_eq!(loaded(&house), ["script", "me/fourth", "second"]);

    // Another service's name is the default model's.
    assert_eq!(model(&house, "whisper-1")["model"], "script");
    assert_eq!(load(&house, "whisper-1").json()["whisperwire"]["model"], "script");
    load(&house, "nobody").refused(404, "model_not_found", Some("model"));
    house.transcribe(&by("nobody", &file)).refused(404, "model_not_found", Some("model"));
    let nowhere = Answer::to(house.client.post(house.url("/v1/models/second")));
    nowhere.refused(405, "method_not_allowed", None);
    assert_eq!(nowhere.header("allow"), "GET,HEAD,DELETE");
}

#[test]
fn a_model_that_can_never_have_room_does_not_exist_and_is_said_to_be_too_large() {
    let house = TestHouse::start(&["--script-models=small=10,large=200", "--models-memory-mb=100"]);
    let message = load(&house, "large").refused(404, "model_not_found", Some("model"));
    assert!(message.contains("200 MB") && message.contains("100 MB"), "{message}");
    assert_eq!(model(&house, "large")["state"], "unloaded");
}

#[test]
fn models_are_unloaded_by_hand_and_come_back() {
    let house = several(&["--preload=second"]);
    let pcm = speech(3.0);
    let (file, text) = (wav(&pcm), scripted(&pcm));
    assert_eq!(loaded(&house), ["script", "second"]);
    for id in ["second", "script"] {
        assert_eq!(unload(&house, id).json(), json!({"id": id, "object": "model", "deleted": true}));
    }
    assert_eq!(loaded(&house), Vec::<String>::new());
    let health = house.health();
    assert_eq!((&health["status"], &health["model"]), (&json!("ok"), &json!("script")));
    assert_eq!(health["model_loaded"], false);
    // Whoever names the default model by another service's name brings it back.
    assert_eq!(house.transcribe(&Form::of(&file)).words(), text);
    assert_eq!(loaded(&house), ["script"]);
    unload(&house, "whisper-1").good();
    assert_eq!(loaded(&house), Vec::<String>::new());
    // What the server was started with keeps its file.
    let file = Answer::to(house.client.delete(house.url("/v1/models/script?file=true")));
    file.refused(409, "conflict", Some("model"));
    Answer::to(house.client.delete(house.url("/v1/models/script?file=maybe"))).refused(
        400,
        "invalid_value",
        Some("file"),
    );
}

#[test]
fn a_lazy_server_loads_its_model_for_the_first_who_asks_and_once_for_many() {
    let house = TestHouse::start(&["--lazy", "--script-delay-ms=20"]);
    assert_eq!(loaded(&house), Vec::<String>::new());
    assert_eq!(house.health()["model_loaded"], false);
    let pcm = speech(3.0);
    let (file, text) = (wav(&pcm), scripted(&pcm));
    let answers = runtime().block_on(futures_util::future::join_all(
        (0..8).map(|_| Answer::fetch(house.upload("/v1/audio/transcriptions", &Form::of(&file)))),
    ));
    for answer in answers {
        assert_eq!(answer.words(), text);
    }
    assert_eq!(loaded(&house), ["script"]);
    // It is measured when it is loaded, as it is at the start.
    let streams = house.health()["streams_max"].as_u64().expect("a number");
    assert!(streams > 2, "{streams}");
}

#[test]
fn models_that_nobody_uses_are_unloaded() {
    let house = several(&["--model-unload-idle-minutes=0.005", "--preload=second"]);
    until("all models are gone", PATIENCE, || loaded(&house).is_empty());
    let pcm = speech(2.0);
    assert_eq!(house.transcribe(&by("second", &wav(&pcm))).words(), scripted(&pcm));
    until("it is gone again", PATIENCE, || loaded(&house).is_empty());
}

#[test]
fn questions_with_recordings_in_them_name_models_too() {
    let house = several(&[]);
    let pcm = speech(2.0);
    let ask = |model: &str| {
        use base64::Engine as _;
        let data = base64::engine::general_purpose::STANDARD.encode(wav(&pcm));
        let part = json!({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}});
        let body = json!({"model": model, "messages": [{"role": "user", "content": [part]}]});
        Answer::to(house.client.post(house.url("/v1/chat/completions")).json(&body))
    };
    let answer = ask("second").json();
    assert_eq!(answer["choices"][0]["message"]["content"], scripted(&pcm));
    assert_eq!(loaded(&house), ["script", "second"]);
    ask("gpt-audio").good();
    ask("nobody").refused(404, "model_not_found", Some("model"));
    assert_eq!(loaded(&house), ["script", "second"]);
}

/// The real engine: its weights are freed and loaded again, and hear the same.
#[cfg(feature = "whisper")]
#[test]
fn the_bundled_model_hears_the_same_after_it_was_unloaded() {
    use crate::recordings::recording;
    let house = TestHouse::bundled(&["--workers", "2", "--threads", "1"]);
    let form = Form::of(&recording("sentence-04-slt.flac")).text("response_format", "verbose_json");
    // What is kept of it would be no proof.
    let form = form.text("cache", "false");
    let first = house.transcribe(&form).json();
    assert!(first["text"].as_str().is_some_and(|text| text.split(' ').count() > 4), "{first}");
    let details = model(&house, "bundled");
    let memory = details["memory"].as_u64().expect("a number");
    assert!((50_000_000..400_000_000).contains(&memory), "{memory}");
    for _ in 0..2 {
        unload(&house, "bundled").good();
        let gone = model(&house, "whisperwire-synth-tiny.en");
        assert_eq!((&gone["state"], &gone["memory"]), (&json!("unloaded"), &json!(0)));
        assert_eq!(gone["languages"], json!(["en"]));
        assert_eq!(house.transcribe(&form).json(), first);
        assert_eq!(model(&house, "bundled")["state"], "loaded");
    }
}

/// A file that is no model never reaches the engine, whoever asks for it, and the server goes on.
#[cfg(feature = "whisper")]
#[test]
fn a_broken_file_in_the_models_folder_is_refused_and_no_other_file_can_be_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = folder.path().to_str().expect("a plain path");
    let house = TestHouse::bundled(&["--workers", "1", "--threads", "1", "--models-dir", models]);
    let known = whisperwire::engine::models::find("tiny").expect("in the catalogue");
    let path = folder.path().join(&known.file);
    std::fs::write(&path, "a stand-in").expect("room for a file");
    assert_eq!(model(&house, "tiny")["state"], "unloaded");
    let refused = load(&house, "tiny");
    let message = refused.refused(503, "model_loading", Some("model"));
    assert!(!message.contains(models) && refused.header("retry-after").parse().is_ok_and(|n: u64| n <= 10));
    assert_eq!(model(&house, "tiny")["state"], "failed");
    for unknown in ["base", path.to_str().expect("a plain path"), "auto"] {
        let id = unknown.replace('/', "%2F");
        load(&house, &id).refused(404, "model_not_found", Some("model"));
    }
    house.transcribe(&Form::of(&wav(&speech(1.0)))).good();
}

/// The same wish gets the same answer, however it is spelled, and no other model's words.
#[cfg(feature = "whisper")]
#[test]
fn a_known_model_that_is_not_here_is_never_answered_by_another_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = folder.path().to_str().expect("a plain path");
    let flags = ["--workers", "1", "--threads", "1", "--models-dir", models];
    for setting in ["refuse", "accept"] {
        let house = TestHouse::bundled(&[&flags[..], &["--unknown-models", setting]].concat());
        let file = wav(&speech(1.0));
        let spellings = [
            "large-v3",
            "openai/whisper-large-v3",
            "Systran/faster-whisper-large-v3",
            "whisper-large-v3",
            "ggerganov/whisper.cpp:ggml-large-v3.bin",
        ];
        for name in spellings {
            let refused = house.transcribe(&by(name, &file)).refused(404, "model_not_found", Some("model"));
            assert!(refused.contains("whisperwire models pull large-v3"), "{refused}");
            let look = house.get(&format!("/v1/models/{name}"));
            look.refused(404, "model_not_found", Some("model"));
        }
        // The other services' names mean the model that is loaded; of unknown ones the setting says so.
        house.transcribe(&by("whisper-1", &file)).good();
        for unknown in ["nobody", "me/whisper-sv"] {
            let answer = house.transcribe(&by(unknown, &file));
            assert_eq!(answer.status, if setting == "accept" { 200 } else { 404 }, "{unknown}");
        }
    }
}
