//! Chat completions whose last question is a recording: the answer is its transcript.
//!
//! The contract: what is transcribed are the recordings in the last message of the user that has some, one after the
//! other, each on a line of its own; what is written beside them, and what the system or the developer says, stands
//! before the audio as a prompt. All deltas joined are exactly the content of the whole answer. Deliberately absent:
//! any other kind of answer, and the decoding of base64, because a recording should not be in memory twice.

use serde::Serialize;
use whisperwire_protocol::FieldError;
use whisperwire_protocol::chat::{
    Answer, ChatChunk, ChatCompletion, ChatMessage, ChatRequest, ChatUsage, Choice, ChunkChoice, Content,
    Delta, SpokenAnswer, SpokenDelta,
};
use whisperwire_protocol::form::MAX_PROMPT;

use super::Narrator;
use super::deltas::{Deltas, audio_tokens, text_tokens};
use super::openai::Order;
use super::wishes::languages;
use crate::engine::{DecodeOptions, EngineTraits, Task};
use crate::transcript::{Segment, Transcript};

/// A recording as it stands in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording<'a> {
    /// Where it stands, for complaints about it.
    pub param: String,
    /// In base64.
    pub base64: &'a str,
}

/// Recordings that one request may bring.
const MOST_RECORDINGS: usize = 64;

/// How long a spoken answer would be kept, in seconds, if there were one.
const KEPT: u64 = 3600;

/// Turns a request into recordings, in order, and an order for each of them.
pub fn order<'a>(
    request: &'a ChatRequest<'_>,
    traits: &EngineTraits,
) -> Result<(Order, Vec<Recording<'a>>), FieldError> {
    let mut asked = request.messages.iter().enumerate().filter(|(_, message)| message.role.0 == "user");
    let (question, recordings) = loop {
        let Some((at, message)) = asked.next_back() else {
            let message =
                "There is nothing to transcribe: no message of the user has a part of type input_audio.";
            return Err(FieldError::new("messages", message));
        };
        let recordings = recordings(at, message)?;
        if !recordings.is_empty() {
            break (at, recordings);
        }
    };
    if recordings.len() > MOST_RECORDINGS {
        let message = format!("One message must not have more than {MOST_RECORDINGS} recordings.");
        return Err(FieldError::new("messages", message));
    }
    let (language, candidates) = languages(None, ("messages", &[]), traits)?;
    let prompt = prompt(request, question)?;
    let options = DecodeOptions { task: Task::Transcribe, candidates, prompt, ..DecodeOptions::default() };
    Ok((Order { options, language, ..Order::default() }, recordings))
}

fn recordings<'a>(at: usize, message: &'a ChatMessage<'_>) -> Result<Vec<Recording<'a>>, FieldError> {
    let Some(Content::Parts(parts)) = &message.content else { return Ok(Vec::new()) };
    let parts = parts.iter().enumerate().filter(|(_, part)| part.kind.0 == "input_audio");
    parts
        .map(|(place, part)| {
            let param = format!("messages[{at}].content[{place}].input_audio");
            let Some(audio) = &part.input_audio else {
                return Err(FieldError::new(param, "A part of type input_audio has no input_audio."));
            };
            let param = format!("{param}.data");
            let data = audio.data.0.trim();
            let base64 = match data.get(..5).filter(|scheme| scheme.eq_ignore_ascii_case("data:")) {
                None => Some(data),
                Some(_) => {
                    data.split_once(',').filter(|(head, _)| head.ends_with(";base64")).map(|(_, it)| it)
                }
            };
            match base64 {
                None => Err(FieldError::new(param, "The data URL of a recording must be in base64.")),
                Some("") => Err(FieldError::new(param, "A recording is empty.")),
                Some(base64) => Ok(Recording { param, base64 }),
            }
        })
        .collect()
}

/// What is written beside the recordings, and what the system or the developer says. The end of it counts.
fn prompt(request: &ChatRequest<'_>, question: usize) -> Result<Option<String>, FieldError> {
    let mut prompt = String::new();
    for (at, message) in request.messages.iter().enumerate() {
        if at != question && !["system", "developer"].contains(&&*message.role.0) {
            continue;
        }
        let texts: Vec<&str> = match &message.content {
            None => Vec::new(),
            Some(Content::Text(text)) => vec![&text.0],
            Some(Content::Parts(parts)) => parts
                .iter()
                .filter(|part| part.kind.0 == "text")
                .filter_map(|part| part.text.as_ref())
                .map(|text| &*text.0)
                .collect(),
        };
        for text in texts.into_iter().map(str::trim).filter(|text| !text.is_empty()) {
            if text.contains('\0') {
                let param = format!("messages[{at}].content");
                return Err(FieldError::new(param, "A text must not contain NUL characters."));
            }
            if !prompt.is_empty() {
                prompt.push('\n');
            }
            prompt += text;
        }
    }
    if prompt.len() > MAX_PROMPT {
        let rest = prompt.len() - MAX_PROMPT;
        let cut = (rest..).find(|at| prompt.is_char_boundary(*at)).unwrap_or(rest);
        prompt.drain(..cut);
    }
    Ok((!prompt.is_empty()).then_some(prompt))
}

/// What all that is said about one answer begins with.
#[derive(Clone, Debug)]
pub struct Heading {
    /// The id without its prefix.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// As the client wrote it.
    pub model: String,
    /// See [`ChatRequest::wants_audio`].
    pub spoken: bool,
    /// See [`ChatRequest::wants_usage`].
    pub usage: bool,
}

/// Writes transcripts, one per recording, down as one whole answer.
pub fn render(heading: &Heading, transcripts: &[Transcript]) -> String {
    let texts: Vec<String> =
        transcripts.iter().map(Transcript::text).filter(|text| !text.is_empty()).collect();
    let text = texts.join("\n");
    let audio: u64 = transcripts.iter().map(|transcript| audio_tokens(transcript.duration)).sum();
    let tokens = transcripts.iter().flat_map(Transcript::words).map(text_tokens).sum();
    let spoken = heading.spoken.then(|| SpokenAnswer {
        id: format!("audio_{}", heading.id),
        data: String::new(),
        expires_at: heading.created + KEPT,
        transcript: text.clone(),
    });
    let message = Answer { role: "assistant".into(), content: Some(text), refusal: None, audio: spoken };
    json(&ChatCompletion {
        id: format!("chatcmpl-{}", heading.id),
        object: "chat.completion".into(),
        created: heading.created,
        model: heading.model.clone(),
        choices: vec![Choice { index: 0, message, logprobs: None, finish_reason: "stop".into() }],
        usage: ChatUsage::new(audio, tokens),
    })
}

/// `stream=true`: finals in, chunks out. Each is one line of JSON; the transport frames it.
#[derive(Clone, Debug)]
pub struct ChunkRenderer {
    heading: Heading,
    deltas: Deltas,
    audio: u64,
    tokens: u64,
}

impl ChunkRenderer {
    /// The beginning of an answer.
    pub fn new(heading: Heading) -> Self {
        Self { heading, deltas: Deltas::default(), audio: 0, tokens: 0 }
    }

    fn chunk(&self, delta: Delta, finish: Option<&str>) -> String {
        let finish_reason = finish.map(str::to_owned);
        self.event(vec![ChunkChoice { index: 0, delta, logprobs: None, finish_reason }], None)
    }

    fn event(&self, choices: Vec<ChunkChoice>, usage: Option<ChatUsage>) -> String {
        json(&ChatChunk {
            id: format!("chatcmpl-{}", self.heading.id),
            object: "chat.completion.chunk".into(),
            created: self.heading.created,
            model: self.heading.model.clone(),
            choices,
            usage,
        })
    }
}

impl Narrator for ChunkRenderer {
    fn begin(&mut self) -> Vec<String> {
        let role = Delta { role: Some("assistant".into()), content: Some(String::new()), audio: None };
        vec![self.chunk(role, None)]
    }

    fn segment(&mut self, segment: &Segment) -> Vec<String> {
        let Some(text) = self.deltas.more(&segment.text()) else { return Vec::new() };
        let audio = self
            .heading
            .spoken
            .then(|| SpokenDelta { id: format!("audio_{}", self.heading.id), transcript: text.clone() });
        vec![self.chunk(Delta { role: None, content: Some(text), audio }, None)]
    }

    fn end(&mut self, transcript: &Transcript) {
        self.audio += audio_tokens(transcript.duration);
        self.tokens += transcript.words().map(text_tokens).sum::<u64>();
        self.deltas.paragraph();
    }

    fn done(self) -> Vec<String> {
        let last = self.chunk(Delta::default(), Some("stop"));
        let usage =
            self.heading.usage.then(|| self.event(Vec::new(), Some(ChatUsage::new(self.audio, self.tokens))));
        std::iter::once(last).chain(usage).collect()
    }
}

fn json(body: &impl Serialize) -> String {
    serde_json::to_string(body).expect("a body is plain data with text keys")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::language::Language;
    use crate::transcript::{Samples, Span, Word};

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
            device: "cpu".into(),
        }
    }

    fn asked(messages: &Value) -> Result<(Order, Vec<(String, String)>), FieldError> {
        let body = json!({"model": "m", "messages": messages}).to_string();
        let request = ChatRequest::read(body.as_bytes()).expect("a request");
        let (order, recordings) = order(&request, &traits())?;
        Ok((order, recordings.into_iter().map(|it| (it.param, it.base64.to_owned())).collect()))
    }

    fn audio(data: &str) -> Value {
        json!({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}})
    }

    fn text(text: &str) -> Value {
        json!({"type": "text", "text": text})
    }

    #[test]
    fn the_last_question_with_recordings_is_answered() {
        let (order, found) = asked(&json!([
            {"role": "system", "content": " Names: Ada. "},
            {"role": "user", "content": [text("older"), audio("AAAA")]},
            {"role": "assistant", "content": "No."},
            {"role": "user", "content": [audio("BBBB"), text("What?"), {"type": "file"}, audio("data:audio/wav;base64,CCCC")]},
            {"role": "developer", "content": [text("Be brief.")]},
            {"role": "user", "content": "Well?"},
        ]))
        .expect("there is a recording");
        let at = |place: usize| format!("messages[3].content[{place}].input_audio.data");
        assert_eq!(found, [(at(0), "BBBB".into()), (at(3), "CCCC".into())]);
        assert_eq!(order.options.prompt.as_deref(), Some("Names: Ada.\nWhat?\nBe brief."));
        assert_eq!((order.language, order.window, order.options.task), (None, None, Task::Transcribe));
        let (order, _) = asked(&json!([{"role": "user", "content": [audio("AAAA")]}])).expect("a recording");
        assert_eq!(order.options.prompt, None);
    }

    #[test]
    fn what_cannot_be_heard_is_refused_by_its_place() {
        let refused = |messages: &Value| asked(messages).expect_err("must be refused").param;
        assert_eq!(refused(&json!([])), "messages");
        assert_eq!(refused(&json!([{"role": "user", "content": "Hello."}])), "messages");
        assert_eq!(refused(&json!([{"role": "user", "content": null}])), "messages");
        assert_eq!(refused(&json!([{"role": "assistant", "content": [audio("AAAA")]}])), "messages");
        let many: Vec<Value> = (0..=MOST_RECORDINGS).map(|_| audio("AAAA")).collect();
        assert_eq!(refused(&json!([{"role": "user", "content": many}])), "messages");
        let place = "messages[0].content[1].input_audio";
        for (part, param) in [
            (json!({"type": "input_audio"}), place.to_owned()),
            (audio(" "), format!("{place}.data")),
            (audio("data:audio/wav,AAAA"), format!("{place}.data")),
            (audio("data:"), format!("{place}.data")),
        ] {
            assert_eq!(refused(&json!([{"role": "user", "content": [text("x"), part]}])), param);
        }
        let nul = json!([{"role": "user", "content": [text("a\u{0}b"), audio("AAAA")]}]);
        assert_eq!(refused(&nul), "messages[0].content");
    }

    #[test]
    fn of_a_long_prompt_the_end_counts() {
        let long = format!("{}The end.", "ü".repeat(MAX_PROMPT));
        let (order, _) =
            asked(&json!([{"role": "user", "content": [text(&long), audio("AAAA")]}])).expect("a recording");
        let prompt = order.options.prompt.expect("a prompt");
        assert!(prompt.len() <= MAX_PROMPT && prompt.len() > MAX_PROMPT - 2 && prompt.ends_with("The end."));
    }

    fn said(texts: &[&str]) -> Transcript {
        let span = Span::new(Samples(0), Samples(1_600));
        let segment = |text: &&str| Segment {
            utterance: 0,
            span,
            words: vec![Word { text: (*text).into(), span, probability: 1.0, tokens: vec![] }],
            temperature: 0.0,
            no_speech: 0.0,
            language: None,
        };
        let segments = texts.iter().map(segment).collect();
        Transcript { segments, duration: Samples(16_000), ..Transcript::default() }
    }

    fn heading(spoken: bool, usage: bool) -> Heading {
        Heading { id: "1".into(), created: 7, model: "m".into(), spoken, usage }
    }

    fn streamed(heading: Heading, transcripts: &[Transcript]) -> Vec<Value> {
        let mut renderer = ChunkRenderer::new(heading);
        let mut events = renderer.begin();
        for transcript in transcripts {
            events.extend(transcript.segments.iter().flat_map(|segment| renderer.segment(segment)));
            renderer.end(transcript);
        }
        events.extend(renderer.done());
        events.iter().map(|event| serde_json::from_str(event).expect("JSON")).collect()
    }

    #[test]
    fn chunks_joined_are_the_whole_answer() {
        let all = [said(&[" Hello", " there. "]), said(&["  "]), said(&[" Bye. ", " Now.\n"]), said(&[])];
        let body: Value = serde_json::from_str(&render(&heading(true, false), &all)).expect("JSON");
        let message = &body["choices"][0]["message"];
        assert_eq!(message["content"], "Hello there.\nBye.  Now.");
        assert_eq!(
            message["audio"],
            json!({"id": "audio_1", "data": "", "expires_at": 3607, "transcript": message["content"]})
        );
        let usage = json!({"prompt_tokens": 40, "completion_tokens": 5, "total_tokens": 45,
            "prompt_tokens_details": {"audio_tokens": 40, "cached_tokens": 0}});
        assert_eq!(body["usage"], usage);

        let chunks = streamed(heading(true, true), &all);
        let (last, told) = chunks.split_last().expect("chunks");
        assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &usage));
        let deltas: Vec<&Value> = told.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
        assert_eq!(*deltas[0], json!({"role": "assistant", "content": ""}));
        let joined: String = deltas.iter().filter_map(|delta| delta["content"].as_str()).collect();
        assert_eq!(joined, message["content"]);
        let joined: String =
            deltas.iter().filter_map(|delta| delta["audio"]["transcript"].as_str()).collect();
        assert_eq!(joined, message["content"]);
        let reasons: Vec<&Value> = told.iter().map(|chunk| &chunk["choices"][0]["finish_reason"]).collect();
        assert_eq!(reasons.iter().position(|reason| !reason.is_null()), Some(reasons.len() - 1));
        for chunk in &chunks {
            assert_eq!(
                (&chunk["id"], &chunk["object"]),
                (&json!("chatcmpl-1"), &json!("chat.completion.chunk"))
            );
        }
    }

    #[test]
    fn nothing_is_told_that_was_not_asked_for() {
        let all = [said(&[" Hello."])];
        let chunks = streamed(heading(false, false), &all);
        assert_eq!(chunks.len(), 3);
        assert_eq!(chunks[1]["choices"][0]["delta"], json!({"content": "Hello."}));
        assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
        let body: Value = serde_json::from_str(&render(&heading(false, false), &all)).expect("JSON");
        assert_eq!(body["choices"][0]["message"].get("audio"), None);
    }
}
