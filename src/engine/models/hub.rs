//! Talks to a hub of Hugging Face's shape: where a file is, what the hub says about it, and its bytes from a place on.
//!
//! The token goes to the hub and to nobody else: redirects are followed here, one by one, because the hub sends
//! large files to another host. For the same reason only the hub's own answers are believed about the file's sum.
//!
//! Deliberately absent: the disk, which is `download.rs`, and every part of the hub's API but `resolve` and the list
//! of a repository's files.

use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use ureq::http::header::{AUTHORIZATION, CONTENT_RANGE, LOCATION, RANGE};
use ureq::http::{HeaderMap, Uri};

use super::{ModelError, catalogue};

/// How to reach the hub, and where to keep what it sends.
#[derive(Clone)]
pub struct HubConfig {
    /// `HF_ENDPOINT`: an http or https URL.
    pub endpoint: String,
    /// `HF_TOKEN`.
    pub token: Option<String>,
    /// Where files are kept.
    pub cache_dir: PathBuf,
    /// Never asks the hub for anything.
    pub offline: bool,
    /// How long to wait for what.
    pub patience: Patience,
}

impl HubConfig {
    /// Hugging Face without a token.
    pub fn new(cache_dir: PathBuf) -> Self {
        Self {
            endpoint: "https://huggingface.co".to_owned(),
            token: None,
            cache_dir,
            offline: false,
            patience: Patience::default(),
        }
    }
}

impl fmt::Debug for HubConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubConfig")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "***"))
            .field("cache_dir", &self.cache_dir)
            .field("offline", &self.offline)
            .field("patience", &self.patience)
            .finish()
    }
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For finding the host, and again for the connection.
    pub connect: Duration,
    /// For the head of an answer.
    pub answer: Duration,
    /// For the next bytes of a file.
    pub stall: Duration,
    /// For the whole question whether the hub is there.
    pub probe: Duration,
    /// Before the first new attempt; it doubles with each.
    pub back_off: Duration,
    /// How many attempts may fail in a row without bringing much.
    pub attempts: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            probe: Duration::from_secs(4),
            back_off: Duration::from_millis(300),
            attempts: 5,
        }
    }
}

impl Patience {
    /// Waits before the next attempt, after so many that failed.
    #[expect(
        clippy::disallowed_methods,
        reason = "nothing tells when a hub is well again, so there is no event to wait for"
    )]
    pub(super) fn pause(&self, failed: u32) {
        std::thread::sleep((self.back_off * (1 << failed.min(6)) / 2).min(Duration::from_secs(10)));
    }
}

/// Hears how far a download is.
pub trait Progress {
    /// `done` bytes of `name` are here, of `total` if the hub has said so.
    fn moved(&mut self, name: &str, done: u64, total: Option<u64>);

    /// The file is whole and in its place.
    fn finished(&mut self, name: &str);
}

/// Shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn moved(&mut self, _: &str, _: u64, _: Option<u64>) {}
    fn finished(&mut self, _: &str) {}
}

/// A file on the hub.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    /// `owner/name`.
    pub(super) repo: &'a str,
    /// The path in the repository.
    pub(super) file: &'a str,
    /// What its SHA-256 has to be, if that is known beforehand.
    pub(super) sha256: Option<&'a str>,
}

impl Source<'_> {
    /// What to call it in front of people: the catalogue's name, or its address.
    pub(super) fn name(&self) -> String {
        match catalogue::at(self.repo, self.file) {
            Some(entry) => entry.name.clone(),
            None => format!("{}:{}", self.repo, self.file),
        }
    }
}

const MOST_HOPS: usize = 5;
/// Bytes; the largest repositories of models have some hundred files.
const LONGEST_LISTING: u64 = 8 << 20;

impl HubConfig {
    /// Where a file is, or will be. The catalogue's files lie in the cache folder itself, others in folders of the
    /// names of their owner and repository.
    pub(super) fn target(&self, source: &Source<'_>) -> PathBuf {
        if catalogue::at(source.repo, source.file).is_some() {
            return self.cache_dir.join(source.file);
        }
        let parts = source.repo.split('/').chain(source.file.split('/'));
        parts.fold(self.cache_dir.clone(), |path, part| path.join(part))
    }

    /// The file, if it is in the cache.
    pub(super) fn cached(&self, source: &Source<'_>) -> Option<PathBuf> {
        Some(self.target(source)).filter(|path| path.is_file())
    }

    /// Whether the hub is there and gives this file out. Takes at most [`Patience::probe`], even when the resolver
    /// hangs: then a thread is left behind, waiting for it.
    pub(super) fn answers(&self, source: &Source<'_>) -> bool {
        if self.offline {
            return false;
        }
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let (hub, address) = (self.clone(), self.address(source));
        let asked = std::thread::Builder::new().name("hub-probe".to_owned()).spawn(move || {
            let status = address.and_then(|address| {
                let answer = hub.ask(&hub.agent(), Method::Head, &address, 0)?;
                Ok(answer.status().as_u16())
            });
            // Nobody listens any more once the time is up.
            let _ = tell.send(status.is_ok_and(|status| (200..400).contains(&status)));
        });
        asked.is_ok() && told.recv_timeout(self.patience.probe).unwrap_or(false)
    }

    /// The hub's list of a repository's files, as JSON.
    pub(super) fn listing(&self, repo: &str) -> Result<Vec<u8>, ModelError> {
        let mut failed = 0;
        loop {
            let reason = match self.listing_once(repo) {
                Ok(json) => return Ok(json),
                Err(Fault::Final(ModelError::Unreachable { reason, .. })) => {
                    return Err(self.unreachable(repo, reason));
                }
                Err(Fault::Final(error)) => return Err(error),
                Err(Fault::Passing(reason)) => reason,
            };
            failed += 1;
            if failed >= self.patience.attempts {
                return Err(self.unreachable(repo, reason));
            }
            self.patience.pause(failed);
        }
    }

    fn listing_once(&self, repo: &str) -> Result<Vec<u8>, Fault> {
        let (answer, _) = self.follow(self.uri(&format!("api/models/{repo}"))?, repo, 0)?;
        match answer.status().as_u16() {
            200 => {}
            // The hub says 401 of what does not exist.
            status @ (401 | 403) => {
                return Err(Fault::Final(ModelError::Denied { name: repo.to_owned(), status }));
            }
            404 | 410 => return Err(Fault::Final(ModelError::Missing(repo.to_owned()))),
            status @ (408 | 429 | 500..) => return Err(Fault::Passing(format!("status {status}"))),
            status => return Err(odd(repo, &format!("status {status}"))),
        }
        let mut json = Vec::new();
        let read = answer.into_body().into_reader().take(LONGEST_LISTING + 1).read_to_end(&mut json);
        read.map_err(|error| Fault::Passing(error.to_string()))?;
        if json.len() as u64 > LONGEST_LISTING {
            return Err(odd(repo, "its list of files does not end"));
        }
        Ok(json)
    }

    fn address(&self, source: &Source<'_>) -> Result<Uri, Fault> {
        self.uri(&format!("{}/resolve/main/{}", source.repo, source.file))
    }

    fn uri(&self, path: &str) -> Result<Uri, Fault> {
        let endpoint = self.endpoint.trim().trim_end_matches('/');
        let wrong = || Fault::Final(ModelError::Endpoint(self.endpoint.clone()));
        let address: Uri = format!("{endpoint}/{path}").parse().map_err(|_| wrong())?;
        if !matches!(address.scheme_str(), Some("http" | "https")) {
            return Err(wrong());
        }
        Ok(address)
    }

    fn agent(&self) -> ureq::Agent {
        ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("whisperwire/", env!("CARGO_PKG_VERSION")))
            // A sum and a range are those of the file as it is.
            .accept_encoding("identity")
            .timeout_resolve(Some(self.patience.connect))
            .timeout_connect(Some(self.patience.connect))
            .timeout_recv_response(Some(self.patience.answer))
            .timeout_per_read(Some(self.patience.stall))
            .build()
            .into()
    }

    /// One request, no redirects.
    fn ask(&self, agent: &ureq::Agent, method: Method, address: &Uri, from: u64) -> Result<Answer, Fault> {
        let mut request = match method {
            Method::Get => agent.get(address),
            Method::Head => agent.head(address),
        };
        if self.is_own(address)
            && let Some(token) = self.token.as_deref().map(str::trim).filter(|token| !token.is_empty())
        {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        if matches!(address.host(), Some("127.0.0.1" | "localhost" | "[::1]")) {
            // A proxy could not reach this machine by that name.
            request = request.config().proxy(None).build();
        }
        request.call().map_err(|error| match error {
            ureq::Error::Io(_)
            | ureq::Error::Timeout(_)
            | ureq::Error::HostNotFound
            | ureq::Error::ConnectionFailed
            | ureq::Error::Protocol(_) => Fault::Passing(error.to_string()),
            other => Fault::Final(self.unreachable("the model", other.to_string())),
        })
    }

    /// Follows redirects to the bytes from `from` on. Also returns what the hub itself said about the file.
    pub(super) fn open(&self, source: &Source<'_>, from: u64) -> Result<(Answer, Promise), Fault> {
        self.follow(self.address(source)?, &source.name(), from)
    }

    fn follow(&self, mut address: Uri, name: &str, from: u64) -> Result<(Answer, Promise), Fault> {
        let agent = self.agent();
        let mut promise = Promise::default();
        for _ in 0..=MOST_HOPS {
            let answer = self.ask(&agent, Method::Get, &address, from)?;
            if self.is_own(&address) {
                promise.read(answer.headers());
            }
            if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok((answer, promise));
            }
            let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| join(&address, location));
            address = next.ok_or_else(|| odd(name, "it redirects to nowhere, or out of https"))?;
        }
        Err(odd(name, "it redirects in a circle"))
    }

    /// Whether an address is the hub's own, so that it may see the token and is believed about sums.
    fn is_own(&self, address: &Uri) -> bool {
        let port =
            |uri: &Uri| uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        self.endpoint.trim().parse::<Uri>().is_ok_and(|own| {
            own.scheme() == address.scheme() && own.host() == address.host() && port(&own) == port(address)
        })
    }

    pub(super) fn unreachable(&self, name: &str, reason: String) -> ModelError {
        ModelError::Unreachable { name: name.to_owned(), endpoint: self.endpoint.clone(), reason }
    }
}

pub(super) type Answer = ureq::http::Response<ureq::Body>;

enum Method {
    Get,
    Head,
}

/// Why an attempt failed.
pub(super) enum Fault {
    /// Another attempt may succeed.
    Passing(String),
    /// No other attempt will.
    Final(ModelError),
}

impl From<ModelError> for Fault {
    fn from(error: ModelError) -> Self {
        Self::Final(error)
    }
}

pub(super) fn odd(name: &str, reason: &str) -> Fault {
    Fault::Final(ModelError::Answer { name: name.to_owned(), reason: reason.to_owned() })
}

/// What the hub says about a file.
#[derive(Default)]
pub(super) struct Promise {
    pub(super) sha256: Option<String>,
    pub(super) size: Option<u64>,
}

impl Promise {
    fn read(&mut self, headers: &HeaderMap) {
        if let Some(sum) = text(headers, "x-linked-etag") {
            // Small files have a git hash there instead, which is shorter.
            let sum = sum.trim_start_matches("W/").trim_matches('"').to_ascii_lowercase();
            if sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_hexdigit()) {
                self.sha256 = Some(sum);
            }
        }
        if let Some(size) = text(headers, "x-linked-size").and_then(|size| size.parse().ok()) {
            self.size = Some(size);
        }
    }
}

pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// `bytes 5-9/10` or `bytes */10`: where it starts, and the whole size.
pub(super) fn content_range(headers: &HeaderMap) -> (Option<u64>, Option<u64>) {
    let range = text(headers, CONTENT_RANGE.as_str()).and_then(|range| range.strip_prefix("bytes "));
    let Some((part, size)) = range.and_then(|range| range.split_once('/')) else { return (None, None) };
    (part.split_once('-').and_then(|(start, _)| start.trim().parse().ok()), size.trim().parse().ok())
}

/// Where a redirect leads. `None` for anything that is not http, or that leaves https.
fn join(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next()?.trim();
    let scheme = base.scheme_str()?;
    let authority = base.authority()?;
    let next: Uri = if location.contains("://") {
        location.parse().ok()?
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}").parse().ok()?
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}").parse().ok()?
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}").parse().ok()?
    };
    match (scheme, next.scheme_str()?) {
        (_, "https") | ("http", "http") => Some(next),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_of_every_form_are_understood() {
        let base: Uri = "https://hub.test/a/b/resolve/main/f.bin?x=1".parse().expect("a URL");
        let to = |location: &str| join(&base, location).map(|uri| uri.to_string());
        assert_eq!(to("https://cdn.test/x?y=%2F#z").as_deref(), Some("https://cdn.test/x?y=%2F"));
        assert_eq!(to("//cdn.test/x").as_deref(), Some("https://cdn.test/x"));
        assert_eq!(to("/c/d").as_deref(), Some("https://hub.test/c/d"));
        assert_eq!(to("g.bin").as_deref(), Some("https://hub.test/a/b/resolve/main/g.bin"));
        assert_eq!(to("http://cdn.test/x"), None);
        assert_eq!(to("file:///etc/passwd"), None);
        assert_eq!(to("https://cdn.test/\u{e9} x"), None);
    }

    #[test]
    fn only_the_hub_itself_is_the_hub() {
        let hub = HubConfig { endpoint: "https://hub.test/".to_owned(), ..HubConfig::new(PathBuf::new()) };
        let own = |text: &str| hub.is_own(&text.parse().expect("a URL"));
        assert!(own("https://hub.test/a") && own("https://hub.test:443/a"));
        assert!(
            !own("http://hub.test/a") && !own("https://hub.test:444/a") && !own("https://cdn.hub.test/a")
        );
        assert!(!own("https://hub.test.evil/a"));
    }

    #[test]
    fn ranges_are_read() {
        let read = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, value.parse().expect("a header"));
            content_range(&headers)
        };
        assert_eq!(read("bytes 5-9/10"), (Some(5), Some(10)));
        assert_eq!(read("bytes */10"), (None, Some(10)));
        assert_eq!(read("bytes 5-9/*"), (Some(5), None));
        assert_eq!(read("lines 1-2/3"), (None, None));
    }

    #[test]
    fn the_token_is_not_shown() {
        let hub = HubConfig { token: Some("hf_secret".to_owned()), ..HubConfig::new(PathBuf::new()) };
        assert!(!format!("{hub:?}").contains("secret"));
    }
}
