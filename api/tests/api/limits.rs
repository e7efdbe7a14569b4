//! Rates per caller and per scope, and the number of concurrent requests.

use emulator::{Fault, Operation, Rule};
use futures_util::future::join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::auth;
use crate::helpers::{TestApp, eventually, instant_job, link, problem};
use crate::issuer::Issuer;

#[tokio::test]
async fn every_route_answers_429_with_retry_after_beyond_the_callers_rate() {
    let app = TestApp::with(instant_job(), |config| config.limits.caller_per_minute = 5).await;
    let execution = app.start("acme").await;
    for _ in 0..4 {
        let response = app.get("/scopes/acme/executions").send().await.unwrap();
        assert_eq!(response.status(), 200);
    }
    let one = format!(
        "/scopes/other/executions/{}",
        execution["name"].as_str().unwrap()
    );
    let calls = app.calls(Operation::Any);
    for request in [
        app.post("/scopes/acme/process"),
        app.get("/scopes/acme/executions"),
        app.get(&one),
        app.get(&format!("{one}/logs")),
        app.post(&format!("{one}/cancel")),
        // Without Cloud Run's front end the client can forge this header.
        app.get("/scopes/acme/executions")
            .header("x-forwarded-for", "192.0.2.1"),
    ] {
        let response = request.send().await.unwrap();
        let wait: u64 = response.headers()["retry-after"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!((1..=13).contains(&wait), "{wait}"); // one in twelve seconds
        problem(response, "rate-limited").await;
    }
    assert_eq!(app.calls(Operation::Any), calls);
    for path in ["/health", "/ready"] {
        assert_eq!(app.get(path).send().await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn refused_requests_count_against_the_rate() {
    let app = TestApp::with(instant_job(), |config| config.limits.caller_per_minute = 5).await;
    for _ in 0..5 {
        let response = app.get("/scopes/-/executions").send().await.unwrap();
        problem(response, "invalid-scope").await;
    }
    let response = app.get("/scopes/-/executions").send().await.unwrap();
    problem(response, "rate-limited").await;
}

#[tokio::test]
async fn starts_beyond_a_scopes_rate_are_refused_and_other_scopes_are_not_affected() {
    let app = TestApp::with(instant_job(), |config| config.limits.scope_per_minute = 3).await;
    for _ in 0..3 {
        app.start("acme").await;
    }
    let response = app.post("/scopes/acme/process").send().await.unwrap();
    problem(response, "rate-limited").await;
    assert_eq!(
        app.get("/scopes/acme/executions")
            .send()
            .await
            .unwrap()
            .status(),
        200,
        "reads cost nothing"
    );
    app.start("globex").await;
    assert_eq!(app.counters().runs, 4);
}

#[tokio::test]
async fn health_answers_under_overload_and_refusals_are_problems() {
    let app = TestApp::with(instant_job(), |config| config.limits.in_flight = 1).await;
    app.emulator
        .faults()
        .add(Rule::new(Operation::Run, Fault::Delay { ms: 1000 }));
    let start = app.post("/scopes/acme/process").send();
    let meanwhile = async {
        eventually(|| app.calls(Operation::Run) == 1).await;
        let response = app.get("/scopes/acme/executions").send().await.unwrap();
        problem(response, "overloaded").await;
        for path in ["/health", "/ready", "/nowhere"] {
            assert_ne!(app.get(path).send().await.unwrap().status(), 503, "{path}");
        }
    };
    assert_eq!(tokio::join!(start, meanwhile).0.unwrap().status(), 202);
    assert_eq!(
        app.get("/scopes/acme/executions")
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
}

/// The most concurrent requests in the tests of shares, and those of one caller.
const CAPACITY: usize = 8;
const SHARE: usize = CAPACITY / 2;

/// Sends a request's head but not its body. Returns the connection if the request is admitted, or else the answer.
async fn without_body(app: &TestApp, headers: &str) -> Result<TcpStream, String> {
    let mut stream = TcpStream::connect(app.url.strip_prefix("http://").unwrap())
        .await
        .unwrap();
    let head = format!(
        "POST /scopes/acme/process HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 2\r\nexpect: 100-continue\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // A handler that reads the body sends 100 Continue first. A refusal does not.
    let mut answer = vec![0; 4096];
    let read = stream.read(&mut answer).await.unwrap();
    if answer.starts_with(b"HTTP/1.1 100") {
        Ok(stream)
    } else {
        Err(String::from_utf8_lossy(&answer[..read]).into_owned())
    }
}

#[tokio::test]
async fn one_caller_holds_half_of_the_requests_in_flight_with_bodies_that_never_come() {
    let grants = json!(["evil", "good"].map(|subject| {
        json!({"claim": "sub", "value": subject, "scopes": ["*"], "operations": ["start", "read"]})
    }));
    let issuer = Issuer::start().await;
    let app = TestApp::with(instant_job(), |config| {
        auth::jwt(config, &issuer, grants);
        config.limits.in_flight = CAPACITY as u32;
    })
    .await;
    let (evil, good) = (auth::token("evil"), auth::token("good"));
    let start = |token: &str| app.post("/scopes/acme/process").bearer_auth(token).send();
    assert_eq!(start(&evil).await.unwrap().status(), 202); // fetches the issuer's keys

    let headers = format!("authorization: Bearer {evil}\r\n");
    let mut held = Vec::new();
    for _ in 0..SHARE {
        held.push(without_body(&app, &headers).await.unwrap());
    }
    for _ in 0..3 {
        let refused = without_body(&app, &headers).await.unwrap_err();
        assert!(
            refused.starts_with("HTTP/1.1 503") && refused.contains("/problems/overloaded"),
            "{refused}"
        );
        let response = start(&evil).await.unwrap();
        let problem = problem(response, "overloaded").await;
        assert!(
            problem["detail"].as_str().unwrap().contains("one caller"),
            "{problem}"
        );
    }
    let starts = join_all((0..SHARE).map(|_| start(&good))).await;
    for response in starts {
        assert_eq!(response.unwrap().status(), 202);
    }
    drop(held.pop());
    eventually_accepted(|| start(&evil)).await;
    drop(held);
}

/// Sends requests until one is accepted.
async fn eventually_accepted<F>(send: impl Fn() -> F)
where
    F: Future<Output = reqwest::Result<reqwest::Response>>,
{
    let accepted = async { while send().await.unwrap().status() != 202 {} };
    tokio::time::timeout(crate::helpers::PATIENCE, accepted)
        .await
        .unwrap();
}

#[tokio::test]
async fn without_identities_an_address_holds_half() {
    let app = TestApp::with(instant_job(), |config| {
        config.limits.in_flight = CAPACITY as u32;
        config.limits.streams = CAPACITY as u32;
        config.limits.trusted_proxies = 1;
    })
    .await;
    let from = |address: &str| format!("x-forwarded-for: {address}\r\n");
    let mut held = Vec::new();
    for _ in 0..SHARE {
        held.push(
            without_body(&app, &from("192.0.2.1, 198.51.100.7"))
                .await
                .unwrap(),
        );
    }
    without_body(&app, &from("198.51.100.7")).await.unwrap_err();
    held.push(without_body(&app, &from("198.51.100.8")).await.unwrap());
    drop(held);

    let execution = app.start("acme").await;
    let events = link(&execution, "events");
    let open = |address: &'static str| app.get(events).header("x-forwarded-for", address).send();
    let mut streams = Vec::new();
    for _ in 0..SHARE {
        streams.push(open("198.51.100.7").await.unwrap());
    }
    assert!(streams.iter().all(|stream| stream.status() == 200));
    problem(open("198.51.100.7").await.unwrap(), "overloaded").await;
    assert_eq!(open("198.51.100.8").await.unwrap().status(), 200);
}
