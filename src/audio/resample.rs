//! Mono samples of any rate to 16 kHz.
//!
//! The contract: N samples in give exactly `round(N * 16000 / rate)` samples out, aligned in time with the input
//! (the delay of the filter is cut off in front and flushed out at the end), and the output does not depend on
//! how the input was cut into chunks. At 16 kHz the samples pass through untouched.

use audioadapter_buffers::direct::SequentialSlice;
use rubato::{Fft, FixedSync, Indexing, Resampler as _, WindowFunction};

use crate::transcript::RATE;

/// Input frames per transform of a file, where the two rates allow it: a filter that is flat to 7 kHz.
const BLOCK: usize = 1024;

/// The same for a live stream, as a share of a second: its sound waits for one and a half of these, and a filter
/// that is half as long would cost a telephone line everything above 3 kHz.
const BLOCKS_PER_SECOND: u32 = 50;

/// A running conversion of one mono signal to 16 kHz.
pub struct Resampler {
    /// Nothing when the input is at 16 kHz already.
    filter: Option<Filter>,
    rate: u32,
    received: u64,
    delivered: u64,
}

/// The transform with its buffers.
struct Filter {
    fft: Box<Fft<f32>>,
    /// Input that does not fill a block yet.
    waiting: Vec<f32>,
    /// One block of output.
    block: Vec<f32>,
    /// Output that is still to be dropped because it lies before the first input sample.
    early: usize,
}

impl Resampler {
    /// A conversion from `rate` Hz. `None` if the rate is 0.
    pub fn new(rate: u32) -> Option<Self> {
        Self::with_block(rate, BLOCK)
    }

    /// The same for sound that somebody waits for: in blocks of 20 ms where the rates allow it, else as short as
    /// they do (40 ms from 22,050 Hz, 80 ms from 11,025 Hz, up to two seconds from a rate that has no divisor in
    /// common with 16 kHz).
    pub fn live(rate: u32) -> Option<Self> {
        Self::with_block(rate, (rate / BLOCKS_PER_SECOND) as usize)
    }

    fn with_block(rate: u32, block: usize) -> Option<Self> {
        let filter = if rate == RATE { None } else { Some(Filter::new(rate, block)?) };
        Some(Self { filter, rate, received: 0, delivered: 0 })
    }

    /// The rate of the input, in Hz.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// Takes the next stretch of input and appends to `out` what is ready.
    pub fn push(&mut self, input: &[f32], out: &mut Vec<f32>) {
        self.received += input.len() as u64;
        let before = out.len();
        match &mut self.filter {
            None => out.extend_from_slice(input),
            Some(filter) => filter.push(input, out),
        }
        self.delivered += (out.len() - before) as u64;
    }

    /// Appends the rest that the filter still holds. The conversion then starts anew, as if just made.
    pub fn finish(&mut self, out: &mut Vec<f32>) {
        let owed = output_length(self.received, self.rate).saturating_sub(self.delivered);
        if let Some(filter) = &mut self.filter {
            let end = out.len() + usize::try_from(owed).unwrap_or(usize::MAX);
            while out.len() < end {
                filter.turn(out);
            }
            out.truncate(end);
            filter.reset();
        }
        self.received = 0;
        self.delivered = 0;
    }
}

impl Filter {
    fn new(rate: u32, least: usize) -> Option<Self> {
        // A whole number of the shortest stretches that are a whole number of samples on both sides, and an even
        // number of samples, so that the delay of the filter is a whole number too.
        let unit = (rate / greatest_common_divisor(rate, RATE).max(1)) as usize;
        let units = least.div_ceil(unit.max(1)).max(1);
        let block = unit * (units + (unit * units) % 2);
        let (window, fixed) = (WindowFunction::BlackmanHarris2, FixedSync::Input);
        let fft = Fft::new_custom(rate as usize, RATE as usize, block, 1, 1, window, fixed).ok()?;
        let (early, most) = (fft.output_delay(), fft.output_frames_max());
        Some(Self { fft: Box::new(fft), waiting: Vec::new(), block: vec![0.0; most], early })
    }

    fn push(&mut self, mut input: &[f32], out: &mut Vec<f32>) {
        while !input.is_empty() {
            let wanted = self.fft.input_frames_next() - self.waiting.len();
            let (now, later) = input.split_at(wanted.min(input.len()));
            self.waiting.extend_from_slice(now);
            input = later;
            if now.len() == wanted {
                self.turn(out);
            }
        }
    }

    /// Transforms one block, whatever is missing in it taken as silence.
    fn turn(&mut self, out: &mut Vec<f32>) {
        const FITS: &str = "the buffers have the sizes that the transform named";
        let (given, room) = (self.waiting.len(), self.block.len());
        let input = SequentialSlice::new(&self.waiting, 1, given).expect(FITS);
        let mut output = SequentialSlice::new_mut(&mut self.block, 1, room).expect(FITS);
        let partial = Indexing::new().partial_len(given);
        let (_, made) = self.fft.process_into_buffer(&input, &mut output, Some(&partial)).expect(FITS);
        self.waiting.clear();
        let dropped = self.early.min(made);
        self.early -= dropped;
        // The filter may overshoot at a full-scale edge.
        out.extend(self.block[dropped..made].iter().map(|sample| sample.clamp(-1.0, 1.0)));
    }

    fn reset(&mut self) {
        self.fft.reset();
        self.waiting.clear();
        self.early = self.fft.output_delay();
    }
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// How many samples `received` samples at `rate` Hz become, to the nearest.
fn output_length(received: u64, rate: u32) -> u64 {
    let (received, rate) = (u128::from(received), u128::from(rate.max(1)));
    u64::try_from((received * u128::from(RATE) + rate / 2) / rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn convert(rate: u32, input: &[f32], cut: impl Fn(usize) -> usize) -> Vec<f32> {
        let mut resampler = Resampler::new(rate).expect("a rate above 0");
        let (mut out, mut rest, mut turn) = (Vec::new(), input, 0);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(cut(turn).clamp(1, rest.len()));
            resampler.push(now, &mut out);
            (rest, turn) = (later, turn + 1);
        }
        resampler.finish(&mut out);
        out
    }

    fn tone(rate: u32, hertz: f32, length: usize) -> Vec<f32> {
        let step = std::f64::consts::TAU * f64::from(hertz) / f64::from(rate);
        (0..length).map(|n| 0.5 * (step * n as f64).sin() as f32).collect()
    }

    #[test]
    fn the_length_is_the_rounded_ratio() {
        for rate in [8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 37_123] {
            for length in [0, 1, 2, 3, 159, 160, 1023, 1024, 1025, 44_100, 50_001] {
                let expected = (length as f64 * 16_000.0 / f64::from(rate)).round() as usize;
                let out = convert(rate, &vec![0.25; length], |_| 1000);
                assert_eq!(out.len(), expected, "{length} samples at {rate} Hz");
            }
        }
    }

    #[test]
    fn a_tone_stays_where_and_what_it_was() {
        for rate in [8_000, 11_025, 24_000, 44_100, 48_000, 192_000] {
            let out = convert(rate, &tone(rate, 1_000.0, rate as usize), |_| 777);
            let ideal = tone(16_000, 1_000.0, 16_000);
            let worst = out.iter().zip(&ideal).skip(1600).take(12_800).map(|(a, b)| (a - b).abs());
            let worst = worst.fold(0.0, f32::max);
            assert!(worst < 2e-3, "{worst} off at {rate} Hz");
        }
    }

    #[test]
    fn what_16_khz_cannot_carry_does_not_fold_back() {
        let out = convert(48_000, &tone(48_000, 10_000.0, 48_000), |_| 4096);
        assert!(out[1600..14_400].iter().all(|sample| sample.abs() < 1e-4));
        let kept = convert(48_000, &tone(48_000, 7_000.0, 48_000), |_| 4096);
        let loudest = kept[1600..14_400].iter().fold(0.0f32, |most, sample| most.max(sample.abs()));
        assert!((loudest - 0.5).abs() < 0.01, "7 kHz came out at {loudest}");
    }

    #[test]
    fn it_can_be_used_again_after_the_end() {
        let input = tone(44_100, 440.0, 10_000);
        let mut resampler = Resampler::new(44_100).expect("a rate above 0");
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for out in [&mut first, &mut second] {
            resampler.push(&input, out);
            resampler.finish(out);
        }
        assert_eq!(first, second);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn chunks_do_not_matter(
            rate in prop_oneof![Just(8_000u32), Just(16_000), Just(44_100), Just(48_000), 2_000u32..100_000],
            cuts in proptest::collection::vec(1usize..5_000, 1..20),
            length in 0usize..20_000,
        ) {
            let input: Vec<f32> = (0..length).map(|n| ((n * 7919 % 2000) as f32 - 1000.0) / 1000.0).collect();
            let whole = convert(rate, &input, |_| usize::MAX);
            let pieces = convert(rate, &input, |turn| cuts[turn % cuts.len()]);
            prop_assert_eq!(whole, pieces);
        }
    }
}
