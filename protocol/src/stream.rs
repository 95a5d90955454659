//! whisperwire's own stream protocol: what goes over a WebSocket, or as server-sent events, while somebody speaks.
//!
//! `STREAM.md` says the same in prose, `asyncapi.json` for machines. The contract: a client may ignore
//! fields and message types that it does not know; the server refuses those that it does not know, because a
//! misspelt setting is a mistake. Times are seconds on the stream's own clock, which starts with the first sample
//! and goes on after a reconnect. Numbered messages (`seq`) are told again after a reconnect, the others are not.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::ErrorDetail;
use crate::form::FieldError;
use crate::openai::GapReason;

/// The version of this protocol, named in `ready`. It changes when a client that keeps to the contract would break.
pub const VERSION: u32 = 1;
/// The subprotocol of the WebSocket handshake; naming it is voluntary.
pub const SUBPROTOCOL: &str = "whisperwire.v1";
/// How a browser brings its key, for its sockets have no headers: one more subprotocol, `whisperwire.key.KEY`.
pub const KEY_SUBPROTOCOL: &str = "whisperwire.key.";
/// The largest message a client may send, in bytes.
pub const MAX_MESSAGE: usize = 4 << 20;

/// How samples are coded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// Signed 16-bit samples, the lower byte first.
    #[default]
    PcmS16le,
    /// 32-bit floating point between -1 and 1, the lower byte first.
    PcmF32le,
    /// G.711 µ-law.
    Mulaw,
    /// G.711 A-law.
    Alaw,
    /// One Opus packet per message. Not over plain HTTP, which has no messages.
    Opus,
    /// Opus in Ogg.
    OggOpus,
    /// Opus in WebM, as a browser's MediaRecorder writes it.
    WebmOpus,
    /// Any container that the server reads, known by its first bytes.
    Container,
}

impl Encoding {
    /// Whether the bytes say themselves how they are to be read, so that rate and channels need not be told.
    pub fn is_container(self) -> bool {
        matches!(self, Self::OggOpus | Self::WebmOpus | Self::Container)
    }

    /// Bytes of one sample of one channel, where that is fixed.
    pub fn sample_bytes(self) -> Option<usize> {
        match self {
            Self::PcmS16le => Some(2),
            Self::PcmF32le => Some(4),
            Self::Mulaw | Self::Alaw => Some(1),
            _ => None,
        }
    }
}

/// Whether to write the words as they were spoken, or in English.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// As they were spoken.
    #[default]
    Transcribe,
    /// In English.
    Translate,
}

/// What a client wants of a stream. Everything may be left out; `ready` tells what is in force then. The same names
/// stand in a query string, where lists are repeated or separated by commas.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How the audio is coded. Fixed once audio has been sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<Encoding>,
    /// Samples per second, 4,000 to 192,000; for raw samples only. Opus has a rate of its own, so it is ignored
    /// there; beside a container it is refused. Fixed once audio has been sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_rate: Option<u32>,
    /// Channels, interleaved, 1 to 8, and 1 or 2 of `opus`; they are mixed into one. Refused beside a container.
    /// Fixed once audio has been sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<u16>,
    /// The model; for now it must be one that the server runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What is spoken: a code or an English name. Empty means: find out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// What may be spoken; the server chooses among these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub languages: Option<Vec<String>>,
    /// Text that stands before the audio, for style and spelling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Terms to expect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keywords: Option<Vec<String>>,
    /// What to write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// Whether to tell what is being said before it is final. Default: yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partials: Option<bool>,
    /// Whether finals bring their words with times. Default: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words: Option<bool>,
    /// How sure it must be that speech begins, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vad_threshold: Option<f32>,
    /// Silence that ends an utterance, 100 to 10,000 ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silence_ms: Option<u32>,
    /// Audio taken along from before speech was noticed, 0 to 5,000 ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_ms: Option<u32>,
    /// How long the stream outlives its connection, in seconds. 0, the default of a WebSocket, means not at all;
    /// the server's own limit is told in `ready`. Fixed when the stream is opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<f64>,
}

/// What a client says in text. Audio goes as binary messages.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientMessage {
    /// Change settings; what is left out stays. Answered with `ready`.
    Configure(Box<Settings>),
    /// Finish the open utterance now, as if a pause had been heard. Answered with `flushed`, once all is told.
    Flush,
    /// No more audio will come: finish, tell `done`, close.
    End,
    /// Answered with `pong`; keeps a silent stream from its idle timeout.
    Ping,
}

/// A message to the client, with its number where it has one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerEvent {
    /// Counts the messages that are told again after a reconnect, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// The message itself.
    #[serde(flatten)]
    pub message: ServerMessage,
}

/// What the server says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerMessage {
    /// The stream is open and these settings are in force. First message of a connection, and the answer to
    /// `configure`.
    Ready(Box<Ready>),
    /// Somebody began to speak. Numbered.
    SpeechStarted {
        /// Which utterance of the stream, counted from 0.
        utterance: u32,
        /// Where it begins, in seconds.
        at: f64,
    },
    /// The best guess at the part of an utterance that is not final yet. It replaces the previous one of the same
    /// utterance; empty texts take it away. Not numbered: it may be left out whenever there is something newer.
    Partial(Partial),
    /// Text that will not change. It stands for what the partials of its utterance have shown so far; if a part of
    /// that is still open, a new partial follows. Numbered.
    Final(Final),
    /// The utterance is over. Its last final follows as soon as it is decoded. Numbered.
    SpeechStopped {
        /// Which utterance.
        utterance: u32,
        /// Where it ends, in seconds.
        at: f64,
    },
    /// All finals of an utterance have been told; there may have been none. Numbered.
    UtteranceDone {
        /// Which utterance.
        utterance: u32,
    },
    /// The answer to `flush`: everything up to here has been told. Numbered.
    Flushed {
        /// Where the audio was when the flush arrived, in seconds.
        at: f64,
    },
    /// A stretch of audio has no text, and why. Numbered.
    Gap {
        /// Where it begins, in seconds.
        start: f64,
        /// Where it ends, in seconds.
        end: f64,
        /// Why.
        reason: GapReason,
    },
    /// The server is behind and does not read, which it says once a second, or has caught up again.
    Lag {
        /// Audio that was taken in and is not decided yet, in seconds; 0 when it has caught up.
        seconds: f64,
    },
    /// The answer to `ping`.
    Pong,
    /// Something is wrong. If `fatal`, it is the last message, and the close code says the same once more.
    Error {
        /// The same object that an HTTP answer would hold.
        error: ErrorDetail,
        /// Whether the stream is over.
        fatal: bool,
    },
    /// All is said: the last message of a stream that came to its end. Numbered.
    Done(Done),
    /// A message of a newer server, to be ignored. Never sent.
    #[serde(other)]
    Unknown,
}

/// See [`ServerMessage::Ready`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    /// The version of the protocol.
    pub version: u32,
    /// Names the stream, to come back to it after a lost connection. Whoever knows it may listen: it is a secret.
    pub stream: String,
    /// The settings in force.
    pub settings: Settings,
    /// What has arrived until now; zero at the start. After a reconnect: send on from here.
    pub received: Received,
    /// The number of the last numbered message so far; 0 when there was none.
    pub last_seq: u64,
    /// A sentence about the model's quality, where it needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caveat: Option<String>,
}

/// How much of the audio has arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Received {
    /// Bytes of audio. In the first message of a connection only whole frames of raw samples count: what had come of
    /// an unfinished one is forgotten.
    pub bytes: u64,
    /// Samples per channel at the client's own rate; for raw samples only, else 0.
    pub samples: u64,
    /// Binary messages of a WebSocket; with `opus`, packets. Audio that comes in the bodies of requests is counted in
    /// the chunks in which it happened to arrive, which mean nothing: go by `bytes` there.
    pub messages: u64,
}

/// See [`ServerMessage::Partial`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Partial {
    /// Which utterance.
    pub utterance: u32,
    /// Text that will not change: the finals of this utterance that are still to come begin with it. One final may
    /// tell the first part of it; the rest stands in the partial that follows.
    pub stable: String,
    /// Text that may change. Joined to `stable` as it is, it reads on.
    pub tentative: String,
    /// Where the text begins, in seconds.
    pub start: f64,
    /// Up to where the audio was heard for it, in seconds.
    pub end: f64,
}

/// See [`ServerMessage::Final`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Final {
    /// Which utterance.
    pub utterance: u32,
    /// Without space at its edges.
    pub text: String,
    /// Where its first word begins, in seconds.
    pub start: f64,
    /// Where its last word ends, in seconds.
    pub end: f64,
    /// The mean of the probabilities of its words, 0 to 1, whether or not the words are told.
    pub confidence: f32,
    /// A code, where the language was named or found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Absent unless asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words: Option<Vec<TimedWord>>,
}

/// A word with its punctuation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimedWord {
    /// Without space at its edges.
    pub word: String,
    /// In seconds.
    pub start: f64,
    /// In seconds.
    pub end: f64,
    /// Its probability, 0 to 1.
    pub confidence: f32,
}

/// See [`ServerMessage::Done`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// How long the audio was, in seconds.
    pub duration: f64,
    /// Where every sample went, at 16,000 per second: `received == decoded + silence + lost`.
    pub account: Account,
}

/// See [`Done::account`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Everything that came in.
    pub received: u64,
    /// Heard by the engine.
    pub decoded: u64,
    /// Judged not to be speech.
    pub silence: u64,
    /// Reported as gaps.
    pub lost: u64,
}

impl ClientMessage {
    /// Reads a text message, whatever it is.
    pub fn parse(text: &str) -> Result<Self, FieldError> {
        let value: Value = serde_json::from_str(text).map_err(|_| {
            FieldError::new("", "A text message must be a JSON object; audio goes as binary messages.")
        })?;
        let Value::Object(mut object) = value else {
            return Err(FieldError::new("", "A text message must be a JSON object."));
        };
        let kind = object.remove("type");
        let message = match kind.as_ref().and_then(Value::as_str) {
            Some("configure") => return Settings::from_object(object).map(|s| Self::Configure(Box::new(s))),
            Some("flush") => Self::Flush,
            Some("end") => Self::End,
            Some("ping") => Self::Ping,
            _ => {
                let message = "type must be one of configure, flush, end and ping.";
                return Err(FieldError::new("type", message));
            }
        };
        match object.keys().next() {
            None => Ok(message),
            Some(key) => Err(unknown(key)),
        }
    }

    /// The text that [`Self::parse`] reads.
    pub fn to_json(&self) -> String {
        let mut object = match self {
            Self::Configure(settings) => match serde_json::to_value(settings) {
                Ok(Value::Object(object)) => object,
                _ => Map::new(),
            },
            _ => Map::new(),
        };
        let kind = match self {
            Self::Configure(_) => "configure",
            Self::Flush => "flush",
            Self::End => "end",
            Self::Ping => "ping",
        };
        object.insert("type".to_owned(), kind.into());
        Value::Object(object).to_string()
    }
}

impl Settings {
    /// Reads the pairs of a query string. Names of other things than settings are the caller's to take out.
    pub fn from_query<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, FieldError> {
        let mut object = Map::new();
        for (name, value) in pairs {
            let value = match name {
                "languages" | "keywords" => {
                    let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
                    let mut all = match object.remove(name) {
                        Some(Value::Array(before)) => before,
                        _ => Vec::new(),
                    };
                    all.extend(items.map(Value::from));
                    Value::Array(all)
                }
                _ if object.contains_key(name) => {
                    return Err(FieldError::new(short(name), format!("{} was sent twice.", short(name))));
                }
                "partials" | "words" => Value::Bool(match value.to_ascii_lowercase().as_str() {
                    "true" | "1" => true,
                    "false" | "0" => false,
                    _ => return Err(FieldError::new(name, format!("{name} must be true or false."))),
                }),
                "sample_rate" | "channels" | "vad_threshold" | "silence_ms" | "prefix_ms" | "grace" => {
                    serde_json::from_str(value)
                        .ok()
                        .filter(Value::is_number)
                        .ok_or_else(|| FieldError::new(name, format!("{name} must be a number.")))?
                }
                _ => Value::from(value),
            };
            object.insert(name.to_owned(), value);
        }
        Self::from_object(object)
    }

    /// Reads a JSON object.
    pub fn from_json(text: &str) -> Result<Self, FieldError> {
        match serde_json::from_str(text) {
            Ok(Value::Object(object)) => Self::from_object(object),
            _ => Err(FieldError::new("", "Settings must be a JSON object.")),
        }
    }

    /// Reads an object, field by field, so that an error names its field.
    fn from_object(mut object: Map<String, Value>) -> Result<Self, FieldError> {
        object.values_mut().for_each(whole);
        for (name, value) in &object {
            let alone = Map::from_iter([(name.clone(), value.clone())]);
            if let Err(error) = serde_json::from_value::<Self>(Value::Object(alone)) {
                if error.to_string().starts_with("unknown field") {
                    return Err(unknown(name));
                }
                return Err(FieldError::new(
                    name.clone(),
                    format!("{name} has a value that is not allowed."),
                ));
            }
        }
        let settings: Self = serde_json::from_value(Value::Object(object))
            .map_err(|_| FieldError::new("", "These settings do not go together."))?;
        settings.check()?;
        Ok(settings)
    }

    /// Takes over what the newer settings name. Another encoding that is not raw samples does away with the rate and
    /// the channels of the old one. The result wants a new [`Self::check`].
    #[must_use]
    pub fn with(self, newer: Self) -> Self {
        let raw = |encoding: Encoding| encoding.sample_bytes().is_some();
        let raw = newer.encoding.is_none_or(|encoding| raw(encoding) || self.encoding == Some(encoding));
        Self {
            encoding: newer.encoding.or(self.encoding),
            sample_rate: newer.sample_rate.or(self.sample_rate.filter(|_| raw)),
            channels: newer.channels.or(self.channels.filter(|_| raw)),
            model: newer.model.or(self.model),
            language: newer.language.or(self.language),
            languages: newer.languages.or(self.languages),
            prompt: newer.prompt.or(self.prompt),
            keywords: newer.keywords.or(self.keywords),
            task: newer.task.or(self.task),
            partials: newer.partials.or(self.partials),
            words: newer.words.or(self.words),
            vad_threshold: newer.vad_threshold.or(self.vad_threshold),
            silence_ms: newer.silence_ms.or(self.silence_ms),
            prefix_ms: newer.prefix_ms.or(self.prefix_ms),
            grace: newer.grace.or(self.grace),
        }
    }

    /// Whether every value is within its range, and suits the encoding.
    pub fn check(&self) -> Result<(), FieldError> {
        within("sample_rate", self.sample_rate, 4_000, 192_000)?;
        within("channels", self.channels, 1, 8)?;
        within("vad_threshold", self.vad_threshold, 0.0, 1.0)?;
        within("silence_ms", self.silence_ms, 100, 10_000)?;
        within("prefix_ms", self.prefix_ms, 0, 5_000)?;
        within("grace", self.grace, 0.0, 3_600.0)?;
        let listed = |name: &'static str, list: &'_ Option<Vec<String>>| -> Result<(), FieldError> {
            let list = list.as_deref().unwrap_or_default();
            if list.len() > crate::form::MAX_ITEMS {
                return Err(FieldError::new(name, format!("{name} has more than 100 items.")));
            }
            list.iter().try_for_each(|item| plain(name, item, crate::form::MAX_TEXT))
        };
        listed("languages", &self.languages)?;
        listed("keywords", &self.keywords)?;
        for (name, text, most) in [
            ("model", &self.model, crate::form::MAX_TEXT),
            ("language", &self.language, crate::form::MAX_TEXT),
            ("prompt", &self.prompt, crate::form::MAX_PROMPT),
        ] {
            plain(name, text.as_deref().unwrap_or_default(), most)?;
        }
        self.check_format()
    }

    /// Whether rate and channels suit the encoding.
    fn check_format(&self) -> Result<(), FieldError> {
        let encoding = self.encoding.unwrap_or_default();
        let named = [("sample_rate", self.sample_rate.is_some()), ("channels", self.channels.is_some())];
        match named.into_iter().find(|(_, named)| *named && encoding.is_container()) {
            Some((name, _)) => {
                Err(FieldError::new(name, format!("A container tells its {name} itself; leave it out.")))
            }
            None if encoding == Encoding::Opus && self.channels.is_some_and(|channels| channels > 2) => {
                Err(FieldError::new("channels", "channels must be 1 or 2 with opus."))
            }
            None => Ok(()),
        }
    }
}

impl Partial {
    /// Whether there is nothing to show.
    pub fn is_empty(&self) -> bool {
        self.stable.is_empty() && self.tentative.is_empty()
    }
}

impl ServerEvent {
    /// One line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| unreachable!("plain data with text keys"))
    }
}

/// Some clients only have one kind of number: 16000.0 is 16000.
fn whole(value: &mut Value) {
    let number = value.as_f64().filter(|number| value.is_f64() && number.fract() == 0.0);
    if let Some(number) = number.filter(|number| (0.0..=f64::from(u32::MAX)).contains(number)) {
        *value = Value::from(number as u32);
    }
}

fn within<T: PartialOrd + std::fmt::Display>(
    name: &str,
    value: Option<T>,
    least: T,
    most: T,
) -> Result<(), FieldError> {
    match value {
        Some(value) if !(value >= least && value <= most) => {
            Err(FieldError::new(name, format!("{name} must be from {least} to {most}.")))
        }
        _ => Ok(()),
    }
}

fn plain(name: &str, text: &str, most: usize) -> Result<(), FieldError> {
    if text.contains('\0') {
        return Err(FieldError::new(name, format!("{name} holds a NUL character.")));
    }
    if text.len() > most {
        return Err(FieldError::new(name, format!("{name} is longer than {most} bytes.")));
    }
    Ok(())
}

fn unknown(name: &str) -> FieldError {
    let name = short(name);
    FieldError::new(name.clone(), format!("There is no setting named {name}."))
}

/// A stranger's name for something, cut to a length that an error may carry.
fn short(name: &str) -> String {
    name.chars().take(64).collect()
}
