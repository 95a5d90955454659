//! Makes a ggml file of a model in another form, streaming: a piece of a tensor is in memory at a time.
//!
//! Contract: the file gets its final name when it is whole, was checked and lies on the disk; where anything goes
//! wrong nothing is left behind and one sentence says what it was. Nothing is allocated because a file says so. What
//! a Whisper model has not is refused, because the engine would hear nonsense with it, or end the process.
//!
//! Deliberately absent: PyTorch's pickles, which are programs, and adapters, which are no models by themselves.

mod ctranslate2;
mod files;
#[cfg(test)]
pub(super) mod forge;
mod layout;
mod mel;
mod numbers;
mod record;
#[cfg(test)]
mod refused;
mod repository;
mod safetensors;
mod source;
mod tensors;
#[cfg(test)]
mod tests;
mod tokens;
mod write;

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub use numbers::Numbers;
pub use record::Record;

pub(super) use files::is_plain;
pub(super) use repository::{WORKSHOP, pull};
pub(super) use write::unfinished;

use self::layout::{Planned, Shape, plan};
use self::source::Source;
use self::tensors::{Kind, Opened, Stored, Tensors};
use self::write::Sink;
use super::header::{Contents, contents};
use super::{BadModel, Header, HubConfig, ModelError, Progress, Spec, find, fingerprint, inspect};

/// What to make a model of.
#[derive(Clone, Debug)]
pub struct Import {
    /// A folder, or a file in it.
    pub source: PathBuf,
    /// What to call the model; by default as its folder or file is called.
    pub name: Option<String>,
    /// How its weights are to be written; by default as its name says, or as they are in a ggml file, or in 16 bits.
    pub numbers: Option<Numbers>,
}

/// Makes a model of it in the models folder, and returns its path.
pub fn import(import: &Import, hub: &HubConfig, progress: &mut dyn Progress) -> Result<PathBuf, ModelError> {
    let weights = Weights::find(&import.source)?;
    let spec = match &import.name {
        Some(name) => Spec::for_import(name)?,
        None => Spec::for_import_of(&import.source, weights.path())?,
    };
    let origin = fs::canonicalize(&import.source).unwrap_or_else(|_| import.source.clone());
    let order = Order { spec: &spec, origin: origin.display().to_string(), numbers: import.numbers };
    make(&weights, &order, hub, progress)
}

/// What to make, whatever it is made of.
struct Order<'a> {
    spec: &'a Spec,
    /// For the record.
    origin: String,
    numbers: Option<Numbers>,
}

fn make(
    weights: &Weights,
    order: &Order<'_>,
    hub: &HubConfig,
    progress: &mut dyn Progress,
) -> Result<PathBuf, ModelError> {
    let name = order.spec.name().ok_or(ModelError::NotOneModel)?;
    let target = order.spec.place(hub).ok_or(ModelError::NotOneModel)?;
    if target.exists() {
        return Err(ModelError::Exists { name, path: target });
    }
    let by_name = match order.spec {
        Spec::Catalogue(entry) => Numbers::of_name(&entry.name),
        _ => None,
    };
    if let (Some(named), Some(wanted)) = (by_name, order.numbers)
        && named != wanted
    {
        let why = format!("the name says {} and --quantize says {}", named.name(), wanted.name());
        return Err(ModelError::BadName { name, why });
    }
    let numbers = order.numbers.or(by_name);
    let mut model = Model::open(weights, numbers)?;
    check_name(order.spec, &model.shape, weights.path())?;
    let mut sink = Sink::beside(&target, &name, model.estimate(), progress)?;
    model.write(&mut sink)?;
    let sha256 = sink.finish()?;
    let header = match inspect(sink.path()) {
        Ok(header) => header,
        Err(ModelError::NotAModel { reason, .. }) => return Err(bad(weights.path(), reason)),
        Err(error) => return Err(error),
    };
    let record =
        model.record(&Made { name: &name, origin: &order.origin, header: &header, sha256 }, &sink)?;
    sink.settle(&target)?;
    if let Err(error) = record.write(&target) {
        // Without its record it is a model like any other, but nobody could say where it came from.
        for path in [&target, &Record::place(&target)] {
            drop(fs::remove_file(path));
        }
        return Err(error);
    }
    Ok(target)
}

/// Whether a model may have the name of a published one.
fn check_name(spec: &Spec, shape: &Header, path: &Path) -> Result<(), ModelError> {
    let Spec::Catalogue(entry) = spec else { return Ok(()) };
    let plain = match Numbers::of_name(&entry.name) {
        Some(_) => entry.name.rsplit_once('-').map_or("", |(plain, _)| plain),
        None => entry.name.trim_end_matches("-tdrz"),
    };
    // The first two large ones are of one shape.
    let plain = if plain == "large-v1" { "large-v2" } else { plain };
    match shape.class() {
        Some(class) if class == plain => Ok(()),
        class => {
            let what = class
                .map_or_else(|| "that of no published model".to_owned(), |class| format!("that of {class}"));
            Err(bad(path, format!("its shape is {what}, so it cannot be called {}", entry.name)))
        }
    }
}

/// Weights that were found, and their form.
#[derive(Debug)]
enum Weights {
    Safetensors(PathBuf),
    CTranslate2(PathBuf),
    Ggml(PathBuf),
}

impl Weights {
    fn path(&self) -> &Path {
        match self {
            Self::Safetensors(path) | Self::CTranslate2(path) | Self::Ggml(path) => path,
        }
    }

    fn find(source: &Path) -> Result<Self, ModelError> {
        let found = fs::metadata(source).map_err(ModelError::io(source))?;
        if found.is_dir() { Self::in_folder(source) } else { Self::of_file(source.to_path_buf()) }
    }

    fn in_folder(folder: &Path) -> Result<Self, ModelError> {
        let listed = fs::read_dir(folder).map_err(ModelError::io(folder))?;
        let names = listed.flatten().filter_map(|file| file.file_name().into_string().ok());
        match choose(names.collect()) {
            Choice::Transformers(name) => Ok(Self::Safetensors(folder.join(name))),
            Choice::CTranslate2(name) => Self::of_file(folder.join(name)),
            Choice::Ggml(names) if names.len() == 1 => Self::of_file(folder.join(&names[0])),
            Choice::Ggml(names) => {
                Err(bad(folder, format!("it holds several models; name one of {}", names.join(", "))))
            }
            Choice::None(why) => Err(bad(folder, why)),
        }
    }

    /// By what is in it, and not by its ending.
    fn of_file(path: PathBuf) -> Result<Self, ModelError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json") {
            return Ok(Self::Safetensors(path));
        }
        match inspect(&path) {
            Ok(_) => Ok(Self::Ggml(path)),
            Err(ModelError::NotAModel { reason: BadModel::Safetensors, .. }) => Ok(Self::Safetensors(path)),
            Err(ModelError::NotAModel { reason: BadModel::Foreign, .. }) if ctranslate2::is_one(&path) => {
                Ok(Self::CTranslate2(path))
            }
            Err(error) => Err(error),
        }
    }
}

/// What to take among files that lie together.
#[derive(Debug, PartialEq)]
enum Choice {
    /// A safetensors file, or the index of several.
    Transformers(String),
    CTranslate2(String),
    Ggml(Vec<String>),
    /// Nothing, and why.
    None(String),
}

fn choose(mut names: Vec<String>) -> Choice {
    names.sort();
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    for name in ["model.safetensors", "model.safetensors.index.json"] {
        if has(name) {
            return Choice::Transformers(name.to_owned());
        }
    }
    let of = |keep: &dyn Fn(&str) -> bool| -> Vec<String> {
        names.iter().filter(|name| keep(name)).cloned().collect()
    };
    let safetensors = of(&|name| name.ends_with(".safetensors"));
    let adapter = safetensors.iter().any(|name| name.starts_with("adapter_"));
    let ggml = of(&|name| name.ends_with(".bin") && name.contains("ggml"));
    match safetensors.as_slice() {
        [one] if !adapter => return Choice::Transformers(one.clone()),
        _ if has("model.bin") => return Choice::CTranslate2("model.bin".to_owned()),
        _ if !ggml.is_empty() => return Choice::Ggml(ggml),
        _ => {}
    }
    Choice::None(if adapter {
        "it holds an adapter and no model: merge it into its model, and import that".to_owned()
    } else if !safetensors.is_empty() {
        format!("it holds {} safetensors files and no model.safetensors.index.json", safetensors.len())
    } else if names.iter().any(|name| name.starts_with("pytorch_model")) {
        "its weights are in PyTorch's own form, which is a program: save them as safetensors, and import those"
            .to_owned()
    } else {
        "it holds no weights: model.safetensors, its index, model.bin or ggml-*.bin".to_owned()
    })
}

/// A model that can be written.
struct Model {
    shape: Header,
    from: From,
    numbers: Option<Numbers>,
}

enum From {
    Other(Box<Source>),
    /// A ggml file; where its tensors begin, and which they are.
    Ggml(Tensors, u64, Vec<Planned>),
}

/// What was made, for its record.
struct Made<'a> {
    name: &'a str,
    origin: &'a str,
    header: &'a Header,
    sha256: String,
}

impl Model {
    fn open(weights: &Weights, numbers: Option<Numbers>) -> Result<Self, ModelError> {
        let source = match weights {
            Weights::Ggml(path) => return Self::of_ggml(path, numbers),
            Weights::Safetensors(path) => safetensors::open(path)?,
            Weights::CTranslate2(path) => ctranslate2::open(path)?,
        };
        let numbers = numbers.unwrap_or(Numbers::F16);
        let shape = super::header::shape(source.shape.head(numbers.in_head()));
        let shape = shape.map_err(|reason| bad(weights.path(), reason))?;
        Ok(Self { shape, from: From::Other(Box::new(source)), numbers: Some(numbers) })
    }

    fn of_ggml(path: &Path, numbers: Option<Numbers>) -> Result<Self, ModelError> {
        let Contents { header, start, tensors: found } = contents(path)?;
        let shape = Shape {
            vocab: header.vocab,
            audio_ctx: header.audio_ctx,
            width: header.width,
            encoder_heads: header.heads,
            encoder_layers: header.encoder_layers,
            text_ctx: header.text_ctx,
            decoder_heads: header.text_heads,
            decoder_layers: header.decoder_layers,
            mels: header.mels,
        };
        let planned = plan(&shape);
        let wanted: HashSet<(&[u8], &[u64])> =
            planned.iter().map(|planned| (planned.name.as_bytes(), planned.sizes.as_slice())).collect();
        let mut tensors = Tensors::default();
        tensors.files.push(Opened::open(path)?);
        let mut order = Vec::new();
        for tensor in found {
            let sizes: Vec<u64> = tensor.sizes.iter().rev().map(|size| (*size).into()).collect();
            let name = String::from_utf8_lossy(&tensor.name).into_owned();
            if !wanted.contains(&(tensor.name.as_slice(), sizes.as_slice())) {
                return Err(bad(
                    path,
                    format!("it holds {name:?}, which a Whisper model of its shape has not"),
                ));
            }
            let kind = match tensor.numbers {
                "f32" => Kind::F32,
                "f16" => Kind::F16,
                "bf16" => Kind::Bf16,
                _ => Kind::Other,
            };
            order.push(Planned { name: name.clone(), sizes: sizes.clone() });
            let stored = Stored { file: 0, at: tensor.at, kind, sizes, scale: None };
            if !tensors.add(name, stored) {
                return Err(bad(path, "it holds a tensor twice"));
            }
        }
        let numbers = numbers.filter(|numbers| numbers.name() != header.numbers);
        if numbers.is_some() && tensors.iter().any(|(_, stored)| stored.kind == Kind::Other) {
            let why = format!("its weights are quantised to {} already; take the full model", header.numbers);
            return Err(bad(path, why));
        }
        Ok(Self { shape: header, from: From::Ggml(tensors, start, order), numbers })
    }

    fn estimate(&self) -> u64 {
        match (&self.from, self.numbers) {
            (From::Other(source), Some(numbers)) => {
                write::estimate(source.located.iter().map(|located| &located.planned), numbers)
            }
            (From::Ggml(_, _, planned), Some(numbers)) => write::estimate(planned.iter(), numbers),
            (_, None) => self.tensors().files.iter().map(|file| file.length).sum(),
        }
    }

    fn write(&mut self, sink: &mut Sink<'_>) -> Result<(), ModelError> {
        match (&mut self.from, self.numbers) {
            (From::Other(source), numbers) => write::write(source, numbers.unwrap_or(Numbers::F16), sink)?,
            (From::Ggml(tensors, _, _), None) => write::copy_file(tensors, sink)?,
            (From::Ggml(tensors, start, planned), Some(numbers)) => {
                write::write_again(tensors, (*start, planned), numbers, sink)?;
            }
        }
        self.tensors().files.iter().try_for_each(Opened::check_unchanged)
    }

    fn tensors(&self) -> &Tensors {
        match &self.from {
            From::Other(source) => &source.tensors,
            From::Ggml(tensors, _, _) => tensors,
        }
    }

    fn record(&self, made: &Made<'_>, sink: &Sink<'_>) -> Result<Record, ModelError> {
        let weights = self.tensors().files.iter().map(|file| &file.path);
        let (form, heads, beside) = match &self.from {
            From::Other(source) => (source.form, source.heads.clone(), source.files.as_slice()),
            From::Ggml(tensors, _, _) => {
                // What was imported before knows its heads already.
                let before = tensors.files.first().and_then(|file| Record::of(&file.path));
                ("ggml", before.and_then(|record| record.alignment_heads), [].as_slice())
            }
        };
        let header = made.header;
        let heads = heads.filter(|heads| record::fit(heads, header.decoder_layers, header.text_heads));
        let read = |path: &PathBuf| {
            let (sha256, bytes) = write::sum(path)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok(record::Read { name, bytes, sha256 })
        };
        let file = File::open(sink.path()).map_err(ModelError::io(sink.path()))?;
        Ok(Record {
            name: made.name.to_owned(),
            source: made.origin.to_owned(),
            form: form.to_owned(),
            files: weights.chain(beside).map(read).collect::<Result<_, ModelError>>()?,
            numbers: header.numbers.to_owned(),
            languages: header.languages(),
            alignment_heads: heads,
            bytes: sink.written(),
            sha256: made.sha256.clone(),
            fingerprint: fingerprint(file).map_err(ModelError::io(sink.path()))?,
            imported_at: jiff::Timestamp::now().to_string(),
            made_by: concat!("whisperwire ", env!("CARGO_PKG_VERSION")).to_owned(),
        })
    }
}

impl Spec {
    /// What an imported model is to be called: a name of the catalogue, or a plain one that means nothing else.
    fn for_import(name: &str) -> Result<Self, ModelError> {
        let name = name.trim();
        let refuse = |why: &str| Err(ModelError::BadName { name: name.to_owned(), why: why.to_owned() });
        if let Some(entry) = find(name) {
            return Ok(Self::Catalogue(entry));
        }
        if !is_plain(name) {
            return refuse(
                "letters, digits, dots, dashes and underscores make a name, and it begins with no dot",
            );
        }
        if super::is_reserved(name) {
            return refuse("it means something else already");
        }
        Ok(Self::Own(name.to_owned()))
    }

    /// The same, by where it comes from: its folder if it is called like all others of its form, or its repository
    /// if it lies in the cache of Hugging Face's own tools.
    fn for_import_of(source: &Path, weights: &Path) -> Result<Self, ModelError> {
        let source = fs::canonicalize(source).unwrap_or_else(|_| source.to_path_buf());
        let last = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let folder = if source.is_dir() { source.as_path() } else { source.parent().unwrap_or(&source) };
        let snapshots = folder.parent().filter(|parent| last(parent) == "snapshots");
        let repository = snapshots.and_then(Path::parent).map(last);
        if let Some(repository) = repository.as_deref().and_then(|name| name.strip_prefix("models--")) {
            let name = repository.replacen("--", "/", 1);
            if let Ok(spec @ (Self::Catalogue(_) | Self::Repo(_))) = name.parse() {
                return Ok(spec);
            }
        }
        let usual = last(weights).starts_with("model");
        let name = if source.is_dir() || usual { last(folder) } else { super::stem(weights) };
        Self::for_import(&name).map_err(|error| match error {
            ModelError::BadName { name, why } => {
                ModelError::BadName { name, why: format!("{why}; give one with --name") }
            }
            error => error,
        })
    }
}

/// A sentence about a file that cannot be imported.
fn bad(path: &Path, reason: impl std::fmt::Display) -> ModelError {
    ModelError::NotImportable { path: path.to_path_buf(), reason: reason.to_string() }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
