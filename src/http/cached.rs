//! Finished transcripts at the door: what a request wants of the cache, what its answer says of it, and how somebody
//! comes back for what was answered.

use std::convert::Infallible;
use std::fs::File;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, header};

use super::auth::Principal;
use super::error::ApiError;
use super::{House, epoch_millis};
use crate::cache::{Key, Outcome, Receipt};
use crate::pipeline::{Transcriber, Work};
use crate::transcript::Transcript;

/// What a request wants of the cache, by its `Cache-Control` and by its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Usage {
    /// To be given what is kept, and to have kept what is made.
    All,
    /// `no-cache`: to have it made anew, in place of what is kept.
    Renew,
    /// `no-store` or `cache=false`: to have nothing to do with it.
    Nothing,
}

impl Usage {
    fn of(headers: &HeaderMap) -> Self {
        let says = |word: &str| {
            headers
                .get_all(header::CACHE_CONTROL)
                .iter()
                .filter_map(|value| value.to_str().ok())
                .flat_map(|value| value.split(','))
                .any(|directive| directive.trim().eq_ignore_ascii_case(word))
        };
        match (says("no-store"), says("no-cache")) {
            (true, _) => Self::Nothing,
            (false, true) => Self::Renew,
            (false, false) => Self::All,
        }
    }

    /// The same, unless the form wants nothing of it.
    pub(super) fn with_field(self, cache: Option<bool>) -> Self {
        if cache == Some(false) { Self::Nothing } else { self }
    }

    /// Whether what is made is to be kept.
    pub(super) fn keeps(self) -> bool {
        self != Self::Nothing
    }
}

impl<S: Sync> FromRequestParts<S> for Usage {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.headers))
    }
}

/// What has to be done where no transcript is kept.
pub(super) struct Wanted {
    pub(super) transcriber: Transcriber,
    pub(super) work: Work,
    pub(super) file: File,
}

/// The transcript of an upload: from the cache, from another request that is having it made, or made now. A slot is
/// only taken in the last case.
pub(super) async fn transcript(
    house: &House,
    (key, usage): (Key, Usage),
    Wanted { transcriber, work, file }: Wanted,
) -> Result<(Arc<Transcript>, Outcome), ApiError> {
    let begin = async move || transcriber.transcribe_file(file, work).await;
    if usage == Usage::All {
        return house.cache.transcript(key, begin).await.map_err(|error| (&*error).into());
    }
    let transcript = Arc::new(begin().await?);
    if usage.keeps() {
        house.cache.put(key, &transcript).await;
    }
    Ok((transcript, Outcome::Miss))
}

/// The transcript of an upload whose finals are to be told one by one, if it is kept.
pub(super) async fn look(house: &House, (key, usage): (Key, Usage)) -> Option<Arc<Transcript>> {
    if usage == Usage::All { house.cache.get(key).await } else { None }
}

/// Under what an answer is asked for later, as if it had been a task: its client may have read no further than the
/// headers, or wants it page by page. It is good for as long as the transcript is kept.
#[derive(Clone)]
pub(super) struct Ticket {
    id: String,
    owner: Arc<str>,
    began: u64,
}

impl Ticket {
    /// A new one, if anything of this answer will be kept.
    pub(super) fn new(house: &House, principal: &Principal, usage: Usage) -> Option<Self> {
        (usage.keeps() && house.cache.is_on()).then(|| Self {
            id: format!("{TICKET}{}", uuid::Uuid::now_v7().simple()),
            owner: principal.id().clone(),
            began: epoch_millis(),
        })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The header that tells it.
    pub(super) fn header(&self) -> [(HeaderName, String); 1] {
        [(TASK_ID, self.id.clone())]
    }

    /// The transcript is there.
    pub(super) async fn validate(self, house: &House, key: Key) {
        let Self { id, owner, began } = self;
        house.cache.hand_out(id, Receipt { owner, key, began, ended: epoch_millis() }).await;
    }

    /// Whether this is the id of one, and not of a job.
    pub(super) fn is(id: &str) -> bool {
        id.starts_with(TICKET)
    }
}

/// What its ids begin with.
const TICKET: &str = "task_";

/// The id of the task that an answer belongs to.
pub(super) const TASK_ID: HeaderName = HeaderName::from_static("x-task-id");

/// Says whether an answer cost any decoding of its own: `hit` also where it was decoded for somebody else.
pub(super) fn header(outcome: Outcome) -> [(HeaderName, &'static str); 1] {
    let word = match outcome {
        Outcome::Hit | Outcome::Joined => "hit",
        Outcome::Miss => "miss",
    };
    [(HeaderName::from_static("x-cache"), word)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_and_the_field_turn_it_off() {
        let usage = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CACHE_CONTROL, value.parse().expect("a header value"));
            }
            Usage::of(&headers)
        };
        assert_eq!(usage(&[]), Usage::All);
        assert_eq!(usage(&["max-age=0, only-if-cached"]), Usage::All);
        assert_eq!(usage(&["no-cache"]), Usage::Renew);
        assert_eq!(usage(&["max-age=0,No-Store"]), Usage::Nothing);
        assert_eq!(usage(&["no-cache", "no-store"]), Usage::Nothing);
        assert_eq!(usage(&["no-cache"]).with_field(Some(false)), Usage::Nothing);
        assert_eq!(usage(&["no-cache"]).with_field(Some(true)), Usage::Renew);
        assert_eq!(usage(&[]).with_field(None), Usage::All);
    }
}
