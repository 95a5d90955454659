//! The form of Hugging Face's transformers: safetensors, in one file or in shards, with `config.json` beside them.
//!
//! The head of a safetensors file is a JSON table of names, types, sizes and places. It is read here, because the
//! crate of that name wants the whole file in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::super::ModelError;
use super::bad;
use super::files::{is_plain, read_json};
use super::layout::{Shape, in_transformers, plan};
use super::source::{Located, Source};
use super::tensors::{Kind, Opened, Stored, Tensors};
use super::tokens;

/// No table of contents of a Whisper model is longer; the format itself allows more.
const LONGEST_TABLE: u64 = 16 << 20;
/// More shards than any model has.
const MOST_SHARDS: usize = 512;

/// `config.json`, as far as it decides anything here.
#[derive(Deserialize)]
struct Config {
    model_type: String,
    vocab_size: u32,
    num_mel_bins: u32,
    d_model: u32,
    encoder_layers: u32,
    encoder_attention_heads: u32,
    encoder_ffn_dim: Option<u32>,
    decoder_layers: u32,
    decoder_attention_heads: u32,
    decoder_ffn_dim: Option<u32>,
    #[serde(default = "positions")]
    max_source_positions: u32,
    #[serde(default = "tokens")]
    max_target_positions: u32,
}

fn positions() -> u32 {
    1500
}

fn tokens() -> u32 {
    448
}

/// `generation_config.json`, as far as it decides anything here.
#[derive(Default, Deserialize)]
struct Generation {
    alignment_heads: Option<Vec<(u32, u32)>>,
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The shards that an index names. They lie beside it.
pub(super) fn shards(index: &Path) -> Result<BTreeSet<String>, ModelError> {
    let Index { weight_map } = read_json(index)?;
    let shards: BTreeSet<String> = weight_map.into_values().collect();
    if shards.is_empty() || shards.len() > MOST_SHARDS {
        return Err(bad(index, format!("it names {} shards", shards.len())));
    }
    match shards.iter().find(|name| !is_plain(name) || !name.ends_with(".safetensors")) {
        Some(name) => Err(bad(index, format!("it names the shard {name:?}, which is no file beside it"))),
        None => Ok(shards),
    }
}

/// Opens a model whose weights are `weights`: a safetensors file, or the index of several.
pub(super) fn open(weights: &Path) -> Result<Source, ModelError> {
    let folder = weights.parent().unwrap_or(Path::new(""));
    let path = folder.join("config.json");
    let config: Config = read_json(&path)?;
    if config.model_type != "whisper" {
        return Err(bad(
            &path,
            format!("it is of a model of the type {:?} and not of Whisper", config.model_type),
        ));
    }
    let shape = Shape {
        vocab: config.vocab_size,
        audio_ctx: config.max_source_positions,
        width: config.d_model,
        encoder_heads: config.encoder_attention_heads,
        encoder_layers: config.encoder_layers,
        text_ctx: config.max_target_positions,
        decoder_heads: config.decoder_attention_heads,
        decoder_layers: config.decoder_layers,
        mels: config.num_mel_bins,
    };
    let wide = |wide: Option<u32>| wide.is_none_or(|wide| u64::from(wide) == 4 * u64::from(shape.width));
    if !wide(config.encoder_ffn_dim) || !wide(config.decoder_ffn_dim) {
        return Err(bad(&path, "its feed-forward layers are not four times as wide as the others"));
    }
    super::source::check_shape(&shape, &path)?;
    let mut files = vec![path];
    let shards: Vec<PathBuf> = if weights.extension().is_some_and(|ending| ending == "json") {
        let shards = shards(weights)?;
        files.push(weights.to_path_buf());
        shards.iter().map(|shard| folder.join(shard)).collect()
    } else {
        vec![weights.to_path_buf()]
    };
    let mut tensors = Tensors::default();
    for path in &shards {
        if !path.is_file() {
            return Err(bad(weights, format!("its shard {} is missing", path.display())));
        }
        table(path, &mut tensors)?;
    }
    let located = locate(&shape, &mut tensors, weights)?;
    let (tokens, token_files) = tokens::read(folder, shape.vocab)?;
    files.extend(token_files);
    let path = folder.join("generation_config.json");
    let heads = if path.is_file() {
        let generation: Generation = read_json(&path)?;
        files.push(path);
        generation.alignment_heads
    } else {
        None
    };
    Ok(Source { form: "safetensors", shape, tensors, located, tokens, heads, files })
}

/// Finds each tensor, and nothing that a Whisper model has not.
fn locate(shape: &Shape, tensors: &mut Tensors, weights: &Path) -> Result<Vec<Located>, ModelError> {
    // Saved without its output layer, a model has no prefix.
    let prefix = if tensors.iter().any(|(name, _)| name.starts_with("model.")) { "model." } else { "" };
    let embedding = format!("{prefix}decoder.embed_tokens.weight");
    if let Some(output) = tensors.remove("proj_out.weight") {
        match tensors.get(&embedding).cloned() {
            Some(stored) if tensors.are_equal(&stored, &output)? => {}
            Some(_) => {
                return Err(bad(weights, "its output layer is not its embedding, as it is in Whisper"));
            }
            None => drop(tensors.add(embedding, output)),
        }
    }
    let biases: Vec<String> =
        tensors.iter().map(|(name, _)| name.clone()).filter(|name| name.ends_with(".k_proj.bias")).collect();
    for name in biases {
        if let Some(bias) = tensors.remove(&name)
            && !tensors.are_zero(&bias, 0..bias.values())?
        {
            return Err(bad(weights, format!("{name} is not zero, and Whisper's keys have no bias")));
        }
    }
    let located: Vec<Located> = plan(shape)
        .into_iter()
        .map(|planned| Located {
            variable: format!("{prefix}{}", in_transformers(&planned.name)),
            part: 0,
            parts: 1,
            planned,
        })
        .collect();
    super::source::check_tensors(tensors, &located, weights)?;
    Ok(located)
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Reads the table of contents of a file.
fn table(path: &Path, tensors: &mut Tensors) -> Result<(), ModelError> {
    let mut opened = Opened::open(path)?;
    let mut size = [0; 8];
    if opened.length < 8 {
        return Err(bad(path, "it is not a safetensors file"));
    }
    opened.read_at(0, &mut size)?;
    let size = u64::from_le_bytes(size);
    if size > LONGEST_TABLE || size > opened.length - 8 {
        return Err(match super::super::inspect(path) {
            Err(named @ ModelError::NotAModel { .. }) if !size.to_le_bytes().ends_with(&[0]) => named,
            _ => bad(path, "it is incomplete, or no safetensors file"),
        });
    }
    let mut json = vec![0; size as usize];
    opened.read_at(8, &mut json)?;
    let damaged = |why: String| bad(path, format!("its table of contents is damaged: {why}"));
    let mut table: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&json).map_err(|error| damaged(error.to_string()))?;
    drop(json);
    table.remove("__metadata__");
    let (start, length) = (8 + size, opened.length - 8 - size);
    tensors.files.push(opened);
    for (name, entry) in table {
        let Entry { dtype, shape, data_offsets: (from, to) } =
            serde_json::from_value(entry).map_err(|error| damaged(error.to_string()))?;
        let kind = match dtype.as_str() {
            "F32" => Kind::F32,
            "F16" => Kind::F16,
            "BF16" => Kind::Bf16,
            _ => Kind::Other,
        };
        if to > length {
            return Err(bad(path, format!("it is incomplete: it ends within {name:?}")));
        }
        let values = shape.iter().try_fold(1_u64, |product, size| product.checked_mul(*size));
        let bytes = values.and_then(|values| values.checked_mul(kind.bytes()));
        if kind != Kind::Other && (from > to || bytes != Some(to - from)) {
            return Err(damaged(format!("{name:?} has an impossible size")));
        }
        if shape.len() > 8 {
            return Err(damaged(format!("{name:?} has {} dimensions", shape.len())));
        }
        let stored = Stored {
            file: tensors.files.len() - 1,
            at: start + from.min(to),
            kind,
            sizes: shape,
            scale: None,
        };
        if !tensors.add(name.clone(), stored) {
            return Err(damaged(format!("{name:?} is there twice")));
        }
    }
    Ok(())
}
