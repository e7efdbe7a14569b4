//! The IAM policy of a job: kept and given back, never enforced.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::{Answer, parsed};
use crate::cloud::Cloud;
use crate::model::jobs::policy_etag;
use crate::refusal::{Code, Refusal};

type Parts = Path<(String, String, String)>;

/// `GET …/jobs/{job}:getIamPolicy`.
pub(crate) async fn get(
    State(cloud): State<Arc<Cloud>>,
    Path((_, _, job_and_verb)): Parts,
) -> Answer {
    let Some((job, "getIamPolicy")) = job_and_verb.rsplit_once(':') else {
        return Err(Refusal::not_found("Method not found."));
    };
    Ok(Json(
        cloud.state().jobs.find(&cloud.site, job)?.policy.clone(),
    ))
}

/// `POST …/jobs/{job}:setIamPolicy` and `:testIamPermissions`.
pub(crate) async fn post(
    State(cloud): State<Arc<Cloud>>,
    Path((_, _, job_and_verb)): Parts,
    body: Bytes,
) -> Answer {
    let mut request = parsed(&body)?;
    match job_and_verb.rsplit_once(':') {
        Some((job, "setIamPolicy")) => set(&cloud, job, request["policy"].take()),
        Some((job, "testIamPermissions")) => {
            cloud.state().jobs.find(&cloud.site, job)?;
            Ok(Json(json!({ "permissions": request["permissions"] })))
        }
        _ => Err(Refusal::not_found("Method not found.")),
    }
}

/// Sets the policy unless somebody else has changed it since it was read.
fn set(cloud: &Cloud, job: &str, mut policy: Value) -> Answer {
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
    policy["etag"] = json!(policy_etag());
    job.policy = policy;
    Ok(Json(job.policy.clone()))
}
