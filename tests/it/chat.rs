//! Chat completions with a recording in them, as the client libraries send and read them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::client::Answer;
use crate::house::TestHouse;
use crate::sound::{quiet, scripted, speech, wav};

/// A recording as a part of a message.
fn part(file: &[u8]) -> Value {
    json!({"type": "input_audio", "input_audio": {"data": STANDARD.encode(file), "format": "wav"}})
}

fn question(parts: &[Value]) -> Value {
    json!({"model": "whisper-1", "messages": [{"role": "user", "content": parts}]})
}

fn ask(house: &TestHouse, body: &Value) -> Answer {
    Answer::to(house.client.post(house.url("/v1/chat/completions")).json(body))
}

/// The chunks of an answer.
fn chunks(body: &str) -> Vec<Value> {
    let mut data: Vec<&str> = body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(data.pop(), Some("[DONE]"));
    data.iter().map(|event| serde_json::from_str(event).expect("an event of JSON")).collect()
}

#[test]
fn the_answer_is_the_transcript() {
    let house = TestHouse::start(&[]);
    let pcm = speech(12.0);
    let text = scripted(&pcm);
    let mut body = question(&[json!({"type": "text", "text": "What is said?"}), part(&wav(&pcm))]);
    let answer = ask(&house, &body);
    assert_eq!(answer.header("content-type"), "application/json");
    let plain = answer.json();
    assert_eq!((&plain["object"], &plain["model"]), (&json!("chat.completion"), &json!("whisper-1")));
    assert!(plain["id"].as_str().is_some_and(|id| id.starts_with("chatcmpl-")));
    assert!(plain["created"].as_u64().is_some_and(|seconds| seconds > 1_700_000_000));
    let message = json!({"role": "assistant", "content": text, "refusal": null});
    let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"});
    assert_eq!(plain["choices"], json!([choice]));
    let words = text.split(' ').count() as u64;
    let usage = json!({"prompt_tokens": 120, "completion_tokens": words, "total_tokens": 120 + words,
        "prompt_tokens_details": {"audio_tokens": 120, "cached_tokens": 0}});
    assert_eq!(plain["usage"], usage);

    body["modalities"] = json!(["text", "audio"]);
    body["audio"] = json!({"voice": "alloy", "format": "wav"});
    let spoken = ask(&house, &body).json();
    let message = &spoken["choices"][0]["message"];
    assert_eq!((&message["content"], &message["audio"]["transcript"]), (&json!(text), &json!(text)));
    assert_eq!(message["audio"]["data"], "");

    // What nobody here can make anything of is left alone.
    body["modalities"] = json!(["text"]);
    for (name, value) in [
        ("temperature", json!(1.5)),
        ("response_format", json!({"type": "text"})),
        ("seed", json!(7)),
        ("n", json!(1)),
    ] {
        body[name] = value;
    }
    assert_eq!(ask(&house, &body).json()["choices"], plain["choices"]);
}

#[test]
fn a_stream_of_chunks_is_the_same_answer() {
    let house = TestHouse::start(&[]);
    let pcm = speech(12.0);
    let text = scripted(&pcm);
    let mut body = question(&[part(&wav(&pcm))]);
    body["stream"] = json!(true);
    let answer = ask(&house, &body);
    assert_eq!(answer.header("content-type"), "text/event-stream");
    let told = chunks(answer.good());
    assert_eq!(told[0]["choices"][0]["delta"]["role"], "assistant");
    let content = |chunk: &Value| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned);
    assert!(told.iter().filter_map(content).filter(|delta| !delta.is_empty()).count() > 1, "{told:?}");
    assert_eq!(told.iter().filter_map(content).collect::<String>(), text);
    let (last, before) = told.split_last().expect("chunks");
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert!(before.iter().all(|chunk| chunk["choices"][0]["finish_reason"].is_null()));
    assert!(told.iter().all(|chunk| chunk["id"] == told[0]["id"] && chunk["usage"].is_null()));

    body["stream_options"] = json!({"include_usage": true});
    let told = chunks(ask(&house, &body).good());
    let last = told.last().expect("chunks");
    assert_eq!((&last["choices"], &last["usage"]["prompt_tokens"]), (&json!([]), &json!(120)));
    assert_eq!(told[told.len() - 2]["choices"][0]["finish_reason"], "stop");
}

#[test]
fn recordings_follow_each_other_line_by_line() {
    let house = TestHouse::start(&["--slots", "1"]);
    let (long, short) = (speech(6.0), speech(3.0));
    let both = format!("{}\n{}", scripted(&long), scripted(&short));
    let parts = [part(&wav(&long)), part(&wav(&quiet(2.0))), part(&wav(&short))];
    let mut body = question(&parts);
    let older = json!({"role": "user", "content": [part(&wav(&speech(1.0)))]});
    let later = json!({"role": "user", "content": "Well?"});
    body["messages"] = json!([older, body["messages"][0], later]);
    let answer = ask(&house, &body).json();
    assert_eq!(answer["choices"][0]["message"]["content"], both);
    assert_eq!(answer["usage"]["prompt_tokens"], 110);
    body["stream"] = json!(true);
    let told = chunks(ask(&house, &body).good());
    let content = |chunk: &Value| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned);
    assert_eq!(told.iter().filter_map(content).collect::<String>(), both);
}

#[test]
fn base64_is_read_as_clients_write_it() {
    let house = TestHouse::start(&[]);
    let pcm = speech(2.0);
    let encoded = STANDARD.encode([&wav(&pcm)[..], b"\0"].concat());
    let lines: Vec<&str> =
        encoded.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    for data in [
        encoded.clone(),
        format!("data:audio/wav;base64,{encoded}"),
        lines.join("\n"),
        lines.join("\r\n") + "\r\n",
        encoded.trim_end_matches('=').to_owned(),
    ] {
        let part = json!({"type": "input_audio", "input_audio": {"data": data}});
        let answer = ask(&house, &question(&[part])).json();
        assert_eq!(answer["choices"][0]["message"]["content"], scripted(&pcm));
    }
}

#[test]
fn what_is_wrong_is_said_by_its_place_before_any_event() {
    let house = TestHouse::start(&["--max-upload-mb", "1"]);
    let pcm = speech(1.0);
    let good = part(&wav(&pcm));
    let refused = |body: &Value, status: u16, code: &str, param: Option<&str>| {
        let mut body = body.clone();
        for stream in [false, true] {
            body["stream"] = json!(stream);
            ask(&house, &body).refused(status, code, param);
        }
    };
    let data = "messages[0].content[0].input_audio.data";
    for nonsense in ["%%%", "AAAAA", "AA==AAAA"] {
        let part = json!({"type": "input_audio", "input_audio": {"data": nonsense, "format": "wav"}});
        refused(&question(&[part]), 400, "invalid_value", Some(data));
    }
    refused(&question(&[json!({"type": "text", "text": "Hello."})]), 400, "invalid_value", Some("messages"));
    let mut strange = question(std::slice::from_ref(&good));
    strange["model"] = json!("nobody/knows-this");
    refused(&strange, 404, "model_not_found", Some("model"));
    // More than a megabyte: as one recording, as two, and as a body that is not even read to its end.
    refused(&question(&[part(&vec![0; 1_000_001])]), 413, "file_too_large", Some(data));
    let half = part(&vec![0; 600_000]);
    let second = "messages[0].content[1].input_audio.data";
    refused(&question(&[half.clone(), half]), 413, "file_too_large", Some(second));
    refused(&question(&[part(&vec![0; 3_000_000])]), 413, "file_too_large", Some("messages"));

    let post = |body: &'static str| {
        let url = house.url("/v1/chat/completions");
        Answer::to(house.client.post(url).header("content-type", "application/json").body(body))
    };
    post("{").refused(400, "invalid_value", None);
    post(r#"{"model":"whisper-1","messages":7}"#).refused(400, "invalid_value", None);
    post(r#"{"messages":[]}"#).refused(400, "invalid_value", Some("model"));
    house.get("/v1/chat/completions").refused(405, "method_not_allowed", None);
    assert_eq!(ask(&house, &question(&[good])).json()["choices"][0]["message"]["content"], scripted(&pcm));
}

#[test]
fn the_door_is_the_same_as_everywhere() {
    let house = TestHouse::start(&["--api-key", "first"]);
    ask(&house, &question(&[])).refused(401, "invalid_api_key", None);
}

#[cfg(feature = "whisper")]
#[test]
fn what_is_no_audio_is_refused_before_any_event() {
    let house = crate::house::shared();
    let text = b"These are words, but not spoken ones.\n".repeat(99);
    let mut body = question(&[part(&wav(&speech(1.0))), part(&text)]);
    for stream in [false, true] {
        body["stream"] = json!(stream);
        let place = "messages[0].content[1].input_audio.data";
        ask(house, &body).refused(400, "unsupported_audio", Some(place));
    }
    body["n"] = json!(2);
    ask(house, &body).refused(400, "invalid_value", Some("n"));
}
