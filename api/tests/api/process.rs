//! `POST /scopes/{scope}/process`.

use api::config::Config;
use emulator::Operation;
use serde_json::{Value, json};

use crate::helpers::{TestApp, instant_job, link, problem, real_job};

/// Declares the parameters that these tests send.
fn with_parameters(config: &mut Config) {
    let declared = json!({
        "document": { "type": "string", "pattern": "^[A-Za-z0-9-]{1,64}$" },
        "limit": { "type": "integer", "minimum": 1, "maximum": 1000, "default": 100 },
    });
    config.parameters = declared.as_object().unwrap().clone();
    config.overrides.args = vec![
        "--scope={scope}".to_owned(),
        "--document={document}".to_owned(),
    ];
    config.overrides.env = json!({ "LIMIT": "{limit}" }).as_object().unwrap().clone();
}

#[tokio::test]
async fn the_overrides_reach_the_job() {
    let app = TestApp::spawn().await;
    let response = app.post("/scopes/acme/process").send().await.unwrap();
    assert_eq!(response.status(), 202);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let execution: Value = response.json().await.unwrap();
    assert_eq!(location, link(&execution, "self"));
    assert_eq!(
        (&execution["scope"], &execution["job"]),
        (&json!("acme"), &json!("test-job"))
    );

    app.until(&execution, "succeeded").await;
    let lines = app.lines(&execution).await;
    let invocation = format!(
        "INVOCATION_ID = {}",
        execution["invocationId"].as_str().unwrap()
    );
    let name = format!(
        "CLOUD_RUN_EXECUTION = {}",
        execution["name"].as_str().unwrap()
    );
    for line in [
        "SCOPE = acme",
        "CLOUD_RUN_TASK_INDEX = 0",
        "  ARG: --scope=acme",
        &invocation,
        &name,
    ] {
        assert!(lines.iter().any(|l| l == line), "{line} in {lines:?}");
    }
}

#[tokio::test]
async fn one_start_sends_what_the_templates_say_and_nothing_else() {
    let app = TestApp::with(instant_job(), with_parameters).await;
    let body = json!({ "document": "a-1" });
    let response = app
        .post("/scopes/acme/process")
        .json(&body)
        .send()
        .await
        .unwrap();
    let execution: Value = response.json().await.unwrap();
    let expected = json!({ "containerOverrides": [{
        "args": ["--scope=acme", "--document=a-1"],
        "env": [
            { "name": "SCOPE", "value": "acme" },
            { "name": "INVOCATION_ID", "value": execution["invocationId"] },
            { "name": "PARAMETERS", "value": body.to_string() },
            { "name": "LIMIT", "value": "100" },
        ],
    }]});
    assert_eq!(app.emulator.executions()[0].overrides, expected);
    assert_eq!(
        (app.calls(Operation::Run), app.calls(Operation::Token)),
        (1, 1)
    );
    assert_eq!(app.counters().runs, 1);
}

#[tokio::test]
async fn parameters_that_no_variable_can_hold_are_refused_unless_a_template_passes_them_on() {
    let app = TestApp::with(instant_job(), |config| {
        config.overrides.args = vec!["{used}".to_owned()];
        let parameters = json!({ "used": { "type": "string" }, "unused": { "type": "string" } });
        config.parameters = parameters.as_object().unwrap().clone();
    });
    let app = app.await;
    let start = |body: Value| app.post("/scopes/acme/process").json(&body).send();
    let long = "x".repeat(32_768);
    let refused = start(json!({ "used": "a", "unused": long })).await.unwrap();
    let refused = problem(refused, "validation-failed").await;
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.ends_with("one of them: unused."), "{detail}");
    assert_eq!(app.calls(Operation::Run), 0);
    assert_eq!(start(json!({ "used": long })).await.unwrap().status(), 202);
}

#[tokio::test]
async fn task_count_timeout_and_container_are_sent_when_set() {
    let app = TestApp::with(real_job(), |config| {
        config.overrides.task_count = Some(3);
        config.overrides.timeout_seconds = Some(60);
        config.overrides.args = Vec::new();
        // Cloud Run names a container without a name after its image.
        config.cloud_run.container = Some("test-job".to_owned());
    });
    let app = app.await;
    app.post("/scopes/acme/process").send().await.unwrap();
    let overrides = &app.emulator.executions()[0].overrides;
    assert_eq!(
        (&overrides["taskCount"], &overrides["timeoutSeconds"]),
        (&json!(3), &json!(60))
    );
    let container = &overrides["containerOverrides"][0];
    assert_eq!(
        (&container["name"], &container["args"]),
        (&json!("test-job"), &Value::Null)
    );
}

#[tokio::test]
async fn invalid_parameters_start_nothing() {
    let app = TestApp::with(instant_job(), with_parameters).await;
    let bodies = [
        json!({ "document": "a b" }),
        json!({ "limit": 0 }),
        json!({ "limit": "1" }),
        json!({ "other": 1 }),
    ];
    for body in bodies {
        let response = app
            .post("/scopes/acme/process")
            .json(&body)
            .send()
            .await
            .unwrap();
        problem(response, "validation-failed").await;
    }
    assert_eq!(app.calls(Operation::Any), 0);
}

#[tokio::test]
async fn many_tasks_and_a_failure_are_counted() {
    let app = TestApp::with(real_job(), |config| {
        config.overrides.task_count = Some(3);
        config
            .overrides
            .env
            .insert("FAIL_WITH".to_owned(), "3".into());
    })
    .await;
    let execution = app.start("acme").await;
    let ended = app.until(&execution, "failed").await;
    assert_eq!(ended["reason"], "NonZeroExitCode");
    assert!(
        ended["message"].as_str().unwrap().contains("exit"),
        "{ended}"
    );
    assert_eq!(
        (&ended["tasks"]["total"], &ended["tasks"]["failed"]),
        (&json!(3), &json!(3))
    );
    assert!(ended["completedAt"].as_str() > ended["startedAt"].as_str());
}

#[tokio::test]
async fn a_timeout_is_a_failure() {
    let app = TestApp::with(real_job(), |config| {
        config.overrides.timeout_seconds = Some(1);
        config
            .overrides
            .env
            .insert("SLEEP_SECONDS".to_owned(), "60".into());
    })
    .await;
    let execution = app.start("acme").await;
    let ended = app.until(&execution, "failed").await;
    assert_eq!(ended["reason"], Value::Null);
    assert!(
        app.lines(&execution)
            .await
            .contains(&"stopped by SIGTERM".to_owned())
    );
}

#[tokio::test]
async fn the_answer_to_a_caller_does_not_repeat_cloud_runs_message() {
    for (code, slug) in [
        (400, "upstream-rejected"),
        (403, "upstream-misconfigured"),
        (404, "upstream-misconfigured"),
    ] {
        let app = TestApp::with(instant_job(), |_| {}).await;
        let fault = emulator::Fault::status(code);
        app.emulator
            .faults()
            .add(emulator::Rule::new(Operation::Run, fault));
        let body = problem(app.post("/scopes/acme/process").send().await.unwrap(), slug).await;
        let text = body.to_string();
        assert!(
            !text.contains("demo") && !text.contains("test-job"),
            "{text}"
        );
        assert_eq!(app.calls(Operation::Run), 1);
    }
}

#[tokio::test]
async fn a_start_continues_after_its_caller_has_disconnected() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    app.emulator.faults().add(emulator::Rule::new(
        Operation::Run,
        emulator::Fault::Delay { ms: 300 },
    ));
    let impatient = app
        .post("/scopes/acme/process")
        .timeout(std::time::Duration::from_millis(100));
    assert!(impatient.send().await.unwrap_err().is_timeout());
    crate::helpers::eventually(|| app.counters().runs == 1).await;
}

#[tokio::test]
async fn a_shutdown_lets_requests_in_flight_end() {
    let mut app = TestApp::with(instant_job(), |_| {}).await;
    app.emulator.faults().add(emulator::Rule::new(
        Operation::Run,
        emulator::Fault::Delay { ms: 500 },
    ));
    let request = tokio::spawn(app.post("/scopes/acme/process").send());
    crate::helpers::eventually(|| app.calls(Operation::Run) == 1).await;
    app.stop();
    assert_eq!(request.await.unwrap().unwrap().status(), 202);
    assert!(
        app.http
            .clone()
            .get(&app.url)
            .send()
            .await
            .unwrap_err()
            .is_connect()
    );
}

#[tokio::test]
async fn a_number_reaches_the_job_as_it_was_sent_or_is_refused() {
    let app = TestApp::with(instant_job(), |config| {
        let declared = json!({ "amount": { "type": "number", "minimum": 0 } });
        config.parameters = declared.as_object().unwrap().clone();
        config.overrides.args = vec!["{amount}".to_owned()];
    })
    .await;
    let start = |number: &str| {
        app.post("/scopes/acme/process")
            .header("content-type", "application/json")
            .body(format!(r#"{{"amount":{number}}}"#))
    };
    for refused in ["18446744073709551617", "12345678901234567.89", "1e400"] {
        let body = problem(start(refused).send().await.unwrap(), "validation-failed").await;
        assert_eq!(body["errors"][0]["pointer"], "#/amount", "{body}");
    }
    for (sent, argument) in [("-0", "0"), ("0.1", "0.1"), ("1e2", "100")] {
        let response = start(sent).send().await.unwrap();
        assert_eq!(response.status(), 202, "{sent}");
        let executions = app.emulator.executions();
        let overrides = &executions.last().unwrap().overrides;
        assert_eq!(overrides["containerOverrides"][0]["args"][0], argument);
    }
}
