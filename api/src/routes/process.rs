//! `POST /scopes/{scope}/process`: starts one execution of the job for the scope.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::IntoResponse;
use axum::{Extension, Json};

use super::report::About;
use crate::App;
use crate::auth::{Granted, Start};
use crate::extract::{Fields, NoFields, json_body};
use crate::problem::Problem;

pub async fn start(
    State(app): State<Arc<App>>,
    granted: Granted<Start>,
    _: Fields<NoFields>,
    request: Request,
) -> Result<impl IntoResponse, Problem> {
    let values = app.parameters.check(&json_body(request).await?)?;
    let overrides = app
        .templates
        .render(&granted.scope, &values, &app.starts.invocation_id()?)?;
    let execution = app.starts.start(overrides).await?;
    let location = [(LOCATION, execution.links.itself.clone())];
    Ok((
        StatusCode::ACCEPTED,
        location,
        Extension(About::from(&execution)),
        Json(execution),
    ))
}
