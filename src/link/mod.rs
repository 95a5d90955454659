//! The link to a Redis or Valkey server that several servers of ours share: one connection that heals by itself.
//!
//! Contract: a command is answered within [`PATIENCE`], or with [`Away`]; while the link is known to be down, at
//! once. Nobody has to reconnect: a watcher does, for as long as there is a [`Link`]. A server starts without its
//! Redis as well, and is whole when it comes. Each change is logged once, and never with the secrets of the address.
//!
//! The watcher throws away a connection that does not answer and dials anew, instead of waiting for the system to
//! notice: half-open connections, of a machine that lost its power, are noticed by nobody for a quarter of an hour.
//!
//! Deliberately absent: what is kept there. Each room has its own keys, under the one prefix; see [`Link::key`].
//! Absent too are commands that block: they would hold up everybody else's on the one connection.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, Pipeline, RedisError, ScriptInvocation};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// The longest that anybody waits for an answer.
pub const PATIENCE: Duration = Duration::from_millis(500);
/// The longest that the watcher waits: longer, because it decides that the server is away.
const DOUBT: Duration = Duration::from_secs(1);
/// How often an idle connection is asked whether it still is one.
const PULSE: Duration = Duration::from_secs(5);
/// Between two attempts to connect.
const REDIAL: Duration = Duration::from_millis(500);

/// Where the shared server is.
#[derive(Clone)]
pub struct LinkConfig {
    client: Client,
    prefix: String,
}

impl LinkConfig {
    /// Reads an address such as `redis://user:password@host:6379/0`, `valkey://…` or `redis+unix:///path`. What is
    /// wrong with it is said without repeating it, because it may hold a password.
    pub fn new(url: &str, prefix: impl Into<String>) -> Result<Self, String> {
        let scheme = url.split("://").next().unwrap_or_default().to_ascii_lowercase();
        if matches!(scheme.as_str(), "rediss" | "valkeys") {
            return Err(format!(
                "{scheme}:// needs TLS, which this program does not speak to Redis; let a tunnel on this machine do it"
            ));
        }
        let wrong =
            |error: RedisError| format!("this is no address of a Redis or Valkey: {}", error.category());
        Ok(Self { client: Client::open(url).map_err(wrong)?, prefix: prefix.into() })
    }

    /// The address without its secrets.
    fn address(&self) -> String {
        self.client.get_connection_info().addr().to_string()
    }
}

impl fmt::Debug for LinkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkConfig")
            .field("address", &self.address())
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// The server did not answer in time, or not with what it was asked for. Whoever gets this goes on without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Redis is away")]
pub struct Away;

/// How the link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// Whether the server answers.
    pub up: bool,
    /// For how long that has been so.
    pub lasted: Duration,
}

/// The way to the shared server. Clones are the same one.
#[derive(Clone)]
pub struct Link {
    core: Arc<Core>,
    _watcher: Arc<AbortOnDropHandle<()>>,
}

impl Link {
    /// Connects and keeps connected. Waits for the first attempt, but not for its success. Must be called on a
    /// runtime.
    pub async fn connect(config: LinkConfig) -> Self {
        let line = Line { connection: None, dialled: 0, told: None, since: Instant::now() };
        let core = Arc::new(Core {
            config,
            line: Mutex::new(line),
            doubted: Notify::new(),
            refusing: AtomicBool::new(false),
        });
        core.dial().await;
        let watcher = Arc::new(AbortOnDropHandle::new(tokio::spawn(core.clone().watch())));
        Self { core, _watcher: watcher }
    }

    /// A key under the prefix of ours, as for example `whisperwire:cache:…`.
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.core.config.prefix)
    }

    /// Whether the server answered when it was asked last.
    pub fn is_up(&self) -> bool {
        self.core.line().connection.is_some()
    }

    /// How the link is, for people.
    pub fn state(&self) -> LinkState {
        let line = self.core.line();
        LinkState { up: line.connection.is_some(), lasted: line.since.elapsed() }
    }

    /// One command.
    pub async fn command<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Away> {
        self.core.ask(async |mut connection| command.query_async(&mut connection).await).await
    }

    /// Several commands in one go.
    pub async fn pipeline<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, Away> {
        self.core.ask(async |mut connection| pipeline.query_async(&mut connection).await).await
    }

    /// A script, which the server is sent if it does not know it.
    pub async fn script<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, Away> {
        self.core.ask(async |mut connection| script.invoke_async(&mut connection).await).await
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("config", &self.core.config).finish_non_exhaustive()
    }
}

struct Core {
    config: LinkConfig,
    line: Mutex<Line>,
    /// Rung when somebody had no answer.
    doubted: Notify,
    /// Whether the last command was refused, so that a row of refusals is one line in the log.
    refusing: AtomicBool,
}

struct Line {
    /// Absent while the server is away.
    connection: Option<MultiplexedConnection>,
    /// Which connection it is, so that what befell an older one is not held against it.
    dialled: u64,
    /// What the log was told last.
    told: Option<bool>,
    since: Instant,
}

impl Core {
    async fn ask<T>(
        &self,
        question: impl AsyncFnOnce(MultiplexedConnection) -> Result<T, RedisError>,
    ) -> Result<T, Away> {
        let (connection, dialled) = {
            let line = self.line();
            (line.connection.clone().ok_or(Away)?, line.dialled)
        };
        match timeout(PATIENCE, question(connection)).await {
            Ok(Ok(answer)) => {
                self.refusing.store(false, Ordering::Relaxed);
                Ok(answer)
            }
            Ok(Err(error)) if !is_lost(&error) => {
                if !self.refusing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(reason = reason(&error), "Redis refuses a command");
                }
                Err(Away)
            }
            Ok(Err(error)) => {
                self.lost(dialled, &reason(&error));
                Err(Away)
            }
            // Perhaps it was only slow: the watcher will see.
            Err(_) => {
                self.doubted.notify_one();
                Err(Away)
            }
        }
    }

    /// Connects, and goes on asking whether it still is.
    async fn watch(self: Arc<Self>) {
        loop {
            let (connection, dialled) = {
                let line = self.line();
                (line.connection.clone(), line.dialled)
            };
            let Some(mut connection) = connection else {
                self.dial().await;
                if self.line().connection.is_none() {
                    tokio::time::sleep(REDIAL).await;
                }
                continue;
            };
            drop(timeout(PULSE, self.doubted.notified()).await);
            if let Err(reason) = ping(&mut connection).await {
                self.lost(dialled, &reason);
            }
        }
    }

    async fn dial(&self) {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(DOUBT))
            .set_response_timeout(Some(DOUBT));
        let dial = self.config.client.get_multiplexed_async_connection_with_config(&config);
        let connected = match timeout(DOUBT, dial).await {
            Ok(Ok(mut connection)) => ping(&mut connection).await.map(|()| connection),
            Ok(Err(error)) => Err(reason(&error)),
            Err(_) => Err(SILENT.to_owned()),
        };
        match connected {
            Ok(connection) => self.found(connection),
            Err(reason) => {
                let dialled = self.line().dialled;
                self.lost(dialled, &reason);
            }
        }
    }

    fn found(&self, connection: MultiplexedConnection) {
        let address = self.config.address();
        let mut line = self.line();
        line.connection = Some(connection);
        line.dialled += 1;
        line.since = Instant::now();
        let before = line.told.replace(true);
        drop(line);
        if before == Some(false) {
            tracing::info!(address, "Redis is back");
        } else {
            tracing::info!(address, "Redis is there");
        }
    }

    fn lost(&self, dialled: u64, reason: &str) {
        let mut line = self.line();
        if line.dialled != dialled {
            return;
        }
        let connection = line.connection.take();
        let news = line.told.replace(false) != Some(false);
        if news {
            line.since = Instant::now();
        }
        drop(line);
        drop(connection);
        self.doubted.notify_one();
        if news {
            tracing::warn!(
                address = self.config.address(),
                reason,
                "Redis is away; this server goes on alone"
            );
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const SILENT: &str = "it does not answer";

async fn ping(connection: &mut MultiplexedConnection) -> Result<(), String> {
    match timeout(DOUBT, redis::cmd("PING").query_async::<()>(connection)).await {
        Ok(answered) => answered.map_err(|error| reason(&error)),
        Err(_) => Err(SILENT.to_owned()),
    }
}

/// Whether the connection is of no more use, and not just the command.
fn is_lost(error: &RedisError) -> bool {
    error.is_io_error() || error.is_unrecoverable_error()
}

/// An error for the log. What the server says about a command may repeat it, so only its code is told.
fn reason(error: &RedisError) -> String {
    match error.code() {
        Some(code) => code.to_owned(),
        None if error.is_io_error() => error.to_string(),
        None => error.category().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_their_passwords_never_shown() {
        for url in [
            "redis://localhost",
            "redis://user:hunter2@localhost:6380/2",
            "valkey://:hunter2@[::1]:6379",
            "redis+unix:///run/redis.sock?pass=hunter2",
        ] {
            let config = LinkConfig::new(url, "ours:").expect(url);
            assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
        }
        for url in [
            "",
            "localhost:6379",
            "http://hunter2@localhost",
            "redis://:hunter2@localhost/many",
            "rediss://a:hunter2@b",
        ] {
            let message = LinkConfig::new(url, "").expect_err(url);
            assert!(!message.contains("hunter2"), "{message}");
        }
    }
}
