//! The models as a client sees them: what there is, what is in memory, and leave to change that.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use whisperwire_protocol::ErrorCode;
use whisperwire_protocol::openai::{Model, ModelDeleted, ModelDetails, ModelList, ModelState as WireState};

use super::House;
use super::error::{ApiError, sentence};
use crate::engine::models::{ModelError, REQUEST_ALIASES, remove};
use crate::pipeline::{ModelState, ShelfError, Shelved, Transcriber};

impl House {
    /// The model that a request means, in memory; the server's own if it names none.
    pub(super) async fn transcriber(&self, asked: Option<&str>) -> Result<Transcriber, ApiError> {
        Ok(self.shelf.get(&self.model_name(asked)?).await?)
    }

    /// Which model a request means.
    pub(super) fn model_name(&self, asked: Option<&str>) -> Result<String, ApiError> {
        let default = self.shelf.default_name();
        match self.shelf.find(asked.unwrap_or(default)) {
            Err(ShelfError::Unknown { .. }) if self.config.accept_unknown_models => Ok(default.to_owned()),
            found => Ok(found?),
        }
    }
}

/// `GET /v1/models`: the default model, then the others that are here, then the other services' names for the first.
pub(super) async fn list(State(house): State<Arc<House>>) -> Json<ModelList> {
    let models = house.shelf.list().await;
    let own = models.iter().map(|model| entry(&house, &model.traits.name, model));
    let aliases = models.first().into_iter().flat_map(|default| {
        REQUEST_ALIASES.iter().map(|alias| entry(&house, alias, default)).collect::<Vec<_>>()
    });
    Json(ModelList::new(own.chain(aliases).collect()))
}

/// `GET /v1/models/{id}`; ids may hold slashes.
pub(super) async fn look(
    State(house): State<Arc<House>>,
    Path(id): Path<String>,
) -> Result<Json<Model>, ApiError> {
    let found = match house.shelf.look(&id).await {
        Err(ShelfError::Unknown { .. }) if house.shelf.takes_placeholders() => house.shelf.default_model(),
        found => found?,
    };
    Ok(Json(entry(&house, &id, &found)))
}

/// `POST /v1/models/{id}/load`: answers when the model is in memory.
pub(super) async fn load(
    State(house): State<Arc<House>>,
    Path(path): Path<String>,
) -> Result<Response, ApiError> {
    let Some(id) = path.strip_suffix("/load") else {
        return Ok(([(header::ALLOW, "GET,HEAD,DELETE")], ApiError::wrong_method()).into_response());
    };
    house.refuse_while_stopping()?;
    // Not in use by anybody, so that the answer does not count as a use of it.
    drop(house.shelf.get(id).await?);
    Ok(Json(entry(&house, id, &house.shelf.look(id).await?)).into_response())
}

/// What to do about a model beside unloading it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Deletion {
    /// Whether to remove the downloaded file as well.
    file: bool,
}

/// `DELETE /v1/models/{id}`: unloads a model that nobody uses, and with `?file=true` removes its file as well, unless
/// the server was told to run it. An engine that takes placeholders takes any name for a model.
pub(super) async fn delete(
    State(house): State<Arc<House>>,
    Path(id): Path<String>,
    query: Result<Query<Deletion>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<ModelDeleted>, ApiError> {
    let of_model = |code, message: String| ApiError::new(code, message).of("model");
    let Query(Deletion { file }) = query
        .map_err(|_| ApiError::new(ErrorCode::InvalidRequest, "file must be true or false.").of("file"))?;
    let found = house.shelf.find(&id).ok();
    if let Some(name) = &found {
        if file && house.shelf.is_pinned(name) {
            let message = format!("The model {id:?} is one that this server was started with: {name}.");
            return Err(of_model(ErrorCode::Conflict, message));
        }
        house.shelf.unload(name).await.map_err(|error| match error {
            // To come back later is for those who want to use it.
            ShelfError::Loading { .. } => of_model(ErrorCode::Conflict, sentence(&error.to_string())),
            error => error.into(),
        })?;
    }
    if house.shelf.takes_placeholders() {
        return Ok(Json(ModelDeleted::new(id)));
    }
    if file {
        remove_file(&house, &id).await?;
    } else if found.is_none() {
        return Err(of_model(ErrorCode::ModelNotFound, format!("There is no model {id:?} here.")));
    }
    Ok(Json(ModelDeleted::new(id)))
}

async fn remove_file(house: &House, id: &str) -> Result<(), ApiError> {
    let of_model = |code, message: String| ApiError::new(code, message).of("model");
    let (name, hub) = (id.to_owned(), house.config.models.clone());
    let removed = tokio::task::spawn_blocking(move || remove(&name, &hub)).await;
    removed.map_err(ApiError::internal)?.map_err(|error| match error {
        ModelError::NoFileOfItsOwn | ModelError::Busy(_) => {
            of_model(ErrorCode::Conflict, sentence(&error.to_string()))
        }
        ModelError::Unknown(_)
        | ModelError::NoFile(_)
        | ModelError::NotOneModel
        | ModelError::NothingToRemove(_) => {
            let message = format!("There is no downloaded model {id:?} here.");
            of_model(ErrorCode::ModelNotFound, message)
        }
        other => ApiError::internal(other),
    })?;
    tracing::info!(model = id, "a model's file was removed");
    Ok(())
}

/// When OpenAI published Whisper. The library wants a date, and the weights' own is not known.
const PUBLISHED: u64 = 1_663_718_400;

fn entry(house: &House, id: &str, model: &Shelved) -> Model {
    let Shelved { traits, standing } = model;
    Model {
        whisperwire: Some(ModelDetails {
            model: traits.name.clone(),
            languages: traits.languages.iter().map(|language| language.code().to_owned()).collect(),
            translates: traits.translates,
            device: Some(traits.device.clone()).filter(|device| !device.is_empty()),
            caveat: traits.caveat.map(str::to_owned),
            state: match standing.state {
                ModelState::Unloaded => WireState::Unloaded,
                ModelState::Loading => WireState::Loading,
                ModelState::Loaded => WireState::Loaded,
                ModelState::Failed => WireState::Failed,
            },
            memory: standing.memory,
            last_used: standing.last_used.map(|used| house.epoch_of(used)),
            active: standing.active as u64,
        }),
        ..Model::new(id, PUBLISHED, "whisperwire")
    }
}

impl House {
    /// A moment since the start, in seconds since 1970: the same moment always gives the same number.
    fn epoch_of(&self, moment: Instant) -> u64 {
        self.started_at + moment.saturating_duration_since(self.started).as_secs()
    }
}

impl From<ShelfError> for ApiError {
    fn from(error: ShelfError) -> Self {
        let message = sentence(&error.to_string());
        match error {
            ShelfError::Unknown { .. } | ShelfError::Absent { .. } | ShelfError::TooLarge { .. } => {
                Self::new(ErrorCode::ModelNotFound, message)
            }
            ShelfError::NoRoom { retry_after, .. } => {
                Self::new(ErrorCode::Overloaded, message).come_back_after(retry_after)
            }
            ShelfError::Loading { retry_after, .. } => {
                Self::new(ErrorCode::ModelLoading, message).come_back_after(retry_after)
            }
            ShelfError::Failed { name, why, retry_after } => {
                let message = format!("The model {name} could not be loaded. The server's log knows why.");
                Self::new(ErrorCode::ModelLoading, message).because(why).come_back_after(retry_after)
            }
            ShelfError::InUse { .. } => Self::new(ErrorCode::Conflict, message),
        }
        .of("model")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_cannot_have_a_model_learns_whether_to_come_back_and_nothing_of_the_machine() {
        let name = || "base".to_owned();
        let why = "a file of this machine is broken".to_owned();
        for (error, status, retry) in [
            (ShelfError::Unknown { asked: name(), default: name() }, 404, None),
            (ShelfError::Absent { name: name(), advice: "pull it".into(), default: name() }, 404, None),
            (ShelfError::TooLarge { name: name(), bytes: 2, limit: 1 }, 404, None),
            (ShelfError::NoRoom { name: name(), retry_after: 7 }, 503, Some("7")),
            (ShelfError::Loading { name: name(), retry_after: 8 }, 503, Some("8")),
            (ShelfError::Failed { name: name(), why: why.clone(), retry_after: 9 }, 503, Some("9")),
            (ShelfError::InUse { name: name(), active: 1 }, 409, None),
        ] {
            let error = ApiError::from(error);
            let body = error.body().error;
            assert!(!body.message.contains(&why) && body.message.contains("base"), "{}", body.message);
            assert_eq!(body.param.as_deref(), Some("model"));
            let response = error.into_response();
            let after = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
            assert_eq!((response.status().as_u16(), after), (status, retry), "{}", body.message);
        }
    }
}
