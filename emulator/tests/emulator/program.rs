//! The program `emulator`: its arguments, its output and its end.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use reqwest::StatusCode;
use serde_json::Value;

use crate::helpers::{client, until_dead};

fn emulator(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emulator"));
    command
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn finished(arguments: &[&str]) -> Output {
    emulator(arguments).output().unwrap()
}

#[test]
fn help_and_version_are_printed() {
    let help = finished(&["--help"]);
    assert!(help.status.success());
    assert!(String::from_utf8_lossy(&help.stdout).contains("--job NAME=COMMAND"));
    let version = finished(&["--version"]);
    assert_eq!(
        String::from_utf8_lossy(&version.stdout),
        concat!("emulator ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn an_invalid_argument_is_refused_with_the_reason() {
    for (arguments, reason) in [
        (&[][..], "--job NAME=COMMAND is missing"),
        (&["--job", "nothing"][..], "must be NAME=COMMAND"),
        (
            &["--job", "a='open"][..],
            "a quote in the command is not closed",
        ),
        (&["--job", "a="][..], "the command is empty"),
        (
            &["--job", "Capital=true", "--port", "0"][..],
            "must use only lowercase letters",
        ),
        (
            &["--job", "a=true", "--job", "a=false", "--port", "0"][..],
            "job a: is given twice",
        ),
        (
            &["--port", "high", "--job", "a=b"][..],
            "--port high: must be a port",
        ),
        (
            &["--project", "", "--job", "a=b"][..],
            "--project : must consist of",
        ),
        (
            &["--region", "us east4", "--job", "a=b"][..],
            "--region us east4: must consist of",
        ),
        (
            &["--host", "here", "--job", "a=b"][..],
            "--host here: must be an IP address",
        ),
        (
            &["--allow-host", "emulator:8787", "--job", "a=b"][..],
            "--allow-host emulator:8787: must be a host name alone",
        ),
        (&["--colour"][..], "--colour"),
    ] {
        let output = finished(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && error.starts_with("emulator: ") && error.contains(reason),
            "{arguments:?}: {error}"
        );
    }
}

#[tokio::test]
async fn the_program_serves_echoes_lines_and_kills_its_children_at_the_end() {
    let job = "sh=sh -c 'echo $$ $HOME; exec sleep 60'";
    let mut child = emulator(&[
        "--port",
        "0",
        "--project",
        "p1",
        "--region",
        "r1",
        "--job",
        job,
        "--allow-anonymous",
        "--allow-commands",
        "--inherit-env",
        "PATH, HOME",
    ])
    .spawn()
    .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let first = lines.next().unwrap();
    let url = first.rsplit(' ').next().unwrap();
    let shown: Vec<String> = lines
        .by_ref()
        .take_while(|line| !line.contains("UPDATE_CHECK"))
        .collect();
    let host = url.strip_prefix("http://").unwrap();
    let for_programs = format!("  export GCE_METADATA_HOST={host} GCE_METADATA_IP={host}");
    assert!(shown.contains(&for_programs), "{shown:?}");
    assert!(
        shown
            .iter()
            .any(|line| line.contains("CLOUDSDK_CORE_PROJECT=p1 CLOUDSDK_RUN_REGION=r1")),
        "{shown:?}"
    );

    let run = format!("{url}/apis/run.googleapis.com/v1/namespaces/p1/jobs/sh:run");
    let response = client().post(run).body("{}").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let execution: Value = response.json().await.unwrap();
    let name = execution["metadata"]["name"].as_str().unwrap();
    let line = lines.find(|line| !line.is_empty()).unwrap();
    let said = line.strip_prefix(&format!("{name} | ")).unwrap();
    let (pid, home) = said.split_once(' ').unwrap();
    assert_eq!(home, std::env::var("HOME").unwrap());

    let id = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    until_dead(pid).await;
}
