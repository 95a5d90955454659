//! The shelf that several servers share: transcripts in a Redis, compressed, each with its time to live.

use std::sync::Arc;
use std::time::Duration;

use super::Key;
use crate::dialect::record;
use crate::link::Link;
use crate::transcript::Transcript;

/// See the module.
#[derive(Clone)]
pub(super) struct Remote {
    link: Link,
}

impl Remote {
    pub(super) fn new(link: Link) -> Self {
        Self { link }
    }

    /// A transcript and how long it may still be kept. Nothing if there is none, or nobody to ask.
    pub(super) async fn get(&self, key: &Key) -> Option<(Transcript, Duration)> {
        let name = self.name(key);
        let mut both = redis::pipe();
        both.cmd("GET").arg(&name).cmd("PTTL").arg(&name);
        let (packed, left): (Option<Vec<u8>>, i64) = self.link.pipeline(&both).await.ok()?;
        let (packed, left) = (packed?, u64::try_from(left).ok()?);
        // An hour of words is a megabyte, and nobody else should wait for it to be read.
        let unpacked = tokio::task::spawn_blocking(move || record::unpack(&packed)).await.ok()?;
        match unpacked {
            Ok(transcript) => Some((transcript, Duration::from_millis(left))),
            Err(error) => {
                tracing::debug!(%error, "what is kept in Redis cannot be used");
                None
            }
        }
    }

    /// Keeps a transcript there, or forgets about it.
    pub(super) async fn put(self, key: Key, transcript: Arc<Transcript>, lives: Duration) {
        if !self.link.is_up() {
            return;
        }
        let Ok(packed) = tokio::task::spawn_blocking(move || record::pack(&transcript)).await else { return };
        let millis = u64::try_from(lives.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut command = redis::cmd("SET");
        command.arg(self.name(&key)).arg(packed).arg("PX").arg(millis);
        // The link has logged why, if it did not work; this server still has it in memory.
        let _ = self.link.command::<()>(&command).await;
    }

    fn name(&self, key: &Key) -> String {
        let digits: String = key.0.iter().map(|byte| format!("{byte:02x}")).collect();
        self.link.key(&format!("cache:{digits}"))
    }
}
