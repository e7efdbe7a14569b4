//! Cloud Logging: `entries:list`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::{Extension, Json};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::error::Answer;
use super::extract::{Int, or_default, parsed};
use super::faults::HideFromLists;
use crate::cloud::Cloud;
use crate::model::filter::Filter;
use crate::model::logs::Window;
use crate::refusal::Refusal;

/// Google's limits of `entries.list`.
const PAGE: usize = 50;
const LARGEST_PAGE: usize = 1000;
const LONGEST_FILTER: usize = 20_000;

/// As in all of protobuf's JSON, a name may be in snake case too, and an unknown one is refused: a filter under a name that
/// is misspelt would select everything.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListRequest {
    #[serde(default, alias = "resource_names", deserialize_with = "or_default")]
    resource_names: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    filter: String,
    #[serde(default, alias = "order_by", deserialize_with = "or_default")]
    order_by: String,
    #[serde(default, alias = "page_size", deserialize_with = "or_default")]
    page_size: Int,
    #[serde(default, alias = "page_token", deserialize_with = "or_default")]
    page_token: String,
}

/// `POST /v2/entries:list`.
pub(crate) async fn list(
    State(cloud): State<Arc<Cloud>>,
    hidden: Option<Extension<HideFromLists>>,
    body: Bytes,
) -> Answer {
    let request: ListRequest = parsed(&body)?;
    request.check_names(&cloud)?;
    let (filter, descending, size) = (request.filter()?, request.descending()?, request.size()?);
    let after = request.after()?;
    let window = Window {
        after,
        not_after: hidden.map(|Extension(HideFromLists(age))| nanoseconds_ago(age)),
        descending,
        limit: size + 1,
    };
    let mut found = cloud.logs.read(&cloud.site, &filter, window);
    let more = found.len() > size;
    found.truncate(size);
    let next = found
        .last()
        .filter(|_| more)
        .map(|(time, _)| time.to_string());
    let entries: Vec<Value> = found.into_iter().map(|(_, entry)| entry).collect();
    let mut answer = Map::new();
    // Protobuf's JSON omits an empty list and an empty token.
    if !entries.is_empty() {
        answer.insert("entries".into(), Value::Array(entries));
    }
    answer.extend(next.map(|token| ("nextPageToken".into(), json!(token))));
    Ok(Json(Value::Object(answer)))
}

fn nanoseconds_ago(age: Duration) -> i128 {
    let age = i128::try_from(age.as_nanos()).unwrap_or(i128::MAX);
    Timestamp::now().as_nanosecond().saturating_sub(age)
}

impl ListRequest {
    fn check_names(&self, cloud: &Cloud) -> Result<(), Refusal> {
        if self.resource_names.is_empty() {
            return Err(Refusal::invalid(
                "resource_names: must name at least one resource, such as projects/PROJECT.",
            ));
        }
        let project = |name: &String| {
            name.strip_prefix("projects/").is_some_and(|name| {
                cloud
                    .site
                    .is_project(name.split('/').next().unwrap_or_default())
            })
        };
        match self.resource_names.iter().find(|name| !project(name)) {
            Some(name) => Err(Refusal::denied(format!(
                "Permission 'logging.logEntries.list' denied on resource '{name}' (or it may not exist)."
            ))),
            None => Ok(()),
        }
    }

    fn filter(&self) -> Result<Filter, Refusal> {
        if self.filter.len() > LONGEST_FILTER {
            return Err(Refusal::invalid(format!(
                "filter: is longer than {LONGEST_FILTER} characters."
            )));
        }
        Filter::parse(&self.filter)
            .map_err(|reason| Refusal::invalid(format!("Unparseable filter: {reason}.")))
    }

    fn descending(&self) -> Result<bool, Refusal> {
        match self.order_by.as_str() {
            "" | "timestamp" | "timestamp asc" => Ok(false),
            "timestamp desc" => Ok(true),
            other => Err(Refusal::invalid(format!(
                "orderBy: '{other}' is neither 'timestamp asc' nor 'timestamp desc'."
            ))),
        }
    }

    fn size(&self) -> Result<usize, Refusal> {
        match usize::try_from(self.page_size.0) {
            Ok(0) => Ok(PAGE),
            Ok(size) if size <= LARGEST_PAGE => Ok(size),
            _ => Err(Refusal::invalid(format!(
                "pageSize: must be between 0 and {LARGEST_PAGE}."
            ))),
        }
    }

    /// The time of the last entry of the previous page, which the page token holds.
    fn after(&self) -> Result<Option<i128>, Refusal> {
        if self.page_token.is_empty() {
            return Ok(None);
        }
        let time = self.page_token.parse().ok();
        time.map(Some)
            .ok_or_else(|| Refusal::invalid("page_token: is not one that this server gave out."))
    }
}
