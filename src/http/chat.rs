//! `/v1/chat/completions`: a recording inside a JSON body, and its transcript as the answer.
//!
//! The body has to be in memory as a whole, once; its recordings are decoded from where they lie to the disk, as
//! uploads are, and then the body is gone. Deliberately absent: every other kind of chat.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::extract::{Extension, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::read::DecoderReader;
use futures_util::StreamExt;
use tokio::runtime::Handle;
use whisperwire_protocol::ErrorCode;
use whisperwire_protocol::chat::ChatRequest;

use super::auth::Principal;
use super::error::ApiError;
use super::intake::Intake;
use super::openai::{Telling, stream_answer, work};
use super::{House, HttpConfig};
use crate::dialect::chat::{ChunkRenderer, Heading, Recording, order, render};
use crate::dialect::openai::Order;
use crate::pipeline::Transcriber;

/// What the names of OpenAI's chat models begin with that take recordings.
const HEARING: [&str; 3] = ["gpt-audio", "gpt-4o-audio-preview", "gpt-4o-mini-audio-preview"];

/// The most that recordings in a JSON body may be, in bytes, however large uploads may be: they are in memory.
const MOST_IN_MEMORY: u64 = 256_000_000;
/// What may stand around the recordings.
const AROUND: u64 = 1 << 20;
/// Bytes that are decoded at once.
const BUFFER: usize = 256 << 10;

/// Clients differ in whether they write the padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// `POST /v1/chat/completions`.
pub(super) async fn completions(
    State(house): State<Arc<House>>,
    Extension(principal): Extension<Principal>,
    Extension(intake): Extension<Intake>,
    body: Body,
) -> Result<Response, ApiError> {
    // A full house is told so before its visitor has carried everything in.
    house.shelf.crew().has_room()?;
    house.limits.hear(&principal).await?;
    let body = receive(body, &intake, &house.config).await?;
    let unpack = {
        let house = house.clone();
        move || unpack(&body, &house)
    };
    let Question { transcriber, heading, stream, order, recordings } =
        tokio::task::spawn_blocking(unpack).await.map_err(ApiError::internal)??;
    let slot = transcriber.admit()?;
    let mut sources = Vec::with_capacity(recordings.len());
    for (param, file) in recordings {
        house.count_upload(file.metadata().map_or(0, |metadata| metadata.len()));
        // All of them before the first event, so that bad audio is an error of its own.
        let source = transcriber.open(file).await;
        sources.push(source.map_err(|error| ApiError::from(&error).of(&param))?);
    }
    let work = work(&transcriber, order).with_meter(house.limits.meter(&principal));
    if stream {
        let telling = Telling { transcriber, slot, sources, work, keep: None, param: "messages" };
        return Ok(stream_answer(house, telling, ChunkRenderer::new(heading)));
    }
    let mut transcripts = Vec::with_capacity(sources.len());
    for source in sources {
        let transcribe = transcriber.transcribe(slot.clone(), source, work.clone(), None);
        let transcript = transcribe.await.map_err(|error| ApiError::transcribing(&error, "messages"))?;
        transcripts.push(transcript);
    }
    let json = [(header::CONTENT_TYPE, "application/json")];
    Ok((json, render(&heading, &transcripts)).into_response())
}

/// A request without its body.
struct Question {
    transcriber: Transcriber,
    heading: Heading,
    stream: bool,
    order: Order,
    /// Each with its place in the body.
    recordings: Vec<(String, File)>,
}

/// Takes the whole body, within its limit, and waits for it as long as for an upload.
async fn receive(body: Body, intake: &Intake, config: &HttpConfig) -> Result<Vec<u8>, ApiError> {
    let most = limit(config).div_ceil(3) * 4 + AROUND;
    let too_large = || too_large(config).of("messages");
    let announced = body.size_hint().exact().unwrap_or(0);
    if announced > most {
        return Err(too_large());
    }
    let mut all = Vec::new();
    let mut chunks = body.into_data_stream();
    loop {
        intake.allow();
        let Ok(next) = tokio::time::timeout(config.upload_timeout, chunks.next()).await else {
            return Err(ApiError::new(ErrorCode::RequestTimeout, "The request stood still for too long."));
        };
        let Some(chunk) = next else { return Ok(all) };
        let chunk = chunk.map_err(|_| ApiError::new(ErrorCode::InvalidRequest, "The body broke off."))?;
        if (all.len() + chunk.len()) as u64 > most {
            return Err(too_large());
        }
        all.extend_from_slice(&chunk);
    }
}

fn limit(config: &HttpConfig) -> u64 {
    config.max_upload.min(MOST_IN_MEMORY)
}

fn too_large(config: &HttpConfig) -> ApiError {
    let megabytes = limit(config) / 1_000_000;
    let message = format!("The recordings are larger than the {megabytes} MB allowed in one JSON body.");
    ApiError::new(ErrorCode::TooLarge, message)
}

/// Reads a body and puts its recordings on the disk. Blocks.
fn unpack(body: &[u8], house: &House) -> Result<Question, ApiError> {
    let request = ChatRequest::read(body)?;
    if !house.shelf.takes_placeholders() {
        request.check()?;
    }
    // Whoever asks a model of OpenAI's that hears means the one that hears here.
    let hears = HEARING.iter().any(|name| request.model.0.starts_with(name));
    let model = if hears { None } else { Some(&*request.model.0) };
    let transcriber = Handle::current().block_on(house.transcriber(model))?;
    let (order, recordings) = order(&request, transcriber.traits())?;
    let mut room = limit(&house.config);
    let recordings = recordings.into_iter().map(|recording| {
        let file = decode(&recording, &mut room, &house.config)?;
        Ok((recording.param, file))
    });
    let recordings = recordings.collect::<Result<_, ApiError>>()?;
    let heading = Heading {
        id: uuid::Uuid::now_v7().simple().to_string(),
        created: super::epoch_seconds(),
        model: request.model.0.to_string(),
        spoken: request.wants_audio(),
        usage: request.wants_usage(),
    };
    Ok(Question { transcriber, heading, stream: request.stream.unwrap_or(false), order, recordings })
}

/// One recording as a file without a name.
fn decode(recording: &Recording<'_>, room: &mut u64, config: &HttpConfig) -> Result<File, ApiError> {
    let mut file = match &config.spool_dir {
        Some(folder) => tempfile::tempfile_in(folder),
        None => tempfile::tempfile(),
    }
    .map_err(ApiError::internal)?;
    let mut decoder = DecoderReader::new(Dense(recording.base64.as_bytes()), &BASE64);
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = decoder.read(&mut buffer).map_err(|_| {
            let message = "A recording must be in base64, and this is none.";
            ApiError::new(ErrorCode::InvalidRequest, message).of(&recording.param)
        })?;
        if read == 0 {
            break;
        }
        *room = room.checked_sub(read as u64).ok_or_else(|| too_large(config).of(&recording.param))?;
        file.write_all(&buffer[..read]).map_err(ApiError::internal)?;
    }
    file.rewind().map_err(ApiError::internal)?;
    Ok(file)
}

/// Text without the line breaks that some encoders put into it.
struct Dense<'a>(&'a [u8]);

impl Read for Dense<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.0 = self.0.trim_ascii_start();
        let line = self.0.iter().position(u8::is_ascii_whitespace).unwrap_or(self.0.len());
        let count = line.min(into.len());
        into[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
}
