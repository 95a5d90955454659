//! OpenAI's Realtime transcription sessions, in both of their shapes: settings become an [`Order`], a client's events
//! become [`Deed`]s, and the pipeline's events become the server's.
//!
//! Contract: every committed item ends in exactly one `completed` or `failed`, in the order in which the items were
//! committed. Deltas are only added to: each is whole words that will not change, and all of an item's joined are its
//! transcript. What a client gets wrong is told as an `error` event and changes nothing.
//!
//! With turn detection an utterance of the pipeline is an item. Without it the pipeline still finds utterances, so
//! that silence is not made into words, and an item is all of them between two commits. A commit is a flush to the
//! pipeline, which answers flushes in order: that is how commits and what was heard find together again.
//!
//! Deliberately absent: the socket, the clock, and who may come in.

mod conversation;

use whisperwire_protocol::form::FieldError;
use whisperwire_protocol::realtime::{Delay, Eagerness, Format, SessionSettings, TurnDetection};

pub use self::conversation::{Conversation, Deed};
use super::wishes::{Endpointing, languages};
use crate::audio::{Coding, LiveFormat};
use crate::engine::{DecodeOptions, EngineTraits, Task};
use crate::language::Language;
use crate::transcript::Samples;

/// What a session's settings ask of the pipeline.
#[derive(Clone, Debug)]
pub struct Order {
    /// For the engine, the same in every window.
    pub options: DecodeOptions,
    /// The spoken language, where it is asked for or there is no choice; `None` asks for detection.
    pub language: Option<Language>,
    /// Where utterances end.
    pub endpointing: Endpointing,
    /// How the audio comes.
    pub format: LiveFormat,
    /// How much must have been heard behind a word before it is told; `None` leaves it to the server.
    pub held_back: Option<Samples>,
}

/// Turns settings into an order for the engine with these traits.
pub fn order(settings: &SessionSettings, traits: &EngineTraits) -> Result<Order, FieldError> {
    let path = |name: &str| format!("session.audio.input.transcription.{name}");
    let (language, candidates) =
        languages(settings.language.as_deref(), ("languages", &settings.languages), traits)
            .map_err(|error| FieldError::new(path(&error.param), error.message))?;
    let options = DecodeOptions {
        task: Task::Transcribe,
        candidates,
        prompt: settings.prompt.clone(),
        keywords: settings.keywords.clone(),
        temperature: 0.0,
    };
    let endpointing = match settings.turn_detection {
        TurnDetection::Manual => Endpointing::default(),
        TurnDetection::ServerVad { threshold, prefix_padding_ms, silence_duration_ms, .. } => Endpointing {
            threshold: Some(threshold),
            prefix_padding_ms: Some(prefix_padding_ms),
            silence_duration_ms: Some(silence_duration_ms),
        },
        TurnDetection::SemanticVad { eagerness } => {
            Endpointing { silence_duration_ms: Some(hold(eagerness)), ..Endpointing::default() }
        }
    };
    let format = match settings.format {
        Format::Pcm { rate } => LiveFormat::Pcm { coding: Coding::S16le, rate, channels: 1 },
        Format::Mulaw => LiveFormat::Pcm { coding: Coding::Mulaw, rate: TELEPHONE, channels: 1 },
        Format::Alaw => LiveFormat::Pcm { coding: Coding::Alaw, rate: TELEPHONE, channels: 1 },
    };
    Ok(Order { options, language, endpointing, format, held_back: settings.delay.map(held_back) })
}

/// G.711's own rate.
const TELEPHONE: u32 = 8_000;

/// The silence that stands for a finished thought. OpenAI's model waits for at most 8, 4 or 2 s where it is not sure;
/// silence alone is never sure, so what is waited for here lies in between.
fn hold(eagerness: Eagerness) -> u32 {
    match eagerness {
        Eagerness::Low => 2_000,
        Eagerness::Medium | Eagerness::Auto => 1_200,
        Eagerness::High => 700,
    }
}

/// The less is heard behind a word, the earlier it is told, and the likelier it is that the final decode would have
/// had another.
fn held_back(delay: Delay) -> Samples {
    Samples::from_millis(match delay {
        Delay::Minimal => 400,
        Delay::Low => 600,
        Delay::Medium => 800,
        Delay::High => 1_200,
        Delay::XHigh => 2_000,
    })
}
