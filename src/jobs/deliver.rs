//! Delivers what is due, and writes down what became of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use whisperwire_protocol::job::{WebhookData, WebhookEvent};

use super::store::{Attempted, Due, Next};
use super::webhook::{self, Attempt, Delivery};
use super::{LOOK, Office, now, wire};
use crate::telemetry::{Counter, Metrics, table};

/// Deliveries at a time.
const AT_ONCE: usize = 8;

/// Runs until the server stops. What is under way then is finished: its time is bounded.
pub(super) async fn run(office: Arc<Office>, tries: Tries) {
    let mut under_way = JoinSet::new();
    loop {
        while under_way.try_join_next().is_some() {}
        let room = AT_ONCE - under_way.len();
        if room > 0 {
            match office.store.due(now(), room).await {
                Ok(due) => {
                    for due in due {
                        under_way.spawn(deliver(Arc::clone(&office), tries.clone(), due));
                    }
                }
                Err(error) => tracing::debug!(%error, "no webhook can be taken for now"),
            }
        }
        tokio::select! {
            () = office.news.notified() => {}
            _ = under_way.join_next(), if under_way.len() >= AT_ONCE => {}
            () = tokio::time::sleep(LOOK) => {}
            () = office.stop.cancelled() => break,
        }
    }
    under_way.join_all().await;
}

/// Counts attempts by what came of them.
#[derive(Clone)]
pub(super) struct Tries {
    delivered: Counter,
    repeated: Counter,
    given_up: Counter,
}

impl Tries {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let counter = |outcome| metrics.counter(&table::WEBHOOK_ATTEMPTS_TOTAL, &[outcome]);
        Self { delivered: counter("delivered"), repeated: counter("repeated"), given_up: counter("given_up") }
    }
}

async fn deliver(office: Arc<Office>, tries: Tries, due: Due) {
    let Due { hook, job, tried } = due;
    let event = WebhookEvent {
        id: hook.id.clone(),
        object: "event".to_owned(),
        kind: format!("transcription.{}", job.status.name()),
        created_at: job.ended.unwrap_or(job.created) / 1000,
        data: WebhookData { task_id: job.id.clone(), job: wire(&job, office.config.expires(&job)) },
    };
    let body = serde_json::to_string(&event).expect("an event is plain data with text keys");
    // What is kept was checked when it came.
    let secret = hook.secret.as_deref().and_then(|secret| secret.parse().ok());
    let delivery = Delivery { id: hook.id.clone(), url: hook.url, secret, body };
    let courier = Arc::clone(&office.courier);
    let at = now();
    let Ok(attempt) = tokio::task::spawn_blocking(move || courier.send(&delivery)).await else { return };
    let next = match attempt.next(tried + 1, uuid::Uuid::new_v4().as_u64_pair().0) {
        webhook::Next::Delivered => Next::Delivered,
        webhook::Next::Again(wait) => Next::At(now() + millis_of(wait)),
        webhook::Next::GiveUp => Next::GivenUp,
    };
    match next {
        Next::Delivered => tries.delivered.increment(1),
        Next::At(_) => tries.repeated.increment(1),
        Next::GivenUp => tries.given_up.increment(1),
    }
    let delivered = next == Next::Delivered;
    let Attempt { status, millis, error, .. } = attempt;
    tracing::info!(event = hook.id, job = job.id, status, ms = millis, delivered, "a webhook was tried");
    let attempted = Attempted { at, status, error, millis };
    if let Err(error) = office.store.attempted(hook.id, attempted, next).await {
        tracing::warn!(%error, "what became of a webhook could not be kept");
    }
}

fn millis_of(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
}
