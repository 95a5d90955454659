//! Speech in, words out.
//!
//! An [`Engine`] is a loaded model: shared, immutable, expensive. A [`Recognizer`] is the mutable half of one
//! worker thread. Both are blocking on purpose: decoding blocks, and pretending otherwise would only hide the
//! thread it blocks. The [`pool`] owns the threads; nobody else calls a recogniser in the server.
//!
//! This room never talks to clients and never sees bytes of a container: it hears 16 kHz mono and answers with
//! words on the caller's timeline.

pub mod guard;
pub mod models;
pub mod pool;
pub mod script;
#[cfg(feature = "whisper")]
pub mod whisper;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::language::Language;
use crate::transcript::{Recognition, Samples};

/// A loaded model: shared, immutable, expensive.
pub trait Engine: Send + Sync + 'static {
    /// What it is and can do.
    fn traits(&self) -> &EngineTraits;

    /// What decides its words beside the request: the weights and how they are run. Engines with the same identity
    /// write the same, on whichever machine.
    fn identity(&self) -> String {
        self.traits().name.clone()
    }

    /// Makes the mutable half, one per worker thread.
    fn recognizer(&self) -> Result<Box<dyn Recognizer>, EngineError>;
}

/// Decoding state: cheap beside the model, used by one thread at a time.
pub trait Recognizer: Send {
    /// Blocks. Returns words on the caller's timeline. Looks at `abort` between decoder steps and then returns
    /// [`EngineError::Aborted`].
    fn recognize(&mut self, request: &Request, abort: &Abort) -> Result<Recognition, EngineError>;
}

/// What an engine is and can do.
#[derive(Clone, Debug, Default)]
pub struct EngineTraits {
    /// The name people know the model by.
    pub name: String,
    /// The languages it understands; with exactly one, nothing is ever detected.
    pub languages: Vec<Language>,
    /// Whether it can write English for speech in another language.
    pub translates: bool,
    /// The longest window it decodes well.
    pub max_window: Samples,
    /// The window it is given of a file, where nobody asks for another.
    pub file_window: Samples,
    /// How much it is given to hear with the end of a live utterance at no further cost.
    pub live_context: Samples,
    /// Whether requests may carry placeholder values in place of real ones (a file that is no audio, a language
    /// that does not exist), as the test suites of client libraries do. True of the scripted engine alone.
    pub takes_placeholders: bool,
    /// One honest sentence about its quality, where one is needed.
    pub caveat: Option<&'static str>,
    /// What it runs on, for people: the device and the instruction sets.
    pub device: String,
}

/// One window to decode.
#[derive(Clone, Debug)]
pub struct Request {
    /// 16 kHz mono in [-1, 1].
    pub pcm: Arc<[f32]>,
    /// Where on the session's timeline `pcm` begins; the answer is on the same timeline.
    pub offset: Samples,
    /// How much work the answer is worth.
    pub effort: Effort,
    /// The language, where it was named. Else it is detected.
    pub language: Option<Language>,
    /// Where the language is detected: the one that the stream was found to speak. Only strong evidence that this
    /// window is in another one stands above it.
    pub prior: Option<Language>,
    /// What the whole stream shares.
    pub options: Arc<DecodeOptions>,
}

/// How much work an answer is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// A guess that will be replaced: greedy, no fallback.
    Draft,
    /// Text that will stay, and somebody waits for it: the model's preset, with an encoder context that fits the audio.
    Live,
    /// Text that will stay, and nobody waits: the model's preset, with the context that hears best.
    Full,
}

/// What a client asked for, the same for every window of its stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DecodeOptions {
    /// Same language out, or English.
    pub task: Task,
    /// If not empty, detection chooses among these only.
    pub candidates: Vec<Language>,
    /// Text that stands before the audio, for style and spelling. Holds no NUL.
    pub prompt: Option<String>,
    /// Terms to expect. Hold no NUL.
    pub keywords: Vec<String>,
    /// Where the fallback ladder starts, 0 to 1.
    pub temperature: f32,
}

/// What to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Task {
    /// The words as they were spoken.
    #[default]
    Transcribe,
    /// English.
    Translate,
}

/// Set once, when the answer is no longer wanted. A flag and not a closure, because the engine reads it from C.
#[derive(Clone, Debug, Default)]
pub struct Abort(Arc<AtomicBool>);

impl Abort {
    /// Says that the answer is no longer wanted.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody said so.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What can go wrong in this room.
#[derive(Debug, Clone, thiserror::Error, PartialEq)]
pub enum EngineError {
    /// The answer was no longer wanted.
    #[error("withdrawn")]
    Aborted,
    /// The recogniser panicked; a new one was made.
    #[error("the recogniser crashed")]
    Crashed,
    /// The recogniser began and gave no sign of life for far longer than it could need.
    #[error("the engine hangs")]
    Hung,
    /// The engine said no.
    #[error("the engine failed: {0}")]
    Failed(String),
    /// The model could not be loaded.
    #[error("{0}")]
    Load(String),
    /// The pool is closing and takes no new work.
    #[error("the pool is closed")]
    Closed,
}
