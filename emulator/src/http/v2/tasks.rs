//! Tasks in v2: get, list.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};

use super::execution_json::task_json;
use super::executions::{find, is_of};
use super::{Listing, page};
use crate::cloud::Cloud;
use crate::http::error::Answer;
use crate::http::extract::Parameters;

pub(crate) async fn get(
    State(cloud): State<Arc<Cloud>>,
    Path((_, _, job, execution, name)): Path<(String, String, String, String, String)>,
) -> Answer {
    let (site, state) = (&cloud.site, cloud.state());
    let missing = || site.missing("TASK", &name);
    let (of, index) = name.rsplit_once("-task").ok_or_else(missing)?;
    if execution != "-" && execution != of {
        return Err(missing());
    }
    let execution = find(site, &state, &job, of).map_err(|_| missing())?;
    let index = index.parse().ok();
    let index = index.filter(|index| *index < execution.tasks.len());
    let index = index.ok_or_else(missing)?;
    Ok(Json(task_json(site, execution, index)))
}

/// Lists the tasks of an execution. `-` stands for all executions or all jobs.
pub(crate) async fn list(
    State(cloud): State<Arc<Cloud>>,
    Path((_, _, job, name)): Path<(String, String, String, String)>,
    Parameters(listing): Parameters<Listing>,
) -> Answer {
    let wanted = listing.page()?;
    let state = cloud.state();
    let tasks = state.executions.tasks_after(wanted.after);
    let chosen = tasks.filter(|(_, execution, _)| {
        is_of(execution, &job) && (name == "-" || execution.name == name)
    });
    let items = chosen.map(|(place, execution, index)| {
        let shown = task_json(&cloud.site, execution, index);
        (place, shown)
    });
    Ok(Json(page("tasks", wanted.cut(items))))
}
