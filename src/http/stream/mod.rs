//! Live streams over HTTP: our own protocol on a WebSocket, as one exchange, or on two legs.
//!
//! A stream is opened here, kept in the [`Registry`] and carried by whichever transport its client has chosen; what
//! is said on it is `dialect::native`'s business. Contract: a stream that cannot be followed is refused before any
//! of its audio is read. A connection that is lost ends its stream, unless the client asked for a grace; then
//! somebody who knows the stream's id may come back to it within that time and misses nothing.

mod legs;
mod registry;
mod sse;
mod ws;

use std::sync::Arc;

use whisperwire_protocol::error::ErrorDetail;
use whisperwire_protocol::stream::{
    self as wire, Ready, Received, ServerEvent, ServerMessage, Settings, VERSION,
};
use whisperwire_protocol::{ErrorCode, FieldError};

pub(super) use self::registry::Registry;
use self::registry::{OpenStream, Wishes};
use super::House;
use super::auth::Principal;
use super::error::ApiError;
use super::websocket::NORMAL;
use crate::dialect::Endpointing;
use crate::dialect::native::{self, Order};
use crate::pipeline::{Ended, LiveWork, Told, Transcriber};

pub(super) use self::legs::{audio, close, create, events, look, message};
pub(super) use self::sse::exchange;
pub(super) use self::ws::{echo, socket};

/// What a client wants of a route that both opens streams and comes back to them.
enum Ask {
    Open(Box<Settings>),
    Resume { stream: String, after: u64 },
}

impl Ask {
    /// Reads a query string.
    fn read(query: Option<&str>) -> Result<Self, FieldError> {
        let pairs: Vec<(String, String)> = serde_urlencoded::from_str(query.unwrap_or_default())
            .map_err(|_| FieldError::new("", "The query string cannot be read."))?;
        let find = |name: &str| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let Some(stream) = find("stream") else {
            let settings = Settings::from_query(pairs.iter().map(|(key, value)| (&key[..], &value[..])))?;
            return Ok(Self::Open(Box::new(settings)));
        };
        if let Some((other, _)) = pairs.iter().find(|(name, _)| name != "stream" && name != "after") {
            return Err(FieldError::new(other, "A stream that is resumed keeps its settings."));
        }
        let after = find("after").map_or(Ok(0), str::parse);
        let after = after.map_err(|_| FieldError::new("after", "after must be the number of a message."))?;
        Ok(Self::Resume { stream: stream.to_owned(), after })
    }
}

impl House {
    /// Opens a stream for somebody, or says why not. `grace` is in force where the client names none.
    async fn open_stream(
        &self,
        principal: &Principal,
        asked: Settings,
        grace: f64,
    ) -> Result<Arc<OpenStream>, ApiError> {
        self.refuse_while_stopping()?;
        let transcriber = self.transcriber(asked.model.as_deref()).await?;
        let order = native::order(&asked, transcriber.traits())?;
        let most = self.config.resume_grace.as_secs_f64();
        let grace = asked.grace.unwrap_or(grace).min(most);
        let asked = Settings { grace: Some(grace), ..asked };
        let permit = self.limits.stream(principal).await?;
        let slot = transcriber.admit_stream()?;
        let mut work = live_work(&transcriber, &order, grace > 0.0);
        work.work = work.work.with_meter(self.limits.meter(principal));
        let live = transcriber.open_stream(slot, work, self.stop.clone(), &self.streams);
        let wishes = Wishes { in_force: in_force(&transcriber, &asked, &order), view: order.view, asked };
        Ok(self.registry.add(live, transcriber, (wishes, permit)))
    }

    /// Whether a stream like this could be opened now.
    async fn could_open(&self, principal: &Principal, asked: &Settings) -> Result<(), ApiError> {
        self.refuse_while_stopping()?;
        let transcriber = self.transcriber(asked.model.as_deref()).await?;
        native::order(asked, transcriber.traits())?;
        // The permit and the slot are only looked at.
        drop(self.limits.stream(principal).await?);
        drop(transcriber.admit_stream()?);
        Ok(())
    }

    /// Changes what may be changed in the middle of a stream.
    async fn configure(&self, stream: &OpenStream, newer: Settings) -> Result<(), ApiError> {
        let before = stream.wishes().asked.clone();
        if newer.grace.is_some() && newer.grace != before.grace {
            return Err(FieldError::new("grace", "grace is fixed when a stream is opened.").into());
        }
        let (transcriber, traits) = (&stream.transcriber, stream.transcriber.traits());
        if newer.model.is_some() && self.model_name(newer.model.as_deref())? != traits.name {
            return Err(FieldError::new("model", "model is fixed when a stream is opened.").into());
        }
        let asked = before.clone().with(newer);
        asked.check()?;
        let order = native::order(&asked, traits)?;
        if stream.live.received().chunks > 0 && order.format != native::order(&before, traits)?.format {
            let message = "The format of the audio is fixed once audio has been sent.";
            return Err(FieldError::new("encoding", message).into());
        }
        // A stream that is over has nothing left to change.
        let _ = stream.live.change(live_work(transcriber, &order, false), None).await;
        let in_force = in_force(transcriber, &asked, &order);
        *stream.wishes() = Wishes { in_force, view: order.view, asked };
        Ok(())
    }

    pub(super) fn refuse_while_stopping(&self) -> Result<(), ApiError> {
        match self.stop.is_cancelled() {
            true => Err(ApiError::new(ErrorCode::Draining, "The server is about to stop.")),
            false => Ok(()),
        }
    }

    /// The stream as it is now.
    fn ready(&self, stream: &OpenStream) -> ServerEvent {
        let received = received(stream);
        let ready = Ready {
            version: VERSION,
            stream: stream.id.clone(),
            settings: stream.wishes().in_force.clone(),
            received,
            last_seq: stream.live.last_number(),
            caveat: stream.transcriber.traits().caveat.map(str::to_owned),
        };
        unnumbered(ServerMessage::Ready(Box::new(ready)))
    }

    /// What is told, in the words of the wire, and the code to close with if it was the last.
    fn in_words(
        &self,
        stream: &OpenStream,
        (number, told): (Option<u64>, Told),
    ) -> (ServerEvent, Option<u16>) {
        let (message, close) = match told {
            Told::Event(event) => (native::message(&event, stream.wishes().view), None),
            Told::Lag(behind) => {
                (ServerMessage::Lag { seconds: (behind.seconds() * 1e3).round() / 1e3 }, None)
            }
            Told::Ended(Ended::Done { duration, account, .. }) => {
                let code = if self.stop.is_cancelled() { ErrorCode::Draining.close() } else { None };
                (native::done(duration, account), Some(code.unwrap_or(NORMAL)))
            }
            Told::Ended(ended) => {
                let error = match ended {
                    Ended::Broken(error) => ApiError::from(&*error),
                    Ended::Crashed => ApiError::internal("a live stream crashed"),
                    _ => ApiError::new(
                        ErrorCode::IdleTimeout,
                        "Neither audio nor a message came for too long.",
                    ),
                };
                let error = self.counted(error);
                (fatal(&error), Some(error.close()))
            }
        };
        let seq = number.filter(|_| !matches!(message, ServerMessage::Error { .. }));
        (ServerEvent { seq, message }, close)
    }
}

fn live_work(transcriber: &Transcriber, order: &Order, resumable: bool) -> LiveWork {
    let work = transcriber.work(order.options.clone(), order.language);
    let work = work.cut_as(order.endpointing);
    let (partials, format) = (order.partials, order.format);
    LiveWork { work, partials, held_back: None, format, resumable }
}

fn in_force(transcriber: &Transcriber, asked: &Settings, order: &Order) -> Settings {
    let (threshold, silence, prefix) = transcriber.endpointing();
    let millis = |length: crate::transcript::Samples| (length.seconds() * 1000.0).round() as u32;
    let defaults = Endpointing {
        threshold: Some(threshold),
        prefix_padding_ms: Some(millis(prefix)),
        silence_duration_ms: Some(millis(silence)),
    };
    native::in_force(asked, order, defaults, &transcriber.traits().name)
}

fn received(stream: &OpenStream) -> Received {
    let received = stream.live.received();
    Received { bytes: received.bytes, samples: received.frames, messages: received.chunks }
}

fn unnumbered(message: ServerMessage) -> ServerEvent {
    ServerEvent { seq: None, message }
}

fn complaint(error: &ApiError) -> ServerEvent {
    unnumbered(ServerMessage::Error { error: detail(error), fatal: false })
}

fn fatal(error: &ApiError) -> ServerMessage {
    ServerMessage::Error { error: detail(error), fatal: true }
}

fn detail(error: &ApiError) -> ErrorDetail {
    error.native_body().error
}

/// The name of a message's type, for those who read events.
fn type_name(message: &ServerMessage) -> &'static str {
    match message {
        ServerMessage::Ready(_) => "ready",
        ServerMessage::SpeechStarted { .. } => "speech_started",
        ServerMessage::Partial(_) => "partial",
        ServerMessage::Final(_) => "final",
        ServerMessage::SpeechStopped { .. } => "speech_stopped",
        ServerMessage::UtteranceDone { .. } => "utterance_done",
        ServerMessage::Flushed { .. } => "flushed",
        ServerMessage::Gap { .. } => "gap",
        ServerMessage::Lag { .. } => "lag",
        ServerMessage::Pong => "pong",
        ServerMessage::Error { .. } => "error",
        ServerMessage::Done(_) => "done",
        ServerMessage::Unknown => "unknown",
    }
}

/// Reads `Content-Type`: what the bytes of a body are, where it says so.
fn settings_of_type(content_type: &str) -> Result<Settings, FieldError> {
    use wire::Encoding;
    let mut parts = content_type.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
    let (mut encoding, mut rate) = (None, None);
    match kind.as_str() {
        "audio/pcm" | "audio/l16" | "audio/x-raw" => encoding = Some(Encoding::PcmS16le),
        "audio/pcmu" | "audio/basic" => (encoding, rate) = (Some(Encoding::Mulaw), Some(8_000)),
        "audio/pcma" => (encoding, rate) = (Some(Encoding::Alaw), Some(8_000)),
        "" => {}
        _ => encoding = Some(Encoding::Container),
    }
    let mut settings = Settings { encoding, sample_rate: rate, ..Settings::default() };
    if !encoding.is_some_and(Encoding::is_container) {
        let pairs = parts.filter_map(|part| part.split_once('=')).filter_map(|(name, value)| {
            let name = match name.trim().to_ascii_lowercase().as_str() {
                "rate" => "sample_rate",
                "channels" => "channels",
                "encoding" => "encoding",
                _ => return None,
            };
            Some((name, value.trim().trim_matches('"')))
        });
        settings = settings.with(Settings::from_query(pairs)?);
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use whisperwire_protocol::stream::Encoding;

    #[test]
    fn a_query_opens_or_resumes() {
        assert!(matches!(Ask::read(None), Ok(Ask::Open(_))));
        let open = Ask::read(Some("language=de&keywords=a,b&keywords=c%20d"));
        let Ok(Ask::Open(settings)) = open else { panic!("it opens") };
        assert_eq!(settings.keywords, Some(vec!["a".into(), "b".into(), "c d".into()]));
        let Ok(Ask::Resume { stream, after }) = Ask::read(Some("stream=abc&after=7")) else {
            panic!("it resumes")
        };
        assert_eq!((stream.as_str(), after), ("abc", 7));
        for (query, param) in
            [("stream=a&after=x", "after"), ("stream=a&words=true", "words"), ("lanugage=de", "lanugage")]
        {
            assert_eq!(Ask::read(Some(query)).err().map(|error| error.param).as_deref(), Some(param));
        }
    }

    #[test]
    fn content_types_name_encodings() {
        let read = |text| settings_of_type(text).map(|s| (s.encoding, s.sample_rate, s.channels));
        let pcm = Some(Encoding::PcmS16le);
        assert_eq!(read("audio/pcm;rate=24000; channels=2"), Ok((pcm, Some(24_000), Some(2))));
        assert_eq!(read("audio/PCM"), Ok((pcm, None, None)));
        assert_eq!(read("audio/pcmu"), Ok((Some(Encoding::Mulaw), Some(8_000), None)));
        assert_eq!(read("audio/webm;codecs=opus"), Ok((Some(Encoding::Container), None, None)));
        assert_eq!(read("application/octet-stream"), Ok((Some(Encoding::Container), None, None)));
        assert_eq!(read(""), Ok((None, None, None)));
        assert!(read("audio/pcm;rate=fast").is_err() && read("audio/pcm;rate=1").is_err());
    }
}
