//! `GET /scopes/{scope}/executions/{name}/result`: the results that the job reported.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use schemars::JsonSchema;
use serde::Serialize;

use crate::App;
use crate::gcp::cloud_logging::{Only, PageSize, Query};
use crate::gcp::log_budget::Priority;
use crate::http::authorize::{Authorized, Read};
use crate::http::extract::{ExecutionName, Fields, NoFields};
use crate::http::json::json;
use crate::http::problem::{Kind, Problem};
use crate::watch::reports::{Reports, TaskResult};

/// The most pages of reports that are read. The newest come first; most jobs report once, and a page has a thousand lines.
const MAX_PAGES: usize = 3;

/// The results that the job reported.
#[derive(JsonSchema, Serialize)]
pub struct Results {
    /// The last result of each task that reported one, by task.
    results: Vec<TaskResult>,
}

pub async fn read(
    State(app): State<Arc<App>>,
    granted: Authorized<Read>,
    ExecutionName(name): ExecutionName,
    _: Fields<NoFields>,
) -> Result<Response, Problem> {
    let execution = app.execution(&granted, &name).await?;
    let (mut reports, mut token, mut size) = (Reports::default(), None, PageSize::default());
    for _ in 0..MAX_PAGES {
        let query = Query {
            execution: &execution.name,
            only: Only::Results,
            since: None,
            page_token: token.as_deref(),
            size,
            caller: granted.caller_id,
            priority: Priority::Interactive,
        };
        let page = app.cloud_logging.lines(&query).await?;
        for entry in page.entries {
            if let Some(report) = entry.report {
                reports.add(&execution.name, &entry.position, report);
            }
        }
        (token, size) = (page.next, page.size);
        if token.is_none() {
            break;
        }
    }
    let results = reports.results();
    if results.is_empty() {
        return Err(Kind::ResultNotFound.into());
    }
    Ok(json(StatusCode::OK, &Results { results }))
}
