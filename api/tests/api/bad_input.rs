//! Hostile input gets exactly the expected status and problem, and never reaches Cloud Run.

use emulator::Operation;
use reqwest::header::CONTENT_TYPE;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::helpers::{TestApp, instant_job, problem};

/// The inputs of a group, each with its acceptable statuses.
pub fn inputs(group: &str) -> Vec<Value> {
    let data: Value = serde_json::from_str(include_str!("../data/nasty-inputs.json")).unwrap();
    let items = data["items"].as_array().unwrap();
    items
        .iter()
        .filter(|item| item["group"] == group)
        .cloned()
        .collect()
}

/// `@repeat:X:N` is X repeated N times, `\xNN` a raw byte.
fn bytes(text: &str) -> Vec<u8> {
    if let Some((repeated, times)) = text
        .strip_prefix("@repeat:")
        .and_then(|rest| rest.rsplit_once(':'))
    {
        return repeated.repeat(times.parse().unwrap()).into_bytes();
    }
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\\x") {
        bytes.extend_from_slice(before.as_bytes());
        bytes.push(u8::from_str_radix(&after[..2], 16).unwrap());
        rest = &after[2..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

/// Sends exactly these bytes on a new connection. Returns the status (0 if it was closed without one) and the body.
async fn raw(app: &TestApp, request: &[u8]) -> (u16, Value) {
    let mut stream = TcpStream::connect(app.url.strip_prefix("http://").unwrap())
        .await
        .unwrap();
    // The server may refuse before all is sent, and then close.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let text = String::from_utf8_lossy(&answer);
    let status = text
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    let body = text
        .split_once("\r\n\r\n")
        .map(|(_, body)| body)
        .unwrap_or_default();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

/// Checks the status and, if the service itself answered, the problem.
fn check(item: &Value, status: u16, body: &Value) {
    let expected = item["status"].as_array().unwrap();
    assert!(expected.contains(&status.into()), "{item}: {status} {body}");
    if let (Some(slug), true) = (item["problem"].as_str(), body.is_object() && status >= 400) {
        assert_eq!(body["type"], format!("/problems/{slug}"), "{item}");
    }
}

#[tokio::test]
async fn scopes() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    let mut accepted = 0;
    for item in inputs("scope") {
        let mut request = b"POST /scopes/".to_vec();
        request.extend(bytes(item["wire_segment"].as_str().unwrap()));
        request.extend(
            b"/process HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        );
        let (status, body) = raw(&app, &request).await;
        check(&item, status, &body);
        accepted += u64::from(item["expect"] == "accept");
        if status == 202 {
            assert_eq!(body["scope"], item["decoded"], "{item}");
        }
    }
    assert_eq!(
        (app.calls(Operation::Run), app.counters().runs),
        (accepted, accepted)
    );
}

#[tokio::test]
async fn bodies() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    let mut accepted = 0;
    for item in inputs("body") {
        let Some(body) = body(&item) else { continue };
        let mut request = app.post("/scopes/acme/process").body(body);
        if let Some(kind) = item["content_type"].as_str() {
            request = request.header(CONTENT_TYPE, kind);
        }
        if item["label"] == "gzip body" {
            request = request.header("content-encoding", "gzip");
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        accepted += u64::from(status == 202);
        check(&item, status, &response.json().await.unwrap_or_default());
    }
    assert_eq!(
        (app.calls(Operation::Run), app.counters().runs),
        (accepted, accepted)
    );
}

/// The bytes of a body. Inputs about time or framing have other tests.
fn body(item: &Value) -> Option<Vec<u8>> {
    match item["generator"].as_str() {
        Some("'['*200000+']'*200000") => {
            Some(format!("{}{}", "[".repeat(200_000), "]".repeat(200_000)).into_bytes())
        }
        Some("{\"args\":[\"a\"*1048576]}") => {
            Some(format!("{{\"args\":[\"{}\"]}}", "a".repeat(1 << 20)).into_bytes())
        }
        Some(_) => None,
        None => match item["body_b64"].as_str() {
            Some(encoded) => Some(base64(encoded)),
            None => Some(
                item["body"]
                    .as_str()
                    .unwrap_or_default()
                    .as_bytes()
                    .to_vec(),
            ),
        },
    }
}

fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text
        .bytes()
        .filter_map(|c| DIGITS.iter().position(|d| *d == c));
    let bits = digits.flat_map(|digit| (0..6).rev().map(move |bit| (digit >> bit & 1) as u8));
    let bits: Vec<u8> = bits.collect();
    bits.chunks_exact(8)
        .map(|byte| byte.iter().fold(0, |sum, bit| sum << 1 | bit))
        .collect()
}

#[tokio::test]
async fn queries() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    for item in inputs("query") {
        if item["status"] == serde_json::json!([401]) {
            continue; // needs authentication
        }
        let text = item["query"].as_str().unwrap();
        let query = match text.split_once('=') {
            Some((name, value)) if value.starts_with("@repeat") => {
                [name.as_bytes(), b"=", &bytes(value)].concat()
            }
            _ => bytes(text),
        };
        let head = b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let request = [b"GET /scopes/acme/executions?", &query[..], head].concat();
        let (status, body) = raw(&app, &request).await;
        check(&item, status, &body);
    }
    assert_eq!(app.calls(Operation::Any), 0);
}

#[tokio::test]
async fn a_body_whose_content_length_is_too_large_is_refused_unread() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    let head = b"POST /scopes/acme/process HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 104857600\r\n\r\n";
    let (status, body) = raw(&app, head).await;
    assert_eq!(
        (status, &body["type"]),
        (413, &"/problems/payload-too-large".into())
    );
}

#[tokio::test]
async fn a_body_that_ends_early_is_malformed() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    let mut stream = TcpStream::connect(app.url.strip_prefix("http://").unwrap())
        .await
        .unwrap();
    let head = b"POST /scopes/acme/process HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{}";
    stream.write_all(head).await.unwrap();
    stream.shutdown().await.unwrap(); // half-closed: we still read
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400 ") && answer.contains("malformed-request"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_request_must_name_one_host() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    for (head, status) in [
        ("host: a\r\nhost: b\r\n", 400),
        ("host: a\r\nHost: a\r\n", 400),
        ("host: a\r\n", 202),
    ] {
        let end = "content-length: 0\r\nconnection: close\r\n\r\n";
        let request = format!("POST /scopes/acme/process HTTP/1.1\r\n{head}{end}");
        let (answered, body) = raw(&app, request.as_bytes()).await;
        assert_eq!(answered, status, "{head}: {body}");
        if status == 400 {
            assert_eq!(body["type"], "/problems/malformed-request", "{body}");
        }
    }
    assert_eq!(app.calls(Operation::Run), 1);
}

#[tokio::test]
async fn a_body_in_a_transfer_coding_other_than_chunks_is_refused() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    for (coding, status) in [
        ("gzip, chunked", 400),
        ("chunked, chunked", 400),
        ("chunked\r\ntransfer-encoding: chunked", 400),
        ("Chunked", 202),
    ] {
        let head = "POST /scopes/acme/process HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
        let request = format!("{head}transfer-encoding: {coding}\r\n\r\n0\r\n\r\n");
        let (answered, body) = raw(&app, request.as_bytes()).await;
        assert_eq!(answered, status, "{coding}: {body}");
    }
    assert_eq!(app.calls(Operation::Run), 1);
}

#[tokio::test]
async fn a_wrong_query_path_or_method_is_answered_with_the_right_one() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    let queries = [
        (
            "/scopes/acme/process?on_running=skip",
            "on_running must be one of: allow, reject, join, replace",
        ),
        (
            "/scopes/acme/process?onrunning=join",
            "no field onrunning here. The fields of this query are: on_running",
        ),
        (
            "/scopes/acme/process?on_running=join&on_running=join",
            "on_running occurs twice",
        ),
        (
            "/scopes/acme/process?CANARY%20x=1",
            "a field that is unknown here",
        ),
    ];
    for (path, words) in queries {
        let body = problem(app.post(path).send().await.unwrap(), "malformed-request").await;
        assert!(
            body["detail"].as_str().unwrap().contains(words),
            "{path}: {body}"
        );
    }
    let queries = [
        (
            "/scopes/acme/executions?limit=abc",
            "limit must be a whole number from 1 to 100",
        ),
        (
            "/scopes/acme/executions/test-job-abcde?wait=5s",
            "wait must be a whole number from 1 to 60",
        ),
        (
            "/scopes/acme/executions/test-job-abcde/result?CANARY=1",
            "takes no query",
        ),
    ];
    for (path, words) in queries {
        let body = problem(app.get(path).send().await.unwrap(), "malformed-request").await;
        assert!(
            body["detail"].as_str().unwrap().contains(words),
            "{path}: {body}"
        );
    }
    for (path, method) in [
        ("/scopes/acme/process", "Use POST."),
        ("/scopes/acme/executions/x/cancel", "Use POST."),
    ] {
        let body = problem(app.get(path).send().await.unwrap(), "method-not-allowed").await;
        assert!(
            body["detail"].as_str().unwrap().contains(method),
            "{path}: {body}"
        );
    }
    for (path, route) in [
        ("/scopes/acme", "GET /scopes/{scope}/executions"),
        (
            "/scopes/acme/executions/",
            "You may mean GET /scopes/{scope}/executions,",
        ),
        (
            "/scope/acme/executions",
            "You may mean GET /scopes/{scope}/executions,",
        ),
    ] {
        let body = problem(app.get(path).send().await.unwrap(), "not-found").await;
        assert!(
            body["detail"].as_str().unwrap().contains(route),
            "{path}: {body}"
        );
    }
}

#[tokio::test]
async fn every_json_body_ends_with_a_line_break() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    let started = app.post("/scopes/acme/process").send().await.unwrap();
    let execution = started.text().await.unwrap();
    let name = serde_json::from_str::<Value>(&execution).unwrap()["name"].clone();
    let path = |rest: &str| format!("/scopes/acme/executions{rest}");
    let logs = path(&format!("/{}/logs", name.as_str().unwrap()));
    let mut bodies = vec![execution];
    for path in [path(""), logs, path("/unknown"), "/openapi.json".to_owned()] {
        bodies.push(app.get(&path).send().await.unwrap().text().await.unwrap());
    }
    for body in bodies {
        assert!(body.ends_with("}\n"), "{body}");
    }
}
