//! A server for tests: it gives the answers it was told, one per connection, and remembers what it was asked. It
//! understands as much HTTP as this client speaks, and insists on a known length.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;

/// A server that gives one answer after another, and then says what it was asked.
pub(crate) struct Responder {
    pub(crate) address: String,
    thread: JoinHandle<Vec<Heard>>,
}

/// One request as it came in.
pub(crate) struct Heard {
    /// The request line and the headers.
    pub(crate) head: String,
    /// Everything after it.
    pub(crate) body: Vec<u8>,
}

impl Responder {
    /// Answers as many requests as there are answers, each on a connection of its own.
    pub(crate) fn new(answers: Vec<(u16, &'static str)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let serve = move |(status, body): (u16, &str)| {
            let (stream, _) = listener.accept().expect("a client");
            let heard = hear(&stream);
            let length = body.len();
            let head =
                format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            (&stream).write_all((head + body).as_bytes()).expect("the client listens");
            heard
        };
        Self { address, thread: std::thread::spawn(move || answers.into_iter().map(serve).collect()) }
    }

    pub(crate) fn heard(self) -> Vec<Heard> {
        self.thread.join().expect("the responder ran to its end")
    }
}

fn hear(stream: &TcpStream) -> Heard {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).expect("a head"), 0, "the client hung up");
    }
    let lower = head.to_lowercase();
    let mut body = Vec::new();
    if let Some((_, length)) = lower.split_once("content-length: ") {
        let length = length.lines().next().and_then(|length| length.parse().ok()).expect("a length");
        body.resize(length, 0);
        reader.read_exact(&mut body).expect("the whole body");
    } else {
        assert!(!lower.contains("transfer-encoding"), "a file's length is known");
    }
    Heard { head, body }
}
