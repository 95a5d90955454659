//! Jobs and deliveries as the wire writes them.

use jiff::Timestamp;
use whisperwire_protocol::ErrorBody;
use whisperwire_protocol::job as protocol;
use whisperwire_protocol::job::DeliveryStatus;

use super::store::{Attempted, DeliveryLog, Job, Millis};

/// A job, with the time at which it will be forgotten.
pub fn wire(job: &Job, expires: Option<Millis>) -> protocol::Job {
    protocol::Job {
        id: job.id.clone(),
        object: "job".to_owned(),
        task: job.task,
        model: job.model.clone(),
        status: job.status,
        progress: (job.progress * 10.0).round() / 10.0,
        created_at: time(job.created),
        started_at: job.started.map(time),
        completed_at: job.ended.map(time),
        expires_at: expires.map(time),
        attempts: job.attempts,
        duration: job.duration,
        file: protocol::JobFile { name: job.file_name.clone(), bytes: job.bytes },
        error: job.error.as_ref().map(|error| {
            let mut body = ErrorBody::new(error.code, &error.message, None).error;
            body.code = Some(error.code.name().to_owned());
            body
        }),
    }
}

/// A webhook and what became of it.
pub(super) fn wire_delivery(log: DeliveryLog) -> protocol::Delivery {
    let DeliveryLog { hook, status, attempts, next } = log;
    let attempt = |Attempted { at, status, error, millis }| protocol::DeliveryAttempt {
        at: time(at),
        status,
        error,
        milliseconds: millis,
    };
    protocol::Delivery {
        id: hook.id,
        task_id: hook.job,
        url: hook.url,
        status,
        attempts: attempts.into_iter().map(attempt).collect(),
        next_attempt_at: next.filter(|_| status == DeliveryStatus::Pending).map(time),
    }
}

/// ISO-8601 in UTC, to the millisecond.
pub fn time(millis: Millis) -> String {
    let at = i64::try_from(millis).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok());
    format!("{:.3}", at.unwrap_or(Timestamp::MAX))
}
