//! The emulator's own endpoints for faults and counters, which `--faults` enables.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::cloud::Cloud;
use crate::model::counters::Counters;
use crate::model::faults::Rule;
use crate::refusal::Refusal;

/// `POST /emulator/faults`: adds a rule.
pub(crate) async fn add_fault(
    State(cloud): State<Arc<Cloud>>,
    body: Bytes,
) -> Result<(StatusCode, Json<Rule>), Refusal> {
    let rule: Rule =
        serde_json::from_slice(&body).map_err(|error| Refusal::invalid(error.to_string()))?;
    rule.check().map_err(Refusal::invalid)?;
    cloud.faults.add(rule.clone());
    Ok((StatusCode::CREATED, Json(rule)))
}

/// `GET /emulator/faults`: the rules in force, each with the number of calls that it has matched.
pub(crate) async fn faults(State(cloud): State<Arc<Cloud>>) -> Json<Value> {
    let rules = cloud
        .faults
        .list()
        .into_iter()
        .map(|(rule, calls)| json!({ "rule": rule, "calls": calls }));
    Json(json!({ "faults": rules.collect::<Vec<_>>() }))
}

/// `DELETE /emulator/faults`: removes all rules.
pub(crate) async fn clear_faults(State(cloud): State<Arc<Cloud>>) -> StatusCode {
    cloud.faults.clear();
    StatusCode::NO_CONTENT
}

/// `GET /emulator/counters`: the counters so far.
pub(crate) async fn counters(State(cloud): State<Arc<Cloud>>) -> Json<Counters> {
    Json(cloud.counters.snapshot())
}
