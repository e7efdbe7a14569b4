//! Runs the real program as Cloud Run would.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn job() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_job"));
    command.env_clear();
    command
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn the_job_prints_the_sorted_environment_and_then_the_arguments() {
    let output = job()
        .envs([("SCOPE", "acme"), ("B", ""), ("A", "1 2")])
        .args(["--scope=acme", "two words"])
        .output()
        .unwrap();
    assert!(output.status.success());
    assert_eq!(
        text(&output),
        "A = 1 2\nB = \nSCOPE = acme\n  ARG: --scope=acme\n  ARG: two words\n"
    );
}

#[test]
fn a_value_cannot_forge_a_line() {
    let output = job()
        .env("A", "x\nSCOPE = evil\u{1b}[31m")
        .output()
        .unwrap();
    assert_eq!(text(&output), "A = x\\nSCOPE = evil\\u{1b}[31m\n");
}

#[test]
fn bytes_that_are_not_utf_8_are_printed_as_replacement_characters() {
    let output = job()
        .env("A", OsStr::from_bytes(b"a\xffb"))
        .arg(OsStr::from_bytes(b"\xfe"))
        .output();
    assert_eq!(text(&output.unwrap()), "A = a\u{fffd}b\n  ARG: \u{fffd}\n");
}

#[test]
fn an_enormous_variable_is_printed_whole() {
    let value = "v".repeat(120 * 1024); // Linux allows 128 KiB for one string
    let output = job().env("A", &value).output().unwrap();
    assert_eq!(text(&output), format!("A = {value}\n"));
}

#[test]
fn a_closed_standard_output_ends_the_job_with_success() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = job()
        .env("SLEEP_SECONDS", "1")
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}

#[test]
fn fail_with_is_the_exit_code() {
    assert_eq!(
        job().env("FAIL_WITH", "7").status().unwrap().code(),
        Some(7)
    );
    assert_eq!(
        job().env("FAIL_WITH", "0").status().unwrap().code(),
        Some(0)
    );
}

#[test]
fn an_invalid_variable_is_refused_by_its_name() {
    for (name, value) in [
        ("FAIL_WITH", "256"),
        ("FAIL_WITH", "-1"),
        ("SLEEP_SECONDS", "soon"),
        ("PROGRESS", "2"),
        ("PROGRESS", "yes"),
    ] {
        let output = job().env(name, value).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{name}={value}");
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn sleep_seconds_prints_a_line_each_second() {
    let begun = Instant::now();
    let output = job().env("SLEEP_SECONDS", "2").output().unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(2));
    assert_eq!(
        text(&output),
        "SLEEP_SECONDS = 2\nworking: 1 of 2 s\nworking: 2 of 2 s\n"
    );
}

#[test]
fn with_progress_1_progress_and_a_result_are_reported() {
    let variables = [("SLEEP_SECONDS", "2"), ("PROGRESS", "1")];
    let output = job().envs(variables).output().unwrap();
    assert_eq!(
        text(&output),
        r#"PROGRESS = 1
SLEEP_SECONDS = 2
{"message": "starting", "processProgress": {"done": 0, "total": 2}}
{"message": "working: 1 of 2 s", "processProgress": {"done": 1, "total": 2}}
{"message": "working: 2 of 2 s", "processProgress": {"done": 2, "total": 2}}
{"message": "finished", "processResult": {"seconds": 2}}
"#
    );
}

#[test]
fn a_failing_job_reports_no_result() {
    let variables = [("FAIL_WITH", "3"), ("PROGRESS", "1")];
    let output = job().envs(variables).output().unwrap();
    assert_eq!(
        text(&output),
        "FAIL_WITH = 3
PROGRESS = 1
{\"message\": \"starting\", \"processProgress\": {\"done\": 0, \"total\": 1}}
"
    );
}

#[test]
fn sigterm_ends_the_job_at_once_and_is_logged() {
    let mut child = job()
        .env("SLEEP_SECONDS", "60")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "SLEEP_SECONDS = 60"); // the signal handler is installed by now
    let begun = Instant::now();
    // This uses the shell's own `kill`, because a small machine may have no other.
    let kill = Command::new("sh")
        .arg("-c")
        .arg(format!("kill {}", child.id()))
        .status()
        .unwrap();
    assert!(kill.success());
    let output = child.wait_with_output().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(
        (output.status.code(), output.status.signal()),
        (Some(143), None)
    );
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "stopped by SIGTERM\n"
    );
}
