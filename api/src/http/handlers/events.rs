//! `GET /scopes/{scope}/executions/{name}/events`: an execution's changes and lines as they happen.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::unfold;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::{sleep_until, timeout};

use crate::App;
use crate::gcp::cloud_logging::Position;
use crate::http::authorize::{Authorized, Read};
use crate::http::extract::{ExecutionName, Fields};
use crate::http::page_token;
use crate::http::problem::{Kind, Problem};
use crate::watch::{Event, EventKind, LogCursor, Update, Watcher};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Keeps nginx and similar proxies from buffering events.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// How long a stream is silent before it sends a comment. Proxies commonly close a silent connection after a minute, some after
/// thirty seconds.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The reconnection time, part of the first event: a client that loses the stream reconnects after one second, not after a
/// browser's default of three or five.
const RETRY: &str = "retry: 1000\n";
const HEARTBEAT_COMMENT: Bytes = Bytes::from_static(b":\n\n");
/// The comment at the end of a stream that ends before the execution does.
const COME_BACK: Bytes = Bytes::from_static(b": to be continued\n\n");

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Query {
    /// The same as the header Last-Event-ID, for clients that cannot send it. The header takes precedence.
    last_event_id: Option<String>,
}

pub async fn stream(
    State(app): State<Arc<App>>,
    granted: Authorized<Read>,
    ExecutionName(name): ExecutionName,
    Fields(query): Fields<Query>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let cursor = match last_event(&headers, &query, &name)? {
        LastEvent::End => {
            // Browsers reconnect until they get 204.
            app.execution(&granted, &name).await?;
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        LastEvent::Other(cursor) => cursor,
    };
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
        expires_at: granted.caller.expires_at,
        began: false,
    };
    let events = unfold(Some(stream), |stream| async {
        let (bytes, stream) = stream?.next().await?;
        Some((Ok::<_, Infallible>(bytes), stream))
    });
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        // A proxy that compresses events would delay them until a block is full.
        (
            CACHE_CONTROL,
            HeaderValue::from_static("no-store, no-transform"),
        ),
        (X_ACCEL_BUFFERING, HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::from_stream(events)).into_response())
}

/// Writes an event in the wire format. The JSON has no line breaks, so that one `data` field holds it.
pub fn render(event: &Event<'_>) -> Bytes {
    let kind = match event.kind {
        EventKind::Execution => "execution",
        EventKind::Progress => "progress",
        EventKind::Log => "log",
        EventKind::End => "end",
    };
    let comment = match event.comment {
        None => String::new(),
        Some(text) => format!(": {}\n\n", text.replace('\n', "\n: ")),
    };
    let id = event_id(event.execution, event.cursor, event.kind == EventKind::End);
    format!("{comment}id: {id}\nevent: {kind}\ndata: {}\n\n", event.data).into()
}

/// The last event that a client has received.
enum LastEvent {
    /// The event `end`.
    End,
    /// Another event, after whose cursor the stream continues. None on the first connection.
    Other(LogCursor),
}

/// The content of an event's id: the cursor, and whether the event is `end`.
type EventId = (Option<(Timestamp, String)>, bool);

/// The id of an event.
fn event_id(execution: &str, cursor: Option<&Position>, is_end: bool) -> String {
    let position = cursor.map(|position| (position.time, position.insert_id.to_string()));
    let id: EventId = (position, is_end);
    page_token::encode(&list(execution), &id)
}

/// Parses an id that [`event_id`] made for the same execution.
fn parse_id(execution: &str, id: &str) -> Option<LastEvent> {
    let (position, is_end): EventId = page_token::decode(&list(execution), id)?;
    if is_end {
        return Some(LastEvent::End);
    }
    let Some((time, insert_id)) = position else {
        return Some(LastEvent::Other(None));
    };
    // An id can be forged, and watchers share a cursor. Google would refuse a time before the year 1.
    if time < Timestamp::UNIX_EPOCH {
        return None;
    }
    Some(LastEvent::Other(Some(Position {
        // A job can print any time.
        time: time.min(Timestamp::now()),
        insert_id: insert_id.into(),
    })))
}

fn list(execution: &str) -> String {
    format!("events/{execution}")
}

/// The last event of the client's earlier stream of this execution. An empty id means none, as in a browser.
fn last_event(headers: &HeaderMap, query: &Query, name: &str) -> Result<LastEvent, Problem> {
    let refused = || {
        let detail = "Last-Event-ID must be the id of an event of this execution.";
        Problem::new(Kind::MalformedRequest, detail)
    };
    let mut in_header = headers.get_all(LAST_EVENT_ID).iter();
    let id = match (in_header.next(), in_header.next()) {
        (None, _) => query.last_event_id.as_deref(),
        (Some(id), None) => Some(id.to_str().map_err(|_| refused())?),
        (Some(_), Some(_)) => return Err(refused()),
    };
    match id {
        None | Some("") => Ok(LastEvent::Other(None)),
        Some(id) => parse_id(name, id).ok_or_else(refused),
    }
}

struct Stream {
    app: Arc<App>,
    watcher: Watcher,
    /// When the caller's token expires. The stream ends then, and the client reconnects with a new token.
    expires_at: Option<Instant>,
    began: bool,
}

impl Stream {
    /// The next bytes, and the rest of the stream.
    async fn next(mut self) -> Option<(Bytes, Option<Self>)> {
        let update = tokio::select! {
            biased;
            () = expires(self.expires_at) => return Some((COME_BACK, None)),
            () = self.app.drains() => return Some((COME_BACK, None)),
            update = timeout(HEARTBEAT, self.watcher.next()) => update,
        };
        let (bytes, goes_on) = match update {
            Ok(Some(Update::Event(event))) => (event, true),
            Ok(Some(Update::End(event))) => (event, false),
            Ok(Some(Update::LinesLost) | None) => (COME_BACK, false),
            Err(_) => (HEARTBEAT_COMMENT, true),
        };
        let bytes = if self.began {
            bytes
        } else {
            self.began = true;
            [RETRY.as_bytes(), &bytes].concat().into()
        };
        Some((bytes, goes_on.then_some(self)))
    }
}

async fn expires(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: Timestamp, insert_id: &str) -> Position {
        let insert_id = insert_id.into();
        Position { time, insert_id }
    }

    fn position(execution: &str, id: &str) -> LogCursor {
        match parse_id(execution, id)? {
            LastEvent::Other(cursor) => cursor,
            LastEvent::End => None,
        }
    }

    #[test]
    fn an_id_is_parsed_to_its_position_and_only_for_its_execution() {
        let time = Timestamp::from_millisecond(1_767_225_600_123).unwrap();
        let made_of = at(time, "6954\u{e9}\n");
        let id = event_id("job-1", Some(&made_of), false);
        assert!(id.bytes().all(|c| c.is_ascii_hexdigit()));
        assert_eq!(position("job-1", &id), Some(made_of));
        assert!(parse_id("job-2", &id).is_none());
        let end = event_id("job-1", None, true);
        assert!(matches!(parse_id("job-1", &end), Some(LastEvent::End)));
    }

    #[test]
    fn a_position_in_the_future_becomes_now_and_one_before_1970_is_refused() {
        let now = Timestamp::now();
        let time = now + jiff::SignedDuration::from_hours(1);
        let position = position("e", &event_id("e", Some(&at(time, "x")), false)).unwrap();
        assert!(position.time >= now && position.time < time);
        let past: Timestamp = "-009999-06-01T00:00:00Z".parse().unwrap();
        assert!(parse_id("e", &event_id("e", Some(&at(past, "x")), false)).is_none());
    }

    #[test]
    fn each_line_of_a_comment_is_written_as_a_comment_before_the_event() {
        let event = Event {
            kind: EventKind::End,
            execution: "e",
            cursor: None,
            comment: Some("lines may be missing\nthey are elsewhere"),
            data: "{}",
        };
        let text = String::from_utf8(render(&event).to_vec()).unwrap();
        let begins = ": lines may be missing\n: they are elsewhere\n\nid: ";
        assert!(text.starts_with(begins), "{text}");
    }
}
