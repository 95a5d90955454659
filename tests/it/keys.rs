//! Who is let in: keys from everywhere they can come from, and pages from where they may.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::client::{Answer, Form, runtime, until};
use crate::house::TestHouse;
use crate::live::socket::Socket;
use crate::program::{Served, whisperwire};
use crate::sound::{speech, wav};

/// What `printf %s 'open sesame' | sha256sum` writes.
const SESAME: &str = "41ef4bb0b23661e66301aac36066912dac037827b4ae63a7b1165a5aa93ed4eb";

/// A file of keys in this folder.
pub(crate) fn keys_file(folder: &Path, text: &str) -> String {
    let path = folder.join("keys.toml");
    std::fs::write(&path, text).expect("it can be written");
    path.to_str().expect("a plain path").to_owned()
}

fn status_with(url: &str, key: &str) -> u16 {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    Answer::to(client.get(url).header("x-api-key", key)).status
}

#[test]
fn keys_come_from_flags_the_environment_and_a_file_that_is_read_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let hashed = format!("[alice]\nsha256 = \"{SESAME}\"\n");
    let file = keys_file(folder.path(), &format!("{hashed}[bob]\nkey = \"bob's\"\n"));
    let flags = ["serve", "--engine", "script", "--port", "0", "--api-keys-file", &file];
    let served = Served::start(whisperwire(folder.path()).args(flags).env("API_KEY", "first, second"));
    let url = format!("http://{}/v1/models", served.address);
    for known in ["first", "second", "open sesame", "bob's"] {
        assert_eq!(status_with(&url, known), 200, "{known}");
    }
    for unknown in ["", "third", SESAME, "bob", "alice"] {
        assert_eq!(status_with(&url, unknown), 401, "{unknown}");
    }

    keys_file(folder.path(), &format!("{hashed}[carol]\nkey = \"carol's\"\n"));
    served.signal("HUP");
    until("the file was read again", Duration::from_secs(20), || status_with(&url, "carol's") == 200);
    assert_eq!(["bob's", "open sesame", "first"].map(|key| status_with(&url, key)), [401, 200, 200]);
    // A file that is no good takes nothing away.
    keys_file(folder.path(), "nonsense");
    served.signal("HUP");
    keys_file(folder.path(), "[dora]\nkey = \"dora's\"\n");
    served.signal("HUP");
    until("the file was read again", Duration::from_secs(20), || status_with(&url, "dora's") == 200);
    assert_eq!(status_with(&url, "first"), 200);
}

#[test]
fn without_a_key_the_log_says_who_is_served() {
    let folder = tempfile::tempdir().expect("a folder");
    for (flags, line) in [
        (&[][..], "there is no API key: this machine alone is served"),
        (&["--host", "0.0.0.0", "--allow-anybody"], "there is no API key: whoever reaches this address"),
        (&["--api-key", "hunter2"], "requests must bring an API key"),
    ] {
        let mut command: Command = whisperwire(folder.path());
        command.args(["serve", "--engine", "script", "--port", "0"]).args(flags);
        let mut child = command.stdout(Stdio::null()).spawn().expect("the program starts");
        let mut told = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let mut before = Vec::new();
        while !before.last().is_some_and(|last: &String| last.contains(line)) {
            let next = told.next().unwrap_or_else(|| panic!("{line:?} was never told: {before:?}"));
            before.push(next.expect("a line of text"));
        }
        assert!(before.iter().all(|line| !line.contains("hunter2")), "{before:?}");
        child.kill().expect("it runs");
        child.wait().expect("it has ended");
    }
}

fn answer_to(request: reqwest::RequestBuilder, headers: &[(&'static str, &str)]) -> Answer {
    Answer::to(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)))
}

/// Checks that this was refused because of where it came from.
fn forbidden(answer: &Answer, code: &str) {
    let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!((answer.status, &body["error"]["code"]), (403, &Value::from(code)), "{body}");
}

#[test]
fn a_stranger_s_page_cannot_use_a_server_without_keys() {
    let house = TestHouse::start(&["--ws-echo"]);
    let (own, port) = (house.url(""), house.address.port());
    let upload = || house.upload("/v1/audio/transcriptions", &Form::of(&wav(&speech(1.0))));
    let localhost = format!("http://localhost:{port}");
    for good in [
        &[][..],
        &[("origin", own.as_str())],
        &[("origin", &localhost), ("host", &localhost[7..])],
        &[("origin", &format!("https://[::1]:{port}")), ("host", &format!("[::1]:{port}"))],
        &[("origin", "https://captions"), ("host", "captions")],
    ] {
        assert_eq!(answer_to(upload(), good).status, 200, "{good:?}");
    }
    for bad in [
        &[("origin", "https://evil.example")][..],
        &[("origin", "null")],
        &[("origin", "http://127.0.0.1:1")],
        &[("origin", &localhost)],
        &[("origin", "nonsense")],
        // A name of its own that points here.
        &[("origin", "http://evil.example:80"), ("host", "evil.example:80")],
        &[("host", "evil.example")],
    ] {
        forbidden(&answer_to(upload(), bad), "insufficient_scope");
        forbidden(&answer_to(house.client.post(house.url("/v1/streams")), bad), "forbidden");
        runtime().block_on(async {
            let Err(refused) = Socket::at(house.address, "", bad).await else { panic!("{bad:?} is on it") };
            assert_eq!((refused.status, &refused.body["error"]["code"]), (403, &Value::from("forbidden")));
        });
    }
    // Looking is for CORS to forbid, unless the name is the stranger's.
    let models = || house.client.get(house.url("/v1/models"));
    let looked = answer_to(models(), &[("origin", "https://evil.example")]);
    assert_eq!((looked.status, looked.header("access-control-allow-origin")), (200, ""));
    forbidden(&answer_to(models(), &[("host", "evil.example")]), "insufficient_scope");
    runtime().block_on(async {
        let own_page = [("origin", own.as_str()), ("host", &own[7..])];
        let socket = Socket::at(house.address, "", &own_page).await.expect("its own page");
        assert_eq!(socket.end().await.whole().close, Some(1000));
    });
}

#[test]
fn with_keys_it_is_the_key_that_counts() {
    let house = TestHouse::start(&["--api-key", "mine"]);
    let evil = [("origin", "https://evil.example"), ("x-api-key", "mine")];
    let upload = house.upload("/v1/audio/transcriptions", &Form::of(&wav(&speech(1.0))));
    assert_eq!(answer_to(upload, &evil).status, 200);
    assert_eq!(answer_to(house.client.get(house.url("/health")), &[("host", "any.example")]).status, 200);
    runtime().block_on(async {
        let Err(refused) = Socket::at(house.address, "", &evil).await else { panic!("a stranger is on it") };
        assert_eq!(refused.status, 403);
    });
}

#[test]
fn pages_of_listed_origins_may() {
    let house = TestHouse::start(&[
        "--api-key",
        "mine",
        "--rate-limits",
        "100/minute",
        "--allowed-origins",
        "https://app.example,http://localhost:3000",
    ]);
    let transcriptions = house.url("/v1/audio/transcriptions");
    let preflight = |origin: &str| {
        let request = house.client.request(reqwest::Method::OPTIONS, &transcriptions);
        let wanted = "authorization,content-type,x-stainless-os";
        let headers = [("access-control-request-method", "POST"), ("access-control-request-headers", wanted)];
        answer_to(request.header("origin", origin), &headers)
    };
    let allowed = preflight("https://app.example");
    assert_eq!((allowed.status, allowed.text()), (200, ""), "it needs no key");
    assert_eq!(allowed.header("access-control-allow-origin"), "https://app.example");
    assert_eq!(allowed.header("access-control-allow-headers"), "authorization,content-type,x-stainless-os");
    assert_eq!(allowed.header("access-control-allow-methods"), "GET,POST,DELETE,OPTIONS");
    assert!(allowed.header("vary").to_ascii_lowercase().contains("origin"));
    assert_eq!(preflight("https://evil.example").header("access-control-allow-origin"), "");

    let upload = |key: &str| {
        let request = house.upload("/v1/audio/transcriptions", &Form::of(&wav(&speech(1.0))));
        answer_to(request, &[("origin", "http://localhost:3000"), ("x-api-key", key)])
    };
    for (key, status) in [("mine", 200), ("other", 401)] {
        let answer = upload(key);
        // The page must be able to read an error, too.
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("access-control-allow-origin"), "http://localhost:3000");
        let exposed = answer.header("access-control-expose-headers");
        for name in ["x-request-id", "retry-after", "x-ratelimit-remaining-requests", "x-cache", "x-task-id"]
        {
            assert!(exposed.split(',').any(|exposed| exposed == name), "{name}: {exposed}");
        }
    }
    runtime().block_on(async {
        let headers = [("origin", "https://app.example"), ("x-api-key", "mine")];
        let socket = Socket::at(house.address, "", &headers).await.expect("it is listed");
        assert_eq!(socket.end().await.whole().close, Some(1000));
    });

    // Of a server without keys, its name may then be used as well.
    let house = TestHouse::start(&["--allowed-origins", "https://app.example", "--resume-grace", "0"]);
    let through_a_proxy = [("origin", "https://app.example"), ("host", "app.example")];
    assert_eq!(answer_to(house.client.post(house.url("/v1/streams")), &through_a_proxy).status, 201);
    let house = TestHouse::start(&["--allowed-origins", "*", "--resume-grace", "0"]);
    let anybody = [("origin", "null"), ("host", "any.example")];
    let answer = answer_to(house.client.post(house.url("/v1/streams")), &anybody);
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (201, "*"));
}
