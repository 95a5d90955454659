//! The recordings of jobs that are not over, each under the id of its job: in a folder, or in a bucket that several
//! servers reach.
//!
//! Contract: what was put in is there after a crash, and half a recording never stands under its id. Blocks.

mod bucket;
mod folder;

use std::collections::HashSet;
use std::fs::File;
use std::io;

use self::bucket::Bucket;
pub use self::bucket::BucketConfig;
use self::folder::Folder;

/// Where recordings wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DepotConfig {
    /// In a folder of this machine, or one that several have mounted.
    Folder(std::path::PathBuf),
    /// In a bucket of an S3-shaped service.
    Bucket(BucketConfig),
}

/// Where recordings wait.
pub(super) enum Depot {
    Folder(Folder),
    Bucket(Box<Bucket>),
}

impl Depot {
    /// Makes a folder if need be. A bucket must be there.
    pub(super) fn open(config: DepotConfig) -> io::Result<Self> {
        Ok(match config {
            DepotConfig::Folder(folder) => Self::Folder(Folder::open(folder)?),
            DepotConfig::Bucket(config) => Self::Bucket(Box::new(Bucket::new(config)?)),
        })
    }

    /// Keeps a copy of a recording.
    pub(super) fn put(&self, id: &str, recording: File) -> io::Result<()> {
        match self {
            Self::Folder(folder) => folder.put(id, recording),
            Self::Bucket(bucket) => bucket.put(id, recording),
        }
    }

    /// Opens a recording; a copy that has no name, if it is far away.
    pub(super) fn get(&self, id: &str) -> io::Result<File> {
        match self {
            Self::Folder(folder) => folder.get(id),
            Self::Bucket(bucket) => bucket.get(id),
        }
    }

    /// Forgets a recording, if there is one.
    pub(super) fn remove(&self, id: &str) -> io::Result<()> {
        match self {
            Self::Folder(folder) => folder.remove(id),
            Self::Bucket(bucket) => bucket.remove(id),
        }
    }

    /// What is in a folder, half recordings included, by the names of the files. A bucket is not looked through: it
    /// has rules of its own for what is old.
    pub(super) fn names(&self) -> io::Result<HashSet<String>> {
        match self {
            Self::Folder(folder) => folder.names(),
            Self::Bucket(_) => Ok(HashSet::new()),
        }
    }
}
