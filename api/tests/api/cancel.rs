//! `POST …/cancel`.

use emulator::Operation;
use serde_json::json;

use crate::helpers::{TestApp, link, problem, real_job};

#[tokio::test]
async fn a_running_execution_is_cancelled_and_stays_so() {
    let app = TestApp::with(real_job(), |config| {
        config
            .overrides
            .env
            .insert("SLEEP_SECONDS".to_owned(), "60".into());
    })
    .await;
    let execution = app.start("acme").await;
    app.until(&execution, "running").await;
    let response = app.post(link(&execution, "cancel")).send().await.unwrap();
    assert_eq!(response.status(), 202);
    let ended = app.until(&execution, "cancelled").await;
    assert_eq!(ended["tasks"]["cancelled"], json!(1));
    let again = app.post(link(&execution, "cancel")).send().await.unwrap();
    assert_eq!(again.status(), 200);
    assert_eq!(app.calls(Operation::Cancel), 1);
}

#[tokio::test]
async fn cancelling_a_finished_execution_does_not_change_it() {
    let app = TestApp::spawn().await;
    let execution = app.start("acme").await;
    app.until(&execution, "succeeded").await;
    let response = app.post(link(&execution, "cancel")).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(
        response.json::<serde_json::Value>().await.unwrap()["state"],
        "succeeded"
    );
    assert_eq!(app.calls(Operation::Cancel), 0);
}

#[tokio::test]
async fn an_execution_of_another_scope_cannot_be_cancelled() {
    let app = TestApp::spawn().await;
    let execution = app.start("acme").await;
    let path = link(&execution, "cancel").replace("acme", "globex");
    problem(app.post(&path).send().await.unwrap(), "execution-not-found").await;
    assert_eq!(app.calls(Operation::Cancel), 0);
}

#[tokio::test]
async fn a_cancellation_that_cloud_run_refuses_is_not_answered_as_a_success() {
    let app = TestApp::with(real_job(), |config| {
        config
            .overrides
            .env
            .insert("SLEEP_SECONDS".to_owned(), "60".into());
    })
    .await;
    let execution = app.start("acme").await;
    app.until(&execution, "running").await;
    let fault = emulator::Fault::status(400);
    app.emulator
        .faults()
        .add(emulator::Rule::new(Operation::Cancel, fault));
    let response = app.post(link(&execution, "cancel")).send().await.unwrap();
    problem(response, "upstream-rejected").await;
}
