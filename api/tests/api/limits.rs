//! Too much: of one caller, for one scope, and at one time.

use emulator::{Fault, Operation, Rule};

use crate::helpers::{TestApp, eventually, instant_job, problem};

#[tokio::test]
async fn a_caller_who_asks_too_often_is_told_to_wait_on_every_route() {
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
        // Here nobody runs Cloud Run's front end, so that anyone can write this.
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
async fn who_is_refused_is_counted_too() {
    let app = TestApp::with(instant_job(), |config| config.limits.caller_per_minute = 5).await;
    for _ in 0..5 {
        let response = app.get("/scopes/-/executions").send().await.unwrap();
        problem(response, "invalid-scope").await;
    }
    let response = app.get("/scopes/-/executions").send().await.unwrap();
    problem(response, "rate-limited").await;
}

#[tokio::test]
async fn a_scope_is_started_so_often_and_no_more_while_others_go_on() {
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
async fn however_busy_it_says_that_it_is_alive_and_a_refusal_is_a_problem() {
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
