//! Where audio comes from: a file as it is, a WAV or FLAC file decoded, another program's output, standard input.
//!
//! The contract: whatever the source, a [`Feed`] is a channel of chunks, filled by a thread of its own that stops
//! when nobody takes them any more. At most a few chunks are in memory. Deliberately absent: resampling and mixing,
//! which are the server's.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use whisperwire_protocol::stream::{Encoding, Settings};

/// Bytes per chunk where nobody keeps time.
const BURST: usize = 64 << 10;

/// Audio in pieces, and what the server has to know about it.
pub(crate) struct Feed {
    /// Encoding, rate and channels; nothing else is set.
    pub(crate) settings: Settings,
    /// How fast it plays, in bytes per second, where that is known.
    pub(crate) speed: Option<f64>,
    /// The pieces, but for one that was looked at and put back.
    chunks: mpsc::Receiver<io::Result<Vec<u8>>>,
    first: Option<Vec<u8>>,
    /// The program whose output this is.
    program: Option<Child>,
}

/// How raw samples are laid out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) encoding: Encoding,
    pub(crate) rate: u32,
    pub(crate) channels: u16,
}

impl Layout {
    /// What a recorder is asked for, and what Whisper hears.
    pub(crate) const SPEECH: Self = Self { encoding: Encoding::PcmS16le, rate: 16_000, channels: 1 };

    fn bytes_per_second(self) -> usize {
        self.encoding.sample_bytes().unwrap_or(1) * self.rate as usize * usize::from(self.channels)
    }

    fn settings(self) -> Settings {
        Settings {
            encoding: Some(self.encoding),
            sample_rate: Some(self.rate),
            channels: Some(self.channels),
            ..Settings::default()
        }
    }

    /// Bytes of so much time, whole samples only.
    fn bytes_of(self, time: Option<Duration>) -> usize {
        let Some(time) = time else { return BURST };
        let frame = self.encoding.sample_bytes().unwrap_or(1) * usize::from(self.channels);
        ((self.bytes_per_second() as f64 * time.as_secs_f64()) as usize / frame).max(1) * frame
    }
}

impl Feed {
    /// The next piece, or nothing at the end.
    pub(crate) async fn take(&mut self) -> Option<io::Result<Vec<u8>>> {
        match self.first.take() {
            Some(first) => Some(Ok(first)),
            None => self.chunks.recv().await,
        }
    }

    /// Returns what was taken first.
    pub(crate) fn put_back(&mut self, first: Vec<u8>) {
        self.first = Some(first);
    }

    /// Waits a moment for the program to end by itself and says how it did; ends it if it does not.
    pub(crate) async fn finish(
        &mut self,
        patience: Duration,
    ) -> io::Result<Option<std::process::ExitStatus>> {
        let Some(program) = &mut self.program else { return Ok(None) };
        let deadline = Instant::now() + patience;
        loop {
            if let Some(ended) = program.try_wait()? {
                return Ok(Some(ended));
            }
            if Instant::now() >= deadline {
                program.kill()?;
                program.wait()?;
                return Ok(None);
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// The bytes of a file as they are. `chunk` and `speed` are for those who keep time.
    pub(crate) fn raw_file(
        file: &Path,
        encoding: Encoding,
        chunk: Option<Duration>,
        speed: Option<f64>,
    ) -> anyhow::Result<Self> {
        let source = File::open(file).context("The file cannot be read")?;
        let paced = chunk.zip(speed).map(|(time, speed)| (speed * time.as_secs_f64()) as usize);
        let settings = Settings { encoding: Some(encoding), ..Settings::default() };
        Ok(Self::of(settings, speed, source, paced.unwrap_or(BURST).max(1)))
    }

    /// Samples from standard input.
    pub(crate) fn stdin(layout: Layout, chunk: Duration) -> Self {
        let speed = Some(layout.bytes_per_second() as f64);
        Self::of(layout.settings(), speed, io::stdin(), layout.bytes_of(Some(chunk)))
    }

    /// Samples from a program's standard output. Its complaints go to ours.
    pub(crate) fn program(
        command: &mut Command,
        layout: Layout,
        chunk: Option<Duration>,
    ) -> io::Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let output: ChildStdout = child.stdout.take().expect("its output is piped");
        let speed = Some(layout.bytes_per_second() as f64);
        let mut feed = Self::of(layout.settings(), speed, output, layout.bytes_of(chunk));
        feed.program = Some(child);
        Ok(feed)
    }

    /// The samples of a WAV or FLAC file, decoded here. `None`: it is neither, or not of a kind that is read here.
    pub(crate) fn decoded(file: &Path, chunk: Option<Duration>) -> anyhow::Result<Option<Self>> {
        let mut first = [0; 4];
        let mut source = File::open(file).context("The file cannot be read")?;
        if source.read_exact(&mut first).is_err() {
            return Ok(None);
        }
        drop(source);
        match &first {
            b"RIFF" => Ok(Self::wav(file, chunk)),
            b"fLaC" => Ok(Self::flac(file, chunk)),
            _ => Ok(None),
        }
    }

    fn wav(file: &Path, chunk: Option<Duration>) -> Option<Self> {
        let reader = hound::WavReader::open(file).ok()?;
        let form = reader.spec();
        let (encoding, shift) = match (form.sample_format, form.bits_per_sample) {
            (hound::SampleFormat::Int, bits @ 8..=32) => (Encoding::PcmS16le, i32::from(bits) - 16),
            (hound::SampleFormat::Float, 32) => (Encoding::PcmF32le, 0),
            _ => return None,
        };
        let layout = Layout { encoding, rate: form.sample_rate, channels: form.channels };
        Some(Self::pieces(layout, chunk, move |piece| match encoding {
            Encoding::PcmF32le => {
                let samples =
                    reader.into_samples::<f32>().map(|s| Ok(s.map_err(io::Error::other)?.to_le_bytes()));
                piece.all(samples)
            }
            _ => {
                let samples = reader.into_samples::<i32>();
                piece.all(samples.map(|s| Ok(to_16_bits(s.map_err(io::Error::other)?, shift))))
            }
        }))
    }

    fn flac(file: &Path, chunk: Option<Duration>) -> Option<Self> {
        let mut reader = claxon::FlacReader::open(file).ok()?;
        let form = reader.streaminfo();
        let (channels, shift) = (form.channels.try_into().ok()?, form.bits_per_sample as i32 - 16);
        let layout = Layout { encoding: Encoding::PcmS16le, rate: form.sample_rate, channels };
        Some(Self::pieces(layout, chunk, move |piece| {
            let samples = reader.samples();
            piece.all(samples.map(|s| Ok(to_16_bits(s.map_err(io::Error::other)?, shift))))
        }))
    }

    /// A thread that makes samples.
    fn pieces(layout: Layout, chunk: Option<Duration>, make: impl FnOnce(Pieces) + Send + 'static) -> Self {
        let (sender, chunks) = mpsc::channel(4);
        let pieces = Pieces { sender, size: layout.bytes_of(chunk) };
        std::thread::spawn(move || make(pieces));
        let speed = Some(layout.bytes_per_second() as f64);
        Self { settings: layout.settings(), speed, chunks, first: None, program: None }
    }

    /// A thread that reads bytes. It is never waited for: reading from a terminal cannot be broken off.
    fn of(
        settings: Settings,
        speed: Option<f64>,
        mut source: impl Read + Send + 'static,
        size: usize,
    ) -> Self {
        let (sender, chunks) = mpsc::channel(4);
        std::thread::spawn(move || {
            loop {
                let mut chunk = Vec::with_capacity(size);
                let read = (&mut source).take(size as u64).read_to_end(&mut chunk);
                let at_end = chunk.is_empty() && read.is_ok();
                let failed = read.is_err();
                let chunk = read.map(|_| chunk);
                if at_end || sender.blocking_send(chunk).is_err() || failed {
                    return;
                }
            }
        });
        Self { settings, speed, chunks, first: None, program: None }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Some(program) = &mut self.program {
            // It may have ended already.
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

/// Where decoded samples go, a chunk at a time.
struct Pieces {
    sender: mpsc::Sender<io::Result<Vec<u8>>>,
    size: usize,
}

impl Pieces {
    fn all<const N: usize>(self, samples: impl Iterator<Item = io::Result<[u8; N]>>) {
        let mut chunk = Vec::with_capacity(self.size);
        for sample in samples {
            match sample {
                Ok(bytes) => chunk.extend_from_slice(&bytes),
                Err(wrong) => {
                    let _ = self.sender.blocking_send(Err(wrong));
                    return;
                }
            }
            if chunk.len() >= self.size {
                let full = std::mem::replace(&mut chunk, Vec::with_capacity(self.size));
                if self.sender.blocking_send(Ok(full)).is_err() {
                    return;
                }
            }
        }
        let _ = self.sender.blocking_send(Ok(chunk));
    }
}

/// A sample of any depth as 16 bits.
fn to_16_bits(sample: i32, shift: i32) -> [u8; 2] {
    let scaled = if shift >= 0 { sample >> shift } else { sample << -shift };
    (scaled.clamp(i16::MIN.into(), i16::MAX.into()) as i16).to_le_bytes()
}

/// `ffmpeg` as a decoder of whatever it reads: 16 kHz, one channel, 16 bits.
pub(crate) fn ffmpeg(file: &Path, chunk: Option<Duration>) -> io::Result<Feed> {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-i"]).arg(input_name(file));
    command.args(["-ac", "1", "-ar", "16000", "-f", "s16le", "-"]);
    Feed::program(&mut command, Layout::SPEECH, chunk)
}

/// A file's name that ffmpeg takes for neither an option nor a protocol.
fn input_name(file: &Path) -> std::ffi::OsString {
    let mut name = std::ffi::OsString::from("file:");
    name.push(file);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(mut feed: Feed) -> (Settings, Vec<Vec<u8>>) {
        let mut all = Vec::new();
        while let Some(chunk) = feed.chunks.blocking_recv() {
            all.push(chunk.expect("readable"));
        }
        (feed.settings.clone(), all)
    }

    fn wav(folder: &Path, bits: u16, format: hound::SampleFormat) -> std::path::PathBuf {
        let file = folder.join(format!("{bits}.wav"));
        let spec =
            hound::WavSpec { channels: 2, sample_rate: 8_000, bits_per_sample: bits, sample_format: format };
        let mut writer = hound::WavWriter::create(&file, spec).expect("a file");
        for n in 0..8_000 {
            match format {
                hound::SampleFormat::Int => writer.write_sample((n % 100) << (bits - 8)).expect("written"),
                hound::SampleFormat::Float => writer.write_sample(n as f32 / 8_000.0).expect("written"),
            }
        }
        writer.finalize().expect("written");
        file
    }

    #[test]
    fn wav_files_become_samples_of_two_kinds() {
        let folder = tempfile::tempdir().expect("a folder");
        for bits in [8, 16, 24, 32] {
            let file = wav(folder.path(), bits, hound::SampleFormat::Int);
            let feed = Feed::decoded(&file, Some(Duration::from_millis(20))).expect("a file").expect("a WAV");
            assert_eq!(feed.speed, Some(32_000.0));
            let (settings, chunks) = collect(feed);
            assert_eq!((settings.sample_rate, settings.channels), (Some(8_000), Some(2)));
            assert_eq!(settings.encoding, Some(Encoding::PcmS16le));
            assert!(chunks[..25].iter().all(|chunk| chunk.len() == 640), "20 ms each");
            let bytes = chunks.concat();
            assert_eq!(bytes.len(), 16_000);
            assert_eq!(bytes[2 * 57..][..2], (57_i16 << 8).to_le_bytes(), "{bits} bits");
        }
        let file = wav(folder.path(), 32, hound::SampleFormat::Float);
        let (settings, chunks) = collect(Feed::decoded(&file, None).expect("a file").expect("a WAV"));
        assert_eq!((settings.encoding, chunks[0].len()), (Some(Encoding::PcmF32le), 32_000));
    }

    #[test]
    fn flac_is_decoded_and_anything_else_is_not() {
        let audio = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/audio"));
        let file = audio.join("sentence-06-kal16.flac");
        let feed = Feed::decoded(&file, None).expect("a file").expect("a FLAC file");
        let (settings, chunks) = collect(feed);
        assert_eq!((settings.sample_rate, settings.channels), (Some(16_000), Some(1)));
        assert_eq!(chunks.concat().len(), 2 * 54_025);
        assert!(Feed::decoded(Path::new("Cargo.toml"), None).expect("a file").is_none());
        assert!(Feed::decoded(Path::new("nowhere.wav"), None).is_err());
        let raw = Feed::raw_file(Path::new("Cargo.toml"), Encoding::Container, None, None).expect("a file");
        let (settings, chunks) = collect(raw);
        assert_eq!(settings.encoding, Some(Encoding::Container));
        assert_eq!(chunks.concat(), std::fs::read("Cargo.toml").expect("a file"));
    }

    #[test]
    fn chunks_are_whole_samples() {
        let layout = Layout { encoding: Encoding::PcmS16le, rate: 44_100, channels: 2 };
        assert_eq!(layout.bytes_of(Some(Duration::from_millis(1))), 44 * 4);
        assert_eq!(Layout::SPEECH.bytes_of(Some(Duration::from_millis(20))), 640);
        assert_eq!(layout.bytes_of(Some(Duration::ZERO)), 4);
    }
}
