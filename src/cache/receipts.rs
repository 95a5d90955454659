//! What was handed out is asked for again by an id.

use std::sync::Arc;

use super::{Cache, Key};
use crate::transcript::Transcript;

/// How many are known at once, some five megabytes of them: those that were used longest ago are forgotten first.
pub(super) const KNOWN: u64 = 20_000;

/// What stands under an id. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Whose it is.
    pub owner: Arc<str>,
    /// The transcript that was handed out.
    pub key: Key,
    /// When it was asked for.
    pub began: u64,
    /// When it was there.
    pub ended: u64,
}

impl<E: Send + Sync + 'static> Cache<E> {
    /// Knows a transcript by this id from now on, until its time to live is over.
    pub async fn hand_out(&self, id: String, receipt: Receipt) {
        self.inner.receipts.insert(id, receipt).await;
    }

    /// What stands under this owner's id, with its transcript if that is still kept. Counts as no question.
    pub async fn by_receipt(&self, owner: &str, id: &str) -> Option<(Receipt, Option<Arc<Transcript>>)> {
        let receipt = self.inner.receipts.get(id).await.filter(|receipt| *receipt.owner == *owner)?;
        let transcript = self.kept(&receipt.key).await;
        Some((receipt, transcript))
    }
}
