//! What an operator asks a server: whether it lives, whether it is ready, how it is, and its figures.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use whisperwire::telemetry::table::{Kind, TABLE};

use crate::client::{Answer, Form, runtime, until};
use crate::house::TestHouse;
use crate::live::s16le;
use crate::live::socket::Socket;
use crate::program::{Served, whisperwire};
use crate::sound::{quiet, speech, wav};

#[test]
fn health_tells_of_the_machine() {
    let house = TestHouse::start(&[]);
    assert_eq!(house.get("/livez").json()["status"], "ok");
    assert_eq!(house.get("/readyz").json()["status"], "ready");
    let health = house.health();
    let bytes = |pointer: &str| health.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
    assert!(bytes("/memory/rss") > 1 << 20 && bytes("/memory/total") > bytes("/memory/rss"), "{health}");
    assert!(bytes("/memory/available") > 0 && bytes("/disk/uploads_free") > 0, "{health}");
    assert!(bytes("/disk/models_free") > 0 && bytes("/cpu/cores") > 0, "{health}");
    let percent = health["cpu"]["machine_percent"].as_f64().expect("a figure");
    assert!((0.0..=100.0).contains(&percent), "{health}");
    assert_eq!(health["cpu"]["load"].as_array().map(Vec::len), Some(3), "{health}");
    assert_eq!((&health["cache"]["hits"], &health["redis"]), (&0.into(), &Value::Null));
    assert_eq!((&health["jobs"]["queued"], &health["jobs"]["webhooks_waiting"]), (&0.into(), &0.into()));
    assert!(health.as_object().is_some_and(|health| health.contains_key("redis")), "{health}");
    assert_eq!(health["models"][0]["state"], "loaded");
    assert_eq!((&health["tasks_active"], &health["streams_followed"]), (&0.into(), &0.into()));
    assert_eq!(house.get("/health").header("cache-control"), "no-store");
}

#[test]
fn strangers_learn_how_busy_a_server_is_and_nothing_of_its_machine() {
    let house = TestHouse::start(&["--api-key", "a-key"]);
    for path in ["/livez", "/readyz", "/health"] {
        assert_eq!(house.get(path).status, 200, "{path}");
    }
    let stranger = house.health();
    assert_eq!((&stranger["status"], &stranger["slots_free"]), (&"ok".into(), &stranger["slots"]));
    let known = Answer::to(house.client.get(house.url("/health")).bearer_auth("a-key")).json();
    let keys = |health: &Value| health.as_object().expect("an object").keys().cloned().collect();
    let (stranger, known): (BTreeSet<String>, BTreeSet<String>) = (keys(&stranger), keys(&known));
    let hidden: Vec<&String> = known.difference(&stranger).collect();
    assert_eq!(hidden, ["cache", "cpu", "disk", "jobs", "memory", "models", "open_files", "redis"]);

    let figures = house.get("/metrics");
    assert_eq!((figures.status, figures.header("www-authenticate")), (401, "Bearer"));
    for key in ["a-key", "another"] {
        let status = Answer::to(house.client.get(house.url("/metrics")).header("x-api-key", key)).status;
        assert_eq!(status, if key == "a-key" { 200 } else { 401 });
    }
    let open = TestHouse::start(&["--api-key", "a-key", "--metrics-open"]);
    assert_eq!(open.get("/metrics").status, 200);
}

/// One line of `/metrics`.
#[derive(Debug)]
struct Figure {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

struct Figures {
    kinds: BTreeMap<String, String>,
    figures: Vec<Figure>,
}

impl Figures {
    fn of(house: &TestHouse) -> Self {
        let answer = house.get("/metrics");
        assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
        let (mut kinds, mut figures) = (BTreeMap::new(), Vec::new());
        for line in answer.good().lines().filter(|line| !line.is_empty()) {
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a name and a kind");
                assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {name}");
            } else if !line.starts_with("# HELP ") {
                figures.push(read(line));
            }
        }
        Self { kinds, figures }
    }

    /// The sum over all that have these labels.
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |figure: &&Figure| {
            let has = |(label, value): &(&str, &str)| figure.labels.get(*label).is_some_and(|v| v == value);
            figure.name == format!("whisperwire_{name}") && labels.iter().all(has)
        };
        let found: Vec<&Figure> = self.figures.iter().filter(fits).collect();
        assert!(!found.is_empty(), "no {name} with {labels:?}");
        found.iter().map(|figure| figure.value).sum()
    }
}

fn read(line: &str) -> Figure {
    let (head, value) = line.rsplit_once(' ').expect("a value");
    let (name, labels) = match head.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}').expect("a closed list")),
        None => (head, ""),
    };
    let pair = |label: &str| {
        let (label, value) = label.split_once('=').expect("a label has a value");
        (label.to_owned(), value.trim_matches('"').to_owned())
    };
    // No value of ours holds a comma.
    let labels = labels.split(',').filter(|label| !label.is_empty()).map(pair).collect();
    Figure { name: name.to_owned(), labels, value: value.parse().expect("a number") }
}

#[test]
fn a_working_server_shows_the_figures_of_the_table_and_no_others() {
    let house = TestHouse::start(&[]);
    let pcm = speech(6.0);
    let file = wav(&pcm);
    assert!(!house.transcribe(&Form::of(&file)).words().is_empty());
    assert!(house.transcribe(&Form::of(&file).text("stream", "true")).good().contains("[DONE]"));
    assert_eq!(house.transcribe(&Form::of(b"")).status, 400);
    assert_eq!(house.transcribe(&Form::of(&file).text("temperature", "9")).status, 400);
    runtime().block_on(async {
        let mut socket = Socket::open(&house, "words=true").await;
        socket.audio_in(&s16le(&[pcm.clone(), quiet(1.0)].concat()), 640).await;
        let story = socket.end().await.whole();
        assert!(!story.text().is_empty());
    });
    for path in ["/no/such/route", "/v1/streams/stream_of_a_stranger"] {
        assert_eq!(house.get(path).status, 404, "{path}");
    }
    assert_eq!(house.get("/v1/models/with/slashes").status, 200);
    let method = reqwest::Method::from_bytes(b"STRANGE").expect("a method");
    assert_eq!(Answer::to(house.client.request(method, house.url("/health"))).status, 405);
    house.settle();

    let told = Figures::of(&house);
    let table: BTreeMap<String, String> =
        TABLE.iter().map(|row| (row.name.to_owned(), row.kind.name().to_owned())).collect();
    assert_eq!(told.kinds, table);
    for figure in &told.figures {
        let row = TABLE.iter().find(|row| {
            let part = figure.name.strip_prefix(row.name);
            part == Some("")
                || row.kind == Kind::Histogram
                    && part.is_some_and(|p| ["_bucket", "_sum", "_count"].contains(&p))
        });
        let row = row.unwrap_or_else(|| panic!("not in the table: {figure:?}"));
        let labels: BTreeSet<&str> =
            figure.labels.keys().map(String::as_str).filter(|label| *label != "le").collect();
        assert_eq!(labels, row.labels.iter().copied().collect(), "{figure:?}");
    }

    // Six seconds of a file, which was uploaded twice and made once, and seven of a stream, give or take what is behind
    // the point.
    assert!((5.0..=6.0).contains(&told.sum("audio_seconds_total", &[("profile", "file")])));
    assert!((6.0..=7.0).contains(&told.sum("audio_seconds_total", &[("profile", "live")])));
    assert_eq!(told.sum("upload_bytes_total", &[]), 3.0 * file.len() as f64);
    for lane in ["final", "batch"] {
        assert!(told.sum("queue_wait_seconds_count", &[("lane", lane)]) >= 1.0, "{lane}");
    }
    assert!(told.sum("recognize_seconds_count", &[("kind", "full")]) >= 2.0);
    let recognized = told.sum("windows_total", &[("outcome", "recognized")]);
    assert_eq!(told.sum("recognize_seconds_count", &[]), recognized);
    assert!(told.sum("final_latency_seconds_count", &[]) >= 1.0);
    let uploads = [("route", "/v1/audio/transcriptions"), ("method", "POST")];
    let answered = |status| told.sum("http_requests_total", &[uploads[0], uploads[1], ("status", status)]);
    assert_eq!((answered("200"), answered("400")), (2.0, 2.0));
    assert_eq!(told.sum("errors_total", &[("code", "audio_too_short")]), 1.0);
    assert_eq!(told.sum("errors_total", &[("code", "not_found")]), 2.0);
    assert_eq!(told.sum("http_requests_total", &[("route", "none")]), 1.0);
    assert_eq!(told.sum("http_requests_total", &[("route", "/health"), ("method", "other")]), 1.0);
    assert_eq!(told.sum("http_requests_total", &[("route", "/v1/streams/{id}")]), 1.0);
    assert_eq!(told.sum("http_requests_total", &[("route", "/v1/models/{*id}")]), 1.0);
    assert_eq!(told.sum("cache_lookups_total", &[("outcome", "hit")]), 1.0);
    assert_eq!(told.sum("redis", &[("state", "none")]), 1.0);
    // The one that asks is open.
    assert_eq!((told.sum("http_requests_open", &[]), told.sum("streams_open", &[])), (1.0, 0.0));
    assert_eq!((told.sum("draining", &[]), told.sum("build_info", &[])), (0.0, 1.0));

    // Another server in the same process has figures of its own.
    let other = TestHouse::start(&[]);
    assert_eq!(Figures::of(&other).sum("audio_seconds_total", &[]), 0.0);
}

#[test]
fn a_server_that_is_to_stop_says_so_before_it_closes_its_door() {
    let folder = tempfile::tempdir().expect("a folder");
    let flags = ["serve", "--engine", "script", "--port", "0", "--drain-delay", "4"];
    let served = Served::start(whisperwire(folder.path()).args(flags));
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let get = |path: &str| Answer::to(client.get(format!("http://{}{path}", served.address)));
    assert_eq!(get("/readyz").status, 200);
    served.terminate();
    until("it is not ready", Duration::from_secs(3), || get("/readyz").status == 503);
    let ready = get("/readyz");
    assert!(ready.header("retry-after").parse::<u32>().is_ok());
    let body: Value = serde_json::from_slice(&ready.body).expect("JSON");
    assert_eq!(body["error"]["code"], "draining");
    assert_eq!((get("/livez").status, get("/health").json()["status"].as_str()), (200, Some("draining")));
    assert!(get("/metrics").good().contains("\nwhisperwire_draining 1\n"));
    // Whoever comes until the load balancer has understood is served, also those who stay for a while.
    let upload = client
        .post(format!("http://{}/v1/audio/transcriptions", served.address))
        .header("content-type", Form::content_type())
        .body(Form::of(&wav(&speech(2.0))).body());
    assert!(!Answer::to(upload).words().is_empty());
    let story = runtime().block_on(async {
        let mut socket = Socket::at(served.address, "", &[]).await.expect("there is room");
        socket.audio(&s16le(&speech(2.0))).await;
        socket.rest().await.whole()
    });
    assert_eq!(story.close, Some(1001));
    assert_eq!(served.code(), Some(0));
}
