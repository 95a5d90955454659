//! Chat completions whose last question is a recording: what a client asks, and what it gets.
//!
//! The contract is the one of [`crate::openai`]: the bodies and events are what OpenAI's own client libraries read.
//! A request is read where it lies, because the recordings in it can be most of the memory there is; what nobody
//! here knows is ignored. Deliberately absent: what a recording sounds like, and the base64 it is written in.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::fields::whole;
use crate::form::{FieldError, MAX_TEXT};

/// A request that has been understood.
#[derive(Clone, Debug, Deserialize)]
pub struct ChatRequest<'a> {
    /// The model's name as the client wrote it.
    #[serde(borrow, default)]
    pub model: Text<'a>,
    /// The conversation.
    #[serde(borrow, default)]
    pub messages: Vec<ChatMessage<'a>>,
    /// What the answer should be made of: `text`, `audio`.
    #[serde(borrow, default)]
    pub modalities: Option<Vec<Text<'a>>>,
    /// Whether the answer comes as events, while it is made.
    #[serde(default)]
    pub stream: Option<bool>,
    /// What the events carry beside the text.
    #[serde(default)]
    pub stream_options: Option<StreamOptions>,
    /// How many answers. There is one.
    #[serde(default, deserialize_with = "whole")]
    pub n: Option<u64>,
}

/// A text that was not copied, where it could be left where it lies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// What the events carry beside the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct StreamOptions {
    /// Whether the last event says what it cost.
    #[serde(default)]
    pub include_usage: Option<bool>,
}

/// One turn of a conversation.
#[derive(Clone, Debug, Deserialize)]
pub struct ChatMessage<'a> {
    /// Who speaks: `user`, `system`, `developer`, `assistant`, …
    #[serde(borrow, default)]
    pub role: Text<'a>,
    /// What is said.
    #[serde(borrow, default)]
    pub content: Option<Content<'a>>,
}

/// What is said in one turn.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Content<'a> {
    /// A text alone.
    Text(#[serde(borrow)] Text<'a>),
    /// Texts, recordings, and what else there is.
    Parts(#[serde(borrow)] Vec<Part<'a>>),
}

/// One part of what is said; which, its type tells.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Part<'a> {
    /// `text`, `input_audio`, or something that nobody here knows.
    #[serde(rename = "type", borrow, default)]
    pub kind: Text<'a>,
    /// Of a part of that type.
    #[serde(borrow, default)]
    pub text: Option<Text<'a>>,
    /// Of a part of that type.
    #[serde(borrow, default)]
    pub input_audio: Option<InputAudio<'a>>,
}

/// A recording.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct InputAudio<'a> {
    /// In base64, or a data URL with it.
    #[serde(borrow, default)]
    pub data: Text<'a>,
    /// What the client takes it for; the bytes decide.
    #[serde(borrow, default)]
    pub format: Option<Text<'a>>,
}

impl<'a> ChatRequest<'a> {
    /// Reads a body. An error never repeats what was sent.
    pub fn read(body: &'a [u8]) -> Result<Self, FieldError> {
        let request: Self = serde_json::from_slice(body).map_err(|error| {
            let what = if error.is_data() { "no chat completion request" } else { "no JSON" };
            let (line, column) = (error.line(), error.column());
            FieldError::new("", format!("The body is {what}: see line {line}, column {column}."))
        })?;
        let model = request.model.0.trim();
        if model.is_empty() {
            return Err(FieldError::new("model", "model is missing."));
        }
        if model.len() > MAX_TEXT {
            return Err(FieldError::new("model", format!("model must not be longer than {MAX_TEXT} bytes.")));
        }
        Ok(request)
    }

    /// What is to be refused because the answer would not be what was asked for.
    pub fn check(&self) -> Result<(), FieldError> {
        match self.n {
            None | Some(1) => Ok(()),
            Some(_) => Err(FieldError::new("n", "There is one transcript: n must be 1.")),
        }
    }

    /// Whether the client looks for its answer where spoken answers stand.
    pub fn wants_audio(&self) -> bool {
        self.modalities.iter().flatten().any(|modality| modality.0 == "audio")
    }

    /// Whether the last event is to say what it cost.
    pub fn wants_usage(&self) -> bool {
        self.stream_options.and_then(|options| options.include_usage).unwrap_or(false)
    }
}

/// The answer as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatCompletion {
    /// Its own.
    pub id: String,
    /// Always `chat.completion`.
    pub object: String,
    /// Seconds since 1970.
    pub created: u64,
    /// As the client wrote it.
    pub model: String,
    /// One.
    pub choices: Vec<Choice>,
    /// What it cost.
    pub usage: ChatUsage,
}

/// The one answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// Always 0.
    pub index: u32,
    /// What is answered.
    pub message: Answer,
    /// Always null.
    pub logprobs: Option<()>,
    /// Always `stop`.
    pub finish_reason: String,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Always `assistant`.
    pub role: String,
    /// The transcript.
    pub content: Option<String>,
    /// Always null.
    pub refusal: Option<String>,
    /// The transcript once more, where a spoken answer was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio: Option<SpokenAnswer>,
}

/// A spoken answer of which there is only the text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpokenAnswer {
    /// Its own.
    pub id: String,
    /// Nothing: this server listens, and does not speak.
    pub data: String,
    /// Seconds since 1970.
    pub expires_at: u64,
    /// What would be said.
    pub transcript: String,
}

/// What it cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatUsage {
    /// What went in.
    pub prompt_tokens: u64,
    /// What came out.
    pub completion_tokens: u64,
    /// Both together.
    pub total_tokens: u64,
    /// What went in, split.
    pub prompt_tokens_details: PromptTokens,
}

/// What went in, split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptTokens {
    /// Of the recordings.
    pub audio_tokens: u64,
    /// Always 0.
    pub cached_tokens: u64,
}

impl ChatUsage {
    /// For audio in and text out.
    pub fn new(audio_tokens: u64, completion_tokens: u64) -> Self {
        Self {
            prompt_tokens: audio_tokens,
            completion_tokens,
            total_tokens: audio_tokens.saturating_add(completion_tokens),
            prompt_tokens_details: PromptTokens { audio_tokens, cached_tokens: 0 },
        }
    }
}

/// One event of `stream=true`. On the wire each is one `data: …` line followed by an empty one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatChunk {
    /// The same in all chunks of an answer.
    pub id: String,
    /// Always `chat.completion.chunk`.
    pub object: String,
    /// Seconds since 1970.
    pub created: u64,
    /// As the client wrote it.
    pub model: String,
    /// One; none in the chunk that says what it cost.
    pub choices: Vec<ChunkChoice>,
    /// Set in the last chunk, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<ChatUsage>,
}

/// What a chunk adds to the one answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkChoice {
    /// Always 0.
    pub index: u32,
    /// What is new.
    pub delta: Delta,
    /// Always null.
    pub logprobs: Option<()>,
    /// `stop` in the chunk after the last text, null before.
    pub finish_reason: Option<String>,
}

/// What is new.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// `assistant`, in the first chunk alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// More of the transcript.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// The same once more, where a spoken answer was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio: Option<SpokenDelta>,
}

/// More of a spoken answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpokenDelta {
    /// The same in all chunks of an answer.
    pub id: String,
    /// What is new.
    pub transcript: String,
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::Value;

    use super::*;

    /// A fixture is read and written back without losing or gaining a key.
    fn round_trip<T: Serialize + DeserializeOwned>(fixture: &str) -> T {
        let value: Value = serde_json::from_str(fixture).expect("a fixture is JSON");
        let typed: T = serde_json::from_str(fixture).expect("a fixture is of its type");
        assert_eq!(serde_json::to_value(&typed).expect("plain data"), value);
        typed
    }

    #[test]
    fn bodies_and_events_are_what_the_contract_says() {
        let body: ChatCompletion = round_trip(include_str!("../fixtures/chat_completion.json"));
        assert_eq!(body.choices[0].message.audio, None);
        assert_eq!(body.usage, ChatUsage::new(14, 45));
        let body: ChatCompletion = round_trip(include_str!("../fixtures/chat_completion_audio.json"));
        let message = &body.choices[0].message;
        assert_eq!(message.audio.as_ref().map(|audio| &audio.transcript), message.content.as_ref());
        let chunk: ChatChunk = round_trip(include_str!("../fixtures/chat_chunk.json"));
        assert_eq!(chunk.choices[0].delta.content.as_deref(), Some(" see"));
        let chunk: ChatChunk = round_trip(include_str!("../fixtures/chat_chunk_usage.json"));
        assert_eq!((chunk.choices.len(), chunk.usage), (0, Some(ChatUsage::new(14, 45))));
    }

    #[test]
    fn a_request_is_read_where_it_lies() {
        let body = include_bytes!("../fixtures/chat_request.json");
        let request = ChatRequest::read(body).expect("the fixture is right");
        assert!(request.wants_audio() && request.wants_usage() && request.stream == Some(true));
        assert_eq!(request.check(), Ok(()));
        assert_eq!(request.messages.len(), 2);
        assert!(matches!(&request.messages[0].content, Some(Content::Text(text)) if text.0 == "Names: Ada."));
        let Some(Content::Parts(parts)) = &request.messages[1].content else { panic!("{request:?}") };
        let kinds: Vec<&str> = parts.iter().map(|part| &*part.kind.0).collect();
        assert_eq!(kinds, ["text", "image_url", "input_audio"]);
        let data = parts[2].input_audio.as_ref().map(|audio| &audio.data.0);
        assert!(matches!(data, Some(Cow::Borrowed("UklGRg=="))), "{data:?}");
    }

    #[test]
    fn what_is_no_request_is_refused_without_repeating_it() {
        for (body, param) in [
            ("", ""),
            ("{", ""),
            ("7", ""),
            (r#"{"model":"m","messages":"secret"}"#, ""),
            (r#"{"model":"m","messages":[{"role":"user","content":{"secret":1}}]}"#, ""),
            (r#"{"messages":[]}"#, "model"),
            (r#"{"model":" ","messages":[]}"#, "model"),
        ] {
            let error = ChatRequest::read(body.as_bytes()).expect_err("must be refused");
            assert_eq!(error.param, param, "{body}");
            assert!(!error.message.contains("secret"), "{error}");
        }
        let two = ChatRequest::read(br#"{"model":"m","messages":[],"n":2}"#).expect("is read");
        assert_eq!(two.check().expect_err("one is all there is").param, "n");
    }
}
