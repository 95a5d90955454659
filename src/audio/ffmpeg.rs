//! The last resort: a child process that reads what the built-in decoders cannot.
//!
//! The contract: the child gets the file as its standard input and nothing else. It has no environment, may open
//! no protocol but plain files, and knows only the container formats of [`FORMATS`]: none of them can name another
//! file or address, so a playlist dressed up as a recording reaches neither. It is killed when it stays silent
//! for too long or when nobody wants its sound any more, and it is always waited for.
//!
//! Deliberately absent: choosing codecs, and any use of it while a built-in decoder would do.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::AudioError;
use crate::transcript::RATE;

/// Containers and streams that hold their sound themselves.
const FORMATS: &str = "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dts,dtshd,eac3,flac,flv,gsm,loas,\
    matroska,mov,mp3,mpc,mpc8,mpeg,mpegts,mpegvideo,ogg,rm,tak,tta,voc,w64,wav,wv,xwma";

/// How long the child may take for each stretch that is asked of it.
const PATIENCE: Duration = Duration::from_secs(30);

/// The most of the child's complaints that is kept, in bytes.
const COMPLAINT: u64 = 4096;

/// Bytes per message from the child, and how many messages may wait.
const MESSAGE: usize = 32 << 10;
const WAITING: usize = 4;

/// An ffmpeg program that was found and may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ffmpeg {
    program: PathBuf,
    patience: Duration,
}

impl Ffmpeg {
    /// The first `ffmpeg` on the `PATH`. Finding it does not mean that it is allowed: that is the operator's
    /// decision.
    #[expect(clippy::disallowed_methods, reason = "PATH is where programs are, not a setting of this server")]
    pub fn find() -> Option<Self> {
        let path = std::env::var_os("PATH")?;
        let name = format!("ffmpeg{}", std::env::consts::EXE_SUFFIX);
        let program =
            std::env::split_paths(&path).map(|folder| folder.join(&name)).find(|file| file.is_file())?;
        Some(Self { program, patience: PATIENCE })
    }

    /// Another program in its place, and less patience with it.
    #[cfg(test)]
    pub(super) fn stand_in(program: PathBuf, patience: Duration) -> Self {
        Self { program, patience }
    }

    /// Starts converting a file, which must stand at its beginning.
    pub(super) fn convert(&self, file: File) -> Result<Conversion, AudioError> {
        // With integer samples the child keeps a mix of channels within full scale; with floats it does not.
        // Standard input is the file itself and not a pipe: opened by this name it can be seeked in, even when
        // it is a temporary file that has been unlinked.
        let mut child = Command::new(&self.program)
            .args(["-nostdin", "-hide_banner", "-v", "error", "-threads", "1"])
            .args(["-max_alloc", "268435456", "-protocol_whitelist", "file", "-format_whitelist", FORMATS])
            .args(["-i", "/dev/stdin", "-map", "0:a:0", "-vn", "-sn", "-dn"])
            .args(["-f", "s16le", "-ac", "1", "-ar", &RATE.to_string(), "pipe:1"])
            .env_clear()
            .stdin(Stdio::from(file))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (sender, sound) = sync_channel(WAITING);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let listener = std::thread::spawn(move || stdout.map_or(Ok(()), |stdout| listen(stdout, &sender)));
        let complaint = std::thread::spawn(move || stderr.map_or(String::new(), complaints));
        Ok(Conversion {
            child,
            sound: Some(sound),
            listener: Some(listener),
            complaint: Some(complaint),
            half: Vec::new(),
            heard: false,
            patience: self.patience,
        })
    }
}

/// One file on its way through the child.
pub(super) struct Conversion {
    child: Child,
    sound: Option<Receiver<Vec<u8>>>,
    listener: Option<JoinHandle<io::Result<()>>>,
    complaint: Option<JoinHandle<String>>,
    /// The bytes of a sample that was cut in two.
    half: Vec<u8>,
    heard: bool,
    patience: Duration,
}

impl Conversion {
    /// The number of the child's process.
    #[cfg(test)]
    pub(super) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Waits until at least `least` samples were appended to `out`, or for the end. `false` at the end.
    pub(super) fn read(
        &mut self,
        least: usize,
        deadline: Instant,
        out: &mut Vec<f32>,
    ) -> Result<bool, AudioError> {
        let target = out.len() + least;
        let deadline = deadline.min(Instant::now() + self.patience);
        while out.len() < target {
            let Some(sound) = &self.sound else { return Ok(false) };
            match sound.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.take(&bytes, out),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(AudioError::Corrupt(
                        "the converter did not get on with it in time".to_owned(),
                    ));
                }
                Err(RecvTimeoutError::Disconnected) => return self.conclude(),
            }
        }
        Ok(true)
    }

    fn take(&mut self, bytes: &[u8], out: &mut Vec<f32>) {
        self.half.extend_from_slice(bytes);
        let (whole, rest) = self.half.as_chunks::<2>();
        out.extend(whole.iter().map(|sample| f32::from(i16::from_le_bytes(*sample)) / 32_768.0));
        self.heard |= !whole.is_empty();
        self.half = rest.to_vec();
    }

    /// The child has closed its end. A failure after some sound is a file that was cut short.
    fn conclude(&mut self) -> Result<bool, AudioError> {
        self.sound = None;
        let success = self.child.wait()?.success();
        let complaint = self.complaint.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        if self.heard || success {
            return Ok(false);
        }
        Err(AudioError::Unsupported(match without_paths(&complaint) {
            said if said.is_empty() => "ffmpeg cannot read it either".to_owned(),
            said => format!("ffmpeg cannot read it either ({said})"),
        }))
    }
}

impl Drop for Conversion {
    fn drop(&mut self) {
        // Nobody receives any more, so a listener that waits for room gives up; a dead child closes both pipes.
        self.sound = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.listener.take().map(JoinHandle::join);
        let _ = self.complaint.take().map(JoinHandle::join);
    }
}

fn listen(mut stdout: impl Read, sender: &SyncSender<Vec<u8>>) -> io::Result<()> {
    loop {
        let mut message = vec![0; MESSAGE];
        let got = stdout.read(&mut message)?;
        message.truncate(got);
        if got == 0 || sender.send(message).is_err() {
            return Ok(());
        }
    }
}

/// The first of what the child says; the rest is read too, or it would wait for us.
fn complaints(mut stderr: impl Read) -> String {
    let mut said = Vec::new();
    let _ = stderr.by_ref().take(COMPLAINT).read_to_end(&mut said);
    let _ = io::copy(&mut stderr, &mut io::sink());
    String::from_utf8_lossy(&said).into_owned()
}

/// The last complaint, as one short line that tells nothing about this machine.
fn without_paths(said: &str) -> String {
    let last = said.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let words = last.split_whitespace().filter(|word| !word.contains(['/', '\\']) && !word.contains("0x"));
    let line: String = words.collect::<Vec<_>>().join(" ");
    line.chars().filter(|letter| !letter.is_control()).take(200).collect()
}
