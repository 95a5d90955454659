//! What the pure core costs: an hour of speech through voice activity, endpointing, windows and stitching, with an
//! engine that answers at once.

use std::hint::black_box;

use criterion::Criterion;
use whisperwire::engine::script::words_in;
use whisperwire::session::{Input, Output, Session, SessionConfig};
use whisperwire::transcript::{Phrase, RATE, Recognition, Samples, Span};
use whisperwire::vad::VadKind;

fn main() {
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    let minute = minute();
    for (name, kind) in
        [("energy", VadKind::Energy), ("webrtc", VadKind::Webrtc), ("earshot", VadKind::Earshot)]
    {
        criterion.bench_function(&format!("an hour through the core, {name}"), |bench| {
            bench.iter(|| black_box(hour(&minute, &kind)));
        });
    }
    criterion.final_summary();
}

/// Syllables: a buzz that swells and fades four times a second, with a pause of two seconds in every ten.
fn minute() -> Vec<f32> {
    (0..60 * RATE)
        .map(|n| {
            let t = n as f32 / RATE as f32;
            let syllable = (std::f32::consts::TAU * 2.0 * t).sin().abs();
            let voice: f32 =
                (1..12).map(|k| (std::f32::consts::TAU * 130.0 * k as f32 * t).sin() / k as f32).sum();
            if t % 10.0 < 8.0 { 0.2 * syllable * voice } else { 0.0 }
        })
        .collect()
}

/// Returns how many words came out.
fn hour(minute: &[f32], kind: &VadKind) -> usize {
    let mut session =
        Session::new(SessionConfig { max_in_flight: 3, ..SessionConfig::default() }, kind.build());
    let mut words = 0;
    let mut drain = |session: &mut Session| {
        while let Some(output) = session.poll() {
            match output {
                Output::Recognize(window) => {
                    let heard = hear(window.span);
                    session.handle(Input::Recognized(window.id, Ok(heard)));
                }
                Output::Event(whisperwire::transcript::Event::Final(segment)) => words += segment.words.len(),
                _ => {}
            }
        }
    };
    for _ in 0..60 {
        for chunk in minute.chunks(RATE as usize / 2) {
            session.handle(Input::Audio(chunk));
            drain(&mut session);
        }
    }
    session.handle(Input::End);
    drain(&mut session);
    words
}

fn hear(span: Span) -> Recognition {
    let words = words_in(span, |_| true);
    let keep = |span: Span| span.len() > Samples(0);
    let words = words.into_iter().filter(|word| keep(word.span)).collect();
    Recognition {
        phrases: vec![Phrase { words, temperature: 0.0, no_speech: 0.0 }],
        ..Recognition::default()
    }
}
