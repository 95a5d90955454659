//! One attempt at one delivery, and when to make the next.

use std::fmt;
use std::io::Read;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use ureq::http::HeaderMap;
use ureq::http::header::{CONTENT_TYPE, RETRY_AFTER};
use ureq::unversioned::resolver::{DefaultResolver, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Error as Failure, Timeout};

use super::sign::{Secret, sign};
use super::target::{Guard, Refused, Target, refusal};
use super::{Policy, WebhookConfig};

/// As much of an answer is read, and nothing of it kept: some receivers take it amiss if nobody listens to the end.
const ENOUGH: u64 = 4096;
/// What a receiver may say about when to come back; else one that errs could put us off for ever.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How long to wait after the first, the second, … failed attempt. About a day in all.
const WAITS: [Duration; 8] = [
    Duration::from_secs(5),
    Duration::from_mins(1),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(5),
    Duration::from_hours(8),
    Duration::from_hours(8),
];

/// What carries deliveries. It blocks: call it where blocking is allowed.
///
/// Every attempt has a lookup and a connection of its own. Redirects are not followed and proxies of the
/// environment are not used, because either would connect to what nobody has judged.
#[derive(Clone, Debug)]
pub struct Courier {
    agent: Agent,
    guard: Guard,
    policy: Policy,
    connect: Duration,
}

/// Something to be told.
#[derive(Clone)]
pub struct Delivery {
    /// What a receiver knows a repetition by: the same in all attempts.
    pub id: String,
    /// Where to.
    pub url: String,
    /// What signs it; unsigned without.
    pub secret: Option<Secret>,
    /// The JSON, byte for byte the same in all attempts.
    pub body: String,
}

/// How an attempt went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// What the receiver answered, if it did.
    pub status: Option<u16>,
    /// Why this was no delivery, as a sentence without the URL; `None` if it was one.
    pub error: Option<String>,
    /// How long it took.
    pub millis: u64,
    /// When the receiver, which is busy, wants to hear of it again.
    pub retry_after: Option<Duration>,
}

/// What follows from an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: it was delivered.
    Delivered,
    /// Another attempt after this time.
    Again(Duration),
    /// Nothing: the receiver is gone for good, or a day has passed.
    GiveUp,
}

impl Courier {
    /// With the lookup of the system.
    pub fn new(config: WebhookConfig) -> Self {
        Self::with_lookup(config, DefaultResolver::default())
    }

    /// With a lookup of one's own, which is judged as the system's is.
    pub(super) fn with_lookup(config: WebhookConfig, lookup: impl Resolver) -> Self {
        let guard = Guard::new(lookup, config.policy());
        let settings = Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // A connection that waits for the next delivery is one whose address was judged for another.
            .max_idle_connections(0)
            .user_agent(concat!("whisperwire/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_resolve(Some(config.connect))
            .timeout_connect(Some(config.connect))
            .timeout_global(Some(config.total))
            .build();
        let agent = Agent::with_parts(settings, DefaultConnector::default(), guard.clone());
        Self { agent, guard, policy: config.policy(), connect: config.connect }
    }

    /// Judges the URL of a webhook that somebody wants to register, and looks up its name.
    ///
    /// A name that nobody knows is let pass: it may be known when there is something to tell, and is judged again then.
    pub fn check(&self, url: &str) -> Result<Target, Refused> {
        let target = Target::check(url, self.policy)?;
        let within =
            NextTimeout { after: self.connect.into(), reason: Timeout::Resolve, ..NextTimeout::default() };
        match self.guard.resolve(target.uri(), self.agent.config(), within) {
            Ok(_) => Ok(target),
            Err(failure) => refusal(&failure).map_or(Ok(target), Err),
        }
    }

    /// Makes one attempt, stamped and signed with the time of now.
    pub fn send(&self, delivery: &Delivery) -> Attempt {
        let began = Instant::now();
        let mut attempt = match Target::check(&delivery.url, self.policy) {
            Ok(target) => self.post(&target, delivery),
            Err(refused) => Attempt::failed(refused.to_string()),
        };
        attempt.millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        attempt
    }

    fn post(&self, target: &Target, delivery: &Delivery) -> Attempt {
        let timestamp = Timestamp::now().as_second();
        let mut request = self
            .agent
            .post(target.uri())
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", &delivery.id)
            .header("webhook-timestamp", timestamp.to_string());
        if let Some(secret) = &delivery.secret {
            let signature = sign(secret, &delivery.id, timestamp, &delivery.body);
            request = request.header("webhook-signature", signature);
        }
        match request.send(&delivery.body) {
            Ok(answer) => {
                let (head, body) = answer.into_parts();
                // Delivered or not, the status has said it. What becomes of the rest changes nothing.
                let rest = std::io::copy(&mut body.into_reader().take(ENOUGH), &mut std::io::sink());
                drop(rest);
                Attempt::answered(head.status.as_u16(), &head.headers)
            }
            Err(failure) => Attempt::failed(sentence(&failure)),
        }
    }
}

/// The id alone: the URL may be a secret, and the body is what somebody said.
impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Attempt {
    /// Whether the receiver has it: it answered with 200 to 299.
    pub fn delivered(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }

    /// What follows, if this was the `number`th attempt, counted from 1. `jitter` is any random number.
    pub fn next(&self, number: u32, jitter: u64) -> Next {
        const GONE: u16 = 410;
        match schedule(number, jitter, self.retry_after) {
            _ if self.delivered() => Next::Delivered,
            Some(wait) if self.status != Some(GONE) => Next::Again(wait),
            _ => Next::GiveUp,
        }
    }

    fn answered(status: u16, headers: &HeaderMap) -> Self {
        let error = match status {
            200..300 => None,
            300..400 => Some(format!("the receiver redirects ({status}), which is not followed")),
            _ => Some(format!("the receiver answered {status}")),
        };
        let retry_after = headers
            .get(RETRY_AFTER)
            .filter(|_| matches!(status, 429 | 503))
            .and_then(|value| value.to_str().ok())
            .and_then(|value| retry_after(value, Timestamp::now()));
        Self { status: Some(status), error, millis: 0, retry_after }
    }

    fn failed(error: String) -> Self {
        Self { status: None, error: Some(error), millis: 0, retry_after: None }
    }
}

/// How long to wait after the `attempt`th failed attempt, counted from 1; `None` if that was the last.
///
/// `jitter` is any random number: it spreads the waits by a tenth to either side, so that a receiver that comes back
/// does not meet everybody at once. What a busy receiver asked for is waited for at least, up to an hour.
pub fn schedule(attempt: u32, jitter: u64, retry_after: Option<Duration>) -> Option<Duration> {
    let index = usize::try_from(attempt.max(1) - 1).ok()?;
    let permille = 900 + u32::try_from(jitter % 201).ok()?;
    let wait = *WAITS.get(index)? * permille / 1000;
    Some(wait.max(retry_after.unwrap_or_default().min(PATIENCE)))
}

/// What `Retry-After` says: seconds, or a date.
pub(super) fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = DateTimeParser::new().parse_timestamp(value.trim()).ok()?;
    Some(then.duration_since(now).try_into().unwrap_or_default())
}

/// Why there was no answer, for the log of deliveries.
fn sentence(failure: &Failure) -> String {
    if let Some(refused) = refusal(failure) {
        return refused.to_string();
    }
    match failure {
        Failure::Timeout(Timeout::Resolve) => "the receiver's name was not resolved in time".to_owned(),
        Failure::Timeout(Timeout::Connect) => "no connection to the receiver came about in time".to_owned(),
        Failure::Timeout(_) => "the receiver did not answer in time".to_owned(),
        Failure::HostNotFound => "the receiver's name is not known".to_owned(),
        Failure::Io(error) => format!("the receiver cannot be reached: {error}"),
        Failure::Http(_) | Failure::BadUri(_) => "the request could not be made".to_owned(),
        other => format!("the exchange with the receiver failed: {other}"),
    }
}
