//! Writes a ggml file, tensor by tensor.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::super::{ModelError, Progress};
use super::layout::Planned;
use super::numbers::Numbers;
use super::source::{Located, Source};
use super::tensors::{Opened, Stored, Tensors};
use super::{bad, mel};

/// Where the head of a file says how its weights are written.
const FORMAT_AT: u64 = 44;

/// How many values are in memory at once; whole blocks of them.
const PIECE: u64 = 1 << 16;

/// A file on its way to its final name. Dropped before it has it, it is removed.
pub(super) struct Sink<'a> {
    path: PathBuf,
    out: BufWriter<File>,
    hash: Sha256,
    written: u64,
    settled: bool,
    name: &'a str,
    total: u64,
    progress: &'a mut dyn Progress,
}

impl<'a> Sink<'a> {
    /// Begins a file beside its final place. What an earlier import left that was killed is written over; one that
    /// is going on is left alone.
    pub(super) fn beside(
        target: &Path,
        name: &'a str,
        total: u64,
        progress: &'a mut dyn Progress,
    ) -> Result<Self, ModelError> {
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).map_err(ModelError::io(folder))?;
        }
        let path = unfinished(target);
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = opened.map_err(ModelError::io(&path))?;
        if matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)) {
            return Err(ModelError::Importing(name.to_owned()));
        }
        // From here on it is ours, and is removed if anything goes wrong.
        let sink = Self {
            path,
            out: BufWriter::with_capacity(1 << 18, file),
            hash: Sha256::new(),
            written: 0,
            settled: false,
            name,
            total,
            progress,
        };
        sink.out.get_ref().set_len(0).or_else(|error| match error.kind() {
            // Not a file of a disk: then it is the writing that fails.
            std::io::ErrorKind::InvalidInput => Ok(()),
            _ => Err(ModelError::io(&sink.path)(error)),
        })?;
        Ok(sink)
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<(), ModelError> {
        self.out.write_all(bytes).map_err(ModelError::io(&self.path))?;
        self.hash.update(bytes);
        self.written += bytes.len() as u64;
        self.progress.moved(self.name, self.written, Some(self.total));
        Ok(())
    }

    fn numbers(&mut self, numbers: &[u32]) -> Result<(), ModelError> {
        numbers.iter().try_for_each(|number| self.put(&number.to_le_bytes()))
    }

    /// The head of a tensor; a ggml file has the innermost dimension first.
    fn tensor(&mut self, planned: &Planned, numbers: Numbers) -> Result<(), ModelError> {
        let Planned { name, sizes } = planned;
        self.numbers(&[sizes.len() as u32, name.len() as u32, numbers.in_tensor()])?;
        let sizes: Vec<u32> = sizes.iter().rev().map(|size| *size as u32).collect();
        self.numbers(&sizes)?;
        self.put(name.as_bytes())
    }

    /// Writes out what is still in memory. The file can be looked at now; returns its SHA-256.
    pub(super) fn finish(&mut self) -> Result<String, ModelError> {
        self.out.flush().map_err(ModelError::io(&self.path))?;
        self.out.get_ref().sync_all().map_err(ModelError::io(&self.path))?;
        Ok(super::hex(self.hash.clone()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Gives the file its name. What has that name already is kept.
    pub(super) fn settle(mut self, target: &Path) -> Result<(), ModelError> {
        if target.exists() {
            return Err(ModelError::Exists { name: self.name.to_owned(), path: target.to_path_buf() });
        }
        fs::rename(&self.path, target).map_err(ModelError::io(target))?;
        self.settled = true;
        #[cfg(unix)]
        if let Some(folder) = target.parent() {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(ModelError::io(folder))?;
        }
        self.progress.finished(self.name);
        Ok(())
    }
}

impl Drop for Sink<'_> {
    fn drop(&mut self) {
        if !self.settled {
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Where a model is written until it is whole.
pub(in super::super) fn unfinished(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".import");
    PathBuf::from(name)
}

/// About how large a model of these tensors will be, in bytes.
pub(super) fn estimate<'a>(planned: impl Iterator<Item = &'a Planned>, numbers: Numbers) -> u64 {
    let tensor = |planned: &Planned| {
        numbers.of_tensor(&planned.name, planned.sizes.len()).bytes(planned.values()) + 64
    };
    600_000 + planned.map(tensor).sum::<u64>()
}

/// Writes a model of a foreign form.
pub(super) fn write(source: &mut Source, numbers: Numbers, sink: &mut Sink<'_>) -> Result<(), ModelError> {
    sink.put(b"lmgg")?;
    sink.numbers(&source.shape.head(numbers.in_head()))?;
    sink.numbers(&[source.shape.mels, mel::BINS as u32])?;
    for height in mel::filters(source.shape.mels as usize) {
        sink.put(&height.to_le_bytes())?;
    }
    sink.numbers(&[source.tokens.len() as u32])?;
    for token in &source.tokens {
        sink.numbers(&[token.len() as u32])?;
        sink.put(token)?;
    }
    for Located { planned, variable, part, parts } in &source.located {
        let stored = source.tensors.get(variable).cloned().expect("it was found when it was checked");
        let values = stored.values() / parts;
        let numbers = numbers.of_tensor(&planned.name, planned.sizes.len());
        sink.tensor(planned, numbers)?;
        copy(&mut source.tensors, &stored, part * values..(part + 1) * values, numbers, sink)?;
    }
    Ok(())
}

/// Writes a ggml file with other numbers: all but the number in the head and the tensors stays as it is.
pub(super) fn write_again(
    tensors: &mut Tensors,
    (start, planned): (u64, &[Planned]),
    numbers: Numbers,
    sink: &mut Sink<'_>,
) -> Result<(), ModelError> {
    copy_bytes(&mut tensors.files[0], 0..FORMAT_AT, sink)?;
    sink.numbers(&[numbers.in_head()])?;
    copy_bytes(&mut tensors.files[0], FORMAT_AT + 4..start, sink)?;
    for planned in planned {
        let stored = tensors.get(&planned.name).cloned().expect("it was put there");
        let numbers = numbers.of_tensor(&planned.name, planned.sizes.len());
        sink.tensor(planned, numbers)?;
        copy(tensors, &stored, 0..stored.values(), numbers, sink)?;
    }
    Ok(())
}

/// Copies a file as it is.
pub(super) fn copy_file(tensors: &mut Tensors, sink: &mut Sink<'_>) -> Result<(), ModelError> {
    let length = tensors.files[0].length;
    copy_bytes(&mut tensors.files[0], 0..length, sink)
}

fn copy_bytes(
    opened: &mut Opened,
    range: std::ops::Range<u64>,
    sink: &mut Sink<'_>,
) -> Result<(), ModelError> {
    let mut piece = vec![0; 1 << 18];
    let mut at = range.start;
    while at < range.end {
        let size = (range.end - at).min(piece.len() as u64) as usize;
        opened.read_at(at, &mut piece[..size])?;
        sink.put(&piece[..size])?;
        at += size as u64;
    }
    Ok(())
}

fn copy(
    tensors: &mut Tensors,
    stored: &Stored,
    range: std::ops::Range<u64>,
    numbers: Numbers,
    sink: &mut Sink<'_>,
) -> Result<(), ModelError> {
    let scales = tensors.scales(stored)?;
    let (mut values, mut written) = (Vec::new(), Vec::new());
    let mut at = range.start;
    while at < range.end {
        let end = (at + PIECE).min(range.end);
        tensors.read(stored, at..end, &scales, &mut values)?;
        let largest = if numbers == Numbers::F32 { f32::MAX } else { MOST_HALF };
        // Rejects what is no number as well.
        if !values.iter().all(|value| value.abs() <= largest) {
            return Err(bad(
                tensors.path(stored),
                "its weights hold values that are no numbers, or too large",
            ));
        }
        written.clear();
        numbers.write(&values, &mut written);
        sink.put(&written)?;
        at = end;
    }
    Ok(())
}

/// The largest number that 16 bits hold.
const MOST_HALF: f32 = 65_504.0;

/// The SHA-256 of a file, and its length.
pub(super) fn sum(path: &Path) -> Result<(String, u64), ModelError> {
    let mut file = File::open(path).map_err(ModelError::io(path))?;
    let (mut hash, mut length) = (Sha256::new(), 0);
    let mut piece = vec![0; 1 << 18];
    loop {
        let size = file.read(&mut piece).map_err(ModelError::io(path))?;
        if size == 0 {
            return Ok((super::hex(hash), length));
        }
        hash.update(&piece[..size]);
        length += size as u64;
    }
}
