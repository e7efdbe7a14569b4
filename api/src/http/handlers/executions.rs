//! `GET /scopes/{scope}/executions` and `GET /scopes/{scope}/executions/{name}`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::App;
use crate::caller_id::CallerId;
use crate::execution::{self, Execution};
use crate::http::authorize::{Authorized, Read};
use crate::http::extract::{ExecutionName, Fields};
use crate::http::json::json;
use crate::http::page_token::{self, Page};
use crate::http::problem::{Kind, Problem};
use crate::http::request_log::execution_response;
use crate::scope::{ProcessName, Scope};

/// Executions per answer by default, and the most that may be asked for.
const DEFAULT_LIMIT: usize = 20;
const MAX_LIMIT: usize = 100;
/// Executions of the job on the first page that is read, and on later pages. They are of all scopes: a scope with recent
/// executions needs one small page, and a scope without any needs a few pages.
const FIRST_PAGE: usize = 100;
const NEXT_PAGES: usize = 500;
/// The most pages of the job's executions that are read for one answer. After that the answer has a `nextPage`, even if it is
/// not full.
const MAX_PAGES: usize = 10;
/// The longest time for which an answer is held back. Proxies commonly time out a little later.
pub const MAX_WAIT_SECONDS: u64 = 60;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// The most executions in the answer.
    #[schemars(range(min = 1, max = MAX_LIMIT), extend("default" = DEFAULT_LIMIT))]
    limit: Option<usize>,
    /// The page to read: the nextPage of an earlier answer.
    page: Option<String>,
    /// Only the executions of this process. An empty name means the unnamed process.
    process: Option<String>,
    /// Only the executions in this state.
    state: Option<execution::State>,
}

impl Query {
    fn wants(&self, execution: &Execution) -> bool {
        let process = execution.process.as_ref().map_or("", ProcessName::as_str);
        self.process.as_ref().is_none_or(|wanted| wanted == process)
            && self.state.is_none_or(|wanted| wanted == execution.state)
    }
}

/// Executions of a scope, newest first.
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Executions {
    /// The executions, newest first.
    executions: Vec<Execution>,
    /// The value of `page` for the next page. Absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page: Option<String>,
}

pub async fn list(
    State(app): State<Arc<App>>,
    granted: Authorized<Read>,
    Fields(query): Fields<Query>,
) -> Result<Response, Problem> {
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Problem::new(
            Kind::MalformedRequest,
            format!("limit must be 1 to {MAX_LIMIT}."),
        ));
    }
    if let Some(process) = query.process.as_deref().filter(|name| !name.is_empty()) {
        app.processes.named(process).ok_or(Kind::ProcessNotFound)?;
    }
    let list = format!("executions/{}", granted.scope);
    let page = query
        .page
        .as_ref()
        .map_or_else(|| Ok(Page::default()), |page| Page::decode(&list, page))?;
    let wanted = |execution: &Execution| granted.covers(execution) && query.wants(execution);
    let (mut executions, next) = collect(&app, wanted, page, limit).await?;
    for execution in &mut executions {
        execution.progress = app.watches.progress(&execution.name);
    }
    let executions = Executions {
        executions,
        next_page: next.map(|page| page.encode(&list)),
    };
    Ok(json(StatusCode::OK, &executions))
}

/// Up to `limit` matching executions from `page` on, and the next page.
async fn collect(
    app: &App,
    wanted: impl Fn(&Execution) -> bool,
    mut page: Page,
    limit: usize,
) -> Result<(Vec<Execution>, Option<Page>), Problem> {
    let (mut found, mut size) = (Vec::new(), FIRST_PAGE);
    for _ in 0..MAX_PAGES {
        let token = page.token.as_deref();
        let upstream = app.cloud_run.list(token, size).await;
        let upstream = upstream.map_err(|error| {
            if page_token::is_refused(token, &error) {
                page_token::refused().because(error)
            } else {
                error.into()
            }
        })?;
        app.starts.observe(&upstream.executions).await;
        size = NEXT_PAGES;
        let mut matching = upstream
            .executions
            .into_iter()
            .filter(|execution| wanted(execution) && is_after(&page, execution));
        found.extend(matching.by_ref().take(limit - found.len()));
        if matching.next().is_some() {
            page.after = found.last().map(position);
            return Ok((found, Some(page)));
        }
        match upstream.next {
            None => return Ok((found, None)),
            Some(token) => {
                page = Page {
                    token: Some(token),
                    after: page.after,
                }
            }
        }
        if found.len() == limit {
            break;
        }
    }
    Ok((found, Some(page)))
}

/// Creation time and name: the list is sorted by them, newest first.
fn position(execution: &Execution) -> (Timestamp, String) {
    (
        execution.created_at.unwrap_or_default(),
        execution.name.clone(),
    )
}

/// Whether the execution comes after those that earlier pages returned. New ones may have been added before them meanwhile.
fn is_after(page: &Page, execution: &Execution) -> bool {
    page.after
        .as_ref()
        .is_none_or(|last| position(execution) < *last)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wait {
    /// Seconds to hold the answer back until the execution has finished. If absent, the answer comes at once.
    #[schemars(range(min = 1, max = MAX_WAIT_SECONDS))]
    wait: Option<u64>,
}

/// How long to hold the answer back, if at all.
pub fn check_wait(seconds: Option<u64>) -> Result<Option<Duration>, Problem> {
    match seconds {
        Some(seconds) if !(1..=MAX_WAIT_SECONDS).contains(&seconds) => Err(Problem::new(
            Kind::MalformedRequest,
            format!("wait must be 1 to {MAX_WAIT_SECONDS} seconds."),
        )),
        seconds => Ok(seconds.map(Duration::from_secs)),
    }
}

/// The execution once it has finished, or as it is when the time is over. None if Cloud Run has not answered by then, or if the
/// caller may not see it (`covers`).
pub async fn finished_within(
    time: Duration,
    app: &App,
    scope: &Scope,
    name: &str,
    caller: CallerId,
    covers: impl Fn(&Execution) -> bool,
) -> Result<Option<Arc<Execution>>, Problem> {
    let mut watcher = None;
    let finished = async {
        let watching = app.watches.watch(scope, name, None, caller).await?;
        if covers(&*watching.execution()?) {
            watcher.insert(watching).finished().await;
        }
        Ok::<_, Problem>(())
    };
    tokio::select! {
        finished = finished => finished?,
        () = sleep(time) => {}
        () = app.drains() => {}
    }
    let execution = watcher.map(|watcher| watcher.execution()).transpose();
    Ok(execution?)
}

pub async fn show(
    State(app): State<Arc<App>>,
    granted: Authorized<Read>,
    ExecutionName(name): ExecutionName,
    Fields(Wait { wait }): Fields<Wait>,
) -> Result<Response, Problem> {
    let (scope, caller) = (&granted.scope, granted.caller_id);
    let covers = |execution: &Execution| granted.covers(execution);
    let finished = match check_wait(wait)? {
        Some(time) => finished_within(time, &app, scope, &name, caller, covers).await?,
        None => None,
    };
    let execution = match finished {
        Some(execution) => execution,
        None => {
            let mut execution = app.execution(&granted, &name).await?;
            execution.progress = app.watches.progress(&name);
            execution.into()
        }
    };
    Ok(execution_response(StatusCode::OK, execution))
}
