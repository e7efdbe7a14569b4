//! Starts by Cloud Scheduler and Cloud Tasks, which deliver at least once and send headers that identify a run.

use api::config::{AuthMode, Config};
use reqwest::Response;
use serde_json::{Value, json};

use crate::auth::{all_to_u1, jwt, token};
use crate::helpers::{TestApp, instant_job, problem};
use crate::issuer::Issuer;

async fn spawn(configure: impl FnOnce(&mut Config)) -> TestApp {
    TestApp::with(instant_job(), |config| {
        config.auth.mode = Some(AuthMode::Iam);
        config.idempotency.from_google = true;
        configure(config);
    })
    .await
}

async fn start(app: &TestApp, headers: &[(&str, &str)]) -> Response {
    let mut request = app.post("/scopes/acme/process");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

async fn name(response: Response) -> String {
    assert_eq!(response.status(), 202);
    let execution: Value = response.json().await.unwrap();
    execution["name"].as_str().unwrap().to_owned()
}

const JOB_NAME: &str = "x-cloudscheduler-jobname";
const TIME: &str = "x-cloudscheduler-scheduletime";
const TASK: &str = "x-cloudtasks-taskname";

#[tokio::test]
async fn each_run_of_a_schedule_starts_one_execution() {
    let app = spawn(|_| {}).await;
    let tonight = [(JOB_NAME, "nightly"), (TIME, "2026-11-26T03:00:00Z")];
    let tomorrow = [(JOB_NAME, "nightly"), (TIME, "2026-11-27T03:00:00Z")];
    let first = name(start(&app, &tonight).await).await;
    let again = start(&app, &tonight).await;
    assert_eq!(again.headers()["idempotent-replayed"], "true");
    assert_eq!(name(again).await, first);
    assert_ne!(name(start(&app, &tomorrow).await).await, first);
    let task = name(start(&app, &[(TASK, "5243")]).await).await;
    assert_eq!(name(start(&app, &[(TASK, "5243")]).await).await, task);
    assert_eq!(app.counters().runs, 3);
}

#[tokio::test]
async fn an_idempotency_key_takes_precedence_and_a_repeated_google_header_is_refused() {
    let app = spawn(|_| {}).await;
    let task = name(start(&app, &[(TASK, "5243")]).await).await;
    let keyed = [(TASK, "5243"), ("idempotency-key", "k")];
    assert_ne!(name(start(&app, &keyed).await).await, task);
    let twice = start(&app, &[(TASK, "5243"), (TASK, "5244")]).await;
    problem(twice, "idempotency-key-invalid").await;
    // The schedule's name alone does not identify a run.
    for _ in 0..2 {
        name(start(&app, &[(JOB_NAME, "nightly")]).await).await;
    }
    assert_eq!(app.counters().runs, 4);
}

#[tokio::test]
async fn without_the_setting_or_in_mode_public_googles_headers_are_ignored() {
    let public = |config: &mut Config| config.auth.mode = Some(AuthMode::Public);
    let off = |config: &mut Config| config.idempotency.from_google = false;
    for app in [spawn(public).await, spawn(off).await] {
        for _ in 0..2 {
            name(start(&app, &[(TASK, "5243")]).await).await;
        }
        assert_eq!(app.counters().runs, 2);
    }
}

#[tokio::test]
async fn the_key_of_a_task_belongs_to_its_caller_and_the_job_gets_the_subject() {
    let issuer = Issuer::start().await;
    let grants = json!([all_to_u1()[0], {
        "claim": "sub", "value": "u2", "scopes": ["*"], "operations": ["start"]
    }]);
    let app = spawn(|config| {
        jwt(config, &issuer, grants);
        config.overrides.args = vec!["--by={caller}".to_owned()];
    })
    .await;
    for (subject, runs) in [("u1", 1), ("u1", 1), ("u2", 2)] {
        let request = app.post("/scopes/acme/process").header(TASK, "5243");
        let response = request.bearer_auth(token(subject)).send().await.unwrap();
        name(response).await;
        assert_eq!(app.counters().runs, runs, "{subject}");
    }
}
