//! What handlers take from a request, each refused with a problem.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, Query, RawPathParams, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::http::problem::{Kind, Problem};
use crate::scope::{self, Scope};

/// The largest body taken, in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The scope in the path. Handlers get theirs from [`crate::auth::Granted`].
pub async fn scope(parts: &mut Parts) -> Result<Scope, Problem> {
    parameter(parts, "scope")
        .await?
        .parse()
        .map_err(Problem::from)
}

impl From<scope::Invalid> for Problem {
    fn from(invalid: scope::Invalid) -> Self {
        Self::new(Kind::InvalidScope, format!("Check the path: {invalid}."))
    }
}

/// The execution's name in the path. Any text: what cannot be one is never found.
pub struct ExecutionName(pub String);

impl<S: Sync> FromRequestParts<S> for ExecutionName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parameter(parts, "name").await.map(Self)
    }
}

async fn parameter(parts: &mut Parts, name: &str) -> Result<String, Problem> {
    let Ok(parameters) = RawPathParams::from_request_parts(parts, &()).await else {
        return Err(not_utf8(parts));
    };
    let found = parameters.iter().find(|(key, _)| *key == name);
    found
        .map(|(_, value)| value.to_owned())
        .ok_or_else(|| Kind::NotFound.into())
}

/// Some segment is not UTF-8 once decoded: the scope, unless that is a scope as it stands.
fn not_utf8(parts: &Parts) -> Problem {
    let scope = parts.uri.path().split('/').nth(2).unwrap_or_default();
    match scope.parse::<Scope>() {
        Err(invalid) => invalid.into(),
        Ok(_) => Problem::new(
            Kind::MalformedRequest,
            "The path must be UTF-8 once decoded.",
        ),
    }
}

/// The query, if it has the fields of `T` and no others.
pub struct Fields<T>(pub T);

impl<T: DeserializeOwned + JsonSchema, S: Sync> FromRequestParts<S> for Fields<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(fields)) => Ok(Self(fields)),
            Err(error) => {
                let detail = format!(
                    "The query has a field that is unknown here, or a value that is not allowed for it. Fields of this query: {}.",
                    names::<T>()
                );
                Err(Problem::new(Kind::MalformedRequest, detail).because(error))
            }
        }
    }
}

/// The fields of a query. What was sent instead is not repeated: some put secrets there.
fn names<T: JsonSchema>() -> String {
    let schema = schemars::schema_for!(T);
    let fields = schema.get("properties").and_then(Value::as_object);
    let names: Vec<_> = fields
        .into_iter()
        .flatten()
        .map(|(name, _)| &name[..])
        .collect();
    match names[..] {
        [] => "none".to_owned(),
        _ => names.join(", "),
    }
}

/// A query without fields.
#[derive(serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoFields {}

/// The body, read whole: JSON in UTF-8 as it came, or empty.
pub async fn json_body(request: Request) -> Result<Bytes, Problem> {
    let (parts, body) = request.into_parts();
    let announced = parts
        .headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: u64| bytes > MAX_BODY_BYTES as u64) {
        return Err(too_large());
    }
    let body = read(body).await?;
    if !body.is_empty() {
        is_plain_json(&parts.headers)?;
    }
    Ok(body)
}

async fn read(body: Body) -> Result<Bytes, Problem> {
    let collected =
        tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY_BYTES).collect());
    match collected.await {
        Err(_) => Err(Kind::RequestTimeout.into()),
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => {
            let detail = "The body ended before it was whole, or its framing is wrong.";
            Err(Problem::new(Kind::MalformedRequest, detail).because(error))
        }
    }
}

fn too_large() -> Problem {
    Problem::new(
        Kind::PayloadTooLarge,
        format!("The body may have {MAX_BODY_BYTES} bytes at most."),
    )
}

/// Whether the headers say that the body is JSON, unpacked. A form or a text is what a foreign page can send unasked.
fn is_plain_json(headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let kind = text(CONTENT_TYPE)
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let detail = "Send the parameters as JSON with the header Content-Type: application/json.";
        return Err(Problem::new(Kind::UnsupportedMediaType, detail));
    }
    if text(CONTENT_ENCODING).is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
        return Err(Problem::new(
            Kind::UnsupportedMediaType,
            "Send the body without Content-Encoding.",
        ));
    }
    Ok(())
}
