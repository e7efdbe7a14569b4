use std::time::Duration;

use emulator::{Fault, FaultBody, Operation, Rule, Settings};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::helpers::{PATIENCE, World, answer, env, settings, shell};

async fn world() -> World {
    World::of(shell("true")).await
}

/// Starts an execution, and returns the body of the answer or the error.
async fn run(world: &World) -> reqwest::Result<String> {
    world
        .request(Method::POST, "jobs/sh:run")
        .body("{}")
        .send()
        .await?
        .text()
        .await
}

fn runs(world: &World) -> u64 {
    world.emulator.counters().runs
}

#[tokio::test]
async fn a_status_fault_happens_before_or_after_the_effect() {
    let world = world().await;
    let rules = [
        Rule::new(Operation::Run, Fault::status(503)),
        Rule::new(Operation::Run, Fault::status(503)).after(),
    ];
    for (rule, started) in rules.into_iter().zip([0, 1]) {
        world.emulator.faults().clear();
        world.emulator.faults().add(rule);
        let (status, refusal) = world.post("jobs/sh:run", json!({})).await;
        assert_eq!(
            (status, &refusal["error"]["status"]),
            (StatusCode::SERVICE_UNAVAILABLE, &json!("UNAVAILABLE"))
        );
        assert_eq!(runs(&world), started);
        // The rule does not match other operations.
        assert_eq!(world.get("executions").await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_status_fault_sends_the_headers_and_the_body_of_the_rule() {
    let world = world().await;
    let headers = [("retry-after".to_owned(), "7".to_owned())].into();
    world.emulator.faults().add(
        Rule::new(
            Operation::Run,
            Fault::Status {
                code: 502,
                headers,
                body: FaultBody::Html,
            },
        )
        .nth(1),
    );
    let location = [("location".to_owned(), "http://127.0.0.1:9/".to_owned())].into();
    let text = FaultBody::Text("{\"expires_in\": -1}".into());
    world.emulator.faults().add(
        Rule::new(
            Operation::Run,
            Fault::Status {
                code: 307,
                headers: location,
                body: text,
            },
        )
        .nth(2),
    );
    let http = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let url = format!(
        "{}/apis/run.googleapis.com/v1/namespaces/demo/jobs/sh:run",
        world.emulator.url()
    );
    let page = http.post(&url).send().await.unwrap();
    assert_eq!(
        (page.status(), &page.headers()["retry-after"]),
        (StatusCode::BAD_GATEWAY, &"7".parse().unwrap())
    );
    assert!(page.text().await.unwrap().starts_with("<!DOCTYPE html>"));
    let redirect = http.post(&url).send().await.unwrap();
    assert_eq!(
        (redirect.status(), &redirect.headers()["location"]),
        (
            StatusCode::TEMPORARY_REDIRECT,
            &"http://127.0.0.1:9/".parse().unwrap()
        )
    );
    assert_eq!(redirect.text().await.unwrap(), "{\"expires_in\": -1}");
    assert_eq!(
        http.post(&url).send().await.unwrap().status(),
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn rules_select_calls_by_count_scope_and_probability() {
    let world = world().await;
    let faults = world.emulator.faults();
    faults.add(
        Rule::new(Operation::Run, Fault::status(500))
            .scope("acme")
            .first(2),
    );
    let mut acme = Vec::new();
    for _ in 0..4 {
        acme.push(
            world
                .post(
                    "jobs/sh:run",
                    json!({ "overrides": env(&[("SCOPE", "acme")]) }),
                )
                .await
                .0
                .as_u16(),
        );
        assert_eq!(
            world
                .post(
                    "jobs/sh:run",
                    json!({ "overrides": env(&[("SCOPE", "globex")]) })
                )
                .await
                .0,
            StatusCode::OK
        );
    }
    assert_eq!(acme, [500, 500, 200, 200]);
    // A rule also matches a get by the scope of its execution.
    let name = world.run(env(&[("SCOPE", "acme")])).await;
    faults.clear();
    faults.add(Rule::new(Operation::Get, Fault::status(500)).scope("acme"));
    assert_eq!(
        world.get(&format!("executions/{name}")).await.0,
        StatusCode::INTERNAL_SERVER_ERROR
    );

    let mut picked = Vec::new();
    for _ in 0..2 {
        faults.clear();
        faults.add(Rule::new(Operation::List, Fault::status(500)).probability(0.3, 42));
        let mut series = Vec::new();
        for _ in 0..100 {
            series.push(world.get("executions?limit=1").await.0 == StatusCode::OK);
        }
        picked.push(series);
    }
    assert_eq!(picked[0], picked[1]);
    let spoiled = picked[0].iter().filter(|fine| !**fine).count();
    assert!((20..=40).contains(&spoiled), "{spoiled}");
}

#[tokio::test]
async fn a_reset_fault_resets_the_tcp_connection() {
    let world = world().await;
    for (rule, started) in [
        (Rule::new(Operation::Run, Fault::Reset), 0),
        (Rule::new(Operation::Run, Fault::Reset).after(), 1),
    ] {
        world.emulator.faults().clear();
        world.emulator.faults().add(rule);
        let mut socket = TcpStream::connect(world.emulator.host()).await.unwrap();
        let request = "POST /apis/run.googleapis.com/v1/namespaces/demo/jobs/sh:run HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n";
        let token = world.fresh_token().await["access_token"]
            .as_str()
            .unwrap()
            .to_owned();
        socket
            .write_all(format!("{request}authorization: Bearer {token}\r\n\r\n{{}}").as_bytes())
            .await
            .unwrap();
        let error = timeout(PATIENCE, socket.read_to_end(&mut Vec::new()))
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(runs(&world), started);
    }
}

#[tokio::test]
async fn a_truncated_answer_ends_before_its_announced_length() {
    let world = world().await;
    world
        .emulator
        .faults()
        .add(Rule::new(Operation::Run, Fault::Truncated { sent: 20 }).after());
    let response = world
        .request(Method::POST, "jobs/sh:run")
        .body("{}")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.content_length().unwrap() > 500);
    let mut response = response;
    assert_eq!(response.chunk().await.unwrap().unwrap().len(), 20);
    assert!(response.chunk().await.is_err());
    assert_eq!(runs(&world), 1);
}

#[tokio::test]
async fn garbage_is_invalid_json_and_a_huge_body_has_the_wanted_length() {
    let world = world().await;
    world
        .emulator
        .faults()
        .add(Rule::new(Operation::Run, Fault::Garbage).nth(1).after());
    world
        .emulator
        .faults()
        .add(Rule::new(Operation::Run, Fault::Huge { bytes: 3_000_000 }).nth(2));
    let garbage = run(&world).await.unwrap();
    assert!(
        serde_json::from_str::<Value>(&garbage).is_err(),
        "{garbage}"
    );
    let huge = run(&world).await.unwrap();
    assert_eq!(
        (huge.len(), serde_json::from_str::<Value>(&huge).unwrap()),
        (3_000_000, json!({}))
    );
    assert_eq!(runs(&world), 1);
}

#[tokio::test]
async fn a_hanging_call_is_never_answered() {
    let world = world().await;
    world
        .emulator
        .faults()
        .add(Rule::new(Operation::Run, Fault::Hang).first(1).after());
    assert!(
        timeout(Duration::from_millis(300), run(&world))
            .await
            .is_err()
    );
    assert_eq!(runs(&world), 1);
    assert!(run(&world).await.unwrap().contains("Execution"));
}

#[tokio::test]
async fn a_dripping_answer_comes_byte_by_byte() {
    let world = world().await;
    world
        .emulator
        .faults()
        .add(Rule::new(Operation::Token, Fault::Drip { interval_ms: 3 }).after());
    let start = Instant::now();
    let (_, body) = world
        .metadata("v1/instance/service-accounts/default/token")
        .await;
    assert!(start.elapsed() >= Duration::from_millis(3) * u32::try_from(body.len()).unwrap());
    assert!(serde_json::from_str::<Value>(&body).is_ok());
}

#[tokio::test]
async fn a_delayed_effect_happens_even_if_the_client_disconnects() {
    let world = world().await;
    world
        .emulator
        .faults()
        .add(Rule::new(Operation::Run, Fault::Delay { ms: 300 }).first(1));
    assert!(
        timeout(Duration::from_millis(100), run(&world))
            .await
            .is_err()
    );
    assert_eq!(runs(&world), 0);
    until_runs(&world, 1).await;
    world.emulator.faults().clear();
    world
        .emulator
        .faults()
        .add(Rule::new(Operation::Run, Fault::Delay { ms: 200 }).after());
    let start = Instant::now();
    assert!(run(&world).await.unwrap().contains("Execution"));
    assert!(start.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn a_late_effect_happens_after_the_faulty_answer() {
    let world = world().await;
    world
        .emulator
        .faults()
        .add(Rule::new(Operation::Run, Fault::status(500)).late(Duration::from_millis(300)));
    assert_eq!(
        world.post("jobs/sh:run", json!({})).await.0,
        StatusCode::INTERNAL_SERVER_ERROR
    );
    assert_eq!(runs(&world), 0);
    until_runs(&world, 1).await;
}

async fn until_runs(world: &World, wanted: u64) {
    let deadline = Instant::now() + PATIENCE;
    while runs(world) < wanted {
        assert!(Instant::now() < deadline);
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_invisible_execution_can_be_read_at_once_and_is_listed_later() {
    let world = world().await;
    world
        .emulator
        .faults()
        .add(Rule::new(Operation::Run, Fault::Invisible { ms: 400 }));
    let name = world.run(json!({})).await;
    assert_eq!(
        world.get(&format!("executions/{name}")).await.0,
        StatusCode::OK
    );
    assert_eq!(world.get("executions").await.1["items"], json!([]));
    let deadline = Instant::now() + PATIENCE;
    while world.get("executions").await.1["items"] == json!([]) {
        assert!(Instant::now() < deadline);
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_hang_up_closes_the_connection_after_the_answer_without_announcing_it() {
    let world = world().await;
    world
        .emulator
        .faults()
        .add(Rule::new(Operation::List, Fault::HangUp { ms: 0 }));
    let mut socket = TcpStream::connect(world.emulator.host()).await.unwrap();
    let request = "GET /apis/run.googleapis.com/v1/namespaces/demo/executions HTTP/1.1\r\nhost: localhost\r\n\r\n";
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, socket.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 401 ") && !answer.to_lowercase().contains("connection: close"),
        "{answer}"
    );
}

#[tokio::test]
async fn calls_runs_and_arrivals_are_counted() {
    let world = world().await;
    world
        .emulator
        .faults()
        .add(Rule::new(Operation::Run, Fault::status(500)).first(1));
    let overrides = env(&[("SCOPE", "acme"), ("INVOCATION_ID", "i-1")]);
    for _ in 0..3 {
        world
            .post("jobs/sh:run", json!({ "overrides": overrides }))
            .await;
    }
    let name = world.emulator.executions()[0].name.clone();
    world
        .post(&format!("executions/{name}:cancel"), json!({}))
        .await;
    world.get(&format!("executions/{name}")).await;
    world.lines(&name).await;
    let counters = world.emulator.counters();
    let calls = [
        Operation::Run,
        Operation::Cancel,
        Operation::Get,
        Operation::Logs,
        Operation::Token,
        Operation::List,
    ];
    assert_eq!(
        calls.map(|operation| counters.calls(operation)),
        [3, 1, 1, 1, 1, 0]
    );
    assert_eq!(
        (
            counters.runs,
            counters.runs_by_scope["acme"],
            counters.runs_by_invocation["i-1"]
        ),
        (2, 2, 2)
    );
    assert_eq!(counters.connections, 1);
    assert_eq!(counters.calls(Operation::Any), 7);
    let arrivals: Vec<_> = counters
        .arrivals
        .iter()
        .filter(|arrival| arrival.operation == Operation::Run)
        .collect();
    assert!(
        arrivals
            .iter()
            .all(|arrival| arrival.invocation.as_deref() == Some("i-1"))
    );
    assert!(arrivals.is_sorted_by_key(|arrival| arrival.at));
}

#[tokio::test]
async fn faults_and_counters_are_served_only_with_the_setting() {
    let closed = world().await;
    assert_eq!(
        closed
            .request(Method::GET, "/emulator/counters")
            .send()
            .await
            .unwrap()
            .status(),
        StatusCode::NOT_FOUND
    );

    let world = World::with(Settings {
        faults: true,
        ..settings(shell("true"))
    })
    .await;
    let rule = json!({ "operation": "run", "scope": "acme", "first": 1, "when": { "late_ms": 1 }, "fault": { "kind": "status", "code": 503, "headers": { "retry-after": "1" }, "body": "html" } });
    let (status, added) = world.post("/emulator/faults", rule).await;
    assert_eq!(
        (status, &added["fault"]["code"]),
        (StatusCode::CREATED, &json!(503))
    );
    for wrong in [
        json!({ "operation": "run" }),
        json!({ "operation": "run", "fault": { "kind": "status", "code": 99 } }),
        json!({ "operation": "run", "fault": { "kind": "status", "code": 500, "headers": { "a b": "" } } }),
        json!({ "operation": "list", "fault": { "kind": "invisible", "ms": 1 } }),
        json!({ "operation": "run", "often": 3, "fault": { "kind": "reset" } }),
        json!({ "operation": "run", "probability": 30, "fault": { "kind": "reset" } }),
    ] {
        assert_eq!(
            world.post("/emulator/faults", wrong.clone()).await.0,
            StatusCode::BAD_REQUEST,
            "{wrong}"
        );
    }
    let response = world
        .request(Method::POST, "jobs/sh:run")
        .json(&json!({ "overrides": env(&[("SCOPE", "acme")]) }))
        .send()
        .await
        .unwrap();
    assert_eq!(
        (response.status(), &response.headers()["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
    );
    assert_eq!(
        world.get("/emulator/faults").await.1["faults"][0]["calls"],
        1
    );
    assert_eq!(
        world
            .request(Method::DELETE, "/emulator/faults")
            .send()
            .await
            .unwrap()
            .status(),
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        world.get("/emulator/faults").await.1,
        json!({ "faults": [] })
    );
    let (_, counters) = answer(world.request(Method::GET, "/emulator/counters")).await;
    assert_eq!(counters["calls"]["run"], 1);
    assert!(counters["arrivals"].is_array());
}
