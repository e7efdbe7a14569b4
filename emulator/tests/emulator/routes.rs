//! Host names, browsers and URLs that are refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use emulator::Settings;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::helpers::{World, answer, settings, shell};

#[tokio::test]
async fn a_host_name_is_accepted_only_if_it_is_allowed() {
    let world = World::with(Settings {
        allow_hosts: vec!["emulator".into(), "Other.Example".into()],
        ..settings(shell("true"))
    })
    .await;
    for (host, expected) in [
        ("127.0.0.1", StatusCode::OK),
        ("localhost:8787", StatusCode::OK),
        ("[::1]:8787", StatusCode::OK),
        ("172.17.0.2:8787", StatusCode::OK),
        ("metadata.google.internal", StatusCode::OK),
        ("us-east4-run.googleapis.com", StatusCode::OK),
        ("emulator:8787", StatusCode::OK),
        ("other.example", StatusCode::OK),
        ("LocalHost", StatusCode::OK),
        ("metadata", StatusCode::OK),
        ("metadata.google.internal.", StatusCode::OK),
        ("evil.example", StatusCode::FORBIDDEN),
        ("emulator.evil.example:8787", StatusCode::FORBIDDEN),
        ("127.0.0.1.evil.example", StatusCode::FORBIDDEN),
        ("googleapis.com.evil.example", StatusCode::FORBIDDEN),
        ("", StatusCode::FORBIDDEN),
    ] {
        let request = world.request(Method::GET, "jobs").header("host", host);
        let (status, body) = answer(request).await;
        assert_eq!(status, expected, "{host}: {body}");
        let message = body["error"]["message"].as_str().unwrap_or_default();
        let cure = "Start it with --allow-host";
        assert_eq!(
            message.contains(cure),
            expected != StatusCode::OK,
            "{message}"
        );
    }
}

#[tokio::test]
async fn a_request_with_an_origin_is_refused_under_every_host_name() {
    let world = World::of(shell("true")).await;
    for origin in ["https://evil.example", "null", "http://127.0.0.1:3000"] {
        let request = world.request(Method::GET, "jobs").header("origin", origin);
        assert_eq!(answer(request).await.0, StatusCode::FORBIDDEN, "{origin}");
    }
}

#[tokio::test]
async fn the_emulator_listens_on_the_given_host_and_tasks_reach_it() {
    let mut hosts: Vec<(IpAddr, &str)> = vec![
        (Ipv4Addr::UNSPECIFIED.into(), "127.0.0.1:"),
        (Ipv4Addr::new(127, 0, 0, 2).into(), "127.0.0.2:"),
    ];
    if std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        hosts.push((Ipv6Addr::LOCALHOST.into(), "[::1]:"));
        hosts.push((Ipv6Addr::UNSPECIFIED.into(), "[::1]:"));
    }
    for (host, address) in hosts {
        let world = World::with(Settings {
            host,
            ..settings(shell("echo $GCE_METADATA_HOST"))
        })
        .await;
        assert!(world.emulator.host().starts_with(address), "{host}");
        let name = world.run(json!({})).await;
        let lines = world.until_lines(&name, 1).await;
        assert_eq!(lines, [world.emulator.host()], "{host}");
    }
}

#[tokio::test]
async fn an_unknown_url_is_refused_in_json_that_lists_what_is_served() {
    let world = World::of(shell("true")).await;
    for (method, path) in [
        (Method::GET, "/v1/projects/demo/secrets"),
        (Method::POST, "/v2/entries:write"),
        (Method::GET, "/v2/entries:list"),
        (Method::GET, "/nothing"),
    ] {
        let (status, body) = answer(world.request(method.clone(), path)).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(
            (&body["error"]["code"], &body["error"]["status"]),
            (&json!(404), &json!("NOT_FOUND"))
        );
        let message = body["error"]["message"].as_str().unwrap();
        assert!(
            message.contains(&format!("{method} {path}")) && message.contains("entries:list"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn the_project_its_region_and_its_logs_can_be_read() {
    let world = World::of(shell("true")).await;
    for project in ["demo", "123456789012"] {
        let (status, body) = world.get(&format!("/v1/projects/{project}")).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(
            (&body["projectId"], &body["projectNumber"]),
            (&json!("demo"), &json!("123456789012"))
        );
    }
    assert_eq!(
        world.get("/v1/projects/other").await.0,
        StatusCode::FORBIDDEN
    );
    let (_, locations) = world.get("/v1/projects/demo/locations").await;
    assert_eq!(locations["locations"][0]["locationId"], "us-east4");
    let services = "/apis/serving.knative.dev/v1/namespaces/demo/services";
    assert_eq!(world.get(services).await.1["items"], json!([]));
    let (_, logs) = world.get("/v2/projects/demo/logs").await;
    let names: Vec<Value> = logs["logNames"].as_array().cloned().unwrap();
    assert!(names.contains(&json!("projects/demo/logs/run.googleapis.com%2Fstdout")));
}
