//! Where the Redis or Valkey is that several servers share.

use clap::Args;

use super::{Bad, ConfigError};
use crate::link::LinkConfig;

#[derive(Debug, Args)]
#[command(next_help_heading = "Redis")]
pub(super) struct RedisFlags {
    /// A Redis or Valkey that several servers share, as redis://USER:PASSWORD@HOST:PORT/NUMBER
    #[arg(
        long,
        env = "WHISPERWIRE_REDIS",
        value_name = "URL",
        hide_env_values = true,
        hide_default_value = true
    )]
    redis: Option<String>,
    /// What all keys of these servers begin with
    #[arg(long, env = "WHISPERWIRE_REDIS_PREFIX", default_value = "whisperwire:")]
    redis_prefix: String,
}

impl RedisFlags {
    pub(super) fn config(self) -> Bad<Option<LinkConfig>> {
        let Some(url) = self.redis.filter(|url| !url.trim().is_empty()) else { return Ok(None) };
        let config = LinkConfig::new(url.trim(), self.redis_prefix);
        config.map(Some).map_err(|error| ConfigError::Bad(format!("--redis: {error}")))
    }
}
