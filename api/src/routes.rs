//! Every URL and every layer, on one screen.

mod cancel;
mod document;
mod executions;
mod health;
mod logs;
mod operations;
mod page;
mod process;
mod report;

use std::any::Any;
use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRequestParts, Request, State};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::Value;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;

use crate::App;
use crate::auth::Caller;
use crate::openapi::{self, Route};
use crate::problem::{Kind, Problem};

/// The whole service but its socket.
pub fn router(app: Arc<App>) -> Router {
    let layers = ServiceBuilder::new()
        .layer(middleware::from_fn_with_state(
            Arc::clone(&app),
            report::report,
        ))
        .layer(CatchPanicLayer::custom(panicked));
    routes()
        .into_iter()
        .fold(Router::new(), |router, route| route.add_to(router))
        .route("/", get(page::page))
        .route("/page.css", get(page::page_css))
        .route("/page.js", get(page::page_js))
        .route("/button.js", get(page::button_js))
        .fallback(not_found)
        .method_not_allowed_fallback(async || Problem::from(Kind::MethodNotAllowed))
        .layer(layers)
        .with_state(app)
}

/// The OpenAPI document of the same routes.
pub fn document(app: &App) -> Value {
    openapi::document(&routes(), &app.parameters, None)
}

#[rustfmt::skip] // a table is read by its columns
fn routes() -> Vec<Route> {
    use operations as told;
    vec![
        Route::post("/scopes/{scope}/process", process::start, &told::START),
        Route::get("/scopes/{scope}/executions", executions::list, &told::LIST),
        Route::get("/scopes/{scope}/executions/{name}", executions::show, &told::SHOW),
        Route::get("/scopes/{scope}/executions/{name}/logs", logs::read, &told::LOGS),
        Route::post("/scopes/{scope}/executions/{name}/cancel", cancel::cancel, &told::CANCEL),
        Route::get("/openapi.json", document::openapi, &told::DOCUMENT),
        Route::get("/problems/{slug}", document::problem, &told::PROBLEM),
        Route::get("/health", health::alive, &told::ALIVE),
        Route::get("/ready", health::ready, &told::READY),
    ]
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
