//! A metadata server with gcloud's token: the service on a laptop finds project, region and token as on Cloud Run.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::HOST;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use tokio::net::TcpListener;

use crate::arguments::Target;
use crate::gcloud::Gcloud;

/// The header of every request to a metadata server and of every answer. A page in a browser cannot send it without a
/// preflight.
const FLAVOR: HeaderName = HeaderName::from_static("metadata-flavor");
/// The lifetime that the answers give: half of the hour for which gcloud's token is valid, because gcloud does not
/// report when it expires.
const LIFETIME: Duration = Duration::from_secs(30 * 60);
/// The age at which a token is renewed in the background, because gcloud takes seconds and a metadata server must
/// not.
const RENEWED_AFTER: Duration = Duration::from_secs(20 * 60);
/// The interval of the checks of the token's age. It is short so that a laptop renews the token soon after it wakes.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The pause before the next attempt if gcloud returns no token.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// gcloud's token, and when it was fetched.
struct Held {
    token: String,
    since: SystemTime,
}

impl Held {
    fn new(token: String) -> Self {
        Self {
            token,
            since: SystemTime::now(),
        }
    }

    /// A clock that was set back counts as an expired token.
    fn age(&self) -> Duration {
        self.since.elapsed().unwrap_or(LIFETIME)
    }
}

/// A metadata server for one job on Google Cloud.
pub struct Metadata {
    target: Target,
    gcloud: Gcloud,
    account: Option<String>,
    held: Mutex<Held>,
}

impl Metadata {
    /// Asks gcloud for a token and its account.
    pub async fn of(target: Target) -> anyhow::Result<Self> {
        let gcloud = Gcloud {
            impersonated: target.account.clone(),
        };
        let (token, account) = tokio::join!(gcloud.access_token(), gcloud.account());
        Ok(Self {
            target,
            account,
            gcloud,
            held: Mutex::new(Held::new(token?)),
        })
    }

    /// The account of the token, if it is known.
    pub fn account(&self) -> Option<&str> {
        self.account.as_deref()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves and renews the token until the future is dropped.
    pub async fn serve(self, listener: TcpListener) -> std::io::Result<()> {
        let metadata = Arc::new(self);
        let root = "/computeMetadata/v1";
        let account = format!("{root}/instance/service-accounts/default");
        let router = Router::new()
            .route(&format!("{root}/project/project-id"), get(project))
            .route(&format!("{root}/instance/region"), get(region))
            .route(&format!("{account}/token"), get(token))
            .route(&format!("{account}/email"), get(email))
            .layer(middleware::from_fn(for_programs_of_this_machine))
            .with_state(Arc::clone(&metadata));
        tokio::select! {
            served = axum::serve(listener, router) => served,
            () = metadata.renew() => Ok(()),
        }
    }

    async fn renew(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.held().age() < RENEWED_AFTER {
                continue;
            }
            match self.gcloud.access_token().await {
                Ok(token) => *self.held() = Held::new(token),
                Err(error) => {
                    eprintln!("local: cannot renew the token: {error:#}");
                    tokio::time::sleep(TRY_AGAIN_AFTER).await;
                }
            }
        }
    }
}

/// Refuses requests that a page in a browser could send: those without the flavor header, and those under another
/// host name, by DNS rebinding.
async fn for_programs_of_this_machine(request: Request, next: Next) -> Response {
    let mut response = if is_of_this_machine(request.headers()) {
        next.run(request).await
    } else {
        StatusCode::FORBIDDEN.into_response()
    };
    let flavor = HeaderValue::from_static("Google");
    response.headers_mut().insert(FLAVOR, flavor);
    response
}

fn is_of_this_machine(headers: &HeaderMap) -> bool {
    let header = |name| headers.get(name).map(HeaderValue::as_bytes);
    let host = header(HOST).unwrap_or_default();
    let name = host.split(|byte| *byte == b':').next();
    header(FLAVOR) == Some(b"Google") && matches!(name, Some(b"127.0.0.1" | b"localhost"))
}

async fn project(State(metadata): State<Arc<Metadata>>) -> String {
    metadata.target.project.clone()
}

async fn region(State(metadata): State<Arc<Metadata>>) -> String {
    format!("projects/0/regions/{}", metadata.target.region)
}

async fn email(State(metadata): State<Arc<Metadata>>) -> Response {
    match &metadata.account {
        Some(account) => account.clone().into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn token(State(metadata): State<Arc<Metadata>>) -> Response {
    let held = metadata.held();
    match LIFETIME.checked_sub(held.age()) {
        Some(left) => {
            let token = json!({
                "access_token": held.token,
                "expires_in": left.as_secs(),
                "token_type": "Bearer",
            });
            axum::Json(token).into_response()
        }
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}
