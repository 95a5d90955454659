//! Signed news about jobs, delivered to whoever asked for it.
//!
//! Contract: a delivery is one POST of JSON, signed as the Standard Webhooks say, so that a receiver can tell it from
//! anybody else's and tell a repetition from news (`webhook-id` stays the same over all attempts). It goes to public
//! addresses alone unless the operator allows others, and an address is judged after the lookup that the connection
//! uses: a name that changes its answer, a redirect or an odd spelling wins nothing.
//! Deliberately absent: the queue of deliveries, their log and the clock between attempts. [`schedule`] says when,
//! somebody else waits.

mod courier;
mod reach;
mod sign;
mod target;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use self::courier::{Attempt, Courier, Delivery, Next, schedule};
pub use self::sign::{BadSecret, Secret, sign};
pub use self::target::{Policy, Refused, Target};

/// How webhooks are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WebhookConfig {
    /// Whether they may go to this machine and to private networks.
    pub allow_private: bool,
    /// How long the lookup of a name may take, and then the connection with its TLS.
    pub connect: Duration,
    /// How long one attempt may take, from the lookup to the last byte that is read of the answer.
    pub total: Duration,
}

impl WebhookConfig {
    /// Where deliveries may go.
    pub fn policy(&self) -> Policy {
        if self.allow_private { Policy::AllowPrivate } else { Policy::PublicOnly }
    }
}

impl Default for WebhookConfig {
    fn default() -> Self {
        Self { allow_private: false, connect: Duration::from_secs(10), total: Duration::from_secs(15) }
    }
}
