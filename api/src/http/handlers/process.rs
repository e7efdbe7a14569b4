//! `POST /scopes/{scope}/process` and `…/process/{process}`: start one execution of the process's job for the scope.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::App;
use crate::config::{OnRunning, Operation};
use crate::execution::Execution;
use crate::gcp::client;
use crate::http::authorize::{self, Authorized};
use crate::http::extract::{Fields, ProcessInPath, json_body};
use crate::http::handlers::executions::{self, MAX_WAIT_SECONDS};
use crate::http::problem::{Kind, Problem};
use crate::http::request_log::{LoggedCaller, Trace, execution_response};
use crate::http::start_key::{StartKey, start_key};
use crate::overrides::Inputs;
use crate::process::Process;
use crate::starts::{InvocationId, KeyOwner, Start, Started};

const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// What to do if the scope has an unfinished execution. If absent, the operator's setting applies.
    on_running: Option<OnRunning>,
    /// Seconds to hold the answer back until the execution has finished. If absent, the answer comes as soon as the execution is
    /// accepted. A request may be repeated with the same Idempotency-Key and another value here.
    #[schemars(range(min = 1, max = MAX_WAIT_SECONDS))]
    wait: Option<u64>,
}

/// Starts the unnamed process.
pub async fn start(
    State(app): State<Arc<App>>,
    granted: Authorized<authorize::Start>,
    fields: Fields<Query>,
    request: Request,
) -> Response {
    let process = Arc::clone(app.processes.unnamed());
    logged(app, granted, process, fields, request).await
}

/// Starts the process that the path names.
pub async fn start_named(
    State(app): State<Arc<App>>,
    granted: Authorized<authorize::Start>,
    ProcessInPath(name): ProcessInPath,
    fields: Fields<Query>,
    request: Request,
) -> Result<Response, Problem> {
    let process = app.processes.named(&name).map(Arc::clone);
    let process = process.ok_or(Kind::ProcessNotFound)?;
    Ok(logged(app, granted, process, fields, request).await)
}

/// The answer to a start, with the caller for its log line.
async fn logged(
    app: Arc<App>,
    granted: Authorized<authorize::Start>,
    process: Arc<Process>,
    fields: Fields<Query>,
    request: Request,
) -> Response {
    let mut response = start_process(&app, &granted, process, fields, request)
        .await
        .into_response();
    if let Some(subject) = granted.caller.subject {
        response.extensions_mut().insert(LoggedCaller(subject));
    }
    response
}

async fn start_process(
    app: &App,
    granted: &Authorized<authorize::Start>,
    process: Arc<Process>,
    Fields(query): Fields<Query>,
    request: Request,
) -> Result<Response, Problem> {
    let name = process.name.as_ref();
    granted.require_process(name)?;
    if let Some(operation) = query.on_running.and_then(needed_besides) {
        granted.require(operation, name)?;
    }
    let wait = executions::check_wait(query.wait)?;
    let key = start_key(request.headers(), &granted.caller, app.google_keys)?;
    let trace = request.extensions().get::<Trace>().cloned();
    let supplied = process.parameters.check(&json_body(request).await?)?;
    let id = match key {
        Some(StartKey { key, owner }) => {
            let place = app.location.get().await.map_err(client::Error::from)?;
            let owner = KeyOwner {
                project: &place.project,
                region: &place.region,
                job: process.target.job(),
                process: name,
                caller: &owner,
                scope: &granted.scope,
            };
            // The fingerprint has the values that were sent, without defaults, since defaults may change between releases.
            let on_running = query.on_running.map_or("", OnRunning::as_str);
            let request = format!("{on_running} {}", supplied.to_json());
            InvocationId::keyed(owner, &key, &request)
        }
        None => InvocationId::random(),
    };
    let inputs = Inputs {
        scope: &granted.scope,
        process: name,
        caller: granted.caller.subject.as_deref(),
        supplied: &supplied,
        invocation_id: id.to_string(),
        trace: trace.as_ref().map(|Trace(id)| &id[..]),
    };
    let overrides = process.templates.render(&process.parameters, inputs)?;
    app.limits.start(&granted.scope)?;
    let on_running = query.on_running.unwrap_or(process.on_running);
    let mut started = app
        .starts
        .start(Start {
            scope: granted.scope.clone(),
            process,
            id,
            overrides,
            on_running,
            begun_at: Timestamp::now(),
        })
        .await
        .map_err(|error| Problem::from(error).of_invocation(id.to_string()))?;
    app.watches.record_start(&started.execution.name);
    if let Some(time) = wait {
        let Execution { scope, name, .. } = &*started.execution;
        // Boxed, since few starts wait: it would enlarge the future of every start.
        let finished =
            executions::finished_within(time, app, scope, name, granted.caller_id, |_| true);
        let finished = Box::pin(finished).await;
        // The execution has been started, so the answer is a success even if waiting fails.
        if let Ok(Some(execution)) = finished {
            started.execution = execution;
        }
    }
    Ok(answer(started))
}

/// The operation that a caller needs, besides `start`, to choose this mode in the query. The operator's setting needs no other.
fn needed_besides(on_running: OnRunning) -> Option<Operation> {
    match on_running {
        OnRunning::Allow | OnRunning::Reject => None,
        OnRunning::Join => Some(Operation::Read),
        OnRunning::Replace => Some(Operation::Cancel),
    }
}

fn answer(started: Started) -> Response {
    let status = if started.joined {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    let location = HeaderValue::try_from(&started.execution.links.self_path);
    let mut response = execution_response(status, started.execution);
    if let Ok(location) = location {
        response.headers_mut().insert(LOCATION, location);
    }
    if started.replayed {
        let replayed = HeaderValue::from_static("true");
        response.headers_mut().insert(IDEMPOTENT_REPLAYED, replayed);
    }
    response
}
