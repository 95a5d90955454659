//! Sounds to send: what the scripted engine says, silence, and what ffmpeg makes up.

use std::process::{Command, Stdio};

use whisperwire::engine::script::{is_loud, words_in};
use whisperwire::transcript::{Samples, Span};

/// Samples per second of everything in here.
pub(crate) const RATE: usize = 16_000;

/// A recording of all that the scripted engine says: as in speech, each word is louder in its middle than at its
/// edges, and it is quiet between them.
pub(crate) fn speech(seconds: f64) -> Vec<f32> {
    let mut pcm = quiet(seconds);
    let whole = Span::new(Samples(0), Samples(pcm.len() as u64));
    for word in words_in(whole, |_| true) {
        let length = word.span.len().0 as f32;
        for (n, sample) in pcm[word.span.start.0 as usize..word.span.end.0 as usize].iter_mut().enumerate() {
            let loudness = 0.1 + 0.3 * (std::f32::consts::PI * n as f32 / length).sin();
            *sample = loudness * (n as f32 * 0.9).sin();
        }
    }
    pcm
}

/// Digital silence.
pub(crate) fn quiet(seconds: f64) -> Vec<f32> {
    vec![0.0; (seconds * RATE as f64) as usize]
}

/// What the scripted engine makes of a recording, if nothing is lost or doubled on the way to it.
pub(crate) fn scripted(pcm: &[f32]) -> String {
    let whole = Span::new(Samples(0), Samples(pcm.len() as u64));
    let words = words_in(whole, |span| is_loud(&pcm[span.start.0 as usize..span.end.0 as usize]));
    words.iter().map(|word| word.text.as_str()).collect::<String>().trim().to_owned()
}

/// A WAV file of 16-bit samples.
pub(crate) fn wav(pcm: &[f32]) -> Vec<u8> {
    let bytes = pcm.iter().flat_map(|sample| ((sample * 32_767.0) as i16).to_le_bytes());
    wav_claiming(pcm.len() as u32 * 2, &bytes.collect::<Vec<u8>>())
}

/// A WAV file whose header claims so many bytes of samples, whatever comes.
pub(crate) fn wav_claiming(length: u32, samples: &[u8]) -> Vec<u8> {
    let rate = RATE as u32;
    let mut file = Vec::with_capacity(44 + samples.len());
    file.extend_from_slice(b"RIFF");
    file.extend_from_slice(&length.saturating_add(36).to_le_bytes());
    file.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend_from_slice(&rate.to_le_bytes());
    file.extend_from_slice(&(rate * 2).to_le_bytes());
    file.extend_from_slice(b"\x02\0\x10\0data");
    file.extend_from_slice(&length.to_le_bytes());
    file.extend_from_slice(samples);
    file
}

/// What ffmpeg makes up itself, described as one of its filters.
pub(crate) fn ffmpeg_source(filter: &str, arguments: &[&str], extension: &str) -> Vec<u8> {
    run_ffmpeg(&["-f", "lavfi", "-i", filter], arguments, extension)
}

/// What ffmpeg makes of an input that it is told of like this, with these arguments between the input and the output.
/// The extension of the output tells it the container, unless the arguments do.
pub(crate) fn run_ffmpeg(input: &[&str], arguments: &[&str], extension: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join(format!("output.{extension}"));
    let status = Command::new("ffmpeg")
        .args(["-nostdin", "-hide_banner", "-v", "error"])
        .args(input)
        .args(arguments)
        .arg(&output)
        .stdin(Stdio::null())
        .status()
        .expect("ffmpeg is installed where the tests run");
    assert!(status.success(), "ffmpeg {arguments:?} {extension}");
    std::fs::read(output).expect("ffmpeg wrote a file")
}
