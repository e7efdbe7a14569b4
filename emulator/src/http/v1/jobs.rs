//! Jobs in v1: create, get, replace, list, delete and run.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::Value;

use super::deleted;
use super::execution_json::execution_json;
use super::job_json::{SentJob, job_json};
use super::listing::{Listing, Page};
use crate::cloud::Cloud;
use crate::http::error::Answer;
use crate::http::extract::{Int, Parameters, SentContainerOverride, or_default, overrides, parsed};
use crate::http::faults::HideFromLists;
use crate::model::executions::Execution;
use crate::model::jobs::Job;
use crate::model::overrides::Overrides;
use crate::refusal::Refusal;
use crate::site::Site;
use crate::starts::{Start, start};

pub(crate) async fn create(
    State(cloud): State<Arc<Cloud>>,
    Path(_): Path<String>,
    body: Bytes,
) -> Answer {
    let sent: SentJob = parsed(&body)?;
    let name = sent.name().to_owned();
    let spec = sent.spec(&cloud.images)?;
    let mut state = cloud.state();
    let job = state.jobs.create(&name, spec)?;
    Ok(Json(job_json(&cloud.site, job, None)))
}

pub(crate) async fn get(
    State(cloud): State<Arc<Cloud>>,
    Path((_, name)): Path<(String, String)>,
) -> Answer {
    let state = cloud.state();
    let job = state.jobs.find(&cloud.site, &name)?;
    Ok(Json(job_json(&cloud.site, job, state.latest_of(job))))
}

pub(crate) async fn replace(
    State(cloud): State<Arc<Cloud>>,
    Path((_, name)): Path<(String, String)>,
    body: Bytes,
) -> Answer {
    let sent: SentJob = parsed(&body)?;
    let mut state = cloud.state();
    let job = state.jobs.find_mut(&cloud.site, &name)?;
    if sent.name() != name {
        return Err(Refusal::invalid(format!(
            "metadata.name is '{}', the URL says '{name}'.",
            sent.name()
        )));
    }
    job.replace(sent.spec(&cloud.images)?);
    let job = state.jobs.find(&cloud.site, &name)?;
    Ok(Json(job_json(&cloud.site, job, state.latest_of(job))))
}

pub(crate) async fn list(
    State(cloud): State<Arc<Cloud>>,
    Parameters(listing): Parameters<Listing>,
) -> Result<Json<Page<Value>>, Refusal> {
    let (selector, wanted) = (listing.selector()?, listing.page()?);
    let site = &cloud.site;
    let state = cloud.state();
    let jobs = state.jobs.newest_first(wanted.older_than());
    let chosen = jobs.filter(|job| selector.matches(|key| label(site, job, key)));
    let items = chosen.map(|job| {
        let shown = job_json(site, job, state.latest_of(job));
        ((job.position, 0), shown)
    });
    Ok(Json(Page::new("JobsList", wanted.cut(items))))
}

fn label<'a>(site: &'a Site, job: &'a Job, key: &str) -> Option<&'a str> {
    match key {
        "cloud.googleapis.com/location" => Some(&site.region),
        _ => job.spec.labels.get(key).map(String::as_str),
    }
}

/// Deletes a job with its executions, and cancels those that still run, as gcloud's prompt announces.
pub(crate) async fn delete(
    State(cloud): State<Arc<Cloud>>,
    Path((_, name)): Path<(String, String)>,
) -> Answer {
    let mut state = cloud.state();
    state.jobs.remove(&cloud.site, &name)?;
    state.executions.delete_job(&name);
    Ok(deleted())
}

/// `POST jobs/{job}:run`, the only verb of jobs at this URL.
pub(crate) async fn verb(
    State(cloud): State<Arc<Cloud>>,
    Path((_, job_and_verb)): Path<(String, String)>,
    hide: Option<Extension<HideFromLists>>,
    body: Bytes,
) -> Answer {
    let Some((job, "run")) = job_and_verb.rsplit_once(':') else {
        return Err(Refusal::not_found("Method not found."));
    };
    let sent: Value = parsed(&body)?;
    let request: RunRequest = parsed(&body)?;
    let what = Start {
        overrides: request.overrides.overrides()?,
        sent: sent.get("overrides").cloned().unwrap_or_default(),
        hidden: hide.map_or(Duration::ZERO, |Extension(HideFromLists(time))| time),
        validate_only: false,
    };
    let show = |execution: &Execution| execution_json(&cloud.site, execution);
    start(&cloud, job, what, show).map(Json)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunRequest {
    #[serde(default, deserialize_with = "or_default")]
    overrides: SentOverrides,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct SentOverrides {
    #[serde(default, deserialize_with = "or_default")]
    container_overrides: Vec<SentContainerOverride>,
    #[serde(default, deserialize_with = "or_default")]
    task_count: Int,
    #[serde(default, deserialize_with = "or_default")]
    timeout_seconds: Int,
}

impl SentOverrides {
    fn overrides(self) -> Result<Overrides, Refusal> {
        let timeout_seconds = self.timeout_seconds.0;
        overrides(self.container_overrides, self.task_count, timeout_seconds)
    }
}
