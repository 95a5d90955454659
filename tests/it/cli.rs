//! `whisperwire transcribe` and `whisperwire models` as scripts use them: files, formats, exit codes.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::program::{Ended, whisperwire};
use crate::sound::{scripted, speech, wav};

/// A folder with a recording in it, and what the scripted engine makes of that.
fn folder() -> (TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let pcm = speech(8.0);
    fs::write(folder.path().join("speech.wav"), wav(&pcm)).expect("room for a file");
    (folder, scripted(&pcm))
}

fn transcribe(folder: &Path, arguments: &[&str]) -> Ended {
    let fixed = ["transcribe", "--engine", "script", "--log", "error"];
    Ended::of(whisperwire(folder).args(fixed).args(arguments))
}

#[test]
fn every_format_goes_to_standard_output() {
    let (folder, text) = folder();
    let written = |format: &str| {
        let ended = transcribe(folder.path(), &["--format", format, "speech.wav"]);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{format}");
        ended.stdout
    };
    assert_eq!(transcribe(folder.path(), &["speech.wav"]).stdout, format!("{text}\n"));
    assert_eq!(written("text"), format!("{text}\n"));
    assert!(written("srt").starts_with("1\n00:00:00,"));
    assert!(written("vtt").starts_with("WEBVTT\n\n00:00."));
    let json: Value = serde_json::from_str(&written("json")).expect("JSON");
    assert_eq!((json["text"].as_str(), json["task"].as_str()), (Some(text.as_str()), Some("transcribe")));
    let tsv = written("tsv");
    let mut lines = tsv.lines();
    assert_eq!(lines.next(), Some("start\tend\ttext"));
    let mut spoken = Vec::new();
    for line in lines {
        let cells: Vec<&str> = line.split('\t').collect();
        let [start, end, text] = cells[..] else { panic!("{line:?} has not three cells") };
        let millis = |cell: &str| cell.parse::<u32>().expect("milliseconds");
        assert!(millis(start) < millis(end) && millis(end) <= 8000, "{line}");
        spoken.push(text);
    }
    assert_eq!(spoken.join(" "), text);
}

#[test]
fn one_bad_file_costs_only_itself() {
    let (folder, text) = folder();
    fs::write(folder.path().join("empty.wav"), "").expect("room for a file");
    fs::copy(folder.path().join("speech.wav"), folder.path().join("again.wav")).expect("room for a copy");
    let files = ["speech.wav", "empty.wav", "missing.wav", "again.wav"];
    let ended =
        transcribe(folder.path(), &[&["--output", "out/deep", "--format", "srt"], &files[..]].concat());
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    let complaints: Vec<&str> = ended.stderr.lines().collect();
    assert_eq!(complaints.len(), 2, "{complaints:?}");
    assert!(complaints[0].starts_with("whisperwire: empty.wav: "), "{complaints:?}");
    assert!(complaints[1].starts_with("whisperwire: missing.wav: "), "{complaints:?}");

    let out = folder.path().join("out/deep");
    let mut names: Vec<_> = fs::read_dir(&out).expect("a folder").flatten().map(|e| e.file_name()).collect();
    names.sort();
    assert_eq!(names, ["again.srt", "speech.srt"]);
    let srt = fs::read_to_string(out.join("again.srt")).expect("captions");
    assert!(srt.contains(text.split(' ').next_back().expect("words")), "{srt}");
}

#[test]
fn two_recordings_of_one_name_are_not_written_over_each_other() {
    let (folder, _) = folder();
    fs::create_dir(folder.path().join("other")).expect("a folder");
    fs::copy(folder.path().join("speech.wav"), folder.path().join("other/speech.wave"))
        .expect("room for a file");
    let ended = transcribe(folder.path(), &["--output", "out", "speech.wav", "other/speech.wave"]);
    assert!(ended.complaint(64).contains("speech.txt"), "{ended:?}");
    assert!(!folder.path().join("out/speech.txt").exists());
}

#[test]
fn the_hubs_flags_may_stand_after_the_command_too() {
    let (folder, _) = folder();
    let arguments = ["models", "path", "base", "--offline", "--models-dir", "none"];
    assert!(Ended::of(whisperwire(folder.path()).args(arguments)).complaint(1).contains("base"));
}

#[test]
fn a_folder_that_cannot_be_made_is_bad_configuration() {
    let (folder, _) = folder();
    let ended = transcribe(folder.path(), &["--output", "speech.wav/deeper", "speech.wav"]);
    assert!(ended.complaint(64).contains("--output"), "{ended:?}");
}

#[test]
fn a_language_nobody_knows_is_said_so() {
    let (folder, text) = folder();
    let ended = transcribe(folder.path(), &["--language", "German", "speech.wav"]);
    assert_eq!((ended.code, ended.stdout), (Some(0), format!("{text}\n")));
    let json = transcribe(folder.path(), &["--language", "de", "--format", "json", "speech.wav"]).stdout;
    assert!(json.contains(r#""language":"german""#), "{json}");
}

#[test]
fn help_and_version_are_no_errors() {
    let folder = tempfile::tempdir().expect("a folder");
    let all: [&[&str]; 6] = [
        &["--help"],
        &["--version"],
        &["serve", "--help"],
        &["transcribe", "-h"],
        &["models", "--help"],
        &["help"],
    ];
    for arguments in all {
        let ended = Ended::of(whisperwire(folder.path()).args(arguments));
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(!ended.stdout.is_empty(), "{arguments:?}");
    }
    let help = Ended::of(whisperwire(folder.path()).args(["serve", "--help"])).stdout;
    for flag in ["--host", "--port", "--model", "--workers", "--threads", "--device", "--api-key"] {
        assert!(help.contains(flag), "{flag}");
    }
    let without_files = Ended::of(whisperwire(folder.path()).arg("transcribe"));
    assert_eq!(without_files.code, Some(64), "{without_files:?}");
}

#[test]
fn models_are_listed_though_none_is_here() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = |arguments: &[&str]| Ended::of(whisperwire(folder.path()).arg("models").args(arguments));
    let list = models(&["list"]);
    assert_eq!((list.code, list.stderr.as_str()), (Some(0), ""));
    for name in
        ["whisperwire-synth-tiny.en", "tiny", "base.en", "small", "medium", "large-v3", "large-v3-turbo"]
    {
        assert!(list.stdout.lines().any(|line| line.split(' ').next() == Some(name)), "{name}");
    }
    assert!(list.stdout.contains(&folder.path().join("models").display().to_string()));

    assert!(models(&["path", "base"]).complaint(1).contains("base"));
    assert!(models(&["rm", "base"]).complaint(1).contains("base"));
    let pull = models(&["--offline", "pull", "base"]);
    assert!(pull.complaint(1).contains("base"), "{pull:?}");
    assert_eq!(models(&["burn", "base"]).code, Some(64));
    assert!(!folder.path().join("models").exists(), "looking made a folder");
}

#[test]
fn a_model_that_was_put_there_is_found_and_removed() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = |arguments: &[&str]| Ended::of(whisperwire(folder.path()).arg("models").args(arguments));
    let complaint = models(&["path", "tiny"]);
    // The sentence names the place where the file would be.
    let place = complaint.complaint(1).split_whitespace().find(|word| word.contains("/models/"));
    let place = Path::new(place.expect("a path").trim_matches(|c: char| !c.is_alphanumeric() && c != '/'));
    assert!(place.starts_with(folder.path().join("models")), "{}", place.display());
    fs::create_dir_all(place.parent().expect("a folder")).expect("room for a folder");
    fs::write(place, "a stand-in").expect("room for a file");
    assert_eq!(models(&["path", "tiny"]).stdout.trim_end(), place.display().to_string());
    assert_eq!(models(&["rm", "tiny"]).code, Some(0));
    assert!(!place.exists());
    models(&["rm", "tiny"]).complaint(1);
}

#[cfg(feature = "whisper")]
mod with_whisper {
    use super::*;
    use crate::recordings::recording_path;
    use crate::sound::quiet;

    fn bundled(folder: &Path, arguments: &[&str]) -> Ended {
        Ended::of(whisperwire(folder).args(["transcribe", "--log", "error"]).args(arguments))
    }

    #[test]
    fn a_recording_gives_its_words() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = recording_path("sentence-10-espeak.flac");
        let path = path.to_str().expect("a plain path");
        let ended = bundled(folder.path(), &["--model", "bundled", path]);
        assert_eq!(ended.stdout, "Turn left at the bridge and walk for about ten minutes.\n", "{ended:?}");
        assert_eq!(ended.code, Some(0));
        // With no model here and no hub in reach, the default is the same one.
        assert_eq!(bundled(folder.path(), &[path]).stdout, ended.stdout);
    }

    #[test]
    fn what_is_no_audio_is_said_so_and_silence_is_no_failure() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("text.mp3"), "These are words, but not spoken ones.\n".repeat(99))
            .expect("room for a file");
        fs::write(folder.path().join("quiet.wav"), wav(&quiet(3.0))).expect("room for a file");
        let ended = bundled(folder.path(), &["--model", "bundled", "text.mp3", "quiet.wav"]);
        let complaint = ended.complaint(1);
        assert!(complaint.starts_with("text.mp3: ") && complaint.contains("not supported"), "{complaint}");
        assert_eq!(ended.stdout, "\n");
    }

    #[test]
    fn a_model_that_is_not_here_is_one_sentence_that_says_what_to_do() {
        let (folder, _) = folder();
        let ended = bundled(folder.path(), &["--model", "base", "--offline", "speech.wav"]);
        let complaint = ended.complaint(1);
        assert!(complaint.contains("base") && complaint.contains("models pull base"), "{complaint}");
        let ended = bundled(folder.path(), &["--model", "no-such-model", "speech.wav"]);
        assert!(ended.complaint(64).contains("no-such-model"), "{ended:?}");
        let ended = bundled(folder.path(), &["--model", "./speech.wav", "speech.wav"]);
        assert!(ended.complaint(1).contains("speech.wav"), "{ended:?}");
    }
}
