//! Which models are in memory, and who brings them there.
//!
//! A request names a model and gets a [`Transcriber`] for it, at once if it is loaded, else when it has been. Contract:
//! whoever asks for a model that is not there waits for the one load that is under way, which goes on though they
//! leave. What is loaded together never takes more than the budget, as far as memory can be known beforehand; room is
//! made by unloading what nobody uses, the least recently used first. What somebody uses is never unloaded. A load
//! that failed is not tried again by every request, but is by the first that comes after a while.
//!
//! Deliberately absent: which models may be loaded, by what names and from where, which is the [`Library`]'s; and the
//! threads, which are the pool's and the same for all models.

mod books;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use self::books::{Books, Step};
use super::watch::Figures;
use super::{PipelineConfig, Source, Transcriber};
use crate::audio::AudioError;
use crate::engine::pool::{Crew, Pool};
use crate::engine::{Engine, EngineError, EngineTraits};
use crate::telemetry::Metrics;
use crate::transcript::Samples;

/// Where models come from. Names are the ones that people know the models by.
pub trait Library: Send + Sync + 'static {
    /// The model that answers where a request names none.
    fn default_model(&self) -> &str;

    /// The model that somebody means by a name, if it may be loaded for whoever asks. Quick: it may look at a disk,
    /// and asks no network.
    fn find(&self, asked: &str) -> Option<String>;

    /// Of a name that [`find`](Self::find) does not find: the model that it means, if it is a known one, and what is
    /// to be done so that it can be had.
    fn absent(&self, _asked: &str) -> Option<(String, String)> {
        None
    }

    /// All models that are on this machine and may be loaded. May read files.
    fn list(&self) -> Vec<String>;

    /// What a model is and can do, as far as that is known before it is loaded. May read files.
    fn describe(&self, name: &str) -> Option<EngineTraits>;

    /// Whether requests may carry placeholders, see [`EngineTraits::takes_placeholders`]: the same for all of them.
    fn takes_placeholders(&self) -> bool;

    /// Whether the operator has named it, so that the server has to have it.
    fn is_pinned(&self, name: &str) -> bool;

    /// Brings its weights to this machine, if they are not there, and checks them. Blocks.
    fn fetch(&self, name: &str) -> Result<Volume, EngineError>;
}

/// A model that can be loaded now.
pub struct Volume {
    /// How much memory it will take in all, as well as that can be known.
    pub bytes: u64,
    /// Loads it. Blocks.
    pub load: Box<dyn FnOnce() -> Result<Arc<dyn Engine>, EngineError> + Send>,
}

/// How long models stay, and how many.
#[derive(Clone, Debug)]
pub struct ShelfConfig {
    /// How much memory models may take together.
    pub memory: Budget,
    /// After how long without use a model is unloaded; never if nothing is said.
    pub idle: Option<Duration>,
    /// Some speech to measure the default model with when it is first loaded.
    pub speech: Option<Arc<[f32]>>,
    /// Where the figures of all models' work go.
    pub metrics: Metrics,
}

/// How much memory models may take together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// So much and not a byte more.
    Firm(u64),
    /// So much, for what requests bring in. What the operator has named is loaded all the same.
    Guessed(u64),
}

/// How long somebody waits for a model to be loaded. The load goes on, for those who come back.
const PATIENCE: Duration = Duration::from_secs(60);
/// When to come back for a model that is being loaded, or has no room, in seconds.
const COME_BACK: u64 = 5;

/// Why there is no model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShelfError {
    /// There is none of that name, or none that a request may bring in.
    #[error("the model {asked:?} does not exist here; this server runs {default}")]
    Unknown {
        /// The name.
        asked: String,
        /// The model that there is.
        default: String,
    },
    /// It is a known one, and cannot be had here as things are.
    #[error("the model {name} is not one of those that this server has, which runs {default}: {advice}")]
    Absent {
        /// Which.
        name: String,
        /// What is to be done.
        advice: String,
        /// The model that there is.
        default: String,
    },
    /// It can never be loaded.
    #[error("the model {name} needs about {} MB of memory, and models may take {} MB here", megabytes(*bytes), megabytes(*limit))]
    TooLarge {
        /// Which.
        name: String,
        /// What it needs.
        bytes: u64,
        /// What there is for all models.
        limit: u64,
    },
    /// Others are in use, and leave no room for it.
    #[error("there is no room for the model {name} beside those that are in use")]
    NoRoom {
        /// Which.
        name: String,
        /// Seconds.
        retry_after: u64,
    },
    /// It is being loaded.
    #[error("the model {name} is being loaded")]
    Loading {
        /// Which.
        name: String,
        /// Seconds.
        retry_after: u64,
    },
    /// It could not be loaded. Why is for the log.
    #[error("the model {name} could not be loaded: {why}")]
    Failed {
        /// Which.
        name: String,
        /// May name files of this machine.
        why: String,
        /// Seconds until it is tried again.
        retry_after: u64,
    },
    /// It cannot be unloaded now.
    #[error("the model {name} is in use: {active} transcriptions are in progress")]
    InUse {
        /// Which.
        name: String,
        /// How many transcriptions.
        active: usize,
    },
}

fn megabytes(bytes: u64) -> u64 {
    bytes.div_ceil(1_000_000)
}

/// Where a model is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModelState {
    /// On this machine, and not in memory.
    #[default]
    Unloaded,
    /// On its way into memory.
    Loading,
    /// In memory.
    Loaded,
    /// The last attempt to load it failed.
    Failed,
}

/// A model as those see it who look after the server.
#[derive(Clone, Debug)]
pub struct Shelved {
    /// What it is and can do. The device is empty before it was ever loaded.
    pub traits: EngineTraits,
    /// Where it is, and who uses it.
    pub standing: Standing,
}

/// Where a model is, and who uses it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Where it is.
    pub state: ModelState,
    /// Bytes of memory that it takes, or that are kept for it while it is being loaded.
    pub memory: u64,
    /// When a transcription last began or ended with it.
    pub last_used: Option<Instant>,
    /// Transcriptions in progress.
    pub active: usize,
}

/// The models. Clones are the same shelf.
#[derive(Clone)]
pub struct Shelf(Arc<Inner>);

struct Inner {
    crew: Crew,
    library: Arc<dyn Library>,
    pipeline: Arc<PipelineConfig>,
    config: ShelfConfig,
    figures: Arc<Figures>,
    books: Mutex<Books>,
}

impl Shelf {
    /// An empty shelf. Must be called on a runtime, which looks after it.
    pub fn new(crew: Crew, library: Arc<dyn Library>, pipeline: PipelineConfig, config: ShelfConfig) -> Self {
        let idle = config.idle;
        let (pipeline, books) = (Arc::new(pipeline), Mutex::default());
        crew.measure(&config.metrics);
        let figures = Arc::new(Figures::new(&config.metrics));
        let inner = Arc::new(Inner { crew, library, pipeline, config, figures, books });
        if let Some(idle) = idle {
            tokio::spawn(look_after(Arc::downgrade(&inner), idle));
        }
        Self(inner)
    }

    /// The model of this name, in memory. Waits for it to be loaded, but not for ever.
    pub async fn get(&self, asked: &str) -> Result<Transcriber, ShelfError> {
        let name = self.find(asked)?;
        let late = ShelfError::Loading { name: name.clone(), retry_after: COME_BACK };
        tokio::time::timeout(PATIENCE, self.bring(&name)).await.unwrap_or(Err(late))
    }

    /// How much was heard since the start, by all models: of live streams, and of files.
    pub fn heard(&self) -> (Samples, Samples) {
        self.0.figures.heard()
    }

    /// How many models are in memory.
    pub fn loaded(&self) -> usize {
        self.0.books().names_here().len()
    }

    /// The same as [`Shelf::get`], without limit to the waiting: for the start.
    pub async fn await_model(&self, asked: &str) -> Result<Transcriber, ShelfError> {
        self.bring(&self.find(asked)?).await
    }

    /// What a name means here, if it may be loaded.
    pub fn find(&self, asked: &str) -> Result<String, ShelfError> {
        if self.0.books().is_here(asked) {
            return Ok(asked.to_owned());
        }
        let library = &self.0.library;
        library.find(asked).ok_or_else(|| {
            let default = library.default_model().to_owned();
            match library.absent(asked) {
                Some((name, advice)) => ShelfError::Absent { name, advice, default },
                None => ShelfError::Unknown { asked: asked.to_owned(), default },
            }
        })
    }

    /// Unloads a model that nobody uses, and says whether it was loaded. Its memory is free by then, but for windows
    /// of transcriptions that were given up in this moment.
    pub async fn unload(&self, asked: &str) -> Result<bool, ShelfError> {
        let name = self.find(asked)?;
        let Some(pool) = self.0.books().close(&name)? else { return Ok(false) };
        tracing::info!(model = name, "a model was unloaded");
        // Giving much memory back takes a while.
        drop(tokio::task::spawn_blocking(move || drop(pool)).await);
        Ok(true)
    }

    /// The name of the model that answers where a request names none.
    pub fn default_name(&self) -> &str {
        self.0.library.default_model()
    }

    /// The model that answers where a request names none.
    pub fn default_model(&self) -> Shelved {
        let name = self.0.library.default_model();
        self.0.look(name).unwrap_or_else(|| Shelved {
            traits: EngineTraits { name: name.to_owned(), ..EngineTraits::default() },
            standing: Standing::default(),
        })
    }

    /// A model by what a name means here.
    pub async fn look(&self, asked: &str) -> Result<Shelved, ShelfError> {
        let (name, inner) = (self.find(asked)?, self.0.clone());
        let unknown = ShelfError::Unknown {
            asked: asked.to_owned(),
            default: inner.library.default_model().to_owned(),
        };
        let looked = tokio::task::spawn_blocking(move || inner.look(&name)).await;
        looked.ok().flatten().ok_or(unknown)
    }

    /// All models that are on this machine and may be loaded, the default one first.
    pub async fn list(&self) -> Vec<Shelved> {
        let inner = self.0.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let first = inner.library.default_model().to_owned();
            let mut names = inner.library.list();
            names.extend(inner.books().names_here());
            names.sort();
            names.dedup();
            let rest = names.into_iter().filter(|name| *name != first);
            std::iter::once(first.clone()).chain(rest).filter_map(|name| inner.look(&name)).collect()
        });
        looked.await.unwrap_or_default()
    }

    /// Transcriptions in progress, of all models.
    pub fn active(&self) -> usize {
        self.0.books().active()
    }

    /// The engine room.
    pub fn crew(&self) -> &Crew {
        &self.0.crew
    }

    /// Whether requests may carry placeholders, see [`EngineTraits::takes_placeholders`].
    pub fn takes_placeholders(&self) -> bool {
        self.0.library.takes_placeholders()
    }

    /// Whether the operator has named this model, so that the server has to have it.
    pub fn is_pinned(&self, name: &str) -> bool {
        self.0.library.is_pinned(name)
    }

    /// How much memory models may take together, and how much of it is taken, in bytes.
    pub fn memory(&self) -> (u64, u64) {
        let (Budget::Firm(limit) | Budget::Guessed(limit)) = self.0.config.memory;
        (limit, self.0.books().taken())
    }

    /// Looks at a file's bytes, on a thread that may block: what can be heard does not depend on the model.
    pub async fn open(&self, file: File) -> Result<Source, AudioError> {
        super::open(file, self.0.pipeline.clone(), self.takes_placeholders()).await
    }

    /// The longest that a stream or file may be.
    pub fn longest(&self) -> Samples {
        self.0.pipeline.file.limits.duration
    }

    async fn bring(&self, name: &str) -> Result<Transcriber, ShelfError> {
        loop {
            let step = self.0.books().step(name, Instant::now());
            let mut coming = match step {
                Step::Here(pool) => return Ok(self.transcriber(name, pool)),
                Step::Refused(error) => return Err(error),
                Step::Wait(coming) => coming,
                Step::Load(tell, coming) => {
                    let (inner, name) = (self.0.clone(), name.to_owned());
                    // Not awaited: it goes on though whoever asked has gone.
                    drop(tokio::task::spawn_blocking(move || inner.load(&name, &tell)));
                    coming
                }
            };
            let told = coming.wait_for(Option::is_some).await.map(|told| (*told).clone());
            match told {
                Ok(Some(Err(error))) => return Err(error),
                // It was there, and may have had to go again at once.
                Ok(_) => {}
                // Only a runtime that ends drops a load.
                Err(_) => return Err(ShelfError::Loading { name: name.to_owned(), retry_after: COME_BACK }),
            }
        }
    }

    fn transcriber(&self, name: &str, pool: Pool) -> Transcriber {
        let lease = Lease { inner: self.0.clone(), name: name.to_owned() };
        let figures = self.0.figures.clone();
        Transcriber { pool, config: self.0.pipeline.clone(), _lease: Some(Arc::new(lease)), figures }
    }
}

/// Says that somebody uses a model, for as long as it exists.
pub(super) struct Lease {
    inner: Arc<Inner>,
    name: String,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.inner.books().give_back(&self.name, Instant::now());
    }
}

/// What whoever waits for a load is told.
type Told = Option<Result<(), ShelfError>>;

impl Inner {
    /// Every critical section is a few assignments, so the books are sound even if a thread died in one.
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads a model that the books say is coming. Blocks.
    fn load(&self, name: &str, tell: &watch::Sender<Told>) {
        let loaded = catch_unwind(AssertUnwindSafe(|| self.load_now(name)));
        let loaded = loaded.unwrap_or_else(|_panic| Err(Fault::Engine(EngineError::Crashed)));
        let told = match loaded {
            Ok(pool) => {
                self.books().arrive(name, pool, Instant::now());
                Ok(())
            }
            Err(Fault::Room(error)) => {
                self.books().turn_away(name);
                Err(error)
            }
            Err(Fault::Engine(error)) => {
                tracing::error!(model = name, %error, "a model could not be loaded");
                Err(self.books().fail(name, error.to_string(), Instant::now()))
            }
        };
        tell.send_replace(Some(told));
    }

    fn load_now(&self, name: &str) -> Result<Pool, Fault> {
        let started = Instant::now();
        let Volume { bytes, load } = self.library.fetch(name)?;
        let pinned = self.library.is_pinned(name);
        let gone = self.books().make_room(name, bytes, (self.config.memory, pinned)).map_err(Fault::Room)?;
        for (other, pool) in gone {
            tracing::info!(model = other, "a model was unloaded to make room for {name}");
            drop(pool);
        }
        let pool = self.crew.open(load()?)?;
        let traits = pool.traits();
        if let Some(speech) = &self.config.speech
            && name == self.library.default_model()
            && pool.load().cost_full.is_none()
        {
            pool.calibrate(speech.clone())?;
        }
        tracing::info!(
            model = name,
            device = traits.device,
            languages = traits.languages.len(),
            megabytes = megabytes(bytes),
            streams = pool.capacity(),
            seconds = started.elapsed().as_secs_f32(),
            "a model was loaded"
        );
        if let Some(caveat) = traits.caveat {
            tracing::warn!("{caveat}");
        }
        Ok(pool)
    }

    fn look(&self, name: &str) -> Option<Shelved> {
        let (traits, standing) = self.books().look(name);
        // What was never loaded, the library knows of.
        let traits = traits.or_else(|| self.library.describe(name))?;
        Some(Shelved { traits, standing })
    }
}

/// Why a load did not come to its end.
enum Fault {
    /// There is no room.
    Room(ShelfError),
    /// The engine, or the weights.
    Engine(EngineError),
}

impl From<EngineError> for Fault {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

/// Unloads what nobody has used for so long.
async fn look_after(shelf: Weak<Inner>, idle: Duration) {
    let mut next = idle;
    loop {
        tokio::time::sleep(next).await;
        let Some(shelf) = shelf.upgrade() else { return };
        let (gone, soonest) = shelf.books().sweep(Instant::now(), idle);
        next = soonest;
        drop(shelf);
        if !gone.is_empty() {
            let names: Vec<&str> = gone.iter().map(|(name, _)| name.as_str()).collect();
            tracing::info!(models = names.join(", "), "nobody used them for long: unloaded");
            drop(tokio::task::spawn_blocking(move || drop(gone)).await);
        }
    }
}
