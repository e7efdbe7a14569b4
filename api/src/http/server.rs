//! The accept loop, its limits and its drain.
//!
//! It uses hyper directly: `axum::serve` gives hyper no timer, which disables hyper's limit on slow heads.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use rustix::net::listen;
use rustix::net::sockopt::{set_socket_send_buffer_size, set_tcp_user_timeout};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower::Service;

use crate::config;
use crate::http::minimum_rate::MinimumRate;

/// How long a request's head may take, and how long an idle connection is kept: hyper has one clock for both.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The same behind Cloud Run's front end. That one limits slow heads itself, and keeps unused connections for a minute: it must
/// not send a request into one that we are just closing.
const HEAD_TIMEOUT_BEHIND_FRONT_END: Duration = Duration::from_secs(75);
/// How long a peer may leave sent data unacknowledged, in milliseconds (TCP_USER_TIMEOUT of tcp(7)).
const UNREAD_TIMEOUT_MILLISECONDS: u32 = 30_000;
/// The kernel's send buffer for one connection. By default it grows to megabytes for a slow reader.
const SEND_BUFFER_BYTES: usize = 128 * 1024;
/// The largest head of a request, in bytes; a larger one is answered with 431.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Connections besides those whose requests are admitted: idle ones, and those being refused.
const SPARE_CONNECTIONS: usize = 1000;
/// Connections that the kernel completes while we are busy. With the 128 of the standard library, a larger burst has to wait a
/// second for the next try, and some clients believe that they are connected when they are not.
const BACKLOG: i32 = 4096;
/// Open files besides the callers' connections: mostly connections to Google, a few for each request in flight.
const OTHER_FILES: usize = 512;
/// How long requests in flight may take after SIGTERM. Cloud Run kills the process ten seconds after it (container contract).
const DRAIN: Duration = Duration::from_secs(9);
/// The pause after the system had no more sockets.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The limits of connections.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How long a head may take, and a connection may be idle.
    pub head: Duration,
    /// The most connections at one time; further ones wait in the kernel's queue.
    pub connections: usize,
}

impl Bounds {
    /// Allows a connection for every request that the limits admit, as far as the limit on open files permits.
    pub fn new(limits: &config::Limits, behind_front_end: bool) -> Self {
        let wanted = (limits.in_flight as usize)
            .saturating_add(limits.streams as usize)
            .saturating_add(SPARE_CONNECTIONS);
        let files = getrlimit(Resource::Nofile)
            .current
            .map_or(usize::MAX, |files| files as usize);
        let possible = files.saturating_sub(OTHER_FILES).max(files / 2);
        Self {
            head: if behind_front_end {
                HEAD_TIMEOUT_BEHIND_FRONT_END
            } else {
                HEAD_TIMEOUT
            },
            connections: wanted.min(possible).min(Semaphore::MAX_PERMITS),
        }
    }
}

/// Raises the limit on open files to its maximum: shells and containers often start with 1024, which is meant for `select(2)`.
pub fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit on open files could not be raised");
    }
}

/// A service that answers requests, and that is always ready to.
pub trait HttpService:
    Service<Request, Response = Response, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> HttpService for S where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// Serves until `shutdown` is ready, then waits for the requests in flight, and for `unattended`, the work without a request.
pub async fn serve(
    listener: TcpListener,
    service: impl HttpService,
    bounds: Bounds,
    shutdown: impl Future<Output = ()>,
    unattended: impl Future<Output = ()>,
) {
    let graceful = GracefulShutdown::new();
    let (open, closing) = watch::channel(());
    let mut shutdown = std::pin::pin!(shutdown);
    let mut acceptor = Acceptor::new(listener, bounds.connections);
    loop {
        tokio::select! {
            (stream, peer, permit) = acceptor.next() => {
                let (service, watcher, closing) = (service.clone(), graceful.watcher(), closing.clone());
                let connection = connection(stream, peer, service, bounds.head, watcher, closing);
                tokio::spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            () = &mut shutdown => break,
        }
    }
    drop((acceptor, open));
    let all = async {
        graceful.shutdown().await;
        unattended.await;
    };
    if tokio::time::timeout(DRAIN, all).await.is_err() {
        tracing::warn!("some requests were still in flight when the drain time was over");
    }
}

/// Accepts connections, up to a maximum at one time.
struct Acceptor {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    was_full: bool,
}

impl Acceptor {
    fn new(listener: TcpListener, connections: usize) -> Self {
        if let Err(error) = listen(&listener, BACKLOG) {
            tracing::debug!(%error, "the queue of connections could not be enlarged");
        }
        Self {
            listener,
            permits: Arc::new(Semaphore::new(connections)),
            was_full: false,
        }
    }

    /// The next connection, with its permit.
    async fn next(&mut self) -> (TcpStream, SocketAddr, Option<OwnedSemaphorePermit>) {
        let is_full = self.permits.available_permits() == 0;
        if is_full && !self.was_full {
            tracing::warn!("the maximum number of connections is reached; further ones wait");
        }
        self.was_full = is_full;
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok(); // never closed, so never None
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => return (stream, peer, permit),
                Err(error) => refused(&error).await,
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    service: impl HttpService,
    head: Duration,
    watcher: Watcher,
    mut closing: watch::Receiver<()>,
) {
    // Answers are small and written at once. Nagle's algorithm would only delay them.
    let _ = stream.set_nodelay(true);
    let _ = set_tcp_user_timeout(&stream, UNREAD_TIMEOUT_MILLISECONDS);
    let _ = set_socket_send_buffer_size(&stream, SEND_BUFFER_BYTES);
    // Hyper would delay the drain for a connection without a request, and browsers open some in advance.
    let sends = tokio::select! {
        sends = sends_within(&stream, head) => sends,
        _ = closing.changed() => false,
    };
    if !sends {
        return;
    }
    let client = Peer::new(peer.ip());
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request: Request = request.map(Body::new);
        request.extensions_mut().insert(client.clone());
        service.clone().call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(MinimumRate::new(stream)), service);
    if let Err(error) = watcher.watch(connection).await {
        ended_early(peer, &error);
    }
}

/// Whether the first byte arrives in time.
async fn sends_within(stream: &TcpStream, patience: Duration) -> bool {
    let peeked = tokio::time::timeout(patience, stream.peek(&mut [0])).await;
    matches!(peeked, Ok(Ok(1..)))
}

/// Logs a connection that failed. Hyper answered a malformed request itself, so this is its only line. A peer that left is
/// logged at debug level.
fn ended_early(peer: SocketAddr, error: &hyper::Error) {
    let peer = peer.ip();
    if error.is_parse() || error.is_timeout() {
        tracing::info!(%peer, %error, "a connection sent no proper request");
    } else {
        tracing::debug!(%peer, %error, "a connection ended early");
    }
}

/// Handles a failed accept. A connection that ended while it waited is ignored. If there are no more sockets, that is logged, and
/// accepting continues after a pause.
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

/// The other end of the connection, as an extension of each request.
#[derive(Clone)]
pub struct Peer(Arc<Address>);

struct Address {
    address: IpAddr,
    /// The address as text, which is made once for all log lines.
    text: String,
}

impl Peer {
    /// The peer at this address.
    pub fn new(address: IpAddr) -> Self {
        let text = address.to_string();
        Self(Arc::new(Address { address, text }))
    }

    /// Its address.
    pub fn address(&self) -> IpAddr {
        self.0.address
    }

    /// The peer's address as text.
    pub fn text(&self) -> &str {
        &self.0.text
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use std::time::Instant;

    use axum::Router;
    use axum::routing::get;
    use bytes::Bytes;
    use hyper::body::{Body as HttpBody, Frame};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;

    use super::*;

    struct Endless;

    impl HttpBody for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

    struct Server {
        address: SocketAddr,
        stop: oneshot::Sender<()>,
        ended: tokio::task::JoinHandle<()>,
    }

    async fn server(bounds: Bounds) -> Server {
        let router = Router::new()
            .route("/", get(async || "whole"))
            .route("/endless", get(async || Body::new(Endless)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async { drop(stopped.await) };
        let no_work = std::future::ready(());
        let ended = tokio::spawn(serve(listener, router, bounds, shutdown, no_work));
        Server {
            address,
            stop,
            ended,
        }
    }

    /// Sends the request and reads the answer's first bytes.
    async fn visit(address: SocketAddr, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        stream
    }

    const BOUNDS: Bounds = Bounds {
        head: Duration::from_secs(60),
        connections: 10,
    };

    #[tokio::test]
    async fn connections_without_a_request_do_not_delay_the_drain() {
        let server = server(BOUNDS).await;
        let _silent = TcpStream::connect(server.address).await.unwrap();
        let _idle = visit(server.address, "/").await;
        let begun = Instant::now();
        server.stop.send(()).unwrap();
        server.ended.await.unwrap();
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "{:?}",
            begun.elapsed()
        );
    }

    #[tokio::test]
    async fn an_endless_answer_delays_the_end_no_longer_than_the_drain_time() {
        let server = server(BOUNDS).await;
        let _endless = visit(server.address, "/endless").await;
        let begun = Instant::now();
        server.stop.send(()).unwrap();
        server.ended.await.unwrap();
        assert!(
            begun.elapsed() < Duration::from_millis(9_500),
            "{:?}",
            begun.elapsed()
        );
    }

    #[tokio::test]
    async fn connections_beyond_the_maximum_wait() {
        let server = server(Bounds {
            connections: 1,
            ..BOUNDS
        })
        .await;
        let first = visit(server.address, "/").await;
        let second = visit(server.address, "/");
        let mut second = std::pin::pin!(second);
        assert!(
            tokio::time::timeout(Duration::from_millis(200), &mut second)
                .await
                .is_err()
        );
        drop(first);
        second.await;
    }

    #[tokio::test]
    async fn silent_connections_and_slow_heads_are_closed_while_others_are_served() {
        let server = server(Bounds {
            head: Duration::from_millis(300),
            ..BOUNDS
        })
        .await;
        for begun in [&b""[..], b"G", b"GET / HTTP/1.1\r\nhost: x\r\n"] {
            let mut slow = TcpStream::connect(server.address).await.unwrap();
            slow.write_all(begun).await.unwrap();
            visit(server.address, "/").await;
            let mut answer = Vec::new();
            let closed =
                tokio::time::timeout(Duration::from_secs(5), slow.read_to_end(&mut answer));
            closed.await.expect("it should be closed").unwrap();
            assert!(answer.is_empty());
        }
    }

    #[test]
    fn there_are_connections_for_all_requests_that_the_limits_admit() {
        let limits = config::Config::defaults().unwrap().limits;
        let bounds = Bounds::new(&limits, true);
        assert!(bounds.head > Duration::from_secs(60));
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) as usize;
        assert!(bounds.connections < files && bounds.connections <= 10_256 + SPARE_CONNECTIONS);
    }
}
