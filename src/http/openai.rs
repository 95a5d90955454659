//! `/v1/audio/transcriptions` and `/v1/audio/translations`.
//!
//! Whole or as events, an answer is rendered from one transcript, and that may have been made before: see [`cached`].

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::multipart::MultipartRejection;
use axum::extract::{Extension, Multipart, State};
use axum::http::header;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tracing::Instrument;
use whisperwire_protocol::{FieldError, TranscriptionForm};

use super::auth::Principal;
use super::cached::{self, Ticket, Usage};
use super::error::ApiError;
use super::intake::Intake;
use super::{House, jobs, upload};
use crate::cache::{Key, Outcome};
use crate::dialect::Narrator;
use crate::dialect::openai::{Order, StreamRenderer, order, render};
use crate::engine::Task;
use crate::engine::pool::Slot;
use crate::pipeline::{Source, TranscribeError, Transcriber, Work};
use crate::transcript::Transcript;

type Form = Result<Multipart, MultipartRejection>;

/// The words as they were spoken.
pub(super) async fn transcriptions(
    State(house): State<Arc<House>>,
    Extension(principal): Extension<Principal>,
    Extension(intake): Extension<Intake>,
    usage: Usage,
    form: Form,
) -> Result<Response, ApiError> {
    answer(house, Asked { principal, intake, usage, form }, Task::Transcribe).await
}

/// English.
pub(super) async fn translations(
    State(house): State<Arc<House>>,
    Extension(principal): Extension<Principal>,
    Extension(intake): Extension<Intake>,
    usage: Usage,
    form: Form,
) -> Result<Response, ApiError> {
    answer(house, Asked { principal, intake, usage, form }, Task::Translate).await
}

/// A request, not read yet.
struct Asked {
    principal: Principal,
    intake: Intake,
    usage: Usage,
    form: Form,
}

async fn answer(house: Arc<House>, asked: Asked, task: Task) -> Result<Response, ApiError> {
    // A full house is told so before its visitor has carried everything in. The slot itself is taken afterwards,
    // so that slow uploads do not hold up fast ones, and only by those whose transcript has to be made.
    house.shelf.crew().has_room()?;
    house.limits.hear(&asked.principal).await?;
    let upload = upload::receive_form(asked.form, &asked.intake, &house.config).await?;
    house.count_upload(upload.file.bytes);
    let form = TranscriptionForm::from_fields(&upload.fields, task == Task::Translate)?;
    if form.background {
        return jobs::later(&house, &asked.principal, task, upload).await;
    }
    for (param, sent) in [("webhook_url", &form.webhook_url), ("webhook_secret", &form.webhook_secret)] {
        if sent.is_some() {
            return Err(FieldError::new(param, format!("{param} needs async=true.")).into());
        }
    }
    let file = upload.file;
    if !house.shelf.takes_placeholders() {
        form.check()?;
    }
    let transcriber = house.transcriber(Some(&form.model)).await?;
    let work = work(&transcriber, order(&form, transcriber.traits(), task)?)
        .with_meter(house.limits.meter(&asked.principal));
    let key = Key::new(&file.sha256, &transcriber.fingerprint(&work));
    let usage = asked.usage.with_field(form.cache);
    let ticket = Ticket::new(&house, &asked.principal, usage);
    let told = ticket.as_ref().map(Ticket::header);
    if form.stream {
        let renderer = StreamRenderer::new(&form);
        if let Some(transcript) = cached::look(&house, (key, usage)).await {
            if let Some(ticket) = ticket {
                ticket.validate(&house, key).await;
            }
            let events = told_at_once(&transcript, renderer);
            return Ok((cached::header(Outcome::Hit), told, events).into_response());
        }
        let slot = transcriber.admit()?;
        let sources = vec![transcriber.open(file.file).await?];
        let keep = ticket.map(|ticket| (key, ticket));
        let telling = Telling { transcriber, slot, sources, work, keep, param: "file" };
        let events = stream_answer(house, telling, renderer);
        return Ok((cached::header(Outcome::Miss), told, events).into_response());
    }
    let wanted = cached::Wanted { transcriber, work, file: file.file };
    let (transcript, outcome) = cached::transcript(&house, (key, usage), wanted).await?;
    let rendered = render(&transcript, &form, task, ticket.as_ref().map(Ticket::id));
    if let Some(ticket) = ticket {
        ticket.validate(&house, key).await;
    }
    let content_type = [(header::CONTENT_TYPE, rendered.content_type)];
    Ok((cached::header(outcome), told, content_type, rendered.body).into_response())
}

/// The server's own way of working, with what the request wants otherwise.
pub(super) fn work(transcriber: &Transcriber, order: Order) -> Work {
    let Order { options, language, window, endpointing } = order;
    let mut work = transcriber.work(options, language);
    if let Some(longest) = window {
        work = work.with_window(longest);
    }
    work.cut_as(endpointing)
}

/// Comments keep proxies from closing a stream whose next final takes long.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// What is told while it is made.
pub(super) struct Telling {
    pub(super) transcriber: Transcriber,
    pub(super) slot: Slot,
    /// One after the other.
    pub(super) sources: Vec<Source>,
    pub(super) work: Work,
    /// What to keep the transcript by, where there is one recording and it is to be kept.
    pub(super) keep: Option<(Key, Ticket)>,
    /// The field that the recordings came in.
    pub(super) param: &'static str,
}

/// Each final at once as an event. The status is out by then, so an error is an event too, in the one form that both
/// client libraries raise.
pub(super) fn stream_answer(
    house: Arc<House>,
    telling: Telling,
    narrator: impl Narrator + Send + 'static,
) -> Response {
    let param = telling.param;
    let (events, told) = mpsc::channel::<String>(16);
    let tracker = house.streams.clone();
    let task = async move {
        // The slot and the model are free as soon as this is over, however long the last events take to be read.
        let last = tokio::select! {
            last = tell(&house, telling, narrator, &events) => last,
            () = events.closed() => return,
        };
        let last = last.unwrap_or_else(|error| {
            let error = house.counted(ApiError::transcribing(&error, param));
            vec![serde_json::to_string(&error.body()).unwrap_or_default()]
        });
        for event in last.into_iter().chain(["[DONE]".to_owned()]) {
            if events.send(event).await.is_err() {
                return;
            }
        }
    };
    tracker.spawn(task.in_current_span());
    as_events(stream::unfold(told, async |mut told| Some((told.recv().await?, told))))
}

/// The same events for a transcript that is there already.
fn told_at_once(transcript: &Transcript, mut narrator: impl Narrator) -> Response {
    let mut events = narrator.begin();
    events.extend(transcript.segments.iter().flat_map(|segment| narrator.segment(segment)));
    narrator.end(transcript);
    events.extend(narrator.done());
    events.push("[DONE]".to_owned());
    as_events(stream::iter(events))
}

fn as_events(data: impl Stream<Item = String> + Send + 'static) -> Response {
    let events = data.map(|data| Ok::<_, Infallible>(Event::default().data(data)));
    let unbuffered = [("x-accel-buffering", "no")];
    (unbuffered, Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT))).into_response()
}

/// Tells all but the last events, and gives those back.
async fn tell(
    house: &House,
    telling: Telling,
    mut narrator: impl Narrator,
    events: &mpsc::Sender<String>,
) -> Result<Vec<String>, TranscribeError> {
    let Telling { transcriber, slot, sources, work, keep, .. } = telling;
    for event in narrator.begin() {
        events.send(event).await.map_err(|_| TranscribeError::Hangup)?;
    }
    for source in sources {
        let (finals, mut segments) = mpsc::channel(16);
        let transcribe = transcriber.transcribe(slot.clone(), source, work.clone(), Some(finals));
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
        let transcript = Arc::new(transcript?);
        if let Some((key, ticket)) = keep.clone() {
            house.cache.put(key, &transcript).await;
            ticket.validate(house, key).await;
        }
        narrator.end(&transcript);
    }
    Ok(narrator.done())
}
