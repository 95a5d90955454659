//! Traces for an OpenTelemetry collector, in builds that have them.
//!
//! One span per request, which lasts as long as what the request has opened; one per live stream and one per window in
//! it. A `traceparent` that a client brings is continued.

use std::time::Duration;

use tracing::Span;
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;

/// Traces on their way. Must be flushed before the end, or the last ones are lost.
#[derive(Debug, Default)]
#[must_use = "traces that are not flushed are lost"]
pub struct Traces {
    #[cfg(feature = "otel")]
    provider: Option<opentelemetry_sdk::trace::SdkTracerProvider>,
}

/// The span of a request. It is of the highest level, so that the lines of a request can be joined whatever the log
/// leaves out.
pub fn request_span(id: &str, method: &str, path: &str) -> Span {
    #[cfg(feature = "otel")]
    return tracing::error_span!("request", %id, %method, path, otel.kind = "server");
    #[cfg(not(feature = "otel"))]
    tracing::error_span!("request", %id, %method, path)
}

#[cfg(not(feature = "otel"))]
mod inner {
    use super::*;

    /// Whether this build has any.
    pub(in crate::telemetry) const AVAILABLE: bool = false;

    impl Traces {
        /// Sends what is still here, and gives up after so long. Blocks.
        pub fn flush(self, _within: Duration) {}
    }

    /// This build sends none.
    pub(in crate::telemetry) fn start<S>(_endpoint: &str) -> Result<(Traces, Option<Nothing<S>>), String>
    where
        S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    {
        Ok((Traces::default(), None))
    }

    type Nothing<S> = Box<dyn Layer<S> + Send + Sync>;

    /// Makes a request's span part of the trace that its client is in.
    pub fn adopt(_span: &Span, _traceparent: Option<&str>) {}

    /// Tells a request's span what became of it.
    pub fn answered(_span: &Span, _route: &str, _status: u16) {}
}

#[cfg(feature = "otel")]
mod inner {
    use std::collections::HashMap;

    use opentelemetry::propagation::TextMapPropagator;
    use opentelemetry::trace::{Status, TracerProvider};
    use opentelemetry_otlp::{SpanExporter, WithExportConfig};
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::propagation::TraceContextPropagator;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing_opentelemetry::OpenTelemetrySpanExt;
    use tracing_subscriber::filter::{LevelFilter, Targets};

    use super::*;

    /// Whether this build has any.
    pub(in crate::telemetry) const AVAILABLE: bool = true;

    impl Traces {
        /// Sends what is still here, and gives up after so long. Blocks.
        pub fn flush(self, within: Duration) {
            if let Some(provider) = self.provider
                && let Err(error) = provider.shutdown_with_timeout(within)
            {
                tracing::warn!(%error, "the last traces were not delivered");
            }
        }
    }

    /// Sends spans to a collector that speaks OTLP over gRPC. Must be called on a runtime.
    pub(in crate::telemetry) fn start<S>(endpoint: &str) -> Result<(Traces, Option<Sender<S>>), String>
    where
        S: tracing::Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build();
        let exporter = exporter.map_err(|error| format!("--otlp-endpoint: {error}"))?;
        let version = opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource = Resource::builder().with_service_name("whisperwire").with_attribute(version).build();
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        let tracer = provider.tracer("whisperwire");
        // What carries the traces away makes spans too, and must not be traced.
        let ours = Targets::new().with_target("whisperwire", LevelFilter::DEBUG);
        let layer = tracing_opentelemetry::layer().with_tracer(tracer).with_filter(ours);
        Ok((Traces { provider: Some(provider) }, Some(Box::new(layer))))
    }

    type Sender<S> = Box<dyn Layer<S> + Send + Sync>;

    /// Makes a request's span part of the trace that its client is in.
    pub fn adopt(span: &Span, traceparent: Option<&str>) {
        let Some(traceparent) = traceparent else { return };
        let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
        // Where nobody collects traces there is nothing to be part of.
        let _ = span.set_parent(TraceContextPropagator::new().extract(&carrier));
    }

    /// Tells a request's span what became of it.
    pub fn answered(span: &Span, route: &str, status: u16) {
        span.set_attribute("http.route", route.to_owned());
        span.set_attribute("http.response.status_code", i64::from(status));
        if status >= 500 {
            span.set_status(Status::error(""));
        }
    }
}

pub(super) use self::inner::{AVAILABLE, start};
pub use self::inner::{adopt, answered};
