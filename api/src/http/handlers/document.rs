//! `GET /openapi.json` and `GET /problems/{slug}`: what a program, and what a person, needs to know of this API.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use crate::App;
use crate::http::problem::{Kind, Problem};

pub async fn openapi(State(app): State<Arc<App>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], app.document())
}

pub async fn problem(slug: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    let kind = slug.ok().and_then(|Path(slug)| Kind::of_slug(&slug));
    kind.map(Kind::explanation)
        .ok_or_else(|| Kind::NotFound.into())
}
