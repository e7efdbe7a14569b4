//! Every URL and every layer, on one screen.

mod cancel;
mod executions;
mod health;
mod logs;
mod process;
mod report;

use std::any::Any;
use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRequestParts, Request, State};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;

use crate::App;
use crate::auth::Caller;
use crate::problem::{Kind, Problem};

/// The whole service but its socket.
pub fn router(app: Arc<App>) -> Router {
    let layers = ServiceBuilder::new()
        .layer(middleware::from_fn_with_state(
            Arc::clone(&app),
            report::report,
        ))
        .layer(CatchPanicLayer::custom(panicked));
    Router::new()
        .route("/scopes/{scope}/process", post(process::start))
        .route("/scopes/{scope}/executions", get(executions::list))
        .route("/scopes/{scope}/executions/{name}", get(executions::show))
        .route("/scopes/{scope}/executions/{name}/logs", get(logs::read))
        .route(
            "/scopes/{scope}/executions/{name}/cancel",
            post(cancel::cancel),
        )
        .route("/health", get(health::alive))
        .route("/ready", get(health::ready))
        .fallback(not_found)
        .method_not_allowed_fallback(async || Problem::from(Kind::MethodNotAllowed))
        .layer(layers)
        .with_state(app)
}

/// What looks like a path of a scope and is none has a scope that is empty or has slashes.
async fn not_found(State(app): State<Arc<App>>, request: Request) -> Problem {
    let rest = request
        .uri()
        .path()
        .strip_prefix("/scopes/")
        .unwrap_or_default();
    match rest.ends_with("/process") || rest.contains("/executions") {
        true => match Caller::from_request_parts(&mut request.into_parts().0, &app).await {
            Ok(_) => crate::scope::Invalid.into(),
            Err(problem) => problem,
        },
        false => Kind::NotFound.into(),
    }
}

/// The panic itself was logged where it happened.
fn panicked(_: Box<dyn Any + Send>) -> Response {
    Problem::from(Kind::Internal)
        .because("a handler panicked")
        .into_response()
}
