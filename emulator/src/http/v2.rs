//! The v2 REST API of Cloud Run Jobs, which Google's client libraries speak: another view of the same state.

pub(crate) mod execution_json;
pub(crate) mod executions;
pub(crate) mod job_json;
pub(crate) mod jobs;
pub(crate) mod operations;
pub(crate) mod tasks;

use serde::Deserialize;
use serde_json::Value;

use crate::http::paging::PageRequest;
use crate::refusal::Refusal;

/// The query of a list call. `showDeleted` is ignored, because a deletion takes effect at once.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Listing {
    page_size: Option<i64>,
    page_token: Option<String>,
}

impl Listing {
    fn page(&self) -> Result<PageRequest, Refusal> {
        PageRequest::new(self.page_size, self.page_token.as_deref())
    }
}

/// The query of a call that changes something. An `etag` is accepted but not compared, as on Google Cloud.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Change {
    #[serde(default)]
    job_id: String,
    #[serde(default)]
    allow_missing: bool,
    #[serde(default)]
    validate_only: bool,
}

/// A page of a list. Protobuf's JSON omits an empty list and an empty token.
fn page(key: &str, (items, next): (Vec<Value>, Option<String>)) -> Value {
    let mut page = serde_json::Map::new();
    if !items.is_empty() {
        page.insert(key.to_owned(), Value::Array(items));
    }
    page.extend(next.map(|token| ("nextPageToken".to_owned(), Value::String(token))));
    Value::Object(page)
}
