//! What a kept transcript costs: `cargo bench --bench cache`.
//!
//! A server with the scripted engine gets the same ten minutes of speech again and again. Everything but the last
//! bytes of the form is sent first; then the clock runs from those bytes, with which the hash of the file is complete,
//! to the end of the answer. The first answer is decoded, the others are kept.

#![expect(clippy::print_stdout, reason = "the table is what was asked for")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use whisperwire::engine::script::words_in;
use whisperwire::transcript::{RATE, Samples, Span};

const ROUNDS: usize = 30;
const MINUTES: usize = 10;

fn main() -> anyhow::Result<()> {
    let server = Server::start()?;
    let file = recording();
    for format in ["json", "verbose_json", "srt"] {
        let form = form(&file, format);
        let first = server.ask(&form)?;
        let mut times = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let answer = server.ask(&form)?;
            ensure!(answer.cached, "it was decoded again");
            times.push(answer.time);
        }
        times.sort();
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        println!(
            "{MINUTES} min, {format:12} first answer {:8.1} ms ({}), kept: median {:.2} ms, slowest {:.2} ms, {} bytes",
            ms(first.time),
            if first.cached { "kept" } else { "decoded" },
            ms(times[ROUNDS / 2]),
            ms(times[ROUNDS - 1]),
            first.bytes,
        );
    }
    Ok(())
}

/// All that the scripted engine says in ten minutes, as a WAV file.
fn recording() -> Vec<u8> {
    let mut pcm = vec![0_i16; MINUTES * 60 * RATE as usize];
    let whole = Span::new(Samples(0), Samples(pcm.len() as u64));
    for word in words_in(whole, |_| true) {
        for (n, sample) in pcm[word.span.start.0 as usize..word.span.end.0 as usize].iter_mut().enumerate() {
            *sample = (8000.0 * (n as f32 * 0.9).sin()) as i16;
        }
    }
    let bytes = pcm.len() as u32 * 2;
    let mut file = Vec::with_capacity(44 + pcm.len() * 2);
    file.extend_from_slice(b"RIFF");
    file.extend_from_slice(&(bytes + 36).to_le_bytes());
    file.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend_from_slice(&RATE.to_le_bytes());
    file.extend_from_slice(&(RATE * 2).to_le_bytes());
    file.extend_from_slice(b"\x02\0\x10\0data");
    file.extend_from_slice(&bytes.to_le_bytes());
    file.extend(pcm.iter().flat_map(|sample| sample.to_le_bytes()));
    file
}

fn form(file: &[u8], format: &str) -> Vec<u8> {
    let part = |name: &str| format!("--line\r\nContent-Disposition: form-data; name=\"{name}\"");
    let fields =
        format!("{}\r\n\r\nwhisper-1\r\n{}\r\n\r\n{format}\r\n", part("model"), part("response_format"));
    let head = format!("{fields}{}; filename=\"a.wav\"\r\n\r\n", part("file"));
    [head.as_bytes(), file, b"\r\n--line--\r\n"].concat()
}

struct Timed {
    time: Duration,
    cached: bool,
    bytes: usize,
}

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start() -> anyhow::Result<Self> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_whisperwire"))
            .args(["serve", "--port=0", "--log=warn", "--engine=script"])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("a pipe")?).read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening on http://").context("no address")?.to_owned();
        Ok(Self { child, address })
    }

    fn ask(&self, form: &[u8]) -> anyhow::Result<Timed> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_nodelay(true)?;
        let head = format!(
            "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\
             Content-Type: multipart/form-data; boundary=line\r\nContent-Length: {}\r\n\r\n",
            form.len()
        );
        let (body, last) = form.split_at(form.len() - 8);
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        // The server has read and hashed the rest before the clock runs.
        std::thread::park_timeout(Duration::from_millis(100));
        let began = Instant::now();
        stream.write_all(last)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let time = began.elapsed();
        let text = String::from_utf8_lossy(&answer);
        ensure!(text.starts_with("HTTP/1.1 200"), "{text}");
        Ok(Timed { time, cached: text.contains("x-cache: hit"), bytes: answer.len() })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
