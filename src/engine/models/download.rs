//! Brings a file of the hub into the cache.
//!
//! Contract: a download goes into `FILE.part` beside the target and gets its final name only when its size, its
//! SHA-256 (as the hub and the catalogue name it) and its header are right, so that a file under its final name is
//! whole. A broken connection is taken up again where it broke, in the same run or in the next. One process at a
//! time downloads a file; the others wait for it and then use what it brought.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use ureq::http::header::CONTENT_LENGTH;

use super::hub::{Fault, HubConfig, Progress, Source, content_range, odd, text};
use super::{ModelError, inspect};

/// Attempts that bring this much do not count as failed.
const WORTHWHILE: u64 = 1 << 20;
/// No model is larger; a hub that sends more is sending something else.
const LARGEST: u64 = 32 << 30;

impl HubConfig {
    /// Downloads a file, or waits for another process that is doing so, and returns its path.
    pub(super) fn fetch(
        &self,
        source: &Source<'_>,
        progress: &mut dyn Progress,
    ) -> Result<PathBuf, ModelError> {
        let target = self.target(source);
        self.fetch_to(source, &target, &|path| inspect(path).map(drop), progress)
    }

    /// Downloads a file to a place. It gets its name if `check` finds nothing wrong with it.
    pub(super) fn fetch_to(
        &self,
        source: &Source<'_>,
        target: &Path,
        check: Check<'_>,
        progress: &mut dyn Progress,
    ) -> Result<PathBuf, ModelError> {
        let (name, target) = (source.name(), target.to_path_buf());
        if self.offline {
            return Err(ModelError::NotCached { name, path: target });
        }
        let lock = Lock::wait(&target)?;
        if target.is_file() {
            return Ok(target);
        }
        let mut download = Download { hub: self, source, name, part: Part::open(&lock.part)?, progress };
        let offered = download.insist()?;
        download.check(offered.as_deref(), check)?;
        let Download { name, part, .. } = download;
        part.settle(&target)?;
        progress.finished(&name);
        Ok(target)
    }
}

/// The last look at what was downloaded.
type Check<'a> = &'a dyn Fn(&Path) -> Result<(), ModelError>;

/// One file on its way.
struct Download<'a> {
    hub: &'a HubConfig,
    source: &'a Source<'a>,
    name: String,
    part: Part,
    progress: &'a mut dyn Progress,
}

impl Download<'_> {
    /// Tries until the part is as long as it should be, or until nothing comes any more. Returns the hub's sum.
    fn insist(&mut self) -> Result<Option<String>, ModelError> {
        let patience = self.hub.patience;
        let before = self.part.length;
        let (mut failed, mut mark) = (0, before);
        loop {
            let reason = match self.attempt() {
                Ok(sum) => return Ok(sum),
                Err(Fault::Final(ModelError::Unreachable { reason, .. })) => {
                    return Err(self.hub.unreachable(&self.name, reason));
                }
                Err(Fault::Final(error)) => return Err(error),
                Err(Fault::Passing(reason)) => reason,
            };
            if self.part.length >= mark + WORTHWHILE {
                failed = 0;
            }
            mark = self.part.length;
            failed += 1;
            if failed >= patience.attempts {
                return Err(if self.part.length > before {
                    ModelError::Broken { name: self.name.clone(), done: self.part.length, reason }
                } else {
                    self.hub.unreachable(&self.name, reason)
                });
            }
            patience.pause(failed);
        }
    }

    /// One connection's worth.
    fn attempt(&mut self) -> Result<Option<String>, Fault> {
        let (answer, promise) = self.hub.open(self.source, self.part.length)?;
        if let (Some(expected), Some(offered)) = (self.source.sha256, &promise.sha256)
            && expected != offered
        {
            let (name, expected) = (self.name.clone(), expected.to_owned());
            return Err(Fault::Final(ModelError::Changed { name, expected, offered: offered.clone() }));
        }
        let (start, whole) = content_range(answer.headers());
        let total = match answer.status().as_u16() {
            206 if start == Some(self.part.length) => promise.size.or(whole),
            206 => return self.again("it went on in another place than asked"),
            200 => {
                // The server does not do ranges, or there was nothing to go on from.
                self.part.restart()?;
                let length =
                    text(answer.headers(), CONTENT_LENGTH.as_str()).and_then(|length| length.parse().ok());
                promise.size.or(length)
            }
            416 if self.part.length > 0 && promise.size.or(whole) == Some(self.part.length) => {
                return Ok(promise.sha256);
            }
            416 => return self.again("what was here did not fit the file"),
            status @ (401 | 403) => {
                return Err(Fault::Final(ModelError::Denied { name: self.name.clone(), status }));
            }
            404 | 410 => return Err(Fault::Final(ModelError::Missing(self.name.clone()))),
            status @ (408 | 429 | 500..) => return Err(Fault::Passing(format!("status {status}"))),
            status => return Err(odd(&self.name, &format!("status {status}"))),
        };
        self.take(answer.into_body().into_reader(), total)?;
        Ok(promise.sha256)
    }

    fn take(&mut self, mut body: impl Read, total: Option<u64>) -> Result<(), Fault> {
        let mut buffer = vec![0; 1 << 16];
        self.progress.moved(&self.name, self.part.length, total);
        loop {
            let bytes = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(bytes) => &buffer[..bytes],
                Err(error) => return Err(Fault::Passing(error.to_string())),
            };
            if self.part.length + bytes.len() as u64 > total.unwrap_or(LARGEST) {
                return self.again("more came than was announced");
            }
            self.part.append(bytes)?;
            self.progress.moved(&self.name, self.part.length, total);
        }
        match total {
            Some(total) if self.part.length < total => {
                Err(Fault::Passing("the connection ended early".to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// Throws the part away, because it does not belong to what the hub has.
    fn again<T>(&mut self, reason: &str) -> Result<T, Fault> {
        self.part.restart()?;
        Err(Fault::Passing(reason.to_owned()))
    }

    /// The last look before the file gets its name. A part that fails it is of no further use.
    fn check(&self, offered: Option<&str>, look: Check<'_>) -> Result<(), ModelError> {
        let found = self.part.sum();
        let wrong = [offered, self.source.sha256].into_iter().flatten().find(|expected| *expected != found);
        let verdict = match wrong {
            Some(expected) => {
                Err(ModelError::Damaged { name: self.name.clone(), expected: expected.to_owned(), found })
            }
            None => look(&self.part.path),
        };
        if verdict.is_err() {
            fs::remove_file(&self.part.path).map_err(ModelError::io(&self.part.path))?;
        }
        verdict
    }
}

/// What has come of a file so far, and the sum of it.
struct Part {
    path: PathBuf,
    file: File,
    length: u64,
    hash: Sha256,
}

impl Part {
    /// Takes up what an earlier run left.
    fn open(path: &Path) -> Result<Self, ModelError> {
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = opened.map_err(ModelError::io(path))?;
        let mut hash = Sha256::new();
        let mut length = 0;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let bytes = file.read(&mut buffer).map_err(ModelError::io(path))?;
            if bytes == 0 {
                return Ok(Self { path: path.to_path_buf(), file, length, hash });
            }
            hash.update(&buffer[..bytes]);
            length += bytes as u64;
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), ModelError> {
        self.file.write_all(bytes).map_err(ModelError::io(&self.path))?;
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> Result<(), ModelError> {
        self.file.set_len(0).map_err(ModelError::io(&self.path))?;
        self.file.seek(SeekFrom::Start(0)).map_err(ModelError::io(&self.path))?;
        (self.length, self.hash) = (0, Sha256::new());
        Ok(())
    }

    fn sum(&self) -> String {
        self.hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// On the disk first, then the name, then the name on the disk.
    fn settle(self, target: &Path) -> Result<(), ModelError> {
        self.file.sync_all().map_err(ModelError::io(&self.path))?;
        fs::rename(&self.path, target).map_err(ModelError::io(target))?;
        #[cfg(unix)]
        if let Some(folder) = target.parent() {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(ModelError::io(folder))?;
        }
        Ok(())
    }
}

/// The right to download one file. The lock file stays behind, because removing it would let two processes hold
/// locks on two files of one name.
pub(super) struct Lock {
    /// Where the download goes.
    part: PathBuf,
    _file: File,
}

impl Lock {
    /// Waits until nobody else downloads `target`. Makes its folder.
    pub(super) fn wait(target: &Path) -> Result<Self, ModelError> {
        let lock = Self::unlocked(target)?;
        match lock._file.lock() {
            // A file system without locks is better than no download.
            Err(error) if error.kind() != std::io::ErrorKind::Unsupported => {
                Err(ModelError::io(target)(error))
            }
            _ => Ok(lock),
        }
    }

    /// `None` if somebody is downloading `target`.
    pub(super) fn try_now(target: &Path) -> Result<Option<Self>, ModelError> {
        let lock = Self::unlocked(target)?;
        let free = !matches!(lock._file.try_lock(), Err(fs::TryLockError::WouldBlock));
        Ok(free.then_some(lock))
    }

    /// Removes what is left of a broken download; true if there was something.
    pub(super) fn remove_part(&self) -> bool {
        fs::remove_file(&self.part).is_ok()
    }

    fn unlocked(target: &Path) -> Result<Self, ModelError> {
        let beside = |ending: &str| {
            let mut name = target.as_os_str().to_owned();
            name.push(ending);
            PathBuf::from(name)
        };
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).map_err(ModelError::io(folder))?;
        }
        let path = beside(".lock");
        let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        Ok(Self { part: beside(".part"), _file: opened.map_err(ModelError::io(&path))? })
    }
}
