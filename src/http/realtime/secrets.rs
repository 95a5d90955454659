//! Keys that are lent for a while, each bound to a session's settings. They live in memory: a restart ends them.

use std::time::{Duration, Instant};

use dashmap::DashMap;
use whisperwire_protocol::ErrorCode;
use whisperwire_protocol::realtime::{EPHEMERAL_PREFIX, SessionSettings};

use crate::http::auth::{Principal, hash};
use crate::http::error::ApiError;

/// Keys that may be out at a time.
const MOST: usize = 10_000;

/// The keys that are out, by their hashes.
#[derive(Default)]
pub(in crate::http) struct Secrets(DashMap<[u8; 32], Lent>);

struct Lent {
    until: Instant,
    settings: SessionSettings,
    /// Whose key it stands for.
    lender: Principal,
}

impl Secrets {
    /// A new key, good for so many seconds.
    pub(super) fn lend(
        &self,
        settings: SessionSettings,
        seconds: u64,
        lender: Principal,
    ) -> Result<String, ApiError> {
        let now = Instant::now();
        if self.0.len() >= MOST {
            self.0.retain(|_, lent| lent.until > now);
        }
        if self.0.len() >= MOST {
            let message = "Too many ephemeral keys are out. Come back when some have expired.";
            return Err(ApiError::new(ErrorCode::RateLimited, message));
        }
        let random = || uuid::Uuid::new_v4().simple().to_string();
        let key = format!("{EPHEMERAL_PREFIX}{}{}", random(), random());
        self.0.insert(hash(&key), Lent { until: now + Duration::from_secs(seconds), settings, lender });
        Ok(key)
    }

    /// What sessions with this key are set to, while it is good.
    pub(super) fn find(&self, key: &str) -> Option<SessionSettings> {
        self.look(key, |lent| lent.settings.clone())
    }

    /// Who lent it, while it is good.
    pub(in crate::http) fn lender(&self, key: &str) -> Option<Principal> {
        self.look(key, |lent| lent.lender.clone())
    }

    fn look<T>(&self, key: &str, at: impl FnOnce(&Lent) -> T) -> Option<T> {
        let lent = self.0.get(&hash(key))?;
        (lent.until > Instant::now()).then(|| at(&lent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_key_is_good_until_its_time() {
        let secrets = Secrets::default();
        let settings = SessionSettings::default().with_model("whisper-1");
        let key = secrets
            .lend(settings.clone(), 10, Principal::anybody(None, Arc::default()))
            .expect("there is room");
        assert!(key.starts_with("ek_") && key.len() > 60);
        assert_eq!(secrets.find(&key), Some(settings.clone()));
        assert_eq!(secrets.find(&key), Some(settings), "more than once");
        assert_eq!(secrets.find("ek_other"), None);
        let over = secrets
            .lend(SessionSettings::default(), 0, Principal::anybody(None, Arc::default()))
            .expect("there is room");
        assert_eq!(secrets.find(&over), None);
    }

    #[test]
    fn there_is_room_again_when_keys_expire() {
        let secrets = Secrets::default();
        for _ in 0..MOST {
            secrets
                .lend(SessionSettings::default(), 0, Principal::anybody(None, Arc::default()))
                .expect("there is room");
        }
        secrets
            .lend(SessionSettings::default(), 10, Principal::anybody(None, Arc::default()))
            .expect("the old ones went");
        for _ in 1..MOST {
            secrets
                .lend(SessionSettings::default(), 10, Principal::anybody(None, Arc::default()))
                .expect("there is room");
        }
        assert!(
            secrets.lend(SessionSettings::default(), 10, Principal::anybody(None, Arc::default())).is_err()
        );
    }
}
