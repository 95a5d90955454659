//! Finished transcripts at the door: what a request wants of the cache, and what its answer says of it.

use std::convert::Infallible;
use std::fs::File;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, header};

use super::House;
use super::error::ApiError;
use crate::cache::{Key, Outcome};
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
