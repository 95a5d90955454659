//! Somebody is told how much audio is taken in, while it is.

use std::fmt;
use std::sync::Arc;

use crate::transcript::Samples;

/// Whoever wants to know. Told from within the loop, so it must not wait.
#[derive(Clone)]
pub struct Meter(Arc<dyn Fn(Samples) + Send + Sync>);

/// So much is told at once.
const LOT: Samples = Samples::from_millis(5_000);

impl Meter {
    /// Tells this function how much more was taken each time.
    pub fn new(tell: impl Fn(Samples) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").finish_non_exhaustive()
    }
}

/// One stream's way to its meter. What was not told yet is told when it is dropped, however the stream ends.
pub(super) struct Intake {
    meter: Option<Meter>,
    taken: Samples,
    told: Samples,
}

impl Intake {
    pub(super) fn new(meter: Option<Meter>) -> Self {
        Self { meter, taken: Samples(0), told: Samples(0) }
    }

    /// So much was taken until now.
    pub(super) fn reach(&mut self, taken: Samples) {
        self.taken = taken;
        if taken - self.told >= LOT {
            self.tell();
        }
    }

    fn tell(&mut self) {
        let more = self.taken - self.told;
        if let Some(Meter(tell)) = self.meter.as_ref().filter(|_| more > Samples(0)) {
            tell(more);
        }
        self.told = self.taken;
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn everything_is_told_once_and_the_rest_at_the_end() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let meter = Meter::new({
            let told = told.clone();
            move |more| told.lock().expect("nobody panics").push(more.seconds())
        });
        let mut intake = Intake::new(Some(meter));
        for seconds in [1.0, 4.5, 5.5, 6.0, 16.0, 17.0] {
            intake.reach(Samples::from_seconds(seconds));
        }
        assert_eq!(*told.lock().expect("nobody panics"), [5.5, 10.5]);
        drop(intake);
        assert_eq!(*told.lock().expect("nobody panics"), [5.5, 10.5, 1.0]);
        drop(Intake::new(None));
    }
}
