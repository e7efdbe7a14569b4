//! `GET /scopes/{scope}/executions/{name}/events`: an execution's changes and lines as they happen.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::unfold;
use jiff::Timestamp;
use tokio::time::timeout;

use crate::App;
use crate::gcp::cloud_logging::Position;
use crate::http::authorize::{Authorized, Read};
use crate::http::extract::{ExecutionName, Fields, NoFields};
use crate::http::page_token;
use crate::http::problem::{Kind, Problem};
use crate::watch::{Event, LogCursor, Update, Watcher};

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
) -> Result<Response, Problem> {
    let cursor = cursor(&headers, &name)?;
    let watcher = tokio::select! {
        watcher = app.watches.watch(&granted.scope, &name, cursor, granted.caller_id) => watcher?,
        () = app.drains() => return Err(Kind::Draining.into()),
    };
    if !granted.covers(&*watcher.execution()?) {
        return Err(Kind::ExecutionNotFound.into());
    }
    let stream = Stream {
        app,
        watcher,
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

/// An event as a server sends it. JSON has no line breaks, so that one `data` field holds it.
pub fn render(event: &Event<'_>) -> Bytes {
    let Event { kind, data, .. } = event;
    match event.cursor {
        None => format!("event: {kind}\ndata: {data}\n\n").into(),
        Some(position) => {
            let id = event_id(event.execution, position);
            format!("id: {id}\nevent: {kind}\ndata: {data}\n\n").into()
        }
    }
}

/// The id of an event: where its client goes on.
fn event_id(execution: &str, position: &Position) -> String {
    let fields = (position.time, &*position.insert_id);
    page_token::encode(&list(execution), &fields)
}

/// The position that [`event_id`] wrote for the same execution.
fn position(execution: &str, id: &str) -> Option<Position> {
    let (time, insert_id): (Timestamp, String) = page_token::decode(&list(execution), id)?;
    Some(Position {
        // A job can print a time of its own choosing, and anybody can write an id; watchers share where they read.
        time: time.min(Timestamp::now()),
        insert_id: insert_id.into(),
    })
}

fn list(execution: &str) -> String {
    format!("events/{execution}")
}

/// The position at which the client's earlier stream of this execution ended.
fn cursor(headers: &HeaderMap, name: &str) -> Result<LogCursor, Problem> {
    let mut given = headers.get_all(LAST_EVENT_ID).iter();
    let cursor = match (given.next(), given.next()) {
        (None, _) => return Ok(None),
        (Some(id), None) => id.to_str().ok().and_then(|id| position(name, id)),
        (Some(_), Some(_)) => None,
    };
    let refused = || {
        let detail = "Last-Event-ID must be the id of an event of this very execution.";
        Problem::new(Kind::MalformedRequest, detail)
    };
    cursor.map(Some).ok_or_else(refused)
}

struct Stream {
    app: Arc<App>,
    watcher: Watcher,
    begun: bool,
}

impl Stream {
    /// The next bytes, and what is left of the stream after them.
    async fn next(mut self) -> Option<(Bytes, Option<Self>)> {
        if !self.begun {
            self.begun = true;
            return Some((BEGINNING, Some(self)));
        }
        let update = tokio::select! {
            update = timeout(HEARTBEAT, self.watcher.next()) => update,
            () = self.app.drains() => return Some((COME_BACK, None)),
        };
        Some(match update {
            Ok(Some(Update::Event(event))) => (event, Some(self)),
            Ok(Some(Update::End(event))) => (event, None),
            Ok(Some(Update::LinesLost) | None) => (COME_BACK, None),
            Err(_) => (HEARTBEAT_COMMENT, Some(self)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: Timestamp, insert_id: &str) -> Position {
        let insert_id = insert_id.into();
        Position { time, insert_id }
    }

    #[test]
    fn an_id_is_the_position_that_it_was_made_of_for_its_execution_alone() {
        let time = Timestamp::from_millisecond(1_767_225_600_123).unwrap();
        let made_of = at(time, "6954\u{e9}\n");
        let id = event_id("job-1", &made_of);
        assert!(id.bytes().all(|c| c.is_ascii_hexdigit()));
        assert_eq!(position("job-1", &id), Some(made_of));
        assert_eq!(position("job-2", &id), None);
    }

    #[test]
    fn no_position_is_in_the_future() {
        let now = Timestamp::now();
        let time = now + jiff::SignedDuration::from_hours(1);
        let position = position("e", &event_id("e", &at(time, "x"))).unwrap();
        assert!(position.time >= now && position.time < time);
    }
}
