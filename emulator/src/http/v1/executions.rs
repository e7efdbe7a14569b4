//! Executions in v1: get, list, cancel, delete.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;

use super::deleted;
use super::execution_json::{execution_json, execution_text};
use super::listing::{Listing, Page};
use crate::cloud::Cloud;
use crate::http::error::Answer;
use crate::http::extract::Parameters;
use crate::model::executions::Execution;
use crate::refusal::Refusal;

pub(crate) async fn get(
    State(cloud): State<Arc<Cloud>>,
    Path((_, name)): Path<(String, String)>,
) -> Answer {
    let state = cloud.state();
    let execution = state.executions.find(&cloud.site, &name)?;
    Ok(Json(execution_json(&cloud.site, execution)))
}

pub(crate) async fn list(
    State(cloud): State<Arc<Cloud>>,
    Parameters(listing): Parameters<Listing>,
) -> Result<Response, Refusal> {
    let (selector, wanted, now) = (listing.selector()?, listing.page()?, Instant::now());
    let state = cloud.state();
    let listed = state
        .executions
        .newest_first(wanted.older_than())
        .filter(|(_, execution)| execution.listed_from <= now);
    let chosen = listed.filter(|(_, execution)| selector.matches(|key| label(execution, key)));
    let items =
        chosen.map(|(position, execution)| ((position, 0), execution_text(&cloud.site, execution)));
    Ok(Json(Page::new("ExecutionsList", wanted.cut(items))).into_response())
}

/// `POST executions/{execution}:cancel`, the only verb of executions.
pub(crate) async fn verb(
    State(cloud): State<Arc<Cloud>>,
    Path((_, execution_and_verb)): Path<(String, String)>,
) -> Answer {
    let Some((name, "cancel")) = execution_and_verb.rsplit_once(':') else {
        return Err(Refusal::not_found("Method not found."));
    };
    let state = cloud.state();
    let execution = state.executions.find(&cloud.site, name)?;
    execution.cancel()?;
    Ok(Json(execution_json(&cloud.site, execution)))
}

/// Deletes an execution, and cancels it if it still runs.
pub(crate) async fn delete(
    State(cloud): State<Arc<Cloud>>,
    Path((_, name)): Path<(String, String)>,
) -> Answer {
    let mut state = cloud.state();
    state.executions.find(&cloud.site, &name)?;
    state.executions.delete(&name);
    Ok(deleted())
}

fn label<'a>(execution: &'a Execution, key: &str) -> Option<&'a str> {
    match key {
        // gcloud selects by this label before it deletes a job, although executions do not show it.
        "run.googleapis.com/servingState" => Some(if execution.completed.is_some() {
            "Inactive"
        } else {
            "Active"
        }),
        _ => execution.labels.get(key).map(String::as_str),
    }
}
