//! How the server program starts and ends: the line that scripts wait for, SIGTERM, exit codes, settings.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::{Answer, Form, Wire, until};
use crate::program::{Ended, Served, whisperwire};
use crate::sound::{scripted, speech, wav};

/// Two seconds of work for the slow engine below.
fn work() -> (Form, String) {
    let pcm = speech(4.0);
    (Form::of(&wav(&pcm)), scripted(&pcm))
}

fn slow(folder: &Path, grace: &str) -> Command {
    let mut command = whisperwire(folder);
    command.args([
        "serve",
        "--engine",
        "script",
        "--port",
        "0",
        "--script-delay-ms",
        "500",
        "--grace",
        grace,
    ]);
    command
}

/// A server with a request in its works, and the connection that waits for the answer.
fn busy(grace: &str) -> (Served, Wire, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let served = Served::start(&mut slow(folder.path(), grace));
    let mut wire = Wire::open(served.address);
    wire.send(&work().0.request());
    until("the engine is busy", Duration::from_secs(10), || health(&served)["workers_busy"] == 1);
    (served, wire, folder)
}

fn health(served: &Served) -> Value {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    Answer::to(client.get(format!("http://{}/health", served.address))).json()
}

#[test]
fn a_server_that_is_asked_to_stop_finishes_what_runs() {
    let (served, wire, _folder) = busy("30");
    served.terminate();
    assert_eq!(wire.answer().words(), work().1);
    assert_eq!(served.code(), Some(0));
}

#[test]
fn a_stream_that_runs_is_finished_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = Served::start(&mut slow(folder.path(), "30"));
    let mut wire = Wire::open(served.address);
    wire.send(&work().0.text("stream", "true").request());
    until("the engine is busy", Duration::from_secs(10), || health(&served)["workers_busy"] == 1);
    served.terminate();
    assert!(wire.answer().good().contains("data: [DONE]"));
    assert_eq!(served.code(), Some(0));
}

#[test]
fn an_idle_server_stops_at_once_and_takes_nothing_new() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = Served::start(&mut slow(folder.path(), "30"));
    // A connection that was used and is kept open does not hold it up.
    assert_eq!(health(&served)["status"], "ok");
    let _idle = Wire::open(served.address);
    let address = served.address;
    let began = Instant::now();
    served.terminate();
    assert_eq!(served.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn a_grace_that_is_too_short_is_an_exit_code() {
    let (served, _wire, _folder) = busy("0");
    served.terminate();
    assert_eq!(served.code(), Some(1));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let (served, wire, _folder) = busy("30");
    served.terminate();
    until("it has heard the first", Duration::from_secs(5), || {
        std::net::TcpStream::connect(served.address).is_err()
    });
    let began = Instant::now();
    served.terminate();
    assert_eq!(served.code(), Some(1));
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    drop(wire);
}

#[test]
fn a_port_that_is_taken_is_one_sentence() {
    let folder = tempfile::tempdir().expect("a folder");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("its address");
    let mut command = whisperwire(folder.path());
    let ended =
        Ended::of(command.args(["serve", "--engine", "script", "--port", &address.port().to_string()]));
    let complaint = ended.complaint(1);
    assert!(complaint.contains(&format!("cannot listen on {address}")), "{complaint}");
    assert_eq!(ended.stdout, "");
}

#[test]
fn bad_configuration_is_one_sentence_and_64() {
    let folder = tempfile::tempdir().expect("a folder");
    let serve = |flags: &[&str]| Ended::of(whisperwire(folder.path()).arg("serve").args(flags));
    for flags in [&["--nonsense"][..], &["--port", "many"], &["--file-window", "60"], &["--engine", "magic"]]
    {
        let ended = serve(flags);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(64), ""), "{flags:?}");
        assert!(ended.stderr.contains(flags[0]), "{}", ended.stderr);
    }
    let open = serve(&["--engine", "script", "--host", "0.0.0.0"]);
    assert!(open.complaint(64).contains("--api-key"), "{open:?}");
    let log = serve(&["--engine", "script", "--log", "whisperwire=loud=er"]);
    assert!(log.complaint(64).contains("--log"), "{log:?}");
    let nothing = Ended::of(&mut whisperwire(folder.path()));
    assert_eq!(nothing.code, Some(64), "{nothing:?}");
}

#[test]
fn settings_are_read_from_a_file_and_from_the_names_people_bring() {
    let folder = tempfile::tempdir().expect("a folder");
    let file =
        "HOST=127.0.0.1\nPORT=0\nAPI_KEY=from-the-file\nWHISPERWIRE_SLOTS=7\nWHISPERWIRE_ENGINE=script\n";
    std::fs::write(folder.path().join(".env"), file).expect("room for a file");
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let models = |served: &Served, key: &str| {
        Answer::to(client.get(format!("http://{}/v1/models", served.address)).bearer_auth(key)).status
    };

    let served = Served::start(whisperwire(folder.path()).arg("serve"));
    assert_ne!(served.address.port(), 8000);
    assert_eq!(health(&served)["slots"], 7);
    assert_eq!((models(&served, "from-the-file"), models(&served, "another")), (200, 401));
    drop(served);

    // The environment is stronger than the file, a flag stronger than both.
    let mut command = whisperwire(folder.path());
    command.env("API_KEY", "from-the-environment").env("WHISPERWIRE_SLOTS", "8").env("HOST", "127.0.0.2");
    let served = Served::start(command.args(["serve", "--slots", "9"]));
    assert!(served.address.ip().to_string() == "127.0.0.2", "{}", served.address);
    assert_eq!(health(&served)["slots"], 9);
    assert_eq!((models(&served, "from-the-environment"), models(&served, "from-the-file")), (200, 401));
}

#[cfg(feature = "whisper")]
#[test]
fn the_model_is_read_from_the_name_people_bring() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = whisperwire(folder.path());
    command.env("WHISPER_MODEL", "no-such-model").args(["serve", "--port", "0"]);
    let ended = Ended::of(&mut command);
    assert!(ended.complaint(64).contains("no-such-model"), "{ended:?}");
    let mut command = whisperwire(folder.path());
    let served = Served::start(command.env("WHISPER_MODEL", "bundled").args(["serve", "--port", "0"]));
    assert_eq!(health(&served)["model"], "whisperwire-synth-tiny.en");
}
