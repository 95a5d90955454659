//! OpenAI's own weights through the whole house. `./dev test --real` brings `base` and names its file in
//! `WHISPERWIRE_REAL_MODEL`; without that every test here passes, and the first of them says SKIPPED and why.
//!
//! The model is loaded once for all of them. [`house`], [`heard`] and [`streamed`] are what tests are made of.

use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;

use whisperwire_client::wer;

use crate::client::{Form, runtime};
use crate::house::TestHouse;
use crate::live::model::streamed_to;
use crate::live::story::Story;
use crate::recordings::{manifest, recording};

const MODEL: &str = "WHISPERWIRE_REAL_MODEL";

/// The model writes numbers as digits.
const AS_WRITTEN: [(&str, &str); 2] = [("nine fifteen", "9.15"), ("ten minutes", "10 minutes")];

/// `base` hears "you could rise" for "you cook rice" in it, in faster-whisper too.
const MISHEARD: &str = "sentence-05-rms.flac";

/// The server with the real model, or nothing where there is no such model. It is never stopped.
fn house() -> Option<&'static TestHouse> {
    static HOUSE: OnceLock<Option<TestHouse>> = OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "a setting of these tests, not of the server")]
    let start = || {
        let Some(file) = std::env::var_os(MODEL).filter(|name| !name.is_empty()).map(PathBuf::from) else {
            // Not by a macro: the tests pass, and what passing tests print is not shown.
            let why = format!(
                "SKIPPED: the tests with real weights, because {MODEL} names none: ./dev test --real\n"
            );
            std::io::stderr().write_all(why.as_bytes()).expect("somewhere to say it");
            return None;
        };
        assert!(file.is_file(), "{MODEL} names {}, which is no file", file.display());
        Some(TestHouse::with_model(&file, &["--workers", "2", "--threads", "1", "--max-streams", "4"]))
    };
    HOUSE.get_or_init(start).as_ref()
}

/// What is heard in an upload.
fn heard(house: &TestHouse, file: &[u8]) -> String {
    house.transcribe(&Form::of(file).text("language", "en")).words()
}

/// What is heard of a recording of the repository, sent live as fast as it goes.
fn streamed(house: &TestHouse, name: &str) -> Story {
    runtime().block_on(streamed_to(house, "language=en", name, false))
}

/// The recordings of this kind: their names, and what is said in them, as the model writes it.
fn recordings(kind: &str) -> Vec<(String, String)> {
    let text = |entry: &serde_json::Value, key: &str| entry[key].as_str().expect("a text").to_owned();
    let all = manifest().into_iter().map(|entry| (text(&entry, "file"), text(&entry, "text")));
    let written = |said: String| AS_WRITTEN.iter().fold(said, |said, (from, to)| said.replace(from, to));
    all.filter(|(name, _)| name.starts_with(kind)).map(|(name, said)| (name, written(said))).collect()
}

#[test]
fn sentences_are_heard_word_for_word() {
    let Some(house) = house() else { return };
    let mut wrong = Vec::new();
    let all = recordings("sentence");
    assert!(all.len() >= 12);
    for (name, said) in all.into_iter().filter(|(name, _)| name != MISHEARD) {
        let heard = heard(house, &recording(&name));
        if wer::normalise(&heard) != wer::normalise(&said) {
            wrong.push(format!("{name}\n  said:  {said}\n  heard: {heard}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_dialogue_is_heard_within_a_few_words() {
    let Some(house) = house() else { return };
    for (name, said) in recordings("dialogue-mono") {
        let heard = heard(house, &recording(&name));
        let score = wer::score(&said, &heard);
        assert!(score.reference_words > 50 && score.rate() <= 0.05, "{name}: {score:?}\n{said}\n{heard}");
    }
}

#[test]
fn live_sentences_are_heard_within_a_few_words() {
    let Some(house) = house() else { return };
    let mut text = Vec::new();
    let all = recordings("sentence");
    let score: wer::Score = all
        .iter()
        .map(|(name, said)| {
            let heard = streamed(house, name).text();
            let score = wer::score(said, &heard);
            text.push(format!("{name}\n  said:  {said}\n  heard: {heard}"));
            score
        })
        .sum();
    assert!(score.reference_words > 100 && score.rate() <= 0.05, "{score:?}\n{}", text.join("\n"));
}
