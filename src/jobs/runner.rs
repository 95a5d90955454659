//! Takes the next job whose turn it is, and does it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use whisperwire_protocol::openai::TaskName;
use whisperwire_protocol::{ErrorCode, FieldError, TranscriptionForm};

use super::store::{Job, JobError, Outcome};
use super::{LOOK, Office, blocking, failed, now};
use crate::audio::AudioError;
use crate::cache::{Cache, Key};
use crate::dialect::openai::{Order, order};
use crate::dialect::{audio_fault, record};
use crate::engine::Task;
use crate::pipeline::{Progress, Shelf, ShelfError, TranscribeError, Transcriber};

/// How often a running job says that it is alive, and how far.
const PULSE: Duration = Duration::from_millis(500);

/// Runs until the server stops.
pub(super) async fn run(office: Arc<Office>, shelf: Shelf, cache: Cache<TranscribeError>) {
    let places = Arc::new(Semaphore::new(office.config.running.max(1)));
    let mut away = false;
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        // A job that was put back must not be begun again, and a claim that is dropped under way would hold one that
        // nobody works on.
        if office.stop.is_cancelled() {
            return;
        }
        let wait = match office.store.claim(now()).await {
            Ok(Some(job)) => {
                away = false;
                office.change();
                let (office, shelf, cache) = (Arc::clone(&office), shelf.clone(), cache.clone());
                let span = tracing::error_span!("job", id = job.id);
                let running = Running { office, shelf, cache, job };
                running.office.clone().tasks.spawn(running.run(place).instrument(span));
                continue;
            }
            Ok(None) => LOOK,
            Err(error) => {
                if !std::mem::replace(&mut away, true) {
                    tracing::warn!(%error, "no job can be taken for now");
                }
                LOOK
            }
        };
        drop(place);
        tokio::select! {
            () = office.wake.notified() => {}
            () = tokio::time::sleep(wait) => {}
            () = office.stop.cancelled() => return,
        }
    }
}

/// A job that is being worked on.
struct Running {
    office: Arc<Office>,
    shelf: Shelf,
    cache: Cache<TranscribeError>,
    job: Job,
}

impl Running {
    async fn run(self, place: OwnedSemaphorePermit) {
        let Self { office, job, .. } = &self;
        let called_off = CancellationToken::new();
        office.running().insert(job.id.clone(), called_off.clone());
        let progress = Progress::default();
        let outcome = tokio::select! {
            done = self.work(&progress) => Some(match done {
                Ok(outcome) => outcome,
                Err(error) => Outcome::Failed(error),
            }),
            () = called_off.cancelled() => None,
            () = self.claim_lost(&progress) => None,
            () = office.put_back.cancelled() => Some(Outcome::PutBack),
        };
        office.running().remove(&job.id);
        if let Some(outcome) = outcome {
            self.finish(outcome).await;
        }
        drop(place);
        office.wake.notify_one();
    }

    async fn finish(&self, outcome: Outcome) {
        let Self { office, job, .. } = self;
        let (over, what) = match &outcome {
            Outcome::Completed { .. } => (true, "completed"),
            Outcome::Failed(_) => (true, "failed"),
            Outcome::PutBack => (false, "put back"),
        };
        // A store that is away for a moment must not cost a result.
        let mut patience = 0..5;
        loop {
            match office.store.finish(job.id.clone(), job.attempts, outcome.clone(), now()).await {
                Ok(true) => {
                    tracing::info!(job = job.id, attempt = job.attempts, "a job was {what}");
                    if over {
                        office.forget_recording(&job.id);
                        office.over();
                    }
                    return;
                }
                // Somebody else ended it.
                Ok(false) => return,
                Err(error) if patience.next().is_none() || office.put_back.is_cancelled() => {
                    // It stays claimed, and is put back when this server, or another one, looks for such jobs.
                    tracing::error!(job = job.id, %error, "the end of a job could not be kept");
                    return;
                }
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    async fn work(&self, progress: &Progress) -> Result<Outcome, JobError> {
        let Self { office, cache, job, .. } = self;
        let task = match job.task {
            TaskName::Transcribe => Task::Transcribe,
            TaskName::Translate => Task::Translate,
        };
        let refused = |error: FieldError| failed(ErrorCode::InvalidRequest, error.message);
        let form = TranscriptionForm::from_fields(&job.fields, task == Task::Translate).map_err(refused)?;
        let transcriber = self.model(&form.model).await?;
        let Order { options, language, window, endpointing } =
            order(&form, transcriber.traits(), task).map_err(refused)?;
        let mut work =
            transcriber.work(options, language).cut_as(endpointing).with_meter(office.meter(&job.owner));
        if let Some(longest) = window {
            work = work.with_window(longest);
        }
        let key = Key::new(&job.sha256, &transcriber.fingerprint(&work));
        let make = || {
            let (depot, id) = (Arc::clone(&office.depot), job.id.clone());
            let (transcriber, work, progress) = (transcriber.clone(), work.clone(), progress.clone());
            async move {
                let file = blocking(move || depot.get(&id)).await.map_err(AudioError::from)?;
                let slot = transcriber.admit()?;
                let source = transcriber.open(file).await?.watched_by(progress);
                transcriber.transcribe(slot, source, work, None).await
            }
        };
        loop {
            let made = match form.cache {
                Some(false) => make().await.map(Arc::new).map_err(Arc::new),
                _ => cache.transcript(key, make).await.map(|(transcript, _)| transcript),
            };
            match made {
                Ok(transcript) => {
                    let seconds = transcript.duration.seconds();
                    return Ok(Outcome::Completed { seconds, record: record::pack(&transcript) });
                }
                // Whoever waits for an answer goes first.
                Err(error) if matches!(*error, TranscribeError::Overloaded(_)) => {
                    tokio::time::sleep(PULSE).await;
                }
                Err(error) => return Err(transcribing(job, &error)),
            }
        }
    }

    /// The model that the job names, when it can be had: whoever waits for an answer goes first.
    async fn model(&self, name: &str) -> Result<Transcriber, JobError> {
        let mut asked = name;
        loop {
            match self.shelf.get(asked).await {
                Ok(transcriber) => return Ok(transcriber),
                Err(ShelfError::NoRoom { .. } | ShelfError::Loading { .. }) => {
                    tokio::time::sleep(PULSE).await;
                }
                // A name that nobody knows was accepted for the default model's, or was that of a model that has gone.
                Err(ShelfError::Unknown { .. }) if asked != self.shelf.default_name() => {
                    asked = self.shelf.default_name();
                }
                Err(
                    error @ (ShelfError::Unknown { .. }
                    | ShelfError::Absent { .. }
                    | ShelfError::TooLarge { .. }),
                ) => {
                    return Err(failed(
                        ErrorCode::ModelNotFound,
                        format!("The job cannot be done: {error}."),
                    ));
                }
                Err(ShelfError::Failed { name, .. } | ShelfError::InUse { name, .. }) => {
                    let message = format!("The model {name} could not be loaded.");
                    return Err(failed(ErrorCode::EngineFailed, message));
                }
            }
        }
    }

    /// Ends when somebody else has this job.
    async fn claim_lost(&self, progress: &Progress) {
        let Self { office, job, .. } = self;
        let mut told = 0.0;
        loop {
            tokio::time::sleep(PULSE).await;
            // All of it only once there is a result.
            let percent = (progress.share().unwrap_or(0.0) * 100.0).min(99.0);
            match office.store.progress(job.id.clone(), job.attempts, percent).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => tracing::debug!(%error, "how far a job is could not be told"),
            }
            if percent != told {
                told = percent;
                office.change();
            }
        }
    }
}

fn transcribing(job: &Job, error: &TranscribeError) -> JobError {
    match error {
        TranscribeError::Audio(error) => match audio_fault(error) {
            (ErrorCode::Internal, _) => internal(job, error),
            (code, message) => failed(code, message),
        },
        TranscribeError::Engine => failed(ErrorCode::EngineFailed, "The engine failed."),
        TranscribeError::Hangup | TranscribeError::Overloaded(_) => internal(job, error),
    }
}

/// An error of ours: the client learns no more than that.
fn internal(job: &Job, error: &dyn std::fmt::Display) -> JobError {
    tracing::error!(job = job.id, %error, "a job failed");
    failed(ErrorCode::Internal, "The server failed. Its log knows more under the id of this job.")
}
