//! What a key may use, and what it is told when that is used up.

use std::time::Duration;

use serde_json::Value;

use crate::client::{Answer, Form, rest, runtime, until};
use crate::house::TestHouse;
use crate::keys::keys_file;
use crate::live::realtime::Session;
use crate::live::s16le;
use crate::live::socket::Socket;
use crate::redis::Redis;
use crate::sound::{scripted, speech, wav};

const MODELS: &str = "/v1/models";
const ALICE: &[(&str, &str)] = &[("x-api-key", "alice's")];
const BOB: &[(&str, &str)] = &[("x-api-key", "bob's")];

fn get(house: &TestHouse, key: &str) -> Answer {
    Answer::to(house.client.get(house.url(MODELS)).header("x-api-key", key))
}

/// Checks an answer to a request that was one too many, and gives the seconds to wait.
fn refused(answer: &Answer) -> u64 {
    let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
    let error = &body["error"];
    assert_eq!((answer.status, error["type"].as_str()), (429, Some("rate_limit_error")), "{body}");
    assert_eq!((error["code"].as_str(), &error["param"]), (Some("rate_limit_exceeded"), &Value::Null));
    assert!(error["message"].as_str().is_some_and(|message| message.len() > 20), "{body}");
    answer.header("retry-after").parse().expect("whole seconds")
}

/// Limit and rest, as the headers have them.
fn left(answer: &Answer) -> (&str, &str) {
    (answer.header("x-ratelimit-limit-requests"), answer.header("x-ratelimit-remaining-requests"))
}

#[test]
fn requests_are_counted_per_key_and_what_is_left_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = "[alice]\nkey = \"alice's\"\nrate_limits = \"1/day\"\n\
                [bob]\nkey = \"bob's\"\nrate_limits = \"none\"\n\
                [carol]\nkey = \"carol's\"\n";
    let file = keys_file(folder.path(), keys);
    let house = TestHouse::start(&["--api-keys-file", &file, "--rate-limits", "4/day,3/hour"]);
    // What nobody is let in for is not counted, and what everybody may ask neither.
    for _ in 0..5 {
        let stranger = get(&house, "stranger's");
        assert_eq!((stranger.status, left(&stranger)), (401, ("", "")));
        let health = house.get("/health");
        assert_eq!((health.status, left(&health)), (200, ("", "")));
    }
    for remaining in ["2", "1", "0"] {
        let answer = get(&house, "carol's");
        assert_eq!((answer.status, left(&answer)), (200, ("3", remaining)));
        assert!(
            ["1h0m0s", "59m59s"].contains(&answer.header("x-ratelimit-reset-requests")) || remaining != "2"
        );
    }
    for _ in 0..3 {
        let answer = get(&house, "carol's");
        assert!((3_500..=3_600).contains(&refused(&answer)), "{answer:?}");
        assert_eq!(left(&answer), ("3", "0"));
    }
    // Alice has less, and Bob as much as he likes.
    assert_eq!(left(&get(&house, "alice's")), ("1", "0"));
    assert!((86_300..=86_400).contains(&refused(&get(&house, "alice's"))));
    let bob = get(&house, "bob's");
    assert_eq!((bob.status, left(&bob)), (200, ("", "")));
    // Our own protocol says it in its own words, and an upload is refused before it was read.
    let stream = Answer::to(house.client.post(house.url("/v1/streams")).bearer_auth("carol's"));
    let body: Value = serde_json::from_slice(&stream.body).expect("JSON");
    assert_eq!((stream.status, &body["error"]["code"]), (429, &Value::from("rate_limited")));
    let upload = house.upload("/v1/audio/transcriptions", &Form::of(&wav(&speech(1.0))));
    refused(&Answer::to(upload.bearer_auth("carol's")));
}

#[test]
fn whoever_waits_as_told_is_let_in() {
    let house = TestHouse::start(&["--rate-limits", "1/second"]);
    let mut waits = 0;
    for _ in 0..3 {
        // As the client libraries do.
        loop {
            let answer = house.get(MODELS);
            if answer.status == 200 {
                break;
            }
            waits += 1;
            rest(Duration::from_secs(refused(&answer)));
        }
    }
    assert!(waits <= 2, "each wait was long enough");
}

#[test]
fn without_keys_each_address_has_its_share() {
    let from = |house: &TestHouse, address: &str| {
        Answer::to(house.client.get(house.url(MODELS)).header("x-forwarded-for", address)).status
    };
    // Anybody can say that they come from somewhere else.
    let house = TestHouse::start(&["--rate-limits", "1/day"]);
    assert_eq!(["192.0.2.1", "192.0.2.2"].map(|address| from(&house, address)), [200, 429]);
    let house = TestHouse::start(&["--rate-limits", "1/day", "--trust-proxy", "127.0.0.1,10.0.0.0/8"]);
    let hops = ["192.0.2.1", "192.0.2.2", "192.0.2.9, 192.0.2.1, 10.0.0.7", "2001:db8::1", "2001:db8::2"];
    assert_eq!(hops.map(|address| from(&house, address)), [200, 200, 429, 200, 429]);
}

#[test]
fn streams_are_counted_until_they_have_ended() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = keys_file(folder.path(), "[alice]\nkey = \"alice's\"\n[bob]\nkey = \"bob's\"\nstreams = 2\n");
    let house = TestHouse::start(&["--api-keys-file", &file, "--max-streams-per-key", "1"]);
    let open = |query: &'static str, who: &'static [(&'static str, &'static str)]| {
        runtime().block_on(Socket::at(house.address, query, who)).map_err(Box::new)
    };
    let first = open("", ALICE).expect("the first");
    let Err(second) = open("", ALICE) else { panic!("one too many") };
    assert_eq!((second.status, &second.body["error"]["code"]), (429, &Value::from("rate_limited")));
    assert!(second.headers.contains_key("retry-after"));
    // However it would be carried.
    let create = |key: &str| Answer::to(house.client.post(house.url("/v1/streams")).bearer_auth(key));
    assert_eq!(create("alice's").status, 429);
    let exchange =
        house.client.post(house.url("/v1/stream")).bearer_auth("alice's").body(s16le(&speech(1.0)));
    assert_eq!(Answer::to(exchange).status, 429);
    let realtime = runtime().block_on(Session::open(house.address, "", ALICE));
    assert_eq!(realtime.err().map(|refused| refused.status().as_u16()), Some(429));
    // Bob has two of his own.
    let bobs = [open("", BOB).expect("his first"), open("", BOB).expect("his second")];
    assert!(open("", BOB).is_err());
    drop(bobs);

    // A client that vanishes makes room; one that may come back does not yet.
    drop(first);
    let mut second = None;
    until("there is room", Duration::from_secs(20), || {
        second = open("grace=30", ALICE).ok();
        second.is_some()
    });
    let second = second.expect("it is open");
    let id = second.ready().stream.clone();
    drop(second);
    until("nobody is on it", Duration::from_secs(20), || house.health()["streams"] == 1);
    assert_eq!(create("alice's").status, 429, "it waits for its client");
    let back = format!("stream={id}&after=0");
    let story = runtime().block_on(async {
        let socket = Socket::at(house.address, &back, ALICE).await.expect("it is not one more");
        socket.end().await
    });
    assert_eq!(story.close, Some(1000));
    let mut third = None;
    until("there is room", Duration::from_secs(20), || {
        third = runtime().block_on(Session::open(house.address, "", ALICE)).ok();
        third.is_some()
    });
    assert_eq!(create("alice's").status, 429, "a realtime session is a stream");
}

#[test]
fn audio_is_charged_as_it_is_heard() {
    let house = TestHouse::start(&["--audio-limits", "5/hour", "--script-delay-ms", "20"]);
    let pcm = speech(3.0);
    let upload = || house.transcribe(&Form::of(&wav(&pcm)));
    runtime().block_on(async {
        // What has begun is finished, even if it is more than there is.
        let said = speech(6.0);
        let (first, second) = said.split_at(said.len() / 2);
        let mut live = Socket::open(&house, "").await;
        live.audio_in(&s16le(first), 3_200).await;
        live.taken().await;
        let uploaded = house.upload("/v1/audio/transcriptions", &Form::of(&wav(&pcm)));
        assert_eq!(Answer::fetch(uploaded).await.status, 200);
        live.audio_in(&s16le(second), 3_200).await;
        assert_eq!(live.end().await.whole().text(), scripted(&said));
    });
    // Six of the live stream and three of the upload.
    until("all was charged", Duration::from_secs(20), || upload().status == 429);
    assert!((1..=7_200).contains(&refused(&upload())));
    let Err(live) = runtime().block_on(Socket::at(house.address, "", &[])) else {
        panic!("nothing new is begun")
    };
    assert_eq!((live.status, &live.body["error"]["code"]), (429, &Value::from("rate_limited")));
    let chat = house.client.post(house.url("/v1/chat/completions")).body("{}");
    refused(&Answer::to(chat));
    // What has no audio is not meant.
    assert_eq!(house.get(MODELS).status, 200);
}

#[test]
fn the_audio_of_jobs_is_charged_to_their_owner() {
    let house = TestHouse::start(&["--api-key", "mine,other", "--audio-limits", "3/day"]);
    let submit = |path: &str, key: &str| {
        let form = Form::of(&wav(&speech(3.0))).text("cache", "false");
        Answer::to(house.upload(path, &form).bearer_auth(key))
    };
    let accepted = submit("/v1/jobs", "mine");
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    let job = house.url(accepted.header("location"));
    until("the job is done", Duration::from_secs(30), || {
        Answer::to(house.client.get(&job).bearer_auth("mine")).json()["status"] == "completed"
    });
    let refusal = submit("/v1/jobs", "mine");
    let body: Value = serde_json::from_slice(&refusal.body).expect("JSON");
    assert_eq!((refusal.status, &body["error"]["code"]), (429, &Value::from("rate_limited")));
    for path in ["/api/v1/transcribe/upload", "/v1/audio/transcriptions"] {
        refused(&submit(path, "mine"));
    }
    assert_eq!(submit("/v1/audio/transcriptions", "other").status, 200);
}

#[test]
fn two_servers_on_one_redis_share_a_limit_and_go_on_alone_without_it() {
    let Some(mut redis) = Redis::start() else { return };
    let url = redis.url();
    let flags = ["--redis", &url, "--rate-limits", "4/day", "--audio-limits", "3/day", "--api-key", "mine"];
    let houses = [TestHouse::start(&flags), TestHouse::start(&flags)];
    let remaining = |house: &TestHouse| left(&get(house, "mine")).1.to_owned();
    // Only who brings a key is told.
    let redis_of = |house: &TestHouse| {
        let health = house.client.get(house.url("/health")).bearer_auth("mine");
        Answer::to(health).json()["redis"]["status"].clone()
    };
    assert_eq!([0, 1, 0].map(|n: usize| remaining(&houses[n])), ["3", "2", "1"]);
    // Audio as well.
    let upload = houses[1].upload("/v1/audio/transcriptions", &Form::of(&wav(&speech(3.0))));
    assert_eq!(Answer::to(upload.bearer_auth("mine")).status, 200);
    for house in &houses {
        assert!(refused(&get(house, "mine")) > 80_000);
    }

    redis.kill();
    until("each counts by itself", Duration::from_secs(30), || {
        houses.iter().all(|house| redis_of(house) == "away")
    });
    for house in &houses {
        let first: u64 = remaining(house).parse().expect("a number");
        assert!(first < 4, "alone, but counted");
        for _ in 0..first {
            assert_eq!(get(house, "mine").status, 200);
        }
        refused(&get(house, "mine"));
    }

    // It comes back, and remembers nothing in this test.
    redis.begin();
    until("the link is up", Duration::from_secs(30), || {
        houses.iter().all(|house| redis_of(house) == "connected")
    });
    assert_eq!([1, 0, 1, 0].map(|n: usize| remaining(&houses[n])), ["3", "2", "1", "0"]);
    for house in &houses {
        refused(&get(house, "mine"));
    }
}
