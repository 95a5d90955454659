//! Recordings in a bucket of an S3-shaped service: three kinds of signed requests.

use std::fmt;
use std::fs::File;
use std::io::{self, Seek};
use std::time::Duration;

use rusty_s3::{Bucket as Place, Credentials, S3Action, UrlStyle};
use ureq::Agent;

/// A bucket, and who may use it.
#[derive(Clone, PartialEq, Eq)]
pub struct BucketConfig {
    /// The service, as `https://host` or `http://host:port`.
    pub endpoint: String,
    /// The region that requests are signed for.
    pub region: String,
    /// The bucket.
    pub name: String,
    /// What stands before the id of each recording; empty, or with a slash at its end.
    pub prefix: String,
    /// The id of the access key.
    pub key: String,
    /// The access key.
    pub secret: String,
    /// The token of a session, where the key is lent.
    pub token: Option<String>,
}

impl fmt::Debug for BucketConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{} at {}", self.name, self.prefix, self.endpoint)
    }
}

/// How long a signed request is good for.
const GOOD_FOR: Duration = Duration::from_secs(300);
/// How long the service may take to answer, once it has everything.
const PATIENCE: Duration = Duration::from_secs(30);

pub(in crate::jobs) struct Bucket {
    place: Place,
    credentials: Credentials,
    prefix: String,
    agent: Agent,
}

impl Bucket {
    pub(super) fn new(config: BucketConfig) -> io::Result<Self> {
        let BucketConfig { endpoint, region, name, prefix, key, secret, token } = config;
        let invalid = |error: &dyn fmt::Display| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("the bucket's endpoint: {error}"))
        };
        let endpoint = endpoint.parse().map_err(|error| invalid(&error))?;
        let place = Place::new(endpoint, UrlStyle::Path, name, region).map_err(|error| invalid(&error))?;
        let credentials = match token {
            Some(token) => Credentials::new_with_token(key, secret, token),
            None => Credentials::new(key, secret),
        };
        let agent = Agent::config_builder()
            .max_redirects(0)
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .build()
            .new_agent();
        Ok(Self { place, credentials, prefix, agent })
    }

    /// A recording is there as a whole once the service has confirmed it, and not before.
    pub(super) fn put(&self, id: &str, mut recording: File) -> io::Result<()> {
        recording.rewind()?;
        let object = self.object(id);
        let url = self.place.put_object(Some(&self.credentials), &object).sign(GOOD_FOR);
        self.agent.put(url.as_str()).send(recording).map(drop).map_err(away)
    }

    /// A copy without a name.
    pub(super) fn get(&self, id: &str) -> io::Result<File> {
        let object = self.object(id);
        let url = self.place.get_object(Some(&self.credentials), &object).sign(GOOD_FOR);
        let answer = self.agent.get(url.as_str()).call().map_err(away)?;
        let mut copy = tempfile::tempfile()?;
        io::copy(&mut answer.into_body().into_reader(), &mut copy)?;
        copy.rewind()?;
        Ok(copy)
    }

    pub(super) fn remove(&self, id: &str) -> io::Result<()> {
        let object = self.object(id);
        let url = self.place.delete_object(Some(&self.credentials), &object).sign(GOOD_FOR);
        match self.agent.delete(url.as_str()).call() {
            Ok(_) | Err(ureq::Error::StatusCode(404)) => Ok(()),
            Err(error) => Err(away(error)),
        }
    }

    fn object(&self, id: &str) -> String {
        format!("{}{id}", self.prefix)
    }
}

/// The error without the URL, whose query is as good as a key.
fn away(error: ureq::Error) -> io::Error {
    match error {
        ureq::Error::StatusCode(404) => {
            io::Error::new(io::ErrorKind::NotFound, "the bucket does not have it")
        }
        ureq::Error::StatusCode(status) => io::Error::other(format!("the bucket answered {status}")),
        ureq::Error::Io(error) => error,
        _ => io::Error::other("the bucket cannot be reached"),
    }
}
