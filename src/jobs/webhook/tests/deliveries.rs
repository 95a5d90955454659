//! Attempts over real sockets on the loopback, with lookups that lie.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use ureq::Error as Failure;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::secret;
use crate::jobs::webhook::{Attempt, Courier, Delivery, Next, Refused, WebhookConfig, sign};

const PATIENCE: Duration = Duration::from_secs(20);
const NAME: &str = "http://hooks.example.com/hook?of=mine";
const PUBLIC: &str = "93.184.216.34:80";
const OK: &str = "HTTP/1.1 204 No Content\r\n\r\n";

/// Generous, because the tests of a busy machine are slow and nothing here waits for it.
fn private() -> WebhookConfig {
    WebhookConfig { allow_private: true, connect: PATIENCE, total: PATIENCE }
}

fn delivery(url: &str) -> Delivery {
    Delivery {
        id: "evt_1".to_owned(),
        url: url.to_owned(),
        secret: Some(secret("a secret of this test")),
        body: r#"{"id":"evt_1","text":"Grüße"}"#.to_owned(),
    }
}

/// Somebody who listens on the loopback, answers everybody the same and tells what was said.
struct Hook {
    address: SocketAddr,
    heard: Receiver<String>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Hook {
    fn answering(answer: impl Into<String>) -> Self {
        let answer = answer.into();
        Self::with(move |mut stream, heard| {
            heard.send(request(&stream)).ok();
            stream.write_all(answer.as_bytes()).ok();
        })
    }

    fn with(mut serve: impl FnMut(TcpStream, &mpsc::Sender<String>) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (told, heard) = mpsc::channel();
        let stopping = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stopping = Arc::clone(&stopping);
            move || {
                for stream in listener.incoming() {
                    if stopping.load(Ordering::SeqCst) {
                        break;
                    }
                    serve(stream.expect("a connection"), &told);
                }
            }
        });
        Self { address, heard, stopping, thread: Some(thread) }
    }

    fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    fn request(&self) -> String {
        self.heard.recv_timeout(PATIENCE).expect("somebody calls")
    }

    /// Ends it and says whether anybody had called beyond what was asked for.
    fn was_left_alone(mut self) -> bool {
        self.stop();
        self.heard.try_recv().is_err()
    }

    fn stop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // Whoever waits for a call gets one.
            drop(TcpStream::connect(self.address));
            thread.join().expect("it did not fail");
        }
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The head of a request in small letters, and its body as it came.
fn request(stream: &TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a line");
        let line = line.to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        head += &line;
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    head + &String::from_utf8(body).expect("text")
}

/// A lookup that tells one list after the other, and the last for ever.
#[derive(Clone, Debug)]
struct Liar {
    answers: Arc<Vec<Vec<SocketAddr>>>,
    asked: Arc<AtomicUsize>,
    names: Arc<Mutex<Vec<String>>>,
}

impl Liar {
    fn telling(answers: &[&[&str]]) -> Self {
        let read = |list: &&[&str]| list.iter().map(|a| a.parse().expect("an address")).collect();
        let answers = Arc::new(answers.iter().map(read).collect());
        Self { answers, asked: Arc::default(), names: Arc::default() }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Resolver for Liar {
    fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Failure> {
        let turn = self.asked.fetch_add(1, Ordering::SeqCst);
        self.names.lock().expect("whole").push(uri.host().unwrap_or_default().to_owned());
        let mut told = self.empty();
        let list = self.answers.get(turn).or(self.answers.last()).expect("it has answers");
        list.iter().for_each(|address| told.push(*address));
        if told.is_empty() { Err(Failure::HostNotFound) } else { Ok(told) }
    }
}

/// Refused for where it leads, before anybody was called.
fn refused(attempt: &Attempt, reason: Refused) {
    assert_eq!(attempt.status, None, "{attempt:?}");
    assert_eq!(attempt.error.as_deref(), Some(reason.to_string().as_str()), "{attempt:?}");
    assert!(matches!(attempt.next(1, 0), Next::Again(_)));
}

#[test]
fn a_delivery_is_a_signed_post() {
    let hook = Hook::answering(OK);
    let courier = Courier::new(private());
    let sent = delivery(&hook.url());
    let attempt = courier.send(&sent);
    assert!(attempt.delivered(), "{attempt:?}");
    assert_eq!((attempt.status, &attempt.error), (Some(204), &None));

    let heard = hook.request();
    let (head, body) = heard.split_once("\r\n\r\n").expect("a head and a body");
    let header = |name: &str| {
        let values: Vec<&str> =
            head.lines().filter_map(|line| line.strip_prefix(&format!("{name}: "))).collect();
        assert_eq!(values.len(), 1, "{name}: {head}");
        values[0]
    };
    assert!(head.starts_with("post /hook http/1.1\r\n"), "{head}");
    assert_eq!(body, sent.body);
    assert_eq!(header("host"), hook.address.to_string());
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(header("user-agent"), concat!("whisperwire/", env!("CARGO_PKG_VERSION")));
    assert_eq!(header("webhook-id"), "evt_1");
    let timestamp: i64 = header("webhook-timestamp").parse().expect("Unix seconds");
    let now = jiff::Timestamp::now().as_second();
    assert!((now - 60..=now).contains(&timestamp), "{timestamp} is not {now}");
    // The head came in small letters, so the signature is compared so.
    let signature = sign(&secret("a secret of this test"), "evt_1", timestamp, &sent.body);
    assert_eq!(header("webhook-signature"), signature.to_ascii_lowercase());

    let unsigned = courier.send(&Delivery { secret: None, ..sent });
    assert!(unsigned.delivered(), "{unsigned:?}");
    let heard = hook.request();
    assert!(heard.contains("webhook-id: evt_1") && !heard.contains("webhook-signature"), "{heard}");
}

/// The same once more, in a process whose environment names proxies that nobody listens behind.
#[test]
fn proxies_of_the_environment_are_not_used() {
    let closed = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let mut child = Command::new(std::env::current_exe().expect("this test"));
    child.args(["--exact", "jobs::webhook::tests::deliveries::a_delivery_is_a_signed_post"]);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        child
            .env(name, format!("http://{closed}"))
            .env(name.to_ascii_lowercase(), format!("http://{closed}"));
    }
    let ended = child.env_remove("NO_PROXY").env_remove("no_proxy").output().expect("it runs");
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn a_name_with_one_bad_address_among_good_ones_is_refused() {
    for list in [
        &["127.0.0.1:80"][..],
        &["[::1]:80"],
        &[PUBLIC, "10.0.0.1:80"],
        &["10.0.0.1:80", PUBLIC],
        &[PUBLIC, "1.1.1.1:80", "[::ffff:169.254.169.254]:80"],
        &[PUBLIC, "[fd00:ec2::254]:80"],
        &[PUBLIC, "[64:ff9b::a00:1]:80"],
    ] {
        let courier = Courier::with_lookup(WebhookConfig::default(), Liar::telling(&[list]));
        assert_eq!(courier.check(NAME), Err(Refused::Private), "{list:?}");
        refused(&courier.send(&delivery(NAME)), Refused::Private);
    }
    let courier = Courier::with_lookup(WebhookConfig::default(), Liar::telling(&[&[PUBLIC, "0.0.0.0:80"]]));
    assert_eq!(courier.check(NAME), Err(Refused::Nowhere));
    let courier = Courier::with_lookup(WebhookConfig::default(), Liar::telling(&[&[PUBLIC, "[2606::1]:80"]]));
    assert!(courier.check(NAME).is_ok());
}

#[test]
fn a_name_that_changes_its_answer_after_it_was_registered_wins_nothing() {
    let hook = Hook::answering(OK);
    let inside = hook.address.to_string();
    let liar = Liar::telling(&[&[PUBLIC], &[&inside], &[PUBLIC, &inside]]);
    let courier = Courier::with_lookup(WebhookConfig::default(), liar.clone());
    assert!(courier.check(NAME).is_ok());
    refused(&courier.send(&delivery(NAME)), Refused::Private);
    refused(&courier.send(&delivery(NAME)), Refused::Private);
    assert_eq!(liar.asked(), 3);
    assert!(hook.was_left_alone());
}

#[test]
fn a_connection_goes_to_what_was_judged_and_nobody_is_asked_twice() {
    let (judged, other) = (Hook::answering(OK), Hook::answering(OK));
    let (first, second) = (judged.address.to_string(), other.address.to_string());
    let liar = Liar::telling(&[&[&first], &[&second]]);
    let courier = Courier::with_lookup(private(), liar.clone());
    let attempt = courier.send(&delivery(NAME));
    assert!(attempt.delivered(), "{attempt:?}");
    let heard = judged.request();
    assert!(
        heard.starts_with("post /hook?of=mine http/1.1") && heard.contains("host: hooks.example.com\r\n")
    );
    assert_eq!((liar.asked(), other.was_left_alone()), (1, true));
    assert_eq!(*liar.names.lock().expect("whole"), ["hooks.example.com"]);
}

/// Each delivery is looked up and judged for itself: a connection that the receiver holds open is not used again.
#[test]
fn a_connection_is_used_once() {
    let mut held = Vec::new();
    let hook = Hook::with(move |mut stream, heard| {
        heard.send(request(&stream)).ok();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").ok();
        held.push(stream);
    });
    let address = hook.address.to_string();
    let liar = Liar::telling(&[&[&address]]);
    let courier = Courier::with_lookup(private(), liar.clone());
    for _ in 0..3 {
        let attempt = courier.send(&delivery(NAME));
        assert!(attempt.delivered(), "{attempt:?}");
        hook.request();
    }
    assert_eq!(liar.asked(), 3);
}

#[test]
fn redirects_are_failures_and_are_not_followed() {
    let inside = Hook::answering(OK);
    for status in [301, 302, 303, 307, 308] {
        let answer =
            format!("HTTP/1.1 {status} Moved\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n", inside.url());
        let hook = Hook::answering(answer);
        let attempt = Courier::new(private()).send(&delivery(&hook.url()));
        assert_eq!((attempt.status, attempt.delivered()), (Some(status), false));
        assert!(attempt.error.as_deref().is_some_and(|e| e.contains("not followed")), "{attempt:?}");
        assert!(matches!(attempt.next(1, 0), Next::Again(_)));
        hook.request();
    }
    assert!(inside.was_left_alone());
}

#[test]
fn literal_addresses_are_judged_without_a_lookup() {
    let hook = Hook::answering(OK);
    let liar = Liar::telling(&[&[PUBLIC]]);
    let courier = Courier::with_lookup(WebhookConfig::default(), liar.clone());
    assert_eq!(courier.check(&hook.url()), Err(Refused::Private));
    refused(&courier.send(&delivery(&hook.url())), Refused::Private);
    assert!(courier.check("https://1.1.1.1/").is_ok());
    assert_eq!(liar.asked(), 0);
    assert!(hook.was_left_alone());
}

#[test]
fn a_name_that_nobody_knows_can_be_registered_but_not_reached() {
    let courier = Courier::with_lookup(WebhookConfig::default(), Liar::telling(&[&[]]));
    assert!(courier.check(NAME).is_ok());
    let attempt = courier.send(&delivery(NAME));
    assert_eq!(attempt.error.as_deref(), Some("the receiver's name is not known"));
    assert_eq!(courier.check("https://2130706433/"), Err(Refused::Spelling));
}

#[test]
fn answers_that_are_no_delivery() {
    for (answer, next) in [
        ("HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n", Next::GiveUp),
        (
            "HTTP/1.1 429 Slow\r\nRetry-After: 77\r\nContent-Length: 0\r\n\r\n",
            Next::Again(Duration::from_secs(77)),
        ),
        (
            "HTTP/1.1 503 Busy\r\nretry-after: 78\r\nContent-Length: 0\r\n\r\n",
            Next::Again(Duration::from_secs(78)),
        ),
        // Only those two mean it.
        (
            "HTTP/1.1 500 Oh\r\nRetry-After: 79\r\nContent-Length: 0\r\n\r\n",
            Next::Again(Duration::from_secs(5)),
        ),
        ("nonsense\r\n\r\n", Next::Again(Duration::from_secs(5))),
        ("", Next::Again(Duration::from_secs(5))),
    ] {
        let hook = Hook::answering(answer);
        let attempt = Courier::new(private()).send(&delivery(&hook.url()));
        assert!(!attempt.delivered() && attempt.error.is_some(), "{attempt:?}");
        assert_eq!(attempt.next(1, 100), next, "{attempt:?}");
        let said = attempt.error.expect("just seen");
        assert!(!said.contains("/hook") && !said.contains("secret"), "{said}");
    }
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let attempt = Courier::new(private()).send(&delivery(&format!("http://{nobody}/")));
    assert!(attempt.error.is_some_and(|error| error.contains("refused")));
}

#[test]
fn a_receiver_that_says_nothing_costs_no_more_than_the_time_allowed() {
    let (hold, held) = mpsc::channel::<TcpStream>();
    let hook = Hook::with(move |stream, heard| {
        heard.send(request(&stream)).ok();
        hold.send(stream).ok();
    });
    let config = WebhookConfig { total: Duration::from_millis(300), ..private() };
    let attempt = Courier::new(config).send(&delivery(&hook.url()));
    assert_eq!(attempt.status, None);
    assert_eq!(attempt.error.as_deref(), Some("the receiver did not answer in time"));
    drop(held);
}

/// It is delivered with its status, whatever else is said.
#[test]
fn an_answer_without_end_is_not_read_to_its_end() {
    let hook = Hook::with(|mut stream, heard| {
        heard.send(request(&stream)).ok();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok();
        let mut written = 0_u64;
        while stream.write_all(&[b'x'; 4096]).is_ok() {
            written += 4096;
        }
        heard.send(written.to_string()).ok();
    });
    let attempt = Courier::new(private()).send(&delivery(&hook.url()));
    assert!(attempt.delivered(), "{attempt:?}");
    hook.request();
    // What the sockets of this machine swallowed, and no more.
    let written: u64 = hook.request().parse().expect("a number");
    assert!(written < 64 << 20, "{written} bytes were taken");
}
