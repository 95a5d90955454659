//! The program itself, with an environment of the test's own: no settings, no models and no hub from outside.

use std::io::{BufRead, BufReader, Lines};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::client::until;

/// How long the program may take to end once it should.
const ENDING: Duration = Duration::from_secs(20);

/// The program, to be run in this folder.
pub(crate) fn whisperwire(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_whisperwire"));
    command
        .current_dir(folder)
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| name == "PATH"))
        .env("WHISPERWIRE_MODELS_DIR", folder.join("models"))
        .env("WHISPERWIRE_OFFLINE", "true")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// How a run ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Runs a command to its end.
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().expect("the program starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it writes UTF-8");
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Checks that it failed with this code and said why in one sentence, and gives the sentence.
    pub(crate) fn complaint(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{self:?}");
        let complaints: Vec<&str> =
            self.stderr.lines().filter_map(|line| line.strip_prefix("whisperwire: ")).collect();
        assert_eq!(complaints.len(), 1, "{self:?}");
        complaints[0]
    }
}

/// `whisperwire serve`, ready to answer.
pub(crate) struct Served {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// `http` or `https`.
    pub(crate) scheme: String,
    pub(crate) address: SocketAddr,
}

impl Served {
    /// Starts a server and waits for the line that says where it listens.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::spawn(command.stderr(Stdio::null()))
    }

    /// The same, with its log in this file.
    pub(crate) fn start_logging(command: &mut Command, log: &Path) -> Self {
        let log = std::fs::File::create(log).expect("room for a log");
        Self::spawn(command.stderr(Stdio::from(log)))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("the program starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let line = lines.next().expect("a line").expect("a line of text");
        let place = line.strip_prefix("listening on ").and_then(|place| place.split_once("://"));
        let (scheme, address) = place.expect("the line that scripts wait for");
        let (scheme, address) = (scheme.to_owned(), address.parse().expect("an address with a port"));
        Self { child, lines, scheme, address }
    }

    /// The next line on its standard output.
    pub(crate) fn line(&mut self) -> String {
        self.lines.next().expect("a line").expect("a line of text")
    }

    /// Asks it to stop, as an init system does.
    pub(crate) fn terminate(&self) {
        self.signal("TERM");
    }

    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("there is a shell").success());
    }

    /// The memory that it holds at this moment, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a figure");
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kilobytes * 1024
    }

    /// Waits for it to end; its exit code.
    pub(crate) fn code(mut self) -> Option<i32> {
        let mut ended = None;
        until("the server has ended", ENDING, || {
            ended = self.child.try_wait().expect("it is our child");
            ended.is_some()
        });
        ended.and_then(|status| status.code())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
