//! Which model, and where its weights are.
//!
//! A [`Spec`] is what a person writes after `--model`; [`resolve`] turns it into weights that are on this machine
//! and whole, and the [`Preset`] to decode them with. The catalogue (`models/catalogue.toml`) knows the published
//! models, the hub brings them, [`import()`] makes them of other forms, the header check keeps the engine, which
//! aborts the process on a broken file, from ever seeing one.
//!
//! Contract: a file under its final name is complete and was checked; everything here blocks, and every wait on the
//! network ends. `--model auto` never fails: the bundled model is always there.
//!
//! Deliberately absent: loading (that is the engine's), and any choice by free memory.

mod catalogue;
mod command;
mod download;
#[cfg(test)]
mod fake_hub;
mod fingerprint;
mod header;
mod hub;
mod import;
mod local;
#[cfg(test)]
mod pull_tests;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use catalogue::{AlignmentHeads, Entry, Head, LICENSE, Preset, entries, find};
pub use command::{Bar, ModelsCommand, Removed, remove, run};
pub use fingerprint::fingerprint;
pub use header::{BadModel, Header, inspect, inspect_bytes};
pub use hub::{HubConfig, Patience, Progress, Silent};
pub use import::{Import, Numbers, Record, import};
pub use local::on_this_machine;

use hub::Source;

/// The name of the model inside the binary.
pub const BUNDLED_NAME: &str = "whisperwire-synth-tiny.en";

/// What the bundled model is, for the log, `/v1/models` and the README.
pub const BUNDLED_CAVEAT: &str = "the bundled model was trained on synthetic speech, for first runs, tests and \
    offline machines; it does not transcribe strangers' real speech usefully: get a real Whisper model with \
    `whisperwire models pull base`";

/// Names of other services' models. In a request they mean the model that is loaded.
pub const REQUEST_ALIASES: [&str; 8] = [
    "whisper-1",
    "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe",
    "gpt-4o-mini-transcribe-2025-12-15",
    "gpt-4o-transcribe-diarize",
    "gpt-transcribe",
    "gpt-live-transcribe",
    "gpt-realtime-whisper",
];

/// What a person asks for with `--model`.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Spec {
    /// The best model there is, or that can be had in a few seconds' notice, or the bundled one.
    #[default]
    Auto,
    /// The model inside the binary.
    Bundled,
    /// One that the catalogue knows.
    Catalogue(&'static Entry),
    /// A file on the hub.
    Hub {
        /// `owner/name`.
        repo: String,
        /// The file's path in the repository.
        file: String,
    },
    /// A repository of the hub, `owner/name`, in whichever form it holds the model.
    Repo(String),
    /// One in the models folder that the catalogue does not know, by its name.
    Own(String),
    /// A file on this machine.
    Path(PathBuf),
}

impl FromStr for Spec {
    type Err = ModelError;

    /// Reads a catalogue name or alias, `auto`, `bundled`, `owner/repo`, `owner/repo:file`, or the path of a file that
    /// exists. A catalogue name is never taken for a path; write `./base` for a file of that name.
    fn from_str(text: &str) -> Result<Self, ModelError> {
        let text = text.trim();
        match text.to_ascii_lowercase().as_str() {
            "" | "auto" => return Ok(Self::Auto),
            "bundled" | BUNDLED_NAME => return Ok(Self::Bundled),
            name => {
                if let Some(entry) = find(name) {
                    return Ok(Self::Catalogue(entry));
                }
            }
        }
        let path = Path::new(text);
        if path.is_file() {
            return Ok(Self::Path(path.to_path_buf()));
        }
        if path.is_dir() {
            return Err(ModelError::Folder(path.to_path_buf()));
        }
        if let Some(spec) = local::on_the_hub(text) {
            return Ok(spec);
        }
        let looks_like_path = text.contains(['/', '\\']) || text.ends_with(".bin") || text.ends_with(".gguf");
        Err(if looks_like_path {
            ModelError::NoFile(path.to_path_buf())
        } else {
            ModelError::Unknown(text.to_owned())
        })
    }
}

/// What the weights will run on, as far as the choice of a model cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// Ordinary cores: models up to `small` keep up with speech.
    Cpu,
    /// A graphics card: any model does.
    Gpu,
}

/// A model that can be loaded now.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The name to show people.
    pub name: String,
    /// Where the weights are.
    pub weights: Weights,
    /// How to decode it.
    pub preset: Preset,
    /// One line for the log, where there is something to say about the choice.
    pub note: Option<String>,
}

/// Where weights are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Weights {
    /// In the binary: see [`bundled`].
    Bundled,
    /// In a file that [`inspect`] has found whole.
    File(PathBuf),
}

/// Finds the weights of `spec`, downloading them if need be.
///
/// Blocks for as long as the download takes; `--model auto` waits at most [`Patience::probe`] for a hub that does
/// not answer.
pub fn resolve(
    spec: &Spec,
    hub: &HubConfig,
    device: Device,
    progress: &mut dyn Progress,
) -> Result<Resolved, ModelError> {
    match spec {
        Spec::Auto => Ok(best(hub, device, progress)),
        Spec::Bundled => Ok(bundled_with(None)),
        Spec::Catalogue(entry) => known(entry, hub, progress),
        Spec::Hub { repo, file } => {
            let source = Source { repo, file, sha256: None };
            let path = hub.cached(&source).map_or_else(|| hub.fetch(&source, progress), Ok)?;
            from_file(&path, format!("{repo}:{file}"))
        }
        Spec::Repo(_) | Spec::Own(_) => {
            let (path, spec) = bring(spec, hub, progress)?;
            from_file(&path, spec.name().unwrap_or_else(|| stem(&path)))
        }
        Spec::Path(path) => from_file(path, stem(path)),
    }
}

/// Finds the file of a model that has a name, or downloads it. Also returns what it was found to be.
fn bring(spec: &Spec, hub: &HubConfig, progress: &mut dyn Progress) -> Result<(PathBuf, Spec), ModelError> {
    let spec = spec.clone().found_here(hub);
    let place = spec.place(hub).ok_or(ModelError::NotOneModel)?;
    if place.is_file() {
        return Ok((place, spec));
    }
    match &spec {
        Spec::Catalogue(entry) => Ok((hub.fetch(&entry.source(), progress)?, spec)),
        Spec::Hub { repo, file } => Ok((hub.fetch(&Source { repo, file, sha256: None }, progress)?, spec)),
        Spec::Repo(repo) => import::pull(repo, hub, progress),
        Spec::Own(name) => Err(ModelError::Unknown(name.clone())),
        Spec::Auto | Spec::Bundled | Spec::Path(_) => Err(ModelError::NotOneModel),
    }
}

/// `--model auto`: the best model in the cache; else, if the hub answers, the one that fits the device; else the
/// bundled one.
fn best(hub: &HubConfig, device: Device, progress: &mut dyn Progress) -> Resolved {
    let mut notes = Vec::new();
    for entry in by_preference(hub, device) {
        match known(entry, hub, progress) {
            Ok(found) => return Resolved { note: join(notes), ..found },
            Err(broken) => notes.push(broken.to_string()),
        }
    }
    let wanted = auto_download(device);
    if hub.offline {
        notes.push("no usable model is in the cache, and downloads are off".to_owned());
    } else if hub.cached(&wanted.source()).is_some() {
        // It is broken, which has been noted; a download would not replace it.
    } else if hub.answers(&wanted.source()) {
        match known(wanted, hub, progress) {
            Ok(found) => return Resolved { note: join(notes), ..found },
            Err(failed) => notes.push(failed.to_string()),
        }
    } else {
        notes.push(format!("no usable model is in the cache, and {} did not answer in time", hub.endpoint));
    }
    notes.push(BUNDLED_CAVEAT.to_owned());
    bundled_with(join(notes))
}

/// The model that `--model auto` downloads.
pub fn auto_download(device: Device) -> &'static Entry {
    let name = match device {
        Device::Cpu => "base",
        Device::Gpu => "large-v3-turbo",
    };
    find(name).expect("the catalogue holds what auto downloads; a test reads it")
}

/// The cached models of the catalogue, the one to take first.
///
/// A graphics card takes the best. A CPU takes the best of those it keeps up with; where only larger ones are
/// cached, the lightest of them, because somebody wanted it here and it is better than a download.
pub fn by_preference(hub: &HubConfig, device: Device) -> Vec<&'static Entry> {
    let cached: Vec<_> = entries().iter().filter(|entry| hub.cached(&entry.source()).is_some()).collect();
    let (fits, heavy): (Vec<_>, Vec<_>) =
        cached.into_iter().partition(|entry| device == Device::Gpu || entry.cpu);
    fits.into_iter().rev().chain(heavy).collect()
}

fn known(entry: &Entry, hub: &HubConfig, progress: &mut dyn Progress) -> Result<Resolved, ModelError> {
    let source = entry.source();
    let path = hub.cached(&source).map_or_else(|| hub.fetch(&source, progress), Ok)?;
    let header = inspect(&path)?;
    let mut preset = entry.preset.clone();
    if let Some(heads) = Record::of(&path).and_then(|record| record.heads(&header)) {
        preset.heads = Some(heads);
    }
    Ok(Resolved { name: entry.name.clone(), weights: Weights::File(path), preset, note: None })
}

/// A file the catalogue does not know: its header says how to decode it, and its record which heads follow the sound.
fn from_file(path: &Path, name: String) -> Result<Resolved, ModelError> {
    let header = inspect(path)?;
    let mut preset = header.preset();
    if let Some(heads) = Record::of(path).and_then(|record| record.heads(&header)) {
        preset.heads = Some(heads);
    }
    Ok(Resolved { name, weights: Weights::File(path.to_path_buf()), preset, note: None })
}

fn bundled_with(note: Option<String>) -> Resolved {
    Resolved {
        name: BUNDLED_NAME.to_owned(),
        weights: Weights::Bundled,
        preset: catalogue::bundled_preset(),
        note,
    }
}

fn join(notes: Vec<String>) -> Option<String> {
    (!notes.is_empty()).then(|| notes.join("; "))
}

/// The bundled model, unpacked: whisper.cpp's ggml format, about 24 MB. Takes a fraction of a second.
#[cfg(feature = "whisper")]
pub fn bundled() -> Result<Vec<u8>, ModelError> {
    use std::io::Read;
    const PACKED: &[u8] = include_bytes!("../../../models/whisperwire-synth-tiny.en-q8_0.bin.zst");
    let damaged = |why: String| ModelError::Bundled(why);
    let mut unpacked = Vec::with_capacity(25_000_000);
    ruzstd::decoding::StreamingDecoder::new(PACKED)
        .map_err(|e| damaged(e.to_string()))?
        .read_to_end(&mut unpacked)
        .map_err(|e| damaged(e.to_string()))?;
    inspect_bytes(&unpacked).map_err(|e| damaged(e.to_string()))?;
    Ok(unpacked)
}

/// Whether a request's `model` is a name for the model that is loaded: its own name, one of the catalogue's other
/// names of it, or another service's name. Upper and lower case are alike.
pub fn request_name_known(name: &str, loaded_name: &str) -> bool {
    let name = name.trim();
    name.eq_ignore_ascii_case(loaded_name)
        || (name.eq_ignore_ascii_case("bundled") && loaded_name == BUNDLED_NAME)
        || is_another_services(name)
        || find(name).is_some_and(|entry| entry.name == loaded_name)
}

fn is_another_services(name: &str) -> bool {
    REQUEST_ALIASES.iter().any(|alias| name.eq_ignore_ascii_case(alias))
}

/// Whether a name means something already, so that no imported model may have it.
fn is_reserved(name: &str) -> bool {
    let bundled = ["auto", "bundled", BUNDLED_NAME].iter().any(|known| name.eq_ignore_ascii_case(known));
    bundled || is_another_services(name)
}

/// Where downloads are kept when nobody says otherwise: `$XDG_CACHE_HOME/whisperwire/models`, or the same under
/// `~/.cache`. `lookup` reads the environment.
pub fn default_cache_dir(lookup: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let folder = |name: &str| lookup(name).map(PathBuf::from).filter(|path| path.is_absolute());
    folder("XDG_CACHE_HOME")
        .or_else(|| folder("HOME").map(|home| home.join(".cache")))
        .or_else(|| folder("LOCALAPPDATA"))
        .unwrap_or_else(|| PathBuf::from(".cache"))
        .join("whisperwire")
        .join("models")
}

/// What can go wrong between a name and its weights. Every message is one sentence that says what to do, where
/// something can be done.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Not in the catalogue, and no path.
    #[error(
        "there is no model named {0:?}: `whisperwire models list` shows the names, a path names a file, and \
         owner/repo or owner/repo:file names one on the hub"
    )]
    Unknown(String),
    /// A path that leads nowhere.
    #[error("there is no model file at {}; a file on the hub is written owner/repo:file", .0.display())]
    NoFile(PathBuf),
    /// A path that leads to a folder.
    #[error(
        "{} is a folder and not a model file: make a model of it with `whisperwire models import {}`",
        .0.display(), .0.display()
    )]
    Folder(PathBuf),
    /// A file or folder of which no model can be made.
    #[error("{} cannot be imported: {reason}", path.display())]
    NotImportable {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A name that no imported model can have.
    #[error("a model cannot be imported as {name:?}: {why}")]
    BadName {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is one of that name.
    #[error(
        "there is a model named {name} already, at {}: give another name with --name, or remove it with \
         `whisperwire models rm {name}`", path.display()
    )]
    Exists {
        /// The name.
        name: String,
        /// Its file.
        path: PathBuf,
    },
    /// Somebody else is importing it.
    #[error("the model {0} is being imported by another process")]
    Importing(String),
    /// A repository with more than one model.
    #[error(
        "the repository {repo} holds several models: name one as {repo}:FILE, where FILE is one of {files}"
    )]
    SeveralFiles {
        /// The repository.
        repo: String,
        /// The files.
        files: String,
    },
    /// Neither in the cache nor to be downloaded.
    #[error(
        "the model {name} is not in the cache and downloads are off: copy its file to {} or run \
         `whisperwire models pull {name}` with a network, or use --model bundled", path.display()
    )]
    NotCached {
        /// What was asked for.
        name: String,
        /// Where it would be.
        path: PathBuf,
    },
    /// The bundled model cannot be pulled or removed.
    #[error("the model {BUNDLED_NAME} is part of the program: it has no file of its own")]
    NoFileOfItsOwn,
    /// `auto` where one model has to be named.
    #[error("`auto` is not one model: give a name that `whisperwire models list` shows")]
    NotOneModel,
    /// There is nothing of that name in the cache.
    #[error("the model {0} is not in the cache, so there is nothing to remove")]
    NothingToRemove(String),
    /// Somebody else is downloading it.
    #[error("the model {0} is being downloaded by another process")]
    Busy(String),
    /// The hub's address makes no sense.
    #[error("the hub's address {0:?} is not an http or https URL")]
    Endpoint(String),
    /// The hub could not be reached.
    #[error(
        "the model {name} is not in the cache and the hub {endpoint} cannot be reached ({reason}): check the \
         network, or use --model bundled"
    )]
    Unreachable {
        /// What was asked for.
        name: String,
        /// The hub.
        endpoint: String,
        /// What happened.
        reason: String,
    },
    /// The connection kept breaking. What has come is kept.
    #[error(
        "the download of {name} broke off after {done} bytes ({reason}): the next attempt goes on from there"
    )]
    Broken {
        /// What was being downloaded.
        name: String,
        /// How much has come.
        done: u64,
        /// What happened.
        reason: String,
    },
    /// 401 or 403.
    #[error(
        "the hub does not give out {name} (status {status}): it is private or gated and needs a valid HF_TOKEN, or it does not exist"
    )]
    Denied {
        /// What was asked for.
        name: String,
        /// The status.
        status: u16,
    },
    /// 404.
    #[error("the hub has no {0}")]
    Missing(String),
    /// An answer that makes no sense here.
    #[error("the hub's answer for {name} makes no sense: {reason}")]
    Answer {
        /// What was asked for.
        name: String,
        /// What was wrong with it.
        reason: String,
    },
    /// The bytes are not the ones they should be.
    #[error(
        "the download of {name} was damaged and has been thrown away: its SHA-256 is {found}, not {expected}; try again"
    )]
    Damaged {
        /// What was downloaded.
        name: String,
        /// The sum it should have.
        expected: String,
        /// The sum it has.
        found: String,
    },
    /// The hub and the catalogue disagree.
    #[error(
        "the hub offers another file as {name} than the catalogue knows (SHA-256 {offered}, not {expected}): \
         download it yourself and give its path if you trust it"
    )]
    Changed {
        /// What was asked for.
        name: String,
        /// The catalogue's sum.
        expected: String,
        /// The hub's.
        offered: String,
    },
    /// A file that the engine must not see.
    #[error("{} cannot be used: {reason}", path.display())]
    NotAModel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: BadModel,
    },
    /// The bytes in the binary are damaged.
    #[error("the bundled model is damaged: {0}")]
    Bundled(String),
    /// The disk said no.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
}

impl ModelError {
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }
}

/// `owner/repo:file`, where the file may be in folders. Nothing that could leave the cache folder.
fn hub_address(text: &str) -> Option<(String, String)> {
    let (repo, file) = text.split_once(':')?;
    let piece = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+".contains(&b))
    };
    let whole = repo.split('/').count() == 2 && repo.split('/').all(piece) && file.split('/').all(piece);
    (whole && text.len() <= 400).then(|| (repo.to_owned(), file.to_owned()))
}

/// What to call a file: its name without whisper.cpp's prefix and the ending.
fn stem(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    stem.strip_prefix("ggml-").unwrap_or(&stem).to_owned()
}
