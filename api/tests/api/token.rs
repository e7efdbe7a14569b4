//! The access token: how often the metadata server is asked for it, and what happens without one.

use std::time::{Duration, Instant};

use emulator::{Emulator, Fault, FaultBody, Operation, Rule, Settings};
use futures_util::future::join_all;

use crate::helpers::{TestApp, instant_job, problem};

fn status(code: u16, body: FaultBody) -> Fault {
    Fault::answer(code, body)
}

#[tokio::test]
async fn concurrent_requests_share_one_fetch_of_a_token() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    app.emulator
        .faults()
        .add(Rule::new(Operation::Token, Fault::Delay { ms: 500 }));
    let starts = (0..100).map(|_| app.post("/scopes/acme/process").send());
    for response in join_all(starts).await {
        assert_eq!(response.unwrap().status(), 202);
    }
    assert_eq!(app.calls(Operation::Token), 1);
}

#[tokio::test]
async fn a_refused_token_is_replaced_once() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    app.start("acme").await;
    app.emulator.revoke_tokens();
    app.start("acme").await;
    assert_eq!(
        (app.calls(Operation::Token), app.calls(Operation::Run)),
        (2, 3)
    );
    assert_eq!(app.counters().runs, 2);
}

#[tokio::test]
async fn a_token_that_is_always_refused_is_answered_as_upstream_auth() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    app.emulator
        .faults()
        .add(Rule::new(Operation::Run, status(401, FaultBody::default())));
    problem(
        app.post("/scopes/acme/process").send().await.unwrap(),
        "upstream-auth",
    )
    .await;
    assert_eq!((app.calls(Operation::Run), app.counters().runs), (2, 0));
}

#[tokio::test]
async fn refused_tokens_do_not_cause_constant_fetches() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    let refused = status(401, FaultBody::default());
    app.emulator
        .faults()
        .add(Rule::new(Operation::Run, refused.clone()));
    app.emulator
        .faults()
        .add(Rule::new(Operation::List, refused));
    let begun = Instant::now();
    for key in 0..30 {
        problem(app.keyless().await, "upstream-auth").await;
        problem(app.keyed(&key.to_string()).await, "upstream-auth").await;
    }
    let (fetched, seconds) = (app.calls(Operation::Token), begun.elapsed().as_secs());
    assert!(fetched <= 2 + seconds, "{fetched} in {seconds} s");
    app.emulator.faults().clear();
    app.start("acme").await;
}

#[tokio::test]
async fn without_a_token_nothing_is_sent_and_starts_work_again_once_there_is_one() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    let faults = [
        status(500, FaultBody::default()),
        status(200, FaultBody::Html),
        status(200, FaultBody::Text("{}".to_owned())),
        status(
            200,
            FaultBody::Text("{\"access_token\":\"a\\r\\nb\",\"expires_in\":3599}".to_owned()),
        ),
        Fault::Garbage,
        Fault::Huge { bytes: 1 << 20 },
        Fault::Reset,
    ];
    for fault in faults {
        app.emulator.faults().clear();
        app.emulator
            .faults()
            .add(Rule::new(Operation::Token, fault));
        problem(
            app.post("/scopes/acme/process").send().await.unwrap(),
            "upstream-auth-unavailable",
        )
        .await;
        problem(
            app.get("/ready").send().await.unwrap(),
            "upstream-auth-unavailable",
        )
        .await;
        assert_eq!(app.get("/health").send().await.unwrap().status(), 200);
    }
    assert_eq!(app.calls(Operation::Run), 0);
    app.emulator.faults().clear();
    let healed = Instant::now();
    app.start("acme").await;
    assert!(healed.elapsed() < Duration::from_secs(1));
    assert_eq!(app.get("/ready").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_token_near_its_end_is_not_fetched_for_every_request() {
    let settings = Settings {
        jobs: vec![instant_job()],
        token_lifetime: Duration::from_secs(200),
        ..Settings::default()
    };
    let app = TestApp::on(Emulator::start(settings).await.unwrap(), |_| {}).await;
    let begun = Instant::now();
    for _ in 0..50 {
        app.start("acme").await;
    }
    assert!(
        app.calls(Operation::Token) <= 1 + begun.elapsed().as_secs(),
        "more than one fetch a second"
    );
}

#[tokio::test]
async fn project_and_region_are_asked_of_the_metadata_server_once() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    for _ in 0..3 {
        app.start("acme").await;
    }
    assert_eq!(app.calls(Operation::Metadata), 2);
    let configured = TestApp::with(instant_job(), |config| {
        config.cloud_run.project = Some("demo".to_owned());
        config.cloud_run.region = Some("us-east4".to_owned());
    })
    .await;
    configured.start("acme").await;
    assert_eq!(configured.calls(Operation::Metadata), 0);
}

/// Another server answers at the metadata server's address, such as a captive portal or a proxy.
#[tokio::test]
async fn an_answer_without_the_metadata_servers_header_is_refused() {
    let token = || async {
        axum::Json(
            serde_json::json!({"access_token": "CANARY", "expires_in": 3599, "token_type": "Bearer"}),
        )
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let portal = axum::Router::new().fallback(token);
    tokio::spawn(async { axum::serve(listener, portal).await });
    let app = TestApp::with(instant_job(), |config| config.platform.metadata_host = host).await;
    let response = app.keyless().await;
    problem(response, "upstream-auth-unavailable").await;
    assert_eq!(app.calls(Operation::Run), 0);
}
