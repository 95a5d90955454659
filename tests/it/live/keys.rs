//! Who may open a stream, and how a key is brought.

use serde_json::Value;

use super::socket::{Socket, native};
use crate::client::{Answer, runtime};
use crate::house::TestHouse;

#[test]
fn a_key_is_brought_in_one_of_four_ways() {
    let house = TestHouse::start(&["--api-key", "one,two"]);
    runtime().block_on(async {
        for headers in [
            &[("authorization", "Bearer one")][..],
            &[("authorization", "bearer two")],
            &[("x-api-key", "two")],
            &[("sec-websocket-protocol", "whisperwire.v1, whisperwire.key.one")],
        ] {
            let socket = Socket::at(house.address, "", headers).await.expect("it is a key");
            assert_eq!(socket.end().await.whole().close, Some(1000));
        }
        for headers in [
            &[][..],
            &[("authorization", "Bearer three")],
            &[("authorization", "one")],
            &[("x-api-key", "")],
            &[("sec-websocket-protocol", "whisperwire.v1, whisperwire.key.three")],
            &[("sec-websocket-protocol", "whisperwire.v1")],
        ] {
            let Err(refusal) = Socket::at(house.address, "", headers).await else { panic!("{headers:?}") };
            assert_eq!(refusal.status, 401, "{headers:?}");
            assert_eq!(
                refusal.headers.get("www-authenticate").map(|value| value.as_bytes()),
                Some(&b"Bearer"[..])
            );
        }
        // Events want none: who knows the id may listen.
        let created = Answer::fetch(house.client.post(house.url("/v1/streams")).bearer_auth("one")).await;
        let stream = created.header("location").to_owned();
        let events =
            super::events::Events::of(house.client.get(house.url(&format!("{stream}/events")))).await;
        assert_eq!(Answer::fetch(house.client.delete(house.url(&stream))).await.status, 401);
        let deleted = Answer::fetch(house.client.delete(house.url(&stream)).bearer_auth("two")).await;
        assert_eq!(deleted.status, 204);
        assert_eq!(events.rest().await.events.len(), 1);
        // A stream is resumed with a key, too.
        let socket =
            Socket::at(house.address, "grace=5", &[("x-api-key", "one")]).await.expect("it is a key");
        let id = socket.ready().stream.clone();
        drop(socket);
        let Err(refusal) = Socket::resume(&house, &id, 0).await else { panic!("it was let in") };
        assert_eq!(refusal.status, 401);
        let query = format!("stream={id}&after=0");
        let again = Socket::at(house.address, &query, &[("x-api-key", "two")]).await.expect("it is a key");
        assert_eq!(again.end().await.whole().close, Some(1000));
    });
}

#[test]
fn who_has_no_key_is_told_so_in_our_own_words() {
    let house = TestHouse::start(&["--api-key", "one,two"]);
    runtime().block_on(async {
        // The query is no place for keys.
        for query in ["", "api_key=one", "stream=stream_0"] {
            let Err(refusal) = Socket::at(house.address, query, &[]).await else { panic!("it was let in") };
            refusal.is(401, "unauthorized", None);
        }
        for request in [
            house.client.post(house.url("/v1/stream")),
            house.client.post(house.url("/v1/streams")),
            house.client.get(house.url("/v1/stream")),
            house.client.get(house.url("/v1/streams/stream_0")),
        ] {
            let answer = Answer::fetch(request).await;
            let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
            native(&body, (answer.status, 401), "unauthorized", None);
        }
        // The others keep to theirs.
        Answer::fetch(house.client.get(house.url("/v1/models"))).await.refused(401, "invalid_api_key", None);
    });
}
