//! How far an execution is, as its job reports it.

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

/// How far an execution is, as its job reports it: so much of so much, or a fraction from 0 to 1.
#[derive(Clone, Debug, PartialEq, JsonSchema, Serialize)]
pub struct Progress {
    /// How much is done; without a total, a fraction from 0 to 1.
    #[serde(serialize_with = "shortest")]
    pub done: f64,
    /// How much there is to do.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "shortest_of"
    )]
    pub total: Option<f64>,
    /// What is being done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Whole numbers as such: 12, not 12.0.
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
