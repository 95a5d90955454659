//! A registry of figures, and the handles through which rooms feed it.

use std::sync::Arc;

pub use metrics::{Counter, Gauge, Histogram};

use metrics::{Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};

use super::table::{Kind, Row, TABLE};

/// The figures of one server. Clones are the same registry.
///
/// Whoever feeds a figure often asks for its handle once and keeps it: a handle is an atomic number, while asking for
/// one looks its name up.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Absent where nobody asks for figures.
    recorder: Option<Arc<PrometheusRecorder>>,
}

impl Metrics {
    /// An empty registry that knows the table.
    pub fn new() -> Self {
        let buckets = TABLE.iter().filter(|row| row.kind == Kind::Histogram);
        let builder = buckets.fold(PrometheusBuilder::new(), |builder, row| {
            builder
                .set_buckets_for_metric(Matcher::Full(row.name.to_owned()), row.buckets)
                .expect("the table gives every histogram its buckets")
        });
        let recorder = builder.build_recorder();
        for row in TABLE {
            let (name, meaning) = (row.name.into(), row.meaning.into());
            match row.kind {
                Kind::Counter => recorder.describe_counter(name, None, meaning),
                Kind::Gauge => recorder.describe_gauge(name, None, meaning),
                Kind::Histogram => recorder.describe_histogram(name, None, meaning),
            }
        }
        Self { recorder: Some(Arc::new(recorder)) }
    }

    /// A registry that forgets everything at once.
    pub fn silent() -> Self {
        Self::default()
    }

    /// A figure that only grows. The labels' values stand in the order of the row's labels.
    pub fn counter(&self, row: &'static Row, labels: &[&str]) -> Counter {
        let Some(recorder) = &self.recorder else { return Counter::noop() };
        recorder.register_counter(&key(row, labels), &METADATA)
    }

    /// A figure that goes up and down.
    pub fn gauge(&self, row: &'static Row, labels: &[&str]) -> Gauge {
        let Some(recorder) = &self.recorder else { return Gauge::noop() };
        recorder.register_gauge(&key(row, labels), &METADATA)
    }

    /// Figures whose spread matters.
    pub fn histogram(&self, row: &'static Row, labels: &[&str]) -> Histogram {
        let Some(recorder) = &self.recorder else { return Histogram::noop() };
        recorder.register_histogram(&key(row, labels), &METADATA)
    }

    /// All figures as Prometheus reads them.
    pub fn render(&self) -> String {
        self.recorder.as_ref().map(|recorder| recorder.handle().render()).unwrap_or_default()
    }

    /// Puts what histograms have gathered into their buckets. Until this or [`Metrics::render`] is called they keep
    /// every single value, so somebody has to call it now and then.
    pub fn tidy(&self) {
        if let Some(recorder) = &self.recorder {
            recorder.handle().run_upkeep();
        }
    }
}

const METADATA: Metadata<'static> = Metadata::new("whisperwire", Level::INFO, None);

fn key(row: &'static Row, values: &[&str]) -> Key {
    assert_eq!(row.labels.len(), values.len(), "{} has the labels {:?}", row.name, row.labels);
    let labels = row.labels.iter().zip(values).map(|(label, value)| Label::new(*label, (*value).to_owned()));
    Key::from_parts(row.name, labels.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::table;

    #[test]
    fn two_registries_share_nothing() {
        let (one, other) = (Metrics::new(), Metrics::new());
        one.counter(&table::GAPS_TOTAL, &["engine"]).increment(3);
        one.histogram(&table::FINAL_LATENCY_SECONDS, &[]).record(0.07);
        let text = one.render();
        assert!(text.contains("whisperwire_gaps_total{reason=\"engine\"} 3"), "{text}");
        assert!(text.contains("whisperwire_final_latency_seconds_bucket{le=\"0.1\"} 1"), "{text}");
        assert!(text.contains("whisperwire_final_latency_seconds_bucket{le=\"0.05\"} 0"), "{text}");
        assert_eq!(other.render(), "");
        let silent = Metrics::silent();
        silent.counter(&table::GAPS_TOTAL, &["engine"]).increment(3);
        silent.tidy();
        assert_eq!(silent.render(), "");
    }
}
