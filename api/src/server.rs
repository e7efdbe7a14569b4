//! The accept loop, its limits and its drain.
//!
//! Our own on hyper: `axum::serve` gives hyper no timer, which leaves its limit on slow heads off.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;

/// How long a request's head may take, and how long an idle connection is kept: hyper has one clock for both. Longer than
/// Cloud Run's front end keeps connections unused, so that it never sends into one that we are just closing.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// The largest head of a request, in bytes; a larger one is answered with 431.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// How long requests in flight may take once we are to stop. Cloud Run kills ten seconds after SIGTERM (container contract).
const DRAIN: Duration = Duration::from_secs(9);
/// How long to wait when the system has no more sockets for us.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The address of whoever is connected, as an extension of each request.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// Serves until `shutdown` is ready, then lets the requests in flight end, and `unattended` with what nobody waits for.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
    unattended: impl Future<Output = ()>,
) {
    let graceful = GracefulShutdown::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => drop(tokio::spawn(connection(stream, peer, router.clone(), &graceful))),
                Err(error) => refused(&error).await,
            },
            () = &mut shutdown => break,
        }
    }
    drop(listener);
    let all = async {
        graceful.shutdown().await;
        unattended.await;
    };
    if tokio::time::timeout(DRAIN, all).await.is_err() {
        tracing::warn!("some requests were still in flight when the time to drain was up");
    }
}

fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    graceful: &GracefulShutdown,
) -> impl Future<Output = ()> + use<> {
    // Answers are small and written whole: waiting for more to send would only delay them.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let router = router.clone();
        async move {
            let mut request: Request = request.map(Body::new);
            request.extensions_mut().insert(Peer(peer));
            let Ok(response) = router.oneshot(request).await;
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .half_close(true) // a body that ends early still gets its answer
        .serve_connection(TokioIo::new(stream), service);
    let watched = graceful.watch(connection);
    async move {
        if let Err(error) = watched.await {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}

/// A connection that ended while it waited is nobody's concern; no more sockets is ours, and passes.
async fn refused(error: &io::Error) {
    if matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    ) {
        return;
    }
    tracing::error!(%error, "no connection could be accepted");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}
