//! Responses that are faulty on the wire.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderValue, Response as HttpResponse};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use tokio::time::sleep;

/// A response extension: the connection is reset instead of sending the response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reset;

/// A response extension: the connection is closed this long after the response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HangUp(pub(crate) Duration);

pub(crate) fn reset() -> Response {
    let mut response = Response::default();
    response.extensions_mut().insert(Reset);
    response
}

pub(crate) fn hung_up(mut response: Response, later: Duration) -> Response {
    response.extensions_mut().insert(HangUp(later));
    response
}

/// Sends at most `sent` bytes of the body, and announces more.
pub(crate) async fn truncated(response: Response, sent: usize) -> Response {
    let (mut head, body) = collected(response).await;
    let announced = body.len().max(sent + 1);
    let body = body.slice(..sent.min(body.len()));
    head.headers
        .insert(CONTENT_LENGTH, HeaderValue::from(announced));
    // The pause lets the bytes leave before the connection is closed.
    let end = stream::once(async {
        sleep(Duration::from_millis(20)).await;
        Err(io::Error::other("truncated on purpose"))
    });
    HttpResponse::from_parts(
        head,
        Body::from_stream(stream::once(async { Ok(body) }).chain(end)),
    )
}

/// Sends the body at one byte per interval.
pub(crate) async fn dripping(response: Response, interval: Duration) -> Response {
    let (mut head, body) = collected(response).await;
    head.headers
        .insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    let bytes = stream::iter(0..body.len()).then(move |position| {
        let byte = body.slice(position..=position);
        async move {
            sleep(interval).await;
            Ok::<_, Infallible>(byte)
        }
    });
    HttpResponse::from_parts(head, Body::from_stream(bytes))
}

/// A JSON body of `length` bytes: spaces, and `{}` at the end.
pub(crate) fn huge(length: u64) -> Response {
    const CHUNK: usize = 64 * 1024;
    let spaces = length.saturating_sub(2);
    let whole = stream::repeat(Bytes::from_static(&[b' '; CHUNK]))
        .take(usize::try_from(spaces).unwrap_or(usize::MAX) / CHUNK);
    let rest = usize::try_from(spaces % CHUNK as u64).unwrap_or_default();
    let end = stream::iter([Bytes::from(" ".repeat(rest)), Bytes::from_static(b"{}")]);
    let mut response = json(Body::from_stream(whole.chain(end).map(Ok::<_, Infallible>)));
    response
        .headers_mut()
        .insert(CONTENT_LENGTH, HeaderValue::from(spaces + 2));
    response
}

pub(crate) fn json(body: impl Into<Body>) -> Response {
    (
        [(CONTENT_TYPE, "application/json; charset=UTF-8")],
        body.into(),
    )
        .into_response()
}

async fn collected(response: Response) -> (axum::http::response::Parts, Bytes) {
    let (head, body) = response.into_parts();
    // The emulator's bodies are in memory already, so that reading them cannot fail.
    (
        head,
        body.collect()
            .await
            .map(|body| body.to_bytes())
            .unwrap_or_default(),
    )
}
