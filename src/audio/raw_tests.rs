//! Raw samples and Opus packets: against ffmpeg, in chunks of every size, with everything lost that can be lost.

use std::io;

use proptest::prelude::*;

use super::live_tests::bytes;
use super::tests::{Noise, ffmpeg};
use super::*;

const CODINGS: [(Coding, &str); 4] =
    [(Coding::S16le, "s16le"), (Coding::F32le, "f32le"), (Coding::Mulaw, "mulaw"), (Coding::Alaw, "alaw")];

fn pcm(coding: Coding, rate: u32, channels: u16) -> LiveDecoder {
    LiveDecoder::new(LiveFormat::Pcm { coding, rate, channels }, &Limits::default()).expect("a plain format")
}

/// The whole of it in pieces of the given sizes, over and over.
fn in_pieces(mut decoder: LiveDecoder, mut bytes: &[u8], sizes: &[usize]) -> Vec<f32> {
    let mut out = Vec::new();
    for size in sizes.iter().cycle() {
        let (now, later) = bytes.split_at((*size).min(bytes.len()));
        decoder.push(now, &mut out).expect("raw samples");
        bytes = later;
        if bytes.is_empty() {
            break;
        }
    }
    decoder.finish(&mut out);
    out
}

#[test]
fn a_decoder_may_move_to_another_thread() {
    fn moves<T: Send + 'static>() {}
    moves::<LiveDecoder>();
    moves::<ContainerDecoder>();
}

#[test]
fn every_coding_is_read_as_ffmpeg_reads_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (raw, plain) = (folder.path().join("raw"), folder.path().join("plain"));
    let (raw, plain) = (raw.to_str().expect("a plain name"), plain.to_str().expect("a plain name"));
    for (coding, name) in CODINGS {
        for channels in [1u16, 2] {
            let written: Vec<u8> = match coding {
                // Every value there is, and some noise after it.
                Coding::Mulaw | Coding::Alaw => (0..=255).chain(Noise(1).bytes(4096)).collect(),
                Coding::S16le => Noise(2).bytes(32_000),
                Coding::F32le => (0..8_000).flat_map(|n| (n as f32 / 4_000.0 - 1.0).to_le_bytes()).collect(),
            };
            std::fs::write(raw, &written).expect("room on the disk");
            let count = channels.to_string();
            ffmpeg(&["-f", name, "-ar", "16000", "-ac", &count, "-i", raw, "-f", "f32le", plain]);
            let plain = std::fs::read(plain).expect("its output");
            let samples: Vec<f32> =
                plain.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            let frames = samples.chunks_exact(usize::from(channels));
            let expected: Vec<f32> =
                frames.map(|frame| frame.iter().sum::<f32>() / f32::from(channels)).collect();
            let heard = in_pieces(pcm(coding, 16_000, channels), &written, &[usize::MAX]);
            assert!(expected.len() > 2_000, "{name}: ffmpeg made {} samples", expected.len());
            assert_eq!(heard, expected, "{name}, {channels} channels");
        }
    }
}

#[test]
fn a_float_that_is_no_number_is_silence() {
    let bytes: Vec<u8> = [f32::NAN, f32::INFINITY, -7.0, 1e30, 0.5, -0.0]
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let heard = in_pieces(pcm(Coding::F32le, 16_000, 1), &bytes, &[5]);
    assert_eq!(heard, [0.0, 0.0, -1.0, 1.0, 0.5, 0.0]);
}

#[test]
fn raw_samples_come_out_at_once() {
    for (rate, most) in [(16_000, 0.8), (8_000, 30.1), (24_000, 30.1), (44_100, 30.1), (48_000, 30.1)] {
        let (mut decoder, mut out, mut worst) = (pcm(Coding::S16le, rate, 1), Vec::new(), 0.0f64);
        for received in 1..=rate {
            decoder.push(&[0, 1], &mut out).expect("raw samples");
            worst = worst.max(f64::from(received) * 1000.0 / f64::from(rate) - out.len() as f64 / 16.0);
        }
        assert!(worst < most, "{rate} Hz: {worst} ms behind");
        decoder.finish(&mut out);
        assert_eq!(out.len(), 16_000, "{rate} Hz");
    }
}

#[test]
fn a_file_in_place_of_raw_samples_is_named() {
    for (name, says) in [
        ("s16.wav", "a WAV file"),
        ("page.ogg", "an Ogg file"),
        ("live.webm", "a WebM or Matroska file"),
        ("a.flac", "a FLAC file"),
        ("a.mp3", "an MP3 file"),
        ("pieces.mp4", "an MP4 file"),
    ] {
        for size in [1, 5, 12, 1000] {
            let (mut decoder, mut out) = (pcm(Coding::S16le, 16_000, 1), Vec::new());
            let bytes = bytes(name);
            let refused = bytes.chunks(size).find_map(|chunk| decoder.push(chunk, &mut out).err());
            let told = refused.map(|error| error.to_string()).unwrap_or_default();
            assert!(told.contains(&format!("this is {says}, not the raw samples")), "{name}: {told:?}");
            assert!(out.is_empty(), "{name}: {} samples of a header", out.len());
        }
    }
}

#[test]
fn after_a_reconnect_the_client_begins_with_a_whole_frame() {
    let samples: Vec<i16> = (0..1000).map(|n| n * 30).collect();
    let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    for (cut, lost) in [(0, 0), (3, 3), (7, 3), (8, 0), (11, 3), (13, 1), (400, 0), (402, 2), (1001, 1)] {
        let (mut decoder, mut out) = (pcm(Coding::S16le, 16_000, 2), Vec::new());
        decoder.push(&bytes[..cut], &mut out).expect("raw samples");
        assert_eq!(decoder.drop_partial(), lost, "cut at {cut}");
        assert_eq!(decoder.drop_partial(), 0);
        decoder.push(&bytes[cut - lost..], &mut out).expect("raw samples");
        decoder.finish(&mut out);
        assert_eq!(out, in_pieces(pcm(Coding::S16le, 16_000, 2), &bytes, &[999]), "cut at {cut}");
    }
}

#[test]
fn formats_beyond_the_limits_are_refused() {
    let limits = Limits { channels: 2, rate: 48_000, ..Limits::default() };
    let raw = |rate, channels| LiveFormat::Pcm { coding: Coding::S16le, rate, channels };
    for format in [
        raw(0, 1),
        raw(1_999, 1),
        raw(48_001, 1),
        raw(u32::MAX, 1),
        raw(16_000, 0),
        raw(16_000, 3),
        raw(16_000, u16::MAX),
        LiveFormat::OpusPackets { channels: 0 },
        LiveFormat::OpusPackets { channels: 3 },
        LiveFormat::Container,
    ] {
        assert!(LiveDecoder::new(format, &limits).is_err(), "{format:?}");
    }
    for format in [raw(2_000, 2), raw(48_000, 2), raw(37_123, 1), LiveFormat::OpusPackets { channels: 2 }] {
        assert!(LiveDecoder::new(format, &limits).is_ok(), "{format:?}");
    }
    for (name, limits) in
        [("stereo.wav", Limits { channels: 1, ..limits }), ("a.mp3", Limits { rate: 8_000, ..limits })]
    {
        let refused = ContainerDecoder::open(io::Cursor::new(bytes(name)), &limits).err();
        assert!(matches!(refused, Some(AudioError::Limit(_))), "{name}: {refused:?}");
    }
}

fn opus_stream(channels: u16) -> LiveDecoder {
    LiveDecoder::new(LiveFormat::OpusPackets { channels }, &Limits::default()).expect("a plain format")
}

/// A tone of 440 Hz in packets of the given length.
fn opus_packets(channels: u16, milliseconds: usize, count: usize) -> Vec<Vec<u8>> {
    let layout = if channels == 1 { opus::Channels::Mono } else { opus::Channels::Stereo };
    let mut encoder = opus::Encoder::new(48_000, layout, opus::Application::Voip).expect("an encoder");
    let (length, each) = (48 * milliseconds, usize::from(channels));
    let packet = |turn: usize| {
        let time = |n: usize| (turn * length + n / each) as f64 / 48_000.0;
        let tone = (0..length * each).map(|n| (0.5 * (std::f64::consts::TAU * 440.0 * time(n)).sin()) as f32);
        encoder.encode_vec_float(&tone.collect::<Vec<f32>>(), 4000).expect("a packet")
    };
    (0..count).map(packet).collect()
}

fn loudness(samples: &[f32]) -> f32 {
    (samples.iter().map(|sample| sample * sample).sum::<f32>() / samples.len() as f32).sqrt()
}

#[test]
fn opus_packets_are_heard_and_missing_ones_made_up() {
    let (corrupt, endless) = ([3u8, 0], [0x1bu8, 63]);
    for (channels, milliseconds) in [(1, 20), (2, 20), (1, 60), (2, 10), (1, 40)] {
        let (mut decoder, mut out) = (opus_stream(channels), Vec::new());
        let mut length = 0;
        for (turn, packet) in opus_packets(channels, milliseconds, 40).iter().enumerate() {
            let (chunk, heard): (&[u8], Heard) = match turn {
                25 => (&corrupt, Heard::Concealed),
                28 => (&endless, Heard::Concealed),
                32 => (&[], Heard::Concealed),
                _ => (packet, Heard::Sound),
            };
            assert_eq!(decoder.push(chunk, &mut out).expect("a packet"), heard, "packet {turn}");
            length += milliseconds * 16;
            assert_eq!(out.len(), length, "after packet {turn} of {milliseconds} ms");
        }
        assert_eq!(decoder.drop_partial(), 0);
        decoder.finish(&mut out);
        assert_eq!(out.len(), length);
        let lost = &out[25 * milliseconds * 16..26 * milliseconds * 16];
        assert!(
            (loudness(&out[3200..6400]) - 0.3536).abs() < 0.03,
            "a tone at {}",
            loudness(&out[3200..6400])
        );
        assert!(loudness(lost) > 0.02, "{milliseconds} ms were made up at {}", loudness(lost));
    }
    let (mut decoder, mut out) = (opus_stream(1), Vec::new());
    assert_eq!(decoder.push(&[], &mut out).expect("a lost packet"), Heard::Concealed);
    assert_eq!(decoder.push(&vec![0xfb; 100_000], &mut out).expect("a huge one"), Heard::Concealed);
    assert_eq!(out, [0.0; 640]);
}

#[test]
fn a_stream_of_corrupt_packets_is_given_up() {
    let (mut decoder, mut out) = (opus_stream(2), Vec::new());
    let good = &opus_packets(2, 20, 1)[0];
    for _ in 0..2 {
        for _ in 0..99 {
            assert_eq!(decoder.push(&[3, 0], &mut out).expect("not yet"), Heard::Concealed);
        }
        assert_eq!(decoder.push(good, &mut out).expect("a good one"), Heard::Sound);
    }
    (0..99).for_each(|_| assert!(decoder.push(&[3, 0], &mut out).is_ok()));
    let end = decoder.push(&[3, 0], &mut out);
    assert!(matches!(end, Err(AudioError::Corrupt(_))), "{end:?}");
    let (mut patient, mut silence) = (opus_stream(1), Vec::new());
    (0..1000).for_each(|_| assert!(patient.push(&[], &mut silence).is_ok()));
    assert_eq!(silence.len(), 320_000);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn chunks_of_raw_samples_do_not_matter(
        coding in 0usize..4,
        rate in prop_oneof![Just(8_000u32), Just(16_000), Just(48_000), Just(44_100)],
        channels in 1u16..6,
        bytes in proptest::collection::vec(any::<u8>(), 0..6_000),
        sizes in proptest::collection::vec(1usize..400, 1..12),
    ) {
        let (coding, _) = CODINGS[coding];
        let whole = in_pieces(pcm(coding, rate, channels), &bytes, &[usize::MAX]);
        let pieces = in_pieces(pcm(coding, rate, channels), &bytes, &sizes);
        let frames = bytes.len() / (coding.width() * usize::from(channels));
        prop_assert_eq!(whole.len() as u64, (frames as u64 * 16_000 + u64::from(rate) / 2) / u64::from(rate));
        prop_assert!(whole.iter().all(|sample| sample.abs() <= 1.0));
        prop_assert_eq!(whole, pieces);
    }

    #[test]
    fn garbage_packets_end(
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..400), 0..300),
        channels in 1u16..=2,
    ) {
        let (mut decoder, mut out) = (opus_stream(channels), Vec::new());
        for packet in &packets {
            let before = out.len();
            match decoder.push(packet, &mut out) {
                Ok(_) => prop_assert!((40..=1920).contains(&(out.len() - before))),
                Err(error) => {
                    prop_assert!(matches!(error, AudioError::Corrupt(_)), "{:?}", error);
                    break;
                }
            }
        }
        prop_assert!(out.iter().all(|sample| sample.abs() <= 1.0));
    }
}
