//! Runs the service with the emulator. The job is the sample job, which it builds, or a command of the user.

use std::ffi::OsString;

use anyhow::Context;
use api::config::Config;
use emulator::{Emulator, Job, Settings};

use crate::{emulator_port, first_steps, own_settings, serve};

const JOB: &str = "test-job";

/// Runs emulator and service until Ctrl-C.
pub async fn run(command: Option<Vec<String>>) -> anyhow::Result<()> {
    let emulator = start_emulator(command).await?;
    let config = config(&emulator)?;
    let url = emulator.url();
    serve(&config, |port| {
        format!(
            "{}
Cloud Run Jobs is emulated at {url}: emulator/README.md says how gcloud and your own programs use it.
cargo run -- --help says how to run a job of your own, and how to use the real Cloud Run.
Ctrl-C stops everything.
",
            first_steps(port, &config, ", and see its output here")
        )
    })
    .await?;
    emulator.stop().await;
    Ok(())
}

async fn start_emulator(command: Option<Vec<String>>) -> anyhow::Result<Emulator> {
    let port = emulator_port()?;
    // A user's command needs the PATH and the home that an image would have. The sample job needs neither.
    let inherited: &[&str] = match command {
        Some(_) => &["PATH", "HOME"],
        None => &[],
    };
    let settings = Settings {
        inherit_env: inherited.iter().map(ToString::to_string).collect(),
        port,
        jobs: vec![Job {
            max_retries: 0, // as in the deployment script: only the job's author knows whether it may run twice
            ..job(command)?
        }],
        allow_anonymous: true, // gcloud has no credentials for an emulator
        faults: true,
        echo: true,
        ..Settings::default()
    };
    let started = Emulator::start(settings).await;
    started.with_context(|| {
        format!(
            "cannot start the emulator on port {port} (choose another: EMULATOR_PORT=8788 cargo run)"
        )
    })
}

/// The sample job, or the user's command.
fn job(command: Option<Vec<String>>) -> anyhow::Result<Job> {
    if let Some(words) = command {
        println!("the job is: {}", words.join(" "));
        return Ok(Job::new(JOB, words.into_iter().map(OsString::from)));
    }
    println!("building the job");
    let binary = emulator::job_binary().context("cannot build the package `job`")?;
    Ok(Job::new(JOB, [binary]))
}

fn config(emulator: &Emulator) -> anyhow::Result<Config> {
    let mut config = own_settings()?;
    config.cloud_run.job = JOB.to_owned();
    config.cloud_run.base_url = Some(emulator.url());
    config.cloud_logging.base_url = emulator.url();
    config.platform.metadata_host = emulator.host();
    Ok(config)
}
