//! The flags of those who operate a server.

use clap::Args;

/// How a server is watched, and how it is taken out of service.
#[derive(Debug, Args)]
#[command(next_help_heading = "Operations")]
pub(super) struct OpsFlags {
    /// How long `/readyz` says no after SIGTERM while everything is still served, in seconds, for load balancers
    #[arg(long, env = "WHISPERWIRE_DRAIN_DELAY", default_value_t = 0)]
    pub(super) drain_delay: u64,
    /// Tells `/metrics` to those without a key too
    #[arg(long, env = "WHISPERWIRE_METRICS_OPEN")]
    pub(super) metrics_open: bool,
    /// Sends traces to this OpenTelemetry collector (OTLP over gRPC), in a build with the feature `otel`
    #[arg(long, env = "WHISPERWIRE_OTLP_ENDPOINT")]
    pub(super) otlp_endpoint: Option<String>,
}
