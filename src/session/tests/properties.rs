//! Properties that hold for every recording, every chunking and every order of results.

use proptest::prelude::*;

use super::*;

/// Pause before and length, in milliseconds: mostly dense speech, now and then a pause. A word that stands alone
/// is as long as people make it: a lone sound of 60 ms is a click, and rightly no speech.
pub(super) fn words(lengths: std::ops::Range<u64>) -> impl Strategy<Value = Vec<(u64, u64)>> {
    let pause = prop_oneof![6 => 10u64..80, 3 => 80u64..300, 1 => 300u64..1500];
    prop::collection::vec((pause, lengths), 0..160).prop_map(|words| {
        let alone = |n: usize| n == 0 || words[n].0 > 100 || words.get(n + 1).is_none_or(|next| next.0 > 100);
        words
            .iter()
            .enumerate()
            .map(|(n, &(pause, length))| (pause, if alone(n) { length.max(250) } else { length }))
            .collect()
    })
}

fn run_all(world: &World, chunks: &[usize], seed: u64, in_flight: usize) -> Outcome {
    let mut state = seed;
    let next = move |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    world.run(config(in_flight), chunks, Behaviour { next: Box::new(next), ..Behaviour::default() })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Invariants 1 and 2, and the reason for the session core: the transcript is a function of the recording.
    #[test]
    fn neither_chunks_nor_the_order_of_results_change_anything(
        words in words(60..600),
        chunks in prop::collection::vec(1usize..40_000, 1..20),
        seed: u64,
    ) {
        let world = World::new(words, 1200);
        let whole = world.run(config(1), &[usize::MAX], Behaviour::default());
        let pieces = run_all(&world, &chunks, seed, 3);
        whole.check(&world, &config(1));
        pieces.check(&world, &config(3));
        let finals = |outcome: &Outcome| outcome.segments().cloned().collect::<Vec<_>>();
        prop_assert_eq!(finals(&whole), finals(&pieces));
        prop_assert_eq!(whole.account, pieces.account);
    }

    /// No word is lost or doubled at a seam, although the engine hears whole words only.
    #[test]
    fn every_word_is_told_once(words in words(60..600), seed: u64) {
        let world = World::new(words, 1200);
        let outcome = run_all(&world, &[320], seed, 3);
        prop_assert_eq!(outcome.text(), world.text());
    }

    /// The same when the engine's times are off by up to 150 ms, differently in each window.
    #[test]
    fn every_word_is_told_once_although_times_are_only_about_right(words in words(120..500), seed: u64) {
        let world = World::new(words, 1200);
        let jitter = |word: usize, window: Samples| {
            let mixed = (word as u64 ^ window.0 ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
            (mixed % 4800) as i64 - 2400
        };
        let behaviour = Behaviour { jitter: Box::new(jitter), ..Behaviour::default() };
        let outcome = world.run(config(2), &[1600], behaviour);
        prop_assert_eq!(outcome.text(), world.text());
    }

    /// Invariant 6: what fails is a gap, everything else is told, and the account adds up.
    #[test]
    fn failures_are_gaps_and_nothing_else_is_lost(words in words(60..600), every in 1u64..5, seed: u64) {
        let world = World::new(words, 1200);
        let fails = move |n: u64| (n ^ seed).is_multiple_of(every + 1);
        let outcome =
            world.run(config(2), &[4096], Behaviour { fails: Box::new(fails), ..Behaviour::default() });
        outcome.check(&world, &config(2));
        let told: Vec<String> = outcome.segments().flat_map(|s| &s.words).map(|w| w.text.clone()).collect();
        let gaps: Vec<Gap> = outcome.gaps().collect();
        for word in &world.words {
            let middle = word.span.midpoint();
            let near_a_gap = gaps.iter().any(|gap| {
                middle + Samples(8000) >= gap.span.start && middle <= gap.span.end + Samples(8000)
            });
            prop_assert!(near_a_gap || told.contains(&word.text), "{:?} is neither told nor in a gap", word);
        }
    }

    /// The same where several utterances share a window and long silences are left out of it.
    #[test]
    fn nothing_is_lost_or_doubled_where_utterances_share_a_window(
        words in words(60..600),
        pauses in prop::collection::vec((0usize..160, 1500u64..12_000), 0..6),
        seconds in 8u64..30,
        chunks in prop::collection::vec(1usize..40_000, 1..20),
        seed: u64,
    ) {
        let mut words = words;
        for (at, pause) in pauses {
            if let Some(word) = words.get_mut(at) {
                // Whoever stands alone after a long silence is long enough to be heard.
                *word = (pause, word.1.max(250));
            }
            if let Some(word) = at.checked_sub(1).and_then(|before| words.get_mut(before)) {
                word.1 = word.1.max(250);
            }
        }
        let world = World::new(words, 4000);
        let window = WindowConfig {
            max: Samples::from_millis(seconds * 1000),
            pack: Some(PackConfig::default()),
            ..WindowConfig::default()
        };
        let config = |in_flight| SessionConfig { window: window.clone(), ..config(in_flight) };
        let whole = world.run(config(1), &[usize::MAX], Behaviour::default());
        whole.check(&world, &config(1));
        prop_assert_eq!(whole.text(), world.text());
        for segment in whole.segments() {
            for word in &segment.words {
                let said = world.words.iter().find(|said| said.text == word.text).expect("was said");
                prop_assert_eq!(said.span, word.span, "{} was put elsewhere", word.text);
            }
        }
        let mut state = seed;
        let next = move |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize
        };
        let behaviour = Behaviour { next: Box::new(next), ..Behaviour::default() };
        let pieces = world.run(config(3), &chunks, behaviour);
        pieces.check(&world, &config(3));
        let finals = |outcome: &Outcome| outcome.segments().cloned().collect::<Vec<_>>();
        prop_assert_eq!(finals(&whole), finals(&pieces));
        prop_assert_eq!(whole.account, pieces.account);
        let fails = move |n: u64| (n ^ seed).is_multiple_of(2);
        let failed =
            world.run(config(2), &[4096], Behaviour { fails: Box::new(fails), ..Behaviour::default() });
        failed.check(&world, &config(2));
    }

    /// Flushing at any moment loses nothing but may cut a word in two.
    #[test]
    fn a_flush_at_any_moment_keeps_the_account(words in words(60..600), at in 0usize..400_000) {
        let world = World::new(words, 1200);
        let mut session = Session::new(config(100), VadKind::Energy.build());
        let at = at.min(world.pcm.len());
        session.handle(Input::Audio(&world.pcm[..at]));
        session.handle(Input::Flush);
        session.handle(Input::Audio(&world.pcm[at..]));
        session.handle(Input::End);
        let mut last = None;
        while let Some(output) = session.poll() {
            match output {
                Output::Recognize(window) => {
                    let heard = world.hear(window.span, &Behaviour::default());
                    session.handle(Input::Recognized(window.id, Ok(heard)));
                }
                Output::Finished { account, .. } => last = Some(account),
                Output::Event(_) | Output::Refresh(_) | Output::Withdraw(_) => {}
            }
        }
        let account = last.expect("a session ends");
        prop_assert_eq!(account.received, account.decoded + account.silence);
        prop_assert_eq!(account.received, world.pcm.len() as u64);
    }

    /// Any window length that can be set keeps every word that is shorter than it.
    #[test]
    fn every_window_length_works(words in words(60..350), seconds in 1u64..30) {
        let world = World::new(words, 1200);
        let mut config = config(2);
        config.window.max = Samples::from_millis(seconds * 1000);
        let outcome = world.run(config.clone(), &[5000], Behaviour::default());
        outcome.check(&world, &config);
        prop_assert_eq!(outcome.text(), world.text());
    }
}
