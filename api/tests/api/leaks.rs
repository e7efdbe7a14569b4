//! Secrets are planted in all places that can have some, and must be in no log line and in no answer. Each log line must be one
//! JSON object, whatever is sent.

use std::time::Duration;

use emulator::{Emulator, Fault, FaultBody, Job, Operation, Rule, Settings};
use reqwest::Client;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::helpers::instant_job;
use crate::running::Program;

/// The planted secrets, by their place. The access token is another one, which the emulator chooses.
const SECRETS: [&str; 8] = [
    "CANARY-idempotency-key",
    "CANARY-environment",
    "CANARY-job-environment",
    "CANARY-cookie",
    "CANARY-authorization",
    "CANARY-query",
    "CANARY-body",
    "CANARY-proxy",
];
/// A text in Cloud Run's answers that may only be in the log.
const UPSTREAM: &str = "CANARY-upstream";
/// Texts that no problem may contain: projects, addresses, file paths and names of Rust types.
const INTERNALS: [&str; 14] = [
    "canary-project",
    UPSTREAM,
    "://",
    "::",
    ".rs",
    "127.0.0.1",
    "localhost",
    "googleapis",
    "gserviceaccount",
    "panic",
    "hyper",
    "reqwest",
    "serde",
    "line 1 column",
];

struct World {
    emulator: Emulator,
    program: Program,
    http: Client,
    answers: Vec<String>,
}

impl World {
    async fn new() -> Self {
        let job = Job {
            env: vec![("SECRET".to_owned(), "CANARY-job-environment".to_owned())],
            ..instant_job()
        };
        let settings = Settings {
            jobs: vec![job],
            project: "canary-project".to_owned(),
            ..Settings::default()
        };
        let emulator = Emulator::start(settings).await.unwrap();
        let variables = [
            ("API__LOG", "trace"),
            ("API__OVERRIDES__ENV__SECRET", "CANARY-environment"),
            (
                "API__PARAMETERS",
                "{ document = { type = 'string', maxLength = 5 } }",
            ),
            ("API__OVERRIDES__ARGS", "['--document={document}']"),
            ("API__START__DEADLINE_SECONDS", "1"),
            ("API__LIMITS__CALLER_PER_MINUTE", "1000000"),
            ("API__LIMITS__SCOPE_PER_MINUTE", "1000000"),
            ("API__CORS__ORIGINS", "https://app.example.com"),
        ];
        let program = Program::start(&emulator, &variables);
        Self {
            emulator,
            program,
            http: api::gcp::http_client::HttpClients::new().unwrap().reqwest,
            answers: Vec::new(),
        }
    }

    /// Sends a request with every secret that a client can send, and keeps the answer with its headers.
    async fn ask(&mut self, method: &str, path: &str, body: &str) -> Value {
        let separator = if path.contains('?') { '&' } else { '?' };
        for query in [
            String::new(),
            format!("{separator}access_token=CANARY-query"),
        ] {
            let request = self.http.request(
                method.parse().unwrap(),
                format!("{}{path}{query}", self.program.url),
            );
            let response = request
                .header("authorization", "Bearer CANARY-authorization")
                .header("proxy-authorization", "Basic CANARY-proxy")
                .header("cookie", "session=CANARY-cookie")
                .header(
                    "idempotency-key",
                    format!("CANARY-idempotency-key-{}", self.answers.len()),
                )
                .header("content-type", "application/json")
                .header(
                    "traceparent",
                    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                )
                .body(body.to_owned())
                .send()
                .await
                .unwrap();
            let head = format!("{} {:?}", response.status(), response.headers());
            let answer = response.text().await.unwrap();
            self.answers
                .push(format!("{method} {path}: {head}\n{answer}"));
            if query.is_empty() && method == "POST" && path == START {
                return serde_json::from_str(&answer).unwrap(); // one start is enough
            }
        }
        Value::Null
    }

    /// All requests about an execution, and a start.
    async fn round(&mut self, execution: &str) {
        let one = format!("/scopes/acme/executions/{execution}");
        self.ask("POST", START, "{}").await;
        self.ask("GET", "/scopes/acme/executions", "").await;
        self.ask("GET", &one, "").await;
        self.ask("GET", &format!("{one}/logs"), "").await;
        self.ask("POST", &format!("{one}/cancel"), "").await;
        self.ask("GET", "/ready", "").await;
    }

    async fn token(&self) -> String {
        let url = format!(
            "{}/computeMetadata/v1/instance/service-accounts/default/token",
            self.emulator.url()
        );
        let response = self
            .http
            .get(url)
            .header("metadata-flavor", "Google")
            .send()
            .await
            .unwrap();
        let answer: Value = response.json().await.unwrap();
        answer["access_token"].as_str().unwrap().to_owned()
    }

    /// Stops the program and returns its log.
    async fn log(self) -> (Vec<String>, Vec<String>) {
        self.program.terminate();
        let (status, log) = self.program.ended(Duration::from_secs(10)).await;
        assert!(status.success());
        (self.answers, log)
    }
}

const START: &str = "/scopes/acme/process";

fn faults() -> Vec<Fault> {
    let status = |code| {
        Fault::answer(
            code,
            FaultBody::Text(format!("{{\"error\":{{\"message\":\"{UPSTREAM}\"}}}}")),
        )
    };
    let mut faults: Vec<Fault> = [302, 400, 401, 403, 404, 409, 418, 429, 500, 503]
        .map(status)
        .into();
    faults.extend([
        Fault::answer(502, FaultBody::Html),
        Fault::Reset,
        Fault::Truncated { sent: 10 },
        Fault::Garbage,
        Fault::Huge { bytes: 9 << 20 },
    ]);
    faults
}

fn is_one_json_object(line: &str) -> bool {
    let parsed: Value = serde_json::from_str(line).unwrap_or_default();
    parsed["severity"].is_string()
        && parsed["time"].is_string()
        && !line.chars().any(char::is_control)
}

#[tokio::test]
async fn no_secret_is_in_an_answer_or_in_the_log_whatever_fails() {
    let mut world = World::new().await;
    let started = world.ask("POST", START, r#"{"document":"ok"}"#).await;
    let execution = started["name"].as_str().unwrap().to_owned();
    let tokens = [world.token().await];
    world.round(&execution).await;
    for body in [
        r#"{"document":"CANARY-body"}"#,
        r#"{"CANARY-body":1}"#,
        r#"{"CANARY-body"#,
        r#"["CANARY-body"]"#,
    ] {
        world.ask("POST", START, body).await;
    }
    for (method, path) in [
        ("DELETE", START),
        ("GET", "/nowhere"),
        ("POST", "/scopes/-/process"),
        ("GET", "/scopes/%ff/executions"),
        ("OPTIONS", START),
    ] {
        world.ask(method, path, "").await;
    }
    for operation in [
        Operation::Run,
        Operation::Get,
        Operation::List,
        Operation::Cancel,
        Operation::Logs,
    ] {
        for fault in faults() {
            world.emulator.faults().add(Rule::new(operation, fault));
            world.round(&execution).await;
            world.emulator.faults().clear();
        }
    }
    assert!(
        world.emulator.counters().calls(Operation::Run) > 20,
        "faults met starts"
    );
    let (answers, log) = world.log().await;
    assert!(answers.len() > 500 && log.len() > answers.len() / 2);
    for secret in SECRETS
        .iter()
        .copied()
        .chain(tokens.iter().map(String::as_str))
    {
        for text in answers.iter().chain(&log) {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
    for answer in &answers {
        let (_, problem) = answer.split_once('\n').unwrap();
        if problem.contains("\"type\":\"/problems/") {
            for internal in INTERNALS {
                assert!(!problem.contains(internal), "{internal} in {answer}");
            }
        }
        assert!(!answer.contains(UPSTREAM), "{answer}");
    }
    assert!(
        log.iter().any(|line| line.contains(UPSTREAM)),
        "the log has the cause"
    );
    for line in &log {
        assert!(is_one_json_object(line), "{line}");
    }
}

#[tokio::test]
async fn a_line_of_the_log_is_one_json_object_whatever_is_sent() {
    const NASTY: &[u8] = b"\"}\\n{\"severity\":\"EMERGENCY\",\"x\":\"\xe2\x80\xa8\xe2\x80\xae\xc2\x85\xff\x80\xef\xbb\xbf%0a%1b[31m\t";
    let world = World::new().await;
    let mut requests = Vec::new();
    for header in [
        "user-agent",
        "x-request-id",
        "traceparent",
        "x-cloud-trace-context",
        "idempotency-key",
        "x-forwarded-for",
        "origin",
        "host",
    ] {
        requests.push(
            [
                b"GET /scopes/a/executions HTTP/1.1\r\nhost: x\r\n",
                header.as_bytes(),
                b": ",
                NASTY,
                b"\r\n",
            ]
            .concat(),
        );
    }
    for segment in [
        "%0a%0d%1b%5b31m",
        "%22%7d%0a%7b",
        "%e2%80%a8%e2%80%ae",
        "%ff%fe",
        "a%00b",
        "%c2%85",
    ] {
        requests.push(
            format!("POST /scopes/{segment}/process HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n")
                .into_bytes(),
        );
        requests.push(
            format!("GET /scopes/a/executions/{segment} HTTP/1.1\r\nhost: x\r\n").into_bytes(),
        );
        requests.push(format!("GET /{segment}?{segment} HTTP/1.1\r\nhost: x\r\n").into_bytes());
    }
    requests.push([b"GET /", NASTY, b" HTTP/1.1\r\nhost: x\r\n"].concat());
    requests.push([b"G\x1b[31mET / HTTP/1.1\r\nhost: x\r\n", NASTY, b"\r\n"].concat());
    requests.push(
        format!(
            "GET /{} HTTP/1.1\r\nhost: x\r\nuser-agent: {}\r\n",
            "%1b".repeat(2000),
            "\u{e4}".repeat(2000)
        )
        .into_bytes(),
    );
    for request in &requests {
        let mut stream = TcpStream::connect(world.program.host()).await.unwrap();
        stream
            .write_all(&[request, &b"connection: close\r\n\r\n"[..]].concat())
            .await
            .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(
            answer.starts_with(b"HTTP/1.1 "),
            "{}",
            String::from_utf8_lossy(request)
        );
        assert!(
            !answer.contains(&0x1b) && !answer.starts_with(b"HTTP/1.1 5"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
    let (_, log) = world.log().await;
    assert!(log.len() > requests.len());
    for line in &log {
        assert!(is_one_json_object(line), "{line}");
        let severity = serde_json::from_str::<Value>(line).unwrap()["severity"].clone();
        assert!(
            ["DEBUG", "INFO", "WARNING", "ERROR"]
                .iter()
                .any(|known| severity == *known),
            "{line}"
        );
    }
}
