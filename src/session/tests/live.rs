//! Live streams: what is promised is kept, and the text that becomes final is the one a file would get.

use proptest::prelude::*;

use super::properties::words;
use super::*;

fn live(max_in_flight: usize) -> SessionConfig {
    SessionConfig {
        live: Some(LiveConfig { partials: true, promise: Promise::default() }),
        ..config(max_in_flight)
    }
}

/// A reader that keeps the protocol's promises in view.
#[derive(Default)]
struct Reader {
    /// By utterance: the stable text last shown, and what finals have told since.
    stable: std::collections::BTreeMap<u32, (String, String)>,
    partials: usize,
}

impl Reader {
    fn read(events: &[Event]) -> Self {
        let mut reader = Self::default();
        for event in events {
            match event {
                Event::Partial(partial) => {
                    reader.partials += 1;
                    let text: String = partial.stable.iter().map(|word| word.text.as_str()).collect();
                    let (stable, told) = reader.stable.entry(partial.utterance).or_default();
                    if let Some(rest) = stable.strip_prefix(told.as_str()) {
                        assert!(text.starts_with(rest), "{rest:?} was promised, now it is {text:?}");
                    } else {
                        assert!(told.starts_with(stable.as_str()), "{stable:?} was promised, {told:?} told");
                    }
                    (*stable, *told) = (text, String::new());
                }
                Event::Final(segment) => {
                    if let Some((_, told)) = reader.stable.get_mut(&segment.utterance) {
                        told.push_str(&segment.text());
                    }
                }
                _ => {}
            }
        }
        for (stable, told) in reader.stable.values() {
            assert!(told.starts_with(stable.as_str()), "{stable:?} was promised, {told:?} told");
        }
        reader
    }
}

/// A random source for one run.
fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed | 1;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    }
}

fn behaviour<'a>(seed: u64) -> Behaviour<'a> {
    let (mut choice, mut answer) = (random(seed), random(!seed));
    Behaviour {
        next: Box::new(move |_| choice() as usize),
        answers: Box::new(move || answer().is_multiple_of(8)),
        ..Behaviour::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// With an engine that hears well, live and file are the same text, however answers and audio interleave.
    #[test]
    fn live_equals_file(
        words in words(60..600),
        chunk in 100usize..4_000,
        context in prop_oneof![Just(0u64), 100u64..12_000],
        seed: u64,
    ) {
        let world = World::new(words, 1200);
        let file = world.run(config(2), &[usize::MAX], Behaviour::default());
        let mut live = live(2);
        live.window.context = Samples::from_millis(context);
        let outcome = world.run(live.clone(), &[chunk], behaviour(seed));
        outcome.check(&world, &live);
        Reader::read(&outcome.events);
        prop_assert_eq!(outcome.text(), file.text());
        prop_assert_eq!(outcome.account, file.account);
        prop_assert_eq!(outcome.overruled, 0);
    }

    /// Failures and promises: what was shown as stable is told although its final failed.
    #[test]
    fn a_failed_final_keeps_its_promise(words in words(60..600), every in 2u64..5, seed: u64) {
        let world = World::new(words, 1200);
        let fails = move |n: u64| (n ^ seed).is_multiple_of(every);
        let outcome = world.run(live(2), &[320], Behaviour { fails: Box::new(fails), ..behaviour(seed) });
        outcome.check(&world, &live(2));
        Reader::read(&outcome.events);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// With one that changes its mind all the time, nothing that was promised is taken back.
    #[test]
    fn no_promise_is_broken(words in words(60..600), every in 2u64..12, seed: u64) {
        let world = World::new(words, 1200);
        let mishears = move |word: usize, answer: u64, _| {
            (word as u64 ^ answer.wrapping_mul(31) ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40 < (1 << 24) / every
        };
        let outcome = world.run(
            live(2),
            &[320],
            Behaviour { mishears: Box::new(mishears), ..behaviour(seed) },
        );
        outcome.check(&world, &live(2));
        Reader::read(&outcome.events);
        // Nothing is lost or doubled either: each word is told once, as itself or misheard.
        let numbers: Vec<&str> = outcome
            .segments()
            .flat_map(|segment| &segment.words)
            .map(|word| word.text.trim().trim_start_matches(['w', 'x']).split('_').next().unwrap_or(""))
            .collect();
        let expected: Vec<String> = (0..world.words.len()).map(|n| n.to_string()).collect();
        prop_assert_eq!(numbers, expected);
    }
}

#[test]
fn partials_come_while_somebody_speaks() {
    let world = World::new((0..60).map(|_| (40, 260)), 1500);
    let outcome =
        world.run(live(2), &[320], Behaviour { answers: Box::new(|| true), ..Behaviour::default() });
    let reader = Reader::read(&outcome.events);
    assert!(reader.partials >= 25, "{} partials in 18 s", reader.partials);
    assert_eq!(outcome.text(), world.text());
}

/// The audio of the last window is complete before the endpoint is decided, and is decoded in the meantime.
#[test]
fn the_final_is_there_when_the_endpoint_is_decided() {
    let world = World::new((0..8).map(|_| (40, 260)), 1500);
    let outcome =
        world.run(live(2), &[320], Behaviour { answers: Box::new(|| true), ..Behaviour::default() });
    let kinds: Vec<&str> = outcome
        .events
        .iter()
        .filter_map(|event| match event {
            Event::SpeechStopped { .. } => Some("stopped"),
            Event::Final(_) => Some("final"),
            _ => None,
        })
        .collect();
    assert_eq!(kinds, ["stopped", "final"]);
    // No answer was needed between the two: the last partial already showed the whole text.
    let last = outcome.events.iter().rev().find_map(|event| match event {
        Event::Partial(partial) => Some(partial.stable.iter().chain(&partial.tentative)),
        _ => None,
    });
    let shown: String = last.expect("there were partials").map(|word| word.text.as_str()).collect();
    assert_eq!(shown, world.text());
}

#[test]
fn concealed_audio_is_heard_and_reported() {
    let world = World::new((0..10).map(|_| (40, 260)), 1500);
    for (start, during_speech) in [(1.0, true), (3.6, false)] {
        let (start, end) = (Samples::from_seconds(start), Samples::from_seconds(start + 0.06));
        let mut session = Session::new(live(1), VadKind::Energy.build());
        session.handle(Input::Audio(&world.pcm[..start.0 as usize]));
        session.handle(Input::Concealed(&world.pcm[start.0 as usize..end.0 as usize]));
        session.handle(Input::Audio(&world.pcm[end.0 as usize..]));
        session.handle(Input::End);
        let (mut gaps, mut account, mut text) = (vec![], Account::default(), String::new());
        while let Some(output) = session.poll() {
            match output {
                Output::Recognize(window) => {
                    let heard = world.hear(window.span, &Behaviour::default());
                    session.handle(Input::Recognized(window.id, Ok(heard)));
                }
                Output::Event(Event::Gap(gap)) => gaps.push(gap),
                Output::Event(Event::Final(segment)) => text += &segment.text(),
                Output::Finished { account: all, .. } => account = all,
                _ => {}
            }
        }
        assert_eq!(gaps, [Gap { span: Span::new(start, end), reason: GapReason::Corrupt }]);
        assert_eq!((account.lost, account.received), (960, world.pcm.len() as u64), "{during_speech}");
        assert_eq!(account.received, account.decoded + account.silence + account.lost);
        assert_eq!(text, world.text());
    }
}
