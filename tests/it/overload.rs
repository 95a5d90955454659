//! More visitors than the house has room for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;

use crate::client::{Answer, Form, runtime};
use crate::program::{Served, whisperwire};
use crate::sound::{speech, wav};

const VISITORS: usize = 200;
const SLOTS: usize = 8;
/// What 200 uploads of a megabyte may cost beyond a house at rest.
const ROOM: u64 = 150 << 20;

#[test]
fn two_hundred_uploads_meet_eight_slots() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut program = whisperwire(folder.path());
    program.args(["serve", "--engine", "script", "--port", "0", "--log", "error", "--slots", "8"]);
    // Whoever gets a slot keeps it until everybody else has had their answer.
    let served =
        Served::start(program.args(["--workers", "2", "--script-delay-ms", "150", "--cache-mb", "0"]));
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let url = format!("http://{}/v1/audio/transcriptions", served.address);
    let sound = wav(&speech(31.0));
    let whole = crate::sound::scripted(&speech(31.0));
    let body = Form::of(&sound).body();
    let visit = || {
        let request = client.post(&url).header("content-type", Form::content_type()).body(body.clone());
        Answer::fetch(request)
    };
    let at_rest = served.resident();
    let (answers, most) = runtime().block_on(async {
        let visits = join_all((0..VISITORS).map(|_| visit()));
        let most = AtomicU64::new(at_rest);
        let watch = async {
            loop {
                most.fetch_max(served.resident(), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let answers = tokio::select! {
            answers = visits => answers,
            () = watch => unreachable!("it watches for ever"),
        };
        (answers, most.into_inner())
    });
    let (done, refused): (Vec<&Answer>, Vec<&Answer>) =
        answers.iter().partition(|answer| answer.status == 200);
    assert!(done.len() >= SLOTS, "{} are done", done.len());
    for answer in &done {
        assert_eq!(answer.words(), whole);
    }
    for answer in &refused {
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds >= 1));
    }
    assert!(refused.len() > VISITORS / 2, "{} were told to come back", refused.len());
    assert!(most - at_rest < ROOM, "{} MB more than at rest", (most - at_rest) >> 20);
    // And the next one is as welcome as ever.
    assert_eq!(runtime().block_on(visit()).status, 200);
}
