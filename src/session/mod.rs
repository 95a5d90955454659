//! The brain: a state machine between audio, an engine and a reader. Audio and results go in, requests and events
//! come out. Voice activity, endpointing, windows and stitching are all here, and all deterministic.
//!
//! Contract: *feed one [`Input`], drain [`Session::poll`] until `None`, only then feed the next.*
//!
//! Invariants, each a test:
//! 1. Finals and gaps leave in timeline order, in whatever order results arrive.
//! 2. The transcript does not depend on how the audio was chunked.
//! 3. At most `max_in_flight` finals and one partial are out, and a final withdraws the partial.
//! 4. No window is longer than the configured one. Silence produces no window.
//! 5. After [`Input::End`] and the last result, exactly one [`Output::Finished`], whose account adds up.
//! 6. A failed window is a gap; the session goes on.
//! 7. What a partial called stable is how the final begins.
//!
//! Deliberately absent: I/O, threads, clocks, logs, errors. A session cannot fail and never waits.

mod agree;
mod ahead;
mod certainty;
mod endpoint;
mod guard;
mod lost;
mod pack;
mod stitch;
mod tell;
mod window;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

pub use self::agree::Promise;
pub use self::endpoint::EndpointConfig;
pub use self::pack::PackConfig;
pub use self::window::WindowConfig;

use self::agree::Agreement;
use self::ahead::{AGAIN, Early, FIRST_PARTIAL, STEP, Shown};
use self::certainty::Certainty;
use self::endpoint::{Edge, Endpointer};
use self::lost::Lost;
use self::pack::{Packer, Part};
use self::stitch::Stitcher;
use self::window::{Cut, Cutter, Timeline};
use crate::language::Language;
use crate::transcript::{Account, Event, GapReason, Recognition, Samples, Span};
use crate::vad::{FRAME, Vad};

/// How a stream is cut and how much of it is worked on at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SessionConfig {
    /// When utterances start and end.
    pub endpoint: EndpointConfig,
    /// How they are cut.
    pub window: WindowConfig,
    /// How many windows may be decoded at once; 0 counts as 1.
    pub max_in_flight: usize,
    /// What is spoken.
    pub language: SpokenLanguage,
    /// How the reader follows somebody who is speaking; nothing for a file.
    pub live: Option<LiveConfig>,
}

/// A window whose language is this sure decides the stream's.
const SURE: f32 = 0.7;
/// So does one that is as long as this, however sure.
const ENOUGH: Samples = Samples::from_millis(5_000);

/// Behind a longer silence nobody goes on with a sentence, and what is said is heard for itself.
const LONG_SILENCE: Samples = Samples::from_millis(2_000);

/// What is special about speech that is being spoken. The text that becomes final is the same with it and without,
/// but for words that were promised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LiveConfig {
    /// Whether to tell hypotheses before the final.
    pub partials: bool,
    /// When words of a hypothesis are promised.
    pub promise: Promise,
}

/// What is known about the language before the first window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpokenLanguage {
    /// It was named, or the engine has only one.
    #[default]
    Given,
    /// The first window that holds words decides it for the whole stream. Until then one window is out at a time,
    /// so that the decision does not depend on which worker is faster.
    Detect,
}

/// What happens to a session.
#[derive(Debug)]
pub enum Input<'a> {
    /// 16 kHz mono, any length.
    Audio(&'a [f32]),
    /// What the engine made of a window.
    Recognized(WindowId, Result<Recognition, GapReason>),
    /// Audio that stands in for some that could not be decoded. It is heard like any other and reported as lost.
    Concealed(&'a [f32]),
    /// From now on, hypotheses at most so often. Ignored where there are none.
    Step(Samples),
    /// Other settings for the endpoints to come, and whether to tell hypotheses.
    Reconfigure(EndpointConfig, LiveConfig),
    /// Close the open utterance now.
    Flush,
    /// No more audio: finish what is open, then end.
    End,
}

/// What a session wants.
#[derive(Debug)]
pub enum Output {
    /// Decode this and come back with [`Input::Recognized`].
    Recognize(Window),
    /// The partial that is out, with more audio: to be decoded in its place if nobody has begun with it, else to be
    /// forgotten.
    Refresh(Window),
    /// The answer to this window is no longer wanted; nor to any version of it, if it is a partial.
    Withdraw(WindowId),
    /// Tell the reader.
    Event(Event),
    /// Nothing more will come. Where every sample went, and the language where it was detected.
    Finished {
        /// `received == decoded + silence + lost`.
        account: Account,
        /// What was spoken, where the engine said so.
        language: Option<Language>,
    },
}

/// Names a window within its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WindowId(u64);

/// What a window is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowKind {
    /// Text that will stay.
    Final,
    /// Text that will be replaced.
    Partial,
}

/// Speech to decode.
#[derive(Clone, Debug)]
pub struct Window {
    /// To come back with.
    pub id: WindowId,
    /// What it is for.
    pub kind: WindowKind,
    /// Where it begins, and how long its audio is: the engine's timeline, on which no silence is left out.
    pub span: Span,
    /// What is heard there, 16 kHz mono.
    pub pcm: Arc<[f32]>,
    /// The stretches of the stream that `pcm` is made of, in order.
    pub parts: Vec<Span>,
    /// The language, once it was detected.
    pub language: Option<Language>,
}

/// One stream's state. See the module's contract.
pub struct Session {
    config: SessionConfig,
    vad: Box<dyn Vad>,
    endpointer: Endpointer,
    certainty: Certainty,
    timeline: Timeline,
    /// How far voice activity has been decided.
    judged: Samples,
    open: Option<Utterance>,
    /// What gathers a file's speech into windows, where several utterances share one.
    packer: Option<Packer>,
    utterances: u32,
    next_id: u64,
    /// Final windows from the oldest that is not told yet to the newest, in timeline order.
    windows: VecDeque<Pending>,
    stitcher: Stitcher,
    /// What was shown of utterances that are not all told, in their order; the open one's is the last.
    shown: VecDeque<Shown>,
    /// The partial that is out, in every version that may come back, and up to where each hears.
    partial: Vec<(WindowId, Samples)>,
    /// How often to ask for one, in audio.
    step: Samples,
    language: Option<Language>,
    account: Account,
    lost: Lost,
    /// Everything before it is in the account or in `windows`.
    covered: Samples,
    /// Since when somebody has been speaking without a long silence: what an utterance may be heard with.
    context: Samples,
    /// Finals that had to be changed because they did not begin as promised.
    overruled: u64,
    ending: bool,
    finished: bool,
    outputs: VecDeque<Output>,
}

struct Utterance {
    number: u32,
    cutter: Cutter,
    /// The last window, asked for before it is certain to be the last.
    early: Option<Early>,
    /// Where the next partial is due.
    due: Samples,
}

struct Pending {
    id: WindowId,
    /// Nothing for what only waits its turn: a silence of which some was lost, or a flush.
    utterance: Option<u32>,
    cut: Cut,
    /// What its audio is made of, where that is not simply `cut.heard`.
    parts: Vec<Part>,
    /// Whether somebody certainly spoke.
    certain: bool,
    /// Whether a neighbor on the left hears its first words too.
    first: bool,
    last: bool,
    /// The utterances that end with it.
    done: Vec<u32>,
    flushed: bool,
    /// What of its part was concealed instead of decoded.
    gaps: Vec<Span>,
    state: Progress,
}

enum Progress {
    Waiting(Arc<[f32]>),
    Asked,
    Done(Result<Recognition, GapReason>),
}

impl Session {
    /// A stream that begins now.
    pub fn new(config: SessionConfig, vad: Box<dyn Vad>) -> Self {
        let packs = config.window.pack.is_some() && config.live.is_none();
        let packer = packs.then(Packer::new);
        Self {
            endpointer: Endpointer::new(config.endpoint.clone()),
            config,
            vad,
            certainty: Certainty::default(),
            timeline: Timeline::default(),
            judged: Samples(0),
            open: None,
            packer,
            utterances: 0,
            next_id: 0,
            windows: VecDeque::new(),
            stitcher: Stitcher::default(),
            shown: VecDeque::new(),
            partial: Vec::new(),
            step: STEP,
            language: None,
            account: Account::default(),
            lost: Lost::default(),
            covered: Samples(0),
            context: Samples(0),
            overruled: 0,
            ending: false,
            finished: false,
            outputs: VecDeque::new(),
        }
    }

    /// Takes one input. Audio after [`Input::End`] and results nobody asked for are ignored.
    pub fn handle(&mut self, input: Input<'_>) {
        match input {
            Input::Audio(pcm) if !self.ending => self.hear(pcm),
            Input::Concealed(pcm) if !self.ending => {
                let start = self.timeline.end();
                self.lost.push(Span::new(start, start + Samples(pcm.len() as u64)));
                self.hear(pcm);
            }
            Input::Audio(_) | Input::Concealed(_) => {}
            Input::Recognized(id, result) => self.recognized(id, result),
            Input::Step(step) => self.step = step,
            Input::Reconfigure(endpoint, live) => {
                self.endpointer.reconfigure(endpoint);
                self.config.live = Some(live);
            }
            Input::Flush if !self.ending => {
                self.close();
                self.mark_flush();
            }
            Input::Flush => {}
            Input::End if !self.ending => self.end(),
            Input::End => {}
        }
        self.release();
        self.ask();
        self.look_ahead();
        self.finish();
    }

    /// The next thing the session wants.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// False asks the shell to stop reading its source: the engine is behind. This is the back-pressure.
    pub fn wants_audio(&self) -> bool {
        !self.ending && self.undecided() <= self.config.max_in_flight.max(1)
    }

    /// How much audio came in so far.
    pub fn received(&self) -> Samples {
        self.timeline.end()
    }

    /// Audio that came in and is not decided yet, apart from an utterance that is still open.
    pub fn behind(&self) -> Samples {
        let first = self.windows.iter().find(|window| !window.is_done());
        first.map_or(Samples(0), |window| self.received() - window.cut.owned.start)
    }

    /// How many finals did not begin as promised and were made to.
    pub fn overruled(&self) -> u64 {
        self.overruled
    }

    fn undecided(&self) -> usize {
        self.windows.iter().filter(|window| !window.is_done()).count()
    }

    fn hear(&mut self, pcm: &[f32]) {
        // In pieces, so that a huge chunk does not have to be held beside its own windows.
        for piece in pcm.chunks(FRAME) {
            self.timeline.push(piece);
            while self.timeline.end() - self.judged >= Samples(FRAME as u64) {
                self.judge(FRAME as u64);
            }
        }
        self.forget();
    }

    /// Decides the next frame, of which `real` samples are audio and the rest is padding at the end of the stream.
    fn judge(&mut self, real: u64) {
        let mut frame = [0.0; FRAME];
        self.timeline.fill(Span::new(self.judged, self.judged + Samples(real)), &mut frame);
        self.judged = self.judged + Samples(real);
        let probability = self.vad.probability(&frame);
        self.certainty.hear(probability, self.vad.certain());
        match self.endpointer.push(self.judged, probability) {
            Some(Edge::Start(at)) => self.start(at),
            Some(Edge::End(at)) => self.stop(at),
            None => {}
        }
        if let Some(utterance) = &mut self.open
            && let Some(cut) = utterance.cutter.full(&self.timeline, self.judged, &self.config.window)
        {
            self.cut(cut, false);
        }
        if let (Some(packer), Some(pack)) = (&mut self.packer, &self.config.window.pack) {
            packer.pass(&self.timeline, self.judged, pack);
            if let Some(packed) = packer.full(&self.timeline, self.judged, &self.config.window) {
                self.cut_packed(packed);
            }
        }
    }

    fn start(&mut self, at: Samples) {
        let at = at.max(self.covered);
        let number = self.utterances;
        self.utterances += 1;
        if self.packer.is_some() {
            self.start_packed(at, number);
            self.outputs.push_back(Output::Event(Event::SpeechStarted { utterance: number, at }));
            return;
        }
        let alone = self.utterances == 1 || at - self.covered > LONG_SILENCE;
        if alone || self.config.window.context == Samples(0) {
            self.context = at;
        }
        self.pass_silence(at);
        let due = self.judged + FIRST_PARTIAL;
        self.open = Some(Utterance { number, cutter: Cutter::new(at, self.context), early: None, due });
        if let Some(live) = self.config.live {
            let agreement = Agreement::new(live.promise);
            self.shown.push_back(Shown { utterance: number, agreement, visible: false });
        }
        self.outputs.push_back(Output::Event(Event::SpeechStarted { utterance: number, at }));
    }

    fn stop(&mut self, at: Samples) {
        if let Some(packer) = &mut self.packer {
            packer.stop(at);
            self.covered = self.covered.max(at);
            let utterance = self.utterances.saturating_sub(1);
            self.outputs.push_back(Output::Event(Event::SpeechStopped { utterance, at }));
            return;
        }
        let Some(utterance) = &self.open else { return };
        let number = utterance.number;
        let cut = utterance.cutter.rest(at, &self.config.window);
        self.cut(cut, true);
        self.open = None;
        let at = cut.owned.end;
        self.outputs.push_back(Output::Event(Event::SpeechStopped { utterance: number, at }));
    }

    /// The answer to a flush waits its turn behind the windows before it.
    fn mark_flush(&mut self) {
        let (id, end) = (self.new_id(), self.timeline.end());
        let cut = Cut { heard: Span::new(end, end), owned: Span::new(end, end) };
        self.windows.push_back(Pending { flushed: true, ..Pending::told(id, cut, Vec::new()) });
    }

    fn close(&mut self) {
        if let Some(Edge::End(at)) = self.endpointer.close(self.judged) {
            self.stop(at);
        }
        self.cut_rest();
    }

    fn end(&mut self) {
        let rest = (self.timeline.end() - self.judged).0;
        if rest > 0 {
            self.judge(rest);
        }
        self.close();
        self.account.received = self.timeline.end().0;
        self.pass_silence(self.timeline.end());
        self.ending = true;
    }
    /// Books everything up to here as silence, apart from what was lost.
    fn pass_silence(&mut self, until: Samples) {
        let passed = Span::new(self.covered, until);
        if passed.is_empty() {
            return;
        }
        let gaps = self.lost.take(passed);
        let lost: u64 = gaps.iter().map(|gap| gap.len().0).sum();
        self.account.silence += passed.len().0 - lost;
        self.covered = passed.end;
        if !gaps.is_empty() {
            // They are told in their turn, behind the windows before them.
            let id = self.new_id();
            let cut = Cut { heard: passed, owned: Span::new(passed.end, passed.end) };
            self.windows.push_back(Pending::told(id, cut, gaps));
        }
    }

    fn cut(&mut self, cut: Cut, last: bool) {
        let Some(utterance) = &mut self.open else { return };
        let number = utterance.number;
        let early = utterance.early.take();
        self.withdraw_partial();
        let (id, state) = match early {
            Some(Early { id, cut: expected, answer }) if expected == cut => {
                (id, answer.map_or(Progress::Asked, Progress::Done))
            }
            other => {
                if let Some(Early { id, answer: None, .. }) = other {
                    self.outputs.push_back(Output::Withdraw(id));
                }
                // The seam may have fallen behind the last word: then there is nothing left to hear.
                let state = match cut.owned.is_empty() {
                    true => Progress::Done(Ok(Recognition::default())),
                    false => Progress::Waiting(self.timeline.copy(cut.heard)),
                };
                (self.new_id(), state)
            }
        };
        self.covered = cut.owned.end;
        let gaps = self.lost.take(cut.owned);
        self.windows.push_back(Pending {
            id,
            utterance: Some(number),
            cut,
            parts: Vec::new(),
            certain: self.certainty.cut(last),
            first: cut.heard.start == cut.owned.start,
            last,
            done: if last { vec![number] } else { Vec::new() },
            flushed: false,
            gaps,
            state,
        });
    }

    fn new_id(&mut self) -> WindowId {
        self.next_id += 1;
        WindowId(self.next_id)
    }

    /// Lets go of audio that no window can need any more.
    fn forget(&mut self) {
        let needed = match &self.open {
            Some(utterance) => utterance.cutter.needs_from(&self.config.window),
            None => {
                let context = self.judged.saturating_sub(self.config.window.look_back()).max(self.context);
                self.endpointer.needs_from(self.judged).min(context)
            }
        };
        let packed = self.packer.as_ref().and_then(Packer::needs_from);
        let needed = packed.map_or(needed, |packed| needed.min(packed));
        self.timeline.forget_before(needed.min(self.judged));
    }

    fn recognized(&mut self, id: WindowId, result: Result<Recognition, GapReason>) {
        if let Some(&(_, heard)) = self.partial.iter().find(|(partial, _)| *partial == id) {
            self.partial.clear();
            match (result, &mut self.open) {
                (Ok(recognition), _) => self.suppose(recognition, heard),
                // It had to make room for a final: the reader need not wait a whole step more for that.
                (Err(_), Some(utterance)) => utterance.due = utterance.due.min(self.judged + AGAIN),
                _ => {}
            }
            return;
        }
        if let Some(early) = self.open.as_mut().and_then(|utterance| utterance.early.as_mut())
            && early.id == id
        {
            let (cut, guess) = (early.cut, result.clone());
            early.answer = Some(result);
            if let Ok(recognition) = guess {
                self.suppose(recognition, cut.owned.end);
            }
            return;
        }
        let asked = self.windows.iter_mut().find(|window| window.id == id);
        if let Some(window) = asked
            && matches!(window.state, Progress::Asked)
        {
            window.state = Progress::Done(result);
        }
    }

    /// Asks for as many waiting windows as may be out, the oldest first.
    fn ask(&mut self) {
        let mut out = self.out();
        let limit = self.limit();
        for window in &mut self.windows {
            if out >= limit {
                break;
            }
            if let Progress::Waiting(pcm) = &window.state {
                self.outputs.push_back(Output::Recognize(Window {
                    id: window.id,
                    kind: WindowKind::Final,
                    span: Span::new(
                        window.cut.heard.start,
                        window.cut.heard.start + Samples(pcm.len() as u64),
                    ),
                    pcm: pcm.clone(),
                    parts: match window.parts[..] {
                        [] => vec![window.cut.heard],
                        _ => window.parts.iter().map(|part| part.span).collect(),
                    },
                    language: self.language,
                }));
                window.state = Progress::Asked;
                out += 1;
            }
        }
    }

    fn limit(&self) -> usize {
        match self.config.language {
            SpokenLanguage::Detect if self.language.is_none() => 1,
            _ => self.config.max_in_flight.max(1),
        }
    }

    /// How many finals are out, certain ones and early ones.
    fn out(&self) -> usize {
        let asked = self.windows.iter().filter(|window| matches!(window.state, Progress::Asked)).count();
        let early = self.open.as_ref().and_then(|utterance| utterance.early.as_ref());
        asked + usize::from(early.is_some_and(|early| early.answer.is_none()))
    }

    fn finish(&mut self) {
        if self.ending && self.windows.is_empty() && !self.finished {
            self.finished = true;
            self.outputs.push_back(Output::Finished { account: self.account, language: self.language });
        }
    }
}

impl Pending {
    /// What has no words and only waits its turn.
    fn told(id: WindowId, cut: Cut, gaps: Vec<Span>) -> Self {
        Self {
            id,
            utterance: None,
            cut,
            parts: Vec::new(),
            certain: true,
            first: true,
            last: false,
            done: Vec::new(),
            flushed: false,
            gaps,
            state: Progress::Done(Ok(Recognition::default())),
        }
    }

    fn is_done(&self) -> bool {
        matches!(self.state, Progress::Done(_))
    }

    fn is_asked(&self) -> bool {
        !matches!(self.state, Progress::Waiting(_))
    }
}
