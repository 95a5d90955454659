//! A server in this process, as people start it: flags in, an address out.
//!
//! It listens on a free port of the loopback and spools into a folder of its own. When a test drops it, it must be
//! as it was at the start: all slots free, no stream open, no window waiting, no worker busy, no model in use, no
//! spooled file on the disk or open. Then it is told to stop and must do so in time. A test that forgot something fails there.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use whisperwire::app::App;
use whisperwire::config::{Cli, Command, ServeConfig};

use crate::client::{Answer, Form, Wire, until};

/// How long a house may take until nothing of its work is left.
const SETTLING: Duration = Duration::from_secs(10);

/// A running server.
pub(crate) struct TestHouse {
    pub(crate) address: SocketAddr,
    pub(crate) client: reqwest::Client,
    spool: TempDir,
    stop: CancellationToken,
    thread: Option<JoinHandle<bool>>,
}

/// The flags, and a models folder that is empty, so that a detector that happens to be on this machine changes nothing.
#[cfg(feature = "whisper")]
fn apart<'a>(flags: &[&'a str]) -> Vec<&'a str> {
    let empty = ["--models-dir", concat!(env!("CARGO_TARGET_TMPDIR"), "/no-models")];
    let own = flags.contains(&"--models-dir");
    empty.into_iter().filter(|_| !own).chain(flags.iter().copied()).collect()
}

impl TestHouse {
    /// A server with the scripted engine and these flags beside the necessary ones.
    pub(crate) fn start(flags: &[&str]) -> Self {
        Self::start_with(&["--engine", "script"], flags)
    }

    /// A server with the model that is in the program.
    #[cfg(feature = "whisper")]
    pub(crate) fn bundled(flags: &[&str]) -> Self {
        Self::start_with(
            &["--engine", "whisper", "--model", "bundled", "--offline", "--device", "cpu"],
            &apart(flags),
        )
    }

    /// A server with the model in this file.
    #[cfg(feature = "whisper")]
    pub(crate) fn with_model(file: &Path, flags: &[&str]) -> Self {
        let file = file.to_str().expect("a plain path");
        Self::start_with(
            &["--engine", "whisper", "--model", file, "--offline", "--device", "cpu"],
            &apart(flags),
        )
    }

    fn start_with(engine: &[&str], flags: &[&str]) -> Self {
        let spool = tempfile::tempdir().expect("a folder for uploads");
        let folder = spool.path().to_str().expect("a plain path");
        let fixed = ["whisperwire", "serve", "--host", "127.0.0.1", "--port", "0", "--spool-dir", folder];
        let config = config(&[&fixed[..], engine, flags].concat());
        let stop = CancellationToken::new();
        let (address, told) = mpsc::channel();
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || {
                let mut runtime = tokio::runtime::Builder::new_multi_thread();
                let runtime = runtime.worker_threads(2).enable_all().build().expect("threads for a server");
                runtime.block_on(async {
                    let app = App::build(config).await.expect("the server starts");
                    address.send(app.address().expect("it has an address")).expect("the test waits for it");
                    app.run(stop).await
                })
            }
        });
        let address = told.recv().expect("the server is ready");
        Self { address, client: client(), spool, stop, thread: Some(thread) }
    }

    /// The address of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        Answer::to(self.client.get(self.url(path)))
    }

    /// A request with this form, for those who want to add something to it.
    pub(crate) fn upload(&self, path: &str, form: &Form) -> reqwest::RequestBuilder {
        self.client.post(self.url(path)).header("content-type", Form::content_type()).body(form.body())
    }

    pub(crate) fn transcribe(&self, form: &Form) -> Answer {
        Answer::to(self.upload("/v1/audio/transcriptions", form))
    }

    pub(crate) fn translate(&self, form: &Form) -> Answer {
        Answer::to(self.upload("/v1/audio/translations", form))
    }

    /// A connection of one's own.
    pub(crate) fn wire(&self) -> Wire {
        Wire::open(self.address)
    }

    pub(crate) fn health(&self) -> Value {
        self.get("/health").json()
    }

    /// Waits until all work is done or given up, as it must be soon after the last client has gone.
    pub(crate) fn settle(&self) {
        let mut last = Value::Null;
        let calm = |health: &Value| {
            let lanes = health["windows_waiting"].as_object().expect("lanes");
            health["slots_free"] == health["slots"]
                && health["streams"] == 0
                && health["streams_followed"] == 0
                && health["workers_busy"] == 0
                && health["models_active"] == 0
                && lanes.values().all(|waiting| *waiting == 0)
        };
        until("all slots free, no stream followed, no worker busy and no model in use", SETTLING, || {
            last = self.health();
            calm(&last)
        });
        until("no spooled file left", SETTLING, || spooled(self.spool.path()).is_empty());
    }
}

impl Drop for TestHouse {
    fn drop(&mut self) {
        // A test that has failed already has more to say than this.
        if !std::thread::panicking() {
            self.settle();
        }
        self.client = client();
        self.stop.cancel();
        let made_it = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(matches!(made_it, Some(Ok(true))), "the server did not stop in time");
        }
    }
}

/// The server that the tests of recognition share, because loading a model takes a while. It is never stopped.
#[cfg(feature = "whisper")]
pub(crate) fn shared() -> &'static TestHouse {
    static HOUSE: std::sync::OnceLock<TestHouse> = std::sync::OnceLock::new();
    HOUSE.get_or_init(|| TestHouse::bundled(&["--workers", "2", "--threads", "1", "--max-streams", "16"]))
}

fn config(arguments: &[&str]) -> ServeConfig {
    let cli = Cli::read(arguments.iter().map(Into::into)).expect("good flags");
    let Command::Serve(flags) = cli.command else { unreachable!("it was asked to serve") };
    flags.config().expect("flags that go together")
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().expect("a client")
}

/// What is left of uploads. Spooled files have no name, so open ones show among this process's own handles only.
fn spooled(folder: &Path) -> Vec<String> {
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries(folder).map(|entry| entry.path());
    let open = entries(Path::new("/proc/self/fd"))
        .filter_map(|handle| std::fs::read_link(handle.path()).ok())
        .filter(|target| target.starts_with(folder));
    named.chain(open).map(|path| path.display().to_string()).collect()
}
