//! The v1 REST API of Cloud Run Jobs, which gcloud speaks.

pub(crate) mod execution_json;
pub(crate) mod executions;
pub(crate) mod job_json;
pub(crate) mod jobs;
pub(crate) mod listing;
pub(crate) mod tasks;

use axum::Json;
use serde_json::{Value, json};

/// The answer to a deletion, as Kubernetes gives it.
fn deleted() -> Json<Value> {
    Json(json!({ "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Success" }))
}
