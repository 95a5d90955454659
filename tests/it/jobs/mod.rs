//! Work that is done later: its three faces, its crashes, and the news of it.

mod crash;
mod faces;
mod news;
mod shared;

use std::time::Duration;

use serde_json::Value;

use crate::client::{Answer, Form, rest};
use crate::house::TestHouse;
use crate::sound::{quiet, speech, wav};

/// How long a job may take on a slow machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(60);

/// A recording that differs from the others.
fn numbered(n: usize) -> Vec<u8> {
    let pcm = [speech(1.0 + 0.05 * n as f64), quiet(0.8), speech(0.6)].concat();
    wav(&pcm)
}

fn submit(house: &TestHouse, form: &Form) -> Value {
    let answer = Answer::to(house.upload("/v1/jobs", form));
    assert_eq!(answer.status, 202, "{}", answer.text());
    let job = answer.json_of();
    assert_eq!(answer.header("location"), format!("/v1/jobs/{}", id(&job)));
    job
}

fn id(job: &Value) -> &str {
    job["id"].as_str().expect("a job has an id")
}

/// Looks until the job is over.
fn over(house: &TestHouse, id: &str) -> Value {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let job = house.get(&format!("/v1/jobs/{id}")).json();
        if ["completed", "failed", "cancelled"].contains(&job["status"].as_str().expect("a status")) {
            return job;
        }
        assert!(std::time::Instant::now() < deadline, "{job} is not over in {PATIENCE:?}");
        rest(Duration::from_millis(20));
    }
}
