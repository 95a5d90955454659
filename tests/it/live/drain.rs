//! A server that is asked to stop lets everybody finish the sentence.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::events::Events;
use super::socket::Socket;
use super::{open_body, s16le};
use crate::client::{Answer, Wire, runtime};
use crate::program::{Served, whisperwire};
use crate::sound::{scripted, speech};

const SPEAKERS: usize = 8;

fn slow(folder: &std::path::Path) -> Served {
    Served::start(whisperwire(folder).args([
        "serve",
        "--engine",
        "script",
        "--port",
        "0",
        "--script-delay-ms",
        "100",
        "--max-streams",
        "16",
    ]))
}

/// Waits until it takes no connections any more.
async fn closed(served: &Served) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while tokio::net::TcpStream::connect(served.address).await.is_ok() {
        assert!(Instant::now() < deadline, "the door stays open");
    }
}

#[test]
fn eight_speakers_get_their_finals_and_a_farewell() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = slow(folder.path());
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let url = |path: &str| format!("http://{}{path}", served.address);
    let pcm = speech(5.0);
    let bytes = s16le(&pcm);
    runtime().block_on(async {
        let speak = async |n: usize| {
            let grace = if n.is_multiple_of(2) { "" } else { "grace=20" };
            let mut socket = Socket::at(served.address, grace, &[]).await.expect("there is room");
            socket.audio_in(&bytes, 640).await;
            socket.taken().await;
            socket.until("somebody speaks", |story| story.last_seq() > 0).await;
            socket
        };
        let sockets = join_all((0..SPEAKERS).map(speak)).await;
        let (pieces, body) = open_body();
        let request = client.post(url("/v1/stream")).header("content-type", "audio/pcm").body(body);
        let mut exchange = Events::of(request).await;
        pieces.send(bytes.clone().into()).await.expect("it is sent");
        exchange.until("somebody speaks", |story| story.last_seq() > 0).await;
        let created = Answer::fetch(client.post(url("/v1/streams"))).await;
        let stream = url(created.header("location"));
        let legs = Events::of(client.get(format!("{stream}/events"))).await;
        let received = Answer::fetch(client.post(format!("{stream}/audio")).body(bytes.clone())).await;
        assert_eq!(received.json()["received"]["bytes"], bytes.len());
        let silent = Socket::at(served.address, "", &[]).await.expect("there is room");

        let began = Instant::now();
        served.terminate();
        // Nobody new is let in.
        closed(&served).await;
        for story in join_all(sockets.into_iter().map(Socket::rest)).await {
            let story = story.whole();
            assert_eq!((story.text(), story.close), (scripted(&pcm), Some(1001)));
            assert_eq!(story.done().account.received, pcm.len() as u64);
        }
        for story in [exchange.rest().await.whole(), legs.rest().await.whole()] {
            assert_eq!((story.text(), story.done().account.received), (scripted(&pcm), pcm.len() as u64));
        }
        assert_eq!(silent.rest().await.whole().close, Some(1001));
        drop(pieces);
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    });
    assert_eq!(served.code(), Some(0));
}

#[test]
fn an_open_connection_opens_no_stream_any_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = slow(folder.path());
    runtime().block_on(async {
        let mut busy = Socket::at(served.address, "", &[]).await.expect("there is room");
        busy.audio(&s16le(&speech(20.0))).await;
        busy.taken().await;
        // A request whose head is not complete keeps its connection.
        let mut late = Wire::open(served.address);
        late.send(b"POST /v1/streams HTTP/1.1\r\nHost: house\r\nContent-Length: 0\r\n");
        served.terminate();
        closed(&served).await;
        late.send(b"Connection: close\r\n\r\n");
        let status = late.bare_status();
        assert!(status.is_none_or(|status| status == 503), "{status:?}");
        assert_eq!(busy.rest().await.whole().close, Some(1001));
    });
    assert_eq!(served.code(), Some(0));
}

#[test]
fn streams_that_nobody_is_on_hold_nothing_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = slow(folder.path());
    runtime().block_on(async {
        let mut left = Socket::at(served.address, "grace=600", &[]).await.expect("there is room");
        left.audio(&s16le(&speech(3.0))).await;
        left.taken().await;
        drop(left);
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let created = Answer::fetch(client.post(format!("http://{}/v1/streams", served.address))).await;
        assert_eq!(created.status, 201);
    });
    let began = Instant::now();
    served.terminate();
    assert_eq!(served.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}
