//! A multipart body becomes text fields and a spooled file.
//!
//! The file goes to disk as it arrives, under a size cap, and has no name there: it is gone when its handle is,
//! whatever happens to this process. Field order means nothing, because clients differ in it.

use std::fs::File;
use std::time::Duration;

use axum::extract::Multipart;
use axum::extract::multipart::{Field, MultipartError, MultipartRejection};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncSeekExt, AsyncWriteExt, BufWriter};
use whisperwire_protocol::ErrorCode;

use super::HttpConfig;
use super::error::ApiError;
use super::intake::Intake;

/// What was uploaded.
pub(super) struct Upload {
    pub(super) fields: Vec<(String, String)>,
    pub(super) file: Recording,
}

/// A file on the disk, at its beginning.
pub(super) struct Recording {
    pub(super) file: File,
    /// As the client called it, cut to [`MAX_NAME`] characters.
    pub(super) name: Option<String>,
    pub(super) bytes: u64,
    pub(super) sha256: [u8; 32],
}

/// All text fields together, in bytes.
const MAX_TEXT: usize = 1 << 20;
/// The name of a file, in characters.
const MAX_NAME: usize = 255;
/// Text fields.
const MAX_FIELDS: usize = 1000;
/// Bytes that are gathered before they are written.
const BUFFER: usize = 64 << 10;

/// Takes a body that should be a form, and says so where it is none.
pub(super) async fn receive_form(
    form: Result<Multipart, MultipartRejection>,
    intake: &Intake,
    config: &HttpConfig,
) -> Result<Upload, ApiError> {
    let multipart = form.map_err(|rejection| {
        ApiError::new(ErrorCode::InvalidRequest, format!("This is no form: {}.", rejection.body_text()))
    })?;
    receive(multipart, intake, config).await
}

/// Takes the whole body. Errors are the client's, with the status it deserves.
async fn receive(mut multipart: Multipart, intake: &Intake, config: &HttpConfig) -> Result<Upload, ApiError> {
    let client = Client { intake, patience: config.upload_timeout };
    let mut fields = Vec::new();
    let mut file = None;
    let mut text = 0;
    while let Some(mut field) = client.wait(multipart.next_field()).await? {
        let name = field.name().unwrap_or_default().to_owned();
        if name == "file" {
            if file.is_some() {
                let message = "There is more than one file; send one per request.";
                return Err(ApiError::new(ErrorCode::InvalidRequest, message).of("file"));
            }
            file = Some(spool(&mut field, &client, config).await?);
        } else {
            let value = read_text(&mut field, &name, MAX_TEXT - text, &client).await?;
            text += name.len() + value.len();
            fields.push((name, value));
            if fields.len() > MAX_FIELDS || text > MAX_TEXT {
                return Err(ApiError::new(ErrorCode::InvalidRequest, "The form has too many fields."));
            }
        }
    }
    let missing = || ApiError::new(ErrorCode::InvalidRequest, "The file is missing.").of("file");
    Ok(Upload { fields, file: file.ok_or_else(missing)? })
}

async fn spool(
    field: &mut Field<'_>,
    client: &Client<'_>,
    config: &HttpConfig,
) -> Result<Recording, ApiError> {
    let name = field.file_name().map(|name| name.chars().take(MAX_NAME).collect::<String>());
    let folder = config.spool_dir.clone();
    let opened = tokio::task::spawn_blocking(move || match folder {
        Some(folder) => tempfile::tempfile_in(folder),
        None => tempfile::tempfile(),
    });
    let file = opened.await.map_err(ApiError::internal)?.map_err(ApiError::internal)?;
    let mut writer = BufWriter::with_capacity(BUFFER, tokio::fs::File::from_std(file));
    let mut bytes = 0;
    let mut hash = Sha256::new();
    while let Some(chunk) = client.wait(field.chunk()).await? {
        bytes += chunk.len() as u64;
        if bytes > config.max_upload {
            let message =
                format!("The file is larger than the {} MB allowed.", config.max_upload / 1_000_000);
            return Err(ApiError::new(ErrorCode::TooLarge, message).of("file"));
        }
        hash.update(&chunk);
        writer.write_all(&chunk).await.map_err(ApiError::internal)?;
    }
    if bytes == 0 {
        return Err(ApiError::new(ErrorCode::AudioTooShort, "The file is empty.").of("file"));
    }
    writer.flush().await.map_err(ApiError::internal)?;
    let mut file = writer.into_inner();
    file.rewind().await.map_err(ApiError::internal)?;
    let name = name.filter(|name| !name.is_empty());
    Ok(Recording { file: file.into_std().await, name, bytes, sha256: hash.finalize().into() })
}

async fn read_text(
    field: &mut Field<'_>,
    name: &str,
    room: usize,
    client: &Client<'_>,
) -> Result<String, ApiError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = client.wait(field.chunk()).await? {
        if bytes.len() + chunk.len() > room {
            return Err(ApiError::new(ErrorCode::InvalidRequest, "A text field is too long.").of(name));
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes)
        .map_err(|_| ApiError::new(ErrorCode::InvalidRequest, "A text field is not UTF-8.").of(name))
}

/// Whoever sends the form.
struct Client<'a> {
    intake: &'a Intake,
    patience: Duration,
}

impl Client<'_> {
    /// Waits for the next bytes, but not for ever, and not for endlessly many of them.
    async fn wait<T>(&self, next: impl Future<Output = Result<T, MultipartError>>) -> Result<T, ApiError> {
        self.intake.allow();
        match tokio::time::timeout(self.patience, next).await {
            Ok(Ok(next)) => Ok(next),
            Ok(Err(error)) => {
                let message =
                    format!("The form cannot be read: {}.", error.body_text().trim_end_matches('.'));
                Err(ApiError::new(ErrorCode::InvalidRequest, message))
            }
            Err(_) => Err(ApiError::new(ErrorCode::RequestTimeout, "The upload stood still for too long.")),
        }
    }
}
