//! The OpenAI API as its clients see it: every format, every field, and what stands around them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Answer, Form, head, rest};
use crate::house::TestHouse;
use crate::sound::{quiet, scripted, speech, wav};

/// Twelve seconds of speech with what the scripted engine makes of it.
fn twelve_seconds() -> (Vec<u8>, String) {
    let pcm = speech(12.0);
    (wav(&pcm), scripted(&pcm))
}

#[test]
fn every_format_has_its_body_and_type() {
    let house = TestHouse::start(&[]);
    let (file, text) = twelve_seconds();
    let get = |format: &str| house.transcribe(&Form::of(&file).text("response_format", format));

    let plain = house.transcribe(&Form::of(&file));
    assert_eq!(plain.json(), json!({"text": text, "usage": {"type": "duration", "seconds": 12}}));
    assert_eq!(plain.header("content-type"), "application/json");
    assert_eq!(get("json").json(), plain.json());

    let bare = get("text");
    assert_eq!(bare.good(), format!("{text}\n"));
    assert_eq!(bare.header("content-type"), "text/plain; charset=utf-8");

    let srt = get("srt");
    assert!(srt.good().starts_with("1\n00:00:00,"), "{}", srt.text());
    assert_eq!(caption_text(srt.text()), text);
    assert_eq!(srt.header("content-type"), "text/plain; charset=utf-8");

    let vtt = get("vtt");
    assert!(vtt.good().starts_with("WEBVTT\n\n00:00."), "{}", vtt.text());
    assert_eq!(caption_text(vtt.text()), text);
    assert_eq!(vtt.header("content-type"), "text/vtt; charset=utf-8");

    let verbose = get("verbose_json").json();
    assert_eq!(verbose["text"], text.as_str());
    assert_eq!((&verbose["task"], &verbose["language"]), (&json!("transcribe"), &json!("english")));
    assert_eq!(verbose["usage"], json!({"type": "duration", "seconds": 12}));
    assert!(verbose["duration"].as_f64().is_some_and(|seconds| (seconds - 12.0).abs() < 0.01));
    assert_eq!(joined(&verbose["segments"], "text").trim(), text);
}

/// The lines of captions that are text.
fn caption_text(captions: &str) -> String {
    let is_text = |line: &&str| {
        !line.is_empty() && !line.contains("-->") && line.parse::<u32>().is_err() && *line != "WEBVTT"
    };
    captions.lines().filter(is_text).collect::<Vec<_>>().join(" ")
}

/// One key of every item of an array, joined.
fn joined(items: &Value, key: &str) -> String {
    items.as_array().expect("an array").iter().map(|item| item[key].as_str().expect("a text")).collect()
}

#[test]
fn segments_and_words_come_as_they_were_asked_for() {
    let house = TestHouse::start(&[]);
    let (file, text) = twelve_seconds();
    let verbose = |more: &[(&str, &str)]| {
        let form = Form::of(&file).text("response_format", "verbose_json");
        let answer = house.transcribe(&more.iter().fold(form, |form, (name, value)| form.text(name, value)));
        serde_json::from_str::<Value>(&answer.nameless()).expect("JSON")
    };
    let words = "timestamp_granularities[]";

    let default = verbose(&[]);
    assert!(default["words"].is_null());
    let keys = "avg_logprob compression_ratio end id no_speech_prob seek start temperature text tokens";
    let segments = default["segments"].as_array().expect("segments");
    assert!(segments.len() > 1);
    for (n, segment) in segments.iter().enumerate() {
        let mut found: Vec<&str> =
            segment.as_object().expect("an object").keys().map(String::as_str).collect();
        found.sort_unstable();
        assert_eq!(found.join(" "), keys);
        assert_eq!(segment["id"], n);
        assert!(segment["text"].as_str().is_some_and(|text| text.starts_with(' ')), "{segment}");
        assert!(segment["tokens"].as_array().is_some_and(|tokens| !tokens.is_empty()));
    }

    let only = verbose(&[(words, "word")]);
    assert!(only["segments"].is_null());
    let spoken: Vec<&str> =
        only["words"].as_array().expect("words").iter().filter_map(|word| word["word"].as_str()).collect();
    assert_eq!(spoken.join(" "), text);
    let mut latest = 0.0;
    for word in only["words"].as_array().expect("words") {
        let (start, end) = (word["start"].as_f64().expect("a time"), word["end"].as_f64().expect("a time"));
        assert!(latest <= start && start < end && end <= 12.0, "{word}");
        latest = end;
    }

    let both = verbose(&[(words, "word"), (words, "segment")]);
    assert_eq!((&both["words"], &both["segments"]), (&only["words"], &default["segments"]));
    assert_eq!(verbose(&[(words, "segment")]), default);
    // As other clients write the same array.
    assert_eq!(verbose(&[("timestamp_granularities", "word"), ("timestamp_granularities", "segment")]), both);
    assert_eq!(
        verbose(&[("timestamp_granularities[0]", "word"), ("timestamp_granularities[1]", "segment")]),
        both
    );
    assert_eq!(verbose(&[("timestamp_granularities", r#"["word", "segment"]"#)]), both);
    assert_eq!(verbose(&[(words, r#"["word"]"#)]), only);
}

#[test]
fn the_order_of_fields_means_nothing() {
    let house = TestHouse::start(&[]);
    let (file, _) = twelve_seconds();
    let fields = [("model", "gpt-4o-transcribe"), ("response_format", "json"), ("include[]", "logprobs")];
    let with_file_at = |place: usize| {
        let form = (0..=fields.len()).fold(Form::new(), |form, n| {
            let form = if n == place { form.file("speech.wav", &file) } else { form };
            fields.get(n).map_or(form.clone(), |(name, value)| form.text(name, value))
        });
        house.transcribe(&form).json()
    };
    let last = with_file_at(fields.len());
    assert!(last["logprobs"].is_array());
    for place in 0..fields.len() {
        assert_eq!(with_file_at(place), last, "the file at place {place}");
    }
}

#[test]
fn logprobs_spell_the_text() {
    let house = TestHouse::start(&[]);
    let (file, text) = twelve_seconds();
    let plain = house.transcribe(&Form::of(&file)).json();
    assert!(plain["logprobs"].is_null());
    for field in ["include[]", "include", "include[0]"] {
        let body = house.transcribe(&Form::of(&file).text(field, "logprobs")).json();
        assert_eq!(joined(&body["logprobs"], "token"), text, "{field}");
        for entry in body["logprobs"].as_array().expect("entries") {
            let bytes: Vec<u8> = serde_json::from_value(entry["bytes"].clone()).expect("bytes");
            assert_eq!(entry["token"].as_str().map(str::as_bytes), Some(&bytes[..]));
            assert!(entry["logprob"].as_f64().is_some_and(|logprob| logprob < 0.0));
        }
    }
}

#[test]
fn usage_is_counted_as_the_models_name_promises() {
    let house = TestHouse::start(&[]);
    let (file, text) = twelve_seconds();
    let body =
        |model: &str| house.transcribe(&Form::new().text("model", model).file("speech.wav", &file)).json();
    let tokens = &body("gpt-4o-mini-transcribe")["usage"];
    assert_eq!(tokens["type"], "tokens");
    let count = |key: &str| tokens[key].as_u64().expect("a whole number");
    assert_eq!(count("output_tokens") as usize, text.split(' ').count());
    assert_eq!(count("total_tokens"), count("input_tokens") + count("output_tokens"));
    assert_eq!(
        tokens["input_token_details"],
        json!({"text_tokens": 0, "audio_tokens": count("input_tokens")})
    );
    assert_eq!(body("gpt-transcribe")["languages"], json!([{"code": "en"}]));
    assert!(body("whisper-1")["languages"].is_null());
}

#[test]
fn languages_are_read_in_every_spelling() {
    let house = TestHouse::start(&[]);
    let (file, _) = twelve_seconds();
    let heard = |name: &str, value: &str| {
        let form = Form::of(&file).text("response_format", "verbose_json").text(name, value);
        house.transcribe(&form).json()["language"].clone()
    };
    for spelling in ["de", "German", "de-CH"] {
        assert_eq!(heard("language", spelling), "german", "{spelling}");
    }
    assert_eq!(heard("languages[]", "fr"), "french");
    assert_eq!(heard("language", ""), "english");
}

#[test]
fn a_chunking_strategy_cuts_in_every_shape() {
    let house = TestHouse::start(&["--workers", "1", "--cache-mb", "0"]);
    // A pause that half a second of patience ends an utterance in, and two do not.
    let file = wav(&[speech(3.0), quiet(1.0), speech(3.0)].concat());
    let windows = |fields: &[(&str, &str)]| {
        let form = fields.iter().fold(Form::of(&file), |form, (name, value)| form.text(name, value));
        let before = house.health()["windows_recognised"].as_u64().expect("a number");
        house.transcribe(&form).good();
        house.health()["windows_recognised"].as_u64().expect("a number") - before
    };
    let name = "chunking_strategy";
    assert_eq!(windows(&[]), 2);
    assert_eq!(windows(&[(name, "auto")]), 2);
    assert_eq!(windows(&[(name, r#"{"type":"server_vad","silence_duration_ms":2000}"#)]), 1);
    let bracketed =
        [("chunking_strategy[type]", "server_vad"), ("chunking_strategy[silence_duration_ms]", "2000")];
    assert_eq!(windows(&bracketed), 1);
    for nonsense in ["sometimes", r#"{"type":"semantic"}"#, "[1]"] {
        let answer = house.transcribe(&Form::of(&file).text(name, nonsense));
        answer.refused(400, "invalid_value", Some(name));
    }
    let far = house.transcribe(&Form::of(&file).text(name, r#"{"type":"server_vad","threshold":7}"#));
    far.refused(400, "invalid_value", Some("chunking_strategy[threshold]"));
}

#[test]
fn translations_have_their_own_bodies() {
    let house = TestHouse::start(&[]);
    let (file, text) = twelve_seconds();
    assert_eq!(house.translate(&Form::of(&file)).json(), json!({"text": text}));
    let verbose = house.translate(&Form::of(&file).text("response_format", "verbose_json")).json();
    assert_eq!((&verbose["task"], &verbose["language"]), (&json!("translate"), &json!("english")));
    assert!(verbose["usage"].is_null() && verbose["segments"].is_array());
    assert_eq!(house.translate(&Form::of(&file).text("response_format", "text")).good(), format!("{text}\n"));
}

#[test]
fn a_stream_tells_the_same_text_in_pieces() {
    let house = TestHouse::start(&["--file-window", "3"]);
    let (file, text) = twelve_seconds();
    let form = Form::of(&file).text("stream", "true").text("include[]", "logprobs");
    let answer = house.transcribe(&form);
    assert_eq!(answer.header("content-type"), "text/event-stream");
    let (deltas, done) = events(answer.good());
    assert!(deltas.len() > 2, "{}", deltas.len());
    let told: String = deltas.iter().filter_map(|event| event["delta"].as_str()).collect();
    let spelled: String = deltas.iter().map(|event| joined(&event["logprobs"], "token")).collect();
    assert_eq!((told.as_str(), spelled.as_str()), (text.as_str(), text.as_str()));
    assert_eq!((&done["type"], &done["text"]), (&json!("transcript.text.done"), &json!(text)));
    assert_eq!(done["usage"]["output_tokens"].as_u64(), Some(text.split(' ').count() as u64));

    let silence = house.transcribe(&Form::of(&wav(&quiet(2.0))).text("stream", "true"));
    let (deltas, done) = events(silence.good());
    assert_eq!((deltas.len(), &done["text"]), (0, &json!("")));
    assert_eq!(house.transcribe(&Form::of(&file).text("stream", "false")).words(), text);
}

#[test]
fn a_stream_of_verbose_json_has_segments_beside_its_deltas() {
    let house = TestHouse::start(&[]);
    let (file, text) = twelve_seconds();
    let form = Form::of(&file).text("stream", "true").text("response_format", "verbose_json");
    let (told, done) = all_events(house.transcribe(&form).good());
    let of = |kind: &str| -> Vec<&Value> { told.iter().filter(|event| event["type"] == kind).collect() };
    let (deltas, segments) = (of("transcript.text.delta"), of("transcript.text.segment"));
    assert_eq!((told.len(), deltas.len()), (2 * segments.len(), segments.len()));
    assert!(segments.len() > 1);
    let joined: String = deltas.iter().filter_map(|event| event["delta"].as_str()).collect();
    assert_eq!((joined.as_str(), &done["text"]), (text.as_str(), &json!(text)));
    let mut latest = 0.0;
    for (n, (segment, delta)) in segments.iter().zip(&deltas).enumerate() {
        let mut keys: Vec<&str> =
            segment.as_object().expect("an object").keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["end", "id", "speaker", "start", "text", "type"]);
        assert_eq!((&segment["id"], &segment["speaker"]), (&json!(format!("seg_{:03}", n + 1)), &json!("A")));
        assert_eq!(segment["text"].as_str(), delta["delta"].as_str().map(str::trim));
        let (start, end) =
            (segment["start"].as_f64().expect("a time"), segment["end"].as_f64().expect("a time"));
        assert!(latest <= start && start < end && end <= 12.0, "{segment}");
        latest = start;
    }
}

#[test]
fn translations_stream_as_well() {
    let house = TestHouse::start(&[]);
    let (file, text) = twelve_seconds();
    let form = Form::of(&file).text("stream", "true").text("include[]", "logprobs");
    let (deltas, done) = events(house.translate(&form).good());
    let joined: String = deltas.iter().filter_map(|event| event["delta"].as_str()).collect();
    assert_eq!((joined.as_str(), &done["text"]), (text.as_str(), &json!(text)));
    let spelled: String = deltas.iter().map(|event| self::joined(&event["logprobs"], "token")).collect();
    assert_eq!((spelled.as_str(), self::joined(&done["logprobs"], "token").as_str()), (&*text, &*text));
}

/// The deltas of an event stream, and its last event before `[DONE]`.
fn events(body: &str) -> (Vec<Value>, Value) {
    let (events, done) = all_events(body);
    assert!(events.iter().all(|event| event["type"] == "transcript.text.delta"), "{events:?}");
    (events, done)
}

/// The events of a stream, and the last of them before `[DONE]`.
fn all_events(body: &str) -> (Vec<Value>, Value) {
    let mut data: Vec<&str> = body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(data.pop(), Some("[DONE]"));
    let mut events: Vec<Value> =
        data.iter().map(|event| serde_json::from_str(event).expect("an event of JSON")).collect();
    let done = events.pop().expect("a last event");
    (events, done)
}

#[test]
fn what_is_not_done_yet_is_refused_in_clear_words() {
    let house = TestHouse::start(&[]);
    let (file, _) = twelve_seconds();
    let refused = |name: &str, value: &str| {
        house.transcribe(&Form::of(&file).text(name, value)).refused(400, "invalid_value", Some(name))
    };
    assert!(refused("response_format", "diarized_json").contains("diarized_json"));
    assert!(refused("diarize", "true").contains("diarize"));
    assert!(refused("webhook_url", "http://nowhere.invalid/").contains("webhook_url"));
}

#[test]
fn wrong_values_are_refused_by_the_name_of_their_field() {
    let house = TestHouse::start(&[]);
    let (file, text) = twelve_seconds();
    for (name, value, param) in [
        ("response_format", "yaml", "response_format"),
        ("temperature", "2", "temperature"),
        ("temperature", "warm", "temperature"),
        ("window_seconds", "0.5", "window_seconds"),
        ("window_seconds", "31", "window_seconds"),
        ("stream", "perhaps", "stream"),
        ("include[]", "everything", "include[]"),
        ("timestamp_granularities[]", "letter", "timestamp_granularities[]"),
        ("model", "whisper-1", "model"),
    ] {
        let answer = house.transcribe(&Form::of(&file).text(name, value));
        let message = answer.refused(400, "invalid_value", Some(param));
        assert!(message.contains(name.trim_end_matches("[]")), "{message}");
    }
    house.transcribe(&Form::new().file("a.wav", &file)).refused(400, "invalid_value", Some("model"));
    assert_eq!(house.transcribe(&Form::of(&file)).words(), text);
}

#[cfg(feature = "whisper")]
#[test]
fn fields_that_contradict_each_other_are_refused() {
    let house = crate::house::shared();
    let form = || Form::of(&wav(&speech(1.0)));
    let words = house.transcribe(&form().text("timestamp_granularities[]", "word"));
    words.refused(400, "invalid_value", Some("timestamp_granularities[]"));
    let logprobs = house.transcribe(&form().text("include[]", "logprobs").text("response_format", "text"));
    logprobs.refused(400, "invalid_value", Some("include[]"));
    let german = house.transcribe(&form().text("language", "de"));
    assert!(german.refused(400, "invalid_value", Some("language")).contains("english only"));
}

#[test]
fn models_are_listed_and_found() {
    let house = TestHouse::start(&[]);
    let list = house.get("/v1/models").json();
    assert_eq!(list["object"], "list");
    let entries = list["data"].as_array().expect("entries");
    let ids: Vec<&str> = entries.iter().filter_map(|entry| entry["id"].as_str()).collect();
    assert!(ids.starts_with(&["script", "whisper-1"]) && ids.contains(&"gpt-4o-transcribe"), "{ids:?}");
    for entry in entries {
        assert_eq!((&entry["object"], entry["created"].is_u64()), (&json!("model"), true));
        assert!(entry["owned_by"].is_string() && entry["whisperwire"]["model"] == "script", "{entry}");
        let id = entry["id"].as_str().expect("an id");
        assert_eq!(house.get(&format!("/v1/models/{id}")).json(), *entry);
    }
    // An engine that takes placeholders takes any name for its model, and deletes nothing.
    assert_eq!(house.get("/v1/models/some/body").json()["whisperwire"]["model"], "script");
    let gone = Answer::to(house.client.delete(house.url("/v1/models/some/body"))).json();
    assert_eq!(gone, json!({"id": "some/body", "object": "model", "deleted": true}));
    assert_eq!(house.get("/v1/models").json(), list);
}

#[cfg(feature = "whisper")]
#[test]
fn models_that_are_not_here_are_not_found() {
    let house = crate::house::shared();
    for unknown in ["/v1/models/nobody", "/v1/models/some/body"] {
        house.get(unknown).refused(404, "model_not_found", Some("model"));
    }
}

#[cfg(feature = "whisper")]
#[test]
fn the_file_of_a_downloaded_model_can_be_removed_and_that_of_the_running_one_cannot() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = folder.path().to_str().expect("a plain path");
    let house = TestHouse::bundled(&["--workers", "1", "--threads", "1", "--models-dir", models]);
    let delete = |id: &str| Answer::to(house.client.delete(house.url(&format!("/v1/models/{id}?file=true"))));
    let known = whisperwire::engine::models::find("tiny").expect("in the catalogue");
    let (own, strange) = (folder.path().join(&known.file), folder.path().join("me/whisper/x.bin"));
    std::fs::create_dir_all(strange.parent().expect("a folder")).expect("room for a folder");
    for path in [&own, &strange] {
        std::fs::write(path, "a stand-in").expect("room for a file");
    }
    assert_eq!(delete("tiny").json(), json!({"id": "tiny", "object": "model", "deleted": true}));
    assert!(!own.exists() && strange.exists());
    delete("tiny").refused(404, "model_not_found", Some("model"));
    delete("me/whisper:x.bin").good();
    assert!(!strange.exists());
    for running in ["bundled", "whisperwire-synth-tiny.en", "whisper-1", "Whisper-1"] {
        delete(running).refused(409, "conflict", Some("model"));
    }
    let outside = folder.path().join("outside.bin");
    std::fs::write(&outside, "somebody's own").expect("room for a file");
    let outside_id = outside.to_str().expect("a plain path").trim_start_matches('/').replace('/', "%2F");
    for unknown in
        ["nobody", "me/whisper", "auto", "me/whisper:..%2F..%2Foutside.bin", &format!("%2F{outside_id}")]
    {
        delete(unknown).refused(404, "model_not_found", Some("model"));
    }
    assert!(outside.exists());
}

#[test]
fn unknown_models_are_refused_or_accepted_by_a_setting() {
    let (file, text) = twelve_seconds();
    let form = Form::new().text("model", "nobody/knows-this").file("speech.wav", &file);
    let house = TestHouse::start(&[]);
    let message = house.transcribe(&form).refused(404, "model_not_found", Some("model"));
    assert!(message.contains("nobody/knows-this") && message.contains("script"), "{message}");
    let own = Form::new().text("model", "script").file("speech.wav", &file);
    assert_eq!(house.transcribe(&own).words(), text);
    let house = TestHouse::start(&["--unknown-models", "accept"]);
    assert_eq!(house.transcribe(&form).words(), text);
}

#[test]
fn keys_open_the_door_and_health_needs_none() {
    let house = TestHouse::start(&["--api-key", "first,second"]);
    let (file, text) = twelve_seconds();
    let form = Form::of(&file);
    let request = || house.upload("/v1/audio/transcriptions", &form);
    let missing = Answer::to(request());
    missing.refused(401, "invalid_api_key", None);
    assert_eq!(missing.header("www-authenticate"), "Bearer");
    Answer::to(request().bearer_auth("third")).refused(401, "invalid_api_key", None);
    Answer::to(request().header("x-api-key", "third")).refused(401, "invalid_api_key", None);
    house.get("/v1/models").refused(401, "invalid_api_key", None);
    assert_eq!(Answer::to(request().bearer_auth("second")).words(), text);
    assert_eq!(Answer::to(request().header("x-api-key", "first")).words(), text);
    assert_eq!(house.get("/health").status, 200);
}

#[test]
fn every_route_and_every_wrong_turn_has_an_answer() {
    let house = TestHouse::start(&["--workers", "3", "--slots", "5"]);
    for path in ["/", "/v1", "/v1/"] {
        let about = house.get(path).json();
        assert_eq!(about["name"], "whisperwire", "{path}");
        assert_eq!(about["version"], env!("CARGO_PKG_VERSION"));
    }
    let health = house.health();
    assert_eq!((&health["status"], &health["model"]), (&json!("ok"), &json!("script")));
    assert_eq!(
        (&health["workers"], &health["slots"], &health["slots_free"]),
        (&json!(3), &json!(5), &json!(5))
    );
    for path in ["/nowhere", "/v1/nowhere", "/v1/audio", "/v1/models/"] {
        house.get(path).refused(404, "not_found", None);
    }
    house.get("/v1/audio/transcriptions").refused(405, "method_not_allowed", None);
    Answer::to(house.client.delete(house.url("/health"))).refused(405, "method_not_allowed", None);
    let ids = [house.get("/"), house.get("/"), house.get("/nowhere")]
        .map(|answer| answer.header("x-request-id").to_owned());
    assert!(ids[0] != ids[1] && ids[1] != ids[2], "{ids:?}");
}

/// The transcript is a function of the recording: not of how it was cut, in what order the pieces came back, or how
/// the bytes came over the wire.
#[test]
fn no_word_is_lost_or_doubled_wherever_the_cuts_fall() {
    let pcm = speech(240.0);
    let (file, text) = (wav(&pcm), scripted(&pcm));
    assert!(text.split(' ').count() > 400);
    for workers in ["1", "4"] {
        for window in ["3", "10", "30"] {
            // A little delay lets the workers finish in another order than they began.
            let flags = ["--workers", workers, "--file-window", window, "--script-delay-ms", "2"];
            let house = TestHouse::start(&flags);
            assert_eq!(house.transcribe(&Form::of(&file)).words(), text, "{workers} workers, {window} s");
        }
    }
    let house = TestHouse::start(&["--workers", "2"]);
    for window in ["1", "4.5", "30"] {
        let answer = house.transcribe(&Form::of(&file).text("window_seconds", window));
        assert_eq!(answer.words(), text, "window_seconds={window}");
    }
    let few = house.health()["windows_recognised"].as_u64().expect("a number");
    assert!(few > 240 + 50, "a window of a second each, and longer ones: {few}");
}

#[test]
fn words_between_pauses_are_all_there() {
    let house = TestHouse::start(&[]);
    let pcm =
        [quiet(2.0), speech(7.0), quiet(3.0), speech(25.0), quiet(1.5), speech(2.0), quiet(4.0)].concat();
    let answer = house.transcribe(&Form::of(&wav(&pcm)).text("response_format", "verbose_json")).json();
    let text = answer["text"].as_str().expect("a text");
    // A word at the edge of a sound may be cut off by it; none may be there that is not in the script.
    let (whole, heard) = (scripted(&pcm), text.split(' ').count());
    let mut script = whole.split(' ');
    assert!(text.split(' ').all(|word| script.any(|scripted| scripted == word)), "{text}\n{whole}");
    assert!(whole.split(' ').count() - heard <= 6, "{text}\n{whole}");
    let last = answer["segments"].as_array().and_then(|all| all.last()?["end"].as_f64());
    assert!(last.is_some_and(|end| (39.0..41.0).contains(&end)), "{last:?}");
}

#[test]
fn the_wire_may_cut_an_upload_anywhere() {
    let house = TestHouse::start(&[]);
    let (file, text) = twelve_seconds();
    let body = Form::of(&file).body();
    for size in [1_021, 65_537] {
        let mut wire = house.wire();
        let head = head(&Form::content_type(), "Transfer-Encoding: chunked");
        wire.send(head.as_bytes());
        for chunk in body.chunks(size) {
            wire.send(&[format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
        }
        wire.send(b"0\r\n\r\n");
        assert_eq!(wire.answer().words(), text, "chunks of {size}");
    }
    // Byte by byte at the place where it matters most, around the first line between parts.
    let request = Form::of(&file).request();
    let mut wire = house.wire();
    for byte in &request[..400] {
        wire.send(&[*byte]);
        rest(Duration::from_micros(200));
    }
    wire.send(&request[400..]);
    assert_eq!(wire.answer().words(), text);
}
