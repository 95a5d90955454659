//! What a transcription session is set to: read from either shape, written in either.

use serde_json::{Map, Value, json};

use super::Shape;
use crate::form::{FieldError, MAX_ITEMS, MAX_PROMPT, MAX_TEXT, quoted};

/// What a session is set to.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionSettings {
    /// How the audio comes.
    pub format: Format,
    /// As the client named it; the server's own if it did not.
    pub model: Option<String>,
    /// The spoken language; `None` asks for detection.
    pub language: Option<String>,
    /// The languages to choose from.
    pub languages: Vec<String>,
    /// Terms to expect.
    pub keywords: Vec<String>,
    /// Text that might have come before.
    pub prompt: Option<String>,
    /// How long words may be held back to be surer of them.
    pub delay: Option<Delay>,
    /// What the client asked for. Nothing is done about noise here, so [`SessionSettings::to_json`] says `null`.
    pub noise_reduction: Option<NoiseReduction>,
    /// What ends an item.
    pub turn_detection: TurnDetection,
    /// Whether the client has said so. If not, it follows from the model.
    pub turns_chosen: bool,
    /// Whether words come with the logarithms of their probabilities.
    pub logprobs: bool,
}

/// How the audio comes: always one channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Signed 16 bit, little endian.
    Pcm {
        /// Samples per second.
        rate: u32,
    },
    /// G.711 µ-law, 8 kHz.
    Mulaw,
    /// G.711 A-law, 8 kHz.
    Alaw,
}

impl Format {
    /// OpenAI's own.
    pub const DEFAULT: Self = Self::Pcm { rate: 24_000 };

    /// Bytes in a second.
    pub fn bytes_per_second(self) -> u64 {
        match self {
            Self::Pcm { rate } => 2 * u64::from(rate),
            Self::Mulaw | Self::Alaw => 8_000,
        }
    }
}

/// How long words may be held back to be surer of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delay {
    /// As early as can be.
    Minimal,
    /// Early.
    Low,
    /// As the server would.
    Medium,
    /// Late.
    High,
    /// Later.
    XHigh,
}

/// What kind of microphone noise is to be taken out for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoiseReduction {
    /// Close to the mouth.
    NearField,
    /// Across the room.
    FarField,
}

/// What ends an item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TurnDetection {
    /// The client says when.
    Manual,
    /// Silence.
    ServerVad {
        /// How sure the detector must be, 0 to 1.
        threshold: f32,
        /// How much audio before speech belongs to it.
        prefix_padding_ms: u32,
        /// How much silence ends an item.
        silence_duration_ms: u32,
        /// How much audio without speech makes an item of its own.
        idle_timeout_ms: Option<u32>,
    },
    /// A longer silence, by how eager the client is to go on.
    SemanticVad {
        /// See there.
        eagerness: Eagerness,
    },
}

/// How eager a client is to take the turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Eagerness {
    /// Lets people think.
    Low,
    /// In between.
    Medium,
    /// Takes the first chance.
    High,
    /// As medium.
    #[default]
    Auto,
}

/// What there is if nothing was asked for: OpenAI's documented defaults.
const SERVER_VAD: TurnDetection = TurnDetection::ServerVad {
    threshold: 0.5,
    prefix_padding_ms: 300,
    silence_duration_ms: 500,
    idle_timeout_ms: None,
};
/// Silence below this ends an utterance between two words. What is asked for below it is raised.
const LEAST_SILENCE_MS: u32 = 100;
const MOST_SILENCE_MS: u32 = 10_000;
const MOST_PADDING_MS: u32 = 5_000;
/// The models whose clients commit by themselves, so that nothing else may: OpenAI allows no turn detection with them.
const WITHOUT_TURNS: [&str; 2] = ["gpt-realtime-whisper", "gpt-live-transcribe"];
const LOGPROBS: &str = "item.input_audio_transcription.logprobs";

impl Default for SessionSettings {
    fn default() -> Self {
        Self {
            format: Format::DEFAULT,
            model: None,
            language: None,
            languages: Vec::new(),
            keywords: Vec::new(),
            prompt: None,
            delay: None,
            noise_reduction: None,
            turn_detection: SERVER_VAD,
            turns_chosen: false,
            logprobs: false,
        }
    }
}

impl SessionSettings {
    /// These with what a client's session changes. The error names the field by its path from `session`.
    pub fn update(&self, shape: Shape, session: &Value) -> Result<Self, FieldError> {
        let session = At::root("session", session)?;
        let mut new = self.clone();
        match shape {
            Shape::Ga => new.update_ga(&session)?,
            Shape::Beta => new.update_beta(&session)?,
        }
        new.check()?;
        Ok(new.with_turns())
    }

    /// The settings of a connection that asks for this model.
    pub fn with_model(self, model: &str) -> Self {
        Self { model: Some(model.to_owned()), ..self }.with_turns()
    }

    fn with_turns(self) -> Self {
        if self.turns_chosen {
            return self;
        }
        let without = self.model.as_deref().is_some_and(|model| WITHOUT_TURNS.contains(&model));
        Self { turn_detection: if without { TurnDetection::Manual } else { SERVER_VAD }, ..self }
    }

    fn update_ga(&mut self, session: &At<'_>) -> Result<(), FieldError> {
        if let Some(kind) = session.text("type")?
            && !["transcription", "realtime"].contains(&kind)
        {
            return Err(session.wrong("type", "type must be transcription."));
        }
        self.include(session)?;
        let Some(audio) = session.object("audio")? else { return Ok(()) };
        let Some(input) = audio.object("input")? else { return Ok(()) };
        if let Some(format) = input.get("format") {
            self.format = match format {
                Value::Null => Format::DEFAULT,
                Value::String(name) => named_format(name).ok_or_else(|| input.not_a_format("format"))?,
                _ => format_object(&input)?,
            };
        }
        self.transcription(&input, "transcription")?;
        self.noise(&input, "noise_reduction")?;
        self.turns(&input)
    }

    fn update_beta(&mut self, session: &At<'_>) -> Result<(), FieldError> {
        self.include(session)?;
        match session.get("input_audio_format") {
            None => {}
            Some(Value::Null) => self.format = Format::DEFAULT,
            Some(Value::String(name)) if named_format(name).is_some() => {
                self.format = named_format(name).unwrap_or(Format::DEFAULT);
            }
            Some(_) => return Err(session.not_a_format("input_audio_format")),
        }
        self.transcription(session, "input_audio_transcription")?;
        self.noise(session, "input_audio_noise_reduction")?;
        self.turns(session)
    }

    fn include(&mut self, session: &At<'_>) -> Result<(), FieldError> {
        if let Some(include) = session.texts("include")? {
            self.logprobs = include.iter().any(|name| name == LOGPROBS);
        }
        Ok(())
    }

    fn transcription(&mut self, parent: &At<'_>, name: &str) -> Result<(), FieldError> {
        if parent.is_null(name) {
            let Self { model, language, languages, keywords, prompt, delay, .. } = Self::default();
            (self.model, self.language, self.languages) = (model, language, languages);
            (self.keywords, self.prompt, self.delay) = (keywords, prompt, delay);
            return Ok(());
        }
        let Some(at) = parent.object(name)? else { return Ok(()) };
        let text = |name: &str, held: &mut Option<String>| -> Result<(), FieldError> {
            if at.get(name).is_some() {
                *held = at.text(name)?.filter(|text| !text.trim().is_empty()).map(str::to_owned);
            }
            Ok(())
        };
        text("model", &mut self.model)?;
        text("language", &mut self.language)?;
        text("prompt", &mut self.prompt)?;
        if at.get("languages").is_some() {
            self.languages = at.texts("languages")?.unwrap_or_default();
        }
        if at.get("keywords").is_some() {
            self.keywords = at.texts("keywords")?.unwrap_or_default();
        }
        if at.get("delay").is_some() {
            self.delay = at.one_of("delay", &DELAYS)?;
        }
        Ok(())
    }

    fn noise(&mut self, parent: &At<'_>, name: &str) -> Result<(), FieldError> {
        if parent.is_null(name) {
            self.noise_reduction = None;
        } else if let Some(at) = parent.object(name)? {
            self.noise_reduction = at.one_of("type", &NOISES)?;
        }
        Ok(())
    }

    fn turns(&mut self, parent: &At<'_>) -> Result<(), FieldError> {
        self.turns_chosen |= parent.get("turn_detection").is_some();
        if parent.is_null("turn_detection") {
            self.turn_detection = TurnDetection::Manual;
            return Ok(());
        }
        let Some(at) = parent.object("turn_detection")? else { return Ok(()) };
        let kind = at.text("type")?.unwrap_or(match self.turn_detection {
            TurnDetection::SemanticVad { .. } => "semantic_vad",
            _ => "server_vad",
        });
        self.turn_detection = match kind {
            "server_vad" => at.server_vad(self.turn_detection)?,
            "semantic_vad" => {
                TurnDetection::SemanticVad { eagerness: at.one_of("eagerness", &EAGER)?.unwrap_or_default() }
            }
            "none" => TurnDetection::Manual,
            _ => return Err(at.wrong("type", "type must be server_vad or semantic_vad.")),
        };
        Ok(())
    }

    fn check(&self) -> Result<(), FieldError> {
        let texts = self.languages.iter().chain(&self.keywords).chain(&self.model).chain(&self.language);
        if texts.clone().any(|text| text.len() > MAX_TEXT)
            || self.prompt.as_ref().is_some_and(|prompt| prompt.len() > MAX_PROMPT)
        {
            return Err(FieldError::new("session", "A text of the session is too long."));
        }
        if texts.chain(&self.prompt).any(|text| text.contains('\0')) {
            return Err(FieldError::new("session", "A text of the session holds a NUL character."));
        }
        if self.languages.len() > MAX_ITEMS || self.keywords.len() > MAX_ITEMS {
            return Err(FieldError::new("session", "languages and keywords may have 100 items each."));
        }
        Ok(())
    }

    /// The session as it is in force, as a client is told it. `model` is what answers if the client has named none.
    pub fn to_json(&self, shape: Shape, id: &str, model: &str, expires_at: u64) -> Value {
        let include = if self.logprobs { json!([LOGPROBS]) } else { Value::Null };
        match shape {
            Shape::Ga => json!({
                "id": id,
                "object": "realtime.transcription_session",
                "type": "transcription",
                "expires_at": expires_at,
                "include": include,
                "audio": {"input": {
                    "format": self.format.to_json(),
                    "transcription": {
                        "model": self.model.as_deref().unwrap_or(model),
                        "language": self.language,
                        "languages": self.some(&self.languages),
                        "keywords": self.some(&self.keywords),
                        "prompt": self.prompt.as_deref().unwrap_or_default(),
                        "delay": self.delay.map(|delay| name_of(&DELAYS, delay)),
                    },
                    "noise_reduction": null,
                    "turn_detection": self.turn_detection.to_json(),
                }},
            }),
            Shape::Beta => json!({
                "id": id,
                "object": "realtime.transcription_session",
                "expires_at": expires_at,
                "modalities": ["audio", "text"],
                "input_audio_format": self.format.beta_name(),
                "input_audio_transcription": {
                    "model": self.model.as_deref().unwrap_or(model),
                    "prompt": self.prompt.as_deref().unwrap_or_default(),
                    "language": self.language.as_deref().unwrap_or_default(),
                },
                "turn_detection": self.turn_detection.to_json(),
                "input_audio_noise_reduction": null,
                "include": if self.logprobs { json!([LOGPROBS]) } else { json!([]) },
                "client_secret": null,
            }),
        }
    }

    fn some(&self, list: &[String]) -> Option<Vec<String>> {
        (!list.is_empty()).then(|| list.to_vec())
    }
}

const DELAYS: [(&str, Delay); 5] = [
    ("minimal", Delay::Minimal),
    ("low", Delay::Low),
    ("medium", Delay::Medium),
    ("high", Delay::High),
    ("xhigh", Delay::XHigh),
];
const NOISES: [(&str, NoiseReduction); 2] =
    [("near_field", NoiseReduction::NearField), ("far_field", NoiseReduction::FarField)];
const EAGER: [(&str, Eagerness); 4] = [
    ("low", Eagerness::Low),
    ("medium", Eagerness::Medium),
    ("high", Eagerness::High),
    ("auto", Eagerness::Auto),
];

fn name_of<T: PartialEq>(names: &[(&'static str, T)], value: T) -> &'static str {
    names.iter().find(|(_, known)| *known == value).map_or("", |(name, _)| name)
}

fn named_format(name: &str) -> Option<Format> {
    match name {
        "pcm16" | "audio/pcm" => Some(Format::DEFAULT),
        "g711_ulaw" | "audio/pcmu" => Some(Format::Mulaw),
        "g711_alaw" | "audio/pcma" => Some(Format::Alaw),
        _ => None,
    }
}

/// `{"type": "audio/pcm", "rate": 24000}`.
fn format_object(input: &At<'_>) -> Result<Format, FieldError> {
    let Some(at) = input.object("format")? else { return Ok(Format::DEFAULT) };
    let kind = at.text("type")?.unwrap_or("audio/pcm");
    let rate = at.whole("rate", 4_000, 192_000)?;
    match (named_format(kind), rate) {
        (Some(Format::Pcm { .. }), Some(rate)) => Ok(Format::Pcm { rate }),
        (Some(Format::Mulaw | Format::Alaw), Some(rate)) if rate != 8_000 => {
            Err(at.wrong("rate", "G.711 has 8000 samples per second."))
        }
        (Some(format), _) => Ok(format),
        (None, _) => Err(at.not_a_format("type")),
    }
}

impl Format {
    fn to_json(self) -> Value {
        match self {
            Self::Pcm { rate } => json!({"type": "audio/pcm", "rate": rate}),
            Self::Mulaw => json!({"type": "audio/pcmu"}),
            Self::Alaw => json!({"type": "audio/pcma"}),
        }
    }

    fn beta_name(self) -> &'static str {
        match self {
            Self::Pcm { .. } => "pcm16",
            Self::Mulaw => "g711_ulaw",
            Self::Alaw => "g711_alaw",
        }
    }
}

impl TurnDetection {
    fn to_json(self) -> Value {
        match self {
            Self::Manual => Value::Null,
            Self::ServerVad { threshold, prefix_padding_ms, silence_duration_ms, idle_timeout_ms } => json!({
                "type": "server_vad",
                // As the shortest text that reads back as the same number.
                "threshold": threshold.to_string().parse::<f64>().unwrap_or(0.5),
                "prefix_padding_ms": prefix_padding_ms,
                "silence_duration_ms": silence_duration_ms,
                "idle_timeout_ms": idle_timeout_ms,
                "create_response": false,
                "interrupt_response": false,
            }),
            Self::SemanticVad { eagerness } => json!({
                "type": "semantic_vad",
                "eagerness": name_of(&EAGER, eagerness),
                "create_response": false,
                "interrupt_response": false,
            }),
        }
    }
}

/// An object of the session, and where it lies.
struct At<'a> {
    path: String,
    fields: &'a Map<String, Value>,
}

impl<'a> At<'a> {
    fn root(name: &str, value: &'a Value) -> Result<Self, FieldError> {
        let fields =
            value.as_object().ok_or_else(|| FieldError::new(name, format!("{name} must be an object.")))?;
        Ok(Self { path: name.to_owned(), fields })
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        self.fields.get(name)
    }

    fn is_null(&self, name: &str) -> bool {
        self.get(name) == Some(&Value::Null)
    }

    /// The field, unless it is absent or `null`.
    fn some(&self, name: &str) -> Option<&'a Value> {
        self.get(name).filter(|value| !value.is_null())
    }

    fn object(&self, name: &str) -> Result<Option<Self>, FieldError> {
        let Some(value) = self.some(name) else { return Ok(None) };
        let fields = value.as_object().ok_or_else(|| self.wrong(name, "it must be an object."))?;
        Ok(Some(Self { path: format!("{}.{name}", self.path), fields }))
    }

    fn text(&self, name: &str) -> Result<Option<&'a str>, FieldError> {
        let Some(value) = self.some(name) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(name, "it must be a string."))
    }

    fn texts(&self, name: &str) -> Result<Option<Vec<String>>, FieldError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let list = match value {
            Value::Null => Some(Vec::new()),
            Value::Array(list) => list.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
            _ => None,
        };
        list.map(Some).ok_or_else(|| self.wrong(name, "it must be a list of strings."))
    }

    fn whole(&self, name: &str, least: u32, most: u32) -> Result<Option<u32>, FieldError> {
        let Some(value) = self.some(name) else { return Ok(None) };
        let whole = value.as_u64().or_else(|| {
            // Some clients only have one kind of number.
            value
                .as_f64()
                .filter(|number| number.fract() == 0.0 && *number >= 0.0)
                .map(|number| number as u64)
        });
        let within = whole.and_then(|whole| u32::try_from(whole).ok()).filter(|n| (least..=most).contains(n));
        let message = || self.wrong(name, &format!("it must be a whole number from {least} to {most}."));
        within.map(Some).ok_or_else(message)
    }

    fn one_of<T: Copy>(&self, name: &str, names: &[(&str, T)]) -> Result<Option<T>, FieldError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let found = names.iter().find(|(known, _)| *known == text).map(|(_, value)| *value);
        let known = || names.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", ");
        found.map(Some).ok_or_else(|| self.wrong(name, &format!("it must be one of {}.", known())))
    }

    fn server_vad(&self, before: TurnDetection) -> Result<TurnDetection, FieldError> {
        let TurnDetection::ServerVad {
            mut threshold,
            mut prefix_padding_ms,
            mut silence_duration_ms,
            mut idle_timeout_ms,
        } = (if matches!(before, TurnDetection::ServerVad { .. }) { before } else { SERVER_VAD })
        else {
            return Ok(SERVER_VAD);
        };
        if let Some(value) = self.some("threshold") {
            let number = value.as_f64().filter(|number| (0.0..=1.0).contains(number));
            threshold = number.ok_or_else(|| self.wrong("threshold", "it must be from 0 to 1."))? as f32;
        }
        if let Some(millis) = self.whole("prefix_padding_ms", 0, u32::MAX)? {
            prefix_padding_ms = millis.min(MOST_PADDING_MS);
        }
        if let Some(millis) = self.whole("silence_duration_ms", 0, u32::MAX)? {
            silence_duration_ms = millis.clamp(LEAST_SILENCE_MS, MOST_SILENCE_MS);
        }
        if self.get("idle_timeout_ms").is_some() {
            idle_timeout_ms = self.whole("idle_timeout_ms", 5_000, 30_000)?;
        }
        Ok(TurnDetection::ServerVad { threshold, prefix_padding_ms, silence_duration_ms, idle_timeout_ms })
    }

    fn wrong(&self, name: &str, message: &str) -> FieldError {
        let path = format!("{}.{name}", self.path);
        let value = match self.get(name) {
            Some(Value::String(text)) => text.clone(),
            value => value.map(Value::to_string).unwrap_or_default(),
        };
        FieldError::new(path.clone(), format!("{path} is {}: {message}", quoted(&value)))
    }

    fn not_a_format(&self, name: &str) -> FieldError {
        self.wrong(name, "it must be audio/pcm, audio/pcmu or audio/pcma (pcm16, g711_ulaw or g711_alaw).")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ga(session: Value) -> Result<SessionSettings, FieldError> {
        SessionSettings::default().update(Shape::Ga, &session)
    }

    #[test]
    fn everything_documented_is_read_and_told_back() {
        let settings = ga(json!({"type": "transcription", "audio": {"input": {
            "format": {"type": "audio/pcm", "rate": 16000},
            "transcription": {"model": "gpt-4o-transcribe", "language": "en", "languages": ["en", "de"],
                "keywords": ["Kubernetes"], "prompt": "…", "delay": "low"},
            "noise_reduction": {"type": "near_field"},
            "turn_detection": {"type": "server_vad", "threshold": 0.6, "prefix_padding_ms": 200,
                "silence_duration_ms": 350, "idle_timeout_ms": 6000, "create_response": false}}},
            "include": ["item.input_audio_transcription.logprobs"]}))
        .expect("all of it is documented");
        assert_eq!(settings.format, Format::Pcm { rate: 16_000 });
        assert_eq!((settings.delay, settings.logprobs), (Some(Delay::Low), true));
        let told = settings.to_json(Shape::Ga, "sess_1", "tiny", 7);
        let input = &told["audio"]["input"];
        assert_eq!(input["format"], json!({"type": "audio/pcm", "rate": 16000}));
        assert_eq!(input["transcription"]["keywords"], json!(["Kubernetes"]));
        assert_eq!(input["noise_reduction"], Value::Null, "nothing is done about noise");
        assert_eq!(input["turn_detection"]["threshold"], json!(0.6));
        assert_eq!(input["turn_detection"]["idle_timeout_ms"], 6000);
        assert_eq!(told["include"], json!(["item.input_audio_transcription.logprobs"]));
    }

    #[test]
    fn what_is_absent_stays_and_null_clears() {
        let first = ga(json!({"audio": {"input": {"transcription": {"language": "de", "prompt": "a"},
            "turn_detection": {"type": "server_vad", "silence_duration_ms": 800}}}}))
        .expect("right");
        let change = json!({"audio": {"input": {"transcription": {"prompt": null},
            "turn_detection": {"type": "server_vad", "threshold": 0.7}}}});
        let second = first.update(Shape::Ga, &change).expect("right");
        assert_eq!((second.language.as_deref(), second.prompt), (Some("de"), None));
        let TurnDetection::ServerVad { threshold, silence_duration_ms, .. } = second.turn_detection else {
            panic!("still by silence")
        };
        assert_eq!((threshold, silence_duration_ms), (0.7, 800));
        let manual = json!({"audio": {"input": {"turn_detection": null}}});
        assert_eq!(ga(manual).map(|s| s.turn_detection), Ok(TurnDetection::Manual));
    }

    #[test]
    fn the_beta_shape_is_flat() {
        let session = json!({"input_audio_format": "g711_ulaw",
            "input_audio_transcription": {"model": "gpt-4o-transcribe", "prompt": "", "language": ""},
            "turn_detection": {"type": "semantic_vad", "eagerness": "high"},
            "input_audio_noise_reduction": {"type": "far_field"}, "include": null});
        let settings = SessionSettings::default().update(Shape::Beta, &session).expect("right");
        assert_eq!((settings.format, settings.language.as_deref()), (Format::Mulaw, None));
        assert_eq!(settings.turn_detection, TurnDetection::SemanticVad { eagerness: Eagerness::High });
        let told = settings.to_json(Shape::Beta, "sess_1", "tiny", 7);
        assert_eq!(told["input_audio_format"], "g711_ulaw");
        assert_eq!(told["input_audio_transcription"]["language"], "");
        assert_eq!(told["include"], json!([]));
    }

    #[test]
    fn what_agents_send_is_forgiven() {
        let session = json!({"type": "realtime", "output_modalities": ["text"], "tools": [], "audio": {
            "input": {"format": "pcm16", "transcription": {"model": "gpt-4o-mini-transcribe"},
                "turn_detection": {"type": "semantic_vad"}},
            "output": {"voice": "alloy"}}});
        let settings = ga(session).expect("is forgiven");
        assert_eq!(settings.format, Format::DEFAULT);
        let zero = json!({"audio": {"input": {"turn_detection": {"type": "server_vad",
            "silence_duration_ms": 0, "prefix_padding_ms": 0, "threshold": 0}}}});
        let TurnDetection::ServerVad { silence_duration_ms, .. } = ga(zero).expect("right").turn_detection
        else {
            panic!("by silence")
        };
        assert_eq!(silence_duration_ms, LEAST_SILENCE_MS, "and the answer says so");
    }

    #[test]
    fn models_whose_clients_commit_have_no_turns_unless_asked_for() {
        let model = |extra: Value| {
            let mut input = json!({"transcription": {"model": "gpt-live-transcribe"}});
            input.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
            ga(json!({"audio": {"input": input}})).expect("right")
        };
        let left_away = model(json!({}));
        assert_eq!(left_away.turn_detection, TurnDetection::Manual);
        assert_eq!(model(json!({"turn_detection": {"type": "server_vad"}})).turn_detection, SERVER_VAD);
        let other = json!({"audio": {"input": {"transcription": {"model": "whisper-1"}}}});
        let other = left_away.update(Shape::Ga, &other).expect("right");
        assert_eq!(other.turn_detection, SERVER_VAD);
        assert_eq!(
            SessionSettings::default().with_model("gpt-realtime-whisper").turn_detection,
            TurnDetection::Manual
        );
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let input = |input: Value| json!({"audio": {"input": input}});
        for (session, param) in [
            (json!(7), "session"),
            (json!({"type": "speech"}), "session.type"),
            (json!({"audio": 7}), "session.audio"),
            (json!({"include": "logprobs"}), "session.include"),
            (input(json!({"format": "mp3"})), "session.audio.input.format"),
            (input(json!({"format": {"type": "audio/mp3"}})), "session.audio.input.format.type"),
            (input(json!({"format": {"type": "audio/pcm", "rate": 1}})), "session.audio.input.format.rate"),
            (
                input(json!({"format": {"type": "audio/pcmu", "rate": 16000}})),
                "session.audio.input.format.rate",
            ),
            (
                input(json!({"turn_detection": {"type": "psychic"}})),
                "session.audio.input.turn_detection.type",
            ),
            (
                input(json!({"turn_detection": {"type": "server_vad", "threshold": 2}})),
                "session.audio.input.turn_detection.threshold",
            ),
            (
                input(json!({"turn_detection": {"type": "server_vad", "idle_timeout_ms": 1}})),
                "session.audio.input.turn_detection.idle_timeout_ms",
            ),
            (input(json!({"transcription": {"delay": "ever"}})), "session.audio.input.transcription.delay"),
            (
                input(json!({"transcription": {"keywords": [1]}})),
                "session.audio.input.transcription.keywords",
            ),
            (input(json!({"noise_reduction": {"type": "x"}})), "session.audio.input.noise_reduction.type"),
        ] {
            assert_eq!(ga(session).expect_err(param).param, param);
        }
    }
}
