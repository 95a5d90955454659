//! Many measurements in a few numbers.
//!
//! A percentile is the smallest measurement that at least so many in a hundred do not exceed (nearest rank), so it
//! is always one that happened. Pure.

use serde::Serialize;

/// A number of measurements of one kind, in milliseconds unless it is said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) count: usize,
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Summary {
    /// `None` where nothing was measured.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let max = *sorted.last()?;
        let at = |percent| tenths(percentile(&sorted, percent));
        Some(Self { count: sorted.len(), p50: at(50.0), p95: at(95.0), p99: at(99.0), max: tenths(max) })
    }

    /// Seconds as milliseconds.
    pub(crate) fn of_seconds(values: &[f64]) -> Option<Self> {
        Self::of(&values.iter().map(|seconds| seconds * 1000.0).collect::<Vec<_>>())
    }
}

/// The smallest of these that `percent` of them do not exceed. They are in order, and there is at least one.
pub(crate) fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// Cut to what means something.
pub(crate) fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measurements() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        let at = |percent| percentile(&hundred, percent);
        assert_eq!((at(0.0), at(50.0), at(95.0), at(99.0), at(100.0)), (1.0, 50.0, 95.0, 99.0, 100.0));
        let few = [1.0, 2.0, 30.0];
        assert_eq!((percentile(&few, 50.0), percentile(&few, 95.0)), (2.0, 30.0));
        assert_eq!(percentile(&[7.0], 1.0), 7.0);
    }

    #[test]
    fn a_summary_orders_what_it_gets() {
        let summary = Summary::of_seconds(&[0.3, 0.1, 0.2]).expect("three");
        assert_eq!(summary, Summary { count: 3, p50: 200.0, p95: 300.0, p99: 300.0, max: 300.0 });
        assert_eq!(Summary::of(&[]), None);
        let negative = Summary::of(&[-5.0, 1.0]).expect("two");
        assert_eq!((negative.p50, negative.max), (-5.0, 1.0));
    }
}
