//! `/v1/audio/transcriptions` and `/v1/audio/translations`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::multipart::MultipartRejection;
use axum::extract::{Extension, Multipart, State};
use axum::http::header;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::mpsc;
use whisperwire_protocol::{ErrorCode, TranscriptionForm};

use super::error::ApiError;
use super::intake::Intake;
use super::upload::{self, Upload};
use super::{House, cut_as};
use crate::dialect::Narrator;
use crate::dialect::openai::{Order, StreamRenderer, order, render};
use crate::engine::Task;
use crate::engine::models::request_name_known;
use crate::engine::pool::Slot;
use crate::pipeline::{Source, TranscribeError, Work};

type Form = Result<Multipart, MultipartRejection>;

/// The words as they were spoken.
pub(super) async fn transcriptions(
    State(house): State<Arc<House>>,
    Extension(intake): Extension<Intake>,
    form: Form,
) -> Result<Response, ApiError> {
    answer(house, &intake, form, Task::Transcribe).await
}

/// English.
pub(super) async fn translations(
    State(house): State<Arc<House>>,
    Extension(intake): Extension<Intake>,
    form: Form,
) -> Result<Response, ApiError> {
    answer(house, &intake, form, Task::Translate).await
}

async fn answer(house: Arc<House>, intake: &Intake, form: Form, task: Task) -> Result<Response, ApiError> {
    let multipart = form.map_err(|rejection| {
        ApiError::new(ErrorCode::InvalidRequest, format!("This is no form: {}.", rejection.body_text()))
    })?;
    // A full house is told so before its visitor has carried everything in. The slot itself is taken afterwards,
    // so that slow uploads do not hold up fast ones.
    drop(house.transcriber.admit()?);
    let Upload { fields, file } = upload::receive(multipart, intake, &house.config).await?;
    let form = TranscriptionForm::from_fields(&fields, task == Task::Translate)?;
    let traits = house.transcriber.traits();
    if !traits.takes_placeholders {
        form.check()?;
    }
    check_model(&house, &form.model)?;
    let work = work(&house, order(&form, traits, task)?);
    let slot = house.transcriber.admit()?;
    let source = house.transcriber.open(file.file).await?;
    if form.stream {
        let renderer = StreamRenderer::new(&form);
        return Ok(stream_answer(house, slot, vec![source], work, renderer, "file"));
    }
    let transcript = house.transcriber.transcribe(slot, source, work, None).await?;
    let rendered = render(&transcript, &form, task);
    Ok(([(header::CONTENT_TYPE, rendered.content_type)], rendered.body).into_response())
}

/// Whether a request may name this model.
pub(super) fn check_model(house: &House, name: &str) -> Result<(), ApiError> {
    let loaded = &house.transcriber.traits().name;
    if house.config.accept_unknown_models || request_name_known(name, loaded) {
        return Ok(());
    }
    let message = format!("The model {name:?} does not exist here; this server runs {loaded}.");
    Err(ApiError::new(ErrorCode::ModelNotFound, message).of("model"))
}

/// The server's own way of working, with what the request wants otherwise.
pub(super) fn work(house: &House, order: Order) -> Work {
    let Order { options, language, window, endpointing } = order;
    let mut work = house.transcriber.work(options, language);
    if let Some(longest) = window {
        work = work.with_window(longest);
    }
    cut_as(work, endpointing)
}

/// Comments keep proxies from closing a stream whose next final takes long.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Each final at once as an event, of one recording after the other. The status is out by then, so an error is an
/// event too, in the one form that both client libraries raise.
pub(super) fn stream_answer(
    house: Arc<House>,
    slot: Slot,
    sources: Vec<Source>,
    work: Work,
    narrator: impl Narrator + Send + 'static,
    param: &'static str,
) -> Response {
    let (events, told) = mpsc::channel::<String>(16);
    let tracker = house.streams.clone();
    tracker.spawn(async move {
        let telling = tell(&house, &slot, sources, &work, narrator, &events);
        let last = tokio::select! {
            last = telling => last,
            () = events.closed() => return,
        };
        drop(slot);
        let last = last.unwrap_or_else(|error| {
            vec![serde_json::to_string(&ApiError::transcribing(error, param).body()).unwrap_or_default()]
        });
        for event in last.into_iter().chain(["[DONE]".to_owned()]) {
            if events.send(event).await.is_err() {
                return;
            }
        }
    });
    let body = stream::unfold(told, |mut told| async {
        let data = told.recv().await?;
        Some((Ok::<_, Infallible>(Event::default().data(data)), told))
    });
    let unbuffered = [("x-accel-buffering", "no")];
    (unbuffered, Sse::new(body).keep_alive(KeepAlive::new().interval(HEARTBEAT))).into_response()
}

/// Tells all but the last events, and gives those back.
async fn tell(
    house: &House,
    slot: &Slot,
    sources: Vec<Source>,
    work: &Work,
    mut narrator: impl Narrator,
    events: &mpsc::Sender<String>,
) -> Result<Vec<String>, TranscribeError> {
    for event in narrator.begin() {
        events.send(event).await.map_err(|_| TranscribeError::Hangup)?;
    }
    for source in sources {
        let (finals, mut segments) = mpsc::channel(16);
        let transcribe = house.transcriber.transcribe(slot.clone(), source, work.clone(), Some(finals));
        let forward = async {
            while let Some(segment) = segments.recv().await {
                for event in narrator.segment(&segment) {
                    if events.send(event).await.is_err() {
                        // Dropping the receiver is what tells the transcription that nobody listens.
                        segments.close();
                    }
                }
            }
        };
        let (transcript, ()) = tokio::join!(transcribe, forward);
        narrator.end(&transcript?);
    }
    Ok(narrator.done())
}
