//! `api check`: what the doctor finds, and what it leaves alone.

use std::process::Output;

use api::check::{Report, check};
use api::config::Config;
use emulator::{Emulator, Fault, FaultBody, Job, Operation, Rule, Settings};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::helpers::{JOB, config, real_job};
use crate::issuer::{Answer, Issuer};

async fn emulator(job: Job) -> Emulator {
    let settings = Settings {
        jobs: vec![job],
        ..Settings::default()
    };
    Emulator::start(settings).await.unwrap()
}

async fn report(emulator: &Emulator, configure: impl FnOnce(&mut Config)) -> Report {
    let mut config = config(emulator);
    configure(&mut config);
    check(Ok(config)).await
}

fn finding<'a>(report: &'a Value, subject: &str) -> &'a Value {
    let findings = report["findings"].as_array().unwrap();
    findings
        .iter()
        .find(|finding| finding["subject"] == subject)
        .unwrap_or_else(|| panic!("nothing on {subject}: {report:#}"))
}

/// The doctor's verdict on one subject, and the cure.
async fn verdict(emulator: &Emulator, subject: &str) -> (String, String) {
    let report = report(emulator, |_| {}).await.json();
    let found = finding(&report, subject);
    assert_eq!(report["ok"], found["verdict"] != "failed", "{report:#}");
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (text("verdict"), text("cure"))
}

fn answered(code: u16, body: Value) -> Fault {
    Fault::answer(code, FaultBody::Text(body.to_string()))
}

/// A job whose nth call of the policies and jobs meets the fault: 1 reads the job, 2 asks about starts, 3 about cancelling.
fn nth(n: u64, fault: Fault) -> Rule {
    Rule {
        nth: Some(n),
        ..Rule::new(Operation::Other, fault)
    }
}

#[tokio::test]
async fn all_is_well_and_nothing_was_done() {
    let emulator = emulator(real_job()).await;
    let report = report(&emulator, |_| {}).await;
    assert!(report.is_well(), "{report}");
    let text = report.to_string();
    assert!(text.lines().all(|line| line.starts_with("✓ ")), "{text}");
    assert_eq!(text.lines().count(), 13, "{text}");
    let calls = emulator.counters();
    assert_eq!(
        (calls.calls(Operation::Run), calls.calls(Operation::Cancel)),
        (0, 0)
    );
    assert!(emulator.executions().is_empty());
}

#[tokio::test]
async fn each_thing_that_is_missing_is_named_with_the_command_that_mends_it() {
    let off = json!({ "error": { "code": 403, "status": "PERMISSION_DENIED",
        "message": "Cloud Run Admin API has not been used in project 123 before or it is disabled." } });
    let grant = "gcloud run jobs add-iam-policy-binding test-job --member=serviceAccount:";
    let cases = [
        (
            nth(1, Fault::status(404)),
            "job",
            "failed",
            "gcloud run jobs deploy test-job --image=IMAGE",
        ),
        (
            nth(1, Fault::status(403)),
            "job",
            "failed",
            "--role=roles/run.viewer",
        ),
        (nth(1, Fault::status(500)), "job", "failed", ""),
        (
            nth(1, answered(403, off)),
            "job",
            "failed",
            "gcloud services enable run.googleapis.com --project=demo",
        ),
        (
            nth(2, answered(200, json!({ "permissions": ["run.jobs.run"] }))),
            "start",
            "failed",
            grant,
        ),
        (
            nth(2, answered(200, json!({}))),
            "start",
            "failed",
            "--role=roles/run.jobsExecutorWithOverrides",
        ),
        (nth(2, Fault::status(403)), "start", "warning", ""),
        (nth(3, answered(200, json!({}))), "cancel", "failed", grant),
        (nth(3, Fault::status(400)), "cancel", "warning", ""),
        (
            Rule::new(Operation::List, Fault::status(403)),
            "list",
            "failed",
            "gcloud projects add-iam-policy-binding demo",
        ),
        (
            Rule::new(Operation::Get, Fault::status(403)),
            "follow",
            "failed",
            "--role=roles/run.viewer",
        ),
        (
            Rule::new(Operation::Logs, Fault::status(403)),
            "logs",
            "failed",
            "--role=roles/logging.viewer",
        ),
        (
            Rule::new(Operation::Token, Fault::status(404)),
            "token",
            "failed",
            "",
        ),
    ];
    let emulator = emulator(real_job()).await;
    for (rule, subject, expected, cure) in cases {
        emulator.faults().clear();
        emulator.faults().add(rule);
        let (verdict, told) = verdict(&emulator, subject).await;
        assert_eq!(verdict, expected, "{subject}");
        assert!(
            told.contains(cure) && told.is_empty() == cure.is_empty(),
            "{subject}: {told}"
        );
    }
}

#[tokio::test]
async fn a_job_that_may_surprise_is_warned_of() {
    let job = Job {
        task_count: 5,
        parallelism: 2,
        max_retries: 3,
        ..Job::new(JOB, ["true"])
    };
    let emulator = emulator(job).await;
    for (subject, flag) in [("retries", "--max-retries=0"), ("tasks", "--parallelism=0")] {
        let (verdict, cure) = verdict(&emulator, subject).await;
        assert_eq!(verdict, "warning", "{subject}");
        assert!(
            cure.starts_with("gcloud run jobs update test-job") && cure.contains(flag),
            "{cure}"
        );
    }
    let fewer = report(&emulator, |config| config.overrides.task_count = Some(2)).await;
    assert_eq!(finding(&fewer.json(), "tasks")["verdict"], "ok");
}

#[tokio::test]
async fn the_container_is_one_of_the_jobs() {
    let emulator = emulator(real_job()).await;
    let wrong = report(&emulator, |config| {
        config.cloud_run.container = "nobody".to_owned()
    })
    .await;
    let wrong = wrong.json();
    assert_eq!(finding(&wrong, "container")["verdict"], "failed");
    assert_eq!(wrong["ok"], false);

    let spec = |containers: Value| json!({ "spec": { "template": { "spec": { "template": { "spec": { "containers": containers, "maxRetries": 0 } } } } } });
    let two = spec(json!([{ "name": "main" }, { "name": "proxy" }]));
    for (container, verdict) in [("", "failed"), ("main", "ok"), ("x", "failed")] {
        emulator.faults().clear();
        emulator.faults().add(nth(1, answered(200, two.clone())));
        let report = report(&emulator, |config| {
            config.cloud_run.container = container.to_owned()
        });
        let report = report.await.json();
        let found = finding(&report, "container");
        assert_eq!(found["verdict"], verdict, "{container}");
        let told = found["cure"] == "export API__CLOUD_RUN__CONTAINER=main";
        assert_eq!(told, verdict == "failed", "{found}");
    }
}

#[tokio::test]
async fn what_cannot_be_reached_is_named() {
    let emulator = emulator(real_job()).await;
    let unreachable = |config: &mut Config| {
        config.cloud_logging.base_url = "https://logging.invalid".to_owned();
    };
    let report = report(&emulator, unreachable).await.json();
    let logs = finding(&report, "logs");
    assert_eq!(logs["verdict"], "failed");
    assert!(logs.to_string().contains("logging.invalid"), "{logs}");
}

#[tokio::test]
async fn without_a_metadata_server_the_rest_is_said_to_be_open() {
    let emulator = emulator(real_job()).await;
    let report = report(&emulator, |config| {
        config.platform.metadata_host = "127.0.0.1:1".to_owned()
    });
    let report = report.await.json();
    for subject in ["token", "place", "the rest"] {
        assert_eq!(finding(&report, subject)["verdict"], "failed");
    }
    assert!(
        finding(&report, "token")["found"]
            .as_str()
            .unwrap()
            .contains("GCE_METADATA_HOST")
    );
}

#[tokio::test]
async fn who_may_call_is_told_and_the_issuers_keys_are_fetched() {
    let (emulator, issuer) = (emulator(real_job()).await, Issuer::start().await);
    let jwt = |config: &mut Config| {
        config.auth.mode = "jwt".to_owned();
        config.auth.jwt.preset = "google".to_owned();
        config.auth.jwt.audience = "https://svc.example".to_owned();
        config.auth.jwt.jwks_url = issuer.jwks_url.clone();
        config.auth.scope_claim = "scopes".to_owned();
    };
    let well = report(&emulator, jwt).await.json();
    assert_eq!(finding(&well, "access")["verdict"], "ok", "{well:#}");
    assert_eq!(issuer.fetches(), 1);
    for answer in [
        Answer::Status(404),
        Answer::Text("<html>"),
        Answer::Keys(Vec::new()),
    ] {
        issuer.answer(answer);
        let ill = report(&emulator, jwt).await.json();
        let found = finding(&ill, "access");
        assert_eq!(
            (&found["verdict"], &ill["ok"]),
            (&json!("failed"), &json!(false))
        );
        assert!(
            found["cure"].as_str().unwrap().contains(&issuer.jwks_url),
            "{found}"
        );
    }
    let iam = report(&emulator, |config| config.auth.mode = "iam".to_owned()).await;
    assert!(
        iam.to_string()
            .contains("✓ access: whoever Cloud Run's IAM lets through")
    );
}

/// A Firestore that answers every commit and every get so.
async fn firestore(status: u16, body: Value) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let status = axum::http::StatusCode::from_u16(status).unwrap();
    let answer = axum::Router::new().fallback(async move || (status, axum::Json(body)));
    tokio::spawn(async move { axum::serve(listener, answer).await });
    host
}

#[tokio::test]
async fn a_store_is_tried_if_it_is_chosen() {
    let google = |code: u16, status: &str, message: &str| json!({ "error": { "code": code, "status": status, "message": message } });
    let cases = [
        (
            200,
            json!({ "commitTime": "2026-01-02T03:04:05Z", "writeResults": [{}, {}] }),
            "ok",
            "",
        ),
        (
            404,
            google(404, "NOT_FOUND", "no such database"),
            "failed",
            "gcloud firestore databases create --location=us-east4 --project=demo",
        ),
        (
            403,
            google(
                403,
                "PERMISSION_DENIED",
                "Missing or insufficient permissions.",
            ),
            "failed",
            "--role=roles/datastore.user",
        ),
        (
            403,
            google(
                403,
                "PERMISSION_DENIED",
                "Cloud Firestore API has not been used in project 1 before",
            ),
            "failed",
            "gcloud services enable firestore.googleapis.com",
        ),
    ];
    let emulator = emulator(real_job()).await;
    for (status, body, verdict, cure) in cases {
        let host = firestore(status, body).await;
        let report = report(&emulator, |config| {
            config.idempotency.store = api::config::Store::Firestore;
            config.platform.firestore_host = Some(host);
        });
        let report = report.await.json();
        let found = finding(&report, "store");
        assert_eq!(found["verdict"], verdict, "{found}");
        assert!(
            found["cure"].as_str().unwrap_or_default().contains(cure),
            "{found}"
        );
    }
}

async fn program(emulator: &Emulator, job: &str, arguments: &[&str]) -> Output {
    let variables = [
        ("API__AUTH__MODE", "public".to_owned()),
        ("API__CLOUD_RUN__JOB", job.to_owned()),
        ("API__CLOUD_RUN__BASE_URL", emulator.url()),
        ("API__CLOUD_LOGGING__BASE_URL", emulator.url()),
        ("GCE_METADATA_HOST", emulator.host()),
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_api"));
    command
        .env_clear()
        .envs(variables)
        .args(arguments)
        .output()
        .await
        .unwrap()
}

#[tokio::test]
async fn the_program_ends_with_1_if_anything_failed() {
    let emulator = emulator(real_job()).await;
    let well = program(&emulator, JOB, &["check"]).await;
    assert_eq!(well.status.code(), Some(0), "{well:?}");
    assert!(
        String::from_utf8(well.stdout)
            .unwrap()
            .contains("✓ place: project demo, region us-east4\n")
    );

    let ill = program(&emulator, "other-job", &["check"]).await;
    assert_eq!(ill.status.code(), Some(1));
    let text = String::from_utf8(ill.stdout).unwrap();
    assert!(
        text.contains("✗ job: ") && text.contains("\n    gcloud run jobs deploy other-job "),
        "{text}"
    );

    let ill = program(&emulator, "other-job", &["check", "--json"]).await;
    assert_eq!(ill.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&ill.stdout).unwrap();
    assert_eq!(
        (&report["ok"], &finding(&report, "job")["verdict"]),
        (&json!(false), &json!("failed"))
    );

    let unset = program(&emulator, "", &["check", "--json"]).await;
    let report: Value = serde_json::from_slice(&unset.stdout).unwrap();
    let found = finding(&report, "settings")["found"].as_str().unwrap();
    assert!(
        unset.status.code() == Some(1) && found.contains("API__CLOUD_RUN__JOB"),
        "{found}"
    );
}
