//! Our own stream protocol: settings become an [`Order`], events become messages.
//!
//! The contract is `protocol/STREAM.md`. Deliberately absent: the transports, and everything about connections, which
//! come and go without the conversation noticing.

use whisperwire_protocol::form::FieldError;
use whisperwire_protocol::openai as wire;
use whisperwire_protocol::stream::{
    Account as WireAccount, Done, Encoding, Final, Partial, ServerMessage, Settings, Task as WireTask,
    TimedWord,
};

use super::wishes::{Endpointing, languages, possible_task};
use crate::audio::{Coding, LiveFormat};
use crate::engine::{DecodeOptions, EngineTraits, Task};
use crate::language::Language;
use crate::transcript::{Account, Event, GapReason, Hypothesis, Samples, Segment, Word};

/// What settings ask of the pipeline.
#[derive(Clone, Debug)]
pub struct Order {
    /// For the engine, the same in every window.
    pub options: DecodeOptions,
    /// The spoken language, where it is asked for or there is no choice; `None` asks for detection.
    pub language: Option<Language>,
    /// What differs from the server's own way of cutting.
    pub endpointing: Endpointing,
    /// How the audio comes.
    pub format: LiveFormat,
    /// Whether to tell hypotheses.
    pub partials: bool,
    /// How the client wants to be told.
    pub view: View,
}

/// How a client wants to be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// With the words of each final.
    pub words: bool,
    /// With this language.
    pub language: Option<Language>,
}

/// Telephones speak at this rate.
const TELEPHONE: u32 = 8_000;
/// Everybody else does at this one, if nothing else is said.
const RATE: u32 = 16_000;

/// Turns settings, whose ranges have been checked, into an order for the engine with these traits.
pub fn order(settings: &Settings, traits: &EngineTraits) -> Result<Order, FieldError> {
    let language = settings.language.as_deref().filter(|text| !text.trim().is_empty());
    let candidates = settings.languages.as_deref().unwrap_or_default();
    let (language, candidates) = languages(language, ("languages", candidates), traits)?;
    let task = match settings.task.unwrap_or_default() {
        WireTask::Transcribe => Task::Transcribe,
        WireTask::Translate => Task::Translate,
    };
    let options = DecodeOptions {
        task: possible_task(task, language, traits)?,
        candidates,
        prompt: settings.prompt.clone(),
        keywords: settings.keywords.clone().unwrap_or_default(),
        temperature: 0.0,
    };
    let endpointing = Endpointing {
        threshold: settings.vad_threshold,
        prefix_padding_ms: settings.prefix_ms,
        silence_duration_ms: settings.silence_ms,
    };
    let view = View { words: settings.words.unwrap_or(false), language };
    let (format, partials) = (format(settings)?, settings.partials.unwrap_or(true));
    Ok(Order { options, language, endpointing, format, partials, view })
}

fn format(settings: &Settings) -> Result<LiveFormat, FieldError> {
    let coding = match settings.encoding.unwrap_or_default() {
        Encoding::PcmS16le => Coding::S16le,
        Encoding::PcmF32le => Coding::F32le,
        Encoding::Mulaw => Coding::Mulaw,
        Encoding::Alaw => Coding::Alaw,
        Encoding::Opus => {
            let channels = settings.channels.unwrap_or(1);
            if channels > 2 {
                return Err(FieldError::new("channels", "Opus packets have 1 or 2 channels."));
            }
            return Ok(LiveFormat::OpusPackets { channels });
        }
        Encoding::OggOpus | Encoding::WebmOpus | Encoding::Container => return Ok(LiveFormat::Container),
    };
    let rate = settings.sample_rate.unwrap_or(default_rate(coding));
    Ok(LiveFormat::Pcm { coding, rate, channels: settings.channels.unwrap_or(1) })
}

fn default_rate(coding: Coding) -> u32 {
    match coding {
        Coding::Mulaw | Coding::Alaw => TELEPHONE,
        Coding::S16le | Coding::F32le => RATE,
    }
}

/// The settings as they are in force, for `ready`: what the client left out is filled in.
pub fn in_force(settings: &Settings, order: &Order, defaults: Endpointing, model: &str) -> Settings {
    let (sample_rate, channels) = match order.format {
        LiveFormat::Pcm { rate, channels, .. } => (Some(rate), Some(channels)),
        LiveFormat::OpusPackets { channels } => (None, Some(channels)),
        LiveFormat::Container => (None, None),
    };
    Settings {
        encoding: Some(settings.encoding.unwrap_or_default()),
        sample_rate,
        channels,
        model: Some(model.to_owned()),
        language: order.language.map(|language| language.code().to_owned()),
        task: Some(match order.options.task {
            Task::Transcribe => WireTask::Transcribe,
            Task::Translate => WireTask::Translate,
        }),
        partials: Some(order.partials),
        words: Some(order.view.words),
        vad_threshold: settings.vad_threshold.or(defaults.threshold),
        silence_ms: settings.silence_ms.or(defaults.silence_duration_ms),
        prefix_ms: settings.prefix_ms.or(defaults.prefix_padding_ms),
        ..settings.clone()
    }
}

/// An event as the client is told it.
pub fn message(event: &Event, view: View) -> ServerMessage {
    match event {
        Event::SpeechStarted { utterance, at } => {
            ServerMessage::SpeechStarted { utterance: *utterance, at: seconds(*at) }
        }
        Event::SpeechStopped { utterance, at } => {
            ServerMessage::SpeechStopped { utterance: *utterance, at: seconds(*at) }
        }
        Event::Partial(hypothesis) => ServerMessage::Partial(partial(hypothesis)),
        Event::Final(segment) => ServerMessage::Final(told(segment, view)),
        Event::Gap(gap) => ServerMessage::Gap {
            start: seconds(gap.span.start),
            end: seconds(gap.span.end),
            reason: match gap.reason {
                GapReason::Corrupt => wire::GapReason::Corrupt,
                GapReason::Engine => wire::GapReason::Engine,
                GapReason::Overload => wire::GapReason::Overload,
            },
        },
        Event::UtteranceDone { utterance } => ServerMessage::UtteranceDone { utterance: *utterance },
        Event::Flushed { at } => ServerMessage::Flushed { at: seconds(*at) },
    }
}

/// The last message of a stream that came to its end.
pub fn done(duration: Samples, account: Account) -> ServerMessage {
    let Account { received, decoded, silence, lost } = account;
    let account = WireAccount { received, decoded, silence, lost };
    ServerMessage::Done(Done { duration: seconds(duration), account })
}

fn partial(hypothesis: &Hypothesis) -> Partial {
    let stable = text(&hypothesis.stable);
    let tentative = text(&hypothesis.tentative);
    Partial {
        utterance: hypothesis.utterance,
        // Only the text as a whole has no space at its edges: between the two it is part of the text.
        tentative: if stable.is_empty() { tentative.trim_start().to_owned() } else { tentative },
        stable: stable.trim_start().to_owned(),
        start: seconds(hypothesis.span.start),
        end: seconds(hypothesis.span.end),
    }
}

fn told(segment: &Segment, view: View) -> Final {
    let words = || segment.words.iter().map(timed).collect();
    let sure: f32 = segment.words.iter().map(|word| word.probability).sum();
    Final {
        utterance: segment.utterance,
        text: segment.text().trim().to_owned(),
        start: seconds(segment.span.start),
        end: seconds(segment.span.end),
        confidence: thousandths(sure / segment.words.len().max(1) as f32),
        language: view.language.or(segment.language).map(|language| language.code().to_owned()),
        words: view.words.then(words),
    }
}

fn timed(word: &Word) -> TimedWord {
    TimedWord {
        word: word.text.trim().to_owned(),
        start: seconds(word.span.start),
        end: seconds(word.span.end),
        confidence: thousandths(word.probability),
    }
}

fn text(words: &[Word]) -> String {
    words.iter().map(|word| word.text.as_str()).collect()
}

/// To the millisecond: more digits would only look exact.
fn seconds(at: Samples) -> f64 {
    (at.seconds() * 1000.0).round() / 1000.0
}

fn thousandths(probability: f32) -> f32 {
    (probability.clamp(0.0, 1.0) * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcript::{Gap, Span};

    fn words(text: &str) -> Vec<Word> {
        let span = Span::new(Samples(1_600), Samples(17_616));
        let word = |text: &str| Word { text: format!(" {text}"), span, probability: 0.87654, tokens: vec![] };
        text.split_whitespace().map(word).collect()
    }

    fn traits() -> EngineTraits {
        EngineTraits {
            name: "base".into(),
            languages: Language::all().collect(),
            translates: true,
            max_window: Samples::from_millis(20_000),
            file_window: Samples::from_millis(10_000),
            live_context: Samples(0),
            takes_placeholders: false,
            caveat: None,
            device: "test".into(),
        }
    }

    #[test]
    fn stable_and_tentative_read_on_as_they_are() {
        for (stable, tentative, expected) in [
            ("", "good morning", ("", "good morning")),
            ("good", "morning", ("good", " morning")),
            ("good morning", "", ("good morning", "")),
            ("", "", ("", "")),
        ] {
            let hypothesis = Hypothesis {
                utterance: 3,
                stable: words(stable),
                tentative: words(tentative),
                span: Span::new(Samples(16_000), Samples(40_000)),
            };
            let ServerMessage::Partial(partial) = message(&Event::Partial(hypothesis), View::default())
            else {
                panic!("a partial is told as one");
            };
            assert_eq!((partial.stable.as_str(), partial.tentative.as_str()), expected);
            assert_eq!((partial.utterance, partial.start, partial.end), (3, 1.0, 2.5));
        }
    }

    #[test]
    fn a_final_brings_its_words_only_where_they_are_wanted() {
        let span = Span::new(Samples(1_600), Samples(17_616));
        let segment = Segment {
            utterance: 0,
            span,
            words: words("hear me"),
            temperature: 0.0,
            no_speech: 0.0,
            language: None,
        };
        let plain = told(&segment, View::default());
        assert_eq!((plain.text.as_str(), plain.start, plain.end), ("hear me", 0.1, 1.101));
        assert_eq!((plain.confidence, plain.words, plain.language), (0.877, None, None));
        let full = told(&segment, View { words: true, language: Language::parse("de") });
        assert_eq!(full.language.as_deref(), Some("de"));
        assert_eq!(full.words.map(|words| words.len()), Some(2));
    }

    #[test]
    fn times_are_seconds_and_gaps_say_why() {
        let span = Span::new(Samples(8_000), Samples(16_000));
        let gap = Event::Gap(Gap { span, reason: GapReason::Overload });
        let expected = ServerMessage::Gap { start: 0.5, end: 1.0, reason: wire::GapReason::Overload };
        assert_eq!(message(&gap, View::default()), expected);
    }

    #[test]
    fn settings_become_a_format() {
        let order = |settings: Settings| order(&settings, &traits()).map(|order| order.format);
        let pcm = |coding, rate, channels| Ok(LiveFormat::Pcm { coding, rate, channels });
        assert_eq!(order(Settings::default()), pcm(Coding::S16le, 16_000, 1));
        let mulaw = Settings { encoding: Some(Encoding::Mulaw), ..Settings::default() };
        assert_eq!(order(mulaw), pcm(Coding::Mulaw, 8_000, 1));
        let float = Settings {
            encoding: Some(Encoding::PcmF32le),
            sample_rate: Some(48_000),
            channels: Some(2),
            ..Settings::default()
        };
        assert_eq!(order(float), pcm(Coding::F32le, 48_000, 2));
        let webm = Settings { encoding: Some(Encoding::WebmOpus), ..Settings::default() };
        assert_eq!(order(webm), Ok(LiveFormat::Container));
        let wide = Settings { encoding: Some(Encoding::Opus), channels: Some(3), ..Settings::default() };
        assert_eq!(order(wide).map_err(|error| error.param), Err("channels".to_owned()));
    }

    #[test]
    fn what_is_in_force_says_everything() {
        let settings =
            Settings { language: Some("German".into()), silence_ms: Some(300), ..Settings::default() };
        let order = order(&settings, &traits()).expect("good settings");
        let defaults = Endpointing {
            threshold: Some(0.5),
            prefix_padding_ms: Some(300),
            silence_duration_ms: Some(500),
        };
        let all = in_force(&settings, &order, defaults, "base");
        assert_eq!(
            (all.language.as_deref(), all.silence_ms, all.prefix_ms),
            (Some("de"), Some(300), Some(300))
        );
        assert_eq!((all.sample_rate, all.partials, all.words), (Some(16_000), Some(true), Some(false)));
        assert_eq!(all.model.as_deref(), Some("base"));
    }
}
