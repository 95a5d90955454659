//! A transcript written down as OpenAI's clients read it: whole, or final by final.
//!
//! The contract: words never overlap and never end after the audio; every number is finite, because JSON has no
//! other; all deltas joined are exactly the text of the last event, which is exactly the text of the plain body.
//! Deliberately absent: the caption formats themselves, which the protocol crate shares with the clients.

use serde::Serialize;
use whisperwire_protocol::captions::{self, Caption};
use whisperwire_protocol::form::{ResponseFormat, TranscriptionForm};
use whisperwire_protocol::openai as wire;

use crate::dialect::Narrator;
use crate::dialect::deltas::{Deltas, audio_tokens, text_tokens};
use crate::engine::Task;
use crate::engine::guard::compression_ratio;
use crate::language::Language;
use crate::transcript::{Gap, GapReason, Samples, Segment, Transcript, Word};

/// A finished answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// For the header of that name.
    pub content_type: &'static str,
    /// The whole body.
    pub body: String,
}

/// Writes a transcript down in the format that the form asks for. `task` is what the endpoint is for, even where
/// the order had to do less, and `id` what the transcript can be asked for by later.
pub fn render(transcript: &Transcript, form: &TranscriptionForm, task: Task, id: Option<&str>) -> Rendered {
    let plain = "text/plain; charset=utf-8";
    match form.response_format {
        ResponseFormat::Json if task == Task::Translate => {
            json(&wire::Translation { text: transcript.text() })
        }
        ResponseFormat::Json => json(&transcription(transcript, form)),
        ResponseFormat::VerboseJson => json(&verbose(transcript, form, task, id)),
        ResponseFormat::Text => Rendered { content_type: plain, body: format!("{}\n", transcript.text()) },
        ResponseFormat::Srt => {
            Rendered { content_type: plain, body: captions::srt(&as_captions(transcript)) }
        }
        ResponseFormat::Vtt => Rendered {
            content_type: "text/vtt; charset=utf-8",
            body: captions::vtt(&as_captions(transcript)),
        },
    }
}

/// The transcript as captions, one per segment, none of them longer than the audio.
pub fn as_captions(transcript: &Transcript) -> Vec<Caption> {
    let caption = |segment: &Segment| Caption {
        start: segment.span.start.min(transcript.duration).seconds(),
        end: segment.span.end.min(transcript.duration).seconds(),
        text: segment.text(),
        speaker: None,
    };
    transcript.segments.iter().map(caption).collect()
}

fn json(body: &impl Serialize) -> Rendered {
    let body = serde_json::to_string(body).expect("a body is plain data with text keys");
    Rendered { content_type: "application/json", body }
}

fn transcription(transcript: &Transcript, form: &TranscriptionForm) -> wire::Transcription {
    let usage = if form.model.starts_with("gpt-") {
        wire::Usage::tokens(audio_tokens(transcript.duration), transcript.words().map(text_tokens).sum())
    } else {
        wire::Usage::duration(transcript.duration.seconds())
    };
    wire::Transcription {
        text: transcript.text(),
        logprobs: form.logprobs.then(|| logprobs(transcript.words(), Edge::First)),
        languages: detected(form, transcript.language),
        usage: Some(usage),
    }
}

fn verbose(
    transcript: &Transcript,
    form: &TranscriptionForm,
    task: Task,
    id: Option<&str>,
) -> wire::VerboseTranscription {
    let (task, language) = match task {
        Task::Transcribe => {
            (wire::TaskName::Transcribe, transcript.language.map_or("unknown", Language::name))
        }
        Task::Translate => (wire::TaskName::Translate, Language::ENGLISH.name()),
    };
    let usage = wire::Usage::duration(transcript.duration.seconds());
    wire::VerboseTranscription {
        task,
        language: language.to_owned(),
        duration: seconds(transcript.duration),
        text: transcript.text(),
        segments: form.wants_segments().then(|| segments(transcript)),
        words: form.wants_words().then(|| words(transcript)),
        usage: (task == wire::TaskName::Transcribe).then_some(usage),
        gaps: transcript.gaps.iter().map(gap).collect(),
        task_id: id.map(str::to_owned),
    }
}

/// All segments, with the figures the model judged them by.
pub fn segments(transcript: &Transcript) -> Vec<wire::Segment> {
    let segment = |(id, segment): (u32, &Segment)| {
        let text = segment.text();
        let start = segment.span.start.min(transcript.duration);
        wire::Segment {
            id,
            seek: start.0 / SEEK_FRAME,
            start: seconds(start),
            end: seconds(segment.span.end.min(transcript.duration)),
            tokens: segment.words.iter().flat_map(|word| &word.tokens).map(|token| token.id).collect(),
            temperature: finite(segment.temperature),
            avg_logprob: mean_logprob(&segment.words),
            compression_ratio: compression_ratio(text.trim()),
            no_speech_prob: finite(segment.no_speech),
            text,
        }
    };
    (0..).zip(&transcript.segments).map(segment).collect()
}

/// Words in order: none starts before the one before it, and each ends at the latest where the next one starts.
fn words(transcript: &Transcript) -> Vec<wire::Word> {
    let heard: Vec<&Word> = transcript.words().filter(|word| !word.text.trim().is_empty()).collect();
    let mut latest = Samples::default();
    let mut starts: Vec<Samples> = Vec::with_capacity(heard.len() + 1);
    for word in &heard {
        latest = latest.max(word.span.start.min(transcript.duration));
        starts.push(latest);
    }
    starts.push(transcript.duration);
    let word = |(word, limits): (&&Word, &[Samples])| wire::Word {
        word: word.text.trim().to_owned(),
        start: seconds(limits[0]),
        end: seconds(word.span.end.clamp(limits[0], limits[1])),
    };
    heard.iter().zip(starts.windows(2)).map(word).collect()
}

fn gap(gap: &Gap) -> wire::Gap {
    let reason = match gap.reason {
        GapReason::Corrupt => wire::GapReason::Corrupt,
        GapReason::Engine => wire::GapReason::Engine,
        GapReason::Overload => wire::GapReason::Overload,
    };
    wire::Gap { start: seconds(gap.span.start), end: seconds(gap.span.end), reason }
}

/// `stream=true`: finals in, events out.
///
/// With `verbose_json` every delta is followed by its segment. Nobody tells speakers apart, so all is said by `A`.
#[derive(Clone, Debug)]
pub struct StreamRenderer {
    form: TranscriptionForm,
    deltas: Deltas,
    /// How many segments have been told.
    segments: u32,
    tokens: u64,
    logprobs: Vec<wire::Logprob>,
    language: Option<Language>,
    duration: Samples,
}

impl StreamRenderer {
    /// The beginning of an answer to this form.
    pub fn new(form: &TranscriptionForm) -> Self {
        Self {
            form: form.clone(),
            deltas: Deltas::default(),
            segments: 0,
            tokens: 0,
            logprobs: Vec::new(),
            language: None,
            duration: Samples::default(),
        }
    }
}

impl Narrator for StreamRenderer {
    fn segment(&mut self, segment: &Segment) -> Vec<String> {
        let edge = if self.deltas.at_edge() { Edge::First } else { Edge::Later };
        let text = segment.text();
        let Some(delta) = self.deltas.more(&text) else { return Vec::new() };
        self.tokens += segment.words.iter().map(text_tokens).sum::<u64>();
        let logprobs = self.form.logprobs.then(|| logprobs(&segment.words, edge));
        self.logprobs.extend(logprobs.iter().flatten().cloned());
        let beside = (self.form.response_format == ResponseFormat::VerboseJson).then(|| {
            self.segments += 1;
            wire::StreamEvent::Segment {
                id: format!("seg_{:03}", self.segments),
                start: seconds(segment.span.start),
                end: seconds(segment.span.end),
                text: text.trim().to_owned(),
                speaker: "A".to_owned(),
            }
        });
        let delta = wire::StreamEvent::Delta { delta, logprobs, segment_id: None };
        std::iter::once(delta).chain(beside).map(|event| json(&event).body).collect()
    }

    fn end(&mut self, transcript: &Transcript) {
        (self.language, self.duration) = (transcript.language, transcript.duration);
    }

    fn done(self) -> Vec<String> {
        let event = wire::StreamEvent::Done {
            logprobs: self.form.logprobs.then_some(self.logprobs),
            languages: detected(&self.form, self.language),
            usage: Some(wire::Usage::tokens(audio_tokens(self.duration), self.tokens)),
            text: self.deltas.into_text(),
        };
        vec![json(&event).body]
    }
}

/// Samples in one frame of Whisper's own position count, 10 ms.
const SEEK_FRAME: u64 = 160;

/// What stands for the logarithm of zero, as in OpenAI's own answers.
const LOG_ZERO: f32 = -9999.0;

/// The languages, for the model names whose readers expect them: an empty list says that none was recognised.
fn detected(form: &TranscriptionForm, language: Option<Language>) -> Option<Vec<wire::DetectedLanguage>> {
    let expected = ["gpt-transcribe", "gpt-live-transcribe"].contains(&form.model.as_str());
    let code = |language: Language| wire::DetectedLanguage { code: language.code().to_owned() };
    expected.then(|| language.map(code).into_iter().collect())
}

/// Where in the text a run of words stands. The space before the first one is not part of the text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::dialect) enum Edge {
    First,
    Later,
}

/// One entry per token; a word of an engine without tokens stands for itself.
pub(in crate::dialect) fn logprobs<'a>(
    words: impl IntoIterator<Item = &'a Word>,
    edge: Edge,
) -> Vec<wire::Logprob> {
    let mut all: Vec<wire::Logprob> = Vec::new();
    let mut push = |bytes: &[u8], logprob: f32| {
        let first = edge == Edge::First && all.is_empty();
        let bytes = if first { bytes.trim_ascii_start() } else { bytes };
        if !bytes.is_empty() {
            let token = String::from_utf8_lossy(bytes).into_owned();
            all.push(wire::Logprob { token, logprob: log_finite(logprob), bytes: bytes.to_vec() });
        }
    };
    for word in words {
        if word.tokens.is_empty() {
            push(word.text.as_bytes(), word.probability.ln());
        }
        for token in &word.tokens {
            push(&token.bytes, token.logprob);
        }
    }
    all
}

/// The mean over all tokens, or over all words where there are none.
fn mean_logprob(words: &[Word]) -> f32 {
    let tokens = || words.iter().flat_map(|word| &word.tokens);
    let (sum, count) = match tokens().count() {
        0 => (words.iter().map(|word| log_finite(word.probability.ln())).sum::<f32>(), words.len()),
        count => (tokens().map(|token| log_finite(token.logprob)).sum(), count),
    };
    if count == 0 { 0.0 } else { sum / count as f32 }
}

/// Seconds to the millisecond; what is below is noise on the wire.
fn seconds(at: Samples) -> f64 {
    (at.seconds() * 1000.0).round() / 1000.0
}

fn finite(number: f32) -> f32 {
    if number.is_finite() { number } else { 0.0 }
}

/// The logarithm of a probability, which is never above zero.
fn log_finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob.min(0.0) } else { LOG_ZERO }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::transcript::{Span, Token};

    fn word(text: &str, start: f64, end: f64) -> Word {
        Word {
            text: text.into(),
            span: Span { start: Samples::from_seconds(start), end: Samples::from_seconds(end) },
            probability: 0.5,
            tokens: vec![],
        }
    }

    fn said(text: &str, start: f64, end: f64, id: u32) -> Word {
        let token = Token { id, bytes: text.as_bytes().to_vec(), logprob: -0.5 };
        Word { tokens: vec![token], ..word(text, start, end) }
    }

    fn segment(words: Vec<Word>) -> Segment {
        let span = Span::new(words[0].span.start, words[words.len() - 1].span.end);
        Segment { utterance: 0, span, words, temperature: 0.0, no_speech: 0.25, language: None }
    }

    fn transcript(segments: Vec<Segment>, duration: f64) -> Transcript {
        let language = Some(Language::ENGLISH);
        Transcript { segments, language, duration: Samples::from_seconds(duration), ..Transcript::default() }
    }

    fn hello() -> Transcript {
        let first = segment(vec![said(" Hello", 0.5, 0.8, 7), said(" there.", 0.8, 1.25, 9)]);
        transcript(vec![first, segment(vec![said(" Bye.", 2.0, 2.5, 11)])], 8.47)
    }

    fn form(fields: &[(&str, &str)]) -> TranscriptionForm {
        let mut all = vec![];
        if !fields.iter().any(|(name, _)| *name == "model") {
            all.push(("model".to_owned(), "whisper-1".to_owned()));
        }
        all.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        TranscriptionForm::from_fields(&all, false).expect("the form is right by itself")
    }

    fn body(transcript: &Transcript, fields: &[(&str, &str)], task: Task) -> Value {
        let rendered = render(transcript, &form(fields), task, None);
        assert_eq!(rendered.content_type, "application/json");
        serde_json::from_str(&rendered.body).expect("the body is JSON")
    }

    /// The last event of a stream that has told its finals.
    fn done(mut stream: StreamRenderer, language: Option<Language>, duration: Samples) -> String {
        stream.end(&Transcript { language, duration, ..Transcript::default() });
        let [last] = stream.done().try_into().expect("one event");
        last
    }

    #[test]
    fn texts_and_captions_are_bare() {
        let written = |format: &str| {
            let rendered = render(&hello(), &form(&[("response_format", format)]), Task::Transcribe, None);
            (rendered.content_type, rendered.body)
        };
        let plain = "text/plain; charset=utf-8";
        assert_eq!(written("text"), (plain, "Hello there. Bye.\n".into()));
        let srt =
            "1\n00:00:00,500 --> 00:00:01,250\nHello there.\n\n2\n00:00:02,000 --> 00:00:02,500\nBye.\n\n";
        assert_eq!(written("srt"), (plain, srt.into()));
        let vtt = "WEBVTT\n\n00:00.500 --> 00:01.250\nHello there.\n\n00:02.000 --> 00:02.500\nBye.\n\n";
        assert_eq!(written("vtt"), ("text/vtt; charset=utf-8", vtt.into()));
    }

    #[test]
    fn json_counts_seconds_or_tokens() {
        let usage = json!({"type": "duration", "seconds": 9});
        let whisper = body(&hello(), &[], Task::Transcribe);
        assert_eq!(whisper, json!({"text": "Hello there. Bye.", "usage": usage}));
        let gpt = body(&hello(), &[("model", "gpt-transcribe")], Task::Transcribe);
        let details = json!({"text_tokens": 0, "audio_tokens": 85});
        let usage = json!({"type": "tokens", "input_tokens": 85, "input_token_details": details,
            "output_tokens": 3, "total_tokens": 88});
        assert_eq!(gpt, json!({"text": "Hello there. Bye.", "usage": usage, "languages": [{"code": "en"}]}));
        let translation = body(&hello(), &[], Task::Translate);
        assert_eq!(translation, json!({"text": "Hello there. Bye."}));
    }

    #[test]
    fn verbose_json_has_every_key() {
        let fields = [("response_format", "verbose_json")];
        let mut all = hello();
        let written = body(&all, &fields, Task::Transcribe);
        let mut second = json!({"id": 1, "seek": 200, "start": 2.0, "end": 2.5, "text": " Bye.", "tokens": [11],
            "temperature": 0.0, "avg_logprob": -0.5, "no_speech_prob": 0.25});
        // zlib makes 12 bytes of 4: two of header, six of block, four of checksum.
        let ratio = written["segments"][1]["compression_ratio"].as_f64().expect("a number");
        assert!((ratio - 1.0 / 3.0).abs() < 1e-6, "{ratio}");
        second["compression_ratio"] = json!(ratio);
        assert_eq!(written["segments"][1], second);
        assert_eq!(written["segments"][0]["tokens"], json!([7, 9]));
        assert_eq!(written.get("words"), None);
        assert_eq!(written.get("gaps"), None);
        for (key, value) in [
            ("task", json!("transcribe")),
            ("language", json!("english")),
            ("duration", json!(8.47)),
            ("text", json!("Hello there. Bye.")),
            ("usage", json!({"type": "duration", "seconds": 9})),
        ] {
            assert_eq!(written[key], value, "{key}");
        }

        all.language = Language::parse("de");
        let span = Span::new(Samples::from_seconds(3.0), Samples::from_seconds(4.5));
        all.gaps.push(Gap { span, reason: GapReason::Engine });
        let written = body(&all, &fields, Task::Translate);
        assert_eq!(written["gaps"], json!([{"start": 3.0, "end": 4.5, "reason": "engine"}]));
        assert_eq!((&written["task"], &written["language"]), (&json!("translate"), &json!("english")));
        assert_eq!(body(&all, &fields, Task::Transcribe)["language"], "german");
        all.language = None;
        assert_eq!(body(&all, &fields, Task::Transcribe)["language"], "unknown");
    }

    #[test]
    fn words_alone_or_beside_segments() {
        let words = [("response_format", "verbose_json"), ("timestamp_granularities[]", "word")];
        let written = body(&hello(), &words, Task::Transcribe);
        assert_eq!(written["words"][1], json!({"word": "there.", "start": 0.8, "end": 1.25}));
        assert_eq!(written.get("segments"), None);
        let both = [words[0], words[1], ("timestamp_granularities[]", "segment")];
        let written = body(&hello(), &both, Task::Transcribe);
        assert_eq!(written["words"].as_array().map(Vec::len), Some(3));
        assert_eq!(written["segments"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn logprobs_spell_the_text() {
        let mut all = hello();
        // A character split over two tokens, and a word of an engine that has no tokens.
        let half = |bytes: &[u8]| Token { id: 1, bytes: bytes.to_vec(), logprob: f32::NEG_INFINITY };
        let split = Word { tokens: vec![half(b" \xc3"), half(b"\xbc")], ..word(" \u{fc}", 3.0, 3.1) };
        all.segments.push(segment(vec![split, word(" ja", 3.1, 3.2)]));
        let written = body(&all, &[("include[]", "logprobs")], Task::Transcribe);
        let logprobs = written["logprobs"].as_array().expect("they were asked for");
        let bytes = logprobs.iter().flat_map(|one| one["bytes"].as_array().expect("bytes"));
        let bytes: Vec<u8> = bytes.map(|byte| byte.as_u64().expect("a byte") as u8).collect();
        assert_eq!(String::from_utf8(bytes).expect("joined again"), written["text"]);
        assert_eq!(
            logprobs[0],
            json!({"token": "Hello", "logprob": -0.5, "bytes": [72, 101, 108, 108, 111]})
        );
        assert_eq!(logprobs[3]["token"], " \u{fffd}");
        assert_eq!(logprobs[3]["logprob"], -9999.0);
        let ln = logprobs[5]["logprob"].as_f64().expect("a number");
        assert!((ln - 0.5_f64.ln()).abs() < 1e-6, "{ln}");
    }

    #[test]
    fn figures_stay_numbers() {
        let mut odd = segment(vec![Word { probability: 0.0, ..word(" x", 0.0, 1.0) }]);
        (odd.temperature, odd.no_speech) = (f32::NAN, f32::INFINITY);
        let written =
            body(&transcript(vec![odd], 1.0), &[("response_format", "verbose_json")], Task::Transcribe);
        for key in ["temperature", "no_speech_prob", "avg_logprob", "compression_ratio"] {
            assert!(written["segments"][0][key].is_f64(), "{key}");
        }
        assert!(compression_ratio(&"thank you ".repeat(50)) > 2.4);
        assert!(compression_ratio("Hello there, how are you?") < 1.1);
        assert_eq!((compression_ratio(""), mean_logprob(&[])), (0.0, 0.0));
    }

    #[test]
    fn silence_is_an_answer_too() {
        let silence = Transcript { duration: Samples::from_seconds(2.0), ..Transcript::default() };
        let both = [
            ("response_format", "verbose_json"),
            ("timestamp_granularities[]", "word"),
            ("timestamp_granularities[]", "segment"),
        ];
        let written = body(&silence, &both, Task::Transcribe);
        assert_eq!(
            (&written["text"], &written["segments"], &written["words"]),
            (&json!(""), &json!([]), &json!([]))
        );
        let done = done(StreamRenderer::new(&form(&[])), None, silence.duration);
        let done: Value = serde_json::from_str(&done).expect("JSON");
        assert_eq!((&done["text"], &done["usage"]["total_tokens"]), (&json!(""), &json!(20)));
    }

    #[test]
    fn events_carry_only_what_was_asked_for() {
        let mut plain = StreamRenderer::new(&form(&[("stream", "true")]));
        let all = hello();
        let events: Vec<String> = all.segments.iter().flat_map(|segment| plain.segment(segment)).collect();
        assert_eq!(
            events,
            [
                r#"{"type":"transcript.text.delta","delta":"Hello there."}"#,
                r#"{"type":"transcript.text.delta","delta":" Bye."}"#
            ]
        );
        let usage = r#"{"type":"tokens","input_tokens":85,"input_token_details":{"text_tokens":0,"audio_tokens":85},"output_tokens":3,"total_tokens":88}"#;
        let last = format!(r#"{{"type":"transcript.text.done","text":"Hello there. Bye.","usage":{usage}}}"#);
        assert_eq!(done(plain, all.language, all.duration), last);

        let mut full = StreamRenderer::new(&form(&[("include", "logprobs"), ("model", "gpt-transcribe")]));
        let first: Value = serde_json::from_str(&full.segment(&all.segments[0])[0]).expect("JSON");
        assert_eq!(first["logprobs"].as_array().map(Vec::len), Some(2));
        let done: Value = serde_json::from_str(&done(full, None, all.duration)).expect("JSON");
        assert_eq!((&done["logprobs"], &done["languages"]), (&first["logprobs"], &json!([])));
    }

    #[test]
    fn segments_stand_beside_the_deltas() {
        let asked = [("response_format", "verbose_json"), ("stream", "true")];
        let mut stream = StreamRenderer::new(&form(&asked));
        let all = hello();
        let empty = segment(vec![word(" ", 1.5, 1.6)]);
        let told = [&all.segments[0], &empty, &all.segments[1]];
        let events: Vec<Value> = told
            .into_iter()
            .flat_map(|segment| stream.segment(segment))
            .map(|event| serde_json::from_str(&event).expect("JSON"))
            .collect();
        assert_eq!(
            events[1],
            json!({"type": "transcript.text.segment", "id": "seg_001", "start": 0.5, "end": 1.25,
                "text": "Hello there.", "speaker": "A"})
        );
        assert_eq!((&events[3]["id"], &events[3]["text"]), (&json!("seg_002"), &json!("Bye.")));
        let joined: String = events.iter().filter_map(|event| event["delta"].as_str()).collect();
        assert_eq!((events.len(), joined.as_str()), (4, "Hello there.  Bye."));
        let last: Value = serde_json::from_str(&done(stream, None, all.duration)).expect("JSON");
        assert_eq!(last["text"], joined);
    }

    prop_compose! {
        fn any_word()(text in "[ \n]{0,2}[a-z\u{fc}\u{4eca}.]{0,3} {0,1}", start in 0.0..12.0, length in -1.0..9.0) -> Word {
            word(&text, start, start + length)
        }
    }

    proptest! {
        #[test]
        fn deltas_joined_are_the_text(runs in prop::collection::vec(prop::collection::vec(any_word(), 1..4), 0..6)) {
            let all = transcript(runs.into_iter().map(segment).collect(), 10.0);
            let mut stream = StreamRenderer::new(&form(&[("include[]", "logprobs")]));
            let mut joined = String::new();
            for event in all.segments.iter().flat_map(|segment| stream.segment(segment)) {
                let event: Value = serde_json::from_str(&event).expect("JSON");
                let delta = event["delta"].as_str().expect("text");
                prop_assert!(!delta.trim().is_empty());
                joined += delta;
            }
            let done: Value = serde_json::from_str(&done(stream, None, all.duration)).expect("JSON");
            prop_assert_eq!(done["text"].as_str(), Some(joined.as_str()));
            prop_assert_eq!(joined, all.text());
        }

        #[test]
        fn words_never_overlap_nor_outlast_the_audio(heard in prop::collection::vec(any_word(), 1..20)) {
            let all = transcript(vec![segment(heard)], 10.0);
            let mut latest = 0.0;
            for word in words(&all) {
                prop_assert!(latest <= word.start && word.start <= word.end && word.end <= 10.0);
                prop_assert!(!word.word.is_empty() && word.word.trim() == word.word);
                latest = word.end;
            }
        }
    }
}
