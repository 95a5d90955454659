//! A real redis-server for one test, in a process of its own: it can be killed, paused, and started again where it was.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::client::until;

/// How long a server may take to start.
const STARTING: Duration = Duration::from_secs(20);

/// A running redis-server that keeps nothing.
pub(crate) struct Redis {
    port: u16,
    folder: TempDir,
    child: Option<Child>,
}

impl Redis {
    /// `None`, and a line that says so, where none is installed.
    pub(crate) fn start() -> Option<Self> {
        let mut redis = Self::absent()?;
        redis.begin();
        Some(redis)
    }

    /// One that is not there yet. Its port is one that nobody has been given lately.
    pub(crate) fn absent() -> Option<Self> {
        if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
            eprintln!("SKIPPED: there is no redis-server here");
            return None;
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("it has an address").port();
        Some(Self { port, folder: tempfile::tempdir().expect("a folder"), child: None })
    }

    /// Starts it, or starts it again where it was.
    pub(crate) fn begin(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"])
            .arg(self.port.to_string())
            .arg("--dir")
            .arg(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed where the tests run");
        self.child = Some(child);
        until("redis-server takes connections", STARTING, || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok()
        });
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Ends it in the middle of whatever it does.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("it can be killed");
        child.wait().expect("it has ended");
    }

    /// It keeps its connections and says nothing any more.
    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let id = self.child.as_ref().expect("it runs").id();
        let kill = format!("kill -{name} {id}");
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("there is a shell").success());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}
