//! Finished transcripts are kept: `x-cache`, every format from one decoding, and what several servers share.

use std::time::Duration;

use whisperwire::link::{Link, LinkConfig};

use crate::client::{Answer, Form, runtime, until};
use crate::house::TestHouse;
use crate::redis::Redis;
use crate::sound::{scripted, speech, wav};

/// How long it may take on a busy machine until something is noticed or written behind.
const NOTICING: Duration = Duration::from_secs(30);

/// How many windows the house has decoded.
fn decoded(house: &TestHouse) -> u64 {
    house.health()["windows_recognised"].as_u64().expect("a number")
}

fn cached(answer: &Answer) -> &str {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("x-cache")
}

#[test]
fn every_format_comes_from_one_decoding() {
    let house = TestHouse::start(&[]);
    let form = Form::of(&wav(&speech(25.0)));
    assert_eq!(cached(&house.transcribe(&form)), "miss");
    let formats = [
        vec![("response_format", "json")],
        vec![("include[]", "logprobs")],
        vec![("response_format", "text")],
        vec![("response_format", "srt")],
        vec![("response_format", "vtt")],
        vec![("response_format", "verbose_json"), ("timestamp_granularities[]", "word")],
        vec![("stream", "true")],
        vec![("stream", "true"), ("include[]", "logprobs")],
    ];
    let forms =
        formats.map(|fields| fields.iter().fold(form.clone(), |form, (name, value)| form.text(name, value)));
    let once = decoded(&house);
    let hits: Vec<Answer> = forms.iter().map(|form| house.transcribe(form)).collect();
    assert_eq!(decoded(&house), once);
    for (form, hit) in forms.into_iter().zip(hits) {
        assert_eq!(cached(&hit), "hit");
        let fresh = house.transcribe(&form.text("cache", "false"));
        assert_eq!(cached(&fresh), "miss");
        assert_eq!(hit.nameless(), fresh.text());
        assert_eq!(hit.header("content-type"), fresh.header("content-type"));
    }
    assert!(decoded(&house) > once);

    // Another question is another transcript.
    assert_eq!(cached(&house.transcribe(&form.clone().text("temperature", "0.5"))), "miss");
    assert_eq!(cached(&house.translate(&form)), "miss");
    assert_eq!(cached(&house.translate(&form)), "hit");
    let cache = house.health()["cache"].clone();
    assert_eq!((&cache["entries"], &cache["joined"]), (&3.into(), &0.into()), "{cache}");
}

#[test]
fn what_was_told_as_it_was_made_is_kept_too() {
    let house = TestHouse::start(&[]);
    let pcm = speech(25.0);
    let form = Form::of(&wav(&pcm));
    let streamed = house.transcribe(&form.clone().text("stream", "true"));
    assert_eq!(cached(&streamed), "miss");
    let whole = house.transcribe(&form);
    assert_eq!(cached(&whole), "hit");
    assert_eq!(whole.words(), scripted(&pcm));
    assert_eq!(house.transcribe(&form.text("stream", "true")).text(), streamed.text());
}

#[test]
fn a_request_may_do_without() {
    let house = TestHouse::start(&[]);
    let form = Form::of(&wav(&speech(3.0)));
    let with = |control: &str| {
        let request = house.upload("/v1/audio/transcriptions", &form);
        Answer::to(request.header("cache-control", control))
    };
    assert_eq!(cached(&with("no-store")), "miss");
    assert_eq!(cached(&house.transcribe(&form.clone().text("cache", "false"))), "miss");
    assert_eq!(house.health()["cache"]["entries"], 0);
    // This one does not take what is there, but leaves what it made.
    assert_eq!(cached(&with("no-cache")), "miss");
    assert_eq!(house.health()["cache"]["entries"], 1);
    assert_eq!(cached(&with("max-age=60")), "hit");
    let before = decoded(&house);
    assert_eq!(cached(&with("no-cache")), "miss");
    assert!(decoded(&house) > before);

    let without = TestHouse::start(&["--cache-mb", "0"]);
    assert_eq!(cached(&without.transcribe(&form)), "miss");
    assert_eq!(cached(&without.transcribe(&form)), "miss");
    house.transcribe(&form.text("cache", "perhaps")).refused(400, "invalid_value", Some("cache"));
}

#[test]
fn equal_uploads_at_one_time_are_decoded_once() {
    let alone = TestHouse::start(&["--cache-mb", "0"]);
    let (pcm, count) = (speech(12.0), 4);
    let form = Form::of(&wav(&pcm));
    assert_eq!(cached(&alone.transcribe(&form)), "miss");

    let house = TestHouse::start(&["--script-delay-ms", "150", "--workers", "1"]);
    let answers: Vec<Answer> = runtime().block_on(async {
        let ask = || tokio::spawn(Answer::fetch(house.upload("/v1/audio/transcriptions", &form)));
        let mut answers = Vec::new();
        for asked in (0..count).map(|_| ask()).collect::<Vec<_>>() {
            answers.push(asked.await.expect("no client fails"));
        }
        answers
    });
    assert_eq!(answers.iter().filter(|answer| cached(answer) == "miss").count(), 1);
    for answer in &answers {
        assert_eq!(answer.words(), scripted(&pcm));
    }
    assert_eq!(decoded(&house), decoded(&alone));
    let cache = house.health()["cache"].clone();
    let number = |name: &str| cache[name].as_u64().expect("a number");
    assert_eq!((number("misses"), number("hits") + number("joined")), (1, count - 1), "{cache}");
}

#[test]
fn what_failed_fails_again() {
    let house = TestHouse::start(&["--max-audio-minutes", "1"]);
    let form = Form::of(&wav(&speech(70.0)));
    for _ in 0..2 {
        house.transcribe(&form).refused(413, "file_too_large", Some("file"));
    }
    assert_eq!(house.health()["cache"]["entries"], 0);
}

#[test]
fn time_ends_it() {
    let house = TestHouse::start(&["--cache-ttl", "1"]);
    let form = Form::of(&wav(&speech(3.0)));
    assert_eq!(cached(&house.transcribe(&form)), "miss");
    until("it is forgotten", NOTICING, || cached(&house.transcribe(&form)) == "miss");
}

/// How many transcripts the Redis keeps.
fn shelved(link: &Link) -> Option<u64> {
    runtime().block_on(link.command(&redis::cmd("DBSIZE"))).ok()
}

#[test]
fn servers_share_what_they_have_and_go_on_without_their_redis() {
    let Some(mut redis) = Redis::start() else { return };
    let link = runtime().block_on(Link::connect(LinkConfig::new(&redis.url(), "").expect("an address")));
    let flags = ["--redis", &redis.url()];
    let (one, other) = (TestHouse::start(&flags), TestHouse::start(&flags));
    let form = |seconds: f64| Form::of(&wav(&speech(seconds)));

    let first = one.transcribe(&form(12.0));
    assert_eq!(cached(&first), "miss");
    until("it is shared", NOTICING, || shelved(&link) == Some(1));
    let second = other.transcribe(&form(12.0).text("response_format", "verbose_json"));
    assert_eq!(cached(&second), "hit");
    assert_eq!((second.words(), decoded(&other)), (first.words(), 0));

    redis.kill();
    assert_eq!(cached(&one.transcribe(&form(12.0))), "hit");
    assert_eq!(cached(&one.transcribe(&form(13.0))), "miss");
    assert_eq!(cached(&other.transcribe(&form(13.0))), "miss");
    for house in [&one, &other] {
        until("its absence is noticed", NOTICING, || house.health()["redis"]["status"] == "away");
    }

    redis.begin();
    for house in [&one, &other] {
        until("it is found again", NOTICING, || house.health()["redis"]["status"] == "connected");
    }
    assert_eq!(cached(&one.transcribe(&form(14.0))), "miss");
    until("it is shared", NOTICING, || shelved(&link) == Some(1));
    assert_eq!(cached(&other.transcribe(&form(14.0).text("stream", "true"))), "hit");
}
