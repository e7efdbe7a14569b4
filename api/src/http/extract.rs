//! Extractors for the parts of a request. A part that is not valid is answered with a problem.

use std::collections::HashSet;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, Query, RawPathParams, Request};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Uri};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::http::problem::{Kind, Problem};
use crate::scope::{self, Scope};
use crate::starts::IdempotencyKey;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The largest body that is accepted, in bytes.
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

/// The execution's name in the path. It can be any text; one that cannot be a name is answered as not found.
pub struct ExecutionName(pub String);

impl<S: Sync> FromRequestParts<S> for ExecutionName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parameter(parts, "name").await.map(Self)
    }
}

/// The process's name in the path. It can be any text; one that cannot be a name is answered as not found.
pub struct ProcessInPath(pub String);

impl<S: Sync> FromRequestParts<S> for ProcessInPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parameter(parts, "process").await.map(Self)
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

/// The query, if it has the fields of `T` and no others. Each field of `T` is optional.
pub struct Fields<T>(pub T);

impl<T: DeserializeOwned + JsonSchema, S: Sync> FromRequestParts<S> for Fields<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(fields)) => Ok(Self(fields)),
            Err(error) => {
                let detail = query_fault::<T>(&parts.uri);
                Err(Problem::new(Kind::MalformedRequest, detail).because(error))
            }
        }
    }
}

/// Names the first field of the query that is wrong, and its allowed values. The value is not repeated, since it may be a secret.
fn query_fault<T: DeserializeOwned + JsonSchema>(uri: &Uri) -> String {
    let schema = schemars::schema_for!(T).to_value();
    let known: Vec<_> = schema["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .collect();
    let names: Vec<_> = known.iter().map(|(name, _)| &name[..]).collect();
    let fields = match names[..] {
        [] => "This path takes no query.".to_owned(),
        _ => format!("The fields of this query are: {}.", names.join(", ")),
    };
    let mut seen = HashSet::new();
    for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        let Some((_, property)) = known.iter().find(|(known, _)| **known == name) else {
            return if is_field_name(&name) {
                format!("The query has no field {name} here. {fields}")
            } else {
                format!("The query has a field that is unknown here. {fields}")
            };
        };
        if !seen.insert(name.clone()) {
            return format!("The query field {name} occurs twice. {fields}");
        }
        if !is_allowed::<T>(&name, &value) {
            return format!(
                "The query field {name} must be {}.",
                allowed(property, &schema)
            );
        }
    }
    fields
}

fn is_allowed<T: DeserializeOwned>(name: &str, value: &str) -> bool {
    let alone = form_urlencoded::Serializer::for_suffix("/?".to_owned(), 2)
        .append_pair(name, value)
        .finish();
    alone
        .parse()
        .is_ok_and(|uri| Query::<T>::try_from_uri(&uri).is_ok())
}

fn is_field_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'-')
}

/// The values that a property of the schema allows, in words.
fn allowed(property: &Value, schema: &Value) -> String {
    let mut choices = Vec::new();
    collect_choices(property, schema, &mut choices);
    let bound = |name| property.get(name).and_then(Value::as_u64);
    match (choices.is_empty(), bound("minimum"), bound("maximum")) {
        (false, ..) => format!("one of: {}", choices.join(", ")),
        (true, Some(least), Some(most)) => format!("a whole number from {least} to {most}"),
        _ => "as GET /openapi.json says".to_owned(),
    }
}

/// The texts that a schema lists, if it allows only those.
fn collect_choices<'a>(property: &'a Value, schema: &'a Value, choices: &mut Vec<&'a str>) {
    let reference = property.get("$ref").and_then(Value::as_str);
    if let Some(target) = reference.and_then(|r| schema.pointer(r.strip_prefix('#')?)) {
        collect_choices(target, schema, choices);
    }
    choices.extend(property.get("const").and_then(Value::as_str));
    for keyword in ["enum", "anyOf", "oneOf"] {
        for one in property
            .get(keyword)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            match one.as_str() {
                Some(choice) => choices.push(choice),
                None => collect_choices(one, schema, choices),
            }
        }
    }
}

/// The `Idempotency-Key` of a request that has one: a single field, bare or quoted as a structured field's string.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let mut fields = headers.get_all(IDEMPOTENCY_KEY).iter();
    let (field, more) = (fields.next(), fields.next());
    let Some(field) = field else { return Ok(None) };
    let text = field.to_str().ok().filter(|_| more.is_none());
    let key = text.and_then(IdempotencyKey::parse);
    key.map(Some).ok_or_else(|| {
        let detail =
            "Send one Idempotency-Key of 1 to 128 letters, digits or . _ : ~ -, such as a UUID.";
        Problem::new(Kind::IdempotencyKeyInvalid, detail)
    })
}

/// A query without fields.
#[derive(serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoFields {}

/// The whole body: JSON in UTF-8 as it was sent, or empty.
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

/// Checks that the headers declare uncompressed JSON. Forms and plain texts are refused, since a page of another origin can send
/// them without a preflight.
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
