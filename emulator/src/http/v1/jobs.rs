//! Jobs in v1: create, get, replace, list, delete, run, and how one is shown.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};

use super::execution_json::{Shown, reference};
use super::listing::{Listing, Page};
use super::{Answer, deleted, parsed};
use crate::cloud::Cloud;
use crate::http::faults::HideFromLists;
use crate::model::executions::Execution;
use crate::model::jobs::Job;
use crate::model::overrides::Overrides;
use crate::refusal::Refusal;
use crate::site::{PROJECT_NUMBER, Site, default_account, rfc3339};
use crate::starts::{Start, start};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunRequest {
    overrides: Option<Overrides>,
}

pub(crate) async fn create(
    State(cloud): State<Arc<Cloud>>,
    Path(_): Path<String>,
    body: Bytes,
) -> Answer {
    let wanted = parsed(&body)?;
    let mut state = cloud.state();
    let job = Job::from_request(&cloud.images, &wanted)?;
    let answer = json(&cloud.site, &job, None);
    state.jobs.create(job)?;
    Ok(Json(answer))
}

pub(crate) async fn get(
    State(cloud): State<Arc<Cloud>>,
    Path((_, name)): Path<(String, String)>,
) -> Answer {
    let state = cloud.state();
    let job = state.jobs.find(&cloud.site, &name)?;
    Ok(Json(json(&cloud.site, job, state.latest_of(job))))
}

pub(crate) async fn replace(
    State(cloud): State<Arc<Cloud>>,
    Path((_, name)): Path<(String, String)>,
    body: Bytes,
) -> Answer {
    let wanted = parsed(&body)?;
    let mut state = cloud.state();
    state.jobs.find(&cloud.site, &name)?;
    let new = Job::from_request(&cloud.images, &wanted)?;
    if new.name != name {
        return Err(Refusal::invalid(format!(
            "metadata.name is '{}', the URL says '{name}'.",
            new.name
        )));
    }
    state.jobs.find_mut(&cloud.site, &name)?.replace(new);
    let job = state.jobs.find(&cloud.site, &name)?;
    Ok(Json(json(&cloud.site, job, state.latest_of(job))))
}

pub(crate) async fn list(
    State(cloud): State<Arc<Cloud>>,
    Query(listing): Query<Listing>,
) -> Result<Json<Page<Value>>, Refusal> {
    let selector = listing.selector()?;
    let after = listing.after()?;
    let state = cloud.state();
    let numbered = (0_i64..)
        .zip(state.jobs.newest_first())
        .filter(|(position, _)| after.is_none_or(|after| *position > after));
    let labelled = numbered.filter(|(_, job)| selector.matches(|key| label(&cloud.site, job, key)));
    let items =
        labelled.map(|(position, job)| (position, json(&cloud.site, job, state.latest_of(job))));
    Ok(Json(listing.page("JobsList", items)))
}

/// Deletes a job with its executions; those that still run are cancelled, as gcloud's prompt promises.
pub(crate) async fn delete(
    State(cloud): State<Arc<Cloud>>,
    Path((_, name)): Path<(String, String)>,
) -> Answer {
    let mut state = cloud.state();
    state.jobs.remove(&cloud.site, &name)?;
    state.executions.remove_job(&name);
    Ok(deleted())
}

/// `POST jobs/{job}:run` is the only verb there is.
pub(crate) async fn verb(
    State(cloud): State<Arc<Cloud>>,
    Path((_, job_and_verb)): Path<(String, String)>,
    hide: Option<Extension<HideFromLists>>,
    body: Bytes,
) -> Answer {
    let Some((job, "run")) = job_and_verb.rsplit_once(':') else {
        return Err(Refusal::not_found("Method not found."));
    };
    let body = if body.is_empty() {
        json!({})
    } else {
        parsed(&body)?
    };
    let request: RunRequest = serde_json::from_value(body.clone())
        .map_err(|error| Refusal::invalid(format!("Invalid JSON payload received. {error}")))?;
    let what = Start {
        overrides: request.overrides.unwrap_or_default(),
        sent: body.get("overrides").cloned().unwrap_or_default(),
        hidden: hide.map_or(Duration::ZERO, |Extension(HideFromLists(time))| time),
    };
    let site = &cloud.site;
    let shown = |execution: &Execution| Shown { site, execution }.json();
    start(&cloud, job, what, shown).map(Json)
}

fn label<'a>(site: &'a Site, job: &'a Job, key: &str) -> Option<&'a str> {
    match key {
        "cloud.googleapis.com/location" => Some(&site.region),
        _ => job.labels.get(key).and_then(Value::as_str),
    }
}

fn json(site: &Site, job: &Job, latest: Option<&Execution>) -> Value {
    let mut labels = job.labels.clone();
    labels.insert("cloud.googleapis.com/location".into(), json!(site.region));
    labels.insert(
        "run.googleapis.com/lastUpdatedTime".into(),
        json!(rfc3339(job.updated)),
    );
    let mut annotations = job.annotations.clone();
    for key in [
        "run.googleapis.com/creator",
        "run.googleapis.com/lastModifier",
    ] {
        annotations.insert(key.into(), json!(default_account()));
    }
    let created = rfc3339(job.created);
    let ready = json!({ "type": "Ready", "status": "True", "lastTransitionTime": created });
    let mut status = json!({ "observedGeneration": job.generation, "conditions": [ready], "latestCreatedExecution": {} });
    if job.executions > 0 {
        status["executionCount"] = json!(job.executions);
    }
    if let Some(latest) = latest {
        status["latestCreatedExecution"] = reference(latest);
    }
    json!({
        "apiVersion": "run.googleapis.com/v1", "kind": "Job",
        "metadata": {
            "name": job.name, "namespace": PROJECT_NUMBER, "uid": job.uid, "generation": job.generation,
            "resourceVersion": job.resource_version(), "creationTimestamp": created,
            "selfLink": format!("/apis/run.googleapis.com/v1/namespaces/{PROJECT_NUMBER}/jobs/{}", job.name),
            "labels": labels, "annotations": annotations,
        },
        "spec": job.spec, "status": status,
    })
}
