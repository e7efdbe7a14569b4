//! The clients in `examples/`, run as a user runs them: a shell script, a Python program and a TypeScript program. Whatever fails
//! between them, the service and Google, they start one execution, follow it to its end, and return its outcome as their exit
//! code.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use emulator::{Fault, Operation, Rule, When};
use futures_util::future::join_all;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::helpers::{TestApp, eventually, json, link, real_job};

const SUCCEEDED: i32 = 0;
const FAILED: i32 = 1;
const CANCELLED: i32 = 2;
const NOT_STARTED: i32 = 3;
const UNKNOWN: i32 = 4;

/// The job's parameters for a run that prints lines for two seconds.
const TWO_SECONDS: &str = r#"{"sleep_seconds": 2}"#;

/// A client: the command that runs it.
struct Client(Vec<OsString>);

/// The clients whose language is installed. In CI all must be.
async fn clients() -> Vec<Client> {
    let (run, python) = (example("run.sh"), example("client.py"));
    let candidates = [
        ("curl", Some(run), vec!["sh"]),
        ("python3", Some(python), vec!["python3", "-B"]),
        ("node", compiled().await, vec!["node"]),
    ];
    let mut clients = Vec::new();
    for (tool, file, words) in candidates {
        let found = Command::new(tool).arg("--version").output().await;
        if let (Ok(_), Some(file)) = (found, file) {
            let words = words.into_iter().map(OsString::from);
            clients.push(Client(words.chain([file.into()]).collect()));
        } else {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{tool}");
            eprintln!(
                "skipped: a client needs {tool}, and node needs npm ci in api/tests/typescript"
            );
        }
    }
    clients
}

/// Runs the test with all clients at the same time.
async fn each(test: impl AsyncFn(&Client)) {
    let clients = clients().await;
    join_all(clients.iter().map(|client| test(client))).await;
}

fn example(name: &str) -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap().join("examples").join(name)
}

/// The TypeScript client as JavaScript, compiled once with the strictest rules. None if the compiler is not installed.
async fn compiled() -> Option<PathBuf> {
    static COMPILED: OnceCell<Option<PathBuf>> = OnceCell::const_new();
    let compile = async || {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let compiler = package.join("tests/typescript/node_modules/.bin/tsc");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("client");
        let output = Command::new(compiler)
            .args([
                "--strict",
                "--noUncheckedIndexedAccess",
                "--exactOptionalPropertyTypes",
            ])
            .args([
                "--erasableSyntaxOnly",
                "--target",
                "es2022",
                "--module",
                "es2022",
            ])
            .args([
                "--moduleResolution",
                "bundler",
                "--typeRoots",
                "none",
                "--outDir",
            ])
            .args([&target, &example("client.ts")])
            .output()
            .await
            .ok()?;
        assert!(output.status.success(), "{output:?}");
        let module = target.join("client.mjs");
        std::fs::rename(target.join("client.js"), &module).unwrap();
        Some(module)
    };
    COMPILED.get_or_init(compile).await.clone()
}

impl Client {
    fn command(&self, url: &str, scope: &str, parameters: &str) -> Command {
        let mut command = Command::new(&self.0[0]);
        command.args(&self.0[1..]).args([url, scope, parameters]);
        for proxy in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        command.kill_on_drop(true);
        command
    }

    async fn run(&self, url: &str, parameters: &str) -> Output {
        let mut command = self.command(url, "acme", parameters);
        command.output().await.unwrap()
    }
}

/// A service whose callers can set how long the job takes and whether it fails.
async fn service() -> TestApp {
    let settings = std::fs::read_to_string(example("failures.toml")).unwrap();
    let settings: Map<String, Value> = toml::from_str(&settings).unwrap();
    TestApp::with(real_job(), |config| {
        config.parameters = settings["parameters"].as_object().unwrap().clone();
        config.overrides.env = settings["overrides"]["env"].as_object().unwrap().clone();
        config.start.deadline_seconds = 2;
        config.start.quiet_seconds = 1;
    })
    .await
}

#[track_caller]
fn ended(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
}

/// How often a client showed the line.
fn shown(output: &Output, line: &str) -> usize {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter(|shown| *shown == line).count()
}

#[tokio::test]
async fn the_exit_code_of_a_client_is_that_of_its_executions_outcome() {
    each(async |client| {
        let app = service().await;
        let succeeded = client.run(&app.url, r#"{"sleep_seconds": 1}"#).await;
        ended(&succeeded, SUCCEEDED);
        assert_eq!(shown(&succeeded, "working: 1 of 1 s"), 1, "{succeeded:?}");
        ended(&client.run(&app.url, r#"{"fail_with": 3}"#).await, FAILED);
        assert_eq!(app.counters().runs, 2);

        let reports = client.run(&app.url, r#"{"sleep_seconds": 1, "progress": 1}"#);
        let reports = reports.await;
        ended(&reports, SUCCEEDED);
        let text = String::from_utf8_lossy(&reports.stdout);
        let result: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(result, json!({"seconds": 1}), "the last line is the result");

        let refused = client.run(&app.url, r#"{"fail_with": 300}"#).await;
        ended(&refused, NOT_STARTED);
        let message = String::from_utf8_lossy(&refused.stderr);
        assert!(message.contains("fail_with"), "{message}");
        for scope in ["-acme", "no scope/at?all"] {
            let mut command = client.command(&app.url, scope, "{}");
            ended(&command.output().await.unwrap(), NOT_STARTED);
        }
        assert_eq!(app.counters().runs, 3);
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_execution_has_a_separate_exit_code() {
    each(async |client| {
        let app = service().await;
        let follow = client.run(&app.url, r#"{"sleep_seconds": 60}"#);
        let cancel = async {
            eventually(|| app.counters().runs == 1).await;
            let list = json(app.get("/scopes/acme/executions")).await;
            let cancel = app.post(link(&list["executions"][0], "cancel"));
            assert!(cancel.send().await.unwrap().status().is_success());
        };
        ended(&tokio::join!(follow, cancel).0, CANCELLED);
    })
    .await;
}

#[tokio::test]
async fn a_client_with_the_same_key_gets_the_same_execution() {
    each(async |client| {
        let app = service().await;
        for _ in 0..2 {
            let mut command = client.command(&app.url, "acme", "{}");
            let output = command.env("IDEMPOTENCY_KEY", "k").output().await.unwrap();
            ended(&output, SUCCEEDED);
            assert_eq!(shown(&output, "SCOPE = acme"), 1, "{output:?}");
        }
        assert_eq!(app.counters().runs, 1);
    })
    .await;
}

#[tokio::test]
async fn one_execution_is_started_and_followed_whatever_google_does() {
    let rule = |operation, first, when, fault| Rule {
        first: Some(first),
        when,
        ..Rule::new(operation, fault)
    };
    let run = |first, when, fault| vec![rule(Operation::Run, first, when, fault)];
    let faults = [
        run(2, When::Before, Fault::status(503)),
        run(1, When::After, Fault::status(503)),
        run(1, When::After, Fault::status(500)),
        run(1, When::After, Fault::Reset),
        run(1, When::After, Fault::Garbage),
        run(1, When::After, Fault::Hang),
        run(1, When::Before, Fault::Hang),
        run(3, When::Before, Fault::status(429)),
        vec![
            rule(Operation::Get, 2, When::Before, Fault::status(503)),
            rule(Operation::Logs, 2, When::Before, Fault::Reset),
            rule(Operation::Token, 1, When::Before, Fault::status(500)),
        ],
    ];
    each(async |client| {
        let outcomes = faults.iter().map(async |rules| {
            let app = service().await;
            for rule in rules {
                app.emulator.faults().add(rule.clone());
            }
            let output = client.run(&app.url, TWO_SECONDS).await;
            assert_eq!(
                output.status.code(),
                Some(SUCCEEDED),
                "{rules:?} {output:?}"
            );
            assert_eq!(app.counters().runs, 1, "{rules:?} {output:?}");
        });
        join_all(outcomes).await;
    })
    .await;
}

#[tokio::test]
async fn one_execution_is_started_and_followed_over_connections_that_break() {
    each(async |client| {
        let app = service().await;
        // The start's answer is lost, then cut; the streams break off at the head, within an event, and between events.
        let proxy = cutting(&app.url, vec![0, 60, 2500, 700, 1500, 300]).await;
        let output = client.run(&proxy, TWO_SECONDS).await;
        ended(&output, SUCCEEDED);
        assert_eq!(app.counters().runs, 1);
        for line in ["SCOPE = acme", "working: 1 of 2 s", "working: 2 of 2 s"] {
            assert_eq!(shown(&output, line), 1, "{line} in {output:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_does_not_retry_what_cannot_succeed() {
    each(async |client| {
        let app = service().await;
        let rule = Rule::new(Operation::Run, Fault::status(403));
        app.emulator.faults().add(rule);
        ended(&client.run(&app.url, "{}").await, NOT_STARTED);
        assert_eq!(app.counters().runs, 0);
    })
    .await;
}

#[tokio::test]
async fn a_result_that_cannot_be_read_does_not_keep_a_client() {
    each(async |client| {
        let app = service().await;
        let rule = Rule::new(Operation::Logs, Fault::status(403));
        app.emulator.faults().add(rule);
        let output = timeout(Duration::from_secs(30), client.run(&app.url, "{}")).await;
        ended(&output.expect("the client ends"), SUCCEEDED);
    })
    .await;
}

#[tokio::test]
async fn the_exit_code_distinguishes_no_start_from_an_unknown_outcome() {
    each(async |client| {
        let give_up = async |url: &str| {
            let mut command = client.command(url, "acme", "{}");
            command.env("GIVE_UP_SECONDS", "1").output().await.unwrap()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        ended(&give_up(&url).await, NOT_STARTED);

        let app = service().await;
        let rule = Rule::new(Operation::Run, Fault::Hang);
        app.emulator.faults().add(rule);
        let output = give_up(&app.url).await;
        ended(&output, UNKNOWN);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains("IDEMPOTENCY_KEY="), "{message}");
    })
    .await;
}

/// A proxy that closes its first connections after these numbers of bytes of the answers, and later connections not at all.
/// Returns its URL.
async fn cutting(url: &str, limits: Vec<u64>) -> String {
    let service = url.strip_prefix("http://").unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut limits = limits.into_iter();
        while let Ok((client, _)) = listener.accept().await {
            let limit = limits.next().unwrap_or(u64::MAX);
            let service = TcpStream::connect(&service).await.unwrap();
            tokio::spawn(forward(client, service, limit));
        }
    });
    format!("http://{address}")
}

async fn forward(client: TcpStream, service: TcpStream, limit: u64) {
    let (mut requests, mut to_client) = client.into_split();
    let (mut answers, mut to_service) = service.into_split();
    let answering = async {
        // The request has taken effect when its answer begins.
        let first = answers.read_u8().await?;
        if limit > 0 {
            to_client.write_u8(first).await?;
            tokio::io::copy(&mut answers.take(limit - 1), &mut to_client).await?;
        }
        std::io::Result::Ok(())
    };
    tokio::select! {
        _ = tokio::io::copy(&mut requests, &mut to_service) => {}
        _ = answering => {}
    }
}
