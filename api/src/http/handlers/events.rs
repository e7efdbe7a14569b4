//! `GET /scopes/{scope}/executions/{name}/events`: an execution's changes and lines as they happen.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::unfold;
use tokio::time::timeout;

use crate::App;
use crate::http::authorize::{Authorized, Read};
use crate::http::extract::{ExecutionName, Fields, NoFields};
use crate::http::problem::{Kind, Problem};
use crate::http::server::{Client, gone};
use crate::watch::{self, News, Place, Watcher};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Keeps nginx, and what is made like it, from holding events back.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// How long a stream says nothing. Proxies commonly close what is silent for a minute, some for thirty seconds.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How a stream begins: a client that loses it comes back after a second, not after a browser's three or five.
const BEGINNING: Bytes = Bytes::from_static(b"retry: 1000\n\n");
const HEARTBEAT_COMMENT: Bytes = Bytes::from_static(b":\n\n");
/// What a stream says before it ends without the execution's end.
const COME_BACK: Bytes = Bytes::from_static(b": to be continued\n\n");

pub async fn stream(
    State(app): State<Arc<App>>,
    granted: Authorized<Read>,
    ExecutionName(name): ExecutionName,
    _: Fields<NoFields>,
    headers: HeaderMap,
    client: Option<Extension<Client>>,
) -> Result<Response, Problem> {
    let place = place(&headers, &name)?;
    let watcher = tokio::select! {
        watcher = app.watches.watch(&granted.scope, &name, place) => watcher?,
        () = app.drains() => return Err(Kind::Draining.into()),
        () = gone(client.clone()) => return Err(Kind::RequestTimeout.into()),
    };
    let stream = Stream {
        app,
        watcher,
        client,
        begun: false,
    };
    let events = unfold(Some(stream), |stream| async {
        let (bytes, stream) = stream?.next().await?;
        Some((Ok::<_, Infallible>(bytes), stream))
    });
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (X_ACCEL_BUFFERING, HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::from_stream(events)).into_response())
}

/// Where the client's earlier stream of this execution ended.
fn place(headers: &HeaderMap, name: &str) -> Result<Place, Problem> {
    let mut given = headers.get_all(LAST_EVENT_ID).iter();
    let place = match (given.next(), given.next()) {
        (None, _) => return Ok(None),
        (Some(id), None) => id.to_str().ok().and_then(|id| watch::place(name, id)),
        (Some(_), Some(_)) => None,
    };
    let refused = || {
        let detail = "Last-Event-ID must be the id of an event of this very execution.";
        Problem::new(Kind::MalformedRequest, detail)
    };
    place.map(Some).ok_or_else(refused)
}

struct Stream {
    app: Arc<App>,
    watcher: Watcher,
    client: Option<Extension<Client>>,
    begun: bool,
}

impl Stream {
    /// The next bytes, and what is left of the stream after them.
    async fn next(mut self) -> Option<(Bytes, Option<Self>)> {
        if !self.begun {
            self.begun = true;
            return Some((BEGINNING, Some(self)));
        }
        let news = tokio::select! {
            news = timeout(HEARTBEAT, self.watcher.next()) => news,
            () = self.app.drains() => return Some((COME_BACK, None)),
            () = gone(self.client.clone()) => return None,
        };
        Some(match news {
            Ok(Some(News::Event(event))) => (event, Some(self)),
            Ok(Some(News::End(event))) => (event, None),
            Ok(Some(News::Lost) | None) => (COME_BACK, None),
            Err(_) => (HEARTBEAT_COMMENT, Some(self)),
        })
    }
}
