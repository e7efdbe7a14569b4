//! Runs the real client libraries against the emulator, unmodified. They check v2 and Cloud Logging;
//! `tests/gcloud.rs` checks v1.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use emulator::{Emulator, Job, Settings};
use tokio::process::Command;
use tokio::time::timeout;

/// The time limit of a client. A library takes seconds to load, and CI is slow.
const PATIENCE: Duration = Duration::from_secs(240);
/// The time limit for building the client in Rust with its dependencies.
const BUILD: Duration = Duration::from_secs(1200);
/// Exits with `CODE` after `SECONDS`, or fails before the attempt `GOOD_ATTEMPT`.
const PROBE: &str =
    "sleep ${SECONDS:-0}; test $CLOUD_RUN_TASK_ATTEMPT -ge ${GOOD_ATTEMPT:-0} && exit ${CODE:-0}";

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// Whether a requirement of a test is met. In CI it must be.
fn available(found: bool, what: &str) -> bool {
    let required = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(found || !required, "{what}");
    if !found {
        eprintln!("skipped: {what}");
    }
    found
}

/// Runs a program of `tests/clients`, if `probe` finds its library.
async fn run_client(interpreter: &str, probe: &[&str], program: &str) {
    let mut probing = Command::new(interpreter);
    let found = probing.args(probe).current_dir(here()).output().await;
    let found = found.is_ok_and(|found| found.status.success());
    if available(
        found,
        &format!("{interpreter} does not find the library of {program}"),
    ) {
        let mut command = Command::new(interpreter);
        let anonymous = program.starts_with("grpc_");
        succeeds(command.arg(here().join(program)), anonymous).await;
    }
}

/// Runs a client against an emulator of its own and checks its exit code.
async fn succeeds(command: &mut Command, anonymous: bool) {
    let emulator = Emulator::start(Settings {
        jobs: vec![Job::new("probe", ["sh", "-c", PROBE])],
        pending: Duration::from_millis(5),
        allow_commands: true,
        // Clients of gRPC send no credentials over a connection without TLS.
        allow_anonymous: anonymous,
        ..Settings::default()
    })
    .await
    .unwrap();
    command
        .env("EMULATOR_URL", emulator.url())
        .env("GCE_METADATA_HOST", emulator.host())
        .env("GCE_METADATA_IP", emulator.host())
        .env(
            "PREFECT_HOME",
            std::env::temp_dir().join("emulator-prefect"),
        )
        .env("PREFECT_LOGGING_LEVEL", "ERROR")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(PATIENCE, command.output())
        .await
        .unwrap_or_else(|_| panic!("{command:?} does not end"))
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    emulator.stop().await;
}

#[tokio::test]
async fn googles_python_library_works_over_rest() {
    let probe = ["-c", "import google.cloud.run_v2"];
    run_client("python3", &probe, "google_cloud_run.py").await;
}

#[tokio::test]
async fn googles_discovery_client_works_with_v1_and_v2() {
    let probe = ["-c", "import googleapiclient.discovery, google.auth"];
    run_client("python3", &probe, "discovery.py").await;
}

#[tokio::test]
async fn googles_python_library_works_over_grpc() {
    let probe = ["-c", "import google.cloud.run_v2, grpc"];
    run_client("python3", &probe, "grpc_defaults.py").await;
}

#[tokio::test]
async fn googles_node_library_works_over_grpc() {
    let probe = ["-e", "require('@google-cloud/run')"];
    run_client("node", &probe, "grpc_defaults.mjs").await;
}

#[tokio::test]
async fn both_workers_of_prefect_run_flows() {
    let probe = ["-c", "import prefect_gcp.workers.cloud_run_v2"];
    run_client("python3", &probe, "prefect_workers.py").await;
}

#[tokio::test]
async fn googles_node_library_works_over_rest() {
    let probe = ["-e", "require('@google-cloud/run')"];
    run_client("node", &probe, "google_cloud_run.mjs").await;
}

/// Building the client takes minutes, so outside of CI the test runs only if it is built already.
#[tokio::test]
async fn googles_rust_library_works_over_rest() {
    let package = here().join("rust");
    let built = package.join("target").exists();
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    let how = "the client in Rust is not built: cargo build --manifest-path emulator/tests/clients/rust/Cargo.toml";
    if !available(built || ci, how) {
        return;
    }
    let mut build = Command::new(env!("CARGO"));
    build
        .args(["build", "--quiet", "--target-dir", "target"])
        .current_dir(&package)
        .kill_on_drop(true);
    let status = timeout(BUILD, build.status()).await;
    let status = status.expect("the build ends").unwrap();
    assert!(status.success(), "the client in Rust does not build");
    let binary = package.join("target/debug/google-cloud-run-client");
    succeeds(&mut Command::new(binary), false).await;
}

#[tokio::test]
async fn googles_logging_library_reads_lines_by_filters() {
    let probe = ["-c", "import google.cloud.logging, google.cloud.run_v2"];
    run_client("python3", &probe, "google_cloud_logging.py").await;
}
