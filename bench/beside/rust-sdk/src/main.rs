//! The alternative in Rust: axum with Google's client (google-cloud-run-v2, over REST).

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use google_cloud_run_v2::client::Jobs;
use google_cloud_run_v2::model;
use google_cloud_run_v2::model::run_job_request::Overrides;
use google_cloud_run_v2::model::run_job_request::overrides::ContainerOverride;
use serde::Deserialize;
use serde_json::Value;

const JOB: &str = "projects/p/locations/europe-west1/jobs/worker";

#[derive(Deserialize)]
struct Parameters {
    document: String,
    #[serde(default = "limit")]
    limit: u32,
}

fn limit() -> u32 {
    100
}

async fn process(
    State(client): State<Jobs>,
    Path(scope): Path<String>,
    Json(given): Json<Parameters>,
) -> Result<(StatusCode, Json<Value>), (StatusCode, String)> {
    let variable = |name: &str, value: &str| model::EnvVar::new().set_name(name).set_value(value);
    let env = [variable("SCOPE", &scope), variable("LIMIT", &given.limit.to_string())];
    let args = [format!("--scope={scope}"), format!("--document={}", given.document)];
    let container = ContainerOverride::new().set_args(args).set_env(env);
    let overrides = Overrides::new().set_container_overrides([container]);
    let started = client.run_job().set_name(JOB).set_overrides(overrides).send().await;
    let operation = started.map_err(|error| (StatusCode::BAD_GATEWAY, error.to_string()))?;
    let execution: Option<model::Execution> = operation.metadata.and_then(|any| any.to_msg().ok());
    Ok((StatusCode::ACCEPTED, Json(serde_json::to_value(&execution).unwrap_or_default())))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let credentials = google_cloud_auth::credentials::mds::Builder::default().build()?;
    let client = Jobs::builder().with_endpoint(std::env::var("UPSTREAM")?).with_credentials(credentials);
    let app = Router::new().route("/scopes/{scope}/process", post(process)).with_state(client.build().await?);
    let port: u16 = std::env::var("PORT")?.parse()?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    axum::serve(listener, app).await?;
    Ok(())
}
