//! `cargo run`: the service on loopback, beside an emulator of Cloud Run, or in front of the real one.

mod arguments;
mod emulated;
mod gcloud;
mod loopback;
mod metadata;
mod real;

use std::env;
use std::process::ExitCode;

use anyhow::Context;
use api::App;
use api::config::{AuthMode, Config};
use tokio::signal::unix::{SignalKind, signal};

use crate::arguments::{HELP, Wanted};

/// The port of the emulator or, with the real Cloud Run, of the metadata server.
const EMULATOR_PORT: u16 = 8787;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let outcome = match arguments::parse(lexopt::Parser::from_env()) {
        Ok(Wanted::Help) => {
            print!("{HELP}");
            Ok(())
        }
        Ok(Wanted::Emulator { command }) => emulated::run(command).await,
        Ok(Wanted::CloudRun(target)) => real::run(target).await,
        Err(error) => Err(anyhow::anyhow!("{error}. Try cargo run -- --help")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("local: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until Ctrl-C or SIGTERM. `greeting` makes the text to print, from the port, once the service accepts
/// requests.
async fn serve(config: &Config, greeting: impl FnOnce(u16) -> String) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    api::telemetry::init(&config.log)?;
    let app = App::new(config)?;
    let listener = loopback::listen(config.port).await.with_context(|| {
        format!(
            "cannot listen on port {} (choose another: PORT=8081 cargo run)",
            config.port
        )
    })?;
    println!("{}", greeting(listener.local_addr()?.port()));
    let shutdown = async move {
        tokio::select! { _ = terminate.recv() => {}, _ = tokio::signal::ctrl_c() => {} }
        println!("stopping");
    };
    api::serve(listener, app, shutdown).await;
    Ok(())
}

/// The service's own settings, so that templates and parameters can be tried, but on loopback.
fn own_settings() -> anyhow::Result<Config> {
    let mut config = Config::load()?;
    config.host = loopback::HOST.to_string();
    config.auth.mode.get_or_insert(AuthMode::Public);
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

/// The commands to try first. `where_to_look` says where the job's output appears, if that is in this terminal.
fn first_steps(port: u16, config: &Config, where_to_look: &str) -> String {
    let (header, token) = match config.auth.mode {
        Some(AuthMode::Jwt) => (" -H \"Authorization: Bearer $TOKEN\"", token_line(config)),
        _ => ("", String::new()),
    };
    format!(
        "Ready. Start the job for the scope acme{where_to_look}:
{token}
  curl -i -X POST localhost:{port}/scopes/acme/process{header}

The same with a button, in a browser:

  http://localhost:{port}/
"
    )
}

/// The line that sets TOKEN for curl: to a scope token, if these settings can sign one.
fn token_line(config: &Config) -> String {
    let arguments = [
        "acme",
        "--operations",
        "start,read,cancel",
        "--minutes",
        "60",
    ];
    match api::mint::mint(config, arguments.map(Into::into)) {
        Ok(token) => format!("\n  TOKEN={token} # for an hour"),
        Err(_) => "\n  TOKEN=… # a token of your issuer; docs/who-may-call.md says how to get one"
            .to_owned(),
    }
}
