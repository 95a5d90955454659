//! What a minute of audio costs: decoding per container, and resampling per rate.
//!
//! The inputs are made with ffmpeg when the benchmark starts, so it must be on the `PATH`.

use std::fs::File;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;

use criterion::{BenchmarkId, Criterion};
use whisperwire::audio::{FileDecoder, FileOptions, Resampler};

/// A minute of moving tones over noise: silence or one tone would flatter the codecs.
const MINUTE: &str = "aevalsrc='0.3*sin(2*PI*(200+30*sin(3*t))*t)+0.05*(random(0)-0.5)\
    |0.3*sin(2*PI*(500+90*sin(2*t))*t)+0.05*(random(1)-0.5)':d=60:s=48000";

fn main() {
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    let folder = tempfile::tempdir().expect("a temporary folder");
    decode(&mut criterion, folder.path());
    resample(&mut criterion);
    criterion.final_summary();
}

fn decode(criterion: &mut Criterion, folder: &Path) {
    let mut group = criterion.benchmark_group("decode a minute");
    for name in ["48k-stereo.wav", "48k-stereo.mp3", "48k-stereo.opus", "48k-stereo.flac"] {
        let file = make(folder, name);
        group.bench_function(name, |bench| bench.iter(|| black_box(decode_all(&file))));
    }
    group.finish();
}

fn make(folder: &Path, name: &str) -> PathBuf {
    let file = folder.join(name);
    let made = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-f", "lavfi", "-i", MINUTE])
        .arg(&file)
        .status()
        .expect("ffmpeg is on the PATH");
    assert!(made.success(), "ffmpeg could not make {name}");
    file
}

fn decode_all(file: &Path) -> usize {
    let file = File::open(file).expect("the file was made a moment ago");
    let mut decoder = FileDecoder::open(file, &FileOptions::default()).expect("a format that is known");
    let (mut stretch, mut length) = (Vec::new(), 0);
    while decoder.read(&mut stretch).expect("an undamaged file") {
        length += stretch.len();
        stretch.clear();
    }
    assert!(length.abs_diff(60 * 16_000) < 1_600, "{length} samples are not a minute");
    length
}

fn resample(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("resample a minute of mono");
    for rate in [8_000u32, 24_000, 44_100, 48_000] {
        let input: Vec<f32> = (0..60 * rate).map(|n| (n % 977) as f32 / 977.0 - 0.5).collect();
        group.bench_with_input(BenchmarkId::from_parameter(rate), &input, |bench, input| {
            bench.iter(|| {
                let mut resampler = Resampler::new(rate).expect("a rate above 0");
                let mut out = Vec::with_capacity(60 * 16_000);
                input.chunks(4096).for_each(|chunk| resampler.push(chunk, &mut out));
                resampler.finish(&mut out);
                black_box(out.len())
            });
        });
    }
    group.finish();
}
