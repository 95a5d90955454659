//! Tensors where they lie in files, read piece by piece: no model is ever in memory as a whole.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::super::ModelError;
use super::bad;

/// How a source writes a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    F32,
    F16,
    Bf16,
    /// Whole numbers, to be divided by a scale.
    I8,
    /// The same.
    I16,
    /// No weights: settings, sums.
    Other,
}

impl Kind {
    pub(super) fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::I8 | Self::Other => 1,
        }
    }
}

/// Where a tensor lies.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) file: usize,
    pub(super) at: u64,
    pub(super) kind: Kind,
    /// The outermost dimension first.
    pub(super) sizes: Vec<u64>,
    /// The tensor that whole numbers are divided by: one value, or one for each row.
    pub(super) scale: Option<String>,
}

impl Stored {
    pub(super) fn values(&self) -> u64 {
        self.sizes.iter().product()
    }
}

/// A file that is read, as it was when it was opened.
pub(super) struct Opened {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) length: u64,
    was: Metadata,
}

impl Opened {
    pub(super) fn open(path: &Path) -> Result<Self, ModelError> {
        let file = File::open(path).map_err(ModelError::io(path))?;
        let was = file.metadata().map_err(ModelError::io(path))?;
        if !was.is_file() {
            return Err(bad(path, "it is not a file"));
        }
        Ok(Self { path: path.to_path_buf(), file, length: was.len(), was })
    }

    /// Reads exactly these bytes.
    pub(super) fn read_at(&mut self, at: u64, buffer: &mut [u8]) -> Result<(), ModelError> {
        let read = self.file.seek(SeekFrom::Start(at)).and_then(|_| self.file.read_exact(buffer));
        read.map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => self.changed(),
            _ => ModelError::io(&self.path)(error),
        })
    }

    /// Whether nobody has written to it since it was opened.
    pub(super) fn check_unchanged(&self) -> Result<(), ModelError> {
        let now = self.file.metadata().map_err(ModelError::io(&self.path))?;
        let same = now.len() == self.was.len() && now.modified().ok() == self.was.modified().ok();
        if same { Ok(()) } else { Err(self.changed()) }
    }

    fn changed(&self) -> ModelError {
        bad(&self.path, "it was changed while it was read")
    }
}

/// The table of contents of one or more files.
#[derive(Default)]
pub(super) struct Tensors {
    pub(super) files: Vec<Opened>,
    index: BTreeMap<String, Stored>,
}

impl Tensors {
    /// False if there is one of that name.
    #[must_use]
    pub(super) fn add(&mut self, name: String, stored: Stored) -> bool {
        self.index.insert(name, stored).is_none()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Stored> {
        self.index.get(name)
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Stored> {
        self.index.remove(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Stored)> {
        self.index.iter()
    }

    /// The file that a tensor lies in.
    pub(super) fn path(&self, stored: &Stored) -> &Path {
        &self.files[stored.file].path
    }

    /// What the whole numbers of a tensor are divided by.
    pub(super) fn scales(&mut self, stored: &Stored) -> Result<Vec<f32>, ModelError> {
        let scale = stored.scale.as_ref().and_then(|scale| self.index.get(scale)).cloned();
        if !matches!(stored.kind, Kind::I8 | Kind::I16) {
            return Ok(Vec::new());
        }
        let path = self.path(stored).to_path_buf();
        let wrong = || bad(&path, "a tensor of whole numbers has no fitting scale");
        let scale = scale.filter(|scale| !matches!(scale.kind, Kind::I8 | Kind::I16)).ok_or_else(wrong)?;
        let rows = stored.sizes.first().copied().unwrap_or(0);
        if scale.values() != 1 && scale.values() != rows {
            return Err(wrong());
        }
        let mut scales = Vec::new();
        self.read(&scale, 0..scale.values(), &[], &mut scales)?;
        if scales.iter().any(|scale| !scale.is_finite() || *scale <= 0.0) {
            return Err(wrong());
        }
        Ok(scales)
    }

    /// Reads the values of a range into `values`, in place of what is there.
    pub(super) fn read(
        &mut self,
        stored: &Stored,
        range: std::ops::Range<u64>,
        scales: &[f32],
        values: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        let size = stored.kind.bytes();
        let mut bytes = vec![0; ((range.end - range.start) * size) as usize];
        self.files[stored.file].read_at(stored.at + range.start * size, &mut bytes)?;
        let row = (stored.values() / stored.sizes.first().copied().unwrap_or(1).max(1)).max(1);
        let scale = |place: usize| match scales {
            [] => 1.0,
            [one] => *one,
            many => many[((range.start + place as u64) / row) as usize],
        };
        values.clear();
        let pairs = || bytes.as_chunks::<2>().0.iter();
        match stored.kind {
            Kind::F32 => {
                values.extend(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)))
            }
            Kind::F16 => {
                let halves: Vec<f16> = pairs().map(|bytes| f16::from_le_bytes(*bytes)).collect();
                values.resize(halves.len(), 0.0);
                halves.convert_to_f32_slice(values);
            }
            Kind::Bf16 => values.extend(pairs().map(|bytes| bf16::from_le_bytes(*bytes).to_f32())),
            Kind::I8 => {
                let numbers = bytes.iter().enumerate();
                values.extend(numbers.map(|(place, byte)| f32::from(byte.cast_signed()) / scale(place)));
            }
            Kind::I16 => {
                let numbers = pairs().enumerate();
                values.extend(numbers.map(|(at, bytes)| f32::from(i16::from_le_bytes(*bytes)) / scale(at)));
            }
            Kind::Other => return Err(bad(self.path(stored), "a tensor does not hold weights")),
        }
        Ok(())
    }

    /// Whether all values of a range are zero.
    pub(super) fn are_zero(
        &mut self,
        stored: &Stored,
        range: std::ops::Range<u64>,
    ) -> Result<bool, ModelError> {
        let (mut values, scales) = (Vec::new(), self.scales(stored)?);
        self.read(stored, range, &scales, &mut values)?;
        Ok(values.iter().all(|value| *value == 0.0))
    }

    /// Whether two tensors are the same, byte for byte.
    pub(super) fn are_equal(&mut self, one: &Stored, other: &Stored) -> Result<bool, ModelError> {
        if (one.kind, &one.sizes) != (other.kind, &other.sizes) {
            return Ok(false);
        }
        if (one.file, one.at) == (other.file, other.at) {
            return Ok(true);
        }
        let length = one.values() * one.kind.bytes();
        let mut buffers = [vec![0; 1 << 20], vec![0; 1 << 20]];
        let mut at = 0;
        while at < length {
            let size = (length - at).min(1 << 20) as usize;
            for (stored, buffer) in [one, other].into_iter().zip(&mut buffers) {
                self.files[stored.file].read_at(stored.at + at, &mut buffer[..size])?;
            }
            if buffers[0][..size] != buffers[1][..size] {
                return Ok(false);
            }
            at += size as u64;
        }
        Ok(true)
    }
}
