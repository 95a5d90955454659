//! The certificate, and the handshake it is shown in.
//!
//! Everything about the two files is checked before anything is bound: what is wrong with one of them is a sentence
//! that names it. Deliberately absent: certificates of clients, and new ones without a restart.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{Error, InconsistentKeys, ServerConfig};
use tokio_rustls::server::TlsStream;

/// How long a client may take until both sides have a key.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(10);

/// The first byte of every TLS connection: a record of the handshake.
const RECORD: u8 = 0x16;

/// A certificate with its key, ready to be shown to clients.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    certificate: PathBuf,
}

/// How long the farewell of a connection may take that its owner has dropped.
const FAREWELL: Duration = Duration::from_secs(1);

/// An encrypted connection. Without a farewell its other side must take the end for an attack, and some libraries
/// do; not everybody who drops a connection says one, a WebSocket for example does not.
pub(super) struct Secured(Option<TlsStream<TcpStream>>);

impl Secured {
    fn stream(self: Pin<&mut Self>) -> Pin<&mut TlsStream<TcpStream>> {
        Pin::new(self.get_mut().0.as_mut().expect("it is only taken out when this is dropped"))
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        if let (Some(mut stream), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(async move { tokio::time::timeout(FAREWELL, stream.shutdown()).await });
        }
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(context, into)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.stream().poll_write(context, from)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(context, from)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(context)
    }
}

/// What a new connection turned out to be.
pub(super) enum Greeting {
    /// A client that speaks TLS, and with which there is a key now.
    Tls(Box<Secured>),
    /// A client that speaks something else, of which nothing has been read.
    Plain(TcpStream),
}

impl Tls {
    /// Reads a chain of certificates, the server's own first, and its private key, both PEM. The error is a sentence
    /// for people.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, String> {
        let of_certificate = |why: String| format!("--tls-cert {}: {why}", certificate.display());
        let of_key = |why: String| format!("--tls-key {}: {why}", key.display());
        let chain = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| of_certificate(reason(error)))?;
        if chain.is_empty() {
            return Err(of_certificate("there is no certificate in this file".into()));
        }
        let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| match error {
            pem::Error::NoItemsFound => of_key("there is no unencrypted private key in this file".into()),
            other => of_key(reason(other)),
        })?;
        let provider = ring::default_provider();
        let secret =
            provider.key_provider.load_private_key(secret).map_err(|error| of_key(error.to_string()))?;
        let pair = CertifiedKey::new(chain, secret);
        match pair.keys_match() {
            // A key that does not tell its public half cannot be compared.
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(Error::InconsistentKeys(_)) => {
                return Err(of_key(format!(
                    "it is not the key of the certificate in {}",
                    certificate.display()
                )));
            }
            Err(error) => return Err(of_certificate(error.to_string())),
        }
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), certificate: certificate.to_path_buf() })
    }

    /// The file that the certificate came from.
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// Greets a client that has just connected. Takes as long as the client does: give it a deadline.
    pub(super) async fn greet(&self, stream: TcpStream) -> io::Result<Greeting> {
        let mut first = [0];
        let seen = stream.peek(&mut first).await?;
        if seen == 1 && first[0] != RECORD {
            return Ok(Greeting::Plain(stream));
        }
        self.acceptor.accept(stream).await.map(|stream| Greeting::Tls(Box::new(Secured(Some(stream)))))
    }
}

fn reason(error: pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        other => format!("this is no PEM: {other}"),
    }
}
