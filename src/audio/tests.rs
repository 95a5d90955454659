//! Files of every kind, made by ffmpeg or by hand, healthy and otherwise, through the whole room.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use super::*;

/// Four seconds: 440 Hz, then from 2 s on 1,250 Hz and half as loud. Its two halves tell where in time we are.
const SIGNAL: &str = "aevalsrc='if(lt(t,2),0.5*sin(2*PI*440*t),0.25*sin(2*PI*1250*t))|if(lt(t,2),0.5*sin(2*PI*440*t),0.25*sin(2*PI*1250*t))'\
     :d=4:s=RATE";

/// File name, options of the encoder, and what the decoded length may be off by, in milliseconds.
const CONTAINERS: &[(&str, u32, &[&str])] = &[
    ("a.wav", 48_000, &["-c:a", "pcm_s16le"]),
    ("u8.wav", 44_100, &["-c:a", "pcm_u8"]),
    ("s24.wav", 48_000, &["-c:a", "pcm_s24le"]),
    ("s32.wav", 96_000, &["-c:a", "pcm_s32le"]),
    ("f32.wav", 44_100, &["-c:a", "pcm_f32le"]),
    ("f64.wav", 22_050, &["-c:a", "pcm_f64le"]),
    ("mulaw.wav", 8_000, &["-c:a", "pcm_mulaw"]),
    ("alaw.wav", 8_000, &["-c:a", "pcm_alaw"]),
    ("six.wav", 48_000, &["-af", "pan=5.1|c0=c0|c1=c1|c2=c0|c3=c1|c4=c0|c5=c1", "-c:a", "pcm_s16le"]),
    ("sixteen.wav", 16_000, &["-af", "pan=mono|c0=c0", "-c:a", "pcm_s16le"]),
    ("rf64.wav", 44_100, &["-rf64", "always", "-c:a", "pcm_s16le"]),
    ("vbr.mp3", 44_100, &["-c:a", "libmp3lame", "-q:a", "4"]),
    ("bare.mp3", 44_100, &["-c:a", "libmp3lame", "-q:a", "4", "-write_xing", "0", "-id3v2_version", "0"]),
    ("slow.mp3", 16_000, &["-c:a", "libmp3lame", "-b:a", "32k", "-af", "pan=mono|c0=c0"]),
    ("layer2.mpga", 48_000, &["-c:a", "mp2", "-b:a", "128k", "-f", "mp2"]),
    ("layer2b.mpga", 44_100, &["-c:a", "mp2", "-b:a", "192k", "-f", "mp2"]),
    ("a.m4a", 44_100, &["-c:a", "aac"]),
    ("lossless.m4a", 48_000, &["-c:a", "alac"]),
    ("front.m4a", 48_000, &["-c:a", "aac", "-movflags", "+faststart"]),
    (
        "pieces.mp4",
        48_000,
        &["-c:a", "aac", "-movflags", "frag_keyframe+empty_moov", "-frag_duration", "500000"],
    ),
    ("opus.mp4", 48_000, &["-c:a", "libopus", "-strict", "-2"]),
    ("a.flac", 44_100, &["-c:a", "flac"]),
    ("deep.flac", 96_000, &["-c:a", "flac", "-sample_fmt", "s32"]),
    ("vorbis.ogg", 44_100, &["-c:a", "libvorbis"]),
    ("flac.oga", 48_000, &["-c:a", "flac", "-f", "ogg"]),
    ("a.opus", 48_000, &["-c:a", "libopus", "-b:a", "32k"]),
    (
        "voice.ogg",
        16_000,
        &["-c:a", "libopus", "-af", "pan=mono|c0=c0", "-application", "voip", "-frame_duration", "60"],
    ),
    ("a.webm", 48_000, &["-c:a", "libopus"]),
    ("vorbis.webm", 48_000, &["-c:a", "libvorbis"]),
    ("live.webm", 48_000, &["-c:a", "libopus", "-f", "webm", "-live", "1"]),
    ("a.mkv", 48_000, &["-c:a", "aac"]),
    ("a.aac", 44_100, &["-c:a", "aac", "-f", "adts"]),
    ("a.aiff", 44_100, &["-c:a", "pcm_s16be"]),
    ("a.caf", 44_100, &["-c:a", "pcm_s16le"]),
    ("lossless.caf", 44_100, &["-c:a", "alac"]),
];

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, rate, options) in CONTAINERS {
        make(&folder.path().join(name), *rate, options);
    }
    folder
});

pub(super) fn ffmpeg(arguments: &[&str]) {
    let status = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-y"])
        .args(arguments)
        .status()
        .expect("ffmpeg is installed where the tests run");
    assert!(status.success(), "ffmpeg {arguments:?}");
}

fn make(file: &Path, rate: u32, options: &[&str]) {
    let signal = SIGNAL.replace("RATE", &rate.to_string());
    let mut arguments = vec!["-f", "lavfi", "-i", &signal];
    arguments.extend_from_slice(options);
    arguments.push(file.to_str().expect("a plain name"));
    ffmpeg(&arguments);
}

fn sample(name: &str) -> PathBuf {
    FOLDER.path().join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(sample(name)).expect("a sample")
}

/// An unlinked temporary file, as an upload is.
pub(super) fn upload(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(bytes).expect("room on the disk");
    file
}

fn decode_with(file: File, options: &FileOptions) -> Result<Vec<f32>, AudioError> {
    let mut decoder = FileDecoder::open(file, options)?;
    let mut out = Vec::new();
    let mut before = 0;
    while decoder.read(&mut out)? {
        assert!(out.len() > before, "a stretch without samples");
        assert!(out.len() - before <= 160_000, "a stretch of {} samples", out.len() - before);
        before = out.len();
    }
    assert_eq!(out.len(), before, "samples at the end");
    assert!(out.iter().all(|sample| sample.abs() <= 1.0), "beyond full scale");
    Ok(out)
}

pub(super) fn decode(bytes: &[u8]) -> Result<Vec<f32>, AudioError> {
    decode_with(upload(bytes), &FileOptions::default())
}

/// Amplitude of one frequency, by correlation.
fn amplitude(samples: &[f32], hertz: f64) -> f64 {
    let step = std::f64::consts::TAU * hertz / 16_000.0;
    let (mut re, mut im) = (0.0, 0.0);
    for (n, sample) in samples.iter().enumerate() {
        let phase = step * n as f64;
        re += f64::from(*sample) * phase.cos();
        im += f64::from(*sample) * phase.sin();
    }
    2.0 * re.hypot(im) / samples.len() as f64
}

/// Where the first tone gives way to the second, in milliseconds.
fn turning_point(samples: &[f32]) -> f64 {
    let step = 80;
    let windows = samples.windows(640).step_by(step);
    let place = windows.map(|window| amplitude(window, 1250.0) / 0.25 > amplitude(window, 440.0) / 0.5);
    let first = place.take_while(|second| !second).count();
    (first * step + 320) as f64 / 16.0
}

fn assert_signal(name: &str, samples: &[f32]) {
    let milliseconds = samples.len() as f64 / 16.0;
    assert!((milliseconds - 4000.0).abs() <= 60.0, "{name}: {milliseconds} ms");
    let turn = turning_point(samples);
    assert!((turn - 2000.0).abs() <= 60.0, "{name}: the second tone begins at {turn} ms");
    let (low, high) = (amplitude(&samples[1600..30_400], 440.0), amplitude(&samples[33_600..62_400], 1250.0));
    assert!((low - 0.5).abs() < 0.03, "{name}: 440 Hz at {low}");
    assert!((high - 0.25).abs() < 0.03, "{name}: 1250 Hz at {high}");
    let power = samples[1600..30_400].iter().map(|sample| f64::from(sample * sample)).sum::<f64>() / 28_800.0;
    assert!((power.sqrt() - 0.3536).abs() < 0.02, "{name}: {} RMS", power.sqrt());
}

#[test]
fn every_container_gives_the_same_sound() {
    for (name, ..) in CONTAINERS {
        let samples = decode(&bytes(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_signal(name, &samples);
    }
}

#[test]
fn lossless_lengths_are_exact_and_hints_are_close() {
    for name in ["a.wav", "s24.wav", "f64.wav", "sixteen.wav", "rf64.wav", "a.flac", "flac.oga", "a.aiff"] {
        assert_eq!(decode(&bytes(name)).expect(name).len(), 64_000, "{name}");
    }
    for name in ["a.wav", "vbr.mp3", "a.m4a", "a.flac", "a.opus", "a.mkv", "a.aiff", "a.caf"] {
        let decoder = FileDecoder::open(upload(&bytes(name)), &FileOptions::default()).expect(name);
        let hint = decoder.length_hint().unwrap_or_else(|| panic!("{name} names no length"));
        assert!((hint.seconds() - 4.0).abs() < 0.1, "{name}: {hint}");
    }
}

#[test]
fn video_is_ignored_and_the_first_readable_track_is_taken() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let signal = SIGNAL.replace("RATE", "48000");
    let video =
        ["-f", "lavfi", "-i", "testsrc=d=4:s=160x120:r=10", "-f", "lavfi", "-i", &signal, "-map", "0:v"];
    for (name, codecs) in [
        ("late.mp4", &["-map", "1:a", "-c:v", "libx264", "-c:a", "aac"][..]),
        ("a.mov", &["-map", "1:a", "-c:v", "libx264", "-c:a", "pcm_s16le"]),
        ("vp8.webm", &["-map", "1:a", "-c:v", "libvpx", "-c:a", "libvorbis"]),
        ("two.mkv", &["-map", "1:a", "-map", "1:a", "-c:v", "libx264", "-c:a:0", "ac3", "-c:a:1", "libopus"]),
    ] {
        let file = folder.path().join(name);
        ffmpeg(&[&video[..], codecs, &[file.to_str().expect("a plain name")]].concat());
        let samples = decode_with(File::open(&file).expect(name), &FileOptions::default());
        assert_signal(name, &samples.unwrap_or_else(|error| panic!("{name}: {error}")));
    }
}

#[test]
fn streams_joined_end_to_end_are_heard_to_the_end() {
    let twice = |first: &str, second: &str| decode(&[bytes(first), bytes(second)].concat());
    for (first, second) in [
        ("vorbis.ogg", "a.opus"),
        ("a.opus", "voice.ogg"),
        ("vbr.mp3", "vbr.mp3"),
        ("vbr.mp3", "slow.mp3"),
        ("bare.mp3", "bare.mp3"),
        ("a.aac", "a.aac"),
    ] {
        let samples = twice(first, second).unwrap_or_else(|error| panic!("{first} + {second}: {error}"));
        let seconds = samples.len() as f64 / 16_000.0;
        assert!((seconds - 8.0).abs() < 0.15, "{first} + {second}: {seconds} s");
        let last = &samples[samples.len() - 16_000..samples.len() - 3_200];
        let loud = amplitude(last, 1250.0);
        assert!((loud - 0.25).abs() < 0.03, "{first} + {second}: the end is at {loud}");
    }
}

#[test]
fn streams_that_were_cut_off_give_what_there_is() {
    for (name, ..) in CONTAINERS {
        let whole = bytes(name);
        let half = &whole[..whole.len() / 2];
        match decode(half) {
            Ok(samples) => assert!(samples.len() > 16_000, "{name}: only {} samples", samples.len()),
            // Their index stands at the end.
            Err(AudioError::Corrupt(why)) if name.ends_with(".m4a") || name.ends_with(".mp4") => {
                assert!(why.contains("moov"), "{name}: {why}");
            }
            Err(AudioError::Corrupt(_)) if name.ends_with(".caf") => {}
            Err(error) => panic!("{name}: {error}"),
        }
    }
}

/// A 16-bit mono WAV at 16 kHz with the lengths that a liar gives it.
fn wave(samples: usize, outer: u32, inner: u32, trailer: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    file.extend_from_slice(b"RIFF");
    file.extend_from_slice(&outer.to_le_bytes());
    file.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data");
    file.extend_from_slice(&inner.to_le_bytes());
    for n in 0..samples {
        file.extend_from_slice(&((n % 100) as i16 * 100).to_le_bytes());
    }
    file.extend_from_slice(trailer);
    file
}

#[test]
fn a_lying_wav_header_hides_nothing() {
    let honest = decode(&wave(20_000, 40_036, 40_000, b"")).expect("an honest file");
    assert_eq!(honest.len(), 20_000);
    for (outer, inner) in
        [(u32::MAX, u32::MAX), (0, 0), (40_036, u32::MAX - 8), (36, 0), (46, 11), (0, 40_000), (3, 4_000_000)]
    {
        let heard = decode(&wave(20_000, outer, inner, b""))
            .unwrap_or_else(|error| panic!("{outer} {inner}: {error}"));
        assert_eq!(heard, honest, "RIFF {outer}, data {inner}");
    }
    let tagged = wave(20_000, 40_054, 40_000, b"LIST\x0a\0\0\0INFOabcdef");
    assert_eq!(decode(&tagged).expect("a tag behind the data"), honest);
    let odd = [wave(20_000, 0, u32::MAX, b""), vec![7]].concat();
    assert_eq!(decode(&odd).expect("half a sample too much"), honest);
}

#[test]
fn nothing_is_empty() {
    for (name, file) in [
        ("no bytes", Vec::new()),
        ("wav without samples", wave(0, 36, 0, b"")),
        ("wav that promises samples", wave(0, 36, 1000, b"")),
        ("wav with a tag only", wave(0, 54, 0, b"LIST\x0a\0\0\0INFOabcdef")),
    ] {
        assert!(matches!(decode(&file), Err(AudioError::Empty)), "{name}: {:?}", decode(&file).err());
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in ["no.flac", "no.aiff"] {
        let file = folder.path().join(name);
        let file = file.to_str().expect("a plain name");
        ffmpeg(&["-f", "lavfi", "-i", "sine=d=1", "-af", "atrim=end_sample=0", file]);
        let outcome = decode_with(File::open(file).expect(name), &FileOptions::default());
        assert!(matches!(outcome, Err(AudioError::Empty | AudioError::Corrupt(_))), "{name}: {outcome:?}");
    }
}

#[test]
fn what_is_no_audio_is_named() {
    let mut noise = Noise(1);
    let mut program_stream = vec![0, 0, 1, 0xba];
    program_stream.extend(noise.bytes(5000));
    let transport: Vec<u8> = (0..20).flat_map(|_| [vec![0x47], noise.bytes(187)].concat()).collect();
    for (file, says) in [
        ("just some text, renamed to .mp3\n".repeat(50).into_bytes(), "a text"),
        ("Grüße, 世界! ".repeat(500).into_bytes(), "a text"),
        ("ftyp moov mdat RIFF WAVE OggS fLaC ID3 ".repeat(500).into_bytes(), "a text"),
        (b"#EXTM3U\n/etc/passwd\n".to_vec(), "a playlist"),
        (program_stream, "an MPEG program stream; the operator can allow ffmpeg"),
        (transport, "an MPEG transport stream"),
        (vec![0; 100_000], "no known audio format"),
        (vec![0xff; 100_000], "no known audio format"),
        (b"\xff\xfet\0e\0x\0t\0".repeat(100), "no known audio format"),
    ] {
        match decode(&file) {
            Err(AudioError::Unsupported(why)) => assert!(why.contains(says), "{why:?} does not say {says:?}"),
            other => panic!("{says}: {other:?}"),
        }
    }
    for length in [1, 2, 10, 100, 1000, 5_000, 60_000, 200_000, 1_500_000] {
        for seed in 0..8 {
            let outcome = decode(&Noise(length as u64 * 100 + seed).bytes(length));
            assert!(
                matches!(outcome, Err(AudioError::Unsupported(_))),
                "{length} bytes of noise: {outcome:?}"
            );
        }
    }
}

#[test]
fn numbers_that_are_none_become_silence() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("odd.wav");
    let format = hound::WavSpec {
        channels: 2,
        sample_rate: 16_000,
        bits_per_sample: 32,
        sample_format: hound::SampleFormat::Float,
    };
    let mut writer = hound::WavWriter::create(&file, format).expect("a WAV file");
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -7.0, 0.25] {
        writer.write_sample(value).expect("a sample");
        writer.write_sample(0.5).expect("a sample");
    }
    writer.finalize().expect("a WAV file");
    let heard = decode_with(File::open(&file).expect("it"), &FileOptions::default()).expect("sound");
    assert_eq!(heard, [0.25, 0.25, 0.25, 0.75, -0.25, 0.375]);
}

#[test]
fn limits_are_kept() {
    let limited = |name: &str, limits: Limits| {
        decode_with(upload(&bytes(name)), &FileOptions { limits, ..FileOptions::default() })
    };
    let short = Limits { duration: Samples::from_millis(3000), ..Limits::default() };
    let exact = Limits { duration: Samples::from_millis(4000), ..Limits::default() };
    let slow = Limits { rate: 44_100, ..Limits::default() };
    let narrow = Limits { channels: 2, ..Limits::default() };
    for name in ["a.wav", "a.flac", "a.opus", "vbr.mp3", "a.m4a", "live.webm"] {
        assert!(matches!(limited(name, short), Err(AudioError::TooLong { .. })), "{name}");
    }
    assert!(limited("a.wav", exact).is_ok());
    assert!(matches!(limited("a.wav", slow), Err(AudioError::Limit(_))));
    assert!(matches!(limited("six.wav", narrow), Err(AudioError::Limit(_))));
    assert!(limited("a.flac", slow).is_ok() && limited("a.flac", narrow).is_ok());
    let mut still = wave(100, 236, 200, b"");
    still[24] = 1;
    still[25] = 0;
    assert!(matches!(decode(&still), Err(AudioError::Unsupported(_))), "one sample per second");
    let mut crowd = wave(70_000, 140_036, 140_000, b"");
    crowd[22..24].copy_from_slice(&u16::MAX.to_le_bytes());
    assert!(matches!(
        decode(&crowd),
        Err(AudioError::Limit(_) | AudioError::Corrupt(_) | AudioError::Unsupported(_))
    ));
}

#[test]
fn hours_of_silence_in_a_small_file_are_refused_quickly() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("long.flac");
    let name = file.to_str().expect("a plain name");
    ffmpeg(&[
        "-f",
        "lavfi",
        "-i",
        "anullsrc=r=8000:cl=mono:d=36000",
        "-frame_size",
        "65535",
        "-c:a",
        "flac",
        name,
    ]);
    let begun = Instant::now();
    let refused = decode_with(File::open(&file).expect("it"), &FileOptions::default());
    assert!(matches!(refused, Err(AudioError::TooLong { .. })), "{refused:?}");
    assert!(begun.elapsed() < Duration::from_secs(1), "refused after {:?}", begun.elapsed());

    // The same without its length: it must be found out by decoding, up to the limit and not further.
    let mut anonymous = std::fs::read(&file).expect("it");
    anonymous[21] &= 0xf0;
    anonymous[22..26].fill(0);
    let limits = Limits { duration: Samples::from_millis(1_800_000), ..Limits::default() };
    let begun = Instant::now();
    let refused = decode_with(upload(&anonymous), &FileOptions { limits, ..FileOptions::default() });
    assert!(matches!(refused, Err(AudioError::TooLong { .. })), "{refused:?}");
    assert!(begun.elapsed() < Duration::from_secs(60), "refused after {:?}", begun.elapsed());
}

#[test]
fn damaged_packets_cost_only_themselves() {
    for name in ["vbr.mp3", "a.aac", "vorbis.ogg", "a.opus", "a.flac"] {
        let mut file = bytes(name);
        let middle = file.len() / 2;
        Noise(9).fill(&mut file[middle..middle + 300]);
        let samples = decode(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
        let milliseconds = samples.len() as f64 / 16.0;
        assert!((milliseconds - 4000.0).abs() < 100.0, "{name}: {milliseconds} ms");
        let loudest =
            samples[32_000..].chunks_exact(4_000).map(|part| amplitude(part, 1250.0)).fold(0.0, f64::max);
        assert!((loudest - 0.25).abs() < 0.03, "{name}: the end is at {loudest}");
    }
}

#[test]
fn broken_files_neither_panic_nor_hang() {
    let mut noise = Noise(2024);
    let limits = Limits { duration: Samples::from_millis(20_000), ..Limits::default() };
    let options = FileOptions { limits, ..FileOptions::default() };
    let mut slowest = (Duration::ZERO, String::new());
    for (name, ..) in CONTAINERS {
        let whole = bytes(name);
        for turn in 0..24 {
            let mut file = whole.clone();
            match turn % 4 {
                0 => file.truncate(noise.below(file.len())),
                1 => file.truncate(noise.below(file.len().min(600))),
                // Headers hold the lengths, so they get most of the damage.
                2 => (0..8).for_each(|_| flip(&mut file, 600, &mut noise)),
                _ => (0..40).for_each(|_| flip(&mut file, usize::MAX, &mut noise)),
            }
            let begun = Instant::now();
            // Any outcome is right, as long as there is one.
            let outcome = decode_with(upload(&file), &options);
            let told = outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
            assert!(!told.contains("/tmp") && !told.contains("/dev"), "{name}: {told}");
            if begun.elapsed() > slowest.0 {
                slowest = (begun.elapsed(), format!("{name}, turn {turn}"));
            }
        }
    }
    assert!(slowest.0 < Duration::from_secs(10), "{} took {:?}", slowest.1, slowest.0);
}

#[test]
fn a_file_that_takes_too_long_is_given_up() {
    let (mut file, mut out) = (upload(&bytes("a.flac")), Vec::new());
    let look = sniff::look(&mut file, bytes("a.flac").len() as u64).expect("a read");
    let mut demuxed = demux::Demuxed::open(file, look, Limits::default()).expect("a FLAC file");
    assert!(demuxed.read(16_000, soon(), &mut out).expect("in time"));
    let late = demuxed.read(16_000, Instant::now(), &mut out);
    assert!(matches!(late, Err(AudioError::Corrupt(_))), "{late:?}");
}

#[test]
fn ffmpeg_reads_the_rest_where_it_is_allowed() {
    let options = FileOptions { ffmpeg: Ffmpeg::find(), ..FileOptions::default() };
    assert!(options.ffmpeg.is_some(), "ffmpeg is on the PATH where the tests run");
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, encoder) in [
        ("a.mpeg", &["-c:a", "mp2", "-f", "mpeg"][..]),
        ("a.ts", &["-c:a", "aac", "-f", "mpegts"]),
        ("a.wma", &["-c:a", "wmav2"]),
        ("a.au", &["-c:a", "pcm_s16be"]),
        ("a.ac3", &["-c:a", "ac3"]),
        ("a.wv", &["-c:a", "wavpack"]),
        ("ac3.mp4", &["-c:a", "ac3"]),
        ("a.avi", &["-c:a", "mp3"]),
    ] {
        let file = folder.path().join(name);
        make(&file, 48_000, encoder);
        let refused = decode_with(File::open(&file).expect(name), &FileOptions::default());
        assert!(matches!(refused, Err(AudioError::Unsupported(_))), "{name} without ffmpeg: {refused:?}");
        let samples = decode_with(upload(&std::fs::read(&file).expect(name)), &options);
        assert_signal(name, &samples.unwrap_or_else(|error| panic!("{name}: {error}")));
    }
    let noise = decode_with(upload(&Noise(3).bytes(50_000)), &options);
    assert!(matches!(noise, Err(AudioError::Unsupported(_))), "{noise:?}");
}

#[test]
fn ffmpeg_gets_a_file_that_it_can_seek_in() {
    let ffmpeg = Ffmpeg::find().expect("ffmpeg is on the PATH where the tests run");
    let mut file = upload(&bytes("a.m4a"));
    file.rewind().expect("a seek");
    let mut conversion = ffmpeg.convert(file).expect("a child");
    let mut out = Vec::new();
    while conversion.read(16_000, soon(), &mut out).expect("sound") {}
    assert_signal("a.m4a with its index at the end", &out);
}

#[test]
fn a_playlist_makes_ffmpeg_open_nothing() {
    let ffmpeg = Ffmpeg::find().expect("ffmpeg is on the PATH where the tests run");
    let target = sample("a.wav");
    let target = target.to_str().expect("a plain name");
    for playlist in [
        format!("#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{target}\n#EXT-X-ENDLIST\n"),
        format!("ffconcat version 1.0\nfile '{target}'\n"),
        format!("# a line\nffconcat version 1.0\nfile '{target}'\n"),
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n".to_owned(),
    ] {
        let mut file = upload(playlist.as_bytes());
        file.rewind().expect("a seek");
        let mut conversion = ffmpeg.convert(file).expect("a child");
        let outcome = conversion.read(16_000, soon(), &mut Vec::new());
        assert!(matches!(outcome, Err(AudioError::Unsupported(_))), "{playlist:?}: {outcome:?}");
        let told = outcome.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(!told.contains("a.wav") && !told.contains('/'), "{told}");
    }
}

#[cfg(unix)]
#[test]
fn a_silent_ffmpeg_is_given_up_and_killed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Another process writes the program: while this one has it open for writing, the child of any other test
    // inherits that, and a program that is being written cannot be run.
    let written = Command::new("/bin/sh")
        .args(["-c", "printf '#!/bin/sh\\nexec /bin/sleep 600\\n' > ffmpeg && chmod 755 ffmpeg"])
        .current_dir(folder.path())
        .status();
    assert!(written.expect("a shell").success());
    let ffmpeg = Ffmpeg::stand_in(folder.path().join("ffmpeg"), Duration::from_millis(500));
    let begun = Instant::now();
    let mut conversion = ffmpeg.convert(upload(b"#!AMR\n and so on")).expect("the script runs");
    let child = conversion.process();
    let outcome = conversion.read(1, soon(), &mut Vec::new());
    assert!(matches!(outcome, Err(AudioError::Corrupt(_))), "{outcome:?}");
    drop(conversion);
    assert!(begun.elapsed() < Duration::from_secs(10), "given up after {:?}", begun.elapsed());
    if Path::new("/proc/self").exists() {
        assert!(!Path::new("/proc").join(child.to_string()).exists(), "the child is still there");
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn flip(file: &mut [u8], within: usize, noise: &mut Noise) {
    let place = noise.below(file.len().min(within));
    if let Some(byte) = file.get_mut(place) {
        *byte = noise.next() as u8;
    }
}

/// Reproducible noise.
pub(super) struct Noise(pub(super) u64);

impl Noise {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 32
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub(super) fn fill(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|byte| *byte = self.next() as u8);
    }

    pub(super) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.fill(&mut bytes);
        bytes
    }
}
