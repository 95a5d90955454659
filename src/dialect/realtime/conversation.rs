//! One connection's conversation: a plain state machine.

use std::collections::VecDeque;

use serde_json::Value;
use whisperwire_protocol::ErrorCode;
use whisperwire_protocol::error::ErrorBody;
use whisperwire_protocol::form::FieldError;
use whisperwire_protocol::openai::{DetectedLanguage, Usage};
use whisperwire_protocol::realtime::{
    ClientEvent, ClientEventKind, Complaint, Item as WireItem, LEAST_COMMIT_MS, ServerEvent,
    ServerEventKind as Say, SessionSettings, Shape, TurnDetection,
};

use crate::dialect::deltas::{audio_tokens, text_tokens};
use crate::dialect::openai::{Edge, logprobs};
use crate::language::Language;
use crate::transcript::{Event, Hypothesis, RATE, Samples, Segment, Word};

/// Items that can still be asked for.
const REMEMBERED: usize = 100;

/// See the module above.
pub struct Conversation {
    id: String,
    shape: Shape,
    settings: SessionSettings,
    /// What answers where the client has named no model.
    model: String,
    expires_at: u64,
    /// Events told so far, which numbers them.
    told: u64,
    /// Items begun so far, which names them.
    minted: u64,
    /// The item that was last committed.
    last: Option<String>,
    /// Committed items without their last word, and that word where it has to wait for those before it.
    owed: VecDeque<(String, Option<Say>)>,
    /// Committed items, the latest last, and their words once they are there.
    items: VecDeque<(String, Option<String>)>,
    /// Bytes of audio in all, and since the last commit or clear.
    bytes: u64,
    uncommitted: u64,
    /// Where the last speech was, in milliseconds; for the idle timeout.
    quiet_since: u64,
    /// Utterances begun so far.
    begun: u64,
    /// Flushes that the pipeline has not answered yet.
    marks: VecDeque<Mark>,
    /// Whether utterances that begin now are items.
    turns: bool,
    /// Items of utterances that are not done, with turn detection.
    spoken: VecDeque<Spoken>,
    /// The item that is not committed yet, without turn detection.
    open: Item,
}

/// What the connection has to do about a client's event, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Deed {
    /// Hand this audio to the pipeline.
    Audio {
        /// In base64, as it came.
        base64: String,
        /// The client's name for the event, if that turns out not to be base64.
        event_id: Option<String>,
    },
    /// Flush the pipeline.
    Flush,
    /// Other settings are in force.
    Change,
}

/// Why the pipeline was flushed.
enum Mark {
    /// For this item, without turn detection.
    Commit(Item),
    /// With turn detection: nobody was known to speak, and so many utterances had begun.
    CommitTurn { begun: u64 },
    /// To end an utterance, or for nothing any more.
    Stop,
    /// To forget what came before.
    Clear,
    /// Turn detection begins here.
    Turns,
}

/// What has been said of an item.
#[derive(Default)]
struct Item {
    id: String,
    /// All deltas.
    text: String,
    /// Of those, what the next final will begin with.
    promised: String,
    words: Vec<Word>,
    language: Option<Language>,
    /// How much audio it is.
    audio: Samples,
    /// Whether some of it could not be heard.
    lost: bool,
}

struct Spoken {
    utterance: u32,
    item: Item,
    start: Samples,
    committed: bool,
    /// Whether it was cleared.
    forgotten: bool,
}

impl Conversation {
    /// A conversation with these settings. `id` names the session, `model` is the server's own, `expires_at` is in
    /// seconds since 1970.
    pub fn new(id: String, shape: Shape, settings: SessionSettings, model: &str, expires_at: u64) -> Self {
        let turns = settings.turn_detection != TurnDetection::Manual;
        let mut conversation = Self {
            id,
            shape,
            settings,
            model: model.to_owned(),
            expires_at,
            told: 0,
            minted: 0,
            last: None,
            owed: VecDeque::new(),
            items: VecDeque::new(),
            bytes: 0,
            uncommitted: 0,
            quiet_since: 0,
            begun: 0,
            marks: VecDeque::new(),
            turns,
            spoken: VecDeque::new(),
            open: Item::default(),
        };
        conversation.open = conversation.mint();
        conversation
    }

    /// What is in force.
    pub fn settings(&self) -> &SessionSettings {
        &self.settings
    }

    /// The first message.
    pub fn created(&mut self) -> ServerEvent {
        let session = self.session();
        self.event(match self.shape {
            Shape::Ga => Say::SessionCreated { session },
            Shape::Beta => Say::TranscriptionSessionCreated { session },
        })
    }

    /// What a client's text message asks for, and what it is told at once. `possible` says whether settings can be
    /// followed. The deeds are done in order, before the next message is taken.
    pub fn hear(
        &mut self,
        text: &str,
        possible: impl Fn(&SessionSettings) -> Result<(), ErrorBody>,
    ) -> (Vec<ServerEvent>, Vec<Deed>) {
        let event = match ClientEvent::parse(text) {
            Ok(event) => event,
            Err(error) => {
                let code = if error.error.param == "type" { "invalid_event" } else { "invalid_value" };
                let mut body = invalid(&error.error);
                body.error.code = Some(code.to_owned());
                return (vec![self.complaint(body, error.event_id)], Vec::new());
            }
        };
        match self.obey(event.kind, event.event_id.as_ref(), possible) {
            Ok((say, deeds)) => (say.into_iter().map(|say| self.event(say)).collect(), deeds),
            Err(body) => (vec![self.complaint(body, event.event_id)], Vec::new()),
        }
    }

    /// An error that the client is told of.
    pub fn complaint(&mut self, body: ErrorBody, event_id: Option<String>) -> ServerEvent {
        self.event(Say::Error { error: Complaint { detail: body.error, event_id } })
    }

    fn obey(
        &mut self,
        event: ClientEventKind,
        event_id: Option<&String>,
        possible: impl Fn(&SessionSettings) -> Result<(), ErrorBody>,
    ) -> Result<(Vec<Say>, Vec<Deed>), ErrorBody> {
        match event {
            ClientEventKind::Update { shape, session } => self.update(shape, &session, possible),
            ClientEventKind::Append(audio) => self.append(audio, event_id.cloned()),
            ClientEventKind::Commit => self.commit(),
            ClientEventKind::Clear => Ok((self.clear(), vec![Deed::Flush])),
            ClientEventKind::Retrieve(id) => {
                let (id, transcript) = self.find(&id)?.clone();
                Ok((vec![Say::ItemRetrieved { item: WireItem::new(&id, transcript) }], Vec::new()))
            }
            ClientEventKind::Delete(id) => {
                self.find(&id)?;
                self.items.retain(|(known, _)| *known != id);
                Ok((vec![Say::ItemDeleted { item_id: id }], Vec::new()))
            }
            ClientEventKind::NotHere(kind) => {
                let message = format!("{kind} has no meaning in a transcription session.");
                Err(coded(FieldError::new("type", message), "invalid_event"))
            }
        }
    }

    fn find(&self, id: &str) -> Result<&(String, Option<String>), ErrorBody> {
        self.items.iter().find(|(known, _)| known == id).ok_or_else(|| {
            coded(FieldError::new("item_id", "There is no such item, or no longer."), "item_not_found")
        })
    }

    fn update(
        &mut self,
        shape: Shape,
        session: &Value,
        possible: impl Fn(&SessionSettings) -> Result<(), ErrorBody>,
    ) -> Result<(Vec<Say>, Vec<Deed>), ErrorBody> {
        let settings = self.settings.update(shape, session).map_err(|error| invalid(&error))?;
        possible(&settings)?;
        if settings.format != self.settings.format && self.bytes > 0 {
            let field = match shape {
                Shape::Ga => "session.audio.input.format",
                Shape::Beta => "session.input_audio_format",
            };
            let message = "The format of the audio is fixed once audio has been sent.";
            return Err(invalid(&FieldError::new(field, message)));
        }
        // A client that speaks the other shape than its connection announced is answered in its own.
        self.shape = shape;
        let turns = |settings: &SessionSettings| settings.turn_detection != TurnDetection::Manual;
        let mut say = Vec::new();
        let mut deeds = Vec::new();
        match (turns(&self.settings), turns(&settings)) {
            (true, false) => {
                self.turns = false;
                for mark in self.marks.iter_mut().filter(|mark| matches!(mark, Mark::Turns)) {
                    *mark = Mark::Stop;
                }
                // Somebody who speaks just now is heard on, until the client commits.
                if self.spoken.back().is_some_and(|spoken| !spoken.committed && !spoken.forgotten)
                    && let Some(spoken) = self.spoken.pop_back()
                {
                    self.open = spoken.item;
                }
            }
            (false, true) => {
                // What has been said until now is an item.
                if self.uncommitted > 0 {
                    say.extend(self.commit_open());
                    deeds.push(Deed::Flush);
                }
                self.marks.push_back(Mark::Turns);
                deeds.push(Deed::Flush);
                self.quiet_since = self.now();
            }
            _ => {}
        }
        self.settings = settings;
        deeds.push(Deed::Change);
        let session = self.session();
        say.push(match self.shape {
            Shape::Ga => Say::SessionUpdated { session },
            Shape::Beta => Say::TranscriptionSessionUpdated { session },
        });
        Ok((say, deeds))
    }

    fn append(
        &mut self,
        base64: String,
        event_id: Option<String>,
    ) -> Result<(Vec<Say>, Vec<Deed>), ErrorBody> {
        let bytes = decoded_length(&base64).ok_or_else(|| {
            invalid(&FieldError::new("audio", "audio is no base64: its length is not a multiple of 4."))
        })?;
        if bytes == 0 {
            return Ok((Vec::new(), Vec::new()));
        }
        self.bytes += bytes;
        self.uncommitted += bytes;
        Ok((self.time_out(), vec![Deed::Audio { base64, event_id }]))
    }

    /// Audio that could not be decoded after all. It was not heard.
    pub fn unheard(&mut self, audio: &str) {
        let bytes = decoded_length(audio).unwrap_or_default();
        self.bytes = self.bytes.saturating_sub(bytes);
        self.uncommitted = self.uncommitted.saturating_sub(bytes);
    }

    /// The item of silence, where one was asked for and is due.
    fn time_out(&mut self) -> Vec<Say> {
        let TurnDetection::ServerVad { idle_timeout_ms: Some(idle), .. } = self.settings.turn_detection
        else {
            return Vec::new();
        };
        let now = self.now();
        if !self.turns || !self.spoken.is_empty() || now < self.quiet_since + u64::from(idle) {
            return Vec::new();
        }
        let since = std::mem::replace(&mut self.quiet_since, now);
        let item = Item { audio: Samples::from_millis(now - since), ..self.mint() };
        let timeout =
            Say::TimeoutTriggered { audio_start_ms: since, audio_end_ms: now, item_id: item.id.clone() };
        let mut say = vec![timeout];
        say.extend(self.committed(&item.id));
        say.extend(self.finish(item));
        self.uncommitted = 0;
        say
    }

    fn commit(&mut self) -> Result<(Vec<Say>, Vec<Deed>), ErrorBody> {
        let held = self.millis(self.uncommitted);
        if held < LEAST_COMMIT_MS as f64 {
            let message = format!(
                "Error committing input audio buffer: buffer too small. Expected at least {LEAST_COMMIT_MS}ms of \
                 audio, but buffer only has {held:.2}ms of audio."
            );
            return Err(coded(FieldError::new("", message), "input_audio_buffer_commit_empty"));
        }
        let say = if self.settings.turn_detection == TurnDetection::Manual {
            self.commit_open()
        } else {
            let open = self.spoken.back_mut().filter(|spoken| !spoken.committed && !spoken.forgotten);
            let id = open.map(|spoken| {
                spoken.committed = true;
                spoken.item.id.clone()
            });
            // Where nobody speaks as far as is known, the pipeline's answer will tell.
            let begun = self.begun;
            self.marks.push_back(if id.is_some() { Mark::Stop } else { Mark::CommitTurn { begun } });
            self.uncommitted = 0;
            id.map_or_else(Vec::new, |id| self.committed(&id))
        };
        Ok((say, vec![Deed::Flush]))
    }

    /// Commits the item of a session without turn detection.
    fn commit_open(&mut self) -> Vec<Say> {
        let next = self.mint();
        let mut item = std::mem::replace(&mut self.open, next);
        item.audio = Samples((self.millis(self.uncommitted) * f64::from(RATE) / 1e3) as u64);
        self.uncommitted = 0;
        let say = self.committed(&item.id);
        self.marks.push_back(Mark::Commit(item));
        say
    }

    fn clear(&mut self) -> Vec<Say> {
        if let Some(spoken) = self.spoken.back_mut().filter(|spoken| !spoken.committed) {
            spoken.forgotten = true;
        }
        self.open = self.mint();
        self.uncommitted = 0;
        self.quiet_since = self.now();
        self.marks.push_back(Mark::Clear);
        vec![Say::Cleared {}]
    }

    /// What the client is told of something that the pipeline tells.
    pub fn tell(&mut self, event: &Event) -> Vec<ServerEvent> {
        let say = match event {
            Event::SpeechStarted { utterance, at } => self.speech_started(*utterance, *at),
            Event::Partial(hypothesis) => self.partial(hypothesis),
            Event::Final(segment) => self.segment(segment),
            Event::Gap(_) => {
                if let Some(item) = self.current() {
                    item.lost = true;
                }
                Vec::new()
            }
            Event::SpeechStopped { utterance, at } => self.speech_stopped(*utterance, *at),
            Event::UtteranceDone { utterance } => self.utterance_done(*utterance),
            Event::Flushed { .. } => self.flushed(),
        };
        say.into_iter().map(|say| self.event(say)).collect()
    }

    /// The end of the audio: what was not committed stays so, what was and has no answer yet gets one.
    pub fn end(&mut self) -> Vec<ServerEvent> {
        let mut say = Vec::new();
        while let Some(spoken) = self.spoken.pop_front() {
            if spoken.committed {
                say.extend(self.finish(spoken.item));
            }
        }
        while let Some(mark) = self.marks.pop_front() {
            if let Mark::Commit(item) = mark {
                say.extend(self.finish(item));
            }
        }
        say.into_iter().map(|say| self.event(say)).collect()
    }

    fn speech_started(&mut self, utterance: u32, at: Samples) -> Vec<Say> {
        self.begun += 1;
        if !self.turns {
            return Vec::new();
        }
        let forgotten = matches!(self.marks.front(), Some(Mark::Clear));
        let item = self.mint();
        let item_id = item.id.clone();
        self.spoken.push_back(Spoken { utterance, item, start: at, committed: false, forgotten });
        if forgotten {
            return Vec::new();
        }
        vec![Say::SpeechStarted { audio_start_ms: millis(at), item_id }]
    }

    fn speech_stopped(&mut self, utterance: u32, at: Samples) -> Vec<Say> {
        self.quiet_since = self.quiet_since.max(millis(at));
        let silence = self.silence();
        let now = self.now();
        let Some(spoken) = self.spoken.iter_mut().find(|spoken| spoken.utterance == utterance) else {
            return Vec::new();
        };
        spoken.item.audio = at.saturating_sub(spoken.start);
        if spoken.forgotten {
            return Vec::new();
        }
        let (item_id, start) = (spoken.item.id.clone(), millis(spoken.start));
        let committed = std::mem::replace(&mut spoken.committed, true);
        // The silence that ended it belongs to it, unless the client did not wait for it.
        let end = if committed { millis(at) } else { (millis(at) + silence).min(now.max(millis(at))) };
        let mut say = vec![Say::SpeechStopped { audio_end_ms: end.max(start + 1), item_id: item_id.clone() }];
        if !committed {
            say.extend(self.committed(&item_id));
            let before = at.0 * self.settings.format.bytes_per_second() / u64::from(RATE);
            self.uncommitted = self.uncommitted.min(self.bytes.saturating_sub(before));
        }
        say
    }

    fn utterance_done(&mut self, utterance: u32) -> Vec<Say> {
        let Some(at) = self.spoken.iter().position(|spoken| spoken.utterance == utterance) else {
            return Vec::new();
        };
        match self.spoken.remove(at) {
            Some(spoken) if !spoken.forgotten => self.finish(spoken.item),
            _ => Vec::new(),
        }
    }

    fn flushed(&mut self) -> Vec<Say> {
        match self.marks.pop_front() {
            Some(Mark::Commit(item)) => self.finish(item),
            Some(Mark::CommitTurn { begun }) if begun == self.begun => {
                // Nobody has spoken: the item is silence.
                let item = self.mint();
                let mut say = self.committed(&item.id);
                say.extend(self.finish(item));
                say
            }
            Some(Mark::Turns) => {
                self.turns = true;
                Vec::new()
            }
            Some(Mark::CommitTurn { .. } | Mark::Stop | Mark::Clear) | None => Vec::new(),
        }
    }

    /// Where text goes that comes now and belongs to no utterance of its own.
    fn current(&mut self) -> Option<&mut Item> {
        if let Some(spoken) = self.spoken.front_mut() {
            return Some(&mut spoken.item);
        }
        match self.marks.iter_mut().find(|mark| matches!(mark, Mark::Commit(_) | Mark::Clear)) {
            Some(Mark::Commit(item)) => Some(item),
            Some(Mark::Clear) => None,
            _ => Some(&mut self.open),
        }
    }

    /// The item of an utterance, unless it was cleared.
    fn item_of(&mut self, utterance: u32) -> Option<&mut Item> {
        match self.spoken.iter().position(|spoken| spoken.utterance == utterance) {
            Some(at) => Some(&mut self.spoken[at]).filter(|spoken| !spoken.forgotten).map(|s| &mut s.item),
            None if self.spoken.is_empty() => self.current(),
            None => None,
        }
    }

    fn partial(&mut self, hypothesis: &Hypothesis) -> Vec<Say> {
        let wants = self.settings.logprobs;
        let Some(item) = self.item_of(hypothesis.utterance) else { return Vec::new() };
        let stable: String = hypothesis.stable.iter().map(|word| word.text.as_str()).collect();
        let Some(new) = stable.strip_prefix(&item.promised).filter(|new| !new.is_empty()) else {
            return Vec::new();
        };
        let told = item.promised.len();
        let words = behind(&hypothesis.stable, told);
        let new = new.to_owned();
        item.promised = stable;
        item.say(&new, words, wants).into_iter().collect()
    }

    fn segment(&mut self, segment: &Segment) -> Vec<Say> {
        let wants = self.settings.logprobs;
        let Some(item) = self.item_of(segment.utterance) else { return Vec::new() };
        item.language = segment.language.or(item.language);
        let text = segment.text();
        if let Some(rest) = item.promised.strip_prefix(&text) {
            // Some of what was promised is another final's.
            item.promised = rest.to_owned();
            return Vec::new();
        }
        let promised = std::mem::take(&mut item.promised);
        // A final begins with what was promised of it. If it ever did not, what was told stands.
        let new = text.strip_prefix(&promised).unwrap_or_default();
        let words = behind(&segment.words, promised.len());
        item.say(new, words, wants).into_iter().collect()
    }

    /// The item is a part of the conversation from here on.
    fn committed(&mut self, id: &str) -> Vec<Say> {
        let previous_item_id = self.last.replace(id.to_owned());
        self.owed.push_back((id.to_owned(), None));
        self.items.push_back((id.to_owned(), None));
        if self.items.len() > REMEMBERED {
            self.items.pop_front();
        }
        let item = WireItem::new(id, None);
        let committed = Say::Committed { previous_item_id: previous_item_id.clone(), item_id: id.to_owned() };
        match self.shape {
            Shape::Ga => vec![
                committed,
                Say::ItemAdded { previous_item_id: previous_item_id.clone(), item: item.clone() },
                Say::ItemDone { previous_item_id, item },
            ],
            Shape::Beta => vec![committed, Say::ItemCreated { previous_item_id, item }],
        }
    }

    /// An item has all its words. Told once all before it have theirs.
    fn finish(&mut self, item: Item) -> Vec<Say> {
        let id = item.id.clone();
        let last = self.last_word(item);
        if let Some((_, owed)) = self.owed.iter_mut().find(|(owed, _)| *owed == id) {
            *owed = Some(last);
        }
        let mut say = Vec::new();
        while let Some((_, Some(_))) = self.owed.front() {
            say.extend(self.owed.pop_front().and_then(|(_, last)| last));
        }
        say
    }

    /// The last word on an item.
    fn last_word(&mut self, item: Item) -> Say {
        if item.lost && item.text.is_empty() {
            let body = ErrorBody::new(ErrorCode::EngineFailed, "The audio could not be transcribed.", None);
            let error = whisperwire_protocol::error::ErrorDetail {
                kind: "transcription_error".to_owned(),
                ..body.error
            };
            return Say::Failed { item_id: item.id, content_index: 0, error };
        }
        if let Some((_, transcript)) = self.items.iter_mut().find(|(id, _)| *id == item.id) {
            *transcript = Some(item.text.clone());
        }
        let usage = Usage::tokens(audio_tokens(item.audio), item.words.iter().map(text_tokens).sum());
        let code = |language: Language| DetectedLanguage { code: language.code().to_owned() };
        Say::Completed {
            item_id: item.id,
            content_index: 0,
            languages: item.language.map(|language| vec![code(language)]),
            logprobs: self.settings.logprobs.then(|| logprobs(&item.words, Edge::First)),
            usage,
            transcript: item.text,
        }
    }

    fn mint(&mut self) -> Item {
        self.minted += 1;
        let id = format!("item_{}_{}", self.id.trim_start_matches("sess_"), self.minted);
        Item { id, ..Item::default() }
    }

    fn event(&mut self, event: Say) -> ServerEvent {
        self.told += 1;
        let event_id = format!("event_{}_{}", self.id.trim_start_matches("sess_"), self.told);
        ServerEvent { event_id, event }
    }

    fn session(&self) -> Value {
        self.settings.to_json(self.shape, &self.id, &self.model, self.expires_at)
    }

    /// Where the audio is, in milliseconds.
    fn now(&self) -> u64 {
        self.millis(self.bytes) as u64
    }

    fn millis(&self, bytes: u64) -> f64 {
        bytes as f64 * 1e3 / self.settings.format.bytes_per_second() as f64
    }

    /// The silence that ends a turn, without what of it is kept anyway.
    fn silence(&self) -> u64 {
        let all = match self.settings.turn_detection {
            TurnDetection::Manual => 0,
            TurnDetection::ServerVad { silence_duration_ms, .. } => silence_duration_ms,
            TurnDetection::SemanticVad { eagerness } => super::hold(eagerness),
        };
        u64::from(all.saturating_sub(KEPT_MS))
    }
}

/// Silence that the pipeline counts as a part of an utterance.
const KEPT_MS: u32 = 160;

impl Item {
    /// The next delta.
    fn say(&mut self, text: &str, words: &[Word], logprobs_wanted: bool) -> Option<Say> {
        let edge = if self.text.is_empty() { Edge::First } else { Edge::Later };
        let delta = if edge == Edge::First { text.trim_start() } else { text };
        if delta.is_empty() {
            return None;
        }
        self.text += delta;
        let logprobs = logprobs_wanted.then(|| logprobs(words, edge));
        self.words.extend_from_slice(words);
        Some(Say::Delta { item_id: self.id.clone(), content_index: 0, delta: delta.to_owned(), logprobs })
    }
}

/// The words behind so many bytes of their joined text.
fn behind(words: &[Word], bytes: usize) -> &[Word] {
    let mut before = 0;
    let first = words.iter().position(|word| {
        before += word.text.len();
        before > bytes
    });
    first.map_or(&[], |first| &words[first..])
}

fn millis(at: Samples) -> u64 {
    at.0 * 1000 / u64::from(RATE)
}

/// How many bytes a text in base64 stands for; `None` if its length cannot be one.
fn decoded_length(base64: &str) -> Option<u64> {
    let digits = base64.trim_end_matches('=').len() as u64;
    (digits % 4 != 1).then_some(digits * 3 / 4)
}

fn invalid(error: &FieldError) -> ErrorBody {
    let param = (!error.param.is_empty()).then_some(error.param.as_str());
    ErrorBody::new(ErrorCode::InvalidRequest, error.message.clone(), param)
}

/// With one of the names for an error that only this API has.
fn coded(error: FieldError, code: &str) -> ErrorBody {
    let mut body = invalid(&error);
    body.error.code = Some(code.to_owned());
    body
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
