//! The program itself against a server that listens: files, microphones, Ctrl-C.

#![cfg(unix)]

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use whisperwire_protocol::stream::{ClientMessage, Done, Partial, ServerMessage};

use crate::mock::{Heard, Mock, Talk, said};

#[path = "../src/mock.rs"]
#[expect(dead_code, reason = "the library's tests use the rest of it")]
mod mock;

const AUDIO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/audio");

/// A server that answers each stream with how much audio there was, and what the query was.
async fn counting() -> Mock {
    Mock::new(|_, peer| async {
        let mut talk = peer.accept().await;
        talk.ready(0, 0, 30.0).await;
        let bytes = listen(&mut talk).await;
        let text = format!("{bytes} {}", talk.query);
        let tentative = "guess".to_owned();
        talk.say(None, ServerMessage::Partial(Partial { tentative, ..Partial::default() })).await;
        talk.say(1, said(0, &text, 1.0, 2.0)).await;
        talk.say(2, ServerMessage::Done(Done::default())).await;
        talk.close(1000, "").await;
    })
    .await
}

async fn listen(talk: &mut Talk) -> usize {
    let mut bytes = 0;
    loop {
        match talk.hear().await {
            Some(Heard::Audio(audio)) => bytes += audio.len(),
            Some(Heard::Said(ClientMessage::End)) | None => return bytes,
            Some(Heard::Said(other)) => panic!("{other:?}"),
        }
    }
}

fn ww(mock: &Mock, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ww"));
    command.args(arguments).args(["--server", &mock.address]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn output(child: Child) -> (Option<i32>, String, String) {
    let waited = tokio::task::spawn_blocking(|| child.wait_with_output()).await.expect("a thread");
    let Output { status, stdout, stderr } = waited.expect("an end");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

async fn run(mock: &Mock, arguments: &[&str]) -> (Option<i32>, String, String) {
    output(ww(mock, arguments).spawn().expect("it starts")).await
}

/// One second at 8 kHz in two channels.
fn wav(file: &Path) {
    let spec = hound::WavSpec {
        channels: 2,
        sample_rate: 8_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(file, spec).expect("a file");
    (0..16_000_i16).for_each(|n| writer.write_sample(n).expect("written"));
    writer.finalize().expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wav_file_is_decoded_and_may_be_paced() {
    let mock = counting().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a.wav");
    wav(&file);
    let (file, srt) = (file.to_str().expect("text"), folder.path().join("a.srt"));
    let saved = srt.to_str().expect("text");
    let (code, out, complaints) = run(&mock, &["file", file, "--language", "de", "--save", saved]).await;
    let query = "channels=2&encoding=pcm_s16le&language=de&sample_rate=8000";
    assert_eq!((code, out, complaints.as_str()), (Some(0), format!("00:01.0  32000 {query}\n"), ""));
    let srt = std::fs::read_to_string(srt).expect("it was saved");
    assert_eq!(srt, format!("1\n00:00:01,000 --> 00:00:02,000\n32000 {query}\n\n"));

    let begun = Instant::now();
    let (code, out, _) = run(&mock, &["file", file, "--realtime", "--json", "--chunk", "50ms"]).await;
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(950) && took < Duration::from_secs(3), "{took:?}");
    let events: Vec<serde_json::Value> =
        out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!((code, kinds), (Some(0), vec!["partial", "final", "done"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_files_go_as_they_are() {
    let mock = counting().await;
    let file = format!("{AUDIO}/sentence-06-kal16.flac");
    let bytes = std::fs::metadata(&file).expect("a file").len();
    let (code, out, _) = run(&mock, &["file", &file]).await;
    assert_eq!((code, out), (Some(0), format!("00:01.0  {bytes} encoding=container\n")));
    let (code, out, _) = run(&mock, &["file", &file, "--encoding", "pcm_s16le", "--grace", "5s"]).await;
    let query = "channels=1&encoding=pcm_s16le&grace=5.0&sample_rate=16000";
    assert_eq!((code, out), (Some(0), format!("00:01.0  108050 {query}\n")));
    // 350 kbit a second: the file lasts about a second.
    let begun = Instant::now();
    let (code, out, _) = run(&mock, &["file", &file, "--realtime", "--bitrate", "350000"]).await;
    assert_eq!((code, out), (Some(0), format!("00:01.0  {bytes} encoding=container\n")));
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());

    for (arguments, complaint) in [
        (vec!["file", "nowhere.ogg"], "ww: The file cannot be read"),
        (
            vec!["file", &file, "--realtime", "--encoding", "container"],
            "ww: To send a file as it is in real time",
        ),
        (vec!["file", "Cargo.toml", "--encoding", "pcm_s16le"], ""),
    ] {
        let (code, _, complaints) = run(&mock, &arguments).await;
        assert_eq!(code, Some(1), "{complaints}");
        assert!(complaints.contains(complaint), "{complaints}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_come_from_standard_input() {
    let mock = counting().await;
    let mut command = ww(&mock, &["mic", "--stdin", "--rate", "8000"]);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("it starts");
    let mut input = child.stdin.take().expect("it is piped");
    input.write_all(&[1; 10_001]).expect("written");
    drop(input);
    let (code, out, complaints) = output(child).await;
    let query = "channels=1&encoding=pcm_s16le&grace=30.0&sample_rate=8000";
    assert_eq!((code, out, complaints.as_str()), (Some(0), format!("00:01.0  10001 {query}\n"), ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_come_from_a_recorder() {
    let mock = counting().await;
    let (code, out, _) = run(&mock, &["mic", "--recorder", "sh -c 'head -c 6400 /dev/zero'"]).await;
    assert_eq!(code, Some(0));
    assert!(out.starts_with("00:01.0  6400 "), "{out}");
    let (code, out, complaints) =
        run(&mock, &["mic", "--recorder", "sh -c 'head -c 640 /dev/zero; exit 3'"]).await;
    assert_eq!(code, Some(1), "a recorder that fails is told, after the text");
    assert!(out.starts_with("00:01.0  640 ") && complaints.contains("exit status: 3"), "{out}{complaints}");
    let (code, _, complaints) = run(&mock, &["mic", "--recorder", "sh -c 'exit 1'"]).await;
    assert_eq!((code, complaints.as_str()), (Some(1), "ww: sh gave no sound (exit status: 1).\n"));
}

fn interrupt(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_once_waits_for_the_rest_and_twice_leaves() {
    let (told, mut heard) = tokio::sync::mpsc::channel(8);
    let mock = Mock::new(move |number, peer| {
        let told = told.clone();
        async move {
            let mut talk = peer.accept().await;
            talk.ready(0, 0, 30.0).await;
            talk.hear_bytes(640).await;
            told.send(()).await.expect("the test waits");
            listen(&mut talk).await;
            told.send(()).await.expect("the test waits");
            if number == 0 {
                talk.say(1, said(0, "The rest.", 0.0, 1.0)).await;
                talk.say(2, ServerMessage::Done(Done::default())).await;
                talk.close(1000, "").await;
            } else {
                listen(&mut talk).await;
            }
        }
    })
    .await;
    let endless = ["mic", "--recorder", "sh -c 'while :; do head -c 640 /dev/zero; sleep 0.02; done'"];
    for (presses, wanted) in [(1, (Some(0), "00:00.0  The rest.\n")), (2, (Some(1), ""))] {
        let child = ww(&mock, &endless).spawn().expect("it starts");
        for _ in 0..presses {
            // First the audio comes, then the end of it.
            heard.recv().await.expect("the server listens");
            interrupt(&child);
        }
        let (code, out, _) = output(child).await;
        assert_eq!((code, out.as_str()), wanted);
        if presses == 1 {
            heard.recv().await.expect("the end was told");
        }
    }
}
