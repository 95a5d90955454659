//! The bundled model through the whole house, on the recordings of the repository: how well it hears, and that the
//! way through the house costs nothing. The bounds leave room for other processors, which round differently.

use serde_json::Value;
use whisperwire_client::wer::{self, Score};

use crate::client::Form;
use crate::house::{TestHouse, shared};
use crate::recordings::{manifest, recording, samples};
use crate::sound::{RATE, quiet, wav};

fn file(entry: &Value) -> &str {
    entry["file"].as_str().expect("a name")
}

fn text(entry: &Value) -> &str {
    entry["text"].as_str().expect("a text")
}

/// What the model hears in a recording of the repository.
fn heard(name: &str) -> String {
    shared().transcribe(&Form::of(&recording(name))).words()
}

#[test]
fn clear_sentences_are_heard_word_for_word() {
    for name in ["sentence-04-slt.flac", "sentence-08-slt.flac", "sentence-10-espeak.flac"] {
        let said = manifest().into_iter().find(|entry| file(entry) == name).expect("it is in the manifest");
        assert_eq!(wer::normalise(&heard(name)), wer::normalise(text(&said)), "{name}");
    }
}

#[test]
fn few_words_are_heard_wrong() {
    let score = |kind: &str| -> Score {
        let all = manifest();
        let files = all.iter().filter(|entry| file(entry).starts_with(kind));
        files.map(|entry| wer::score(text(entry), &heard(file(entry)))).sum()
    };
    let figures = [
        ("sentence", score("sentence"), 0.20),
        ("dialogue-mono", score("dialogue-mono"), 0.20),
        ("dialogue-stereo", score("dialogue-stereo"), 0.20),
        ("monologue", score("monologue"), 0.45),
    ];
    for (kind, score, _) in &figures {
        println!("{kind}: word error rate {:.1} % ({score:?})", 100.0 * score.rate());
    }
    for (kind, score, most) in figures {
        assert!(score.reference_words > 50 && score.rate() <= most, "{kind}: {score:?}");
    }
}

#[test]
fn the_transcript_is_the_same_every_time() {
    let alone = TestHouse::bundled(&["--workers", "1", "--threads", "1"]);
    for name in ["dialogue-mono.flac", "monologue-no-pause.flac"] {
        let verbose = |house: &TestHouse| {
            let form = Form::of(&recording(name)).text("response_format", "verbose_json");
            let answer = house.transcribe(&form.text("timestamp_granularities[]", r#"["word","segment"]"#));
            serde_json::from_str::<Value>(&answer.nameless()).expect("JSON")
        };
        let first = verbose(shared());
        assert!(first["words"].as_array().is_some_and(|words| words.len() > 50));
        for again in [verbose(shared()), verbose(&alone)] {
            assert_eq!(again, first, "{name}");
        }
    }
}

#[test]
fn words_are_heard_when_they_are_said() {
    /// How far a word may lie outside of its turn, in seconds.
    const OFF: f64 = 0.4;
    let dialogue = manifest().into_iter().find(|entry| file(entry) == "dialogue-mono.flac");
    let dialogue = dialogue.expect("it is in the manifest");
    let form = Form::of(&recording(file(&dialogue))).text("response_format", "verbose_json");
    let body = shared().transcribe(&form.text("timestamp_granularities[]", "word")).json();
    let seconds = |value: &Value, key: &str| value[key].as_f64().expect("a time in seconds");
    let times = |values: &Value| -> Vec<(f64, f64)> {
        let values = values.as_array().expect("an array");
        values.iter().map(|value| (seconds(value, "start"), seconds(value, "end"))).collect()
    };
    let (words, mut turns) = (times(&body["words"]), times(&dialogue["turns"]));
    let pcm = samples(file(&dialogue));
    for turn in &mut turns {
        *turn = sounding(&pcm, *turn);
    }
    let mut latest = 0.0;
    for (start, end) in &words {
        assert!(latest <= *start && start <= end && *end <= seconds(&body, "duration"), "{start} to {end}");
        latest = *end;
        let inside = turns.iter().any(|turn| turn.0 - OFF <= *start && *end <= turn.1 + OFF);
        assert!(inside, "the word from {start} to {end} is in no turn");
    }
    let closest = |at: f64, of: &dyn Fn(&(f64, f64)) -> f64| {
        words.iter().map(|word| (of(word) - at).abs()).fold(f64::INFINITY, f64::min)
    };
    for (start, end) in turns {
        let (begins, ends) = (closest(start, &|word| word.0), closest(end, &|word| word.1));
        println!(
            "the turn from {start} to {end}: off by {begins:.2} s at its start and {ends:.2} s at its end"
        );
        assert!(begins <= OFF && ends <= OFF, "{start} to {end}: {begins:.2} and {ends:.2}");
    }
}

/// Without the silence at the edges that a synthesiser leaves there.
fn sounding(pcm: &[f32], (start, end): (f64, f64)) -> (f64, f64) {
    const STEP: usize = RATE / 100;
    let rate = RATE as f64;
    let (first, last) = ((start * rate) as usize, (end * rate) as usize);
    let loud = |n: &usize| {
        let step = &pcm[*n..*n + STEP];
        step.iter().map(|sample| sample * sample).sum::<f32>() > 1e-4 * STEP as f32
    };
    let all = || (first..last - STEP).step_by(STEP).filter(loud);
    (
        all().next().map_or(start, |n| n as f64 / rate),
        all().next_back().map_or(end, |n| (n + STEP) as f64 / rate),
    )
}

/// Cutting a long recording into windows, decoding them beside one another and joining them again must lose next to
/// nothing against the short recordings it is made of.
#[test]
fn a_long_recording_is_as_good_as_its_parts() {
    // Sentences that the model is sure of: in the others a changed pause is enough to change its mind.
    let mut parts = Vec::new();
    for entry in manifest().iter().filter(|entry| file(entry).starts_with("sentence")) {
        let (pcm, alone) = (samples(file(entry)), heard(file(entry)));
        let surrounded = [quiet(0.4), pcm.clone(), quiet(0.7)].concat();
        let elsewhere = shared().transcribe(&Form::of(&wav(&surrounded))).words();
        if [&alone, &elsewhere].iter().all(|heard| wer::score(text(entry), heard).errors() == 0) {
            parts.push((pcm, alone));
        }
    }
    assert!(parts.len() >= 4, "{} sentences are heard exactly", parts.len());
    let (mut pcm, mut expected) = (Vec::new(), Vec::new());
    for (round, (part, text)) in parts.iter().cycle().enumerate() {
        if pcm.len() > 200 * RATE {
            break;
        }
        pcm.extend_from_slice(part);
        pcm.extend(quiet(0.3 + 0.35 * (round % 5) as f64));
        expected.push(text.as_str());
    }
    let whole = shared().transcribe(&Form::of(&wav(&pcm))).words();
    let score = wer::score(&expected.join(" "), &whole);
    println!("{} s: {:.1} % of the words differ ({score:?})", pcm.len() / RATE, 100.0 * score.rate());
    assert!(score.rate() <= 0.05, "{score:?}\n{whole}");
}
