//! Clients that go, that say nothing, that do not read, and that send faster than anybody can listen: none of them
//! keeps a slot, and none holds up the others.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio_tungstenite::tungstenite::Message;
use whisperwire_protocol::stream::ServerMessage;

use super::events::Events;
use super::socket::{Socket, shake_hands};
use super::{SECOND, open_body, s16le, talk};
use crate::client::{Answer, runtime, until};
use crate::house::TestHouse;
use crate::program::{Served, whisperwire};
use crate::sound::{RATE, scripted, speech};

/// One second of sound takes a second of the only worker.
const SLOW: &[&str] = &["--script-delay-ms", "1000", "--workers", "1", "--max-streams", "4"];

/// Streams that are open, that hold a slot, and workers that are busy.
fn open(house: &TestHouse) -> [Value; 3] {
    let health = house.health();
    ["streams", "streams_followed", "workers_busy"].map(|name| health[name].clone())
}

/// Lets `leave` drop a client and checks that nothing of it is left after a second.
fn leaves(house: &TestHouse, how: &str, leave: impl FnOnce()) {
    until("somebody is there, and the engine busy", Duration::from_secs(20), || {
        open(house).iter().all(|count| *count == 1)
    });
    leave();
    until(how, SECOND, || open(house).iter().all(|count| *count == 0));
}

#[test]
fn a_client_that_vanishes_frees_its_slot_within_a_second() {
    let house = TestHouse::start(SLOW);
    let speaking = async || {
        let mut socket = Socket::open(&house, "").await;
        socket.audio_in(&s16le(&speech(12.0)), 3_200).await;
        socket
    };
    let socket = runtime().block_on(speaking());
    leaves(&house, "the end of a connection without a close frame", || drop(socket));
    let socket = runtime().block_on(speaking()).breaking();
    leaves(&house, "a reset", || drop(socket));
    for code in [1000, 1001, 4000] {
        let socket = runtime().block_on(speaking());
        leaves(&house, "a close frame", || {
            // Without a grace "back soon" is as good as any.
            assert_eq!(runtime().block_on(socket.close(code)).close, Some(code));
        });
    }
    // While it is held up, because more comes than can be heard.
    let mut socket = runtime().block_on(speaking());
    let flood = s16le(&speech(130.0));
    runtime().block_on(async {
        for _ in 0..3 {
            let sending = socket.send(Message::binary(flood.clone()));
            drop(tokio::time::timeout(Duration::from_millis(200), sending).await);
        }
    });
    leaves(&house, "the end of a connection that was held up", || drop(socket));
}

#[test]
fn so_does_one_that_vanishes_from_an_exchange() {
    let house = TestHouse::start(SLOW);
    let (body, events) = runtime().block_on(async {
        let (pieces, body) = open_body();
        let url = house.url("/v1/stream");
        let events = Events::of(house.client.post(url).header("content-type", "audio/pcm").body(body)).await;
        pieces.send(s16le(&speech(12.0)).into()).await.expect("it is sent");
        (pieces, events)
    });
    leaves(&house, "hanging up on an exchange", || drop((body, events)));
}

#[test]
fn a_client_that_never_writes() {
    let house = TestHouse::start(&["--idle-timeout", "1"]);
    runtime().block_on(async {
        let silent = Socket::open(&house, "").await.rest().await;
        silent.broke("idle_timeout", 4408);
        let waits = Socket::open(&house, "grace=30").await.rest().await;
        waits.broke("idle_timeout", 4408);

        // Its connection is of no use after an answer that did not wait for the request.
        let client =
            reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("a client");
        let (pieces, body) = open_body();
        let request = client.post(house.url("/v1/stream")).header("content-type", "audio/pcm");
        let story = Events::of(request.body(body)).await.rest().await;
        let idle = ("idle_timeout".to_owned(), None, true);
        assert_eq!(story.errors(), std::slice::from_ref(&idle));
        drop(pieces);

        let created = Answer::fetch(house.client.post(house.url("/v1/streams"))).await;
        let events = house.url(&format!("{}/events", created.header("location")));
        let story = Events::of(house.client.get(events)).await.rest().await;
        assert_eq!(story.errors(), [idle]);
    });
    assert_eq!(open(&house)[0], 0);
}

#[test]
fn a_ping_keeps_a_silent_stream() {
    let house = TestHouse::start(&["--idle-timeout", "1"]);
    runtime().block_on(async {
        let (mut text, mut frame) = (Socket::open(&house, "").await, Socket::open(&house, "").await);
        for _ in 0..8 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            text.taken().await;
            frame.send(Message::Ping(Default::default())).await;
        }
        for mut socket in [text, frame] {
            socket.audio(&s16le(&speech(2.0))).await;
            let story = socket.end().await.whole();
            assert_eq!((story.close, story.text()), (Some(1000), scripted(&speech(2.0))));
        }
    });
}

#[test]
fn a_client_that_is_held_up_is_not_idle() {
    let flags = ["--script-delay-ms", "150", "--workers", "1", "--idle-timeout", "1", "--max-streams", "4"];
    let house = TestHouse::start(&flags);
    let pcm = speech(50.0);
    let story = runtime().block_on(async {
        let mut socket = Socket::open(&house, "partials=false").await;
        socket.audio_in(&s16le(&pcm), 100_000).await;
        socket.end().await.whole()
    });
    assert_eq!((story.close, story.text()), (Some(1000), scripted(&pcm)));
    // It is told why, and when it is over.
    let lags = story.lags();
    assert!(lags.iter().any(|seconds| *seconds > 5.0), "{lags:?}");
}

#[test]
fn a_client_that_never_reads() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = Served::start(whisperwire(folder.path()).args([
        "serve",
        "--engine",
        "script",
        "--port",
        "0",
        "--max-streams",
        "4",
    ]));
    let before = served.resident();
    runtime().block_on(async {
        let tcp = TcpSocket::new_v4().expect("a socket");
        tcp.set_recv_buffer_size(4_096).expect("an option of the socket");
        let tcp = tcp.connect(served.address).await.expect("somebody listens");
        let Ok(bare) = shake_hands(tcp, "words=true", &[]).await else { panic!("no upgrade") };
        let (mut sink, _unread) = bare.split();
        // Each of these is answered with as much, in the midst of audio that is answered too.
        let prompt = json!({"type": "configure", "prompt": "x".repeat(60_000)}).to_string();
        let audio = s16le(&talk(60.0, 2.0));
        let flood = async {
            loop {
                let sent = sink.feed(Message::text(prompt.clone())).await.is_ok()
                    && sink.send(Message::binary(audio.clone())).await.is_ok();
                if !sent {
                    return;
                }
            }
        };
        let others = async {
            let pcm = talk(20.0, 3.0);
            let mut turns = 0;
            while followed(&served).await == 1 {
                let mut socket = Socket::at(served.address, "", &[]).await.expect("there is room");
                socket.audio_in(&s16le(&pcm), 640).await;
                assert_eq!(socket.end().await.whole().text(), scripted(&pcm));
                turns += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            turns
        };
        let began = Instant::now();
        let ((), turns) = tokio::join!(flood, others);
        assert!(turns > 10, "the others were heard {turns} times in {:?}", began.elapsed());
    });
    let grown = served.resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more");
}

async fn followed(served: &Served) -> Value {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let health = Answer::fetch(client.get(format!("http://{}/health", served.address))).await.json();
    health["streams_followed"].clone()
}

#[test]
fn an_hour_as_fast_as_it_goes() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = Served::start(whisperwire(folder.path()).args([
        "serve",
        "--engine",
        "script",
        "--port",
        "0",
        "--max-streams",
        "4",
        "--script-delay-ms",
        "2",
    ]));
    let hour = talk(3_600.0, 6.0);
    let bytes = s16le(&hour);
    let before = served.resident();
    let story = runtime().block_on(async {
        let mut socket = Socket::at(served.address, "", &[]).await.expect("there is room");
        let mut most = 0;
        for chunk in bytes.chunks(4 << 20) {
            socket.audio(chunk).await;
            most = most.max(served.resident());
        }
        let grown = most.saturating_sub(before);
        assert!(grown < 64 << 20, "{grown} bytes more, of {} that were sent", bytes.len());
        socket.end().await.whole()
    });
    assert_eq!((story.close, story.done().account.received), (Some(1000), hour.len() as u64));
    assert_eq!(story.text(), scripted(&hour));
    assert!(!story.has(|message| matches!(message, ServerMessage::Gap { .. })));
    assert_eq!(hour.len(), 3_600 * RATE);
}

#[test]
fn one_that_left_is_forgotten_after_its_grace() {
    let house = TestHouse::start(&["--max-streams", "1"]);
    let id = runtime().block_on(async {
        let mut socket = Socket::open(&house, "grace=1").await;
        socket.audio(&s16le(&speech(2.0))).await;
        socket.ready().stream.clone()
    });
    assert_eq!(open(&house)[1], 1, "the slot is held while the grace lasts");
    until("the grace is over", Duration::from_secs(5), || open(&house)[..2].iter().all(|count| *count == 0));
    let Err(refusal) = runtime().block_on(Socket::resume(&house, &id, 0)) else {
        panic!("it is still there")
    };
    refusal.is(404, "not_found", Some("stream"));
    // Without one it is gone at once.
    let socket = runtime().block_on(Socket::open(&house, ""));
    let id = socket.ready().stream.clone();
    drop(socket);
    until("it is gone", SECOND, || open(&house)[1] == 0);
    let Err(refusal) = runtime().block_on(Socket::resume(&house, &id, 0)) else {
        panic!("it is still there")
    };
    refusal.is(404, "not_found", Some("stream"));
}
