//! Scripted events, and the numbers they must give.

use whisperwire_protocol::stream::{Account, Done};

use super::*;
use crate::mock::said;

/// A stream that sent each chunk of 20 ms 5 ms late, with a recording of 3 s from second 1 on: speech from 1.5 to 3.5.
fn tape(events: Vec<(f64, ServerMessage)>) -> (Tape, Vec<Recording>) {
    let speech = std::iter::once(8_000..40_000).collect();
    let text = Some("Good morning everyone.".to_owned());
    let recording = Recording { samples: vec![0; 48_000], text, speech, ..Recording::default() };
    let tape = Tape {
        sent: (0..300).map(|chunk| f64::from(chunk) * 0.02 + 0.005).collect(),
        chunk: 320,
        samples: 96_000,
        placed: vec![Placed { recording: 0, start: 16_000, end: 64_000 }],
        events,
        failed: None,
    };
    (tape, vec![recording])
}

fn figures(events: Vec<(f64, ServerMessage)>) -> Figures {
    let (tape, recordings) = tape(events);
    tape.figures(&recordings, None)
}

fn started(at: f64) -> ServerMessage {
    ServerMessage::SpeechStarted { utterance: 0, at }
}

fn stopped(at: f64) -> ServerMessage {
    ServerMessage::SpeechStopped { utterance: 0, at }
}

fn partial(stable: &str, tentative: &str) -> ServerMessage {
    let (stable, tentative) = (stable.to_owned(), tentative.to_owned());
    ServerMessage::Partial(Partial { stable, tentative, ..Partial::default() })
}

fn done(received: u64, lost: u64) -> ServerMessage {
    let account = Account { received, decoded: 90_000 - lost, silence: 6_000, lost };
    ServerMessage::Done(Done { duration: 6.0, account })
}

#[track_caller]
fn near(values: &[f64], wanted: f64) {
    assert_eq!(values.len(), 1, "{values:?}");
    assert!((values[0] - wanted).abs() < 1e-9, "{} is not {wanted}", values[0]);
}

#[test]
fn an_utterance_is_timed_from_what_was_sent() {
    let figures = figures(vec![
        (1.7, started(1.4)),
        (2.405, partial("", "Good mourning")),
        (2.905, partial("Good", " morning")),
        (4.125, stopped(3.6)),
        (4.305, said(0, "Good morning everyone.", 1.5, 3.5)),
        (7.0, done(96_000, 0)),
    ]);
    // The sample at 1.5 s left at 1.505; the last one before 3.5 s is in the chunk that left at 3.485.
    near(&figures.first_text, 2.405 - 1.505);
    near(&figures.after_speech, 4.305 - 3.485);
    near(&figures.after_stop, 0.18);
    near(&figures.decision, 4.125 - 3.485);
    near(&figures.intervals, 0.5);
    assert_eq!((figures.utterances, figures.without_partial, figures.without_text), (1, 0, 0));
    assert_eq!((figures.retracted, figures.tentative, figures.survived), (0, 3, 2));
    assert_eq!((figures.score.errors(), figures.score.reference_words), (0, 3));
    assert_eq!((figures.lost, figures.wrong_accounts), (0, 0));
}

#[test]
fn a_final_without_a_partial_is_the_first_text() {
    let figures =
        figures(vec![(1.7, started(1.5)), (4.0, stopped(3.5)), (4.1, said(0, "Good day.", 1.5, 3.5))]);
    near(&figures.first_text, 4.1 - 1.505);
    assert_eq!((figures.without_partial, figures.intervals.len()), (1, 0));
    assert_eq!((figures.score.substitutions, figures.score.deletions), (1, 1));
    assert!((figures.rates[0] - 2.0 / 3.0).abs() < 1e-9);
}

#[test]
fn the_last_of_several_finals_counts_and_earlier_ones_take_their_words() {
    let figures = figures(vec![
        (1.7, started(1.5)),
        (2.0, partial("Good", " morning every")),
        (2.5, said(0, "Good morning", 1.5, 2.5)),
        (2.6, partial("", "everyone")),
        (4.0, stopped(3.5)),
        (4.2, said(0, "everyone.", 2.5, 3.5)),
    ]);
    near(&figures.after_stop, 0.2);
    assert_eq!(figures.retracted, 0);
    // "every" became "everyone"; "morning" and the "everyone" after it stayed.
    assert_eq!((figures.tentative, figures.survived), (3, 2));
    assert_eq!(figures.score.errors(), 0);
}

#[test]
fn stable_words_that_change_are_counted() {
    let of = |events: Vec<ServerMessage>| {
        figures(events.into_iter().map(|message| (2.0, message)).collect()).retracted
    };
    assert_eq!(of(vec![partial("One two", ""), partial("One two three", "")]), 0);
    assert_eq!(of(vec![partial("One two", ""), partial("One", " two")]), 1, "it may only grow");
    assert_eq!(of(vec![partial("One two three", ""), said(0, "One 2 three four", 0.0, 1.0)]), 2);
    assert_eq!(of(vec![partial("One two", ""), partial("", "")]), 2, "taken away");
    assert_eq!(of(vec![partial("One two", ""), said(0, "one two.", 0.0, 1.0)]), 1, "another writing");
    assert_eq!(of(vec![partial("One", ""), said(0, "One.", 0.0, 1.0), partial("Two", "")]), 0);
}

#[test]
fn gaps_lag_and_accounts_are_kept() {
    let reason = serde_json::from_str("\"overload\"").expect("a reason");
    let figures = figures(vec![
        (1.0, ServerMessage::Lag { seconds: 2.5 }),
        (1.1, ServerMessage::Lag { seconds: 0.0 }),
        (2.0, ServerMessage::Gap { start: 1.0, end: 1.5, reason }),
        (7.0, done(96_000, 800)),
    ]);
    assert_eq!((figures.gaps, figures.gap_seconds, figures.lag), (1, 0.5, 2.5));
    assert_eq!((figures.lost, figures.wrong_accounts), (800, 0));
    let short = self::figures(vec![(7.0, done(90_000, 0))]);
    assert_eq!(short.wrong_accounts, 1, "6,000 samples are missing");
}

#[test]
fn noise_taken_for_speech_has_no_latency_and_no_text() {
    let figures = figures(vec![(0.2, started(5.8)), (0.3, partial("", "Thank you.")), (6.0, stopped(5.9))]);
    assert!(figures.first_text.is_empty() && figures.after_speech.is_empty());
    assert_eq!((figures.utterances, figures.without_text), (1, 1));
}

#[test]
fn a_window_holds_the_utterances_that_ended_in_it() {
    let (tape, recordings) = tape(vec![
        (1.7, started(1.5)),
        (2.0, stopped(1.9)),
        (2.3, said(0, "Good", 1.5, 1.9)),
        (2.3, ServerMessage::UtteranceDone { utterance: 0 }),
        (2.4, ServerMessage::SpeechStarted { utterance: 1, at: 2.2 }),
        (4.0, ServerMessage::SpeechStopped { utterance: 1, at: 3.5 }),
    ]);
    near(&tape.figures(&recordings, Some(0.0..3.0)).after_stop, 0.3);
    // The second one waits for its final: it took at least until now.
    near(&tape.figures(&recordings, Some(3.0..9.0)).after_stop, 5.0);
    assert!(tape.figures(&recordings, Some(9.0..12.0)).after_stop.is_empty());
    assert!(tape.figures(&recordings, None).after_stop.len() == 1, "at the end it has none");
}
