//! The recordings of the repository, what is said in them, and what ffmpeg makes of them.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::Value;
use whisperwire::audio::{FileDecoder, FileOptions};

use crate::sound::run_ffmpeg;

/// Where a recording of the repository is.
pub(crate) fn recording_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/audio").join(name)
}

/// A recording of the repository.
pub(crate) fn recording(name: &str) -> Vec<u8> {
    std::fs::read(recording_path(name)).expect("a recording of the repository")
}

/// The samples of a recording of the repository.
pub(crate) fn samples(name: &str) -> Vec<f32> {
    let file = File::open(recording_path(name)).expect("a recording of the repository");
    let mut decoder = FileDecoder::open(file, &FileOptions::default()).expect("a recording");
    let mut pcm = Vec::new();
    while decoder.read(&mut pcm).expect("a whole recording") {}
    pcm
}

/// The recordings of the repository, as their manifest describes them.
pub(crate) fn manifest() -> Vec<Value> {
    let text = std::fs::read_to_string(recording_path("manifest.json")).expect("a manifest");
    serde_json::from_str(&text).expect("a manifest of JSON")
}

/// What ffmpeg makes of a file, with these arguments and for this extension.
pub(crate) fn ffmpeg(input: &[u8], arguments: &[&str], extension: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("input");
    std::fs::write(&source, input).expect("room for a file");
    let made = run_ffmpeg(&["-i", source.to_str().expect("a plain path")], arguments, extension);
    folder.close().expect("the folder can go");
    made
}
