//! Executions in v2: get, list, cancel, delete.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use super::execution_json::execution_json;
use super::operations::{any, deleted, finished, only_validated, operation_json};
use super::{Change, Listing, page};
use crate::cloud::{self, Cloud};
use crate::http::error::Answer;
use crate::http::extract::{Parameters, or_default, parsed};
use crate::model::executions::Execution;
use crate::model::operations::Subject;
use crate::refusal::Refusal;
use crate::site::Site;

type Parts = Path<(String, String, String, String)>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct CancelRequest {
    #[serde(rename = "name")]
    _name: Option<Value>,
    #[serde(rename = "etag")]
    _etag: Option<Value>,
    #[serde(default, alias = "validate_only", deserialize_with = "or_default")]
    validate_only: bool,
}

/// Finds an execution of the job by its name. The job `-` stands for any job.
pub(crate) fn find<'a>(
    site: &Site,
    state: &'a cloud::State,
    job: &str,
    name: &str,
) -> Result<&'a Execution, Refusal> {
    let execution = state.executions.find(site, name)?;
    if is_of(execution, job) {
        return Ok(execution);
    }
    Err(site.missing("EXECUTION", name))
}

pub(crate) fn is_of(execution: &Execution, job: &str) -> bool {
    job == "-" || execution.job == job
}

pub(crate) async fn get(State(cloud): State<Arc<Cloud>>, Path((_, _, job, name)): Parts) -> Answer {
    let state = cloud.state();
    let execution = find(&cloud.site, &state, &job, &name)?;
    Ok(Json(execution_json(&cloud.site, execution)))
}

/// Lists the executions of a job. The job `-` stands for all jobs.
pub(crate) async fn list(
    State(cloud): State<Arc<Cloud>>,
    Path((_, _, job)): Path<(String, String, String)>,
    Parameters(listing): Parameters<Listing>,
) -> Answer {
    let (wanted, now) = (listing.page()?, Instant::now());
    let state = cloud.state();
    let executions = state.executions.newest_first(wanted.older_than());
    let listed =
        executions.filter(|(_, execution)| execution.listed_from <= now && is_of(execution, &job));
    let items = listed.map(|(position, execution)| {
        let shown = execution_json(&cloud.site, execution);
        ((position, 0), shown)
    });
    Ok(Json(page("executions", wanted.cut(items))))
}

/// `POST executions/{execution}:cancel`, the only verb of executions.
pub(crate) async fn verb(
    State(cloud): State<Arc<Cloud>>,
    Path((_, _, job, execution_and_verb)): Parts,
    body: Bytes,
) -> Answer {
    let Some((name, "cancel")) = execution_and_verb.rsplit_once(':') else {
        return Err(Refusal::not_found("Method not found."));
    };
    let request: CancelRequest = parsed(&body)?;
    let site = &cloud.site;
    let mut state = cloud.state();
    let execution = find(site, &state, &job, name)?;
    if request.validate_only {
        execution.check_running()?;
        let shown = any("Execution", execution_json(site, execution));
        return Ok(Json(only_validated(site, shown)));
    }
    execution.cancel()?;
    let subject = Subject::Execution(name.to_owned());
    let id = state.operations.add_new(subject.clone());
    let operation = operation_json(site, &state, &id, &subject);
    Ok(Json(operation.unwrap_or_default()))
}

/// Deletes an execution, and cancels it if it still runs.
pub(crate) async fn delete(
    State(cloud): State<Arc<Cloud>>,
    Path((_, _, job, name)): Parts,
    Parameters(change): Parameters<Change>,
) -> Answer {
    let site = &cloud.site;
    let mut state = cloud.state();
    let execution = find(site, &state, &job, &name)?;
    if change.validate_only {
        let shown = any("Execution", execution_json(site, execution));
        return Ok(Json(only_validated(site, shown)));
    }
    let left = state.executions.delete(&name);
    let left = left.ok_or_else(|| site.missing("EXECUTION", &name))?;
    let shown = deleted(any("Execution", execution_json(site, left)));
    Ok(Json(finished(site, &mut state, shown)))
}
