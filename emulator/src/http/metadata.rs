//! The metadata server: who and where this is, and access tokens.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::error::front_end;
use crate::cloud::Cloud;
use crate::site::{PROJECT_NUMBER, default_account};

const CLOUD_PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";

/// Refuses what Google's server refuses: a request that might come from a browser or through a proxy.
pub(crate) async fn guard(headers: HeaderMap, request: Request, next: Next) -> Response {
    let flavoured = headers
        .get("metadata-flavor")
        .is_some_and(|flavor| flavor == "Google");
    let mut response = if !flavoured {
        front_end(
            StatusCode::FORBIDDEN,
            "Your client does not have permission to get this URL: Missing Metadata-Flavor:Google header.",
        )
    } else if headers.contains_key("x-forwarded-for") {
        front_end(StatusCode::FORBIDDEN, "X-Forwarded-For is not allowed.")
    } else {
        next.run(request).await
    };
    let google = axum::http::HeaderValue::from_static("Google");
    response.headers_mut().insert("metadata-flavor", google);
    response
}

/// `GET /computeMetadata/v1/{path}`.
pub(crate) async fn get(State(cloud): State<Arc<Cloud>>, Path(path): Path<String>) -> Response {
    let site = &cloud.site;
    match path.as_str() {
        "project/project-id" => text(&site.project),
        "project/numeric-project-id" => text(PROJECT_NUMBER),
        "instance/region" => text(&format!(
            "projects/{PROJECT_NUMBER}/regions/{}",
            site.region
        )),
        "instance/zone" => text(&format!(
            "projects/{PROJECT_NUMBER}/zones/{}-1",
            site.region
        )),
        "instance/id" => text("1"),
        _ => match path
            .strip_prefix("instance/service-accounts/")
            .and_then(|rest| rest.split_once('/'))
        {
            Some((account, what)) if account == "default" || account == default_account() => {
                account_field(&cloud, what)
            }
            _ => missing(),
        },
    }
}

fn account_field(cloud: &Cloud, what: &str) -> Response {
    match what {
        "token" => token(cloud),
        "email" => text(&default_account()),
        "scopes" => text(&format!("{CLOUD_PLATFORM}\n")),
        "aliases" => text("default\n"),
        "" => json_body(
            &json!({ "aliases": ["default"], "email": default_account(), "scopes": [CLOUD_PLATFORM] }),
        ),
        _ => missing(),
    }
}

fn token(cloud: &Cloud) -> Response {
    let (token, left) = cloud.tokens.current();
    json_body(
        &json!({ "access_token": token, "expires_in": left.as_secs(), "token_type": "Bearer" }),
    )
}

fn json_body(body: &Value) -> Response {
    axum::Json(body).into_response()
}

fn text(body: &str) -> Response {
    ([("content-type", "application/text")], body.to_owned()).into_response()
}

fn missing() -> Response {
    front_end(
        StatusCode::NOT_FOUND,
        "The requested URL was not found on this server. That’s all we know.",
    )
}
