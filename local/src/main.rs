//! `cargo run`: the emulator, the sibling job built, and the API pointed at them, all on loopback.

use std::env;
use std::process::ExitCode;

use anyhow::Context;
use api::App;
use api::config::Config;
use emulator::{Emulator, Job, Settings};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

const JOB: &str = "test-job";
const EMULATOR_PORT: u16 = 8787;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("local: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("waiting for SIGTERM")?;
    let emulator = start_emulator().await?;
    let config = config(&emulator)?;
    api::telemetry::init(&config.log)?;
    let app = App::new(&config)?;
    let listener = TcpListener::bind((config.host.as_str(), config.port))
        .await
        .with_context(|| {
            format!(
                "listening on port {} (choose another: PORT=8081 cargo run)",
                config.port
            )
        })?;
    let port = listener.local_addr()?.port();
    println!("{}", welcome(port, &emulator.url()));
    let shutdown = async move {
        tokio::select! { _ = terminate.recv() => {}, _ = tokio::signal::ctrl_c() => {} }
        println!("stopping");
    };
    api::serve(listener, app, shutdown).await;
    emulator.stop().await;
    Ok(())
}

async fn start_emulator() -> anyhow::Result<Emulator> {
    println!("building the job");
    let binary = emulator::job_binary().context("building the package `job`")?;
    let port = emulator_port()?;
    let settings = Settings {
        port,
        jobs: vec![Job {
            max_retries: 0, // as the job is deployed: its own work decides what may be done twice
            ..Job::new(JOB, [binary])
        }],
        allow_anonymous: true, // gcloud has no credentials for an emulator
        faults: true,
        echo: true,
        ..Settings::default()
    };
    let started = Emulator::start(settings).await;
    started.with_context(|| {
        format!(
            "starting the emulator on port {port} (choose another: EMULATOR_PORT=8788 cargo run)"
        )
    })
}

/// The API's own settings still count, so that templates and parameters can be tried here.
fn config(emulator: &Emulator) -> anyhow::Result<Config> {
    let mut config = Config::load()?;
    config.host = "127.0.0.1".to_owned();
    if config.auth.mode.is_empty() {
        config.auth.mode = "public".to_owned();
    }
    config.cloud_run.job = JOB.to_owned();
    config.cloud_run.base_url = emulator.url();
    config.cloud_logging.base_url = emulator.url();
    config.platform.metadata_host = emulator.host();
    Ok(config)
}

fn emulator_port() -> anyhow::Result<u16> {
    match env::var("EMULATOR_PORT") {
        Ok(text) => text
            .parse()
            .context("EMULATOR_PORT must be a port, such as 8788"),
        Err(_) => Ok(EMULATOR_PORT),
    }
}

fn welcome(port: u16, emulator: &str) -> String {
    format!(
        "Ready. Start the job for the scope acme, and see its output here:

  curl -i -X POST localhost:{port}/scopes/acme/process

The same with a button, in a browser:

  http://localhost:{port}/

Cloud Run Jobs is emulated at {emulator}: emulator/README.md says how gcloud and your own programs use it.
Ctrl-C stops everything.
"
    )
}
