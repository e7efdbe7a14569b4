//! The metadata server: project, region and service account, access tokens and identity tokens.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, Request, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::error::front_end;
use crate::camel_case::camel_case;
use crate::cloud::Cloud;
use crate::site::{PROJECT_NUMBER, default_account};

const CLOUD_PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";
const UNIVERSE: &str = "googleapis.com";
/// The path below which all metadata is.
const ROOT: &str = "/computeMetadata";

/// Refuses requests that could come from a browser or through a proxy, as Google's server does. Every response has
/// the header `Metadata-Flavor: Google`, by which the client libraries recognise the server.
pub(crate) async fn guard(headers: HeaderMap, request: Request, next: Next) -> Response {
    let flavored = headers
        .get("metadata-flavor")
        .is_some_and(|flavor| flavor == "Google");
    let mut response = if !flavored && request.uri().path() != "/" {
        front_end(
            StatusCode::FORBIDDEN,
            "Your client does not have permission to get this URL: Missing Metadata-Flavor:Google header.",
        )
    } else if headers.contains_key("x-forwarded-for") {
        front_end(StatusCode::FORBIDDEN, "X-Forwarded-For is not allowed.")
    } else {
        next.run(request).await
    };
    let google = HeaderValue::from_static("Google");
    response.headers_mut().insert("metadata-flavor", google);
    response
}

/// `GET /`: the client libraries call it to detect whether they run on Google Cloud.
pub(crate) async fn ping() -> Response {
    text(format!("{}/\n", ROOT.trim_start_matches('/')))
}

/// `GET /oauth2/v3/certs`: the key that signs the identity tokens, at the path that Google's keys have on
/// `www.googleapis.com`.
pub(crate) async fn keys(State(cloud): State<Arc<Cloud>>) -> Json<Value> {
    Json(cloud.identity.key_set())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Options {
    alt: String,
    audience: String,
    recursive: String,
}

/// `GET /computeMetadata/…`: a value, or a directory with a slash at its end.
pub(crate) async fn get(
    State(cloud): State<Arc<Cloud>>,
    uri: Uri,
    Query(options): Query<Options>,
) -> Response {
    let Some(path) = uri.path().strip_prefix(ROOT) else {
        return missing();
    };
    let (path, is_directory) = match path.strip_suffix('/') {
        Some(path) => (path, true),
        None => (path, false),
    };
    let tree = tree(&cloud);
    let mut names = path.split('/').skip(1);
    let found = names.try_fold(&tree, |node, name| node.as_object()?.get(name));
    match found {
        Some(Value::Object(directory)) if is_directory => list(directory, &options),
        Some(Value::Object(_)) => {
            let query = uri.query().map(|query| format!("?{query}"));
            let location = format!("{}/{}", uri.path(), query.unwrap_or_default());
            (StatusCode::MOVED_PERMANENTLY, [(LOCATION, location)]).into_response()
        }
        Some(_) | None if is_directory => missing(),
        Some(Value::Null) if path.ends_with("/token") => token(&cloud),
        Some(Value::Null) => identity(&cloud, &options.audience),
        Some(value) if options.alt == "json" => Json(value).into_response(),
        Some(Value::Array(lines)) => text(lines.iter().map(|line| plain(line) + "\n").collect()),
        Some(value) => text(plain(value)),
        None => missing(),
    }
}

/// The metadata is read-only.
pub(crate) async fn method_not_allowed() -> Response {
    front_end(
        StatusCode::METHOD_NOT_ALLOWED,
        "The request method is inappropriate for the URL.",
    )
}

/// All metadata. Objects are directories. A null stands for a token, which is made on request and is not part of a
/// recursive answer.
fn tree(cloud: &Cloud) -> Value {
    let (project, region) = (&cloud.site.project, &cloud.site.region);
    let account = json!({
        "aliases": ["default"],
        "email": default_account(),
        "identity": null,
        "scopes": [CLOUD_PLATFORM],
        "token": null,
    });
    let number: u64 = PROJECT_NUMBER.parse().unwrap_or_default();
    json!({ "v1": {
        "instance": {
            "id": "1",
            "region": format!("projects/{PROJECT_NUMBER}/regions/{region}"),
            "service-accounts": { default_account(): account, "default": account },
            "zone": format!("projects/{PROJECT_NUMBER}/zones/{region}-1"),
        },
        "project": { "numeric-project-id": number, "project-id": project },
        "universe": { "universe-domain": UNIVERSE },
    } })
}

/// The names in the directory, one a line, or with `recursive` everything below it.
fn list(directory: &Map<String, Value>, options: &Options) -> Response {
    let recursive = options.recursive.eq_ignore_ascii_case("true");
    if recursive && options.alt == "text" {
        let mut lines = String::new();
        write_values(&mut lines, "", directory);
        return text(lines);
    }
    if recursive {
        return Json(all_below(directory)).into_response();
    }
    let names = directory.iter().map(|(name, value)| match value {
        Value::Object(_) => format!("{name}/\n"),
        _ => format!("{name}\n"),
    });
    text(names.collect())
}

/// Everything below the directory, with names in camel case as in Google's JSON. The name of a service account is an
/// e-mail address and stays as it is.
fn all_below(directory: &Map<String, Value>) -> Value {
    let values = directory.iter().filter_map(|(name, value)| {
        let value = match value {
            Value::Null => return None,
            Value::Object(inner) => all_below(inner),
            value => value.clone(),
        };
        let name = if name.contains('@') {
            name.clone()
        } else {
            camel_case(name, '-')
        };
        Some((name, value))
    });
    Value::Object(values.collect())
}

/// Writes a line with path and value for each value below the directory.
fn write_values(lines: &mut String, prefix: &str, directory: &Map<String, Value>) {
    for (name, value) in directory {
        match value {
            Value::Null => {}
            Value::Object(inner) => write_values(lines, &format!("{prefix}{name}/"), inner),
            Value::Array(values) => {
                for value in values {
                    *lines += &format!("{prefix}{name} {}\n", plain(value));
                }
            }
            value => *lines += &format!("{prefix}{name} {}\n", plain(value)),
        }
    }
}

fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn token(cloud: &Cloud) -> Response {
    let (token, left) = cloud.tokens.current();
    let answer =
        json!({ "access_token": token, "expires_in": left.as_secs(), "token_type": "Bearer" });
    Json(answer).into_response()
}

fn identity(cloud: &Cloud, audience: &str) -> Response {
    if audience.is_empty() {
        let reason = "non-empty audience parameter required\n";
        return (StatusCode::BAD_REQUEST, reason).into_response();
    }
    match cloud.identity.token(audience) {
        Ok(token) => text(token),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn text(body: String) -> Response {
    ([("content-type", "application/text")], body).into_response()
}

fn missing() -> Response {
    front_end(
        StatusCode::NOT_FOUND,
        "The requested URL was not found on this server. That’s all we know.",
    )
}
