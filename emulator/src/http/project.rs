//! The project, and the lists of its locations, services and logs, which gcloud reads.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use crate::cloud::Cloud;
use crate::model::log_entry::Stream;
use crate::site::PROJECT_NUMBER;

/// `GET /v1/projects/{project}` of the resource manager, which gcloud asks for the id that belongs to a number.
pub(crate) async fn get(State(cloud): State<Arc<Cloud>>) -> Json<Value> {
    let project = &cloud.site.project;
    Json(json!({
        "projectId": project, "projectNumber": PROJECT_NUMBER, "name": project, "lifecycleState": "ACTIVE",
    }))
}

/// `GET /v1/projects/{project}/locations` of Cloud Run.
pub(crate) async fn locations(State(cloud): State<Arc<Cloud>>) -> Json<Value> {
    let (project, region) = (&cloud.site.project, &cloud.site.region);
    let name = format!("projects/{project}/locations/{region}");
    Json(json!({ "locations": [{ "name": name, "locationId": region, "displayName": region }] }))
}

/// `GET /apis/serving.knative.dev/v1/namespaces/{project}/services`, and the same for all regions: an empty list.
pub(crate) async fn services() -> Json<Value> {
    Json(json!({
        "apiVersion": "serving.knative.dev/v1", "kind": "ServiceList", "metadata": {}, "items": [],
    }))
}

/// `GET /v2/projects/{project}/logs` of Cloud Logging: the logs that tasks write.
pub(crate) async fn logs(State(cloud): State<Arc<Cloud>>) -> Json<Value> {
    let streams = [Stream::Stderr, Stream::Stdout];
    Json(json!({ "logNames": streams.map(|stream| stream.log_name(&cloud.site)) }))
}
