//! The live client against a server that hangs up, refuses, repeats itself and talks nonsense.

use whisperwire_protocol::error::{ErrorCode, ErrorDetail};
use whisperwire_protocol::stream::{Done, Partial};

use super::*;
use crate::mock::{Heard, Mock, Peer, said};

fn resumable() -> Settings {
    Settings { grace: Some(20.0), ..Settings::default() }
}

fn done() -> ServerMessage {
    ServerMessage::Done(Done::default())
}

fn numbered(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n * 7 % 251) as u8).collect()
}

async fn end_of(stream: &mut LiveStream) -> LiveError {
    loop {
        match stream.receiver.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => return error,
            None => panic!("the stream ended well"),
        }
    }
}

#[tokio::test]
async fn a_stream_from_its_beginning_to_its_end() {
    let mock = Mock::new(|_, peer| async {
        let mut talk = peer.accept().await;
        assert_eq!(talk.authorization, "Bearer key-1");
        assert_eq!(talk.query, "grace=0.0&language=de");
        talk.ready(0, 0, 0.0).await;
        assert_eq!(talk.hear_bytes(5).await, b"abcde");
        assert_eq!(talk.hear().await, Some(Heard::Said(ClientMessage::Flush)));
        let words = Settings { words: Some(true), ..Settings::default() };
        assert_eq!(talk.hear().await, Some(Heard::Said(ClientMessage::Configure(Box::new(words)))));
        assert_eq!(talk.hear().await, Some(Heard::Said(ClientMessage::Ping)));
        talk.say(None, ServerMessage::Pong).await;
        talk.say_raw(r#"{"type":"weather","sun":1}"#).await;
        talk.say(1, said(0, "Hallo.", 0.0, 1.0)).await;
        assert_eq!(talk.hear().await, Some(Heard::Said(ClientMessage::End)));
        talk.say(2, done()).await;
        talk.close(1000, "").await;
    })
    .await;
    let settings = Settings { language: Some("de".into()), grace: Some(0.0), ..Settings::default() };
    let mut stream = LiveClient::connect(&mock.address, Some("key-1"), &settings).await.expect("a stream");
    assert_eq!(stream.ready.stream, "s1");
    stream.sender.audio(b"abc".to_vec()).await.expect("sent");
    assert_eq!(stream.sender.try_audio(b"de".to_vec()), Tried::Taken);
    stream.sender.flush().await.expect("sent");
    let words = Settings { words: Some(true), ..Settings::default() };
    stream.sender.configure(words).await.expect("sent");
    stream.sender.ping().await.expect("sent");
    stream.sender.end().await.expect("sent");
    assert!(matches!(stream.sender.audio(b"f".to_vec()).await, Err(LiveError::Over)));
    assert_eq!(stream.sender.try_audio(b"f".to_vec()), Tried::Over);
    let rest = stream.receiver.rest().await.expect("it ended well");
    assert_eq!(rest, [ServerMessage::Pong, said(0, "Hallo.", 0.0, 1.0), done()]);
}

/// The first two connections break, each time with less at the server than was sent; in between there is no room.
async fn breaks_twice(number: usize, peer: Peer) {
    let all = numbered(3_000);
    if number == 1 {
        return peer.refuse(503, "retry-after: 0\r\n", "").await;
    }
    let mut talk = peer.accept().await;
    match number {
        0 => {
            talk.ready(0, 0, 20.0).await;
            assert_eq!(talk.hear_bytes(1_000).await, all[..1_000]);
            talk.say(1, said(0, "One", 0.0, 1.0)).await;
            talk.say(None, ServerMessage::Partial(Partial::default())).await;
        }
        2 => {
            assert_eq!(talk.query, "stream=s1&after=1");
            talk.ready(600, 2, 20.0).await;
            talk.say(1, said(0, "One", 0.0, 1.0)).await;
            talk.say(2, said(0, "two", 1.0, 2.0)).await;
            assert_eq!(talk.hear_bytes(1_400).await, all[600..2_000]);
        }
        _ => {
            assert_eq!(talk.query, "stream=s1&after=2");
            talk.ready(1_500, 2, 20.0).await;
            assert_eq!(talk.hear_bytes(1_500).await, all[1_500..]);
            assert_eq!(talk.hear().await, Some(Heard::Said(ClientMessage::End)));
            talk.say(3, said(0, "three.", 2.0, 3.0)).await;
            talk.say(4, done()).await;
            talk.close(1000, "").await;
        }
    }
}

#[tokio::test]
async fn a_connection_that_breaks_twice_loses_and_doubles_nothing() {
    let mock = Mock::new(breaks_twice).await;
    let mut stream = LiveClient::connect(&mock.address, None, &resumable()).await.expect("a stream");
    for piece in numbered(3_000).chunks(1_000) {
        stream.sender.audio(piece.to_vec()).await.expect("sent");
    }
    stream.sender.end().await.expect("sent");
    let all = stream.receiver.rest().await.expect("it ended well");
    let texts: Vec<&str> = all
        .iter()
        .filter_map(|message| match message {
            ServerMessage::Final(text) => Some(text.text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(texts, ["One", "two", "three."]);
    assert_eq!(all.iter().filter(|message| matches!(message, ServerMessage::Ready(_))).count(), 2);
    assert_eq!(mock.connections(), 4);
}

#[tokio::test]
async fn audio_is_taken_while_there_is_no_connection() {
    let mock = Mock::new(|number, peer| async move {
        match number {
            0 => peer.accept().await.ready(0, 0, 20.0).await,
            1..4 => drop(peer),
            _ => {
                let mut talk = peer.accept().await;
                talk.ready(0, 0, 20.0).await;
                assert_eq!(talk.hear_bytes(200 * 640).await, numbered(200 * 640));
                talk.say(1, done()).await;
                talk.close(1000, "").await;
            }
        }
    })
    .await;
    let mut stream = LiveClient::connect(&mock.address, None, &resumable()).await.expect("a stream");
    // More chunks than the channel between the halves holds: they end up in the queue of the driver.
    for chunk in numbered(200 * 640).chunks(640) {
        stream.sender.audio(chunk.to_vec()).await.expect("sent");
    }
    assert_eq!(stream.receiver.rest().await.expect("it ended well").last(), Some(&done()));
    assert_eq!(mock.connections(), 5);
}

#[tokio::test]
async fn there_is_no_way_back_without_grace_or_to_a_stream_that_is_over() {
    let mock = Mock::new(|_, peer| async { peer.accept().await.ready(0, 0, 0.0).await }).await;
    let mut stream = LiveClient::connect(&mock.address, None, &Settings::default()).await.expect("a stream");
    let error = end_of(&mut stream).await;
    assert!(matches!(error, LiveError::Lost(_)), "{error}");
    assert_eq!(mock.connections(), 1);

    let gone = r#"{"error":{"message":"This stream is over.","type":"","param":null,"code":"not_found"}}"#;
    let mock = Mock::new(move |number, peer| async move {
        match number {
            0 => peer.accept().await.ready(0, 0, 20.0).await,
            _ => peer.refuse(404, "", gone).await,
        }
    })
    .await;
    let mut stream = LiveClient::connect(&mock.address, None, &resumable()).await.expect("a stream");
    let error = end_of(&mut stream).await;
    assert_eq!(error.to_string(), "This stream is over. (HTTP 404)");
    assert_eq!(error.code(), Some(ErrorCode::NotFound));
}

#[tokio::test]
async fn the_grace_is_the_servers_and_it_ends() {
    let mock = Mock::new(|number, peer| async move {
        if number == 0 {
            peer.accept().await.ready(0, 0, 0.4).await;
        }
    })
    .await;
    let started = std::time::Instant::now();
    let mut stream = LiveClient::connect(&mock.address, None, &resumable()).await.expect("a stream");
    let error = end_of(&mut stream).await;
    assert!(matches!(error, LiveError::Lost(_) | LiveError::Unreachable { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5), "the server's 0.4 s count, not the 20 asked for");
    assert!(mock.connections() >= 2);
}

#[tokio::test]
async fn audio_that_is_not_kept_any_more_is_missed() {
    let mock = Mock::new(|number, peer| async move {
        let mut talk = peer.accept().await;
        talk.ready(0, 0, 20.0).await;
        if number == 0 {
            talk.hear_bytes(70 * 32_000).await;
        } else {
            talk.hear().await;
        }
    })
    .await;
    let mut stream = LiveClient::connect(&mock.address, None, &resumable()).await.expect("a stream");
    for _ in 0..70 {
        stream.sender.audio(vec![0; 32_000]).await.expect("sent");
    }
    let error = end_of(&mut stream).await;
    assert!(matches!(error, LiveError::TooFarBehind { missing: 320_000 }), "{error}");
}

#[tokio::test]
async fn refusals_say_what_the_server_said() {
    let full = r#"{"error":{"message":"All slots are taken.","type":"server_error","param":null,"code":"overloaded"}}"#;
    let mock = Mock::new(move |number, peer| async move {
        match number {
            0 => peer.refuse(503, "Retry-After: 7\r\n", full).await,
            1 => peer.refuse(401, "", "<html>").await,
            2 => peer.refuse(200, "", "hello").await,
            _ => drop(peer),
        }
    })
    .await;
    let connect = || async {
        LiveClient::connect(&mock.address, None, &Settings::default()).await.expect_err("refused")
    };
    let LiveError::Refused(refusal) = connect().await else { panic!("a refusal was due") };
    assert_eq!((refusal.status, refusal.retry_after), (503, Some(Duration::from_secs(7))));
    assert_eq!(
        (refusal.to_string().as_str(), refusal.code()),
        ("All slots are taken. (HTTP 503)", Some(ErrorCode::Overloaded))
    );
    assert_eq!(connect().await.code(), Some(ErrorCode::Unauthorized));
    assert!(matches!(connect().await, LiveError::Refused(_)));
    assert!(matches!(connect().await, LiveError::Unreachable { .. }));

    let wrong = LiveClient::connect("http://127.0.0.1:1", None, &Settings::default()).await;
    assert!(matches!(wrong, Err(LiveError::Unreachable { .. })));
    let secure = mock.address.replace("http", "https");
    let wrong = LiveClient::connect(&secure, None, &Settings::default()).await;
    assert!(matches!(wrong, Err(LiveError::Unreachable { .. })), "no TLS there, and no panic here");
}

#[tokio::test]
async fn a_close_code_is_an_error_of_the_table() {
    let mock = Mock::new(|number, peer| async move {
        let mut talk = peer.accept().await;
        talk.ready(0, 0, 20.0).await;
        match number {
            0 => {
                let error = ErrorDetail {
                    message: "Nobody spoke for 30 s.".into(),
                    kind: "invalid_request_error".into(),
                    param: None,
                    code: Some("idle_timeout".into()),
                };
                talk.say(None, ServerMessage::Error { error, fatal: true }).await;
                talk.close(4408, "idle_timeout").await;
            }
            1 => talk.close(4409, "a newer connection").await,
            2 => talk.close(1001, "").await,
            _ => talk.say_raw("{\"type\":\"final\"}").await,
        }
    })
    .await;
    let mut ends = Vec::new();
    for _ in 0..4 {
        let mut stream = LiveClient::connect(&mock.address, None, &resumable()).await.expect("a stream");
        let error = end_of(&mut stream).await;
        ends.push((error.code(), error.to_string()));
    }
    assert_eq!(ends[0], (Some(ErrorCode::IdleTimeout), "Nobody spoke for 30 s. (close code 4408)".into()));
    assert_eq!(ends[1], (Some(ErrorCode::Conflict), "a newer connection (close code 4409)".into()));
    assert_eq!(ends[2].0, Some(ErrorCode::Draining));
    assert!(ends[3].1.starts_with("The answer of the server is not what"), "{}", ends[3].1);
    assert_eq!(mock.connections(), 4, "none of these is a reason to come back");
}

#[tokio::test]
async fn letting_go_closes_the_connection_properly() {
    let (told, mut heard) = mpsc::channel(1);
    let mock = Mock::new(move |_, peer| {
        let told = told.clone();
        async move {
            let mut talk = peer.accept().await;
            talk.ready(0, 0, 0.0).await;
            let mut count = 0;
            while let Some(Heard::Audio(bytes)) = talk.hear().await {
                count += bytes.len();
            }
            told.send(count).await.expect("the test waits");
        }
    })
    .await;
    let mut stream = LiveClient::connect(&mock.address, None, &Settings::default()).await.expect("a stream");
    stream.sender.audio(vec![0; 10]).await.expect("sent");
    drop(stream);
    assert_eq!(heard.recv().await, Some(10));
}

#[test]
fn every_message_of_the_protocol_is_read() {
    let mut kinds = Vec::new();
    for (name, text) in fixtures() {
        if name.starts_with("server_") {
            let event = connection::parse(&text).expect("readable");
            assert_ne!(event.message, ServerMessage::Unknown, "{name}");
            kinds.push(serde_json::to_value(&event).expect("plain data")["type"].to_string());
            let again: serde_json::Value = serde_json::from_str(&event.to_json()).expect("JSON");
            assert_eq!(again, serde_json::from_str::<serde_json::Value>(&text).expect("JSON"), "{name}");
        } else if name.starts_with("client_") {
            let message = ClientMessage::parse(&text).expect("readable");
            assert_eq!(ClientMessage::parse(&message.to_json()), Ok(message), "{name}");
        }
    }
    kinds.sort();
    kinds.dedup();
    assert!(kinds.len() >= 12, "one of each kind: {kinds:?}");
}

#[derive(Clone, serde::Deserialize)]
struct Turn {
    from: String,
    message: Option<serde_json::Value>,
    audio_bytes: Option<usize>,
}

#[tokio::test]
async fn the_conversation_of_the_protocol_is_held() {
    let (_, text) =
        fixtures().into_iter().find(|(name, _)| name == "conversation.json").expect("it is there");
    let turns: Vec<Turn> = serde_json::from_str(&text).expect("a list of turns");
    let (theirs, ours) = (turns.clone(), turns);
    let mock = Mock::new(move |_, peer| {
        let turns = theirs.clone();
        async move {
            let mut talk = peer.accept().await;
            for turn in turns {
                match (turn.from.as_str(), turn.message, turn.audio_bytes) {
                    ("server", Some(message), _) => talk.say_raw(&message.to_string()).await,
                    (_, Some(message), _) => {
                        let wanted = ClientMessage::parse(&message.to_string()).expect("a message");
                        assert_eq!(talk.hear().await, Some(Heard::Said(wanted)));
                    }
                    (_, None, bytes) => {
                        let bytes = bytes.expect("a turn holds something");
                        assert_eq!(talk.hear_bytes(bytes).await.len(), bytes);
                    }
                }
            }
            talk.close(1000, "").await;
        }
    })
    .await;
    let mut stream = LiveClient::connect(&mock.address, None, &Settings::default()).await.expect("a stream");
    let mut events = 1;
    for turn in &ours {
        match (turn.from.as_str(), &turn.message, turn.audio_bytes) {
            ("client", Some(message), _) => match ClientMessage::parse(&message.to_string()) {
                Ok(ClientMessage::Configure(settings)) => stream.sender.configure(*settings).await,
                Ok(ClientMessage::Flush) => stream.sender.flush().await,
                Ok(ClientMessage::Ping) => stream.sender.ping().await,
                _ => stream.sender.end().await,
            }
            .expect("sent"),
            ("client", None, bytes) => {
                stream.sender.audio(vec![0; bytes.expect("a turn holds something")]).await.expect("sent");
            }
            _ => {}
        }
    }
    let wanted: Vec<&serde_json::Value> =
        ours.iter().filter(|turn| turn.from == "server").flat_map(|turn| &turn.message).collect();
    assert_eq!(&serde_json::to_value(&stream.ready).expect("plain data")["stream"], &wanted[0]["stream"]);
    while let Some(event) = stream.receiver.next().await {
        let event: serde_json::Value =
            serde_json::from_str(&event.expect("no error").to_json()).expect("JSON");
        assert_eq!(&event, wanted[events]);
        events += 1;
    }
    assert_eq!(events, wanted.len());
}

/// The protocol's examples: name and text.
fn fixtures() -> Vec<(String, String)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../protocol/fixtures/stream");
    let files = std::fs::read_dir(folder).expect("the protocol has examples");
    files
        .map(|file| file.expect("an entry").path())
        .filter(|file| file.extension().is_some_and(|ending| ending == "json"))
        .map(|file| {
            let text = std::fs::read_to_string(&file).expect("readable");
            (file.file_name().expect("a name").to_string_lossy().into_owned(), text)
        })
        .collect()
}
