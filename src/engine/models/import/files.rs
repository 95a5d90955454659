//! Small files beside the weights, and names of files that others have written.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::super::ModelError;
use super::bad;

/// The tokenizers of Whisper have 2 to 4 MB.
const LARGEST: u64 = 32 << 20;

/// Reads a small file whole.
pub(super) fn read_small(path: &Path) -> Result<Vec<u8>, ModelError> {
    let file = File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => bad(path, "it is missing"),
        _ => ModelError::io(path)(error),
    })?;
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(ModelError::io(path))?;
    if bytes.len() as u64 > LARGEST {
        return Err(bad(path, "it is far too large for what it should be"));
    }
    Ok(bytes)
}

/// Reads a JSON file, as far as the type asks for it.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, ModelError> {
    let bytes = read_small(path)?;
    serde_json::from_slice(&bytes).map_err(|error| {
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(64)]).trim_start().to_ascii_lowercase();
        if text.starts_with("<!doctype") || text.starts_with("<html") {
            bad(path, "it is a web page")
        } else if text.starts_with("version https://git-lfs") {
            bad(path, "it is a Git LFS pointer and not the file itself; fetch it with `git lfs pull`")
        } else {
            bad(path, format!("it is not the JSON that it should be: {error}"))
        }
    })
}

/// Whether a name is that of a file in the same folder, and of nothing else.
pub(in super::super) fn is_plain(name: &str) -> bool {
    (1..=120).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte))
}
