//! A repository of the hub as a model: what it holds is looked at, and what is needed is downloaded and imported.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::super::hub::Source;
use super::super::{HubConfig, ModelError, Progress, Spec, download};
use super::{Choice, Order, Weights, choose, is_plain, make, safetensors};

/// What a repository holds, as the hub's API tells it.
#[derive(Deserialize)]
struct Listing {
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// Where the files of a repository are kept until they are imported.
pub(in super::super) const WORKSHOP: &str = ".import";

/// Brings a repository's model: its ggml file if it holds one, else one made of what it holds. Returns its path, and
/// what it is.
pub(in super::super) fn pull(
    repo: &str,
    hub: &HubConfig,
    progress: &mut dyn Progress,
) -> Result<(PathBuf, Spec), ModelError> {
    let spec = Spec::Repo(repo.to_owned());
    let target = spec.place(hub).ok_or(ModelError::NotOneModel)?;
    if hub.offline {
        return Err(ModelError::NotCached { name: repo.to_owned(), path: target });
    }
    // Whoever comes second finds what the first has brought.
    let _lock = download::Lock::wait(&target)?;
    if target.is_file() {
        return Ok((target, spec));
    }
    let json = hub.listing(repo)?;
    let listing: Listing = serde_json::from_slice(&json).map_err(|_| ModelError::Answer {
        name: repo.to_owned(),
        reason: "it is not the list of files that was asked for".to_owned(),
    })?;
    // Whatever lies in folders is something else.
    let names: Vec<String> = listing.siblings.into_iter().map(|file| file.rfilename).collect();
    let names: Vec<String> = names.into_iter().filter(|name| is_plain(name)).collect();
    let ggml: Vec<&String> =
        names.iter().filter(|name| name.contains("ggml") && name.ends_with(".bin")).collect();
    match ggml.as_slice() {
        [] => {}
        [file] => {
            let source = Source { repo, file, sha256: None };
            let path = hub.cached(&source).map_or_else(|| hub.fetch(&source, progress), Ok)?;
            return Ok((path, Spec::Hub { repo: repo.to_owned(), file: (*file).clone() }));
        }
        several => {
            let files = several.iter().map(|file| file.as_str()).collect::<Vec<_>>().join(", ");
            return Err(ModelError::SeveralFiles { repo: repo.to_owned(), files });
        }
    }
    let folder = target.with_file_name(WORKSHOP);
    let fetched = fetch(repo, names, &folder, hub, progress);
    let made = fetched.and_then(|weights| {
        let origin = format!("{}/{repo}", hub.endpoint.trim().trim_end_matches('/'));
        make(&weights, &Order { spec: &spec, origin, numbers: None }, hub, progress)
    });
    // What has come of a broken download is kept for the next attempt; what cannot be used is of no use to it.
    if !matches!(made, Err(ModelError::Broken { .. } | ModelError::Unreachable { .. })) {
        drop(fs::remove_dir_all(&folder));
    }
    made.map(|path| (path, spec))
}

/// Downloads what is needed.
fn fetch(
    repo: &str,
    names: Vec<String>,
    folder: &Path,
    hub: &HubConfig,
    progress: &mut dyn Progress,
) -> Result<Weights, ModelError> {
    let mut bring = |file: &str| {
        let target = folder.join(file);
        let source = Source { repo, file, sha256: None };
        if target.is_file() { Ok(target) } else { hub.fetch_to(&source, &target, &|_| Ok(()), progress) }
    };
    let choice = choose(names.clone());
    let beside: &[&str] = match &choice {
        Choice::Transformers(_) => {
            &["config.json", "generation_config.json", "tokenizer.json", "vocab.json", "added_tokens.json"]
        }
        Choice::CTranslate2(_) => &["config.json", "tokenizer.json", "vocabulary.json", "vocabulary.txt"],
        Choice::Ggml(_) => &[],
        Choice::None(_) => &[],
    };
    // The small ones first: they may show that the large ones are not worth it.
    for name in beside.iter().filter(|name| names.iter().any(|has| has == *name)) {
        bring(name)?;
    }
    match choice {
        Choice::Transformers(name) if name.ends_with(".json") => {
            let index = bring(&name)?;
            for shard in safetensors::shards(&index)? {
                bring(&shard)?;
            }
            Ok(Weights::Safetensors(index))
        }
        Choice::Transformers(name) => Ok(Weights::Safetensors(bring(&name)?)),
        Choice::CTranslate2(name) => Weights::of_file(bring(&name)?),
        Choice::Ggml(_) => Err(ModelError::NotOneModel),
        Choice::None(why) => Err(ModelError::Answer { name: repo.to_owned(), reason: why }),
    }
}
