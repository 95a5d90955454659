//! The bodies and events of the OpenAI audio API, as its own client libraries read them.
//!
//! Keys that the libraries require are not optional here, and numbers are JSON numbers. `duration` and all times are
//! seconds. Keys of our own (`gaps`, `task_id`, `whisperwire`) are left out when there is nothing to say; the libraries
//! ignore them. Deliberately absent: how a transcript becomes a body (that is the server's dialect room), and errors, which
//! stand in [`crate::error`].

use serde::{Deserialize, Serialize, Serializer};

/// `response_format=json` of a transcription.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Transcription {
    /// The whole text, without space at its edges.
    pub text: String,
    /// One entry per token, where they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Vec<Logprob>>,
    /// What was spoken, where the client's model name promises it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub languages: Option<Vec<DetectedLanguage>>,
    /// What it cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// `response_format=json` of a translation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Translation {
    /// The whole English text, without space at its edges.
    pub text: String,
}

/// `response_format=verbose_json` of both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerboseTranscription {
    /// Same language out, or English.
    pub task: TaskName,
    /// The lower-case English name of the language of the text.
    pub language: String,
    /// How long the audio was, in seconds.
    pub duration: f64,
    /// The whole text, without space at its edges.
    pub text: String,
    /// Absent when only words were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segments: Option<Vec<Segment>>,
    /// Absent unless words were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words: Option<Vec<Word>>,
    /// What it cost; absent on translations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Our own: stretches that could not be transcribed. Absent when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
    /// Our own: what to ask `GET /v1/audio/transcriptions/{task_id}` for. Absent where the transcript is not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<String>,
}

/// What was done with the speech.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskName {
    /// Written down as it was spoken.
    Transcribe,
    /// Written down in English.
    Translate,
}

/// A stretch of text with the figures the model judged it by. The client libraries require all ten keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Counted from 0.
    pub id: u32,
    /// Where the model's window begins, in frames of 10 ms.
    pub seek: u64,
    /// Seconds.
    pub start: f64,
    /// Seconds.
    pub end: f64,
    /// With the leading space that the model wrote.
    pub text: String,
    /// The model's own numbers.
    pub tokens: Vec<u32>,
    /// The sampling temperature that was finally used.
    pub temperature: f32,
    /// The mean natural logarithm of the tokens' probabilities.
    pub avg_logprob: f32,
    /// How many times smaller zlib makes the text; high for repetition.
    pub compression_ratio: f32,
    /// The model's probability that there was no speech.
    pub no_speech_prob: f32,
}

/// A word and where it was heard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Word {
    /// Without its leading space.
    pub word: String,
    /// Seconds; never before the end of the word before it.
    pub start: f64,
    /// Seconds; never after the end of the audio.
    pub end: f64,
}

/// A stretch of audio without text, and why. Our own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    /// Seconds.
    pub start: f64,
    /// Seconds.
    pub end: f64,
    /// Why.
    pub reason: GapReason,
}

/// Why a stretch of audio has no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum GapReason {
    /// The bytes could not be decoded.
    Corrupt,
    /// The engine failed on it.
    Engine,
    /// The server could not keep up.
    Overload,
    /// A reason of a newer server. Never sent.
    #[serde(other)]
    Unknown,
}

/// One token and how sure the model was of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Logprob {
    /// As text; a character that is split over several tokens reads as U+FFFD here.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Its exact bytes.
    pub bytes: Vec<u8>,
}

/// A language that was heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetectedLanguage {
    /// Mostly ISO 639-1.
    pub code: String,
}

/// What a transcription cost, in one of two currencies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Usage {
    /// Models that are paid by length, as Whisper's.
    Duration {
        /// How long the audio was; files count full seconds, rounded up.
        #[serde(serialize_with = "plain_number")]
        seconds: f64,
    },
    /// Models that are paid by token.
    Tokens {
        /// What went in.
        input_tokens: u64,
        /// The same, split.
        input_token_details: InputTokens,
        /// What came out.
        output_tokens: u64,
        /// Both together.
        total_tokens: u64,
    },
}

impl Usage {
    /// Whisper's currency: full seconds, rounded up. Nonsense counts as nothing.
    pub fn duration(seconds: f64) -> Self {
        Self::Duration { seconds: seconds.max(0.0).ceil() }
    }

    /// The other currency, for audio in and text out.
    pub fn tokens(audio_tokens: u64, output_tokens: u64) -> Self {
        Self::Tokens {
            input_tokens: audio_tokens,
            input_token_details: InputTokens { text_tokens: 0, audio_tokens },
            output_tokens,
            total_tokens: audio_tokens.saturating_add(output_tokens),
        }
    }
}

/// What the input tokens were.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputTokens {
    /// Of the prompt.
    pub text_tokens: u64,
    /// Of the audio.
    pub audio_tokens: u64,
}

/// One event of `stream=true`. On the wire each is one `data: …` line followed by an empty one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum StreamEvent {
    /// More text. All deltas joined are exactly the text of [`StreamEvent::Done`]; none is ever taken back.
    #[serde(rename = "transcript.text.delta")]
    Delta {
        /// The new text with its leading space.
        delta: String,
        /// Its tokens, where they were asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        logprobs: Option<Vec<Logprob>>,
        /// The diarized segment it belongs to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        segment_id: Option<String>,
    },
    /// A stretch of text by one speaker.
    #[serde(rename = "transcript.text.segment")]
    Segment {
        /// Unique in its stream.
        id: String,
        /// Seconds.
        start: f64,
        /// Seconds.
        end: f64,
        /// What was said.
        text: String,
        /// Who said it.
        speaker: String,
    },
    /// The end, with the whole text.
    #[serde(rename = "transcript.text.done")]
    Done {
        /// All deltas joined.
        text: String,
        /// All tokens, where they were asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        logprobs: Option<Vec<Logprob>>,
        /// What was spoken, where the client's model name promises it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        languages: Option<Vec<DetectedLanguage>>,
        /// What it cost; always [`Usage::Tokens`], because the libraries type it so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
    },
}

/// `GET /v1/models`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelList {
    /// Always `list`.
    pub object: String,
    /// Every name that a request may use.
    pub data: Vec<Model>,
}

impl ModelList {
    /// The list of these models.
    pub fn new(data: Vec<Model>) -> Self {
        Self { object: "list".into(), data }
    }
}

/// `GET /v1/models/{id}`, and one entry of the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// What a request writes into `model`.
    pub id: String,
    /// Always `model`.
    pub object: String,
    /// Seconds since 1970.
    pub created: u64,
    /// Who made it.
    pub owned_by: String,
    /// Our own: what stands behind the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whisperwire: Option<ModelDetails>,
}

impl Model {
    /// An entry without details.
    pub fn new(id: impl Into<String>, created: u64, owned_by: impl Into<String>) -> Self {
        Self { id: id.into(), object: "model".into(), created, owned_by: owned_by.into(), whisperwire: None }
    }
}

/// `DELETE /v1/models/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelDeleted {
    /// What was deleted.
    pub id: String,
    /// Always `model`.
    pub object: String,
    /// Always true.
    pub deleted: bool,
}

impl ModelDeleted {
    /// Says so.
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), object: "model".into(), deleted: true }
    }
}

/// What stands behind a model's name. Our own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelDetails {
    /// The loaded model that answers under this name; differs from the id for an alias.
    pub model: String,
    /// The codes of the languages it understands.
    pub languages: Vec<String>,
    /// Whether it can write English for speech in another language.
    pub translates: bool,
    /// What it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// One honest sentence about its quality, where one is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caveat: Option<String>,
    /// Whether it is in memory.
    #[serde(default)]
    pub state: ModelState,
    /// Bytes of memory that it takes, as far as that is known; 0 if it is not loaded.
    #[serde(default)]
    pub memory: u64,
    /// When a transcription last began or ended with it, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<u64>,
    /// Transcriptions in progress.
    #[serde(default)]
    pub active: u64,
}

/// Where a model is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelState {
    /// In memory; servers that do not say are servers that have one model, which is.
    #[default]
    Loaded,
    /// On its way into memory.
    Loading,
    /// On the server's disk.
    Unloaded,
    /// It could not be loaded, and will be tried again.
    Failed,
}

/// Whole numbers without a decimal point, as OpenAI writes them.
fn plain_number<S: Serializer>(seconds: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    let whole = *seconds as u64;
    if whole as f64 == *seconds {
        serializer.serialize_u64(whole)
    } else {
        serializer.serialize_f64(*seconds)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use serde::de::DeserializeOwned;
    use serde_json::Value;

    use super::*;

    /// A fixture is read and written back without losing or gaining a key.
    fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(fixture: &str) -> T {
        let value: Value = serde_json::from_str(fixture).expect("a fixture is JSON");
        let typed: T = serde_json::from_str(fixture).expect("a fixture is of its type");
        assert_eq!(serde_json::to_value(&typed).expect("plain data"), value);
        let again: T = serde_json::from_value(value).expect("reads back");
        assert_eq!(again, typed);
        typed
    }

    #[test]
    fn json_bodies_are_what_the_contract_says() {
        let whisper: Transcription = round_trip(include_str!("../fixtures/transcription.json"));
        assert_eq!(whisper.usage, Some(Usage::duration(8.47)));
        let gpt: Transcription = round_trip(include_str!("../fixtures/transcription_tokens.json"));
        assert_eq!(gpt.usage, Some(Usage::tokens(14, 45)));
        assert_eq!(gpt.logprobs.expect("the fixture has some")[0].bytes, b"Hey");
        let translation: Translation = round_trip(include_str!("../fixtures/translation.json"));
        assert!(translation.text.starts_with("Hello"));
    }

    #[test]
    fn verbose_bodies_are_what_the_contract_says() {
        let body: VerboseTranscription = round_trip(include_str!("../fixtures/transcription_verbose.json"));
        assert_eq!(body.task, TaskName::Transcribe);
        assert_eq!(body.segments.expect("segments")[0].tokens, [50364, 440, 7534]);
        assert_eq!(body.words.expect("words")[0].word, "The");
        assert_eq!(body.gaps, []);
        let body: VerboseTranscription = round_trip(include_str!("../fixtures/transcription_gaps.json"));
        assert_eq!(body.gaps[0].reason, GapReason::Engine);
        assert_eq!(body.segments, None, "only words were asked for");
        let body: VerboseTranscription = round_trip(include_str!("../fixtures/translation_verbose.json"));
        assert_eq!((body.task, body.language.as_str()), (TaskName::Translate, "english"));
    }

    #[test]
    fn stream_events_are_what_the_contract_says() {
        let delta: StreamEvent = round_trip(include_str!("../fixtures/stream_delta.json"));
        assert!(matches!(delta, StreamEvent::Delta { delta, .. } if delta == " see"));
        let segment: StreamEvent = round_trip(include_str!("../fixtures/stream_segment.json"));
        assert!(matches!(segment, StreamEvent::Segment { speaker, .. } if speaker == "A"));
        let done: StreamEvent = round_trip(include_str!("../fixtures/stream_done.json"));
        assert!(matches!(
            done,
            StreamEvent::Done { usage: Some(Usage::Tokens { total_tokens: 59, .. }), .. }
        ));
    }

    #[test]
    fn models_are_what_the_contract_says() {
        let list: ModelList = round_trip(include_str!("../fixtures/models.json"));
        assert_eq!(list, ModelList::new(list.data.clone()));
        let model: Model = round_trip(include_str!("../fixtures/model.json"));
        assert_eq!(model.object, "model");
        assert!(model.whisperwire.is_some_and(|details| details.caveat.is_some()));
        let gone: ModelDeleted = round_trip(include_str!("../fixtures/model_deleted.json"));
        assert_eq!(gone, ModelDeleted::new("base.en"));
    }

    #[test]
    fn usage_counts_started_seconds_and_keeps_fractions_where_there_are_some() {
        let written = |usage: &Usage| serde_json::to_string(usage).expect("plain data");
        assert_eq!(written(&Usage::duration(8.001)), r#"{"type":"duration","seconds":9}"#);
        assert_eq!(written(&Usage::duration(f64::NAN)), r#"{"type":"duration","seconds":0}"#);
        assert_eq!(written(&Usage::Duration { seconds: 2.1 }), r#"{"type":"duration","seconds":2.1}"#);
    }
}
