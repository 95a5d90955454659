//! Scripts: a recording in words and the events it must give, one file each.
//!
//! ```text
//! config  hangover=600ms          any of: hangover, preroll, postroll, window (lengths); `live` for partials
//! speech  0.30..2.40  "the quick brown fox"    words spread evenly, with short gaps
//! silence 2.40..2.80
//! fail    1                       the n-th window fails
//! expect
//! start 0 0.00
//! stop 0 2.70
//! final 0 "the quick brown fox"
//! partial 0 "the quick| brown"     stable and tentative text
//! gap 0.00..2.70
//! ```

use super::*;

macro_rules! scripts {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            play(include_str!(concat!(stringify!($name), ".session")));
        })*
    };
}

scripts! { pause_mid_sentence two_utterances long_speech failed_window click_is_no_speech tail_is_kept live_sentence }

fn play(script: &str) {
    let mut config = config(2);
    let mut words = Vec::new();
    let mut end = Samples(0);
    let mut failing = Vec::new();
    let mut expected = Vec::new();
    let mut lines = script.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    for line in lines.by_ref() {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "config" => rest.split_whitespace().for_each(|setting| configure(&mut config, setting)),
            "speech" => {
                let (at, text) = rest.trim().split_once(' ').expect("a span and a text");
                words.extend(spread(span(at), text.trim().trim_matches('"')));
                end = span(at).end;
            }
            "silence" => end = span(rest.trim()).end,
            "fail" => failing.push(rest.trim().parse::<u64>().expect("a number") - 1),
            "expect" => break,
            other => panic!("unknown line: {other}"),
        }
    }
    expected.extend(lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")));
    let world = World::sounding(words, end);
    let fails = |n: u64| failing.contains(&n);
    let answers = || true;
    let behaviour = Behaviour { fails: Box::new(fails), answers: Box::new(answers), ..Behaviour::default() };
    let outcome = world.run(config.clone(), &[320], behaviour);
    outcome.check(&world, &config);
    let told: Vec<String> = outcome.events.iter().filter_map(tell).collect();
    assert_eq!(told, expected, "\n{}", told.join("\n"));
}

fn tell(event: &Event) -> Option<String> {
    Some(match event {
        Event::SpeechStarted { utterance, at } => format!("start {utterance} {at}"),
        Event::SpeechStopped { utterance, at } => format!("stop {utterance} {at}"),
        Event::Partial(partial) => {
            let text = |words: &[Word]| words.iter().map(|word| word.text.as_str()).collect::<String>();
            format!(
                "partial {} \"{}|{}\"",
                partial.utterance,
                text(&partial.stable),
                text(&partial.tentative)
            )
        }
        Event::Final(segment) => format!("final {} \"{}\"", segment.utterance, segment.text().trim()),
        Event::Gap(gap) => format!("gap {}..{}", gap.span.start, gap.span.end),
        Event::UtteranceDone { .. } | Event::Flushed { .. } => return None,
    })
}

fn configure(config: &mut SessionConfig, setting: &str) {
    if setting == "live" {
        config.live = Some(LiveConfig { partials: true, promise: Promise::default() });
        return;
    }
    let (name, value) = setting.split_once('=').expect("name=value");
    let millis = value.trim_end_matches("ms").parse().expect("milliseconds");
    let value = Samples::from_millis(millis);
    match name {
        "hangover" => config.endpoint.hangover = value,
        "preroll" => config.endpoint.preroll = value,
        "postroll" => config.endpoint.postroll = value,
        "window" => config.window.max = value,
        other => panic!("unknown setting: {other}"),
    }
}

fn span(text: &str) -> Span {
    let (start, end) = text.split_once("..").expect("start..end");
    let at = |text: &str| Samples::from_seconds(text.parse().expect("seconds"));
    Span::new(at(start), at(end))
}

/// Words of equal length with 30 ms between them.
fn spread(span: Span, text: &str) -> Vec<Word> {
    let texts: Vec<&str> = text.split_whitespace().collect();
    let share = span.len().0 / texts.len() as u64;
    texts
        .iter()
        .zip(0u64..)
        .map(|(text, n)| {
            let start = span.start + Samples(n * share);
            word(&format!(" {text}"), Span::new(start, start + Samples(share - 480)))
        })
        .collect()
}
