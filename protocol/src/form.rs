//! What a client asks for: the fields of a transcription or translation form, parsed and checked.
//!
//! The contract: [`TranscriptionForm::from_fields`] takes the text parts of a multipart form in any order, because
//! client libraries disagree about it, and either understands every field it knows or says which one is wrong.
//! Nothing a stranger sends can make it panic or keep more than the caps below. The shapes that clients really send
//! are all read: `name` and `name[]` (and `name[0]`) for arrays, `name[key]` for objects, JSON text for both.
//!
//! A scalar that is sent twice is refused: whichever were taken, half of the senders would be surprised. An empty
//! value counts as absent, as HTML forms send it. Unknown names are collected and otherwise ignored. What belongs to
//! several fields at once is [`TranscriptionForm::check`], a separate step, because the test suites of client
//! libraries post combinations that OpenAI itself refuses. Deliberately absent: the file, and everything that needs
//! to know the model (languages, lengths).

use std::fmt;

use serde_json::{Map, Value};

pub use crate::fields::quoted;
use crate::fields::{CHUNKING, Fields, cap_items};

/// The longest prompt, in bytes. The model reads a few hundred tokens of it at most.
pub const MAX_PROMPT: usize = 64 * 1024;
/// The most items that an array field may have.
pub const MAX_ITEMS: usize = 100;
/// The longest text of every other field, in bytes; speaker references, which are audio, excepted.
pub const MAX_TEXT: usize = 1024;

/// The longest address of a webhook, in bytes.
const MAX_URL: usize = 4096;

/// A form that has been understood.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TranscriptionForm {
    /// The model's name as the client wrote it; an alias more often than not.
    pub model: String,
    /// The spoken language as the client wrote it; `None` asks for detection.
    pub language: Option<String>,
    /// If not empty, detection chooses among these.
    pub languages: Vec<String>,
    /// Terms to expect; also from `hotwords`, whose one text is split at its commas.
    pub keywords: Vec<String>,
    /// Text that stands before the audio.
    pub prompt: Option<String>,
    /// What the answer looks like.
    pub response_format: ResponseFormat,
    /// Where the fallback ladder starts, 0 to 1.
    pub temperature: f32,
    /// Whether `include` asks for `logprobs`.
    pub logprobs: bool,
    /// As sent; empty means segments. See [`TranscriptionForm::wants_words`].
    pub timestamp_granularities: Vec<Granularity>,
    /// Whether the answer comes as events, while it is made.
    pub stream: bool,
    /// How the audio is cut.
    pub chunking_strategy: Option<ChunkingStrategy>,
    /// Names for the speakers. Accepted, and without effect on any format there is.
    pub known_speaker_names: Vec<String>,
    /// How many recordings of known speakers came. They are not kept.
    pub known_speaker_references: usize,
    /// Our own: whether silence is left out. It always is; the field is read for the sake of those who send it.
    pub vad_filter: Option<bool>,
    /// Our own: at least so many speakers. Without effect until speakers are told apart.
    pub min_speakers: Option<u32>,
    /// Our own: at most so many speakers. Without effect until speakers are told apart.
    pub max_speakers: Option<u32>,
    /// Our own: how much audio the model hears at once, 1 to 30 seconds.
    pub window_seconds: Option<f32>,
    /// Our own: `false` wants a transcript that is neither taken from those that are kept nor kept.
    pub cache: Option<bool>,
    /// Our own, `async`: whether the answer is a job, to be asked about later.
    pub background: bool,
    /// Our own: whom to tell when the job is over.
    pub webhook_url: Option<String>,
    /// Our own: what to sign that with.
    pub webhook_secret: Option<String>,
    /// The names of fields that nobody here knows: at most [`MAX_ITEMS`], each cut to 64 characters.
    pub unknown: Vec<String>,
}

/// A field that is wrong, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// The field as OpenAI documents it; arrays end in `[]`.
    pub param: String,
    /// One sentence for people.
    pub message: String,
}

impl FieldError {
    /// An error about one field.
    pub fn new(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: param.into(), message: message.into() }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for FieldError {}

/// What the answer looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResponseFormat {
    /// The text, and what was asked for beside it.
    #[default]
    Json,
    /// The bare text.
    Text,
    /// SubRip captions.
    Srt,
    /// Segments, words, figures.
    VerboseJson,
    /// WebVTT captions.
    Vtt,
}

impl ResponseFormat {
    /// All of them, in the order in which people are told about them.
    pub const ALL: [Self; 5] = [Self::Json, Self::Text, Self::Srt, Self::VerboseJson, Self::Vtt];

    /// As the wire writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Text => "text",
            Self::Srt => "srt",
            Self::VerboseJson => "verbose_json",
            Self::Vtt => "vtt",
        }
    }

    /// Reads what the wire writes.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }
}

/// What gets times of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// Every word.
    Word,
    /// Every segment.
    Segment,
}

/// How the audio is cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ChunkingStrategy {
    /// As the server thinks best.
    Auto,
    /// By voice activity, with these settings where they are given.
    ServerVad {
        /// How sure the detector must be, 0 to 1.
        threshold: Option<f32>,
        /// How much audio before speech belongs to it, at most 10,000.
        prefix_padding_ms: Option<u32>,
        /// How much silence ends an utterance, at most 10,000.
        silence_duration_ms: Option<u32>,
    },
}

impl TranscriptionForm {
    /// Reads the text fields of a form, in any order. `translation` says which endpoint they were sent to: it
    /// takes the same fields, and has fewer formats in OpenAI's own API.
    pub fn from_fields(fields: &[(String, String)], translation: bool) -> Result<Self, FieldError> {
        let fields = Fields::sort(fields)?;
        refuse_what_is_not_done_yet(&fields, translation)?;
        let mut keywords = fields.texts("keywords")?;
        if let Some(hotwords) = fields.text("hotwords", MAX_PROMPT)? {
            keywords.extend(
                hotwords.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned),
            );
            cap_items("hotwords", keywords.len())?;
        }
        let mut unknown = fields.unknown.clone();
        let chunking_strategy = chunking_strategy(&fields, &mut unknown)?;
        Ok(Self {
            model: fields
                .text("model", MAX_TEXT)?
                .ok_or_else(|| FieldError::new("model", "model is missing."))?,
            language: fields.text("language", MAX_TEXT)?,
            languages: fields.texts("languages")?,
            keywords,
            prompt: fields.text("prompt", MAX_PROMPT)?,
            response_format: response_format(&fields)?,
            temperature: fields.number("temperature", 0.0, 1.0)?.unwrap_or(0.0),
            logprobs: !fields.choices("include", &[("logprobs", ())])?.is_empty(),
            timestamp_granularities: fields.choices(
                "timestamp_granularities",
                &[("word", Granularity::Word), ("segment", Granularity::Segment)],
            )?,
            stream: fields.flag("stream")?.unwrap_or(false),
            chunking_strategy,
            known_speaker_names: fields.texts("known_speaker_names")?,
            known_speaker_references: fields.count("known_speaker_references")?,
            vad_filter: fields.flag("vad_filter")?,
            min_speakers: fields.speakers("min_speakers")?,
            max_speakers: fields.speakers("max_speakers")?,
            window_seconds: fields.number("window_seconds", 1.0, 30.0)?,
            cache: fields.flag("cache")?,
            background: fields.flag("async")?.unwrap_or(false),
            webhook_url: fields.text("webhook_url", MAX_URL)?,
            webhook_secret: fields.text("webhook_secret", MAX_TEXT)?,
            unknown,
        })
    }

    /// The rules between fields.
    pub fn check(&self) -> Result<(), FieldError> {
        if self.logprobs && self.response_format != ResponseFormat::Json {
            return Err(FieldError::new("include[]", "include[]=logprobs needs response_format=json."));
        }
        if !self.timestamp_granularities.is_empty() && self.response_format != ResponseFormat::VerboseJson {
            let message = "timestamp_granularities[] needs response_format=verbose_json.";
            return Err(FieldError::new("timestamp_granularities[]", message));
        }
        if self.known_speaker_names.len() != self.known_speaker_references {
            let message =
                "known_speaker_names[] and known_speaker_references[] must have the same number of items.";
            return Err(FieldError::new("known_speaker_references[]", message));
        }
        if self.known_speaker_names.len() > 4 {
            return Err(FieldError::new("known_speaker_names[]", "At most 4 known speakers are allowed."));
        }
        if let (Some(min), Some(max)) = (self.min_speakers, self.max_speakers)
            && min > max
        {
            return Err(FieldError::new("min_speakers", "min_speakers must not be above max_speakers."));
        }
        Ok(())
    }

    /// Whether words get times of their own.
    pub fn wants_words(&self) -> bool {
        self.timestamp_granularities.contains(&Granularity::Word)
    }

    /// Whether segments get times of their own: yes, unless words alone were asked for.
    pub fn wants_segments(&self) -> bool {
        self.timestamp_granularities.is_empty()
            || self.timestamp_granularities.contains(&Granularity::Segment)
    }
}

/// What other servers do, and this one will. An honest refusal beats an answer that left something out.
fn refuse_what_is_not_done_yet(fields: &Fields<'_>, translation: bool) -> Result<(), FieldError> {
    let not_yet = |name: &str, what: &str| {
        Err(FieldError::new(name, format!("This server does not {what} yet; please send no {name}.")))
    };
    if fields.values("response_format").next().map(str::trim) == Some("diarized_json") && !translation {
        let message = "This server does not tell speakers apart yet; diarized_json is not available.";
        return Err(FieldError::new("response_format", message));
    }
    if fields.flag("diarize")? == Some(true) {
        return not_yet("diarize", "tell speakers apart");
    }
    Ok(())
}

fn response_format(fields: &Fields<'_>) -> Result<ResponseFormat, FieldError> {
    let Some(value) = fields.values("response_format").next() else { return Ok(ResponseFormat::default()) };
    let allowed = ResponseFormat::ALL.map(ResponseFormat::name).join(", ");
    let message = || format!("response_format must be one of {allowed}, not {}.", quoted(value));
    ResponseFormat::parse(value.trim()).ok_or_else(|| FieldError::new("response_format", message()))
}

/// Text `auto`, JSON text, or bracketed parts.
fn chunking_strategy(
    fields: &Fields<'_>,
    unknown: &mut Vec<String>,
) -> Result<Option<ChunkingStrategy>, FieldError> {
    let sent = fields.known.iter().filter(|(name, ..)| *name == CHUNKING);
    let (parts, wholes): (Vec<_>, Vec<_>) = sent.partition(|(_, key, _)| !key.is_empty());
    let twice = || FieldError::new(CHUNKING, "chunking_strategy was sent more than once.");
    let mut object = Map::new();
    match (wholes.as_slice(), parts.is_empty()) {
        ([], true) => return Ok(None),
        ([(_, _, whole)], true) => match serde_json::from_str(whole) {
            Ok(Value::Object(parsed)) => object = parsed,
            Ok(Value::Null) => return Ok(None),
            Ok(Value::String(text)) if text == "auto" => return Ok(Some(ChunkingStrategy::Auto)),
            Err(_) if whole.trim() == "auto" => return Ok(Some(ChunkingStrategy::Auto)),
            _ => {}
        },
        ([], false) => {
            for (_, key, value) in parts {
                if object.insert((*key).to_owned(), Value::from(value)).is_some() {
                    return Err(twice());
                }
            }
        }
        _ => return Err(twice()),
    }
    server_vad(&object, unknown).map(Some)
}

/// Reads the object form of a chunking strategy; its numbers may be texts.
fn server_vad(
    object: &Map<String, Value>,
    unknown: &mut Vec<String>,
) -> Result<ChunkingStrategy, FieldError> {
    if object.get("type").and_then(Value::as_str).map(str::trim) != Some("server_vad") {
        let message = "chunking_strategy must be auto or an object of type server_vad.";
        return Err(FieldError::new(CHUNKING, message));
    }
    let number = |key: &str, most: f64| {
        let Some(value) = object.get(key).filter(|value| !value.is_null()) else { return Ok(None) };
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let number = text.trim().parse::<f64>().ok().filter(|number| (0.0..=most).contains(number));
        let message = || format!("{key} must be a number from 0 to {most}, not {}.", quoted(&text));
        number.map(Some).ok_or_else(|| FieldError::new(format!("{CHUNKING}[{key}]"), message()))
    };
    let strategy = ChunkingStrategy::ServerVad {
        threshold: number("threshold", 1.0)?.map(|number| number as f32),
        prefix_padding_ms: number("prefix_padding_ms", 10_000.0)?.map(|number| number.round() as u32),
        silence_duration_ms: number("silence_duration_ms", 10_000.0)?.map(|number| number.round() as u32),
    };
    let known = ["type", "threshold", "prefix_padding_ms", "silence_duration_ms"];
    let strange = object.keys().filter(|key| !known.contains(&key.as_str()));
    let room = MAX_ITEMS.saturating_sub(unknown.len());
    unknown.extend(strange.take(room).map(|key| format!("{CHUNKING}[{key}]").chars().take(64).collect()));
    Ok(strategy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(fields: &[(&str, &str)]) -> Result<TranscriptionForm, FieldError> {
        let mut all = vec![("model".to_owned(), "whisper-1".to_owned())];
        all.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        TranscriptionForm::from_fields(&all, false)
    }

    fn refused(fields: &[(&str, &str)]) -> FieldError {
        parse(fields).expect_err("must be refused")
    }

    #[test]
    fn the_least_form_gets_the_defaults() {
        let form = parse(&[]).expect("a model is enough");
        assert_eq!(form, TranscriptionForm { model: "whisper-1".into(), ..TranscriptionForm::default() });
        assert_eq!((form.wants_segments(), form.wants_words()), (true, false));
        assert_eq!(form.check(), Ok(()));
        for none in [vec![], vec![("model".to_owned(), " ".to_owned())]] {
            assert_eq!(TranscriptionForm::from_fields(&none, false).expect_err("no model").param, "model");
        }
    }

    #[test]
    fn the_shapes_that_client_libraries_send_are_all_read() {
        for name in ["timestamp_granularities[]", "timestamp_granularities", "timestamp_granularities[0]"] {
            let form = parse(&[(name, "word"), ("response_format", "verbose_json")]).expect(name);
            assert_eq!((form.wants_segments(), form.wants_words()), (false, true));
            assert_eq!(form.check(), Ok(()));
        }
        let both = parse(&[("timestamp_granularities[]", "word"), ("timestamp_granularities[]", "segment")]);
        assert!(both.expect("both").wants_segments());
        let json = parse(&[("timestamp_granularities", r#"["segment", "word"]"#)]).expect("JSON text");
        assert_eq!(json.timestamp_granularities, [Granularity::Segment, Granularity::Word]);
        let words = parse(&[("keywords[]", "Zürich"), ("keywords", "[sic"), ("hotwords", "a b, c,,")]);
        assert_eq!(words.expect("keywords").keywords, ["Zürich", "[sic", "a b", "c"]);
        for (text, value) in [("true", true), ("True", true), ("1", true), ("false", false), ("0", false)] {
            assert_eq!(parse(&[("stream", text)]).expect(text).stream, value);
        }
        assert!(parse(&[("include[]", "logprobs")]).expect("include").logprobs);
        assert_eq!(parse(&[("temperature", "0.4")]).expect("temperature").temperature, 0.4);
        assert_eq!(parse(&[("window_seconds", "30")]).expect("window").window_seconds, Some(30.0));
        assert_eq!(
            parse(&[("language", ""), ("prompt", "")]).expect("empty is absent"),
            parse(&[]).expect("least")
        );
    }

    #[test]
    fn a_chunking_strategy_comes_in_three_shapes() {
        let strategy = |fields: &[(&str, &str)]| parse(fields).expect("a strategy").chunking_strategy;
        let vad = ChunkingStrategy::ServerVad {
            threshold: Some(0.5),
            prefix_padding_ms: Some(300),
            silence_duration_ms: None,
        };
        let parts = [
            ("chunking_strategy[threshold]", "0.5"),
            ("chunking_strategy[type]", "server_vad"),
            ("chunking_strategy[prefix_padding_ms]", "300"),
        ];
        assert_eq!(strategy(&parts), Some(vad));
        let json = r#"{"type":"server_vad","threshold":0.5,"prefix_padding_ms":300,"mood":1}"#;
        assert_eq!(strategy(&[("chunking_strategy", json)]), Some(vad));
        assert_eq!(parse(&[("chunking_strategy", json)]).expect("mood").unknown, ["chunking_strategy[mood]"]);
        for auto in ["auto", "\"auto\""] {
            assert_eq!(strategy(&[("chunking_strategy", auto)]), Some(ChunkingStrategy::Auto));
        }
        assert_eq!(strategy(&[("chunking_strategy", "null")]), None);

        for wrong in ["sometimes", "{}", "[]", "3", "{", r#"{"type":"other"}"#] {
            assert_eq!(refused(&[("chunking_strategy", wrong)]).param, "chunking_strategy", "{wrong}");
        }
        assert_eq!(refused(&[("chunking_strategy[threshold]", "0.5")]).param, "chunking_strategy");
        assert_eq!(
            refused(&[("chunking_strategy", "auto"), ("chunking_strategy", json)]).param,
            "chunking_strategy"
        );
        let range = [("chunking_strategy[type]", "server_vad"), ("chunking_strategy[threshold]", "nan")];
        assert_eq!(refused(&range).param, "chunking_strategy[threshold]");
    }

    #[test]
    fn wrong_values_name_their_field() {
        let long = "x".repeat(MAX_PROMPT + 1);
        let many = format!("[{}]", vec!["\"a\""; MAX_ITEMS + 1].join(","));
        for (name, value, param) in [
            ("temperature", "1.1", "temperature"),
            ("temperature", "-0.1", "temperature"),
            ("temperature", "NaN", "temperature"),
            ("temperature", "hot", "temperature"),
            ("window_seconds", "0.5", "window_seconds"),
            ("window_seconds", "inf", "window_seconds"),
            ("stream", "maybe", "stream"),
            ("prompt", "a\0b", "prompt"),
            ("prompt", &long, "prompt"),
            ("language", "e\0n", "language"),
            ("language", &long, "language"),
            ("keywords[]", "a\0", "keywords[]"),
            ("keywords", "[1]", "keywords[]"),
            ("keywords", &many, "keywords[]"),
            ("hotwords", "a\0", "hotwords"),
            ("languages[]", "\0", "languages[]"),
            ("include[]", "speakers", "include[]"),
            ("timestamp_granularities[]", "letter", "timestamp_granularities[]"),
            ("response_format", "xml", "response_format"),
            ("min_speakers", "0", "min_speakers"),
            ("model", "again", "model"),
        ] {
            let error = refused(&[(name, value)]);
            assert_eq!(error.param, param, "{error}");
            assert!(error.message.len() < 200, "{error}");
            assert!(!error.message.contains('\0'));
        }
        let error = refused(&[("response_format", "xml")]);
        assert_eq!(
            error.message,
            "response_format must be one of json, text, srt, verbose_json, vtt, not \"xml\"."
        );
        assert_eq!(
            refused(&[("stream", "true"), ("stream", "true")]).message,
            "stream was sent more than once."
        );
    }

    #[test]
    fn what_is_not_done_yet_is_refused_clearly() {
        for (name, value) in [("diarize", "1"), ("response_format", "diarized_json")] {
            let error = refused(&[(name, value)]);
            assert_eq!(error.param, name);
            assert!(error.message.contains("yet"), "{error}");
        }
        parse(&[("diarize", "0")]).expect("nothing is asked for");
    }

    #[test]
    fn an_answer_may_come_later() {
        let later =
            parse(&[("async", "true"), ("webhook_url", "https://example.com"), ("webhook_secret", "s")]);
        let later = later.expect("can be done");
        assert!(later.background);
        assert_eq!(
            (later.webhook_url.as_deref(), later.webhook_secret.as_deref()),
            (Some("https://example.com"), Some("s"))
        );
        let now = parse(&[("async", "false"), ("webhook_url", "")]).expect("nothing is asked for");
        assert!(!now.background && now.webhook_url.is_none());
        assert_eq!(refused(&[("async", "perhaps")]).param, "async");
    }

    #[test]
    fn unknown_fields_are_counted_and_ignored() {
        let form = parse(&[("mood", "good"), ("language[]", "de"), ("include[x]", "y"), ("]", ""), ("", "")]);
        assert_eq!(form.expect("ignored").unknown, ["mood", "language[]", "include[x]", "]", ""]);
        let many: Vec<(String, String)> =
            (0..500).map(|n| (format!("{n}{}", "ü".repeat(99)), String::new())).collect();
        let many: Vec<(&str, &str)> =
            many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let unknown = parse(&many).expect("ignored").unknown;
        assert_eq!(unknown.len(), MAX_ITEMS);
        assert!(unknown.iter().all(|name| name.chars().count() == 64));
    }

    #[test]
    fn rules_between_fields_are_a_separate_step() {
        for (fields, param) in [
            (&[("include[]", "logprobs"), ("response_format", "text")][..], "include[]"),
            (&[("timestamp_granularities[]", "segment")], "timestamp_granularities[]"),
            (&[("known_speaker_names[]", "Ada")], "known_speaker_references[]"),
            (&[("min_speakers", "3"), ("max_speakers", "2")], "min_speakers"),
        ] {
            let form = parse(fields).expect("each field is right by itself");
            assert_eq!(form.check().expect_err("but not together").param, param);
        }
        let mut speakers = vec![("response_format", "json")];
        speakers.extend([("known_speaker_names[]", "Ada"), ("known_speaker_references[]", "data:,")]);
        assert_eq!(parse(&speakers).expect("speakers").check(), Ok(()));
        speakers.extend([("known_speaker_names", r#"["B","C","D","E"]"#)]);
        speakers.extend([("known_speaker_references", r#"["","","",""]"#)]);
        assert_eq!(
            parse(&speakers).expect("five").check().expect_err("too many").param,
            "known_speaker_names[]"
        );
    }
}
