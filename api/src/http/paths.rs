//! Answers for paths and methods without a route: they suggest the path or the method that was probably meant.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::{Method, Uri};

use crate::App;
use crate::auth::Caller;
use crate::http::openapi::Route;
use crate::http::problem::{Kind, Problem};
use crate::http::router::{scope_routes, service_routes};
use crate::scope::Scope;

/// Answers a path that no route matches. `/scopes//process` and `/scopes/a/b/process` have an invalid scope, so an authenticated
/// caller gets `invalid-scope`, as for every other invalid scope.
pub async fn not_found(State(app): State<Arc<App>>, request: Request) -> Problem {
    let mut parts = request.into_parts().0;
    match scope_of(parts.uri.path()).map(str::parse::<Scope>) {
        Some(Err(invalid)) => {
            let caller = Caller::from_request_parts(&mut parts, &app).await;
            let identity = caller.as_ref().map_or("", |caller| &caller.identity);
            let counted = app.limits.request(&parts, identity);
            counted
                .err()
                .or(caller.err())
                .unwrap_or_else(|| invalid.into())
        }
        _ => Problem::new(Kind::NotFound, meant(parts.uri.path())),
    }
}

/// Answers a path that has routes, but none for this method.
pub async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    let methods: Vec<_> = routes()
        .filter(|route| {
            matches(route.path(), uri.path(), |literal, segment| {
                literal == segment
            })
        })
        .map(|route| route.method().to_uppercase())
        .collect();
    match &methods[..] {
        [] => Kind::MethodNotAllowed.into(),
        methods => Problem::new(
            Kind::MethodNotAllowed,
            format!(
                "{method} is not allowed at this path. Use {}.",
                methods.join(" or ")
            ),
        ),
    }
}

fn routes() -> impl Iterator<Item = Route> {
    scope_routes().into_iter().chain(service_routes())
}

/// The text in the place of the scope, if the rest of the path is that of a route in a scope.
fn scope_of(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/scopes/")?;
    let process = rest.strip_suffix("/process");
    process.or_else(|| rest.split_once("/executions").map(|(scope, _)| scope))
}

/// Names the route that differs from the path by case, by a slash too many, or by `scope` for `scopes`.
fn meant(path: &str) -> String {
    let near = |literal: &str, segment: &str| {
        let (literal, segment) = (literal.to_ascii_lowercase(), segment.to_ascii_lowercase());
        literal.trim_end_matches('s') == segment.trim_end_matches('s')
    };
    let mut near_routes = routes()
        .filter(|route| matches(route.path(), path, near))
        .map(|route| format!("{} {}", route.method().to_uppercase(), route.path()));
    if let Some(route) = near_routes.next() {
        return format!(
            "This path is not served. You may mean {route}, without other slashes or letters."
        );
    }
    let all: Vec<_> = scope_routes()
        .iter()
        .map(|route| format!("{} {}", route.method().to_uppercase(), route.path()))
        .collect();
    format!(
        "This path is not served. Those of a scope are: {}. GET /openapi.json describes all.",
        all.join(", ")
    )
}

/// Whether the path has the segments of the route. Empty segments are ignored, and a parameter matches any segment.
fn matches(route: &str, path: &str, same: impl Fn(&str, &str) -> bool) -> bool {
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    let mut literals = route.split('/').filter(|segment| !segment.is_empty());
    let all_same = literals.all(|literal| {
        let segment = segments.next();
        segment.is_some_and(|segment| literal.starts_with('{') || same(literal, segment))
    });
    all_same && segments.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_resembles_a_route_is_answered_with_that_route() {
        for (path, route) in [
            ("/scopes/acme/process/", "POST /scopes/{scope}/process,"),
            ("//scopes/acme/process", "POST /scopes/{scope}/process,"),
            ("/Scopes/acme/Process", "POST /scopes/{scope}/process,"),
            ("/scope/acme/execution", "GET /scopes/{scope}/executions,"),
            (
                "/scopes/acme/executions/x/log",
                "GET /scopes/{scope}/executions/{name}/logs,",
            ),
            ("/Health", "GET /health,"),
        ] {
            assert!(meant(path).contains(route), "{path}: {}", meant(path));
        }
        let anywhere = meant("/scopes/acme");
        assert!(
            anywhere.contains("GET /scopes/{scope}/executions,"),
            "{anywhere}"
        );
        assert!(!meant("/CANARY").contains("CANARY"));
    }
}
