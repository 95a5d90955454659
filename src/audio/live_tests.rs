//! Containers as they are being written: every format against the file decoder, in pieces of every size, healthy and
//! otherwise.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::tests::{Noise, decode, ffmpeg};
use super::*;

/// File name and the options of the encoder, each as a program writes it that cannot go back in its output.
const STREAMS: &[(&str, &[&str])] = &[
    ("page.ogg", &["-c:a", "libopus", "-b:a", "32k", "-page_duration", "20000", "-f", "ogg"]),
    ("long.ogg", &["-c:a", "libopus", "-b:a", "32k", "-f", "ogg"]),
    ("vorbis.ogg", &["-c:a", "libvorbis", "-page_duration", "20000", "-f", "ogg"]),
    ("flac.ogg", &["-c:a", "flac", "-page_duration", "20000", "-f", "ogg"]),
    (
        "live.webm",
        &["-c:a", "libopus", "-b:a", "32k", "-f", "webm", "-live", "1", "-cluster_time_limit", "60000"],
    ),
    ("clusters.webm", &["-c:a", "libopus", "-f", "webm", "-live", "1", "-cluster_time_limit", "500"]),
    ("s16.wav", &["-c:a", "pcm_s16le", "-ar", "16000", "-f", "wav"]),
    ("phone.wav", &["-c:a", "pcm_mulaw", "-ar", "8000", "-f", "wav"]),
    ("stereo.wav", &["-c:a", "pcm_f32le", "-ac", "2", "-f", "wav"]),
    ("s24.wav", &["-c:a", "pcm_s24le", "-f", "wav"]),
    ("adpcm.wav", &["-c:a", "adpcm_ms", "-f", "wav"]),
    ("a.flac", &["-c:a", "flac", "-ar", "16000", "-f", "flac"]),
    ("a.mp3", &["-c:a", "libmp3lame", "-b:a", "64k", "-write_xing", "0", "-f", "mp3"]),
    (
        "bare.mp3",
        &["-c:a", "libmp3lame", "-b:a", "64k", "-write_xing", "0", "-id3v2_version", "0", "-f", "mp3"],
    ),
    ("a.aac", &["-c:a", "aac", "-f", "adts"]),
    (
        "pieces.mp4",
        &["-c:a", "aac", "-movflags", "frag_every_frame+empty_moov+default_base_moof", "-f", "mp4"],
    ),
];

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let speech = speech();
    let speech = speech.to_str().expect("a plain name");
    for (name, options) in STREAMS {
        // Through a pipe, so that no length is filled in afterwards.
        let done = Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error", "-i", speech, "-t", "4", "-ar", "48000"])
            .args(*options)
            .arg("pipe:1")
            .output()
            .expect("ffmpeg is installed where the tests run");
        assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
        std::fs::write(folder.path().join(name), done.stdout).expect("room on the disk");
    }
    folder
});

fn speech() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/audio/sentence-01-slt.flac")
}

/// A container by its name.
pub(super) fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(FOLDER.path().join(name)).expect("a sample")
}

/// A stream that tells whenever it is waited for, and then gets its next piece.
struct Fed {
    hungry: Sender<()>,
    pieces: Receiver<Vec<u8>>,
    rest: Vec<u8>,
}

impl Read for Fed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            let _ = self.hungry.send(());
            self.rest = self.pieces.recv().unwrap_or_default();
        }
        let got = self.rest.len().min(buffer.len());
        buffer[..got].copy_from_slice(&self.rest[..got]);
        self.rest.drain(..got);
        Ok(got)
    }
}

/// How far the sound is behind the bytes, in milliseconds: the worst and the mean over all pieces.
fn lag(name: &str, piece: usize) -> (f64, f64) {
    let whole = bytes(name);
    let (hungry, waits) = channel();
    let (feeder, pieces) = channel();
    let (heard, sounds) = channel();
    let fed = Fed { hungry, pieces, rest: Vec::new() };
    let decoder = std::thread::spawn(move || {
        let mut decoder = ContainerDecoder::open(fed, &Limits::default()).expect("a stream");
        let mut out = Vec::new();
        while decoder.read(&mut out).expect("sound") {
            let _ = heard.send(out.len());
        }
    });
    let (mut worst, mut sum, mut count, mut out) = (0.0f64, 0.0, 0, 0);
    let last = whole.len() / piece;
    for (turn, bytes) in whole.chunks(piece).enumerate() {
        waits.recv().expect("it waits");
        out = sounds.try_iter().last().unwrap_or(out);
        let prefix = &whole[..turn * piece];
        // What a decoder that is told that this is all makes of it.
        if turn % 7 == 0 && turn > 0 && turn < last {
            let there = open_and_read(prefix.to_vec(), usize::MAX).map_or(0, |samples| samples.len());
            let behind = (there as f64 - out as f64) / 16.0;
            worst = worst.max(behind);
            sum += behind;
            count += 1;
        }
        feeder.send(bytes.to_vec()).expect("it listens");
    }
    drop(feeder);
    decoder.join().expect("no panic");
    (worst, sum / f64::from(count.max(1)))
}

/// A reader that gives at most so many bytes at once.
struct Sips(io::Cursor<Vec<u8>>, usize);

impl Read for Sips {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = self.1.clamp(1, buffer.len().max(1)).min(buffer.len());
        self.0.read(&mut buffer[..most])
    }
}

fn open_and_read(bytes: Vec<u8>, sip: usize) -> Result<Vec<f32>, AudioError> {
    let mut decoder = ContainerDecoder::open(Sips(io::Cursor::new(bytes), sip), &Limits::default())?;
    let mut out = Vec::new();
    while decoder.read(&mut out)? {}
    let length = out.len();
    assert!(!decoder.read(&mut out).expect("the end stays the end") && out.len() == length);
    assert!(out.iter().all(|sample| sample.abs() <= 1.0), "beyond full scale");
    Ok(out)
}

/// Where two signals differ most.
fn difference(one: &[f32], other: &[f32]) -> f32 {
    one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn a_live_container_gives_what_the_file_gives() {
    for (name, _) in STREAMS {
        let file = decode(&bytes(name)).unwrap_or_else(|error| panic!("{name} as a file: {error}"));
        let live = open_and_read(bytes(name), 4096).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(live.len(), file.len(), "{name}");
        let worst = difference(&live, &file);
        // The filter of a live stream is shorter.
        assert!(worst < 0.02, "{name} is {worst} off");
        for sip in [1, 7, 333, usize::MAX] {
            assert!(
                open_and_read(bytes(name), sip).is_ok_and(|other| other == live),
                "{name} in sips of {sip}"
            );
        }
    }
}

#[test]
fn an_mp4_is_heard_across_the_portions_of_its_index() {
    let path = FOLDER.path().join("hours.mp4");
    let (speech, path) = (speech(), path.to_str().expect("a plain name"));
    let speech = speech.to_str().expect("a plain name");
    // With places counted from the fragment, and with places counted from the start of the file.
    for more in ["+default_base_moof", "", "+dash"] {
        let flags = format!("frag_every_frame+empty_moov{more}");
        ffmpeg(&[
            "-stream_loop",
            "5",
            "-i",
            speech,
            "-ar",
            "48000",
            "-c:a",
            "aac",
            "-movflags",
            &flags,
            path,
        ]);
        let whole = bytes("hours.mp4");
        let fragments = whole.windows(4).filter(|kind| kind == b"moof").count();
        assert!(fragments > 1024, "only {fragments} fragments");
        let file = decode(&whole).expect("a file");
        let live = open_and_read(whole.clone(), 1000).expect("a stream");
        assert_eq!(live.len(), file.len(), "{flags}");
        assert!(difference(&live, &file) < 0.02, "{flags}: {} off", difference(&live, &file));
        for place in [whole.len() / 2, whole.len() * 4 / 5] {
            let torn = open_and_read(whole[..place].to_vec(), 60_000).expect("a torn stream");
            let share = place as f64 / whole.len() as f64;
            assert!(
                torn.len() as f64 > live.len() as f64 * (share - 0.05),
                "{flags}: {} samples",
                torn.len()
            );
            // The last of it was heard with silence after it.
            assert!(difference(&torn[..torn.len() - 500], &live) < 1e-6, "{flags}, torn at {place}");
        }
    }
}

#[test]
fn finished_files_can_be_streamed_too() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let speech = speech();
    for (name, options) in [
        ("a.wav", &["-c:a", "pcm_s16le"][..]),
        ("rf64.wav", &["-rf64", "always", "-c:a", "pcm_s16le"]),
        ("a.aiff", &["-c:a", "pcm_s16be"]),
        ("a.mp3", &["-c:a", "libmp3lame"]),
        ("a.webm", &["-c:a", "libopus"]),
        ("a.mkv", &["-c:a", "aac"]),
        ("front.m4a", &["-c:a", "aac", "-movflags", "+faststart"]),
    ] {
        let path = folder.path().join(name);
        let path = path.to_str().expect("a plain name");
        ffmpeg(&[&["-i", speech.to_str().expect("a plain name"), "-t", "3"], options, &[path]].concat());
        let bytes = std::fs::read(path).expect("a file");
        let file = decode(&bytes).unwrap_or_else(|error| panic!("{name} as a file: {error}"));
        let live = open_and_read(bytes, 1000).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(live.len().abs_diff(file.len()) < 16, "{name}: {} and {}", live.len(), file.len());
        let worst = difference(&live, &file);
        assert!(worst < 0.01, "{name} is {worst} off");
    }
}

/// The sound is never further behind the bytes than the resampler's block, a packet of the demuxer, and what a format
/// needs to know where its packet ends.
#[test]
fn sound_comes_out_as_it_comes_in() {
    for (name, _) in STREAMS {
        let (worst, mean) = lag(name, 160);
        println!("{name:16} worst {worst:5.1} ms, mean {mean:5.1} ms");
        let bound = match *name {
            "s16.wav" => 0.5,
            "adpcm.wav" => 80.0,
            // The demuxer reads as many bytes as the last packets had, however short the next one is.
            "a.flac" => 700.0,
            _ => 50.0,
        };
        assert!(worst <= bound, "{name} is up to {worst} ms behind");
    }
}

/// A decoder that adds nothing would still be behind if it waited for a whole cluster.
#[test]
fn blocks_of_a_cluster_come_out_one_by_one() {
    let whole = bytes("live.webm");
    let clusters = whole.windows(4).filter(|id| id == b"\x1f\x43\xb6\x75").count();
    assert!(clusters <= 1, "{clusters} clusters in four seconds");
    let half = open_and_read(whole[..whole.len() / 2].to_vec(), usize::MAX).expect("half a cluster");
    assert!((20_000..44_000).contains(&half.len()), "{} samples in half of the bytes", half.len());
}

#[test]
fn a_recorder_that_is_started_again_is_heard_on() {
    for (first, second) in [("live.webm", "clusters.webm"), ("page.ogg", "long.ogg"), ("a.mp3", "bare.mp3")] {
        let both = [bytes(first), bytes(second)].concat();
        let live = open_and_read(both, 100).unwrap_or_else(|error| panic!("{first} + {second}: {error}"));
        let apart = [first, second].map(|name| open_and_read(bytes(name), 100).expect("sound"));
        let expected = apart[0].len() + apart[1].len();
        assert!(live.len().abs_diff(expected) < 4_000, "{first} + {second}: {} for {expected}", live.len());
        let end = &live[live.len() - 16_000..];
        assert!(
            difference(end, &apart[1][apart[1].len() - 16_000..]) < 0.2,
            "{first} + {second}: another end"
        );
    }
}

#[test]
fn a_stream_may_break_off_anywhere() {
    for (name, _) in STREAMS {
        let whole = bytes(name);
        let places = (0..40).chain((1..40).map(|part| whole.len() * part / 40));
        for place in places {
            match open_and_read(whole[..place].to_vec(), 777) {
                Ok(samples) => {
                    let share = place as f64 / whole.len() as f64;
                    let heard = samples.len() as f64 / 64_000.0;
                    // Speech is no constant stream of bytes, and a long page may break off.
                    assert!(heard > share - 0.45, "{name} cut at {place}: {heard} of it");
                }
                Err(AudioError::Io(error)) => panic!("{name} cut at {place}: {error}"),
                Err(error) => assert!(place < whole.len() / 2, "{name} cut at {place}: {error}"),
            }
        }
    }
}

#[test]
fn what_cannot_be_streamed_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let speech = speech();
    for (name, says) in [("a.m4a", "only be read as a whole"), ("a.caf", "only be read as a whole")] {
        let path = folder.path().join(name);
        ffmpeg(&["-i", speech.to_str().expect("a plain name"), path.to_str().expect("a plain name")]);
        let refused = open_and_read(std::fs::read(path).expect("a file"), 50);
        assert!(
            matches!(&refused, Err(AudioError::Unsupported(why)) if why.contains(says)),
            "{name}: {refused:?}"
        );
    }
    let text = "just some text, which is no sound\n".repeat(100).into_bytes();
    for (bytes, says) in [
        (text, "a text"),
        (b"short".to_vec(), "a text"),
        ([b"RIFF\0\0\0\0AVI LIST".to_vec(), vec![0; 2000]].concat(), "an AVI video"),
        (vec![0; 200_000], "no known audio format"),
        (Noise(5).bytes(300_000), "no known audio format"),
    ] {
        let refused = open_and_read(bytes, 100);
        assert!(
            matches!(&refused, Err(AudioError::Unsupported(why)) if why.contains(says)),
            "{says}: {refused:?}"
        );
    }
    assert!(matches!(open_and_read(Vec::new(), 1), Err(AudioError::Empty)));
    let mut tag = b"ID3\x04\0\0\0\x7f\x7f\x7f".to_vec();
    tag.resize(2_097_151 + 10, 7);
    let tagged = open_and_read([tag, bytes("bare.mp3")].concat(), 60_000).expect("sound behind a large tag");
    assert_eq!(tagged, open_and_read(bytes("bare.mp3"), 60_000).expect("sound"));
    let noise = [Noise(8).bytes(700), bytes("a.aac")].concat();
    assert_eq!(open_and_read(noise, 9).expect("sound"), open_and_read(bytes("a.aac"), 9).expect("sound"));
}

/// Waits before each piece, then gives it; fails at last.
struct Slow(Receiver<()>, io::Cursor<Vec<u8>>);

impl Read for Slow {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let _ = self.0.recv_timeout(Duration::from_millis(50));
        let most = buffer.len().min(2000);
        match self.1.read(&mut buffer[..most])? {
            0 => Err(io::ErrorKind::ConnectionReset.into()),
            got => Ok(got),
        }
    }
}

#[test]
fn waiting_is_not_decoding_and_a_lost_connection_is_no_end() {
    let (_held, never) = channel();
    let slow = source::Inflow::new(Slow(never, io::Cursor::new(bytes("a.mp3"))));
    let mut demuxed = demux::Demuxed::follow(slow, Limits::default()).expect("a stream");
    let (mut out, begun) = (Vec::new(), Instant::now());
    let end = loop {
        match demuxed.read(16_000, Instant::now() + Duration::from_millis(150), &mut out) {
            Ok(true) => {}
            end => break end,
        }
    };
    assert!(matches!(end, Err(AudioError::Io(_))), "{end:?}");
    assert!(begun.elapsed() > Duration::from_millis(200), "it was never waited for");
    assert!(out.len() > 60_000, "{} samples", out.len());
}

const MAGICS: &[&[u8]] = &[
    b"RIFF\0\0\0\0WAVEfmt ",
    b"OggS\0\x02",
    b"\x1a\x45\xdf\xa3",
    b"fLaC",
    b"\0\0\0\x20ftypisom",
    b"FORM\0\0\0\0AIFF",
    b"ID3\x04\0",
    b"\xff\xfb\x90\0",
    b"caff",
    b"",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn garbage_in_a_container_ends(
        stream in 0..STREAMS.len(),
        damage in proptest::collection::vec((0usize..60_000, any::<u8>()), 0..40),
        header in proptest::collection::vec((0usize..600, any::<u8>()), 0..8),
        sip in prop_oneof![Just(usize::MAX), 1usize..5_000],
    ) {
        let (name, _) = STREAMS[stream];
        let mut file = bytes(name);
        for (place, byte) in damage.into_iter().chain(header) {
            let place = place % file.len();
            file[place] = byte;
        }
        let begun = Instant::now();
        // Any outcome is right, as long as there is one.
        let outcome = open_and_read(file, sip);
        prop_assert!(!matches!(outcome, Err(AudioError::Io(_))), "{name}: {outcome:?}");
        prop_assert!(begun.elapsed() < Duration::from_secs(10), "{name}: {:?}", begun.elapsed());
    }

    #[test]
    fn garbage_behind_a_signature_ends(
        magic in 0..MAGICS.len(),
        rest in proptest::collection::vec(any::<u8>(), 0..4_000),
    ) {
        let outcome = open_and_read([MAGICS[magic], &rest].concat(), 100);
        prop_assert!(!matches!(outcome, Err(AudioError::Io(_))), "{outcome:?}");
    }
}
