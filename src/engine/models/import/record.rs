//! Where an imported model came from: `FILE.json` beside it.
//!
//! A record belongs to the file whose fingerprint it names, and to no other that may come to lie there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::catalogue::{AlignmentHeads, Head};
use super::super::{Header, ModelError, fingerprint};
use super::files::read_json;

/// What is known about an imported model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What it is called here.
    pub name: String,
    /// The folder or file it was made from, or its address on the hub.
    pub source: String,
    /// The form of that: `safetensors`, `CTranslate2` or `ggml`.
    pub form: String,
    /// The files that were read.
    pub files: Vec<Read>,
    /// How the weights are written here.
    pub numbers: String,
    /// How many languages it understands: the first of Whisper's table.
    pub languages: usize,
    /// The attention heads that give words their times, by layer and head; those of the published model of its shape
    /// where the source names none.
    pub alignment_heads: Option<Vec<(u32, u32)>>,
    /// How large the model is, in bytes.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: String,
    /// A hash of samples of it, by which the server knows the file again.
    pub fingerprint: String,
    /// When it was made, in RFC 3339's form.
    pub imported_at: String,
    /// The program that made it.
    pub made_by: String,
}

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Read {
    /// Its name.
    pub name: String,
    /// How large it is.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: String,
}

impl Record {
    /// Where the record of a model lies.
    pub(in super::super) fn place(model: &Path) -> PathBuf {
        let mut name = model.as_os_str().to_owned();
        name.push(".json");
        PathBuf::from(name)
    }

    /// The record of a model, if there is one and it is of this very file.
    pub(in super::super) fn of(model: &Path) -> Option<Self> {
        let place = Self::place(model);
        if !place.is_file() {
            return None;
        }
        let record: Self = read_json(&place).ok()?;
        let file = File::open(model).ok()?;
        let same =
            file.metadata().ok()?.len() == record.bytes && fingerprint(file).ok()? == record.fingerprint;
        same.then_some(record)
    }

    /// Writes it down beside the model.
    pub(super) fn write(&self, model: &Path) -> Result<(), ModelError> {
        let place = Self::place(model);
        let json = serde_json::to_vec_pretty(self).unwrap_or_default();
        fs::write(&place, json).map_err(ModelError::io(&place))
    }

    /// The heads that the source named, if a model of this shape has them.
    pub(in super::super) fn heads(&self, header: &Header) -> Option<AlignmentHeads> {
        let heads = self.alignment_heads.as_deref()?;
        fit(heads, header.decoder_layers, header.text_heads).then(|| {
            let heads = heads.iter().map(|(layer, head)| Head { layer: *layer, head: *head });
            AlignmentHeads::Listed(heads.collect())
        })
    }
}

/// Whether a model has all of these heads. Distilled models often carry the list of their teacher, which has more
/// layers: such a list says nothing about them.
pub(super) fn fit(heads: &[(u32, u32)], layers: u32, heads_per_layer: u32) -> bool {
    let most = u64::from(layers) * u64::from(heads_per_layer);
    !heads.is_empty()
        && heads.len() as u64 <= most
        && heads.iter().all(|(layer, head)| *layer < layers && *head < heads_per_layer)
}
