//! The shell: the loop that joins a source of audio, a session, the engine's pool and a reader.
//!
//! An uploaded file and a live caption run the same loop, with another feed and another listener. Dropping the
//! future of a transcription, or a live stream, cancels its work: its tickets are withdrawn and its slot is free
//! again.

mod driver;
mod feed;
mod live;
mod meter;
mod outbox;
mod shelf;
mod source;
mod watch;

use std::fs::File;
use std::sync::Arc;

use tokio::sync::mpsc;

pub use self::driver::Hangup;
pub use self::live::{Ended, LiveStream, LiveWork, Over, Received};
pub use self::meter::Meter;
pub use self::outbox::{Cursor, Told};
pub use self::shelf::{
    Budget, Library, ModelState, Shelf, ShelfConfig, ShelfError, Shelved, Standing, Volume,
};
pub use self::source::{Progress, Source};

use self::driver::{Cut, Listener, Profile, Stream};
use self::feed::Feed;
use self::meter::Intake;
use self::shelf::Lease;
use self::watch::{Figures, Watch};
use crate::audio::{AudioError, FileOptions};
use crate::engine::pool::{Overloaded, Pool, Slot};
use crate::engine::{DecodeOptions, EngineTraits};
use crate::language::Language;
use crate::session::{EndpointConfig, LiveConfig, Session, SessionConfig, SpokenLanguage, WindowConfig};
use crate::telemetry::Metrics;
use crate::transcript::{Endpointing, Event, GapReason, Samples, Segment, Transcript};
use crate::vad::VadKind;

/// Finals of one live stream that are decoded at once: the one that a long utterance has just given, and the one
/// that ends it.
const LIVE_WINDOWS: usize = 2;

/// What every transcription with one model shares. One from the shelf keeps its model in memory.
#[derive(Clone)]
pub struct Transcriber {
    pool: Pool,
    config: Arc<PipelineConfig>,
    /// Absent where no shelf could unload the model.
    _lease: Option<Arc<Lease>>,
    figures: Arc<Figures>,
}

/// How audio becomes text, where a request does not say otherwise.
#[derive(Clone, Debug)]
pub struct PipelineConfig {
    /// Which detector judges what is speech.
    pub vad: VadKind,
    /// When utterances start and end.
    pub endpoint: EndpointConfig,
    /// The longest window of a file; nothing leaves it to the model.
    pub file_window: Option<Samples>,
    /// How many windows of one file are decoded at once.
    pub file_windows: usize,
    /// What files may ask for.
    pub file: FileOptions,
}

/// What one transcription wants.
#[derive(Clone, Debug)]
pub struct Work {
    /// What the engine is asked.
    pub options: DecodeOptions,
    /// The language, where it was named.
    pub language: Option<Language>,
    endpoint: EndpointConfig,
    /// The longest window of a file, where the request names one.
    window: Option<Samples>,
    /// Who is told how much audio is taken in.
    meter: Option<Meter>,
}

impl Work {
    /// Tells this meter how much audio is taken in.
    #[must_use]
    pub fn with_meter(self, meter: Option<Meter>) -> Self {
        Self { meter, ..self }
    }

    /// Other windows for a file than the server's. The model's longest is never exceeded.
    #[must_use]
    pub fn with_window(self, longest: Samples) -> Self {
        Self { window: Some(longest), ..self }
    }

    /// Cuts utterances as a client wishes.
    #[must_use]
    pub fn cut_as(mut self, wishes: Endpointing) -> Self {
        if let Some(threshold) = wishes.threshold {
            self = self.with_threshold(threshold);
        }
        if let Some(millis) = wishes.silence_duration_ms {
            self = self.with_silence(Samples::from_millis(millis.into()));
        }
        if let Some(millis) = wishes.prefix_padding_ms {
            self = self.with_padding(Samples::from_millis(millis.into()));
        }
        self
    }

    /// Another probability above which speech begins. The ends of the scale would hear everything or nothing, so
    /// they are kept away from.
    #[must_use]
    pub fn with_threshold(self, threshold: f32) -> Self {
        Self { endpoint: self.endpoint.with_threshold(threshold.clamp(0.05, 0.95)), ..self }
    }

    /// Another silence that ends an utterance.
    #[must_use]
    pub fn with_silence(self, silence: Samples) -> Self {
        Self { endpoint: self.endpoint.with_hangover(silence), ..self }
    }

    /// Another stretch before speech that is taken along.
    #[must_use]
    pub fn with_padding(self, padding: Samples) -> Self {
        Self { endpoint: self.endpoint.with_preroll(padding), ..self }
    }
}

/// Why there is no transcript.
#[derive(Debug, thiserror::Error)]
pub enum TranscribeError {
    /// There was no slot to make it with.
    #[error(transparent)]
    Overloaded(#[from] Overloaded),
    /// The audio ended in an error. What was heard before it is not given away as if it were all.
    #[error(transparent)]
    Audio(#[from] AudioError),
    /// The engine failed on every window there was.
    #[error("the engine failed on all of the audio")]
    Engine,
    /// Nobody listens any more.
    #[error("the listener went away")]
    Hangup,
}

impl From<Hangup> for TranscribeError {
    fn from(Hangup: Hangup) -> Self {
        Self::Hangup
    }
}

impl From<Cut> for TranscribeError {
    fn from(cut: Cut) -> Self {
        match cut {
            Cut::Hangup => Self::Hangup,
            Cut::Audio(error) => Self::Audio(error),
        }
    }
}

impl Transcriber {
    /// A transcriber over a running pool.
    pub fn new(pool: Pool, config: PipelineConfig) -> Self {
        let figures = Arc::new(Figures::new(&Metrics::silent()));
        Self { pool, config: Arc::new(config), _lease: None, figures }
    }

    /// The engine room.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// What the engine is and can do.
    pub fn traits(&self) -> &EngineTraits {
        self.pool.traits()
    }

    /// The defaults a request starts from.
    pub fn work(&self, options: DecodeOptions, language: Option<Language>) -> Work {
        let PipelineConfig { endpoint, file_window, .. } = &*self.config;
        Work { options, language, endpoint: endpoint.clone(), window: *file_window, meter: None }
    }

    /// How utterances end where nobody says otherwise: the probability above which speech begins, the silence that
    /// ends it, and what is taken along from before it.
    pub fn endpointing(&self) -> (f32, Samples, Samples) {
        let EndpointConfig { onset, hangover, preroll, .. } = self.config.endpoint;
        (onset, hangover, preroll)
    }

    /// The longest window that its model is given of a live stream. Streams cut for the model that they begin with, so
    /// they may change to those only that hear as much at once.
    pub fn longest_window(&self) -> Samples {
        WindowConfig::default().max.min(self.traits().max_window)
    }

    /// How a stream or a file is cut.
    fn windows(&self, work: &Work, profile: Profile) -> WindowConfig {
        match profile {
            Profile::Live => WindowConfig {
                max: self.longest_window(),
                context: self.traits().live_context,
                ..WindowConfig::default()
            },
            Profile::File => {
                let longest = work.window.unwrap_or(self.traits().file_window);
                WindowConfig::with_max(longest.min(self.traits().max_window))
            }
        }
    }

    /// The longest that a stream or file may be.
    pub fn longest(&self) -> Samples {
        self.config.file.limits.duration
    }

    /// All that decides a transcript beside its audio: equal fingerprints, equal text. It holds the prompt, so it
    /// is for hashing and for nobody's eyes.
    pub fn fingerprint(&self, work: &Work) -> String {
        // Who pays for it changes nothing about it.
        let work = work.clone().with_meter(None);
        // Debug forms name every field, those of tomorrow too, and write numbers exactly.
        format!("{} {} {:?} {work:?}", env!("CARGO_PKG_VERSION"), self.pool.identity(), self.config.vad)
    }

    /// Leave to work, or the answer that the house is full. Never waits.
    pub fn admit(&self) -> Result<Slot, Overloaded> {
        self.pool.admit()
    }

    /// Leave to follow a live stream, or the answer that there are as many as this machine can follow. Never waits.
    pub fn admit_stream(&self) -> Result<Slot, Overloaded> {
        self.pool.admit_stream()
    }

    /// The loop for one stream or file.
    fn stream(&self, slot: Slot, work: Work, profile: Profile, live: Option<LiveConfig>) -> Stream {
        let only = match &self.traits().languages[..] {
            [only] => Some(*only),
            _ => None,
        };
        let language = work.language.or(only);
        let window = self.windows(&work, profile);
        let session = SessionConfig {
            endpoint: if window.pack.is_some() { work.endpoint.with_room() } else { work.endpoint },
            window,
            max_in_flight: match profile {
                Profile::Live => LIVE_WINDOWS,
                Profile::File => self.config.file_windows,
            },
            language: if language.is_some() { SpokenLanguage::Given } else { SpokenLanguage::Detect },
            live,
        };
        Stream {
            session: Session::new(session, self.config.vad.build()),
            slot,
            transcriber: self.clone(),
            profile,
            options: Arc::new(work.options),
            language,
            longest: self.config.file.limits.duration,
            intake: Intake::new(work.meter),
            watch: Watch::new(self.figures.clone(), profile),
        }
    }

    /// Looks at a file's bytes, on a thread that may block.
    pub async fn open(&self, file: File) -> Result<Source, AudioError> {
        open(file, self.config.clone(), self.traits().takes_placeholders).await
    }

    /// Takes a slot, looks at the file and transcribes it. Who is told that there is no slot has not waited.
    pub async fn transcribe_file(&self, file: File, work: Work) -> Result<Transcript, TranscribeError> {
        let slot = self.admit()?;
        let source = self.open(file).await?;
        self.transcribe(slot, source, work, None).await
    }

    /// Transcribes a whole source. Segments are also told one by one to `listener`, if there is one, as soon as
    /// they are final; it holds the transcription up when it is slow and cancels it when it is dropped.
    pub async fn transcribe(
        &self,
        slot: Slot,
        source: Source,
        work: Work,
        listener: Option<mpsc::Sender<Segment>>,
    ) -> Result<Transcript, TranscribeError> {
        let (events, told) = mpsc::channel(16);
        let stream = self.stream(slot, work, Profile::File, None);
        let language = stream.language;
        let (reading, audio) = source.read();
        // The first of the three to fail ends the others.
        let all = async {
            tokio::try_join!(
                async {
                    stream.run(Feed::file(audio), &Channel(events)).await.map_err(TranscribeError::from)
                },
                async { collect(told, listener.as_ref()).await.map_err(TranscribeError::from) },
                async { reading.finish().await.map_err(TranscribeError::from) },
            )
        };
        let (end, mut transcript, ()) = tokio::select! {
            all = all => all?,
            // A listener that goes away is noticed at once, and not only when there is something to tell it.
            () = gone(listener.as_ref()) => return Err(TranscribeError::Hangup),
        };
        let failed = transcript.gaps.iter().any(|gap| gap.reason == GapReason::Engine);
        if failed && end.account.decoded == 0 {
            return Err(TranscribeError::Engine);
        }
        transcript.language = language.or(end.language);
        transcript.duration = end.duration;
        transcript.account = end.account;
        Ok(transcript)
    }
}

async fn open(file: File, config: Arc<PipelineConfig>, placeholders: bool) -> Result<Source, AudioError> {
    source::blocking(move || Source::open(file, &config.file, placeholders)).await?
}

/// A transcript's events, on their way to whoever gathers them.
struct Channel(mpsc::Sender<Event>);

impl Listener for Channel {
    async fn tell(&self, event: Event) -> Result<(), Hangup> {
        self.0.send(event).await.map_err(|_| Hangup)
    }

    async fn gone(&self) {
        self.0.closed().await;
    }

    /// A file waits, and nobody minds.
    async fn lag(&self, _behind: Samples) {}
}

/// Gathers what is told until there is nothing more to tell, and passes finals on.
async fn collect(
    mut told: mpsc::Receiver<Event>,
    listener: Option<&mpsc::Sender<Segment>>,
) -> Result<Transcript, Hangup> {
    let mut transcript = Transcript::default();
    while let Some(event) = told.recv().await {
        match event {
            Event::Final(segment) => {
                if let Some(listener) = listener {
                    listener.send(segment.clone()).await.map_err(|_| Hangup)?;
                }
                transcript.segments.push(segment);
            }
            Event::Gap(gap) => transcript.gaps.push(gap),
            _ => {}
        }
    }
    Ok(transcript)
}

async fn gone(listener: Option<&mpsc::Sender<Segment>>) {
    match listener {
        Some(listener) => listener.closed().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::pool::PoolConfig;
    use crate::engine::script::{Script, ScriptConfig};
    use crate::engine::{Engine, EngineError, Recognizer, Task};

    /// An engine of which only its name matters.
    struct Named(Script, &'static str);

    impl Engine for Named {
        fn traits(&self) -> &EngineTraits {
            self.0.traits()
        }

        fn identity(&self) -> String {
            self.1.to_owned()
        }

        fn recognizer(&self) -> Result<Box<dyn Recognizer>, EngineError> {
            self.0.recognizer()
        }
    }

    fn transcriber(identity: &'static str, vad: VadKind) -> Transcriber {
        let pool =
            PoolConfig { workers: 1, slots: 1, streams: None, patience: 8, hang: crate::engine::pool::HANG };
        let engine = Named(Script::new(ScriptConfig::default()), identity);
        let (pool, _) = Pool::start(Arc::new(engine), pool).expect("it starts");
        let config = PipelineConfig {
            vad,
            endpoint: EndpointConfig::default(),
            file_window: None,
            file_windows: 1,
            file: FileOptions::default(),
        };
        Transcriber::new(pool, config)
    }

    #[test]
    fn whatever_changes_the_text_changes_the_fingerprint() {
        let ours = transcriber("a", VadKind::Energy);
        let german = Language::parse("de").expect("a language");
        let plain = || ours.work(DecodeOptions::default(), None);
        let with = |options: DecodeOptions| ours.work(options, None);
        let default = DecodeOptions::default;
        let works = [
            plain(),
            ours.work(default(), Some(german)),
            with(DecodeOptions { task: Task::Translate, ..default() }),
            with(DecodeOptions { candidates: vec![german], ..default() }),
            with(DecodeOptions { candidates: vec![german, Language::ENGLISH], ..default() }),
            with(DecodeOptions { prompt: Some("de".into()), ..default() }),
            with(DecodeOptions { prompt: Some(String::new()), ..default() }),
            with(DecodeOptions { keywords: vec!["a, b".into()], ..default() }),
            with(DecodeOptions { keywords: vec!["a".into(), "b".into()], ..default() }),
            with(DecodeOptions { keywords: vec!["a\", \"b".into()], ..default() }),
            with(DecodeOptions { temperature: 0.2, ..default() }),
            with(DecodeOptions { temperature: 0.200_000_02, ..default() }),
            plain().with_window(Samples::from_millis(5_000)),
            plain().with_threshold(0.4),
            plain().with_silence(Samples::from_millis(700)),
            plain().with_padding(Samples::from_millis(100)),
        ];
        let others = [transcriber("b", VadKind::Energy), transcriber("a", VadKind::Earshot)];
        let mut prints: Vec<String> = works.iter().map(|work| ours.fingerprint(work)).collect();
        prints.extend(others.iter().map(|other| other.fingerprint(&plain())));
        assert_eq!(transcriber("a", VadKind::Energy).fingerprint(&plain()), prints[0]);
        let count = prints.len();
        prints.sort();
        prints.dedup();
        assert_eq!(prints.len(), count, "{prints:#?}");
    }
}
