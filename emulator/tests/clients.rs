//! The judges of v2: the real client libraries, as their users have them. `tests/gcloud.rs` is the judge of v1.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use emulator::{Emulator, Job, Settings};
use tokio::process::Command;
use tokio::time::timeout;

/// Generous: a library takes seconds to load, and CI is slow.
const PATIENCE: Duration = Duration::from_secs(240);
/// Exits with `CODE` after `SECONDS`, or fails before the attempt `GOOD_ATTEMPT`.
const PROBE: &str =
    "sleep ${SECONDS:-0}; test $CLOUD_RUN_TASK_ATTEMPT -ge ${GOOD_ATTEMPT:-0} && exit ${CODE:-0}";

/// Runs a program of `tests/clients` against an emulator of its own; `probe` tells whether its library is there.
async fn judge(interpreter: &str, probe: &[&str], program: &str) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let mut probing = Command::new(interpreter);
    probing.args(probe).current_dir(&here);
    let found = probing.output().await;
    if !found.is_ok_and(|found| found.status.success()) {
        let required = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(
            !required,
            "{program} needs a library that {interpreter} does not find"
        );
        eprintln!("skipped: {interpreter} does not find the library of {program}");
        return;
    }
    let emulator = Emulator::start(Settings {
        jobs: vec![Job::new("probe", ["sh", "-c", PROBE])],
        pending: Duration::from_millis(5),
        allow_commands: true,
        ..Settings::default()
    })
    .await
    .unwrap();
    let mut command = Command::new(interpreter);
    command
        .arg(here.join(program))
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
        .unwrap_or_else(|_| panic!("{program} does not end"))
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{program}: {}\n{}\n{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    emulator.stop().await;
}

#[tokio::test]
async fn googles_python_library_does_all_it_can() {
    let probe = ["-c", "import google.cloud.run_v2"];
    judge("python3", &probe, "google_cloud_run.py").await;
}

#[tokio::test]
async fn googles_discovery_client_does_all_it_can_in_both_versions() {
    let probe = ["-c", "import googleapiclient.discovery, google.auth"];
    judge("python3", &probe, "discovery.py").await;
}

#[tokio::test]
async fn prefects_workers_run_flows() {
    let probe = ["-c", "import prefect_gcp.workers.cloud_run_v2"];
    judge("python3", &probe, "prefect_workers.py").await;
}

#[tokio::test]
async fn googles_node_library_does_all_it_can() {
    let probe = ["-e", "require('@google-cloud/run')"];
    judge("node", &probe, "google_cloud_run.mjs").await;
}
