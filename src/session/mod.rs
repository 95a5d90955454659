//! The brain: a state machine between audio, an engine and a reader. Audio and results go in, requests and events
//! come out. Voice activity, endpointing, windows and stitching are all here, and all deterministic.
//!
//! Contract: *feed one [`Input`], drain [`Session::poll`] until `None`, only then feed the next.*
//!
//! Invariants, each a test:
//! 1. Finals and gaps leave in timeline order, in whatever order results arrive.
//! 2. The transcript does not depend on how the audio was chunked.
//! 3. At most `max_in_flight` windows are out.
//! 4. No window is longer than the configured one. Silence produces no window.
//! 5. After [`Input::End`] and the last result, exactly one [`Output::Finished`], whose account adds up.
//! 6. A failed window is a gap; the session goes on.
//!
//! Deliberately absent: I/O, threads, clocks, logs, errors. A session cannot fail and never waits.

mod endpoint;
mod guard;
mod stitch;
mod window;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

pub use self::endpoint::EndpointConfig;
pub use self::window::WindowConfig;

use self::endpoint::{Edge, Endpointer};
use self::stitch::Stitcher;
use self::window::{Cut, Cutter, Timeline};
use crate::language::Language;
use crate::transcript::{Account, Event, Gap, GapReason, Phrase, Recognition, Samples, Segment, Span};
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

/// A stretch of one utterance to decode.
#[derive(Clone, Debug)]
pub struct Window {
    /// To come back with.
    pub id: WindowId,
    /// Where it lies.
    pub span: Span,
    /// What is heard there, 16 kHz mono.
    pub pcm: Arc<[f32]>,
    /// The language, once it was detected.
    pub language: Option<Language>,
}

/// One stream's state. See the module's contract.
pub struct Session {
    config: SessionConfig,
    vad: Box<dyn Vad>,
    endpointer: Endpointer,
    timeline: Timeline,
    /// How far voice activity has been decided.
    judged: Samples,
    open: Option<Utterance>,
    utterances: u32,
    /// Windows from the oldest that is not told yet to the newest, in timeline order.
    windows: VecDeque<Pending>,
    /// The id of the first of them.
    oldest: u64,
    stitcher: Stitcher,
    language: Option<Language>,
    account: Account,
    /// Everything before it is in the account or in `windows`.
    covered: Samples,
    ending: bool,
    finished: bool,
    outputs: VecDeque<Output>,
}

struct Utterance {
    number: u32,
    cutter: Cutter,
}

struct Pending {
    utterance: u32,
    cut: Cut,
    last: bool,
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
        Self {
            endpointer: Endpointer::new(config.endpoint.clone()),
            config,
            vad,
            timeline: Timeline::default(),
            judged: Samples(0),
            open: None,
            utterances: 0,
            windows: VecDeque::new(),
            oldest: 0,
            stitcher: Stitcher::default(),
            language: None,
            account: Account::default(),
            covered: Samples(0),
            ending: false,
            finished: false,
            outputs: VecDeque::new(),
        }
    }

    /// Takes one input. Audio after [`Input::End`] and results nobody asked for are ignored.
    pub fn handle(&mut self, input: Input<'_>) {
        match input {
            Input::Audio(pcm) if !self.ending => self.hear(pcm),
            Input::Audio(_) => {}
            Input::Recognized(id, result) => self.recognized(id, result),
            Input::Flush => self.flush(),
            Input::End if !self.ending => self.end(),
            Input::End => {}
        }
        self.release();
        self.ask();
        self.finish();
    }

    /// The next thing the session wants.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// False asks the shell to stop reading its source: the engine is behind. This is the back-pressure.
    pub fn wants_audio(&self) -> bool {
        let undecided = self.windows.iter().filter(|w| !matches!(w.state, Progress::Done(_))).count();
        !self.ending && undecided <= self.config.max_in_flight.max(1)
    }

    /// How much audio came in so far.
    pub fn received(&self) -> Samples {
        self.timeline.end()
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
        match self.endpointer.push(self.judged, probability) {
            Some(Edge::Start(at)) => self.start(at),
            Some(Edge::End(at)) => self.stop(at),
            None => {}
        }
        if let Some(utterance) = &mut self.open
            && let Some(cut) = utterance.cutter.full(&self.timeline, self.judged, &self.config.window)
        {
            let number = utterance.number;
            self.cut(number, cut, false);
        }
    }

    fn start(&mut self, at: Samples) {
        let at = at.max(self.covered);
        self.account.silence += (at - self.covered).0;
        self.covered = at;
        let number = self.utterances;
        self.utterances += 1;
        self.open = Some(Utterance { number, cutter: Cutter::new(at) });
        self.outputs.push_back(Output::Event(Event::SpeechStarted { utterance: number, at }));
    }

    fn stop(&mut self, at: Samples) {
        let Some(utterance) = self.open.take() else { return };
        let cut = utterance.cutter.rest(at, &self.config.window);
        self.cut(utterance.number, cut, true);
        let at = cut.owned.end;
        self.outputs.push_back(Output::Event(Event::SpeechStopped { utterance: utterance.number, at }));
    }

    fn flush(&mut self) {
        if let Some(Edge::End(at)) = self.endpointer.close(self.judged) {
            self.stop(at);
        }
    }

    fn end(&mut self) {
        let rest = (self.timeline.end() - self.judged).0;
        if rest > 0 {
            self.judge(rest);
        }
        self.flush();
        self.account.received = self.timeline.end().0;
        self.account.silence += (self.timeline.end() - self.covered).0;
        self.covered = self.timeline.end();
        self.ending = true;
    }

    fn cut(&mut self, utterance: u32, cut: Cut, last: bool) {
        let state = if cut.owned.is_empty() {
            // The seam fell behind the last word: there is nothing left to hear.
            Progress::Done(Ok(Recognition::default()))
        } else {
            Progress::Waiting(self.timeline.copy(cut.heard))
        };
        self.covered = cut.owned.end;
        self.windows.push_back(Pending { utterance, cut, last, state });
    }

    /// Lets go of audio that no window can need any more.
    fn forget(&mut self) {
        let needed = match &self.open {
            Some(utterance) => utterance.cutter.needs_from(&self.config.window),
            None => self.endpointer.needs_from(self.judged),
        };
        self.timeline.forget_before(needed.min(self.judged));
    }

    fn recognized(&mut self, id: WindowId, result: Result<Recognition, GapReason>) {
        let index = id.0.checked_sub(self.oldest).and_then(|n| usize::try_from(n).ok());
        let Some(window) = index.and_then(|n| self.windows.get_mut(n)) else { return };
        if matches!(window.state, Progress::Asked) {
            window.state = Progress::Done(result);
        }
    }

    /// Asks for as many waiting windows as may be out, the oldest first.
    fn ask(&mut self) {
        let limit = match self.config.language {
            SpokenLanguage::Detect if self.language.is_none() => 1,
            _ => self.config.max_in_flight.max(1),
        };
        let mut out = self.windows.iter().filter(|w| matches!(w.state, Progress::Asked)).count();
        for (n, window) in self.windows.iter_mut().enumerate() {
            if out >= limit {
                break;
            }
            if let Progress::Waiting(pcm) = &window.state {
                self.outputs.push_back(Output::Recognize(Window {
                    id: WindowId(self.oldest + n as u64),
                    span: window.cut.heard,
                    pcm: pcm.clone(),
                    language: self.language,
                }));
                window.state = Progress::Asked;
                out += 1;
            }
        }
    }

    /// Tells what the oldest windows said, as long as they are done.
    fn release(&mut self) {
        while let Some(Pending { state: Progress::Done(_), .. }) = self.windows.front() {
            let Some(Pending { utterance, cut, last, state: Progress::Done(result) }) =
                self.windows.pop_front()
            else {
                return;
            };
            self.oldest += 1;
            match result {
                Ok(recognition) => self.tell(utterance, cut, last, recognition),
                Err(reason) => {
                    self.stitcher.forget();
                    self.account.lost += cut.owned.len().0;
                    self.outputs.push_back(Output::Event(Event::Gap(Gap { span: cut.owned, reason })));
                }
            }
        }
    }

    fn tell(&mut self, utterance: u32, cut: Cut, last: bool, recognition: Recognition) {
        self.account.decoded += cut.owned.len().0;
        let language = recognition.language;
        let first = cut.heard.start == cut.owned.start;
        let mut phrases = self.stitcher.own(recognition, cut, first, last);
        guard::guard(&mut phrases);
        if !phrases.is_empty() {
            self.language = self.language.or(language);
        }
        for Phrase { words, temperature, no_speech } in phrases {
            let (Some(head), Some(tail)) = (words.first(), words.last()) else { continue };
            let span = Span::new(head.span.start, tail.span.end);
            let segment = Segment { utterance, span, words, temperature, no_speech };
            self.outputs.push_back(Output::Event(Event::Final(segment)));
        }
    }

    fn finish(&mut self) {
        if self.ending && self.windows.is_empty() && !self.finished {
            self.finished = true;
            self.outputs.push_back(Output::Finished { account: self.account, language: self.language });
        }
    }
}
