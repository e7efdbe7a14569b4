//! `GET /scopes/{scope}/executions/{name}/logs`: what the tasks printed, oldest first.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::StatusCode;
use axum::http::header::{ACCEPT, LINK};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::App;
use crate::gcp::cloud_logging::{self, Line};
use crate::gcp::log_budget::Priority;
use crate::http::authorize::{Authorized, Read};
use crate::http::extract::{ExecutionName, Fields};
use crate::http::json::json;
use crate::http::page_token::Page;
use crate::http::problem::Problem;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// Where to go on: the nextPage of an earlier answer.
    page: Option<String>,
}

/// Lines of an execution's tasks, oldest first.
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lines {
    /// The oldest of them first.
    lines: Vec<Line>,
    /// What to ask for as page to go on; absent at the end of what there is so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page: Option<String>,
}

pub async fn read(
    State(app): State<Arc<App>>,
    granted: Authorized<Read>,
    ExecutionName(name): ExecutionName,
    Fields(query): Fields<Query>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let list = format!("logs/{}/{name}", granted.scope);
    let page = query
        .page
        .map_or_else(|| Ok(Page::default()), |page| Page::decode(&list, &page))?;
    let execution = app.execution(&granted.scope, &name).await?;
    let query = cloud_logging::Query {
        execution: &execution.name,
        since: None,
        page_token: page.token.as_deref(),
        priority: Priority::Interactive,
    };
    let answer = app.cloud_logging.lines(&query).await?;
    let lines: Vec<_> = answer.entries.into_iter().map(|entry| entry.line).collect();
    let next_page = answer.next.map(|token| {
        Page {
            token: Some(token),
            after: None,
        }
        .encode(&list)
    });
    if wants_text(&headers) {
        return Ok(text(
            &format!("{}/logs", execution.links.self_path),
            &lines,
            next_page,
        ));
    }
    Ok(json(StatusCode::OK, &Lines { lines, next_page }))
}

/// Whether plain text is asked for before JSON.
fn wants_text(headers: &HeaderMap) -> bool {
    let accept = headers
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let kinds = accept
        .split(',')
        .map(|kind| kind.split(';').next().unwrap_or_default().trim());
    kinds
        .into_iter()
        .find(|kind| matches!(*kind, "text/plain" | "application/json"))
        == Some("text/plain")
}

/// One line each; where to go on is in the `Link` header, since the text is the job's alone.
fn text(path: &str, lines: &[Line], next_page: Option<String>) -> Response {
    let mut body = String::new();
    for line in lines {
        body.push_str(&line.text);
        body.push('\n');
    }
    let next = next_page.map(|page| [(LINK, format!("<{path}?page={page}>; rel=\"next\""))]);
    (next, body).into_response()
}
