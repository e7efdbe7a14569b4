//! The table of all URLs, and the middleware around them.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::{HOST, TRANSFER_ENCODING};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::FutureExt;
use serde_json::Value;
use tower::{Service, ServiceBuilder, service_fn};

use crate::App;
use crate::http::handlers::{
    assets, cancel, document, events, executions, health, logs, process, result,
};
use crate::http::limits::hold_permit;
use crate::http::openapi::{self, Route};
use crate::http::prefix::Prefix;
use crate::http::problem::{Kind, Problem};
use crate::http::server::HttpService;
use crate::http::{operations, paths, request_log};

/// The whole service without its socket.
pub fn service(app: Arc<App>) -> impl HttpService {
    with_middleware(router(), app)
}

fn router() -> Router<Arc<App>> {
    let compressed = add(service_routes(), Router::new())
        .route("/", get(assets::page))
        .route("/page.css", get(assets::page_css))
        .route("/page.js", get(assets::page_js))
        .route("/button.js", get(assets::button_js))
        .route("/button.d.ts", get(assets::button_types))
        .layer(assets::compression());
    add(scope_routes(), compressed)
        .fallback(paths::not_found)
        .method_not_allowed_fallback(paths::method_not_allowed)
}

/// The middleware around every route, from the inside out. Panics are caught inside the CORS layer, so that a page can read the
/// answer to one. These are functions and not axum's layers, which cost an allocation and a copy of the request each.
fn with_middleware(routes: Router<Arc<App>>, app: Arc<App>) -> impl HttpService {
    let (guarded, reported) = (Arc::clone(&app), Arc::clone(&app));
    let routes = routes.with_state(app);
    let inner = ServiceBuilder::new()
        .option_layer(reported.origins.cors())
        .layer(reported.origins.csrf())
        .service_fn(move |request| guard(Arc::clone(&guarded), routes.clone(), request));
    service_fn(move |request| {
        let (app, inner) = (Arc::clone(&reported), inner.clone());
        async move {
            let prefix = Prefix::of(&request);
            let answer = request_log::request_log(app, inner, request).await?;
            Ok(match prefix {
                Some(prefix) => prefix.apply(answer).await,
                None => answer,
            })
        }
    })
}

/// Lets a request in unless too many are in flight.
async fn guard(
    app: Arc<App>,
    mut routes: Router,
    mut request: Request,
) -> Result<Response, Infallible> {
    if let Some(detail) = ambiguity(request.headers()) {
        return Ok(Problem::new(Kind::MalformedRequest, detail).into_response());
    }
    let permit = match app.limits.admit(&mut request) {
        Ok(permit) => permit,
        Err(problem) => return Ok(problem.into_response()),
    };
    let answer = AssertUnwindSafe(routes.call(request)).catch_unwind();
    let answer = answer.await.unwrap_or_else(|_| Ok(panicked()));
    Ok(hold_permit(answer?, permit))
}

/// What a proxy may have read otherwise than this service does, which RFC 9112 asks to refuse.
fn ambiguity(headers: &HeaderMap) -> Option<&'static str> {
    if headers.get_all(HOST).iter().nth(1).is_some() {
        return Some("Send the header Host once.");
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let first = codings.next()?;
    let chunks = first.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
    (!chunks).then_some("The only Transfer-Encoding that is read is chunked, once.")
}

fn add(routes: Vec<Route>, router: Router<Arc<App>>) -> Router<Arc<App>> {
    routes
        .into_iter()
        .fold(router, |router, route| route.add_to(router))
}

/// The OpenAPI document of the same routes.
pub fn document(app: &App) -> Value {
    let routes: Vec<_> = scope_routes().into_iter().chain(service_routes()).collect();
    openapi::document(&routes, &app.processes, app.auth.security_scheme())
}

#[rustfmt::skip] // a table is read by its columns
pub(super) fn scope_routes() -> Vec<Route> {
    use operations as ops;
    vec![
        Route::post("/scopes/{scope}/process", process::start, &ops::START),
        Route::post("/scopes/{scope}/process/{process}", process::start_named, &ops::START),
        Route::get("/scopes/{scope}/executions", executions::list, &ops::LIST),
        Route::get("/scopes/{scope}/executions/{name}", executions::show, &ops::SHOW),
        Route::get("/scopes/{scope}/executions/{name}/events", events::stream, &ops::EVENTS),
        Route::get("/scopes/{scope}/executions/{name}/logs", logs::read, &ops::LOGS),
        Route::get("/scopes/{scope}/executions/{name}/result", result::read, &ops::RESULT),
        Route::post("/scopes/{scope}/executions/{name}/cancel", cancel::cancel, &ops::CANCEL),
    ]
}

#[rustfmt::skip]
pub(super) fn service_routes() -> Vec<Route> {
    use operations as ops;
    vec![
        Route::get("/openapi.json", document::openapi, &ops::DOCUMENT),
        Route::get("/problems/{slug}", document::problem, &ops::PROBLEM),
        Route::get("/health", health::alive, &ops::ALIVE),
        Route::get("/ready", health::ready, &ops::READY),
    ]
}

/// The panic itself was logged where it happened.
fn panicked() -> Response {
    Problem::from(Kind::Internal)
        .because("a handler panicked")
        .into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use tower::ServiceExt;

    use super::*;
    use crate::config::{AuthMode, Config};

    #[tokio::test]
    async fn a_panic_is_answered_without_its_message_and_harms_no_other_request() {
        const ORIGIN: &str = "https://app.example.com";
        let mut config = Config::defaults().unwrap();
        config.auth.mode = Some(AuthMode::Public);
        config.cloud_run.job = "test-job".to_owned();
        config.cors.origins = vec![ORIGIN.to_owned()];
        let app = Arc::new(App::new(&config).unwrap());
        let broken = get(async || -> () { panic!("CANARY") });
        let service = with_middleware(router().route("/broken", broken), app);
        let ask = |path: &str| {
            let request = Request::get(path).header("origin", ORIGIN);
            service
                .clone()
                .oneshot(request.body(Body::empty()).unwrap())
        };

        let response = ask("/broken").await.unwrap();
        assert_eq!(response.status(), 500);
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
        assert_eq!(response.headers()["access-control-allow-origin"], ORIGIN);
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let problem: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(problem["type"], "/problems/internal");
        assert!(!problem.to_string().contains("CANARY") && !problem.to_string().contains("panic"));
        assert_eq!(ask("/health").await.unwrap().status(), 200);
    }
}
