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
/// Silero's network, where it could be had.
const VAD: &str = "WHISPERWIRE_REAL_VAD";

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
        let mut flags = vec!["--workers", "2", "--threads", "1", "--max-streams", "4"];
        let detector = std::env::var(VAD).ok().filter(|name| !name.is_empty());
        if let Some(detector) = &detector {
            assert!(std::path::Path::new(detector).is_file(), "{VAD} names {detector}, which is no file");
            flags.extend(["--vad-model", detector]);
        }
        Some(TestHouse::with_model(&file, &flags))
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

/// What is heard in one of `tests/audio/cases`, with its words.
fn case(house: &TestHouse, name: &str, fields: &[(&str, &str)]) -> (String, Vec<(String, f64, f64)>) {
    let form = Form::of(&recording(&format!("cases/{name}.flac")))
        .text("response_format", "verbose_json")
        .text("timestamp_granularities[]", "word")
        .text("cache", "false");
    let form = fields.iter().fold(form, |form, (name, value)| form.text(name, value));
    let answer = house.transcribe(&form).json();
    let word = |word: &serde_json::Value| {
        let at = |edge: &str| word[edge].as_f64().expect("a time");
        (letters(word["word"].as_str().expect("a word")), at("start"), at("end"))
    };
    let words = answer["words"].as_array().expect("words were asked for").iter().map(word).collect();
    (answer["text"].as_str().expect("a text").trim().to_owned(), words)
}

fn letters(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Where the espeak-ng voice of `wordtimes.flac` says each word, in seconds.
const SAID_APART: [(&str, f64, f64); 15] = [
    ("monday", 0.50, 1.02),
    ("tuesday", 1.32, 1.87),
    ("wednesday", 2.17, 2.83),
    ("thursday", 3.13, 3.75),
    ("friday", 4.05, 4.61),
    ("saturday", 4.91, 5.55),
    ("sunday", 5.85, 6.39),
    ("january", 6.69, 7.39),
    ("february", 7.69, 8.39),
    ("march", 8.69, 9.22),
    ("april", 9.52, 9.96),
    ("august", 10.26, 10.76),
    ("october", 11.06, 11.76),
    ("november", 12.06, 12.79),
    ("december", 13.09, 13.76),
];

#[test]
fn words_begin_where_they_are_said() {
    let Some(house) = house() else { return };
    let truth: std::collections::BTreeMap<String, Vec<(String, f64)>> =
        serde_json::from_slice(&recording("cases/words.json")).expect("places of words");
    let mut off = Vec::new();
    let mut check = |name: &str, said: Vec<(String, f64)>| {
        let (text, heard) = case(house, name, &[("language", "en")]);
        // `base` leaves out the last word of a list now and then.
        assert!(heard.len() + 1 >= said.len() && heard.len() <= said.len(), "{name}: {text}");
        assert!(heard.iter().all(|(_, start, end)| start < end), "{name}: {heard:?}");
        assert!(heard.windows(2).all(|pair| pair[0].2 <= pair[1].1), "{name}: {heard:?}");
        off.extend(heard.iter().zip(said).map(|((_, start, _), (_, at))| (start - at).abs()));
    };
    for (name, said) in truth {
        check(name.trim_end_matches(".flac"), said);
    }
    check("wordtimes", SAID_APART.iter().map(|(word, start, _)| ((*word).to_owned(), *start)).collect());
    off.sort_by(f64::total_cmp);
    let (median, most) = (off[off.len() / 2], off[off.len() * 9 / 10]);
    assert!(off.len() > 70 && median <= 0.1 && most <= 0.2, "{} words, {median:.2} {most:.2}", off.len());
}

#[test]
fn a_number_ends_where_its_last_digit_does() {
    let Some(house) = house() else { return };
    let (text, words) = case(house, "card-p", &[("language", "en")]);
    assert!(letters(&text).ends_with("4155267190384421"), "{text}");
    let last = words.last().expect("words").2;
    // The recording is 8 s long, and the number is said to its end.
    assert!(last > 6.3, "the last word ends at {last}: {words:?}");
}

#[test]
fn a_word_that_is_cut_tight_is_heard() {
    let Some(house) = house() else { return };
    let (text, words) = case(house, "short-stop", &[("language", "en")]);
    assert_eq!(letters(&text), "stop");
    assert!(words.iter().all(|(_, start, end)| start < end), "{words:?}");
}

#[test]
fn the_quiet_side_of_a_call_is_heard() {
    let Some(house) = house() else { return };
    let (text, _) = case(house, "call30", &[("language", "en")]);
    let heard = wer::normalise(&text).join(" ");
    for said in ["how can i help you", "give me your name", "my name is john miller", "have a nice day"] {
        assert!(heard.contains(said), "{said:?} is missing in {text:?}");
    }
}

#[test]
fn real_repetition_is_text_and_a_stuck_decoder_is_not() {
    let Some(house) = house() else { return };
    let (text, _) = case(house, "lights", &[("language", "en")]);
    let times = letters(&text).matches("light").count();
    assert!((12..=20).contains(&times), "{times} times: {text}");
    let (text, _) = case(house, "tight", &[("language", "th")]);
    assert!(text.chars().count() < 150, "{text}");
}

#[test]
fn a_ringing_line_says_nothing_with_a_prompt_and_without() {
    let Some(house) = house() else { return };
    #[expect(clippy::disallowed_methods, reason = "a setting of these tests, not of the server")]
    if std::env::var_os(VAD).is_none() {
        std::io::stderr()
            .write_all(b"SKIPPED: the ringing line, because there is no Silero\n")
            .expect("is said");
        return;
    }
    for fields in [&[("language", "en"), ("prompt", "The assistant is called Jarvix.")][..], &[]] {
        let (text, _) = case(house, "ring", fields);
        assert_eq!(text, "", "{fields:?}");
    }
}
