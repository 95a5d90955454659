//! What is measured of a window, for those who watch the server from outside. Calibration is not.

use std::time::Duration;

use super::Lane;
use super::queue::Purpose;
use crate::engine::Effort;
use crate::telemetry::Histogram;

/// Where the times of windows go.
pub(super) struct Times {
    /// In the order of [`Lane::ALL`].
    pub(super) waits: [Histogram; Lane::ALL.len()],
    pub(super) full: Histogram,
    pub(super) draft: Histogram,
}

impl Times {
    /// A worker has begun with a window.
    pub(super) fn begun(&self, purpose: Purpose, waited: Duration) {
        if let Purpose::Window(lane) = purpose {
            self.waits[lane as usize].record(waited);
        }
    }

    /// A window was recognised.
    pub(super) fn recognised(&self, purpose: Purpose, effort: Effort, took: Duration) {
        match (purpose, effort) {
            (Purpose::Window(_), Effort::Live | Effort::Full) => self.full.record(took),
            (Purpose::Window(_), Effort::Draft) => self.draft.record(took),
            _ => {}
        }
    }
}
