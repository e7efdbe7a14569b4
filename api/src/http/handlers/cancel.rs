//! `POST /scopes/{scope}/executions/{name}/cancel`: cancels an execution.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use crate::App;
use crate::execution::Execution;
use crate::http::authorize::{Authorized, Cancel};
use crate::http::extract::{ExecutionName, Fields, NoFields};
use crate::http::problem::{Kind, Problem};
use crate::http::request_log::execution_response;

/// Answers 202 with the execution that is being cancelled, or 200 with one that had ended already.
pub async fn cancel(
    State(app): State<Arc<App>>,
    granted: Authorized<Cancel>,
    ExecutionName(name): ExecutionName,
    _: Fields<NoFields>,
) -> Result<Response, Problem> {
    let execution = app.execution(&granted, &name).await?;
    let (status, execution) = if execution.state.is_finished() {
        (StatusCode::OK, execution)
    } else {
        match app.cloud_run.cancel(&name).await? {
            Some(cancelled) => (StatusCode::ACCEPTED, cancelled),
            None => (
                StatusCode::OK,
                ended(app.execution(&granted, &name).await?)?,
            ),
        }
    };
    Ok(execution_response(status, execution.into()))
}

/// The answer for an execution that Cloud Run did not cancel, because it had just ended.
fn ended(execution: Execution) -> Result<Execution, Problem> {
    if execution.state.is_finished() {
        Ok(execution)
    } else {
        Err(Problem::from(Kind::UpstreamRejected)
            .because("Cloud Run refused to cancel an unfinished execution"))
    }
}
