//! The metadata server: who and where this is, and access tokens.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cloud::{Cloud, PROJECT_NUMBER};
use crate::random;
use crate::refusal::front_end;

/// Google's server gives the same token out until it has less than this left.
const RENEWED_BEFORE_END: Duration = Duration::from_secs(300);
const CLOUD_PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";

/// The access tokens given out.
#[derive(Debug)]
pub(crate) struct Tokens {
    lifetime: Duration,
    /// Oldest first, the last is the current one.
    alive: Mutex<Vec<(String, Instant)>>,
}

impl Tokens {
    pub(crate) fn new(lifetime: Duration) -> Self {
        Self {
            lifetime,
            alive: Mutex::default(),
        }
    }

    /// Tokens that have not ended yet.
    fn alive(&self) -> MutexGuard<'_, Vec<(String, Instant)>> {
        let mut alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        alive.retain(|(_, end)| *end > Instant::now());
        alive
    }

    /// The current token and the time it has left; a new one if that is short. A lifetime below ten minutes is
    /// renewed at its half, so that tests can watch it happen.
    fn current(&self) -> (String, Duration) {
        let mut alive = self.alive();
        let now = Instant::now();
        let enough = RENEWED_BEFORE_END.min(self.lifetime / 2);
        if let Some((token, end)) = alive.last().filter(|(_, end)| *end - now > enough) {
            return (token.clone(), *end - now);
        }
        let token = format!(
            "ya29.emulator-{:016x}{:016x}",
            random::bits(),
            random::bits()
        );
        alive.push((token.clone(), now + self.lifetime));
        (token, self.lifetime)
    }

    pub(crate) fn accepts(&self, token: &str) -> bool {
        self.alive().iter().any(|(alive, _)| alive == token)
    }

    pub(crate) fn revoke(&self) {
        self.alive().clear();
    }
}

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
    let settings = &cloud.settings;
    match path.as_str() {
        "project/project-id" => text(&settings.project),
        "project/numeric-project-id" => text(PROJECT_NUMBER),
        "instance/region" => text(&format!(
            "projects/{PROJECT_NUMBER}/regions/{}",
            settings.region
        )),
        "instance/zone" => text(&format!(
            "projects/{PROJECT_NUMBER}/zones/{}-1",
            settings.region
        )),
        "instance/id" => text("1"),
        _ => match path
            .strip_prefix("instance/service-accounts/")
            .and_then(|rest| rest.split_once('/'))
        {
            Some((account, what)) if account == "default" || account == cloud.default_account() => {
                account_field(&cloud, what)
            }
            _ => missing(),
        },
    }
}

fn account_field(cloud: &Cloud, what: &str) -> Response {
    match what {
        "token" => token(cloud),
        "email" => text(&cloud.default_account()),
        "scopes" => text(&format!("{CLOUD_PLATFORM}\n")),
        "aliases" => text("default\n"),
        "" => json_body(
            &json!({ "aliases": ["default"], "email": cloud.default_account(), "scopes": [CLOUD_PLATFORM] }),
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
