//! The program: it reads the settings, opens the socket, and runs the library.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use api::check;
use api::{App, config::Config, http::server, mint, telemetry};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

const HELP: &str = "\
Starts a Cloud Run Job for a scope and follows it to its end.

Usage: api            serves
       api check      looks whether everything is there that it needs; with --json for programs;
                      with --settings-only judges the settings alone and sends nothing to anybody
       api token      makes a scope token for curl: api token acme --operations start,read --minutes 15
       api openapi    prints the OpenAPI document of the service as it is configured
       api --help, api --version

Settings come from the environment (API__CLOUD_RUN__JOB=my-job) and from the TOML file that API_CONFIG names.
Required: API__CLOUD_RUN__JOB, API__AUTH__MODE. docs/settings.md lists them all.";

/// One thread suffices: a request is little work and much waiting, and Cloud Run's smallest instance has one processor.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        [] => run().await,
        ["token", .., "--help" | "-h"] => return say(mint::USAGE),
        ["check" | "openapi", .., "--help" | "-h"] => return say(HELP),
        ["check", ref options @ ..] => match CheckOptions::parse(options) {
            Ok(options) => return check(options).await,
            Err(error) => Err(error),
        },
        ["openapi"] => openapi(),
        ["token", ..] => token(),
        ["--help" | "-h"] => return say(HELP),
        ["--version" | "-V"] => return say(concat!("api ", env!("CARGO_PKG_VERSION"))),
        [unknown, ..] => Err(unknown_argument(unknown)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("api: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let config = Config::load()?;
    telemetry::init(&config.log)?;
    server::raise_open_files();
    let app = App::new(&config)?;
    let mut terminate = signal(SignalKind::terminate()).context("waiting for SIGTERM")?;
    let address = (config.host.as_str(), config.port);
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {}:{} (PORT, API__HOST)", address.0, address.1))?;
    tracing::info!(address = %listener.local_addr()?, version = env!("CARGO_PKG_VERSION"), "listening");
    tokio::spawn(app.warm_up());
    let shutdown = async move {
        tokio::select! { _ = terminate.recv() => {}, _ = tokio::signal::ctrl_c() => {} }
        tracing::info!("draining");
    };
    api::serve(listener, app, shutdown).await;
    Ok(())
}

/// The options of `api check`.
#[derive(Clone, Copy, Default)]
struct CheckOptions {
    json: bool,
    settings_only: bool,
}

impl CheckOptions {
    fn parse(arguments: &[&str]) -> anyhow::Result<Self> {
        let mut options = Self::default();
        for argument in arguments {
            match *argument {
                "--json" => options.json = true,
                "--settings-only" => options.settings_only = true,
                unknown => return Err(unknown_argument(unknown)),
            }
        }
        Ok(options)
    }
}

fn unknown_argument(argument: &str) -> anyhow::Error {
    anyhow::anyhow!("unknown argument {argument:?}; try api --help")
}

async fn check(options: CheckOptions) -> ExitCode {
    let settings = Config::load();
    let report = if options.settings_only {
        check::settings(settings)
    } else {
        check::check(settings).await
    };
    if options.json {
        println!("{:#}", report.json());
    } else {
        print!("{report}");
    }
    ExitCode::from(u8::from(!report.is_well()))
}

fn openapi() -> anyhow::Result<()> {
    let document = App::new(&Config::load()?)?.document();
    std::io::stdout().write_all(&document).context("printing")
}

fn token() -> anyhow::Result<()> {
    let token = mint::mint(&Config::load()?, std::env::args_os().skip(2))?;
    println!("{token}");
    Ok(())
}

fn say(text: &str) -> ExitCode {
    println!("{text}");
    ExitCode::SUCCESS
}
