//! The session against a simulated world: recordings whose words are known, and an engine that hears exactly the
//! words that lie whole inside its window.
//!
//! Words of random lengths in random places are the point. Regular words on a regular grid do not test seams:
//! disabling either half of the seam rule leaves such tests green.

mod live;
mod properties;
mod scripts;

use super::*;
use crate::transcript::{Gap, Phrase, RATE, Segment, Word};
use crate::vad::VadKind;

/// A recording whose words are known.
#[derive(Clone, Debug)]
struct World {
    words: Vec<Word>,
    pcm: Vec<f32>,
}

/// What came out of a session.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    events: Vec<Event>,
    account: Account,
    longest_window: Samples,
    most_out: usize,
    overruled: u64,
}

/// How the engine of a test behaves.
struct Behaviour<'a> {
    /// Which of the windows that are out answers next, given how many are out.
    next: Box<dyn FnMut(usize) -> usize + 'a>,
    /// Whether the n-th answer is a failure.
    fails: Box<dyn Fn(u64) -> bool + 'a>,
    /// Whether an answer comes before the next chunk. An answer comes anyhow when the session wants no audio.
    answers: Box<dyn FnMut() -> bool + 'a>,
    /// Whether a word is misheard, by its number, the number of the answer and what the window is for.
    mishears: Box<dyn Fn(usize, u64, WindowKind) -> bool + 'a>,
    /// How far a word's reported time is off, by word and window.
    jitter: Box<dyn Fn(usize, Samples) -> i64 + 'a>,
}

impl Default for Behaviour<'_> {
    fn default() -> Self {
        Self {
            next: Box::new(|_| 0),
            fails: Box::new(|_| false),
            answers: Box::new(|| false),
            mishears: Box::new(|_, _, _| false),
            jitter: Box::new(|_, _| 0),
        }
    }
}

impl World {
    /// Words given as (silence before it, its length) in milliseconds, named by their number.
    fn new(words: impl IntoIterator<Item = (u64, u64)>, tail: u64) -> Self {
        let mut at = Samples(0);
        let words: Vec<Word> = (0u32..)
            .zip(words)
            .map(|(n, (pause, length))| {
                let start = at + Samples::from_millis(pause);
                at = start + Samples::from_millis(length);
                word(&format!(" w{n}"), Span::new(start, at))
            })
            .collect();
        Self::sounding(words, at + Samples::from_millis(tail))
    }

    fn sounding(words: Vec<Word>, end: Samples) -> Self {
        let mut pcm = vec![0.0; end.0 as usize];
        for word in &words {
            for n in word.span.start.0..word.span.end.0 {
                // Louder in the middle, so that a word's edge is quieter than its body.
                let place = (n - word.span.start.0) as f32 / word.span.len().0 as f32;
                pcm[n as usize] = (0.1 + 0.3 * (std::f32::consts::PI * place).sin()) * (n as f32 * 0.9).sin();
            }
        }
        Self { words, pcm }
    }

    /// Feeds the recording in chunks and answers windows as the behaviour says.
    fn run(&self, config: SessionConfig, chunks: &[usize], mut behaviour: Behaviour<'_>) -> Outcome {
        let mut session = Session::new(config, VadKind::Energy.build());
        let mut out: Vec<Window> = Vec::new();
        let mut outcome = Outcome::default();
        let mut finished = 0;
        let mut answered = 0;
        let mut rest = &self.pcm[..];
        let mut sizes = chunks.iter().cycle();
        let mut ended = false;
        loop {
            while let Some(output) = session.poll() {
                match output {
                    Output::Recognize(window) => {
                        self.check(&window);
                        outcome.longest_window = outcome.longest_window.max(window.span.len());
                        out.push(window);
                        let finals = out.iter().filter(|w| w.kind == WindowKind::Final).count();
                        outcome.most_out = outcome.most_out.max(finals);
                        assert!(out.len() - finals <= 1, "more than one partial is out");
                    }
                    Output::Refresh(window) => {
                        self.check(&window);
                        let waits = out.iter_mut().find(|w| w.kind == WindowKind::Partial);
                        let waits = waits.expect("only what is out is refreshed");
                        // Half of them have been begun with.
                        if window.span.end.0 % 2 == 0 {
                            *waits = window;
                        }
                    }
                    Output::Withdraw(id) => {
                        let at = out.iter().position(|w| w.id == id);
                        let at = at.or_else(|| out.iter().position(|w| w.kind == WindowKind::Partial));
                        out.remove(at.expect("only what is out is withdrawn"));
                    }
                    Output::Event(event) => outcome.events.push(event),
                    Output::Finished { account, .. } => {
                        finished += 1;
                        outcome.account = account;
                    }
                }
            }
            if !ended && session.wants_audio() && (out.is_empty() || !(behaviour.answers)()) {
                let size = sizes.next().copied().unwrap_or(1).clamp(1, rest.len().max(1)).min(rest.len());
                if size == 0 {
                    session.handle(Input::End);
                    ended = true;
                } else {
                    session.handle(Input::Audio(&rest[..size]));
                    rest = &rest[size..];
                }
            } else if out.is_empty() {
                break;
            } else {
                let window = out.remove((behaviour.next)(out.len()) % out.len());
                let result = if (behaviour.fails)(answered) {
                    Err(GapReason::Engine)
                } else {
                    let mut heard = self.hear_window(&window, &behaviour);
                    let words = heard.phrases.iter_mut().flat_map(|phrase| &mut phrase.words);
                    for word in words {
                        let number = word.text.trim_start_matches(" w").parse().unwrap_or(0);
                        if (behaviour.mishears)(number, answered, window.kind) {
                            word.text = format!(" x{number}_{answered}");
                        }
                    }
                    Ok(heard)
                };
                answered += 1;
                session.handle(Input::Recognized(window.id, result));
            }
        }
        assert_eq!(finished, 1, "exactly one Finished");
        outcome.overruled = session.overruled();
        outcome
    }

    fn check(&self, window: &Window) {
        assert_eq!(window.pcm.len() as u64, window.span.len().0);
        let parts =
            window.parts.iter().flat_map(|part| &self.pcm[part.start.0 as usize..part.end.0 as usize]);
        assert!(window.pcm.iter().eq(parts), "a window is not what its parts say");
    }

    /// What the engine hears where silences may be left out: on its own timeline.
    fn hear_window(&self, window: &Window, behaviour: &Behaviour<'_>) -> Recognition {
        let mut heard = Recognition::default();
        let mut start = window.span.start;
        for part in &window.parts {
            let there = |at: Samples| Samples(start.0 + at.0.saturating_sub(part.start.0));
            let mut said = self.hear(*part, behaviour).phrases;
            for word in said.iter_mut().flat_map(|phrase| &mut phrase.words) {
                word.span = Span::new(there(word.span.start), there(word.span.end));
            }
            heard.phrases.append(&mut said);
            start = start + part.len();
        }
        heard
    }

    fn hear(&self, window: Span, behaviour: &Behaviour<'_>) -> Recognition {
        let words: Vec<Word> = self
            .words
            .iter()
            .enumerate()
            .filter(|(_, word)| word.span.start >= window.start && word.span.end <= window.end)
            .map(|(n, word)| {
                let off = (behaviour.jitter)(n, window.start);
                let shift = |at: Samples| Samples(at.0.saturating_add_signed(off));
                Word { span: Span::new(shift(word.span.start), shift(word.span.end)), ..word.clone() }
            })
            .collect();
        let phrases = words
            .chunks(7)
            .map(|words| Phrase { words: words.to_vec(), temperature: 0.0, no_speech: 0.0 })
            .collect();
        Recognition { phrases, ..Recognition::default() }
    }

    fn text(&self) -> String {
        self.words.iter().map(|word| word.text.as_str()).collect()
    }
}

impl Outcome {
    fn text(&self) -> String {
        self.segments().map(Segment::text).collect()
    }

    fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.events.iter().filter_map(|event| match event {
            Event::Final(segment) => Some(segment),
            _ => None,
        })
    }

    fn gaps(&self) -> impl Iterator<Item = Gap> {
        self.events.iter().filter_map(|event| match event {
            Event::Gap(gap) => Some(*gap),
            _ => None,
        })
    }

    /// Invariants that hold whatever happened.
    fn check(&self, world: &World, config: &SessionConfig) {
        let Account { received, decoded, silence, lost } = self.account;
        assert_eq!(received, world.pcm.len() as u64);
        assert_eq!(received, decoded + silence + lost, "{:?}", self.account);
        assert!(self.longest_window <= config.window.max, "{} is too long", self.longest_window);
        assert!(self.most_out <= config.max_in_flight.max(1));
        let gaps: u64 = self.gaps().map(|gap| gap.span.len().0).sum();
        assert_eq!(gaps, lost);
        let mut at = Samples(0);
        for event in &self.events {
            let start = match event {
                Event::Final(segment) => segment.words.first().expect("no empty finals").span.start,
                Event::Gap(gap) => gap.span.start,
                _ => continue,
            };
            // A word may begin up to half an overlap before the seam its window was cut at.
            assert!(start + Samples(16_000) >= at, "{event:?} comes after {at}");
            at = at.max(start);
        }
        let words: Vec<&Word> = self.segments().flat_map(|segment| &segment.words).collect();
        assert!(words.windows(2).all(|pair| pair[0].span.start <= pair[1].span.start), "times run backwards");
    }
}

fn word(text: &str, span: Span) -> Word {
    Word { text: text.to_owned(), span, probability: 0.9, tokens: vec![] }
}

fn config(max_in_flight: usize) -> SessionConfig {
    SessionConfig { max_in_flight, ..SessionConfig::default() }
}

#[test]
fn silence_produces_no_window_and_is_accounted_for() {
    let world = World::sounding(vec![], Samples(u64::from(RATE) * 20));
    let outcome = world.run(config(2), &[777], Behaviour::default());
    assert_eq!(outcome.events, []);
    assert_eq!(outcome.account, Account { received: 320_000, decoded: 0, silence: 320_000, lost: 0 });
}

#[test]
fn nothing_at_all_ends_too() {
    let world = World::sounding(vec![], Samples(0));
    assert_eq!(world.run(config(1), &[1], Behaviour::default()).account, Account::default());
}

#[test]
fn results_nobody_asked_for_and_audio_after_the_end_are_ignored() {
    let mut session = Session::new(config(1), VadKind::Energy.build());
    session.handle(Input::Recognized(WindowId(7), Ok(Recognition::default())));
    session.handle(Input::End);
    session.handle(Input::Audio(&[0.5; 4000]));
    session.handle(Input::End);
    let outputs: Vec<Output> = std::iter::from_fn(|| session.poll()).collect();
    assert!(
        matches!(outputs[..], [Output::Finished { account: Account { received: 0, .. }, .. }]),
        "{outputs:?}"
    );
}

#[test]
fn a_session_that_is_not_answered_stops_reading() {
    let mut session = Session::new(config(2), VadKind::Energy.build());
    let speech: Vec<f32> = (0..RATE * 120).map(|n| 0.3 * (n as f32 * 0.9).sin()).collect();
    let mut read = 0;
    for chunk in speech.chunks(320) {
        if !session.wants_audio() {
            break;
        }
        session.handle(Input::Audio(chunk));
        read += chunk.len();
    }
    let windows = std::iter::from_fn(|| session.poll()).filter(|o| matches!(o, Output::Recognize(_))).count();
    assert_eq!(windows, 2);
    assert!((20..32).contains(&(read / RATE as usize)), "stopped after {} s", read / RATE as usize);
}

#[test]
fn the_first_window_with_words_decides_the_language_and_goes_alone() {
    let german = Language::parse("de").expect("in the table");
    let world = World::new((0..100).map(|n| (30, 150 + n % 7 * 40)), 1000);
    let config = SessionConfig { language: SpokenLanguage::Detect, ..config(4) };
    let mut session = Session::new(config, VadKind::Energy.build());
    session.handle(Input::Audio(&world.pcm));
    session.handle(Input::End);
    let ask = |session: &mut Session| -> Vec<Window> {
        std::iter::from_fn(|| session.poll())
            .filter_map(|output| match output {
                Output::Recognize(window) => Some(window),
                _ => None,
            })
            .collect()
    };
    let first = ask(&mut session);
    assert_eq!((first.len(), first[0].language), (1, None));
    let mut heard = world.hear(first[0].span, &Behaviour::default());
    heard.language = Some(german);
    session.handle(Input::Recognized(first[0].id, Ok(heard)));
    let rest = ask(&mut session);
    assert!(rest.len() > 1 && rest.iter().all(|window| window.language == Some(german)), "{}", rest.len());
}
