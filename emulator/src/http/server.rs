//! The accept loop. `axum::serve` cannot reset a connection or close it after a response, which some faults require.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tower::ServiceExt;

use super::wire::{HangUp, Reset};
use super::{grpc, routes};
use crate::cloud::Cloud;

/// The pause after a failed `accept`, most likely for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until the task is aborted, which also closes the connections.
pub(crate) async fn serve(listener: TcpListener, cloud: Arc<Cloud>) {
    let router = routes::router(Arc::clone(&cloud));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    cloud.counters.connected();
                    connections.spawn(serve_connection(socket, router.clone()));
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The faults that a response has requested for its connection.
#[derive(Debug, Default)]
struct SocketFault {
    reset: AtomicBool,
    hang_up: Notify,
}

async fn serve_connection(socket: TcpStream, router: Router) {
    // Responses are small, so Nagle's algorithm would only delay them.
    let _best_effort = socket.set_nodelay(true);
    if speaks_http2(&socket).await {
        let service = service_fn(|request| answer_http2(router.clone(), request));
        let connection = http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(socket), service);
        // A client that disconnects is not an error.
        let _ended = connection.await;
        return;
    }
    let fault = Arc::new(SocketFault::default());
    let socket = TokioIo::new(Socket {
        socket,
        fault: Arc::clone(&fault),
    });
    let service = service_fn(|request| answer(router.clone(), request, Arc::clone(&fault)));
    let connection = http1::Builder::new().serve_connection(socket, service);
    tokio::select! {
        // Neither a client that disconnects nor a fault is an error.
        _ended = connection => {}
        () = fault.hang_up.notified() => {}
    }
}

/// Whether the connection begins with the preface of HTTP/2, which gRPC uses. The bytes stay in the socket.
async fn speaks_http2(socket: &TcpStream) -> bool {
    const PREFACE: &[u8] = b"PRI ";
    let mut first = [0; PREFACE.len()];
    socket.peek(&mut first).await.is_ok() && first == PREFACE
}

async fn answer_http2(
    router: Router,
    request: hyper::Request<Incoming>,
) -> Result<Response, Infallible> {
    let request = request.map(Body::new);
    if grpc::is_grpc(request.headers()) {
        return Ok(grpc::call(router, request).await);
    }
    router.oneshot(request).await
}

/// The router's response, or an error if a fault resets the connection.
async fn answer(
    router: Router,
    request: hyper::Request<Incoming>,
    fault: Arc<SocketFault>,
) -> io::Result<Response> {
    let response = router
        .oneshot(request.map(Body::new))
        .await
        .unwrap_or_else(|never: Infallible| match never {});
    if response.extensions().get::<Reset>().is_some() {
        fault.reset.store(true, Ordering::Relaxed);
        return Err(io::Error::other("reset on purpose"));
    }
    if let Some(&HangUp(later)) = response.extensions().get() {
        tokio::spawn(async move {
            sleep(later).await;
            fault.hang_up.notify_one();
        });
    }
    Ok(response)
}

/// A socket that resets its connection on drop if a fault has requested that.
#[derive(Debug)]
struct Socket {
    socket: TcpStream,
    fault: Arc<SocketFault>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.fault.reset.load(Ordering::Relaxed) {
            let _best_effort = self.socket.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
