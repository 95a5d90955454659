//! What the log says, and what it never says: the real program at the level of `trace`, with everything that is
//! nobody's business sent through it.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::client::{Answer, Form, runtime};
use crate::live::realtime::Session;
use crate::live::s16le;
use crate::live::socket::Socket;
use crate::program::{Served, whisperwire};
use crate::sound::{quiet, scripted, speech, wav};

const KEY: &str = "key-zebrafish";
const SECRETS: [&str; 6] = [
    KEY,
    "key-of-a-stranger-axolotl",
    "token-capybara",
    "prompt-pangolin",
    "keyword-quokka",
    "question-narwhal",
];

/// What is said by the scripted engine, but for the words that are also about servers.
fn rare_words(pcm: &[f32]) -> BTreeSet<String> {
    let text = scripted(pcm).to_lowercase();
    let words = text.split(' ').map(|word| word.trim_matches('.').to_owned());
    let common = ["engine", "window", "between", "behind", "inside", "bridge", "listens"];
    words.filter(|word| word.len() > 5 && !common.contains(&word.as_str())).collect()
}

#[test]
fn the_log_holds_nothing_that_was_said_and_no_secret() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log");
    let mut command = whisperwire(folder.path());
    command.env("WHISPERWIRE_API_KEY", KEY).env("WHISPERWIRE_HUB_TOKEN", "token-capybara");
    command.args(["serve", "--engine", "script", "--port", "0", "--log", "trace", "--log-json"]);
    let served = Served::start_logging(&mut command, &log);
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let url = |path: &str| format!("http://{}{path}", served.address);
    let pcm = speech(8.0);
    let words = rare_words(&pcm);
    assert!(words.len() > 3, "{words:?}");

    // An upload, as one answer and as a stream.
    let form = Form::of(&wav(&pcm)).text("prompt", "prompt-pangolin").text("keywords[]", "keyword-quokka");
    let upload = |form: &Form| {
        let request = client.post(url("/v1/audio/transcriptions")).bearer_auth(KEY);
        Answer::to(request.header("content-type", Form::content_type()).body(form.body()))
    };
    let answer = upload(&form);
    assert_eq!(answer.words(), scripted(&pcm));
    let streamed = upload(&form.clone().text("stream", "true"));
    assert!(streamed.good().contains("[DONE]"));
    // A chat.
    let part =
        json!({"type": "input_audio", "input_audio": {"data": STANDARD.encode(wav(&pcm)), "format": "wav"}});
    let text = json!({"type": "text", "text": "question-narwhal"});
    let question = json!({"model": "whisper-1", "messages": [
        {"role": "system", "content": "prompt-pangolin"}, {"role": "user", "content": [text, part]}]});
    let asked = client.post(url("/v1/chat/completions")).bearer_auth(KEY).json(&question);
    assert_eq!(Answer::to(asked).json()["choices"][0]["message"]["content"], scripted(&pcm));
    // Live streams, of both kinds; one brings its key as browsers do.
    let spoken = [pcm.clone(), quiet(1.0)].concat();
    let id = runtime().block_on(async {
        let protocols = format!("whisperwire.v1, whisperwire.key.{KEY}");
        let query = "prompt=prompt-pangolin&keywords=keyword-quokka";
        let opened = Socket::at(served.address, query, &[("sec-websocket-protocol", &protocols)]).await;
        let mut socket = opened.expect("it is a key");
        let id = socket.ready().stream.clone();
        socket.audio_in(&s16le(&spoken), 6_400).await;
        assert_eq!(socket.end().await.whole().text(), scripted(&pcm));
        let bearer = format!("Bearer {KEY}");
        let opened =
            Session::open(served.address, "intent=transcription", &[("authorization", &bearer)]).await;
        let mut session = opened.expect("it is a key");
        session
            .say(json!({"type": "session.update", "session": {"type": "transcription", "audio": {"input": {
                "format": {"type": "audio/pcm", "rate": 16000},
                "transcription": {"model": "whisper-1", "prompt": "prompt-pangolin"},
                "turn_detection": {"type": "server_vad"}}}}}))
            .await;
        session.speak(&spoken).await;
        session.until("conversation.item.input_audio_transcription.completed").await;
        // A mistake is answered, and logged.
        session.say(json!({"type": "prompt-pangolin"})).await;
        session.until("error").await;
        id
    });
    // Those who are refused.
    let refused = client.get(url("/v1/models")).header("x-api-key", "key-of-a-stranger-axolotl");
    assert_eq!(Answer::to(refused).status, 401);
    let lent = Answer::to(client.post(url("/v1/realtime/client_secrets")).bearer_auth(KEY));
    let lent = lent.json()["value"].as_str().expect("a key").to_owned();
    let looked = Answer::to(client.get(url(&format!("/v1/streams/{id}?after=0"))).bearer_auth(KEY));
    assert_eq!(looked.status, 404);
    served.terminate();
    assert_eq!(served.code(), Some(0));

    let log = std::fs::read_to_string(&log).expect("a log");
    let found = |secret: &str| log.lines().find(|line| line.to_lowercase().contains(&secret.to_lowercase()));
    let secrets = SECRETS.iter().copied().chain([lent.as_str(), id.as_str()]);
    for secret in secrets.chain(words.iter().map(String::as_str)) {
        assert_eq!(found(secret), None, "{secret}");
    }

    // Every line is an object, and those of one request are joined by its id.
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
    let of = |id: &str| -> Vec<&str> {
        let names = |line: &&Value| {
            let spans = line["spans"].as_array();
            spans.is_some_and(|spans| spans.iter().any(|span| span["id"] == id))
        };
        lines.iter().filter(names).filter_map(|line| line["message"].as_str()).collect()
    };
    assert_eq!(of(answer.header("x-request-id")), ["answered"]);
    assert_eq!(of(streamed.header("x-request-id")), ["answered"]);
    let ended: Vec<&Value> =
        lines.iter().filter(|line| line["message"] == "a live stream has ended").collect();
    assert!(!ended.is_empty());
    for line in ended {
        let spans: Vec<&str> = line["spans"]
            .as_array()
            .expect("spans")
            .iter()
            .filter_map(|span| span["name"].as_str())
            .collect();
        assert_eq!(spans, ["request", "stream"], "{line}");
        let id = line["spans"][0]["id"].as_str().expect("an id");
        assert!(of(id).contains(&"answered"), "{line}");
    }
}
