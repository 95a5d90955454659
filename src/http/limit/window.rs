//! The arithmetic of all limits: the sliding window counter.
//!
//! Two fixed windows are counted, this one and the one before, and the one before counts for as much of it as a
//! window that ends now would still cover. So a limit of 10 per minute is no 20 in two seconds around the turn of a
//! minute, and yet three numbers per window and key are all there is to keep, whatever the limit. The
//! token bucket and its relative GCRA need one number less, but let twice the limit through in the first window,
//! because they refill from the first request on: not what people mean who write 10/minute.
//! Cloudflare described and measured it in "How we built rate limiting capable of scaling to millions of domains"
//! (2017, blog.cloudflare.com/counting-things-a-lot-of-different-things): it wrongly passed or blocked 0.003 % of
//! 400 million requests. It is exact where the requests of the window before were spread evenly.
//!
//! One thing is our own: windows begin with a key's first request, and not with the clock's minute, so that the
//! first window of a key that has rested is exact.
//!
//! Whole numbers throughout; `window.lua` does the same in Redis.

/// What was counted in one window and the one before it. All times are in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// When this window began.
    pub(super) start: u64,
    /// What was counted in it.
    pub(super) current: u64,
    /// What was counted in the one before it.
    pub(super) previous: u64,
}

impl Count {
    /// The count as it is now.
    pub(super) fn turned(self, now: u64, window: u64) -> Self {
        let passed = now.saturating_sub(self.start);
        if passed >= 2 * window || (self.current == 0 && self.previous == 0) {
            Self { start: now, current: 0, previous: 0 }
        } else if passed >= window {
            Self { start: self.start + window, current: 0, previous: self.current }
        } else {
            self
        }
    }

    /// What counts now, of a count that was turned.
    pub(super) fn used(&self, now: u64, window: u64) -> u64 {
        let left = window - 1 - self.passed(now, window);
        self.current + (u128::from(self.previous) * u128::from(left) / u128::from(window)) as u64
    }

    /// How long it takes, of a count that was turned, until no more than this counts, if nothing is added.
    pub(super) fn wait(&self, now: u64, window: u64, most: u64) -> u64 {
        let passed = self.passed(now, window);
        if self.used(now, window) <= most {
            0
        } else if self.current <= most {
            fades(self.previous, window, most - self.current).saturating_sub(passed)
        } else {
            window - passed + fades(self.current, window, most)
        }
    }

    fn passed(&self, now: u64, window: u64) -> u64 {
        now.saturating_sub(self.start).min(window - 1)
    }
}

/// How far into its successor a window must be until no more than `most` of its `count` is left.
fn fades(count: u64, window: u64, most: u64) -> u64 {
    if count <= most {
        return 0;
    }
    let left = (u128::from(most) + 1) * u128::from(window);
    window.saturating_sub(left.div_ceil(u128::from(count)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    fn of(start: u64, current: u64, previous: u64) -> Count {
        Count { start, current, previous }
    }

    #[test]
    fn the_window_before_fades() {
        let full = of(1_000, 10, 0);
        assert_eq!(full.turned(60_999, MINUTE), full);
        let turned = full.turned(61_000, MINUTE);
        assert_eq!(turned, of(61_000, 0, 10));
        // A minute after the first request there is room for one more, and every six seconds for another.
        assert_eq!((turned.used(61_000, MINUTE), turned.used(66_999, MINUTE)), (9, 9));
        assert_eq!(turned.used(67_000, MINUTE), 8);
        assert_eq!(turned.used(120_999, MINUTE), 0);
        assert_eq!(full.turned(121_000, MINUTE), of(121_000, 0, 0));
        // A clock that goes back changes nothing.
        assert_eq!(full.turned(0, MINUTE).used(0, MINUTE), 10);
    }

    #[test]
    fn the_wait_is_as_long_as_it_takes_and_no_longer() {
        for window in [1, 7, 1_000, MINUTE] {
            for count in [of(0, 10, 0), of(0, 3, 10), of(0, 0, 10), of(0, 1, 1), of(0, 25, 4), of(0, 0, 0)] {
                for most in [0, 1, 5, 9, 10] {
                    for now in [0, window / 3, window - 1] {
                        let wait = count.wait(now, window, most);
                        let used = |at: u64| count.turned(at, window).used(at, window);
                        let what = format!("{count:?} {window} {most} {now} {wait}");
                        assert!(used(now + wait) <= most, "{what}");
                        assert!(wait == 0 || used(now + wait - 1) > most, "{what}");
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_overflows() {
        let most = 1_000_000_000_000_000;
        let count = of(0, most, most);
        let window = 31 * 86_400_000;
        assert!(count.used(1, window) >= most);
        assert!(count.wait(1, window, most / 2) < 2 * window);
    }
}
