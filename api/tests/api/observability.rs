//! Traces, invocation ids and timings: what an operator uses to follow one start through logs, environment and headers.

use std::time::{Duration, Instant};

use api::config::Config;
use emulator::{Emulator, Fault, Job, Operation, Rule, Settings};
use reqwest::Client;
use serde_json::{Value, json};

use crate::auth::hmac;
use crate::helpers::{PATIENCE, TestApp, instant_job};
use crate::issuer::{base64url, now, unsigned};
use crate::running::Program;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
/// A job that logs in Cloud Logging's format, with trace and invocation id from its environment.
const LOGGING_JOB: &str = r#"printf '{"message":"done","invocationId":"%s","logging.googleapis.com/trace":"%s"}\n' "$INVOCATION_ID" "$TRACE""#;

#[tokio::test]
async fn one_trace_and_one_invocation_are_in_the_log_the_environment_and_the_jobs_lines() {
    let job = Job::new("test-job", ["sh", "-c", LOGGING_JOB]);
    let settings = Settings {
        jobs: vec![job],
        project: "demo".to_owned(),
        ..Settings::default()
    };
    let emulator = Emulator::start(settings).await.unwrap();
    let trace_of_the_job = ("API__OVERRIDES__ENV__TRACE", "projects/demo/traces/{trace}");
    let program = Program::start(&emulator, &[trace_of_the_job]);
    let http = api::gcp::http_client::HttpClients::new().unwrap().reqwest;
    let trace = format!("projects/demo/traces/{TRACE}");

    let start = http.post(format!("{}/scopes/acme/process", program.url));
    let start = start.header("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01"));
    let execution: Value = start.send().await.unwrap().json().await.unwrap();
    let (name, invocation) = (&execution["name"], &execution["invocationId"]);

    let entry = entry_of(&http, &emulator, name.as_str().unwrap()).await;
    assert_eq!(entry["jsonPayload"]["invocationId"], *invocation);
    assert_eq!(entry["trace"], trace);

    program.terminate();
    let (_, log) = program.ended(Duration::from_secs(10)).await;
    let of_the_start: Vec<Value> = log
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &Value| line["httpRequest"]["requestMethod"] == "POST")
        .collect();
    assert_eq!(of_the_start.len(), 1);
    let line = &of_the_start[0];
    assert_eq!(line["logging.googleapis.com/trace"], trace);
    assert_eq!(
        (&line["execution"], &line["invocationId"]),
        (name, invocation)
    );
}

#[tokio::test]
async fn a_malformed_trace_does_not_reach_the_job() {
    let template = |config: &mut Config| config.overrides.args = vec!["{trace}".to_owned()];
    let app = TestApp::with(instant_job(), template).await;
    let (w3c, google) = ("traceparent", "x-cloud-trace-context");
    let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
    let nothing = "0".repeat(32);
    for (headers, expected) in [
        (&[(w3c, parent.clone())][..], Some(TRACE)),
        (&[(google, format!("{TRACE}/1;o=1"))], Some(TRACE)),
        (&[(w3c, parent.replace(TRACE, &nothing))], None),
        (&[(w3c, parent.replacen("00", "ff", 1))], None),
        (&[(w3c, TRACE.to_owned())], None),
        (&[(google, format!("{nothing}/1"))], None),
        (
            &[(w3c, "junk".to_owned()), (google, TRACE.to_owned())],
            Some(TRACE),
        ),
    ] {
        let start = app.post("/scopes/acme/process");
        let start = headers
            .iter()
            .fold(start, |s, (name, value)| s.header(*name, value));
        assert_eq!(start.send().await.unwrap().status(), 202);
        let executions = app.emulator.executions();
        let container = &executions.last().unwrap().overrides["containerOverrides"][0];
        let trace = container["args"].get(0).and_then(Value::as_str);
        assert_eq!(trace, expected, "{headers:?}");
    }
}

/// The first log entry of the execution, as Cloud Logging has it.
async fn entry_of(http: &Client, emulator: &Emulator, execution: &str) -> Value {
    let token = format!(
        "{}/computeMetadata/v1/instance/service-accounts/default/token",
        emulator.url()
    );
    let token = http.get(token).header("Metadata-Flavor", "Google");
    let token: Value = token.send().await.unwrap().json().await.unwrap();
    let filter = format!("labels.\"run.googleapis.com/execution_name\"=\"{execution}\"");
    let query = json!({ "resourceNames": ["projects/demo"], "filter": filter });
    let begun = Instant::now();
    loop {
        let page = http
            .post(format!("{}/v2/entries:list", emulator.url()))
            .bearer_auth(token["access_token"].as_str().unwrap())
            .json(&query);
        let page: Value = page.send().await.unwrap().json().await.unwrap();
        if let Some(entry) = page["entries"].get(0) {
            return entry.clone();
        }
        assert!(begun.elapsed() < PATIENCE, "no entry in {page}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn server_timing_has_the_time_that_google_took() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    let slow = Rule::new(Operation::Run, Fault::Delay { ms: 300 });
    app.emulator.faults().add(slow.nth(2));
    app.keyless().await;

    let timings = timing(app.keyless().await.headers());
    let (name, upstream) = timings.split_once(";dur=").unwrap();
    let upstream: f64 = upstream.parse().unwrap();
    assert_eq!(name, "upstream", "there was a token already");
    assert!(upstream >= 300.0, "{timings}");

    let nothing_asked = app.get("/health").send().await.unwrap();
    assert!(nothing_asked.headers().get("server-timing").is_none());
}

#[tokio::test]
async fn server_timing_has_the_time_that_a_token_took() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    let slow = Rule::new(Operation::Token, Fault::Delay { ms: 1_500 });
    app.emulator.faults().add(slow);
    let timings = timing(app.keyless().await.headers());
    let token = timings.strip_prefix("token;dur=").unwrap();
    let (token, upstream) = token.split_once(", upstream;dur=").unwrap();
    let (token, upstream): (f64, f64) = (token.parse().unwrap(), upstream.parse().unwrap());
    assert!(token >= 1_500.0 && upstream < token, "{timings}");
}

#[tokio::test]
async fn the_line_of_a_failed_start_and_those_of_its_sends_name_the_same_invocation() {
    let emulator = Emulator::start(Settings {
        jobs: vec![instant_job()],
        ..Settings::default()
    });
    let emulator = emulator.await.unwrap();
    let forbidden = Fault::status(403);
    emulator.faults().add(Rule::new(Operation::Run, forbidden));
    let program = Program::start(&emulator, &[]);
    let http = api::gcp::http_client::HttpClients::new().unwrap().reqwest;
    let start = http.post(format!("{}/scopes/acme/process", program.url));
    assert_eq!(start.send().await.unwrap().status(), 502);
    program.terminate();
    let (_, log) = program.ended(Duration::from_secs(10)).await;
    let lines: Vec<Value> = log
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &Value| line["invocationId"].is_string())
        .collect();
    let [send, request] = &lines[..] else {
        panic!("{lines:?}");
    };
    assert_eq!(send["sends"], 1);
    assert_eq!(request["problem"], "upstream-misconfigured");
    assert_eq!(send["invocationId"], request["invocationId"]);
}

fn timing(headers: &reqwest::header::HeaderMap) -> String {
    headers["server-timing"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_line_of_a_start_names_the_verified_subject() {
    const SECRET: &str = "kG7vX2pQ9sL4mZ8wR1tY6uB3nC5dF0hJ";
    let settings = Settings {
        jobs: vec![instant_job()],
        ..Settings::default()
    };
    let emulator = Emulator::start(settings).await.unwrap();
    let program = Program::start(
        &emulator,
        &[
            ("API__AUTH__MODE", "jwt"),
            ("API__AUTH__JWT__SECRET", SECRET),
        ],
    );
    let http = api::gcp::http_client::HttpClients::new().unwrap().reqwest;
    let token = |sub: Value| {
        let mut claims = json!({"scopes": ["acme"], "operations": ["start"], "exp": now() + 300});
        if !sub.is_null() {
            claims["sub"] = sub;
        }
        let message = unsigned(&json!({"alg": "HS256"}), &claims);
        format!(
            "{message}.{}",
            base64url(&hmac(SECRET.as_bytes(), &message))
        )
    };
    let start = format!("{}/scopes/acme/process", program.url);
    let statuses = [
        (token(json!("u1 at example.com")), "", 202),
        (token(json!("u2")), "?on_running=replace", 403),
        (token(Value::Null), "", 202),
    ];
    for (token, query, status) in &statuses {
        let request = http.post(format!("{start}{query}")).bearer_auth(token);
        assert_eq!(request.send().await.unwrap().status().as_u16(), *status);
    }
    program.terminate();
    let (_, log) = program.ended(Duration::from_secs(10)).await;
    let callers: Vec<Value> = log
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &Value| line["httpRequest"]["requestMethod"] == "POST")
        .map(|line| line["caller"].clone())
        .collect();
    assert_eq!(
        callers,
        [json!("u1 at example.com"), json!("u2"), Value::Null]
    );
    let log = log.join("\n");
    assert!(!log.contains(SECRET) && statuses.iter().all(|(token, ..)| !log.contains(token)));
}
