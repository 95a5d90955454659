//! OpenAI's Realtime API on the whole server: what no client package shows. That the packages understand what is said
//! is their own tests' business (`tests/clients`).

use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message, http};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::{SECOND, s16le};
use crate::client::{Answer, PATIENCE, runtime, until};
use crate::house::TestHouse;
use crate::program::{Served, whisperwire};
use crate::sound::{quiet, scripted, speech};

/// A client that reads when it is asked to. Dropping it drops the connection, without a word to the server.
pub(crate) struct Session {
    socket: WebSocketStream<TcpStream>,
}

impl Session {
    pub(crate) async fn open(
        address: SocketAddr,
        query: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, http::Response<Option<Vec<u8>>>> {
        let mut request =
            format!("ws://{address}/v1/realtime?{query}").into_client_request().expect("a request");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("visible text"));
        }
        let tcp = TcpStream::connect(address).await.expect("somebody listens");
        match client_async(request, tcp).await {
            Ok((socket, _)) => Ok(Self { socket }),
            Err(Error::Http(response)) => Err(*response),
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) async fn say(&mut self, message: Value) {
        self.socket.send(Message::text(message.to_string())).await.expect("it is sent");
    }

    /// 16 kHz, in chunks of 100 ms.
    pub(crate) async fn speak(&mut self, pcm: &[f32]) {
        for chunk in s16le(pcm).chunks(3_200) {
            self.say(json!({"type": "input_audio_buffer.append", "audio": STANDARD.encode(chunk)})).await;
        }
    }

    /// The next event, or the code that the server closes with.
    pub(crate) async fn hear(&mut self) -> Result<Value, u16> {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("an event in time");
            match message {
                Some(Ok(Message::Text(text))) => {
                    return Ok(serde_json::from_str(&text).expect("events are JSON"));
                }
                Some(Ok(Message::Close(frame))) => return Err(frame.map_or(0, |frame| frame.code.into())),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(0),
            }
        }
    }

    /// Everything up to an event of this type.
    pub(crate) async fn until(&mut self, kind: &str) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            let event = self.hear().await.unwrap_or_else(|code| panic!("closed with {code}: {events:?}"));
            let found = event["type"] == kind;
            events.push(event);
            if found {
                return events;
            }
        }
    }
}

fn settings(turn_detection: Value) -> Value {
    json!({"type": "session.update", "session": {"type": "transcription", "audio": {"input": {
        "format": {"type": "audio/pcm", "rate": 16000}, "turn_detection": turn_detection}}}})
}

const COMPLETED: &str = "conversation.item.input_audio_transcription.completed";

fn deltas(events: &[Value]) -> String {
    events.iter().filter_map(|event| event["delta"].as_str()).collect()
}

#[test]
fn what_is_said_is_told_once_whoever_ends_the_turn() {
    let house = TestHouse::start(&[]);
    let pcm = speech(4.0);
    runtime().block_on(async {
        for turns in [json!({"type": "server_vad", "silence_duration_ms": 400}), Value::Null] {
            let mut session = Session::open(house.address, "intent=transcription", &[]).await.expect("room");
            assert_eq!(session.hear().await.expect("an event")["type"], "session.created");
            session.say(settings(turns.clone())).await;
            assert_eq!(session.hear().await.expect("an event")["type"], "session.updated");
            session.speak(&pcm).await;
            session.speak(&quiet(1.0)).await;
            if turns.is_null() {
                session.say(json!({"type": "input_audio_buffer.commit"})).await;
            }
            let events = session.until(COMPLETED).await;
            let transcript = events[events.len() - 1]["transcript"].as_str().expect("a text");
            assert_eq!((transcript, deltas(&events).as_str()), (scripted(&pcm).as_str(), transcript));
        }
    });
}

#[test]
fn a_server_that_stops_finishes_what_was_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let flags = ["serve", "--engine", "script", "--port", "0", "--script-delay-ms", "100"];
    let served = Served::start(whisperwire(folder.path()).args(flags));
    let pcm = speech(3.0);
    runtime().block_on(async {
        let mut session = Session::open(served.address, "model=whisper-1", &[]).await.expect("room");
        session.say(settings(json!({"type": "server_vad"}))).await;
        session.speak(&pcm).await;
        session.until("input_audio_buffer.speech_started").await;
        // All that was sent has been taken once a later message is answered.
        session.say(json!({"type": "conversation.item.retrieve", "item_id": "nobody"})).await;
        let mut events = session.until("error").await;
        served.terminate();
        let code = loop {
            match session.hear().await {
                Ok(event) => events.push(event),
                Err(code) => break code,
            }
        };
        let last = events.iter().find(|event| event["type"] == COMPLETED).expect("the item is finished");
        assert_eq!((last["transcript"].as_str(), code), (Some(scripted(&pcm).as_str()), 1012));
    });
    assert_eq!(served.code(), Some(0));
}

#[test]
fn a_full_house_says_so_and_a_client_that_vanishes_makes_room() {
    let house = TestHouse::start(&["--max-streams", "1", "--script-delay-ms", "200"]);
    runtime().block_on(async {
        let mut session = Session::open(house.address, "", &[]).await.expect("room");
        session.say(settings(json!({"type": "server_vad"}))).await;
        session.speak(&speech(5.0)).await;
        session.until("input_audio_buffer.speech_started").await;
        let Err(refused) = Session::open(house.address, "", &[]).await else { panic!("there was room") };
        assert_eq!(refused.status(), 503);
        assert!(refused.headers().contains_key("retry-after"));
        let body: Value = serde_json::from_slice(refused.body().as_deref().expect("a body")).expect("JSON");
        assert_eq!(body["error"]["code"], "overloaded");
        drop(session);
    });
    until("the slot is free", SECOND * 5, || house.health()["streams_followed"] == 0);
    let again = runtime().block_on(Session::open(house.address, "", &[]));
    assert!(again.is_ok());
}

#[test]
fn a_lent_key_opens_sessions_with_its_settings_and_nothing_else() {
    let house = TestHouse::start(&["--api-key", "mine"]);
    let lend = || house.client.post(house.url("/v1/realtime/client_secrets"));
    assert_eq!(Answer::to(lend().body("{}")).status, 401);
    let body = json!({"session": {"type": "transcription", "audio": {"input": {
        "transcription": {"model": "whisper-1", "prompt": "Ahoy."}}}}});
    let lent = Answer::to(lend().bearer_auth("mine").body(body.to_string()));
    let key = lent.json()["value"].as_str().expect("a key").to_owned();
    for request in [lend().body("{}"), house.client.get(house.url("/v1/models"))] {
        assert_eq!(Answer::to(request.bearer_auth(&key)).status, 401, "for sessions alone");
    }
    runtime().block_on(async {
        let offered = format!("realtime, openai-insecure-api-key.{key}");
        for header in [("authorization", format!("Bearer {key}")), ("sec-websocket-protocol", offered)] {
            let mut session =
                Session::open(house.address, "", &[(header.0, &header.1)]).await.expect("it is a key");
            let created = session.hear().await.expect("an event");
            assert_eq!(created["session"]["audio"]["input"]["transcription"]["prompt"], "Ahoy.");
        }
        let wrong = [("authorization", "Bearer ek_nobody")];
        let Err(refused) = Session::open(house.address, "", &wrong).await else { panic!("no key") };
        assert_eq!(refused.status(), 401);
    });
    let short = json!({"expires_after": {"anchor": "created_at", "seconds": 9}});
    let refused = Answer::to(lend().bearer_auth("mine").body(short.to_string()));
    refused.refused(400, "invalid_value", Some("expires_after.seconds"));
}

#[test]
fn nonsense_is_told_and_changes_nothing() {
    let house = TestHouse::start(&[]);
    let pcm = speech(2.0);
    runtime().block_on(async {
        let mut session =
            Session::open(house.address, "", &[("openai-beta", "realtime=v1")]).await.expect("room");
        assert_eq!(session.hear().await.expect("an event")["type"], "transcription_session.created");
        session.say(settings(Value::Null)).await;
        session.until("session.updated").await;
        for nonsense in ["", "{", "[]", "{}", r#"{"type":"input_audio_buffer.append","audio":"!!!!"}"#] {
            session.socket.send(Message::text(nonsense)).await.expect("it is sent");
            assert_eq!(session.hear().await.expect("an event")["type"], "error", "{nonsense}");
        }
        session.socket.send(Message::binary(vec![0; 640])).await.expect("it is sent");
        assert_eq!(session.hear().await.expect("an event")["type"], "error");
        session.speak(&pcm).await;
        session.say(json!({"type": "input_audio_buffer.commit"})).await;
        let events = session.until(COMPLETED).await;
        assert_eq!(deltas(&events), scripted(&pcm));
        session.socket.close(None).await.expect("it closes");
        assert!(session.hear().await.is_err());
    });
}

/// A session as clients open it that name their model in its settings, and not in the address.
#[test]
fn a_session_may_change_to_another_model() {
    let house = TestHouse::start(&["--script-models=second=10,third=10"]);
    let model = |name: &str| {
        let mut update = settings(json!({"type": "server_vad", "silence_duration_ms": 300}));
        update["session"]["audio"]["input"]["transcription"] = json!({"model": name});
        update
    };
    let active = async |id: &str| {
        let answer = Answer::fetch(house.client.get(house.url(&format!("/v1/models/{id}")))).await;
        answer.json()["whisperwire"]["active"].as_u64().expect("a number")
    };
    let (pcm, pause) = (speech(2.0), quiet(1.0));
    runtime().block_on(async {
        let mut session = Session::open(house.address, "intent=transcription", &[]).await.expect("room");
        session.until("session.created").await;
        assert_eq!((active("script").await, active("second").await), (1, 0));
        session.say(model("second")).await;
        let updated = session.until("session.updated").await.pop().expect("at least one");
        assert_eq!(updated["session"]["audio"]["input"]["transcription"]["model"], "second");
        session.speak(&[&pcm[..], &pause].concat()).await;
        let heard = session.until(COMPLETED).await.pop().expect("at least one");
        assert_eq!(heard["transcript"], scripted(&pcm));
        assert_eq!((active("script").await, active("second").await), (0, 1));

        // What is not there changes nothing, and the session goes on.
        session.say(model("nobody")).await;
        let error = session.until("error").await.pop().expect("at least one");
        assert_eq!(error["error"]["code"], "model_not_found");
        session.say(model("third")).await;
        session.until("session.updated").await;
        session.speak(&[&pcm[..], &pause].concat()).await;
        session.until(COMPLETED).await;
        assert_eq!((active("second").await, active("third").await), (0, 1));
    });
}
