//! The stream protocol's four descriptions say the same: the types, `asyncapi.json`, `STREAM.md` and the fixtures.
//!
//! The contract of the fixtures, which clients in other languages rely on: one file per message, named after the
//! sender and the type, with a further word for a variant; `conversation.json` is a whole exchange. Deliberately
//! absent: what strangers may send (see `stream_input.rs`), and how a server behaves, which its own tests show.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use whisperwire_protocol::error::{ErrorDetail, TABLE};
use whisperwire_protocol::openai::GapReason;
use whisperwire_protocol::stream::{
    Account, ClientMessage, Done, Encoding, Final, Partial, Ready, Received, ServerEvent, ServerMessage,
    Settings, Task, TimedWord, VERSION,
};

/// What the server can say. [`server_kind`] holds it to the type.
const SERVER: [&str; 12] = [
    "ready",
    "speech_started",
    "partial",
    "final",
    "speech_stopped",
    "utterance_done",
    "flushed",
    "gap",
    "lag",
    "pong",
    "error",
    "done",
];
/// What is not told again after a reconnect, and so has no number.
const UNNUMBERED: [&str; 5] = ["ready", "partial", "lag", "pong", "error"];
/// What a client can say. [`client_kind`] holds it to the type.
const CLIENT: [&str; 4] = ["configure", "flush", "end", "ping"];

#[test]
fn every_fixture_reads_and_writes_back_the_same() {
    let mut told = BTreeSet::new();
    for (name, value) in messages() {
        let kind = if name.starts_with("server_") {
            let event = server_event(&value);
            assert_eq!(again(&event), value, "{name}");
            format!("server_{}", server_kind(&event.message))
        } else {
            let message = ClientMessage::parse(&value.to_string()).expect("is understood");
            assert_eq!(parsed(&message.to_json()), value, "{name}");
            format!("client_{}", client_kind(&message))
        };
        assert!(name == kind || name.starts_with(&format!("{kind}_")), "{name} holds a {kind}");
        told.insert(kind);
    }
    let all = SERVER.map(|kind| format!("server_{kind}")).into_iter();
    let all: BTreeSet<String> = all.chain(CLIENT.map(|kind| format!("client_{kind}"))).collect();
    assert_eq!(told, all, "every message has a fixture");
}

#[test]
fn every_fixture_is_an_example_and_fits_its_schema() {
    let document = asyncapi();
    let mut examples = BTreeMap::new();
    for (message, body) in document["components"]["messages"].as_object().expect("an object") {
        for example in body["examples"].as_array().into_iter().flatten() {
            let name = example["name"].as_str().expect("has a name").to_owned();
            fits(&document, &body["payload"], &example["payload"])
                .unwrap_or_else(|why| panic!("{name}: {why}"));
            assert!(name.starts_with(message.as_str()), "{name} is an example of {message}");
            examples.insert(name, example["payload"].clone());
        }
    }
    assert_eq!(examples, messages());
}

#[test]
fn the_schemas_have_every_property_of_the_types_and_no_other() {
    let document = asyncapi();
    let mut kinds = BTreeSet::new();
    for event in everything() {
        let kind = server_kind(&event.message);
        let schema = &document["components"]["schemas"][format!("server_{kind}")];
        fits(&document, schema, &again(&event)).unwrap_or_else(|why| panic!("{kind}: {why}"));
        assert_eq!(server_event(&again(&event)), event);
        fills(&document, schema, &again(&event)).unwrap_or_else(|why| panic!("{kind}: {why}"));
        kinds.insert(kind);
    }
    assert_eq!(kinds, BTreeSet::from(SERVER));
    let configure = parsed(&ClientMessage::Configure(Box::new(all_settings())).to_json());
    let schema = &document["components"]["schemas"]["client_configure"];
    fits(&document, schema, &configure).expect("every setting is in the schema");
    fills(&document, schema, &configure).expect("every property of the schema is a setting");
    let channel = &document["channels"]["stream"];
    let mut query = keys(&channel["bindings"]["ws"]["query"]["properties"]);
    assert!(query.remove("stream") && query.remove("after"), "how to come back");
    assert_eq!(query, setting_names());
    let mut carried = keys(&channel["messages"]);
    assert!(carried.remove("audio"));
    assert_eq!(carried, keys(&json!(messages())).into_iter().filter(|name| carried_kind(name)).collect());
}

#[test]
fn the_schema_refuses_what_the_parser_refuses() {
    let document = asyncapi();
    let schema = &document["components"]["schemas"]["client_configure"];
    for (name, property) in
        document["components"]["schemas"]["settings"]["properties"].as_object().expect("an object")
    {
        for (bound, beyond) in [("minimum", -1.0), ("maximum", 1.0)] {
            let Some(limit) = property[bound].as_f64() else { continue };
            let with = |value: f64| {
                let value = if property["type"] == "integer" { json!(value as i64) } else { json!(value) };
                json!({"type": "configure", name: value})
            };
            for (message, allowed) in [(with(limit), true), (with(limit + beyond), false)] {
                let understood = ClientMessage::parse(&message.to_string()).is_ok();
                assert_eq!(understood, allowed, "{message}");
                assert_eq!(fits(&document, schema, &message).is_ok(), allowed, "{message}");
            }
        }
    }
    for (name, list) in [("encoding", &["pcm_s16be"]), ("task", &["summarize"])] {
        let mut values = document["components"]["schemas"]["settings"]["properties"][name]["enum"].clone();
        let values = values.as_array_mut().expect("a list");
        for value in values.iter() {
            ClientMessage::parse(&json!({"type": "configure", name: value}).to_string()).expect("is known");
        }
        for value in list {
            let message = json!({"type": "configure", name: value});
            assert!(fits(&document, schema, &message).is_err());
            assert!(ClientMessage::parse(&message.to_string()).is_err());
        }
    }
    let unknown = json!({"type": "configure", "langauge": "en"});
    assert!(fits(&document, schema, &unknown).is_err());
    let more = json!({"type": "pong", "later": 1});
    assert_eq!(document["components"]["schemas"]["server_pong"]["additionalProperties"], true);
    assert_eq!(server_event(&more).message, ServerMessage::Pong, "clients pass over what they do not know");
}

#[test]
fn a_newer_server_is_understood_as_far_as_it_goes() {
    for text in [
        r#"{"type": "unknown"}"#,
        r#"{"seq": 7, "type": "speaker_changed", "utterance": 2, "speaker": "A"}"#,
        r#"{"type": "", "reason": [1, {"deep": null}]}"#,
        r#"{"utterance": 3, "type": "Final"}"#,
    ] {
        let event: ServerEvent = serde_json::from_str(text).expect("a type that nobody knows is passed over");
        assert_eq!(event.message, ServerMessage::Unknown, "{text}");
        assert_eq!(event.seq, parsed(text)["seq"].as_u64(), "its number counts all the same");
    }
    let gap = json!({"seq": 1, "type": "gap", "start": 0.5, "end": 1.0, "reason": "weather"});
    let expected = ServerMessage::Gap { start: 0.5, end: 1.0, reason: GapReason::Unknown };
    assert_eq!(server_event(&gap).message, expected);
    for text in [r#"{"seq": 1}"#, r#"{"type": 7}"#, r#"{"type": "final"}"#, "[]", "7"] {
        assert!(serde_json::from_str::<ServerEvent>(text).is_err(), "{text} is no message of any version");
    }
}

#[test]
fn every_message_is_told_and_an_unknown_one_is_not() {
    let document = asyncapi();
    let messages = keys(&document["components"]["messages"]);
    let reason = &document["components"]["schemas"]["server_gap"]["properties"]["reason"]["description"];
    let reason = reason.as_str().expect("the reasons are described");
    assert!(!reason.contains("unknown"), "no gap is told with a reason that nobody knows");
    let named: BTreeSet<String> = SERVER.map(|kind| format!("server_{kind}")).into();
    let described: BTreeSet<String> =
        messages.into_iter().filter(|name| name.starts_with("server_")).collect();
    assert_eq!(described, named);
    for operation in ["hear", "configure", "flush", "end", "ping", "tell"] {
        let operation = &document["operations"][operation];
        for carried in [&operation["messages"], &operation["reply"]["messages"]] {
            for message in carried.as_array().into_iter().flatten() {
                resolved(&document, message);
            }
        }
    }
    let told = document["operations"]["tell"]["messages"].as_array().map(Vec::len);
    assert_eq!(told, Some(SERVER.len()), "every message is told");
}

#[test]
fn the_conversation_keeps_to_the_rules() {
    let lines = read(&folder().join("conversation.json"));
    let mut client = Client::default();
    let mut finals = BTreeMap::<u32, usize>::new();
    for line in lines.as_array().expect("a list") {
        match (line["from"].as_str(), line["audio_bytes"].as_u64()) {
            (Some("client"), Some(bytes)) => client.sends(bytes),
            (Some("client"), None) => {
                let message = ClientMessage::parse(&line["message"].to_string()).expect("is understood");
                assert_eq!(parsed(&message.to_json()), line["message"]);
                client.flushes += u32::from(message == ClientMessage::Flush);
            }
            (Some("server"), None) => {
                let event = server_event(&line["message"]);
                assert_eq!(again(&event), line["message"]);
                if let ServerMessage::Final(told) = &event.message {
                    *finals.entry(told.utterance).or_default() += 1;
                }
                client.hears(&event);
            }
            _ => panic!("neither said nor sent: {line}"),
        }
    }
    assert!(client.done, "the conversation comes to its end");
    assert_eq!(client.told, client.begun, "every utterance is done, the lost one too");
    assert_eq!(client.flushes, 0, "the flush was answered");
    assert_eq!(finals, BTreeMap::from([(0, 2), (2, 1)]), "a long utterance has two finals, a lost one none");
    assert_eq!(
        client.text,
        "The harbour opens at six in the morning, and the first boats come back from the night's fishing \
         before the market is awake. Thank you for listening."
    );
}

#[test]
fn the_prose_has_every_setting_message_and_close_code() {
    let prose = read_text(&root().join("STREAM.md"));
    for name in setting_names() {
        assert!(prose.contains(&format!("\n| `{name}` |")), "{name} is missing in the table of settings");
    }
    let shown: Vec<Value> = prose
        .split("```json\n")
        .skip(1)
        .map(|rest| parsed(rest.split("```").next().expect("split")))
        .collect();
    for (name, value) in messages() {
        assert!(shown.contains(&value), "{name} is not shown as it is");
    }
    for kind in SERVER {
        let numbered = if UNNUMBERED.contains(&kind) { "no" } else { "yes" };
        assert!(prose.contains(&format!("\n| `{kind}` | {numbered} |")), "{kind} is missing in the table");
    }
    for row in TABLE {
        let Some(close) = row.close else { continue };
        let line = prose.lines().find(|line| line.starts_with(&format!("| {close} |")));
        let line = line.unwrap_or_else(|| panic!("{close} is missing in the table of close codes"));
        assert!(line.contains(&format!("`{}`", row.name)), "{} is missing at {close}", row.name);
    }
    assert!(prose.contains(&format!("This is version {VERSION}.")));
    let document = asyncapi();
    let version = document["info"]["version"].as_str().expect("text");
    assert!(version.starts_with(&format!("{VERSION}.")), "{version}");
}

/// A client as STREAM.md describes it; it panics where the server breaks a rule.
#[derive(Default)]
struct Client {
    text: String,
    bytes: u64,
    messages: u64,
    last_seq: u64,
    lost: f64,
    /// Which utterance began last and has not stopped.
    open: Option<u32>,
    begun: u32,
    /// How many utterances are done: all finals of those before this one have been told.
    told: u32,
    /// Flushes that are not answered yet.
    flushes: u32,
    stable: String,
    done: bool,
}

impl Client {
    fn sends(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.messages += 1;
    }

    fn hears(&mut self, event: &ServerEvent) {
        assert!(!self.done, "nothing comes after done");
        if let Some(seq) = event.seq {
            assert_eq!(seq, self.last_seq + 1);
            self.last_seq = seq;
        }
        match &event.message {
            ServerMessage::Ready(ready) => {
                assert_eq!((ready.version, ready.last_seq), (VERSION, self.last_seq));
                let received =
                    Received { bytes: self.bytes, samples: self.bytes / 2, messages: self.messages };
                assert_eq!(ready.received, received);
            }
            ServerMessage::SpeechStarted { utterance, at } => {
                assert_eq!((self.open, *utterance), (None, self.begun));
                assert!(*at <= self.heard());
                self.open = Some(*utterance);
                self.begun += 1;
            }
            ServerMessage::Partial(partial) => {
                assert!(partial.end <= self.heard() && partial.utterance + 1 == self.begun);
                if !partial.is_empty() {
                    assert!(partial.stable.starts_with(&self.stable), "stable text only grows");
                    let shown = format!("{}{}", partial.stable, partial.tentative);
                    assert_eq!(shown.trim(), shown);
                }
                self.stable.clone_from(&partial.stable);
            }
            ServerMessage::Final(told) => {
                let kept = told.text.starts_with(&self.stable) || self.stable.starts_with(&told.text);
                assert!(kept, "a final keeps what was stable");
                assert!(told.start <= told.end && told.end <= self.heard());
                assert_eq!(
                    told.utterance, self.told,
                    "finals come in order, and before their utterance is done"
                );
                if let Some(words) = &told.words {
                    let words: Vec<&str> = words.iter().map(|word| word.word.as_str()).collect();
                    assert_eq!(words.join(" "), told.text);
                }
                let rest = self.stable.strip_prefix(&told.text).unwrap_or_default().trim_start();
                self.stable = rest.to_owned();
                if !self.text.is_empty() {
                    self.text.push(' ');
                }
                self.text += &told.text;
            }
            ServerMessage::SpeechStopped { utterance, at } => {
                assert_eq!(self.open.take(), Some(*utterance));
                assert!(*at <= self.heard());
            }
            ServerMessage::UtteranceDone { utterance } => {
                assert_eq!(*utterance, self.told);
                assert!(self.open != Some(*utterance) && *utterance < self.begun, "it has stopped");
                assert_eq!(self.stable, "", "what was stable has been told");
                self.told += 1;
            }
            ServerMessage::Flushed { at } => {
                assert_eq!((self.open, self.told), (None, self.begun), "everything before it was told");
                assert!(*at <= self.heard());
                self.flushes = self.flushes.checked_sub(1).expect("there was a flush");
            }
            ServerMessage::Gap { start, end, .. } => self.lost += end - start,
            ServerMessage::Done(done) => {
                let Account { received, decoded, silence, lost } = done.account;
                assert_eq!(received, decoded + silence + lost);
                assert_eq!(received, self.bytes / 2);
                assert_eq!(done.duration, self.heard());
                assert_eq!(lost as f64, (self.lost * 16_000.0).round());
                assert_eq!((self.open, self.told), (None, self.begun));
                self.done = true;
            }
            ServerMessage::Lag { .. } | ServerMessage::Pong | ServerMessage::Error { .. } => {}
            ServerMessage::Unknown => panic!("the conversation is of this version"),
        }
    }

    /// Seconds of audio that were sent.
    fn heard(&self) -> f64 {
        self.bytes as f64 / 32_000.0
    }
}

/// Without a wildcard: a new message does not compile until it has a name here, and so a fixture.
fn server_kind(message: &ServerMessage) -> &'static str {
    match message {
        ServerMessage::Ready(_) => SERVER[0],
        ServerMessage::SpeechStarted { .. } => SERVER[1],
        ServerMessage::Partial(_) => SERVER[2],
        ServerMessage::Final(_) => SERVER[3],
        ServerMessage::SpeechStopped { .. } => SERVER[4],
        ServerMessage::UtteranceDone { .. } => SERVER[5],
        ServerMessage::Flushed { .. } => SERVER[6],
        ServerMessage::Gap { .. } => SERVER[7],
        ServerMessage::Lag { .. } => SERVER[8],
        ServerMessage::Pong => SERVER[9],
        ServerMessage::Error { .. } => SERVER[10],
        ServerMessage::Done(_) => SERVER[11],
        ServerMessage::Unknown => panic!("a message of a newer server is never sent by this one"),
    }
}

fn client_kind(message: &ClientMessage) -> &'static str {
    match message {
        ClientMessage::Configure(_) => CLIENT[0],
        ClientMessage::Flush => CLIENT[1],
        ClientMessage::End => CLIENT[2],
        ClientMessage::Ping => CLIENT[3],
    }
}

/// Whether a fixture is named after its message alone, and is not a variant of it.
fn carried_kind(name: &str) -> bool {
    let kind = name.strip_prefix("server_").map(|kind| SERVER.contains(&kind));
    kind.or(name.strip_prefix("client_").map(|kind| CLIENT.contains(&kind))).unwrap_or(false)
}

/// Every message with every field filled in. Fields are named one by one: a new one does not compile until it
/// stands here, and so in the schema.
fn everything() -> Vec<ServerEvent> {
    let received = Received { bytes: 64, samples: 16, messages: 1 };
    let word = TimedWord { word: "quay.".to_owned(), start: 1.0, end: 1.5, confidence: 0.5 };
    let messages = vec![
        ServerMessage::Ready(Box::new(Ready {
            version: VERSION,
            stream: "s".to_owned(),
            settings: all_settings(),
            received,
            last_seq: 0,
            caveat: Some("Small.".to_owned()),
        })),
        ServerMessage::SpeechStarted { utterance: 0, at: 1.0 },
        ServerMessage::Partial(Partial {
            utterance: 0,
            stable: "a".to_owned(),
            tentative: " b".to_owned(),
            start: 1.0,
            end: 1.5,
        }),
        ServerMessage::Final(Final {
            utterance: 0,
            text: "quay.".to_owned(),
            start: 1.0,
            end: 1.5,
            confidence: 0.5,
            language: Some("en".to_owned()),
            words: Some(vec![word]),
        }),
        ServerMessage::SpeechStopped { utterance: 0, at: 2.0 },
        ServerMessage::UtteranceDone { utterance: 0 },
        ServerMessage::Flushed { at: 2.0 },
        ServerMessage::Gap { start: 1.0, end: 2.0, reason: GapReason::Overload },
        ServerMessage::Lag { seconds: 1.0 },
        ServerMessage::Pong,
        ServerMessage::Error {
            error: ErrorDetail {
                message: "No.".to_owned(),
                kind: "invalid_request_error".to_owned(),
                param: Some("type".to_owned()),
                code: Some("invalid_request".to_owned()),
            },
            fatal: true,
        },
        ServerMessage::Done(Done {
            duration: 2.0,
            account: Account { received: 32_000, decoded: 16_000, silence: 15_999, lost: 1 },
        }),
    ];
    let seq = |message: &ServerMessage| (!UNNUMBERED.contains(&server_kind(message))).then_some(1);
    messages.into_iter().map(|message| ServerEvent { seq: seq(&message), message }).collect()
}

/// Every setting, named one by one for the same reason.
fn all_settings() -> Settings {
    Settings {
        encoding: Some(Encoding::PcmF32le),
        sample_rate: Some(48_000),
        channels: Some(2),
        model: Some("small".to_owned()),
        language: Some("en".to_owned()),
        languages: Some(vec!["en".to_owned()]),
        prompt: Some("Minutes.".to_owned()),
        keywords: Some(vec!["quay".to_owned()]),
        task: Some(Task::Transcribe),
        partials: Some(true),
        words: Some(true),
        vad_threshold: Some(0.5),
        silence_ms: Some(500),
        prefix_ms: Some(300),
        grace: Some(30.0),
    }
}

fn setting_names() -> BTreeSet<String> {
    keys(&serde_json::to_value(all_settings()).expect("plain data"))
}

/// Whether a value fits a schema, as far as this document makes use of JSON Schema. Properties that the schema does
/// not name are always refused here: in our own examples they are mistakes.
fn fits(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let schema = resolved(document, schema);
    let kinds = match &schema["type"] {
        Value::Array(kinds) => kinds.clone(),
        kind => vec![kind.clone()],
    };
    if !kinds.iter().any(|kind| is_a(value, kind.as_str().unwrap_or("nothing"))) {
        return Err(format!("{value} is not of type {kinds:?}"));
    }
    let number = value.as_f64();
    let beyond = |bound: &str, sign: f64| matches!((number, schema[bound].as_f64()), (Some(n), Some(limit)) if (n - limit) * sign > 0.0);
    let listed = schema["enum"].as_array().is_none_or(|all| all.contains(value));
    let constant = schema.get("const").is_none_or(|only| only == value);
    if beyond("minimum", -1.0) || beyond("maximum", 1.0) || !listed || !constant {
        return Err(format!("{value} is not allowed"));
    }
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        value.get(name).ok_or_else(|| format!("{name} is missing"))?;
    }
    for (name, inner) in value.as_object().into_iter().flatten() {
        let property = schema["properties"].get(name).ok_or_else(|| format!("{name} is unknown"))?;
        fits(document, property, inner).map_err(|why| format!("{name}: {why}"))?;
    }
    value.as_array().into_iter().flatten().try_for_each(|item| fits(document, &schema["items"], item))
}

/// Whether a value has every property that a schema names.
fn fills(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let schema = resolved(document, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let inner = value.get(name).ok_or_else(|| format!("{name} is in the schema alone"))?;
        fills(document, property, inner)?;
    }
    value.as_array().into_iter().flatten().try_for_each(|item| fills(document, &schema["items"], item))
}

fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(path) => document.pointer(path.trim_start_matches('#')).expect("the reference leads somewhere"),
        None => schema,
    }
}

fn is_a(value: &Value, kind: &str) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        _ => false,
    }
}

/// Every fixture but the conversation, by its name.
fn messages() -> BTreeMap<String, Value> {
    let files = std::fs::read_dir(folder()).expect("the folder is there");
    let files = files.map(|file| file.expect("can be read").path());
    let named = files.map(|path| {
        let name = path.file_stem().expect("a file").to_string_lossy().into_owned();
        (name, read(&path))
    });
    named.filter(|(name, _)| name != "conversation").collect()
}

fn server_event(value: &Value) -> ServerEvent {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{value}: {error}"))
}

/// As it goes over the wire. By way of text, for a shorter number type widens on its way into a [`Value`].
fn again(event: &ServerEvent) -> Value {
    parsed(&event.to_json())
}

fn asyncapi() -> Value {
    read(&root().join("asyncapi.json"))
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().expect("an object").keys().cloned().collect()
}

fn read(path: &Path) -> Value {
    parsed(&read_text(path))
}

fn read_text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn folder() -> PathBuf {
    root().join("fixtures/stream")
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
