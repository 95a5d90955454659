//! A client that goes away frees its slot and its worker at once, not when its work would have been done.

use std::time::{Duration, Instant};

use crate::client::{Answer, Form, runtime, until};
use crate::house::TestHouse;
use crate::sound::{scripted, speech, wav};

/// One second of sound takes one second of a worker: a minute, if nobody stops it.
const SLOW: &[&str] = &["--script-delay-ms", "1000", "--workers", "2", "--slots", "1"];

#[test]
fn a_client_that_hangs_up_frees_its_slot_and_worker() {
    leave(&Form::of(&wav(&speech(60.0))));
}

#[test]
fn so_does_one_that_hangs_up_on_a_stream() {
    leave(&Form::of(&wav(&speech(60.0))).text("stream", "true"));
}

fn leave(form: &Form) {
    let house = TestHouse::start(SLOW);
    let began = Instant::now();
    let mut wire = house.wire();
    wire.send(&form.request());
    until("both workers busy", Duration::from_secs(20), || house.health()["workers_busy"] == 2);
    assert_eq!(house.health()["slots_free"], 0);
    house.transcribe(form).refused(503, "overloaded", None);

    drop(wire);
    house.settle();
    assert!(began.elapsed() < Duration::from_secs(25), "it took {:?}", began.elapsed());
    assert!(house.health()["windows_withdrawn"].as_u64().is_some_and(|count| count > 0));
    let short = speech(1.0);
    assert_eq!(house.transcribe(&Form::of(&wav(&short))).words(), scripted(&short));
}

#[test]
fn a_client_that_reads_half_a_stream_and_leaves_stops_it() {
    let house = TestHouse::start(&["--script-delay-ms", "200", "--workers", "1", "--file-window", "2"]);
    let form = Form::of(&wav(&speech(120.0))).text("stream", "true");
    runtime().block_on(async {
        let request = house.upload("/v1/audio/transcriptions", &form);
        let mut response = request.send().await.expect("a stream that begins");
        let first = response.chunk().await.expect("a stream that goes on").expect("an event");
        assert!(first.starts_with(b"data: {\"type\":\"transcript.text.delta\""), "{first:?}");
    });
    house.settle();
    let windows = house.health()["windows_recognised"].as_u64().expect("a number");
    assert!(windows < 30, "it went on for {windows} windows");
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody_else() {
    let house = TestHouse::start(&["--workers", "1", "--slots", "4"]);
    let mut idle = house.wire();
    idle.send(&Form::of(&wav(&speech(300.0))).text("stream", "true").request());
    let short = speech(3.0);
    let answers: Vec<Answer> = (0..3).map(|_| house.transcribe(&Form::of(&wav(&short)))).collect();
    for answer in answers {
        assert_eq!(answer.words(), scripted(&short));
    }
    drop(idle);
}
