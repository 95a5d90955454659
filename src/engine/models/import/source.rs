//! A model in a foreign form, opened and understood.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::super::{ModelError, header};
use super::bad;
use super::layout::{Planned, Shape};
use super::tensors::{Kind, Tensors};

/// A model whose tensors are all there and have the right sizes.
pub(super) struct Source {
    /// What to call the form in front of people.
    pub(super) form: &'static str,
    pub(super) shape: Shape,
    pub(super) tensors: Tensors,
    /// In the order in which they are to be written.
    pub(super) located: Vec<Located>,
    /// The text of each token, those that stand for text only.
    pub(super) tokens: Vec<Vec<u8>>,
    /// The attention heads that give words their times, by layer and head, as far as the source names them.
    pub(super) heads: Option<Vec<(u32, u32)>>,
    /// The small files that were read beside the weights.
    pub(super) files: Vec<PathBuf>,
}

/// A tensor, and where it is.
pub(super) struct Located {
    pub(super) planned: Planned,
    /// Its name in the source.
    pub(super) variable: String,
    /// Which part of the variable it is,
    pub(super) part: u64,
    /// and of how many, one above the other.
    pub(super) parts: u64,
}

/// Whether the engine knows models of this shape.
pub(super) fn check_shape(shape: &Shape, path: &Path) -> Result<(), ModelError> {
    header::shape(shape.head(1)).map(drop).map_err(|reason| bad(path, reason))
}

/// Whether all tensors are there with the right sizes, and no others.
pub(super) fn check_tensors(tensors: &Tensors, located: &[Located], path: &Path) -> Result<(), ModelError> {
    let mut used = HashSet::new();
    for Located { planned, variable, parts, .. } in located {
        let Some(stored) = tensors.get(variable) else {
            return Err(bad(path, format!("it is incomplete: {variable} is missing")));
        };
        let mut wanted = planned.sizes.clone();
        wanted[0] *= parts;
        // The biases of the convolutions have two dimensions in a ggml file alone.
        if wanted.last() == Some(&1) {
            wanted.pop();
        }
        if stored.sizes != wanted {
            let found = &stored.sizes;
            return Err(bad(
                path,
                format!("{variable} has the size {found:?}, and its shape asks for {wanted:?}"),
            ));
        }
        if stored.kind == Kind::Other {
            return Err(bad(path, format!("{variable} is written in numbers that are not supported")));
        }
        used.insert(variable.as_str());
        used.extend(stored.scale.as_deref());
    }
    let strange = tensors.iter().find(|(name, stored)| {
        !stored.sizes.is_empty() && stored.kind != Kind::Other && !used.contains(name.as_str())
    });
    match strange {
        Some((name, _)) => {
            Err(bad(path, format!("it holds {name:?}, which a Whisper model of its shape has not")))
        }
        None => Ok(()),
    }
}
