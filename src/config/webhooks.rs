//! The flags about webhooks.

use std::time::Duration;

use clap::Args;

use crate::jobs::webhook::WebhookConfig;

/// How webhooks are delivered.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Webhooks")]
pub(super) struct WebhookFlags {
    /// Lets webhooks go to this machine and to private networks as well
    #[arg(long, env = "WHISPERWIRE_WEBHOOK_ALLOW_PRIVATE")]
    webhook_allow_private: bool,
    /// How long one attempt to deliver a webhook may take, in seconds
    #[arg(long, env = "WHISPERWIRE_WEBHOOK_TIMEOUT", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=300))]
    webhook_timeout: u64,
}

impl WebhookFlags {
    pub(super) fn config(self) -> WebhookConfig {
        let total = Duration::from_secs(self.webhook_timeout);
        let usual = WebhookConfig::default();
        WebhookConfig { allow_private: self.webhook_allow_private, connect: usual.connect.min(total), total }
    }
}
