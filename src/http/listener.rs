//! Connections: accepted, timed, and let go. `axum::serve` has no deadline for the head of a request.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::peer::Peer;
use super::tls::{Greeting, HANDSHAKE, Tls};

/// How long a client may take to send the head of a request.
const HEAD: Duration = Duration::from_secs(30);
/// The most that is read from a connection at once, in bytes, and so the longest head of a request. An upload has some
/// four pieces of this size on their way to the disk; hyper's own 400 KiB made 2.5 MB of each.
const PIECE: usize = 64 << 10;
/// How long to wait when the system has no connection to give, because it is out of files for example.
const BREATH: Duration = Duration::from_millis(100);

/// Serves until `stop`, then lets the open requests finish within `grace`. Says whether they did.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<Tls>,
    stop: CancellationToken,
    grace: Duration,
) -> bool {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(PIECE);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(HEAD).keep_alive_timeout(HEAD);
    let open = GracefulShutdown::new();
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(BREATH).await;
                    continue;
                }
            },
            () = stop.cancelled() => break,
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps its delay");
        }
        let (answering, builder, watcher) =
            (Answering { router: router.clone(), peer }, builder.clone(), open.watcher());
        match &tls {
            None => drop(tokio::spawn(converse(builder, stream, answering, watcher))),
            Some(tls) => {
                drop(tokio::spawn(secured(tls.clone(), builder, stream, answering, watcher, stop.clone())));
            }
        }
    }
    drop(listener);
    tokio::time::timeout(grace, open.shutdown()).await.is_ok()
}

/// A connection that begins with a handshake. Whoever speaks plain HTTP is told in plain HTTP that this is not the
/// way; whoever takes too long, or comes when the server is about to go, is let go.
async fn secured(
    tls: Tls,
    builder: Builder<TokioExecutor>,
    stream: TcpStream,
    answering: Answering,
    watcher: Watcher,
    stop: CancellationToken,
) {
    let greeting = tokio::select! {
        greeting = tokio::time::timeout(HANDSHAKE, tls.greet(stream)) => greeting,
        () = stop.cancelled() => return,
    };
    match greeting {
        Ok(Ok(Greeting::Tls(stream))) => converse(builder, stream, answering, watcher).await,
        Ok(Ok(Greeting::Plain(stream))) => {
            let answering = Answering { router: super::wants_tls(), ..answering };
            converse(builder, stream, answering, watcher).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "a handshake failed"),
        Err(_) => tracing::debug!("a handshake took too long"),
    }
}

/// What answers, and whom.
#[derive(Clone)]
struct Answering {
    router: Router,
    peer: SocketAddr,
}

async fn converse<S>(builder: Builder<TokioExecutor>, stream: S, answering: Answering, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Answering { router, peer } = answering;
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        router.clone().oneshot(request.map(Body::new))
    });
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection.into_owned()).await {
        tracing::debug!(%error, "a connection broke");
    }
}
