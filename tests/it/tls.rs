//! HTTPS and WSS: what is encrypted works as it does in plain text, and what is not, or never speaks, costs nobody
//! else anything. The certificates are made here, and signed by nobody.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use futures_util::{SinkExt, StreamExt};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio_tungstenite::tungstenite::Message;
use whisperwire::jobs::webhook::{Courier, Delivery, WebhookConfig};

use crate::client::{Answer, Form, PATIENCE, runtime};
use crate::program::{Ended, Served, whisperwire};
use crate::sound::{scripted, speech, wav};

/// A folder with a certificate for this machine, its key, and a key of nothing.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let write =
        |name: &str, text: String| fs::write(folder.path().join(name), text).expect("room for a file");
    let pair = |name: &str| {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        write(&format!("{name}.pem"), made.cert.pem());
        write(&format!("{name}.key"), made.signing_key.serialize_pem());
    };
    pair("own");
    pair("other");
    folder
}

fn serve(folder: &Path, flags: &[&str]) -> Command {
    let mut command = whisperwire(folder);
    command.args(["serve", "--engine", "script", "--port", "0"]).args(flags);
    command
}

fn secure(folder: &Path) -> Served {
    let served = Served::start(&mut serve(folder, &["--tls-cert", "own.pem", "--tls-key", "own.key"]));
    assert_eq!(served.scheme, "https");
    served
}

/// A client that trusts the certificate of the folder and nobody else's.
struct Client {
    address: SocketAddr,
    roots: RootCertStore,
}

impl Client {
    fn of(served: &Served, folder: &Path) -> Self {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_file(folder.join("own.pem")).expect("a certificate");
        roots.add(certificate).expect("it can be trusted");
        Self { address: served.address, roots }
    }

    async fn connect(
        &self,
        version: &'static SupportedProtocolVersion,
        protocols: &[&str],
    ) -> TlsStream<tokio::net::TcpStream> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .expect("the version is known")
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = tokio::net::TcpStream::connect(self.address).await.expect("somebody listens");
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        stream.expect("the certificate fits, and both sides have a key")
    }

    /// An upload over HTTP/1.1, as bytes, and the transcript in the answer.
    async fn upload(&self, version: &'static SupportedProtocolVersion, protocols: &[&str]) -> String {
        let mut stream = self.connect(version, protocols).await;
        let chosen = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        assert_eq!(chosen.as_deref(), protocols.first().map(|name| name.as_bytes()));
        stream.write_all(&form().0.request()).await.expect("the server reads");
        stream.flush().await.expect("the server reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer, and an end to it");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("x-request-id: req_"), "{answer}");
        text(body.as_bytes())
    }
}

fn form() -> (Form, String) {
    let pcm = speech(6.0);
    (Form::of(&wav(&pcm)), scripted(&pcm))
}

fn text(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).expect("a body of JSON");
    body["text"].as_str().expect("a text").to_owned()
}

#[test]
fn an_upload_goes_over_https_in_both_versions_of_both_protocols() {
    let folder = folder();
    let served = secure(folder.path());
    let client = Client::of(&served, folder.path());
    let (form, said) = form();
    runtime().block_on(async {
        for version in [&TLS12, &TLS13] {
            assert_eq!(client.upload(version, &["http/1.1"]).await, said);
            assert_eq!(client.upload(version, &[]).await, said, "a client that names no protocol");

            let stream = client.connect(version, &["h2", "http/1.1"]).await;
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
            let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
            let (mut sender, connection) = handshake.await.expect("HTTP/2");
            let connection = tokio::spawn(connection);
            let request = Request::post(format!("https://{}/v1/audio/transcriptions", served.address))
                .header("content-type", Form::content_type())
                .body(Body::from(form.body()))
                .expect("a request");
            let answer = sender.send_request(request).await.expect("an answer");
            assert_eq!(answer.status(), StatusCode::OK);
            let body = to_bytes(Body::new(answer.into_body()), 1 << 20).await.expect("a whole answer");
            assert_eq!(text(&body), said);
            drop(sender);
            connection.await.expect("no panic").expect("the connection ends well");
        }
    });
    served.terminate();
    assert_eq!(served.code(), Some(0));
}

/// What nobody vouches for could be anybody: the news and its signature stay here.
#[test]
fn a_webhook_is_not_told_to_a_receiver_with_a_certificate_of_its_own_making() {
    let folder = folder();
    let served = secure(folder.path());
    let courier = Courier::new(WebhookConfig { allow_private: true, ..WebhookConfig::default() });
    let attempt = courier.send(&Delivery {
        id: "evt_1".to_owned(),
        url: format!("https://localhost:{}/", served.address.port()),
        secret: None,
        body: "{}".to_owned(),
    });
    assert_eq!(attempt.status, None, "{attempt:?}");
    assert!(attempt.error.is_some_and(|error| error.contains("certificate")));
    served.terminate();
    assert_eq!(served.code(), Some(0));
}

#[test]
fn a_live_stream_goes_over_wss() {
    let folder = folder();
    let served = secure(folder.path());
    let client = Client::of(&served, folder.path());
    let pcm = speech(6.0);
    let finals = runtime().block_on(async {
        let stream = client.connect(&TLS13, &["http/1.1"]).await;
        let url = format!("wss://{}/v1/stream", served.address);
        let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.expect("a WebSocket");
        for chunk in pcm.chunks(1_600) {
            let bytes: Vec<u8> =
                chunk.iter().flat_map(|sample| ((sample * 32_767.0) as i16).to_le_bytes()).collect();
            socket.send(Message::binary(bytes)).await.expect("the server listens");
        }
        socket.send(Message::text(r#"{"type":"end"}"#)).await.expect("the server listens");
        let mut finals = String::new();
        while let Some(message) = socket.next().await {
            let Message::Text(told) = message.expect("the connection holds") else { continue };
            let told: Value = serde_json::from_str(&told).expect("a message of JSON");
            if told["type"] == "final" {
                finals = format!("{finals} {}", told["text"].as_str().expect("a text").trim());
            }
        }
        finals
    });
    assert_eq!(finals.trim(), scripted(&pcm));
}

#[test]
fn whoever_speaks_no_tls_is_told_so_and_disturbs_nobody() {
    let folder = folder();
    let served = secure(folder.path());
    let client = Client::of(&served, folder.path());
    let (form, said) = form();

    // Connections that say nothing at all, or begin a handshake and leave it at that.
    let silent: Vec<TcpStream> = [&b""[..], b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"]
        .iter()
        .map(|begun| {
            let mut stream = TcpStream::connect(served.address).expect("somebody listens");
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
            stream.write_all(begun).expect("there is room for a few bytes");
            stream
        })
        .collect();
    // One that speaks another protocol altogether.
    let mut strange = TcpStream::connect(served.address).expect("somebody listens");
    strange.write_all(&[0; 64]).expect("there is room for a few bytes");

    // The key that came in plain text is not even looked at.
    let plain = reqwest::Client::builder().no_proxy().build().expect("a client");
    let url = format!("http://{}/v1/audio/transcriptions", served.address);
    let request = plain.post(url).header("content-type", Form::content_type()).body(form.body());
    let refused = Answer::to(request);
    assert!(refused.refused(400, "invalid_value", None).contains("https://"), "{refused:?}");
    assert_eq!(refused.header("connection"), "close");

    assert_eq!(runtime().block_on(client.upload(&TLS13, &["http/1.1"])), said);

    // Each of the silent ones is let go in the end: with an alert, or without a word.
    for mut stream in silent {
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        let kind = ended.as_ref().err().map(std::io::Error::kind);
        let let_go = ended.is_ok() || kind == Some(std::io::ErrorKind::ConnectionReset);
        assert!(let_go && !rest.starts_with(b"HTTP"), "{ended:?} {rest:?}");
    }
    assert_eq!(runtime().block_on(client.upload(&TLS13, &["http/1.1"])), said);
}

#[test]
fn an_unfinished_handshake_does_not_hold_up_the_end() {
    let folder = folder();
    let served = secure(folder.path());
    let client = Client::of(&served, folder.path());
    let mut unfinished = TcpStream::connect(served.address).expect("somebody listens");
    unfinished.write_all(b"\x16\x03\x01").expect("there is room for a few bytes");
    // The connection after it has been served, so it has been accepted.
    runtime().block_on(client.upload(&TLS13, &[]));
    served.terminate();
    assert_eq!(served.code(), Some(0), "nothing was cut off");
}

#[test]
fn the_lines_at_the_start_say_how_to_reach_it() {
    let folder = folder();
    let flags = ["--tls-cert", "own.pem", "--tls-key", "own.key", "--try", "speech.wav"];
    let mut served = Served::start(&mut serve(folder.path(), &flags));
    assert_eq!(served.scheme, "https");
    let url = format!("https://{}/v1/audio/transcriptions", served.address);
    assert_eq!(
        served.line(),
        format!("try: curl --cacert own.pem {url} -F file=@speech.wav -F model=whisper-1")
    );
    let flags = ["--try", "speech.wav"];
    let mut served = Served::start(&mut serve(folder.path(), &flags));
    assert_eq!(served.scheme, "http");
    assert!(served.line().starts_with("try: curl http://"));
}

#[test]
fn the_environment_can_name_the_files_too() {
    let folder = folder();
    let mut command = serve(folder.path(), &[]);
    command.env("WHISPERWIRE_TLS_CERT", "own.pem").env("WHISPERWIRE_TLS_KEY", "own.key");
    assert_eq!(Served::start(&mut command).scheme, "https");
}

#[test]
fn files_that_do_not_fit_are_named_before_anything_starts() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("empty.pem"), "").expect("room for a file");
    fs::write(path("words.pem"), "no PEM, just words\n").expect("room for a file");
    let broken = "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n";
    fs::write(path("broken.pem"), broken).expect("room for a file");
    let nothing = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    fs::write(path("nothing.pem"), nothing).expect("room for a file");
    let sealed = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    fs::write(path("sealed.key"), sealed).expect("room for a file");
    let complaint = |flags: &[&str]| {
        let ended = Ended::of(&mut serve(folder.path(), flags));
        assert_eq!(ended.stdout, "", "{ended:?}");
        ended.complaint(64).to_owned()
    };
    for (flags, named) in [
        (&["--tls-cert", "own.pem"][..], &["--tls-cert", "--tls-key"][..]),
        (&["--tls-key", "own.key"], &["--tls-cert", "--tls-key"]),
        (&["--tls-cert", "nowhere.pem", "--tls-key", "own.key"], &["--tls-cert nowhere.pem: "]),
        (&["--tls-cert", "own.pem", "--tls-key", "nowhere.key"], &["--tls-key nowhere.key: "]),
        (&["--tls-cert", "empty.pem", "--tls-key", "own.key"], &["--tls-cert empty.pem: "]),
        (&["--tls-cert", "words.pem", "--tls-key", "own.key"], &["--tls-cert words.pem: "]),
        (&["--tls-cert", "broken.pem", "--tls-key", "own.key"], &["--tls-cert broken.pem: "]),
        (&["--tls-cert", "nothing.pem", "--tls-key", "own.key"], &["--tls-cert nothing.pem: "]),
        (&["--tls-cert", ".", "--tls-key", "own.key"], &["--tls-cert .: "]),
        (&["--tls-cert", "own.pem", "--tls-key", "own.pem"], &["--tls-key own.pem: ", "private key"]),
        (&["--tls-cert", "own.pem", "--tls-key", "sealed.key"], &["--tls-key sealed.key: ", "unencrypted"]),
        (&["--tls-cert", "own.pem", "--tls-key", "other.key"], &["--tls-key other.key: ", "own.pem"]),
    ] {
        let complaint = complaint(flags);
        assert!(named.iter().all(|name| complaint.contains(name)), "{flags:?}: {complaint}");
    }
    let good =
        Ended::of(&mut serve(folder.path(), &["--tls-cert", "own.pem", "--tls-key", "own.key", "--help"]));
    assert_eq!(good.code, Some(0));
}
