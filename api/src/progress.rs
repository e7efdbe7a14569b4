//! The progress of an execution, as its job reports it.

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

/// The progress of an execution, as its job reports it: an amount of a total, or a fraction from 0 to 1.
#[derive(Clone, Debug, PartialEq, JsonSchema, Serialize)]
pub struct Progress {
    /// The amount that is done. Without a total, a fraction from 0 to 1.
    #[serde(serialize_with = "shortest")]
    pub done: f64,
    /// The whole amount.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "shortest_of"
    )]
    pub total: Option<f64>,
    /// A message of the job about the current step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Writes whole numbers without a fraction: 12, not 12.0.
fn shortest<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
    if number.fract() == 0.0 && *number < EXACT {
        serializer.serialize_u64(*number as u64)
    } else {
        serializer.serialize_f64(*number)
    }
}

fn shortest_of<S: Serializer>(number: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    shortest(&number.unwrap_or_default(), serializer)
}
