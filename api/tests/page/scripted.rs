//! A server with scripted answers: a page with the element, and an API that misbehaves as the test defines.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::web;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use futures_util::{Stream, StreamExt, stream};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// The pause between the pieces of a stream, long enough for the browser to read them one by one.
const PIECE: Duration = Duration::from_millis(60);

/// The answer to one request.
pub enum Answer {
    /// Status, content type, body.
    Plain(u16, &'static str, String),
    /// A 200 whose body comes piece by piece and then ends.
    Stream(Vec<String>),
    /// The same, but it never ends, like a connection that is lost after these pieces.
    Silent(Vec<String>),
    /// Another answer with a header: its name and value.
    With(&'static str, String, Box<Answer>),
}

/// A request that was received.
#[derive(Debug, Clone)]
pub struct Seen {
    pub path: String,
    pub key: Option<String>,
    pub last_event_id: Option<String>,
    pub authorization: Option<String>,
    pub requested_with: Option<String>,
    pub body: String,
}

pub struct Scene {
    pub url: String,
    state: Arc<Shared>,
}

struct Shared {
    html: Mutex<String>,
    bundle: Mutex<String>,
    starts: Mutex<VecDeque<Answer>>,
    others: Mutex<VecDeque<Answer>>,
    seen: Mutex<Vec<Seen>>,
}

impl Scene {
    /// `html` is the page; `starts` answer the POSTs, `others` the requests that follow, one after another.
    pub async fn play(html: &str, starts: Vec<Answer>, others: Vec<Answer>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let state = Arc::new(Shared {
            html: Mutex::new(html.to_owned()),
            bundle: Mutex::default(),
            starts: Mutex::new(starts.into()),
            others: Mutex::new(others.into()),
            seen: Mutex::default(),
        });
        let file = |kind, text: &'static str| get(async move || ([("content-type", kind)], text));
        let router = Router::new()
            .route(
                "/",
                get(async |State(state): State<Arc<Shared>>| {
                    Html(state.html.lock().unwrap().clone())
                }),
            )
            .route("/favicon.ico", get(async || ""))
            .route("/button.js", file("text/javascript", web::BUTTON_JS))
            .route("/page.js", file("text/javascript", web::PAGE_JS))
            .route("/page.css", file("text/css", web::PAGE_CSS))
            .route(
                "/bundle.js",
                get(async |State(state): State<Arc<Shared>>| {
                    let bundle = state.bundle.lock().unwrap().clone();
                    ([("content-type", "text/javascript")], bundle)
                }),
            )
            .fallback(answer)
            .with_state(Arc::clone(&state));
        tokio::spawn(async { axum::serve(listener, router).await });
        Self { url, state }
    }

    /// Serves another page. Returns its address.
    pub fn show(&self, html: &str) -> String {
        *self.state.html.lock().unwrap() = html.to_owned();
        self.url.clone()
    }

    /// Serves a script as `bundle.js`.
    pub fn serve_bundle(&self, script: &str) {
        script.clone_into(&mut self.state.bundle.lock().unwrap());
    }

    /// The requests so far, without those for files.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }
}

async fn answer(State(state): State<Arc<Shared>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let header = |name: &str| {
        head.headers
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    state.seen.lock().unwrap().push(Seen {
        path: head.uri.to_string(),
        key: header("idempotency-key"),
        last_event_id: header("last-event-id"),
        authorization: header("authorization"),
        requested_with: header("x-requested-with"),
        body: String::from_utf8(body.to_vec()).unwrap(),
    });
    let answers = if head.method == Method::POST {
        &state.starts
    } else {
        &state.others
    };
    let next = answers.lock().unwrap().pop_front();
    next.unwrap_or_else(|| problem(503, "draining", true))
        .into_response()
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        match self {
            Self::Plain(status, kind, body) => {
                let status = StatusCode::from_u16(status).unwrap();
                (status, [("content-type", kind)], body).into_response()
            }
            Self::Stream(pieces) => {
                events(Body::from_stream(paced(pieces).map(Ok::<_, Infallible>)))
            }
            Self::Silent(pieces) => {
                let pieces = paced(pieces).chain(stream::pending());
                events(Body::from_stream(pieces.map(Ok::<_, Infallible>)))
            }
            Self::With(name, value, answer) => {
                let mut response = answer.into_response();
                let value = value.parse().unwrap();
                response.headers_mut().insert(name, value);
                response
            }
        }
    }
}

fn paced(pieces: Vec<String>) -> impl Stream<Item = String> {
    stream::iter(pieces).then(async |piece| {
        tokio::time::sleep(PIECE).await;
        piece
    })
}

fn events(body: Body) -> Response {
    ([("content-type", "text/event-stream")], body).into_response()
}

/// One server-sent event.
pub fn event(id: u32, kind: &str, data: &Value) -> String {
    format!("id: {id}\nevent: {kind}\ndata: {data}\n\n")
}

pub fn problem(status: u16, slug: &str, retryable: bool) -> Answer {
    let body = json!({"type": format!("/problems/{slug}"), "status": status, "detail": format!("This is {slug}."), "retryable": retryable});
    Answer::Plain(status, "application/problem+json", body.to_string())
}

pub fn accepted() -> Answer {
    Answer::Plain(202, "application/json", execution("pending").to_string())
}

pub fn execution(state: &str) -> Value {
    json!({
        "name": "test-job-x7k2p", "scope": "acme", "job": "test-job", "state": state, "createdAt": "2026-01-01T00:00:00Z",
        "tasks": {"total": 2, "running": 1, "succeeded": 1, "failed": 0, "cancelled": 0, "retried": 0},
    })
}
