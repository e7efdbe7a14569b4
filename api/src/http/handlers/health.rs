//! `GET /health`: the process is alive. `GET /ready`: executions can be started.

use std::sync::Arc;

use axum::extract::State;

use crate::App;
use crate::http::problem::{Kind, Problem};

pub async fn alive() -> &'static str {
    "alive\n"
}

/// Whether a start could be tried: we are not about to stop, have a token, know where the job is, and have reached the store.
pub async fn ready(State(app): State<Arc<App>>) -> Result<&'static str, Problem> {
    if app.is_draining() {
        return Err(Kind::Draining.into());
    }
    app.can_call()
        .await
        .map_err(|error| Problem::from(Kind::UpstreamAuthUnavailable).because(error))?;
    app.starts.reached_store().await?;
    Ok("ready\n")
}
