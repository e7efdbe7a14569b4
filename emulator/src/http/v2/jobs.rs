//! Jobs in v2: create, get, list, patch, delete, run, and the verbs of IAM.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::Value;

use super::execution_json::execution_json;
use super::job_json::{Seconds, SentJob, job_json, with_camel_case_keys};
use super::operations::{any, deleted, finished, only_validated, operation_json};
use super::{Change, Listing, page};
use crate::cloud::Cloud;
use crate::http::error::Answer;
use crate::http::extract::{Int, Parameters, SentContainerOverride, or_default, overrides, parsed};
use crate::http::faults::HideFromLists;
use crate::http::policy;
use crate::model::executions::Execution;
use crate::model::jobs::Job;
use crate::model::operations::Subject;
use crate::model::overrides::Overrides;
use crate::refusal::Refusal;
use crate::starts::{Start, start};

type Parts = Path<(String, String, String)>;

pub(crate) async fn create(
    State(cloud): State<Arc<Cloud>>,
    Parameters(change): Parameters<Change>,
    body: Bytes,
) -> Answer {
    let spec = SentJob::parse(&body)?.spec(&cloud.images)?;
    let (site, name) = (&cloud.site, change.job_id.as_str());
    let mut state = cloud.state();
    if change.validate_only {
        state.jobs.check_new(name)?;
        let job = any("Job", job_json(site, &Job::new(name, spec, 0), None));
        return Ok(Json(only_validated(site, job)));
    }
    let job = any("Job", job_json(site, state.jobs.create(name, spec)?, None));
    Ok(Json(finished(site, &mut state, job)))
}

pub(crate) async fn get(
    State(cloud): State<Arc<Cloud>>,
    Path((_, _, job_and_verb)): Parts,
) -> Answer {
    match job_and_verb.rsplit_once(':') {
        Some((job, "getIamPolicy")) => return policy::read(&cloud, job),
        Some(_) => return Err(Refusal::not_found("Method not found.")),
        None => {}
    }
    let state = cloud.state();
    let job = state.jobs.find(&cloud.site, &job_and_verb)?;
    Ok(Json(job_json(&cloud.site, job, state.latest_of(job))))
}

pub(crate) async fn list(
    State(cloud): State<Arc<Cloud>>,
    Parameters(listing): Parameters<Listing>,
) -> Answer {
    let wanted = listing.page()?;
    let state = cloud.state();
    let jobs = state.jobs.newest_first(wanted.older_than());
    let items = jobs.map(|job| {
        let shown = job_json(&cloud.site, job, state.latest_of(job));
        ((job.position, 0), shown)
    });
    Ok(Json(page("jobs", wanted.cut(items))))
}

/// Replaces a job. With `allowMissing` it creates a missing one.
pub(crate) async fn patch(
    State(cloud): State<Arc<Cloud>>,
    Path((_, _, name)): Parts,
    Parameters(change): Parameters<Change>,
    body: Bytes,
) -> Answer {
    let spec = SentJob::parse(&body)?.spec(&cloud.images)?;
    let site = &cloud.site;
    let mut state = cloud.state();
    let missing = state.jobs.get(&name).is_none();
    if missing && !change.allow_missing {
        return Err(site.missing("JOB", &name));
    }
    if change.validate_only {
        let job = any("Job", job_json(site, &Job::new(&name, spec, 0), None));
        return Ok(Json(only_validated(site, job)));
    }
    if missing {
        state.jobs.create(&name, spec)?;
    } else {
        state.jobs.find_mut(site, &name)?.replace(spec);
    }
    let job = state.jobs.find(site, &name)?;
    let job = any("Job", job_json(site, job, state.latest_of(job)));
    Ok(Json(finished(site, &mut state, job)))
}

/// Deletes a job with its executions, and cancels those that still run.
pub(crate) async fn delete(
    State(cloud): State<Arc<Cloud>>,
    Path((_, _, name)): Parts,
    Parameters(change): Parameters<Change>,
) -> Answer {
    let site = &cloud.site;
    let mut state = cloud.state();
    let job = state.jobs.find(site, &name)?;
    let job = any("Job", job_json(site, job, state.latest_of(job)));
    if change.validate_only {
        return Ok(Json(only_validated(site, job)));
    }
    state.jobs.remove(site, &name)?;
    state.executions.delete_job(&name);
    Ok(Json(finished(site, &mut state, deleted(job))))
}

/// `POST jobs/{job}:run`, `:setIamPolicy` and `:testIamPermissions`.
pub(crate) async fn verb(
    State(cloud): State<Arc<Cloud>>,
    Path((_, _, job_and_verb)): Parts,
    hide: Option<Extension<HideFromLists>>,
    body: Bytes,
) -> Answer {
    match job_and_verb.rsplit_once(':') {
        Some((job, "run")) => {
            let hidden = hide.map_or(Duration::ZERO, |Extension(HideFromLists(time))| time);
            run(&cloud, job, &body, hidden)
        }
        Some((job, "setIamPolicy")) => policy::set(&cloud, job, &body),
        Some((job, "testIamPermissions")) => policy::test(&cloud, job, &body),
        _ => Err(Refusal::not_found("Method not found.")),
    }
}

fn run(cloud: &Arc<Cloud>, job: &str, body: &[u8], hidden: Duration) -> Answer {
    let sent = with_camel_case_keys(parsed(body)?);
    let request: RunRequest = serde_json::from_value(sent.clone())
        .map_err(|error| Refusal::invalid(format!("Invalid JSON payload received. {error}")))?;
    let what = Start {
        overrides: request.overrides.overrides()?,
        sent: sent.get("overrides").cloned().unwrap_or_default(),
        hidden,
        validate_only: request.validate_only,
    };
    let site = &cloud.site;
    if request.validate_only {
        let show = |execution: &Execution| any("Execution", execution_json(site, execution));
        return start(cloud, job, what, show).map(|shown| Json(only_validated(site, shown)));
    }
    let (id, name) = start(cloud, job, what, |execution| {
        (execution.operation.clone(), execution.name.clone())
    })?;
    let subject = Subject::Execution(name);
    let operation = operation_json(site, &cloud.state(), &id, &subject);
    Ok(Json(operation.unwrap_or_default()))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RunRequest {
    #[serde(rename = "name")]
    _name: Option<Value>,
    #[serde(rename = "etag")]
    _etag: Option<Value>,
    #[serde(default, deserialize_with = "or_default")]
    validate_only: bool,
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
    timeout: Seconds,
}

impl SentOverrides {
    fn overrides(self) -> Result<Overrides, Refusal> {
        let timeout_seconds = self.timeout.0;
        overrides(self.container_overrides, self.task_count, timeout_seconds)
    }
}
