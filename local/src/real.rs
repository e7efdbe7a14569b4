//! Runs the service on this machine with the real Cloud Run, with gcloud's token.

use anyhow::Context;
use api::config::AuthMode;
use tokio::net::TcpListener;

use crate::arguments::Target;
use crate::metadata::Metadata;
use crate::{emulator_port, first_steps, loopback, own_settings, serve};

/// Runs the service until Ctrl-C.
pub async fn run(target: Target) -> anyhow::Result<()> {
    let mut config = own_settings()?;
    config.cloud_run.job.clone_from(&target.job);
    config.cloud_run.project = Some(target.project.clone());
    config.cloud_run.region = Some(target.region.clone());
    let port = emulator_port()?;
    let listener = TcpListener::bind((loopback::HOST, port))
        .await
        .with_context(|| {
            format!(
                "cannot listen on port {port} (choose another: EMULATOR_PORT=8788 cargo run -- …)"
            )
        })?;
    let host = listener.local_addr()?.to_string();
    config.platform.metadata_host.clone_from(&host);
    println!("asking gcloud for a token");
    let Target {
        project,
        region,
        job,
        ..
    } = &target;
    let place = format!("job {job}, project {project}, region {region}");
    let doctor = format!(
        "GCE_METADATA_HOST={host} API__CLOUD_RUN__JOB={job} API__AUTH__MODE={} cargo run --bin api -- check",
        config.auth.mode.map_or("", AuthMode::as_str)
    );
    let metadata = Metadata::of(target).await?;
    let whose = metadata
        .account()
        .unwrap_or("an account whose name gcloud does not return");
    let warning = format!(
        "*** THIS IS REAL: {place}, as {whose}.
*** Every start here runs the job on Cloud Run, does its work and costs money.
*** Until Ctrl-C every program on this machine can get that account's token from http://{host}."
    );
    let greeting = |port| {
        format!(
            "{warning}\n\n{}
The job's output is on the page and at …/logs. To check the set-up, run the doctor in another terminal:

  {doctor}

Ctrl-C stops the service; running executions continue.
",
            first_steps(port, &config, "")
        )
    };
    tokio::select! {
        served = serve(&config, greeting) => served,
        played = metadata.serve(listener) => played.context("cannot serve gcloud's token"),
    }
}
