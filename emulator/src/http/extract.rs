//! Extractors and parsers of requests, which refuse invalid input in Google's form.

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::model::container::Variable;
use crate::model::overrides::{ContainerOverride, Overrides};
use crate::refusal::Refusal;

/// The query parameters. Those that `T` does not name are ignored.
#[derive(Debug)]
pub(crate) struct Parameters<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let query = Query::try_from_uri(&parts.uri);
        query
            .map(|Query(parameters)| Self(parameters))
            .map_err(|error| Refusal::invalid(error.body_text()))
    }
}

/// Parses a JSON body. An empty body counts as an empty object.
pub(crate) fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let body = if body.trim_ascii().is_empty() {
        b"{}"
    } else {
        body
    };
    // serde reads an array as the fields of a struct in their order.
    if body.trim_ascii_start().starts_with(b"[") {
        let reason = "Invalid JSON payload received. Root element must be a message.";
        return Err(Refusal::invalid(reason));
    }
    serde_json::from_slice(body)
        .map_err(|error| Refusal::invalid(format!("Invalid JSON payload received. {error}")))
}

/// Reads null as the default value, as protobuf's JSON does.
pub(crate) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// An integer in protobuf's JSON, which may also be written as a string or with a zero after the point.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Int(pub(crate) i64);

impl<'de> Deserialize<'de> for Int {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let number = value
            .as_i64()
            .or_else(|| value.as_str()?.parse().ok())
            .or_else(|| whole(value.as_f64()?))
            .ok_or_else(|| D::Error::custom(format!("{value} is not an integer")))?;
        Ok(Self(number))
    }
}

fn whole(number: f64) -> Option<i64> {
    (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64)
}

/// An environment variable in the form of either API.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct EnvVar {
    #[serde(default)]
    name: String,
    value: Option<String>,
    #[serde(alias = "valueSource")]
    value_from: Option<Value>,
}

impl TryFrom<EnvVar> for Variable {
    type Error = Refusal;

    fn try_from(variable: EnvVar) -> Result<Self, Refusal> {
        let name = variable.name;
        if variable.value_from.is_some() {
            return Err(Refusal::invalid(format!(
                "env: the value of '{name}' comes from a secret, but this emulator has no secrets."
            )));
        }
        let value = variable.value.unwrap_or_default();
        Ok(Self { name, value })
    }
}

pub(crate) fn variables(env: Vec<EnvVar>) -> Result<Vec<Variable>, Refusal> {
    env.into_iter().map(Variable::try_from).collect()
}

/// An override of a container in the form of either API.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct SentContainerOverride {
    #[serde(default, deserialize_with = "or_default")]
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    args: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    clear_args: bool,
    #[serde(default, deserialize_with = "or_default")]
    env: Vec<EnvVar>,
}

impl TryFrom<SentContainerOverride> for ContainerOverride {
    type Error = Refusal;

    fn try_from(sent: SentContainerOverride) -> Result<Self, Refusal> {
        Ok(Self {
            name: sent.name,
            args: sent.args,
            clear_args: sent.clear_args,
            env: variables(sent.env)?,
        })
    }
}

/// The overrides of a run, from the fields that both APIs have.
pub(crate) fn overrides(
    containers: Vec<SentContainerOverride>,
    Int(task_count): Int,
    timeout_seconds: i64,
) -> Result<Overrides, Refusal> {
    let containers = containers.into_iter().map(ContainerOverride::try_from);
    Ok(Overrides {
        containers: containers.collect::<Result<_, _>>()?,
        task_count,
        timeout_seconds,
    })
}
