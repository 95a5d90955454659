//! How much of what was transcribed is kept, and for how long.

use std::time::Duration;

use clap::Args;

use crate::cache::CacheConfig;

#[derive(Debug, Args)]
#[command(next_help_heading = "Cache")]
pub(super) struct CacheFlags {
    /// Memory for finished transcripts, in megabytes; 0 keeps none
    #[arg(long, env = "WHISPERWIRE_CACHE_MB", default_value_t = 64)]
    cache_mb: u64,
    /// How long a finished transcript is kept, in seconds
    #[arg(long, env = "WHISPERWIRE_CACHE_TTL", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    cache_ttl: u64,
}

impl CacheFlags {
    pub(super) fn config(self) -> CacheConfig {
        CacheConfig {
            bytes: self.cache_mb.saturating_mul(1_000_000),
            ttl: Duration::from_secs(self.cache_ttl),
        }
    }
}
