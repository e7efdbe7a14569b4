//! The IAM policy of a job, in both APIs. It is stored and returned but not enforced.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::error::Answer;
use super::extract::parsed;
use crate::cloud::Cloud;
use crate::model::jobs::policy_etag;
use crate::refusal::{Code, Refusal};

type Parts = Path<(String, String, String)>;

/// `GET /v1/…/jobs/{job}:getIamPolicy`.
pub(crate) async fn get(
    State(cloud): State<Arc<Cloud>>,
    Path((_, _, job_and_verb)): Parts,
) -> Answer {
    match job_and_verb.rsplit_once(':') {
        Some((job, "getIamPolicy")) => read(&cloud, job),
        _ => Err(Refusal::not_found("Method not found.")),
    }
}

/// `POST /v1/…/jobs/{job}:setIamPolicy` and `:testIamPermissions`.
pub(crate) async fn post(
    State(cloud): State<Arc<Cloud>>,
    Path((_, _, job_and_verb)): Parts,
    body: Bytes,
) -> Answer {
    match job_and_verb.rsplit_once(':') {
        Some((job, "setIamPolicy")) => set(&cloud, job, &body),
        Some((job, "testIamPermissions")) => test(&cloud, job, &body),
        _ => Err(Refusal::not_found("Method not found.")),
    }
}

pub(crate) fn read(cloud: &Cloud, job: &str) -> Answer {
    let state = cloud.state();
    let job = state.jobs.find(&cloud.site, job)?;
    Ok(Json(job.policy.clone()))
}

/// Sets the policy, unless it has changed since the caller read it.
pub(crate) fn set(cloud: &Cloud, job: &str, body: &[u8]) -> Answer {
    let mut request: Value = parsed(body)?;
    let policy = request.get_mut("policy").map(Value::take);
    let mut policy = policy.unwrap_or_default();
    let mut state = cloud.state();
    let job = state.jobs.find_mut(&cloud.site, job)?;
    let read = &policy["etag"];
    if !read.is_null() && *read != job.policy["etag"] {
        let message = "There were concurrent policy changes. Please retry the whole read-modify-write with exponential backoff.";
        return Err(Refusal::new(Code::Aborted, message));
    }
    if !policy.is_object() {
        return Err(Refusal::invalid("policy: is required."));
    }
    if policy["version"].is_null() {
        policy["version"] = json!(1);
    }
    policy["etag"] = json!(policy_etag());
    job.policy = policy;
    Ok(Json(job.policy.clone()))
}

/// Answers that the caller has every permission that the request names.
pub(crate) fn test(cloud: &Cloud, job: &str, body: &[u8]) -> Answer {
    let request: Value = parsed(body)?;
    cloud.state().jobs.find(&cloud.site, job)?;
    Ok(Json(match &request["permissions"] {
        Value::Null => json!({}),
        permissions => json!({ "permissions": permissions }),
    }))
}
