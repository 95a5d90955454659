//! A hub on the loopback that breaks in every way a hub can.

#![expect(clippy::disallowed_methods, reason = "a hub that is slow or hangs sleeps")]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};

/// A request the hub has seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) from: Option<usize>,
    pub(super) token: Option<String>,
}

/// What it answers.
#[derive(Clone, Default)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
    /// The connection ends after this much of the body.
    pub(super) cut: Option<usize>,
    /// It stays open after the cut, and silent.
    pub(super) stall: bool,
}

impl Reply {
    pub(super) fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(super) fn redirect(to: String) -> Self {
        Self { status: 302, headers: vec![("Location", to)], ..Self::default() }
    }

    /// A file, or the rest of it if that was asked for.
    pub(super) fn file(seen: &Seen, bytes: &[u8]) -> Self {
        let size = bytes.len();
        match seen.from {
            None => Self { status: 200, body: bytes.to_vec(), ..Self::default() },
            Some(from) if from < size => Self {
                status: 206,
                headers: vec![("Content-Range", format!("bytes {from}-{}/{size}", size - 1))],
                body: bytes[from..].to_vec(),
                ..Self::default()
            },
            Some(_) => Self {
                status: 416,
                headers: vec![("Content-Range", format!("bytes */{size}"))],
                ..Self::default()
            },
        }
    }

    /// Names the sum, as the hub does for large files.
    pub(super) fn named(mut self, bytes: &[u8]) -> Self {
        self.headers.push(("X-Linked-Etag", format!("\"{}\"", sum(bytes))));
        self.headers.push(("X-Linked-Size", bytes.len().to_string()));
        self
    }

    pub(super) fn cut(self, after: usize) -> Self {
        Self { cut: Some(after), ..self }
    }
}

pub(super) fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One request per connection, one thread per connection; it ends with the process.
pub(super) struct FakeHub {
    pub(super) address: SocketAddr,
    pub(super) seen: Arc<Mutex<Vec<Seen>>>,
}

impl FakeHub {
    /// `answer` hears the request and how many came before it.
    pub(super) fn start(answer: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let hub = Self { address: listener.local_addr().expect("an address"), seen: Arc::default() };
        let (seen, answer) = (Arc::clone(&hub.seen), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let request = read(&stream);
                    let before = {
                        let mut seen = seen.lock().expect("no test panics there");
                        seen.push(request.clone());
                        seen.len() - 1
                    };
                    // The client may have hung up; that is its right.
                    let _ = write(&stream, &request, &answer(&request, before));
                });
            }
        });
        hub
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no test panics there").clone()
    }
}

fn read(stream: &TcpStream) -> Seen {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let first = lines.next().unwrap_or_default();
    let mut words = first.split(' ').map(str::to_owned);
    let mut seen = Seen {
        method: words.next().unwrap_or_default(),
        path: words.next().unwrap_or_default(),
        ..Seen::default()
    };
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").unwrap_or((&line, ""));
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                seen.from =
                    value.strip_prefix("bytes=").and_then(|range| range.trim_end_matches('-').parse().ok())
            }
            "authorization" => seen.token = Some(value.to_owned()),
            _ => {}
        }
    }
    seen
}

fn write(mut stream: &TcpStream, seen: &Seen, reply: &Reply) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Whatever\r\nConnection: close\r\n", reply.status);
    head += &format!("Content-Length: {}\r\n", reply.body.len());
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if seen.method != "HEAD" {
        stream.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len())])?;
        stream.flush()?;
    }
    if reply.stall {
        std::thread::sleep(Duration::from_secs(20));
    }
    Ok(())
}
