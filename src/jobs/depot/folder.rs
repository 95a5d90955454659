//! Recordings in a folder.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Seek};
use std::path::{Path, PathBuf};

pub(in crate::jobs) struct Folder(PathBuf);

impl Folder {
    /// A folder, which is made if need be.
    pub(super) fn open(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    /// Keeps a copy of a recording.
    pub(super) fn put(&self, id: &str, mut recording: File) -> io::Result<()> {
        let part = self.0.join(format!("{id}.part"));
        let kept = (|| {
            recording.rewind()?;
            let mut copy = File::create(&part)?;
            io::copy(&mut recording, &mut copy)?;
            copy.sync_all()?;
            fs::rename(&part, self.place(id))?;
            sync_folder(&self.0)
        })();
        if kept.is_err() {
            drop(fs::remove_file(&part));
        }
        kept
    }

    /// Opens a recording.
    pub(super) fn get(&self, id: &str) -> io::Result<File> {
        File::open(self.place(id))
    }

    /// Forgets a recording, if there is one.
    pub(super) fn remove(&self, id: &str) -> io::Result<()> {
        match fs::remove_file(self.place(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// What is in it, half recordings included, by the names of their files.
    pub(super) fn names(&self) -> io::Result<HashSet<String>> {
        fs::read_dir(&self.0)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn place(&self, id: &str) -> PathBuf {
        self.0.join(id)
    }
}

/// A name is safe once its folder is.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}
