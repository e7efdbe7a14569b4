//! `GET /health`: alive. `GET /ready`: able to serve.

use std::sync::Arc;

use axum::extract::State;

use crate::App;
use crate::http::problem::{Kind, Problem};

pub async fn alive() -> &'static str {
    "alive\n"
}

/// Whether a start could be tried: we are not about to stop, and have a token and know where the job is.
pub async fn ready(State(app): State<Arc<App>>) -> Result<&'static str, Problem> {
    if app.is_draining() {
        return Err(Kind::Draining.into());
    }
    app.can_call()
        .await
        .map_err(|error| Problem::from(Kind::UpstreamAuthUnavailable).because(error))?;
    Ok("ready\n")
}
