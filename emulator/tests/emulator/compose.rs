//! `Dockerfile.emulator` and `examples/compose.yaml`: that the YAML is valid and that the emulator accepts the
//! arguments.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use reqwest::StatusCode;
use serde_json::Value;

use crate::helpers::client;

const COMPOSE: &str = include_str!("../../../examples/compose.yaml");
const DOCKERFILE: &str = include_str!("../../../Dockerfile.emulator");

/// The file as JSON, converted by Python's YAML parser; `None` if that is not installed.
fn parsed() -> Option<Value> {
    let script = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.argv[1])))";
    let output = Command::new("python3")
        .args(["-c", script, COMPOSE])
        .output();
    let printed = output.ok().filter(|output| output.status.success());
    let required = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(
        printed.is_some() || !required,
        "needed here: pip install pyyaml"
    );
    if printed.is_none() {
        eprintln!("skipped: python3 lacks a parser of YAML (pip install pyyaml)");
    }
    Some(serde_json::from_slice(&printed?.stdout).unwrap())
}

fn texts(list: &Value) -> Vec<String> {
    let texts = list.as_array().unwrap().iter();
    texts
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn the_emulator_accepts_the_arguments_of_its_container() {
    let Some(compose) = parsed() else { return };
    let entrypoint = DOCKERFILE
        .lines()
        .find_map(|line| line.strip_prefix("ENTRYPOINT "));
    let entrypoint = texts(&serde_json::from_str(entrypoint.unwrap()).unwrap());
    assert_eq!(entrypoint[0], "/emulator");
    let mut emulator = Command::new(env!("CARGO_BIN_EXE_emulator"))
        .args(&entrypoint[1..])
        .args(texts(&compose["services"]["emulator"]["command"]))
        .args(["--port", "0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(emulator.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    let url = line.trim().rsplit(' ').next().unwrap();
    let jobs = format!("{url}/apis/run.googleapis.com/v1/namespaces/demo/jobs");
    let request = client().get(jobs).header("host", "emulator:8787");
    let response = request.send().await.unwrap();
    let status = response.status();
    let jobs: Value = response.json().await.unwrap();
    emulator.kill().unwrap();
    emulator.wait().unwrap();
    assert_eq!(status, StatusCode::OK, "{jobs}");
    assert_eq!(jobs["items"][0]["metadata"]["name"], "test-job");
}

#[test]
fn the_services_of_the_compose_file_use_one_port() {
    let Some(compose) = parsed() else { return };
    let services = compose["services"].as_object().unwrap();
    let names: std::collections::BTreeSet<_> = services.keys().collect();
    assert!(names.into_iter().eq(["api", "emulator"]));
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    for (name, service) in services {
        let dockerfile = service["build"]["dockerfile"].as_str().unwrap();
        assert!(
            std::fs::exists(format!("{root}/{dockerfile}")).unwrap(),
            "{name}"
        );
        assert_eq!(service["build"]["context"], "..");
    }
    let port = DOCKERFILE
        .lines()
        .find_map(|line| line.strip_prefix("EXPOSE "))
        .unwrap();
    let published = format!("127.0.0.1:{port}:{port}");
    assert!(texts(&services["emulator"]["ports"]).contains(&published));
    for (name, value) in services["api"]["environment"].as_object().unwrap() {
        if name.ends_with("_URL") || name.ends_with("_HOST") {
            let host = value.as_str().unwrap().trim_start_matches("http://");
            assert_eq!(host, format!("127.0.0.1:{port}"), "{name}");
        }
    }
}
