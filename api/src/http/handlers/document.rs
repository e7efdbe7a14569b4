//! `GET /openapi.json` and `GET /problems/{slug}`: describe this API for programs and for people.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;

use crate::App;
use crate::http::handlers::assets::Asset;
use crate::http::problem::{Kind, Problem};

pub async fn openapi(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    Asset::new("application/json", app.document()).answer(&headers)
}

pub async fn problem(slug: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    let kind = slug.ok().and_then(|Path(slug)| Kind::of_slug(&slug));
    kind.map(Kind::explanation)
        .ok_or_else(|| Kind::NotFound.into())
}
