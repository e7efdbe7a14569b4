//! The IAM policy of a job: kept and given back, never enforced.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::cloud::Cloud;
use crate::jobs::{Answer, parsed};
use crate::random;
use crate::refusal::Refusal;

type Parts = Path<(String, String, String)>;

/// `GET …/jobs/{job}:getIamPolicy`.
pub(crate) async fn get(
    State(cloud): State<Arc<Cloud>>,
    Path((_, _, job_and_verb)): Parts,
) -> Answer {
    let Some((job, "getIamPolicy")) = job_and_verb.rsplit_once(':') else {
        return Err(Refusal::not_found("Method not found."));
    };
    Ok(Json(cloud.state().jobs.find(&cloud, job)?.policy.clone()))
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
            cloud.state().jobs.find(&cloud, job)?;
            Ok(Json(json!({ "permissions": request["permissions"] })))
        }
        _ => Err(Refusal::not_found("Method not found.")),
    }
}

/// Sets the policy unless somebody else has changed it since it was read.
fn set(cloud: &Cloud, job: &str, mut policy: Value) -> Answer {
    let mut state = cloud.state();
    let job = state.jobs.find_mut(cloud, job)?;
    let read = &policy["etag"];
    if !read.is_null() && *read != job.policy["etag"] {
        let message = "There were concurrent policy changes. Please retry the whole read-modify-write with exponential backoff.";
        return Err(Refusal::new(
            axum::http::StatusCode::CONFLICT,
            "ABORTED",
            message,
        ));
    }
    if !policy.is_object() {
        return Err(Refusal::invalid("policy: is required."));
    }
    policy["etag"] = json!(etag());
    job.policy = policy;
    Ok(Json(job.policy.clone()))
}

/// Bytes in base64, and so that decoding and encoding it again gives the same: gcloud does that.
pub(crate) fn etag() -> String {
    format!("BwX{:09x}", random::bits() >> 28)
}
