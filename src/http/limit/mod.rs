//! What a key may use: requests, live streams at once, and seconds of audio.
//!
//! Contract: a request is counted once it is admitted, and in all of its windows or in none. A stream is counted
//! until it has ended, through the grace in which its client may come back. Audio is charged while it is taken in,
//! whatever becomes of it; whoever has used up theirs starts nothing new, and what runs is finished, so the last of
//! a window may exceed it. Without keys each peer address is somebody. A limit that is reached is a 429, which says
//! when to come back.
//!
//! The arithmetic is in [`window`]. Where servers share a Redis they count together, and each by
//! itself while it is away. Deliberately absent: what this machine bears. That is admission, and answers 503.

mod counters;
mod memory;
mod rate;
mod streams;
mod window;

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::runtime::Handle;
use whisperwire_protocol::ErrorCode;

pub use self::rate::{Rate, Rates};
pub(super) use self::streams::Permit;

use self::counters::{Counters, Currency, Question, Tally};
use self::streams::OpenStreams;
use super::House;
use super::auth::Principal;
use super::error::ApiError;
use crate::link::Link;
use crate::pipeline::Meter;

/// What a key may use. What is `None` here is decided elsewhere, or unlimited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// Requests.
    pub requests: Option<Rates>,
    /// Live streams at once.
    pub streams: Option<u32>,
    /// Seconds of audio.
    pub audio: Option<Rates>,
}

impl Quotas {
    /// These, and where they say nothing those.
    #[must_use]
    pub fn or(self, others: &Self) -> Self {
        Self {
            requests: self.requests.or_else(|| others.requests.clone()),
            streams: self.streams.or(others.streams),
            audio: self.audio.or_else(|| others.audio.clone()),
        }
    }

    /// These, where `none` is as good as nothing.
    #[must_use]
    pub(super) fn in_force(self) -> Self {
        let some = |rates: &Rates| !rates.all().is_empty();
        Self { requests: self.requests.filter(some), audio: self.audio.filter(some), ..self }
    }
}

/// What was used, by everybody. Clones are the same.
#[derive(Clone)]
pub(super) struct Limits {
    counters: Arc<Counters>,
    streams: OpenStreams,
    /// For what is charged where nobody can wait.
    runtime: Handle,
}

/// Audio is counted in thousandths of a second.
const MILLIS: u64 = 1_000;

impl Limits {
    /// Must be called on a runtime.
    pub(super) fn new(link: Option<Link>) -> Self {
        Self {
            counters: Arc::new(Counters::new(link.clone())),
            streams: OpenStreams::new(link),
            runtime: Handle::current(),
        }
    }

    /// Charges a request; `None` where requests are not counted.
    async fn request(&self, principal: &Principal) -> Option<Standing> {
        let rates = principal.quotas().requests.as_ref()?.all();
        let currency = Currency::Requests;
        let question = Question { currency, who: principal.subject(), rates, need: 1, cost: 1 };
        Some(Standing::of(&self.counters.ask(&question).await, rates))
    }

    /// Refuses whoever has used up their audio. To be asked before anything is decoded.
    pub(super) async fn hear(&self, principal: &Principal) -> Result<(), ApiError> {
        let Some(rates) = &principal.quotas().audio else { return Ok(()) };
        let millis = rates.in_parts(MILLIS);
        let (currency, who) = (Currency::Audio, principal.subject());
        let look = Question { currency, who, rates: millis.all(), need: 1, cost: 0 };
        match Standing::of(&self.counters.ask(&look).await, millis.all()).wait {
            None => Ok(()),
            Some(wait) => {
                let message = format!(
                    "The audio of this {} is used up: {}.",
                    principal.kind(),
                    told(rates, " seconds")
                );
                Err(ApiError::new(ErrorCode::RateLimited, message).after(seconds(wait)))
            }
        }
    }

    /// Leave to open a live stream; whoever may not hear, or has enough streams open, is refused.
    pub(super) async fn stream(&self, principal: &Principal) -> Result<Permit, ApiError> {
        self.hear(principal).await?;
        let Some(most) = principal.quotas().streams else { return Ok(Permit::free()) };
        self.streams.open(principal.subject(), most).await.ok_or_else(|| {
            let streams = if most == 1 { "1 live stream".into() } else { format!("{most} live streams") };
            let message = format!("This {} may have {streams} open at once.", principal.kind());
            ApiError::new(ErrorCode::RateLimited, message)
        })
    }

    /// What charges a principal for the audio of one stream or file while it is taken in.
    pub(super) fn meter(&self, principal: &Principal) -> Option<Meter> {
        principal.quotas().audio.as_ref()?;
        let (limits, principal) = (self.clone(), principal.clone());
        Some(Meter::new(move |taken| limits.charge_audio(&principal, taken.seconds())))
    }

    /// Charges audio that was taken in. Never waits: where Redis counts, it will have counted soon.
    pub(super) fn charge_audio(&self, principal: &Principal, seconds: f64) {
        let Some(rates) = &principal.quotas().audio else { return };
        let cost = (seconds * MILLIS as f64).round() as u64;
        let rates = rates.in_parts(MILLIS);
        let who = principal.subject().clone();
        let charge = |who| Question { currency: Currency::Audio, who, rates: rates.all(), need: 0, cost };
        if self.counters.ask_here(&charge(&who)).is_none() {
            let (counters, rates) = (self.counters.clone(), rates.clone());
            self.runtime.spawn(async move {
                let (currency, rates) = (Currency::Audio, rates.all());
                counters.ask(&Question { currency, who: &who, rates, need: 0, cost }).await;
            });
        }
    }
}

/// The layer inside of the keys: counts, refuses, and tells in headers what is left.
pub(super) async fn count(
    State(house): State<Arc<House>>,
    Extension(principal): Extension<Principal>,
    request: Request,
    next: Next,
) -> Response {
    let Some(standing) = house.limits.request(&principal).await else { return next.run(request).await };
    let mut response = match standing.wait {
        None => next.run(request).await,
        Some(wait) => {
            let rates = principal.quotas().requests.as_ref().map(|rates| told(rates, " requests"));
            let message = format!("This {} may send {}.", principal.kind(), rates.unwrap_or_default());
            let refused = ApiError::new(ErrorCode::RateLimited, message).after(seconds(wait));
            refused.in_words_of(request.uri().path()).into_response()
        }
    };
    standing.tell(response.headers_mut());
    response
}

/// Where somebody stands in the strictest of their windows. Times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    limit: u64,
    remaining: u64,
    /// Until nothing counts any more.
    reset: u64,
    /// Until there is room; `None` if there was.
    wait: Option<u64>,
}

impl Standing {
    fn of(tally: &Tally, rates: &[Rate]) -> Self {
        let mut standing = Self { limit: 0, remaining: u64::MAX, reset: 0, wait: (!tally.room).then_some(0) };
        for (rate, count) in rates.iter().zip(&tally.counts) {
            let remaining = rate.amount.saturating_sub(count.used(tally.now, rate.window));
            let reset = count.wait(tally.now, rate.window, 0);
            // Of two that have as much left, the one that is slower to give more.
            if (remaining, u64::MAX - reset) <= (standing.remaining, u64::MAX - standing.reset) {
                standing = Self { limit: rate.amount, remaining, reset, ..standing };
            }
            standing.wait =
                standing.wait.map(|wait| wait.max(count.wait(tally.now, rate.window, rate.amount - 1)));
        }
        standing
    }

    fn tell(&self, headers: &mut HeaderMap) {
        headers.insert(LIMIT, HeaderValue::from(self.limit));
        headers.insert(REMAINING, HeaderValue::from(self.remaining));
        if let Ok(reset) = HeaderValue::from_str(&duration(self.reset)) {
            headers.insert(RESET, reset);
        }
    }
}

/// The names that OpenAI's clients read.
pub(super) const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit-requests");
pub(super) const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining-requests");
pub(super) const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset-requests");

/// Whole seconds, after which it is certain that the time is over.
fn seconds(millis: u64) -> u64 {
    millis.div_ceil(1_000).max(1)
}

/// As OpenAI writes durations: `0s`, `59s`, `6m0s`, `1h0m0s`.
fn duration(millis: u64) -> String {
    let all = millis.div_ceil(1_000);
    let (hours, minutes, seconds) = (all / 3_600, all / 60 % 60, all % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

fn told(rates: &Rates, what: &str) -> String {
    let rates: Vec<String> =
        rates.all().iter().map(|rate| rate.to_string().replacen(" per", &format!("{what} per"), 1)).collect();
    rates.join(" and ")
}

#[cfg(test)]
mod tests {
    use super::window::Count;
    use super::*;

    fn rates(text: &str) -> Rates {
        text.parse().expect("a limit")
    }

    #[test]
    fn the_strictest_window_is_told_and_the_longest_wait() {
        let rates = rates("2/second,3/minute");
        let count = |start, current| Count { start, current, previous: 0 };
        let tally = |room, now, counts: [Count; 2]| Tally { room, now, counts: counts.to_vec() };
        let standing = |tally: &Tally| Standing::of(tally, rates.all());
        let first = standing(&tally(true, 0, [count(0, 1), count(0, 1)]));
        assert_eq!(first, Standing { limit: 2, remaining: 1, reset: 1_000, wait: None });
        let third = standing(&tally(true, 5_000, [count(5_000, 1), count(0, 3)]));
        assert_eq!((third.limit, third.remaining, third.wait), (3, 0, None));
        let refused = standing(&tally(false, 5_000, [count(5_000, 2), count(0, 3)]));
        assert_eq!((refused.limit, refused.remaining, refused.wait), (3, 0, Some(55_000)));
    }

    #[test]
    fn durations_are_written_as_openai_does() {
        let told = [0, 1, 999, 1_000, 59_001, 360_000, 3_600_000, 86_399_001].map(duration);
        assert_eq!(told, ["0s", "1s", "1s", "1s", "1m0s", "6m0s", "1h0m0s", "24h0m0s"]);
        assert_eq!([0, 1, 1_000, 1_001].map(seconds), [1, 1, 1, 2]);
    }

    #[test]
    fn a_key_s_own_quotas_come_first() {
        let own = Quotas { requests: Some(rates("none")), ..Quotas::default() };
        let house = Quotas { requests: Some(rates("1/day")), streams: Some(2), audio: None };
        assert_eq!(own.or(&house).in_force(), Quotas { requests: None, streams: Some(2), audio: None });
        assert_eq!(
            told(&rates("10/minute,50/hour"), " requests"),
            "10 requests per minute and 50 requests per hour"
        );
    }
}
