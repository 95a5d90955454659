//! The form of CTranslate2, as faster-whisper uses it: `model.bin`, with `config.json` and a vocabulary beside it.
//!
//! Queries, keys and values lie stacked in one variable. Quantised variables are whole numbers, with a scale for each
//! row in a variable of their own.

use std::io::{BufReader, Read, Seek};
use std::path::Path;

use serde::Deserialize;

use super::super::ModelError;
use super::bad;
use super::files::read_json;
use super::layout::{Shape, in_ctranslate2, plan};
use super::source::{Located, Source, check_shape, check_tensors};
use super::tensors::{Kind, Opened, Stored, Tensors};
use super::tokens;

/// The versions of the file that have variables with types and aliases, as they are read here.
const VERSIONS: std::ops::RangeInclusive<u32> = 5..=6;
/// More variables than any model has.
const MOST_VARIABLES: u32 = 1 << 14;

/// `config.json`, as far as it decides anything here.
#[derive(Default, Deserialize)]
struct Config {
    alignment_heads: Option<Vec<(u32, u32)>>,
}

/// Whether a file begins as one of CTranslate2 does.
pub(super) fn is_one(path: &Path) -> bool {
    let mut head = [0; 4];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && (1..=1000).contains(&u32::from_le_bytes(head))
}

/// Opens a model whose weights are `weights`, a `model.bin`.
pub(super) fn open(weights: &Path) -> Result<Source, ModelError> {
    let folder = weights.parent().unwrap_or(Path::new(""));
    let mut tensors = Tensors::default();
    variables(weights, &mut tensors)?;
    let shape = shape(&mut tensors, weights)?;
    check_shape(&shape, weights)?;
    let located = locate(&shape, &mut tensors, weights)?;
    let (tokens, mut files) = tokens::read(folder, shape.vocab)?;
    let path = folder.join("config.json");
    let heads = if path.is_file() {
        let config: Config = read_json(&path)?;
        files.push(path);
        config.alignment_heads
    } else {
        None
    };
    Ok(Source { form: "CTranslate2", shape, tensors, located, tokens, heads, files })
}

/// The shape is that of the variables: there is no other word on it.
fn shape(tensors: &mut Tensors, path: &Path) -> Result<Shape, ModelError> {
    let sizes = |name: &str, dimensions: usize| -> Result<Vec<u32>, ModelError> {
        let stored = tensors.get(name).filter(|stored| stored.sizes.len() == dimensions);
        let sizes =
            stored.and_then(|stored| stored.sizes.iter().map(|size| u32::try_from(*size).ok()).collect());
        sizes.ok_or_else(|| bad(path, format!("it is not a Whisper model: it has no fitting {name}")))
    };
    let layers = |half: &str| {
        let front = format!("{half}/layer_");
        let layer = |name: &String| name.strip_prefix(&front)?.split('/').next()?.parse::<u32>().ok();
        tensors.iter().filter_map(|(name, _)| layer(name)).max().map_or(0, |last| last.saturating_add(1))
    };
    let positions = sizes("encoder/position_encodings/encodings", 2)?;
    let text = sizes("decoder/position_encodings/encodings", 2)?;
    let mels = sizes("encoder/conv1/weight", 3)?[1];
    let vocab = sizes("decoder/embeddings/weight", 2)?[0];
    let (encoder_layers, decoder_layers) = (layers("encoder"), layers("decoder"));
    let width = positions[1];
    let mut heads = |half: &str| -> Result<u32, ModelError> {
        let Some(stored) = tensors.get(&format!("{half}/num_heads")).cloned() else { return Ok(width / 64) };
        let mut number = vec![0; stored.kind.bytes() as usize];
        tensors.files[stored.file].read_at(stored.at, &mut number)?;
        number.resize(4, 0);
        Ok(u32::from_le_bytes([number[0], number[1], number[2], number[3]]))
    };
    Ok(Shape {
        vocab,
        audio_ctx: positions[0],
        width,
        encoder_heads: heads("encoder")?,
        encoder_layers,
        text_ctx: text[0],
        decoder_heads: heads("decoder")?,
        decoder_layers,
        mels,
    })
}

fn locate(shape: &Shape, tensors: &mut Tensors, path: &Path) -> Result<Vec<Located>, ModelError> {
    if let (Some(output), Some(embedding)) =
        (tensors.remove("decoder/projection/weight"), tensors.get("decoder/embeddings/weight").cloned())
        && !tensors.are_equal(&embedding, &output)?
    {
        return Err(bad(path, "its output layer is not its embedding, as it is in Whisper"));
    }
    tensors.remove("decoder/projection/weight_scale");
    let located: Vec<Located> = plan(shape)
        .into_iter()
        .map(|planned| {
            let (variable, part, parts) = in_ctranslate2(&planned.name);
            Located { variable, part, parts, planned }
        })
        .collect();
    check_tensors(tensors, &located, path)?;
    // Keys have no bias in Whisper, and there is room for one here.
    for key in located.iter().filter(|located| located.planned.name.ends_with(".key.weight")) {
        let name = key.variable.replace("/weight", "/bias");
        let Some(bias) = tensors.get(&name).cloned() else { continue };
        let size = bias.values() / key.parts;
        if !tensors.are_zero(&bias, key.part * size..(key.part + 1) * size)? {
            return Err(bad(path, format!("{name} has a bias for keys, and Whisper's keys have none")));
        }
    }
    Ok(located)
}

/// Reads the names, types and places of all variables.
fn variables(path: &Path, tensors: &mut Tensors) -> Result<(), ModelError> {
    let opened = Opened::open(path)?;
    let (file, length) = (opened.file.try_clone().map_err(ModelError::io(path))?, opened.length);
    tensors.files.push(opened);
    let mut reader = Variables { reader: BufReader::new(file), at: 0, length, path };
    let version = reader.u32()?;
    if !VERSIONS.contains(&version) {
        return Err(bad(path, format!("it is a CTranslate2 model of version {version}, or none at all")));
    }
    let name = reader.text()?;
    if name != "WhisperSpec" {
        return Err(bad(path, format!("it is a CTranslate2 model of the kind {name:?} and not of Whisper")));
    }
    reader.u32()?;
    let count = reader.u32()?;
    if count > MOST_VARIABLES {
        return Err(bad(path, format!("it is damaged: it says that it has {count} variables")));
    }
    for _ in 0..count {
        let (name, mut stored) = reader.variable()?;
        stored.file = tensors.files.len() - 1;
        if !tensors.add(name.clone(), stored) {
            return Err(bad(path, format!("it is damaged: {name:?} is there twice")));
        }
    }
    let aliases = reader.u32()?;
    if aliases > MOST_VARIABLES {
        return Err(bad(path, format!("it is damaged: it says that it has {aliases} aliases")));
    }
    for _ in 0..aliases {
        let (alias, name) = (reader.text()?, reader.text()?);
        let Some(stored) = tensors.get(&name).cloned() else {
            return Err(bad(
                path,
                format!("it is damaged: {alias:?} stands for {name:?}, which is not there"),
            ));
        };
        if !tensors.add(alias.clone(), stored) {
            return Err(bad(path, format!("it is damaged: {alias:?} is there twice")));
        }
    }
    Ok(())
}

struct Variables<'a, R> {
    reader: BufReader<R>,
    at: u64,
    length: u64,
    path: &'a Path,
}

impl<R: Read + Seek> Variables<'_, R> {
    fn variable(&mut self) -> Result<(String, Stored), ModelError> {
        let name = self.text()?;
        let impossible = |path: &Path| bad(path, format!("it is damaged: {name:?} has an impossible size"));
        let rank = self.number::<1>()?[0];
        if rank > 8 {
            return Err(impossible(self.path));
        }
        let sizes = (0..rank).map(|_| Ok(self.u32()?.into())).collect::<Result<Vec<u64>, ModelError>>()?;
        let kind = match self.number::<1>()?[0] {
            0 => Kind::F32,
            1 => Kind::I8,
            2 => Kind::I16,
            4 => Kind::F16,
            5 => Kind::Bf16,
            _ => Kind::Other,
        };
        let bytes = u64::from(self.u32()?);
        let values = sizes.iter().try_fold(1_u64, |product, size| product.checked_mul(*size));
        let wanted = values.and_then(|values| values.checked_mul(kind.bytes()));
        if kind != Kind::Other && wanted != Some(bytes) {
            return Err(impossible(self.path));
        }
        let at = self.at;
        self.room(bytes)?;
        self.reader.seek_relative(bytes.cast_signed()).map_err(ModelError::io(self.path))?;
        self.at += bytes;
        let scale = matches!(kind, Kind::I8 | Kind::I16).then(|| format!("{name}_scale"));
        Ok((name, Stored { file: 0, at, kind, sizes, scale }))
    }

    /// A length, the letters and a NUL, which the length counts.
    fn text(&mut self) -> Result<String, ModelError> {
        let length = u16::from_le_bytes(self.number()?);
        self.room(length.into())?;
        let mut letters = vec![0; length.into()];
        self.reader.read_exact(&mut letters).map_err(ModelError::io(self.path))?;
        self.at += u64::from(length);
        while letters.last() == Some(&0) {
            letters.pop();
        }
        String::from_utf8(letters).map_err(|_| bad(self.path, "it is damaged: a name in it is no text"))
    }

    fn u32(&mut self) -> Result<u32, ModelError> {
        Ok(u32::from_le_bytes(self.number()?))
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], ModelError> {
        self.room(N as u64)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(ModelError::io(self.path))?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn room(&self, bytes: u64) -> Result<(), ModelError> {
        if bytes > self.length - self.at {
            return Err(bad(self.path, format!("it is incomplete: it ends after {} bytes", self.length)));
        }
        Ok(())
    }
}
