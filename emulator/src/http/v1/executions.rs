//! Executions in v1: get, list, cancel, delete.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;

use super::execution_json::Shown;
use super::listing::Listing;
use super::{Answer, deleted};
use crate::cloud::Cloud;
use crate::model::executions::Execution;
use crate::refusal::Refusal;

pub(crate) async fn get(
    State(cloud): State<Arc<Cloud>>,
    Path((_, name)): Path<(String, String)>,
) -> Answer {
    let state = cloud.state();
    let execution = state.executions.find(&cloud.site, &name)?;
    Ok(Json(shown(&cloud, execution).json()))
}

pub(crate) async fn list(
    State(cloud): State<Arc<Cloud>>,
    Query(listing): Query<Listing>,
) -> Result<Response, Refusal> {
    let (selector, after, now) = (listing.selector()?, listing.after()?, Instant::now());
    let state = cloud.state();
    let listed = state
        .executions
        .newest_first(after)
        .filter(|(_, execution)| execution.listed_from <= now);
    let chosen = listed.filter(|(_, execution)| selector.matches(|key| label(execution, key)));
    let items = chosen.map(|(position, execution)| (position, shown(&cloud, execution).text()));
    Ok(Json(listing.page("ExecutionsList", items)).into_response())
}

/// `POST executions/{execution}:cancel` is the only verb there is.
pub(crate) async fn verb(
    State(cloud): State<Arc<Cloud>>,
    Path((_, execution_and_verb)): Path<(String, String)>,
) -> Answer {
    let Some((name, "cancel")) = execution_and_verb.rsplit_once(':') else {
        return Err(Refusal::not_found("Method not found."));
    };
    let state = cloud.state();
    let execution = state.executions.find(&cloud.site, name)?;
    if execution.completed.is_some() {
        return Err(Refusal::precondition(format!(
            "Execution '{name}' cannot be cancelled because it is not running."
        )));
    }
    execution.cancelled.send_replace(true);
    Ok(Json(shown(&cloud, execution).json()))
}

/// Deletes an execution; one that still runs is cancelled.
pub(crate) async fn delete(
    State(cloud): State<Arc<Cloud>>,
    Path((_, name)): Path<(String, String)>,
) -> Answer {
    let mut state = cloud.state();
    state.executions.find(&cloud.site, &name)?;
    state.executions.remove(&name);
    Ok(deleted())
}

fn shown<'a>(cloud: &'a Cloud, execution: &'a Execution) -> Shown<'a> {
    let site = &cloud.site;
    Shown { site, execution }
}

fn label<'a>(execution: &'a Execution, key: &str) -> Option<&'a str> {
    match key {
        // Not a label that is shown, but one that gcloud selects by before it deletes a job.
        "run.googleapis.com/servingState" => Some(if execution.completed.is_some() {
            "Inactive"
        } else {
            "Active"
        }),
        _ => execution.labels.get(key).map(String::as_str),
    }
}
