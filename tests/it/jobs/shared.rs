//! Several servers with one Redis and one place for recordings.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::{PATIENCE, id, numbered, over, submit};
use crate::client::{Answer, Form, until};
use crate::house::TestHouse;
use crate::program::{Served, whisperwire};
use crate::redis::Redis;
use crate::sound::{scripted, speech, wav};

/// How long a change of the link may take to be noticed on a busy machine.
const NOTICING: Duration = Duration::from_secs(30);

fn serve(folder: &Path, redis: &Redis, data: &str) -> Served {
    let mut program = whisperwire(folder);
    program.args(["serve", "--engine", "script", "--port", "0", "--log", "warn", "--workers", "1"]);
    program.args(["--script-delay-ms", "500", "--jobs-takeover-seconds", "2", "--redis", &redis.url()]);
    program.arg("--data-dir").arg(folder.join(data)).arg("--recordings").arg(folder.join("recordings"));
    Served::start(&mut program)
}

#[test]
fn jobs_are_spread_and_those_of_a_dead_server_are_taken_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(redis) = Redis::start() else { return };
    let servers = [serve(folder.path(), &redis, "one"), serve(folder.path(), &redis, "other")];
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let get = |server: &Served, path: &str| {
        Answer::to(client.get(format!("http://{}{path}", server.address))).json()
    };
    let post = |server: &Served, file: &[u8]| {
        let request = client.post(format!("http://{}/v1/jobs", server.address));
        let request = request.header("content-type", Form::content_type()).body(Form::of(file).body());
        let answer = Answer::to(request);
        assert_eq!(answer.status, 202, "{}", answer.text());
        answer.json_of()["id"].as_str().expect("an id").to_owned()
    };
    let busy = |server: &Served| get(server, "/health")["workers_busy"] == 1;

    // Whoever has the long one is the one to die.
    let long = speech(20.0);
    let first = post(&servers[0], &wav(&long));
    let mut victim = None;
    until("one of them has it", PATIENCE, || {
        victim = servers.iter().position(busy);
        victim.is_some()
    });
    let [one, other] = servers;
    let (victim, survivor) = if victim == Some(0) { (one, other) } else { (other, one) };
    let rest: Vec<String> = (0..8).map(|n| post(&victim, &numbered(n))).collect();
    until("the other one works too", PATIENCE, || busy(&survivor));
    assert_eq!(get(&survivor, &format!("/v1/jobs/{first}"))["status"], "running");
    // Which is SIGKILL.
    drop(victim);

    let look = |id: &String| get(&survivor, &format!("/v1/jobs/{id}"));
    let all: Vec<&String> = std::iter::once(&first).chain(&rest).collect();
    until("all of it is done", PATIENCE, || all.iter().all(|id| look(id)["status"] == "completed"));
    assert_eq!(look(&first)["attempts"], 2, "it was taken over");
    let result = get(&survivor, &format!("/v1/jobs/{first}/result"));
    assert_eq!(result["text"], scripted(&long));
    let house = TestHouse::start(&[]);
    for (n, id) in rest.iter().enumerate() {
        let undisturbed = house.transcribe(&Form::of(&numbered(n))).words();
        assert_eq!(get(&survivor, &format!("/v1/jobs/{id}/result"))["text"], undisturbed);
    }
    let listed = get(&survivor, "/v1/jobs?limit=100");
    let listed: Vec<&Value> = listed["data"].as_array().expect("a list").iter().collect();
    assert_eq!(listed.len(), all.len(), "each of them once");
    until("no recording is left", PATIENCE, || {
        std::fs::read_dir(folder.path().join("recordings")).expect("a folder").count() == 0
    });
}

#[test]
fn without_their_redis_jobs_are_refused_and_with_it_they_are_taken_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let recordings = folder.path().to_str().expect("a plain path");
    let Some(mut redis) = Redis::start() else { return };
    let house = TestHouse::start(&["--redis", &redis.url(), "--recordings", recordings]);
    let form = Form::of(&numbered(1));
    let done = submit(&house, &form);
    assert_eq!(over(&house, id(&done))["status"], "completed");

    redis.kill();
    until("its absence is noticed", NOTICING, || house.health()["redis"]["status"] == "away");
    Answer::to(house.upload("/v1/jobs", &form)).refused(503, "overloaded", None);
    house.get(&format!("/v1/jobs/{}", id(&done))).refused(503, "overloaded", None);
    // Whoever waits for the answer itself gets it.
    assert_eq!(house.transcribe(&form).status, 200);

    // What it did not keep is gone with it; what is accepted from now on is done.
    redis.begin();
    until("it is found again", NOTICING, || house.health()["redis"]["status"] == "connected");
    let again = submit(&house, &form);
    assert_eq!(over(&house, id(&again))["status"], "completed");
}
