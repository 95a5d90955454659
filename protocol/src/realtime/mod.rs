//! OpenAI's Realtime API as far as transcription goes, in its two shapes: what a session is set to, what a client
//! says, and what a server answers.
//!
//! The contract: a setting that is absent stays as it is, one that is `null` is cleared, and one that a transcription
//! has no use for (voices, tools, responses) is passed over, because clients send the same session everywhere. Every
//! event of the server has an `event_id`. Source: OpenAI's published API reference, schemas `Realtime*`, and what its
//! packages send. Deliberately absent: the decoding of audio, and what follows from an event.

mod session;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::ErrorDetail;
use crate::fields::whole;
use crate::form::FieldError;
use crate::openai::{DetectedLanguage, Logprob, Usage};

pub use self::session::{Delay, Eagerness, Format, NoiseReduction, SessionSettings, TurnDetection};

/// The subprotocol a browser asks for, because it can send no headers.
pub const SUBPROTOCOL: &str = "realtime";
/// A subprotocol that carries a key behind this prefix.
pub const KEY_SUBPROTOCOL: &str = "openai-insecure-api-key.";
/// The subprotocol that asks for the beta shape, as the header `OpenAI-Beta: realtime=v1` does.
pub const BETA_SUBPROTOCOL: &str = "openai-beta.realtime-v1";
/// What keys begin with that are lent for a short time.
pub const EPHEMERAL_PREFIX: &str = "ek_";
/// The largest message a client may send, in bytes: 15 MiB of audio in base64, and what is around it.
pub const MAX_MESSAGE: usize = (20 << 20) + 4096;
/// The least audio that can be committed, in milliseconds.
pub const LEAST_COMMIT_MS: u64 = 100;

/// Which of the two shapes a conversation has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// As generally available: `session.update`, `audio.input`.
    #[default]
    Ga,
    /// As in the beta: `transcription_session.update`, flat fields.
    Beta,
}

/// What a client says.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientEvent {
    /// The client's own name for it, which an error about it repeats.
    pub event_id: Option<String>,
    /// What it is.
    pub kind: ClientEventKind,
}

/// See [`ClientEvent`].
#[derive(Clone, Debug, PartialEq)]
pub enum ClientEventKind {
    /// `session.update` or `transcription_session.update`, with the session as it was sent.
    Update {
        /// Which of the two.
        shape: Shape,
        /// To be read by [`SessionSettings::update`].
        session: Value,
    },
    /// Audio in base64.
    Append(String),
    /// What has been appended is an item.
    Commit,
    /// What has been appended and not committed is forgotten.
    Clear,
    /// Asks for an item.
    Retrieve(String),
    /// Forgets an item.
    Delete(String),
    /// Something that conversations with a model know and transcriptions do not.
    NotHere(String),
}

/// An event that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misunderstood {
    /// The client's name for the event, where it could be read.
    pub event_id: Option<String>,
    /// What is wrong.
    pub error: FieldError,
}

/// What a client's event may hold, before it is known which it is.
#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "type")]
    kind: Option<Value>,
    event_id: Option<Value>,
    audio: Option<Value>,
    session: Option<Value>,
    item_id: Option<Value>,
}

impl ClientEvent {
    /// Reads one text message.
    pub fn parse(text: &str) -> Result<Self, Misunderstood> {
        let raw: Raw = serde_json::from_str(text).map_err(|_| Misunderstood {
            event_id: None,
            error: FieldError::new("", "The message is not a JSON object."),
        })?;
        let event_id = raw.event_id.as_ref().and_then(Value::as_str).map(str::to_owned);
        match raw.read() {
            Ok(kind) => Ok(Self { event_id, kind }),
            Err(error) => Err(Misunderstood { event_id, error }),
        }
    }
}

impl Raw {
    fn read(self) -> Result<ClientEventKind, FieldError> {
        let kind = match self.kind {
            Some(Value::String(kind)) => kind,
            Some(_) => return Err(FieldError::new("type", "The 'type' field must be a string.")),
            None => return Err(FieldError::new("type", "The 'type' field is missing.")),
        };
        let text = |name: &str, value: Option<Value>| match value {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(FieldError::new(name, format!("{name} must be a string."))),
            None => Err(FieldError::new(name, format!("{name} is missing."))),
        };
        let session =
            |value: Option<Value>| value.ok_or_else(|| FieldError::new("session", "session is missing."));
        Ok(match kind.as_str() {
            "session.update" => ClientEventKind::Update { shape: Shape::Ga, session: session(self.session)? },
            "transcription_session.update" => {
                ClientEventKind::Update { shape: Shape::Beta, session: session(self.session)? }
            }
            "input_audio_buffer.append" => ClientEventKind::Append(text("audio", self.audio)?),
            "input_audio_buffer.commit" => ClientEventKind::Commit,
            "input_audio_buffer.clear" => ClientEventKind::Clear,
            "conversation.item.retrieve" => ClientEventKind::Retrieve(text("item_id", self.item_id)?),
            "conversation.item.delete" => ClientEventKind::Delete(text("item_id", self.item_id)?),
            "conversation.item.create"
            | "conversation.item.truncate"
            | "output_audio_buffer.clear"
            | "response.create"
            | "response.cancel" => ClientEventKind::NotHere(kind),
            _ => {
                let message = format!("{} is no event that is known here.", crate::form::quoted(&kind));
                return Err(FieldError::new("type", message));
            }
        })
    }
}

/// What the server says, with the name of its own that every event has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerEvent {
    /// Unique on the connection.
    pub event_id: String,
    /// What it is.
    #[serde(flatten)]
    pub event: ServerEventKind,
}

impl ServerEvent {
    /// One line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| unreachable!("plain data with text keys"))
    }
}

/// See [`ServerEvent`]. Times are milliseconds from the first byte of audio.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum ServerEventKind {
    /// The first message.
    #[serde(rename = "session.created")]
    SessionCreated {
        /// In force.
        session: Value,
    },
    /// The answer to an update.
    #[serde(rename = "session.updated")]
    SessionUpdated {
        /// In force.
        session: Value,
    },
    /// The first message, in the beta shape.
    #[serde(rename = "transcription_session.created")]
    TranscriptionSessionCreated {
        /// In force.
        session: Value,
    },
    /// The answer to an update, in the beta shape.
    #[serde(rename = "transcription_session.updated")]
    TranscriptionSessionUpdated {
        /// In force.
        session: Value,
    },
    /// Somebody began to speak.
    #[serde(rename = "input_audio_buffer.speech_started")]
    SpeechStarted {
        /// Where, the prefix padding included.
        audio_start_ms: u64,
        /// The item that will come of it.
        item_id: String,
    },
    /// The turn is over.
    #[serde(rename = "input_audio_buffer.speech_stopped")]
    SpeechStopped {
        /// Where, the silence that ended it included.
        audio_end_ms: u64,
        /// The item that comes of it.
        item_id: String,
    },
    /// Nobody spoke for as long as was asked for.
    #[serde(rename = "input_audio_buffer.timeout_triggered")]
    TimeoutTriggered {
        /// Since when nobody spoke.
        audio_start_ms: u64,
        /// Where the audio is now.
        audio_end_ms: u64,
        /// The item, which is silence.
        item_id: String,
    },
    /// The audio is an item now.
    #[serde(rename = "input_audio_buffer.committed")]
    Committed {
        /// The item before it.
        previous_item_id: Option<String>,
        /// The item.
        item_id: String,
    },
    /// What had been appended is forgotten.
    #[serde(rename = "input_audio_buffer.cleared")]
    Cleared {},
    /// An item has come to be. In the beta shape, one event for this and the next.
    #[serde(rename = "conversation.item.created")]
    ItemCreated {
        /// The item before it.
        previous_item_id: Option<String>,
        /// The item.
        item: Item,
    },
    /// An item has come to be.
    #[serde(rename = "conversation.item.added")]
    ItemAdded {
        /// The item before it.
        previous_item_id: Option<String>,
        /// The item.
        item: Item,
    },
    /// All of an item's audio is there.
    #[serde(rename = "conversation.item.done")]
    ItemDone {
        /// The item before it.
        previous_item_id: Option<String>,
        /// The item.
        item: Item,
    },
    /// The answer to a question for an item.
    #[serde(rename = "conversation.item.retrieved")]
    ItemRetrieved {
        /// The item.
        item: Item,
    },
    /// An item is forgotten.
    #[serde(rename = "conversation.item.deleted")]
    ItemDeleted {
        /// Which.
        item_id: String,
    },
    /// Words that will not change, behind those already told of the item.
    #[serde(rename = "conversation.item.input_audio_transcription.delta")]
    Delta {
        /// Whose words.
        item_id: String,
        /// Always 0: an item has one content.
        content_index: u32,
        /// Whole words, with the space in front of them.
        delta: String,
        /// Where they were asked for.
        logprobs: Option<Vec<Logprob>>,
    },
    /// An item has all its words.
    #[serde(rename = "conversation.item.input_audio_transcription.completed")]
    Completed {
        /// Whose words.
        item_id: String,
        /// Always 0.
        content_index: u32,
        /// All deltas, joined.
        transcript: String,
        /// What was spoken, where it is known.
        languages: Option<Vec<DetectedLanguage>>,
        /// Where they were asked for.
        logprobs: Option<Vec<Logprob>>,
        /// What it cost.
        usage: Usage,
    },
    /// An item's audio could not be transcribed.
    #[serde(rename = "conversation.item.input_audio_transcription.failed")]
    Failed {
        /// Which.
        item_id: String,
        /// Always 0.
        content_index: u32,
        /// Why.
        error: ErrorDetail,
    },
    /// Something was wrong. The session goes on.
    #[serde(rename = "error")]
    Error {
        /// What.
        error: Complaint,
    },
}

/// What was wrong with an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complaint {
    /// What, for people and for programs.
    #[serde(flatten)]
    pub detail: ErrorDetail,
    /// The client's name for the event it is about.
    pub event_id: Option<String>,
}

/// What somebody said, as a part of the conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Unique on the connection.
    pub id: String,
    /// Always `realtime.item`.
    pub object: String,
    /// Always `message`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether all of its audio is there.
    pub status: String,
    /// Always `user`.
    pub role: String,
    /// Always one.
    pub content: Vec<Content>,
}

/// See [`Item`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Always `input_audio`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The words, once there are all of them.
    pub transcript: Option<String>,
}

impl Item {
    /// An item with all its audio, and its words if they are there.
    pub fn new(id: &str, transcript: Option<String>) -> Self {
        Self {
            id: id.to_owned(),
            object: "realtime.item".to_owned(),
            kind: "message".to_owned(),
            status: "completed".to_owned(),
            role: "user".to_owned(),
            content: vec![Content { kind: "input_audio".to_owned(), transcript }],
        }
    }
}

/// What `POST /v1/realtime/client_secrets` is asked.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ClientSecretRequest {
    /// How long the key is good for.
    #[serde(default)]
    pub expires_after: Option<ExpiresAfter>,
    /// What its sessions are set to, to be read by [`SessionSettings::update`].
    #[serde(default)]
    pub session: Option<Value>,
}

/// See [`ClientSecretRequest`].
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ExpiresAfter {
    /// `created_at` is the only one.
    #[serde(default)]
    pub anchor: Option<String>,
    /// 10 to 7,200 seconds.
    #[serde(default, deserialize_with = "whole")]
    pub seconds: Option<u64>,
}

/// What `POST /v1/realtime/client_secrets` answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientSecretResponse {
    /// The key, which begins with `ek_`.
    pub value: String,
    /// Seconds since 1970.
    pub expires_at: u64,
    /// What its sessions are set to.
    pub session: Value,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_clients_say_is_read() {
        let kind = |value: Value| ClientEvent::parse(&value.to_string()).map(|event| event.kind);
        assert_eq!(
            kind(json!({"type": "input_audio_buffer.append", "audio": "AAA="})),
            Ok(ClientEventKind::Append("AAA=".into()))
        );
        assert_eq!(kind(json!({"type": "input_audio_buffer.commit"})), Ok(ClientEventKind::Commit));
        let update =
            json!({"type": "transcription_session.update", "session": {"input_audio_format": "pcm16"}});
        let expected =
            ClientEventKind::Update { shape: Shape::Beta, session: json!({"input_audio_format": "pcm16"}) };
        assert_eq!(kind(update), Ok(expected));
        let response = json!({"type": "response.create"});
        assert_eq!(kind(response), Ok(ClientEventKind::NotHere("response.create".into())));
    }

    #[test]
    fn what_is_wrong_names_the_field_and_the_event() {
        for (message, param) in [
            (json!({"event_id": "mine"}), "type"),
            (json!({"event_id": "mine", "type": 7}), "type"),
            (json!({"event_id": "mine", "type": "dance"}), "type"),
            (json!({"event_id": "mine", "type": "input_audio_buffer.append"}), "audio"),
            (json!({"event_id": "mine", "type": "input_audio_buffer.append", "audio": 1}), "audio"),
            (json!({"event_id": "mine", "type": "session.update"}), "session"),
            (json!({"event_id": "mine", "type": "conversation.item.retrieve"}), "item_id"),
        ] {
            let error = ClientEvent::parse(&message.to_string()).expect_err("is wrong");
            assert_eq!((error.event_id.as_deref(), error.error.param.as_str()), (Some("mine"), param));
        }
        for text in ["", "{", "[]", "7", "\"type\"", "null"] {
            assert_eq!(ClientEvent::parse(text).expect_err("no object").event_id, None, "{text}");
        }
    }

    #[test]
    fn events_look_as_they_are_documented() {
        let delta = ServerEvent {
            event_id: "event_2".into(),
            event: ServerEventKind::Delta {
                item_id: "item_3".into(),
                content_index: 0,
                delta: "Hey".into(),
                logprobs: None,
            },
        };
        let expected = json!({"type": "conversation.item.input_audio_transcription.delta", "event_id": "event_2",
            "item_id": "item_3", "content_index": 0, "delta": "Hey", "logprobs": null});
        let written: Value = serde_json::from_str(&delta.to_json()).expect("JSON");
        assert_eq!(written, expected);
        assert_eq!(serde_json::from_value::<ServerEvent>(expected).expect("reads back"), delta);
        let cleared = ServerEvent { event_id: "e".into(), event: ServerEventKind::Cleared {} };
        assert_eq!(cleared.to_json(), r#"{"event_id":"e","type":"input_audio_buffer.cleared"}"#);
        let error = ServerEvent {
            event_id: "event_890".into(),
            event: ServerEventKind::Error {
                error: Complaint {
                    detail: ErrorDetail {
                        message: "The 'type' field is missing.".into(),
                        kind: "invalid_request_error".into(),
                        param: None,
                        code: Some("invalid_event".into()),
                    },
                    event_id: Some("event_567".into()),
                },
            },
        };
        let written: Value = serde_json::from_str(&error.to_json()).expect("JSON");
        assert_eq!(written["error"]["event_id"], "event_567");
        assert_eq!(written["error"]["type"], "invalid_request_error");
        assert_eq!(written["type"], "error");
    }
}
