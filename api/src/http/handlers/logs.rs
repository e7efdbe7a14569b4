//! `GET /scopes/{scope}/executions/{name}/logs`: the lines that the tasks printed, oldest first.

use std::cmp::Reverse;
use std::io::{self, Write};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE, LINK};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::App;
use crate::gcp::cloud_logging::{self, Line, Only, PageSize};
use crate::gcp::log_budget::Priority;
use crate::http::authorize::{Authorized, Read};
use crate::http::extract::{ExecutionName, Fields};
use crate::http::held_body::BodyWriter;
use crate::http::page_token;
use crate::http::problem::{Kind, Problem};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// The page to read: the nextPage of an earlier answer.
    page: Option<String>,
}

/// Lines of an execution's tasks, oldest first.
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lines {
    /// The lines, oldest first.
    lines: Vec<Line>,
    /// The value of `page` for the next page. Absent if there are no more lines yet.
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
    let (token, size) = match query.page {
        None => (None, PageSize::default()),
        Some(page) => page_token::decode(&list, &page).ok_or_else(page_token::refused)?,
    };
    let execution = app.execution(&granted, &name).await?;
    let token: Option<String> = token;
    let query = cloud_logging::Query {
        execution: &execution.name,
        only: Only::All,
        since: None,
        page_token: token.as_deref(),
        size,
        caller: granted.caller_id,
        priority: Priority::Interactive,
    };
    let page = app.cloud_logging.lines(&query).await;
    let page = page.map_err(|error| match error {
        cloud_logging::Error::Google(error) if page_token::is_refused(token.as_deref(), &error) => {
            page_token::refused().because(error)
        }
        error => error.into(),
    })?;
    let next_page = page
        .next
        .map(|token| page_token::encode(&list, &(Some(token), page.size)));
    let lines = page.entries.into_iter().map(|entry| entry.line).collect();
    let mut answer = Response::default();
    let (body, content_type) = if wants_text(&headers) {
        if let Some(next) = next_page {
            let link = format!("<{}?page={next}>; rel=\"next\"", execution.links.logs);
            let link = HeaderValue::try_from(link);
            link.map(|link| answer.headers_mut().insert(LINK, link))
                .map_err(|error| Problem::from(Kind::Internal).because(error))?;
        }
        (text(lines), "text/plain; charset=utf-8")
    } else {
        (json(&Lines { lines, next_page }), "application/json")
    };
    let body = body.map_err(|error| Problem::from(Kind::Internal).because(error))?;
    let content_type = HeaderValue::from_static(content_type);
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    *answer.body_mut() = Body::new(body.into_body(page.held));
    Ok(answer)
}

/// Whether the client prefers plain text to JSON: by a larger `q`, by its name rather than by a range, or by naming it first.
fn wants_text(headers: &HeaderMap) -> bool {
    let fields = headers.get_all(ACCEPT).into_iter();
    let accept = fields.flat_map(|field| field.to_str().unwrap_or_default().split(','));
    let accepted: Vec<_> = accept.map(kind_and_weight).collect();
    // The most specific range that covers a kind says how much it is liked.
    let liked = |names: [&str; 3]| {
        let place = |name| accepted.iter().position(|(kind, _)| kind == name);
        let specificity_and_place = [2, 1, 0].into_iter().zip(names.map(place));
        let mut covering = specificity_and_place.filter_map(|(specificity, place)| {
            let place = place?;
            Some((accepted[place].1, specificity, Reverse(place)))
        });
        covering.next()
    };
    let text = liked(["text/plain", "text/*", "*/*"]).filter(|(weight, ..)| *weight > 0.0);
    let json = liked(["application/json", "application/*", "*/*"]);
    text.is_some_and(|text| json.is_none_or(|json| text > json))
}

fn kind_and_weight(range: &str) -> (String, f32) {
    let mut parts = range.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
    let weight = parts.find_map(|part| {
        let (name, weight) = part.split_once('=')?;
        name.eq_ignore_ascii_case("q")
            .then_some(weight)?
            .parse()
            .ok()
    });
    (kind, weight.unwrap_or(1.0))
}

fn json(lines: &Lines) -> io::Result<BodyWriter> {
    let mut body = BodyWriter::default();
    serde_json::to_writer(&mut body, lines)?;
    body.write_all(b"\n")?;
    Ok(body)
}

/// The lines as text. The next page is named in the `Link` header, since the body has only the job's lines.
fn text(lines: Vec<Line>) -> io::Result<BodyWriter> {
    let mut body = BodyWriter::default();
    for line in lines {
        body.write_all(line.text.as_bytes())?;
        body.write_all(b"\n")?;
    }
    Ok(body)
}
