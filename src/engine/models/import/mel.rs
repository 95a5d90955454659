//! The mel filters that stand in every ggml file.
//!
//! They are those of librosa's `filters.mel(sr=16000, n_fft=400)`, with which Whisper was trained: Slaney's scale,
//! each triangle of area one. The steps and the places where values are rounded to 32 bits are librosa's own, so
//! that the result is the same bit for bit.

/// Samples per second.
const RATE: f64 = 16_000.0;
/// Frequencies of a transform of 400 samples.
pub(super) const BINS: usize = 201;
/// Hertz per mel below [`LOG_FROM`], where the scale is linear.
const LINEAR: f64 = 200.0 / 3.0;
/// Hertz; above it the scale is logarithmic.
const LOG_FROM: f64 = 1000.0;

/// The filters of so many bands, one band after the other.
pub(super) fn filters(bands: usize) -> Vec<f32> {
    let log_step = 6.4_f64.ln() / 27.0;
    let log_from = LOG_FROM / LINEAR;
    let highest = log_from + (RATE / 2.0 / LOG_FROM).ln() / log_step;
    let step = highest / (bands + 1) as f64;
    let edges: Vec<f64> = (0..bands + 2)
        .map(|edge| {
            let mel = if edge == bands + 1 { highest } else { edge as f64 * step };
            if mel < log_from { LINEAR * mel } else { LOG_FROM * (log_step * (mel - log_from)).exp() }
        })
        .collect();
    let bin = RATE / 400.0;
    let mut filters = Vec::with_capacity(bands * BINS);
    for edge in edges.windows(3) {
        let area = 2.0 / (edge[2] - edge[0]);
        filters.extend((0..BINS).map(|n| {
            let frequency = n as f64 * bin;
            let rising = -(edge[0] - frequency) / (edge[1] - edge[0]);
            let falling = (edge[2] - frequency) / (edge[2] - edge[1]);
            let height = rising.min(falling).max(0.0) as f32;
            (f64::from(height) * area) as f32
        }));
    }
    filters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "whisper")]
    #[test]
    fn eighty_bands_are_those_of_the_bundled_model() {
        let bundled = super::super::super::bundled().expect("it unpacks");
        // Behind the magic, eleven numbers and the size of the filters.
        let theirs = bundled[56..56 + 80 * BINS * 4].as_chunks::<4>().0;
        let ours = filters(80);
        assert_eq!(ours.len(), theirs.len());
        for (place, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
            assert_eq!(ours.to_le_bytes(), *theirs, "{place}");
        }
    }

    #[test]
    fn triangles_have_area_one_and_cover_all_bins() {
        for bands in [80, 128] {
            let filters = filters(bands);
            assert_eq!(filters.len(), bands * BINS);
            for (band, filter) in filters.chunks(BINS).enumerate() {
                assert!(filter.iter().all(|height| (0.0..0.1).contains(height)), "{bands} {band}");
                assert!(filter.iter().any(|height| *height > 0.0), "{bands} {band}");
            }
            let bare = |bin: usize| filters.iter().skip(bin).step_by(BINS).all(|height| *height == 0.0);
            assert!(!(1..BINS - 1).any(bare), "{bands}");
        }
    }
}
