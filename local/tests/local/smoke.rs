//! Runs `examples/smoke.sh`, which is for a service on Google Cloud, against the service of `cargo run`.

use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::terminal::Terminal;

/// Runs the script with these arguments. Returns whether it succeeded, and its output.
fn smoke(arguments: &[&str]) -> (bool, String) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/smoke.sh");
    let mut command = Command::new(script);
    command.args(arguments).env("PATIENCE", "60");
    let output = command.stdin(Stdio::null()).output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&printed).into_owned(),
    )
}

fn has_curl() -> bool {
    let found = Command::new("curl").arg("--version").output().is_ok();
    assert!(found || std::env::var_os("CI").is_none(), "curl is needed");
    found
}

#[test]
fn the_smoke_test_passes_here_and_fails_for_a_failing_job_or_no_service() {
    if !has_curl() {
        eprintln!("skipped: there is no curl");
        return;
    }
    let sleep = ("API__OVERRIDES__ENV__SLEEP_SECONDS", "4");
    let (terminal, port) = Terminal::local(&[sleep]);
    let (well, table) = smoke(&[&format!("http://127.0.0.1:{port}")]);
    assert!(well && !table.contains("FAILED"), "{table}");
    assert!(table.contains("Everything is as it should be."), "{table}");
    assert!(
        table.lines().filter(|line| line.starts_with("ok ")).count() >= 20,
        "{table}"
    );
    assert!(terminal.end_by(Signal::INT).success());

    // The smoke test must fail if the job fails.
    let failing = ("API__OVERRIDES__ENV__FAIL_WITH", "3");
    let (terminal, port) = Terminal::local(&[sleep, failing]);
    let (well, table) = smoke(&[&format!("http://127.0.0.1:{port}")]);
    assert!(
        !well && table.contains("failed instead of succeeded"),
        "{table}"
    );
    assert!(terminal.end_by(Signal::INT).success());

    let (well, printed) = smoke(&["http://127.0.0.1:1"]);
    assert!(!well && printed.contains("cannot be reached"), "{printed}");
}
