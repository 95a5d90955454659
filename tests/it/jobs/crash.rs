//! `kill -9` at any moment: what was accepted is done, once, and nobody sees a difference in the result.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::{PATIENCE, numbered};
use crate::client::{Answer, Form, runtime};
use crate::house::TestHouse;
use crate::program::{Ended, Served, whisperwire};

const JOBS: usize = 50;
/// More crashes than that would test patience.
const CRASHES: usize = 100;

fn serve(folder: &Path) -> Served {
    let mut program = whisperwire(folder);
    program.args(["serve", "--engine", "script", "--port", "0", "--log", "warn", "--workers", "2"]);
    // Whatever is begun so often here is innocent.
    program.args(["--max-task-attempts", "1000"]);
    program.args(["--script-delay-ms", "150", "--data-dir"]).arg(folder.join("data"));
    Served::start(&mut program)
}

/// Asks a server that may be dead.
async fn ask(request: reqwest::RequestBuilder) -> Option<(u16, Vec<u8>)> {
    let answer = request.timeout(PATIENCE).send().await.ok()?;
    let status = answer.status().as_u16();
    Some((status, answer.bytes().await.ok()?.to_vec()))
}

#[test]
fn accepted_jobs_survive_kill_9_and_end_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let form = |n| Form::of(&numbered(n));
    let mut accepted: BTreeMap<String, usize> = BTreeMap::new();
    let mut done: BTreeSet<String> = BTreeSet::new();
    let mut next = 0;
    let (mut crashes, mut patience, mut before) = (0, 1, (1, 0));
    // The moments are the same in every run; what they hit is not.
    let mut dice = 0x9e37_79b9_u64;
    while done.len() < JOBS {
        assert!(crashes < CRASHES, "{} of {JOBS} jobs are done after {crashes} crashes", done.len());
        let server = serve(folder.path());
        let url = |path: &str| format!("http://{}{path}", server.address);
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Where a life was too short for anything, the next one is longer: a slow machine gets there too.
        if (accepted.len(), done.len()) == before {
            patience += 1;
        }
        before = (accepted.len(), done.len());
        let life = Duration::from_millis(150 + (dice >> 33) % 1200) * patience;
        runtime().block_on(async {
            let busy = async {
                loop {
                    // A submission that a crash cuts off was accepted or was not; only those that were told count.
                    if next < JOBS {
                        let request =
                            client.post(url("/v1/jobs")).header("content-type", Form::content_type());
                        match ask(request.body(form(next).body())).await {
                            Some((202, body)) => {
                                let job: Value = serde_json::from_slice(&body).expect("a job");
                                accepted.insert(job["id"].as_str().expect("an id").to_owned(), next);
                                next += 1;
                            }
                            Some((status, body)) => panic!("{status}: {}", String::from_utf8_lossy(&body)),
                            None => {}
                        }
                        continue;
                    }
                    for id in accepted.keys().filter(|id| !done.contains(*id)).cloned().collect::<Vec<_>>() {
                        let Some((status, body)) = ask(client.get(url(&format!("/v1/jobs/{id}")))).await
                        else {
                            break;
                        };
                        assert_eq!(
                            status,
                            200,
                            "an accepted job was lost: {}",
                            String::from_utf8_lossy(&body)
                        );
                        let job: Value = serde_json::from_slice(&body).expect("a job");
                        match job["status"].as_str() {
                            Some("completed") => drop(done.insert(id)),
                            Some("queued" | "running") => {}
                            other => panic!("{other:?}: {job}"),
                        }
                    }
                    if done.len() == JOBS {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            drop(tokio::time::timeout(life, busy).await);
        });
        // Which is SIGKILL.
        drop(server);
        crashes += 1;
    }
    assert!(crashes > 3, "there were crashes: {crashes}");

    // An undisturbed house gives the same results.
    let house = TestHouse::start(&[]);
    let server = serve(folder.path());
    let get = |path: String| Answer::to(house.client.get(format!("http://{}{path}", server.address)));
    for (id, n) in &accepted {
        let job = get(format!("/v1/jobs/{id}")).json();
        assert_eq!((job["status"].as_str(), job["error"].clone()), (Some("completed"), Value::Null), "{job}");
        let result = get(format!("/v1/jobs/{id}/result?format=verbose_json"));
        let undisturbed = house.transcribe(&form(*n).text("response_format", "verbose_json"));
        assert_eq!(result.good(), undisturbed.nameless(), "{id}");
    }
    let mut listed = BTreeSet::new();
    let mut after = String::new();
    loop {
        let page = get(format!("/v1/jobs?limit=100{after}")).json();
        let jobs = page["data"].as_array().expect("a list");
        for job in jobs {
            assert!(listed.insert(job["id"].as_str().expect("an id").to_owned()), "listed twice");
        }
        match (page["has_more"].as_bool(), jobs.last()) {
            (Some(true), Some(last)) => after = format!("&after={}", last["id"].as_str().expect("an id")),
            _ => break,
        }
    }
    assert!(accepted.keys().all(|id| listed.contains(id)), "every accepted job is in the store, once");
    let left = std::fs::read_dir(folder.path().join("data/recordings")).expect("a folder").count();
    let waiting = listed.len() - accepted.len();
    assert!(left <= waiting, "recordings of jobs that are over are gone: {left}");
}

#[test]
fn one_server_has_a_folder_to_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = serve(folder.path());
    let mut second = whisperwire(folder.path());
    second.args(["serve", "--engine", "script", "--port", "0", "--log", "warn", "--data-dir"]);
    let ended = Ended::of(second.arg(folder.path().join("data")));
    assert!(ended.complaint(1).contains("--data-dir"), "{ended:?}");
    drop(first);
    drop(serve(folder.path()));
}

#[test]
fn a_stop_puts_back_what_it_cannot_finish() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut program = whisperwire(folder.path());
    program.args([
        "serve",
        "--engine",
        "script",
        "--port",
        "0",
        "--log",
        "warn",
        "--workers",
        "1",
        "--grace",
        "1",
    ]);
    program.args(["--script-delay-ms", "3000", "--data-dir"]).arg(folder.path().join("data"));
    let server = Served::start(&mut program);
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let long = crate::sound::wav(&crate::sound::speech(9.0));
    let url = |server: &Served, path: &str| format!("http://{}{path}", server.address);
    let post = client.post(url(&server, "/v1/jobs")).header("content-type", Form::content_type());
    let job = Answer::to(post.body(Form::of(&long).body())).json_of();
    let id = job["id"].as_str().expect("an id").to_owned();
    let look = |server: &Served| Answer::to(client.get(url(server, &format!("/v1/jobs/{id}")))).json();
    crate::client::until("it runs", PATIENCE, || look(&server)["status"] == "running");
    server.terminate();
    assert_eq!(server.code(), Some(1), "the grace was too short");
    let server = serve(folder.path());
    crate::client::until("it is done", PATIENCE, || look(&server)["status"] == "completed");
    assert_eq!(look(&server)["attempts"], 1, "a stop is no crash");
}
