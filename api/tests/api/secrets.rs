//! The log never has a token, and of a token's content only the subject.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use emulator::{Emulator, Settings};
use serde_json::{Value, json};

use crate::helpers::{JOB, instant_job};
use crate::issuer::{Answer, Issuer, Key, now};

/// The running program. Dropping it kills it.
struct Program {
    child: Child,
    output: BufReader<ChildStdout>,
    /// Its output so far.
    log: String,
}

impl Program {
    /// Waits until it listens.
    fn start(variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_api"));
        command.env_clear().envs(variables.iter().copied());
        command.envs([
            ("API__HOST", "127.0.0.1"),
            ("PORT", "0"),
            ("API__CLOUD_RUN__JOB", JOB),
        ]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut program = Self {
            child,
            output,
            log: String::new(),
        };
        while !program.log.contains("\"listening\"") {
            assert_ne!(
                program.output.read_line(&mut program.log).unwrap(),
                0,
                "{}",
                program.log
            );
        }
        program
    }

    fn lines(&self) -> Vec<Value> {
        let lines = self.log.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().unwrap()
    }

    fn url(&self) -> String {
        let lines = self.lines();
        format!(
            "http://{}",
            lines.last().unwrap()["address"].as_str().unwrap()
        )
    }

    /// Ends it, and reads the rest of its output.
    fn stop(&mut self) {
        self.child.kill().unwrap();
        self.output.read_to_string(&mut self.log).unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _ended = self.child.wait();
    }
}

#[tokio::test]
async fn the_log_has_only_the_subject_of_a_token_and_the_reason_of_its_refusal() {
    let settings = Settings {
        jobs: vec![instant_job()],
        ..Settings::default()
    };
    let (emulator, issuer) = (
        Emulator::start(settings).await.unwrap(),
        Issuer::start().await,
    );
    let grants = concat!(env!("CARGO_TARGET_TMPDIR"), "/grants.toml");
    let grant = "[[grants]]\nclaim = 'tenant'\nvalue = 'acme'\nscopes = ['acme']\noperations = ['start', 'read']\n";
    std::fs::write(grants, grant).unwrap();
    let mut program = Program::start(&[
        ("API__LOG", "trace"),
        ("API__CLOUD_RUN__BASE_URL", &emulator.url()),
        ("API__CLOUD_LOGGING__BASE_URL", &emulator.url()),
        ("GCE_METADATA_HOST", &emulator.host()),
        ("API__AUTH__MODE", "jwt"),
        ("API__AUTH__JWT__ISSUER", "https://issuer.example"),
        ("API__AUTH__JWT__AUDIENCE", "audience"),
        ("API__AUTH__JWT__JWKS_URL", &issuer.jwks_url),
        ("API__AUTH__GRANTS", grants),
    ]);
    let token = |kid: &str, change: Value| {
        let mut claims = json!({"iss": "https://issuer.example", "aud": "audience", "sub": "subject-7", "iat": now(),
            "exp": now() + 60, "email": "canary@example.com", "tenant": "acme", "nonce": "canary"});
        claims
            .as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        Key::k1().token(&json!({"alg": "RS256", "kid": kid}), &claims)
    };
    let (http, url) = (
        api::gcp::http_client::HttpClients::new().unwrap().reqwest,
        program.url(),
    );
    let mut sent = Vec::new();
    for (token, query, status) in [
        (token("k1", json!({})), "", 202),
        (token("k1", json!({"tenant": "canary-tenant"})), "", 403),
        (token("k1", json!({"exp": "canary-exp"})), "", 401),
        (token("k1", json!({"aud": "canary-aud"})), "", 401),
        (token("k1", json!({"exp": 1})), "?token=canary-query", 401),
        ("canary.no.token".to_owned(), "", 401),
    ] {
        let request = http
            .post(format!("{url}/scopes/acme/process{query}"))
            .bearer_auth(&token);
        assert_eq!(request.send().await.unwrap().status(), status);
        sent.push(token);
    }
    issuer.answer(Answer::Status(500));
    let unknown = token("canary-kid", json!({}));
    let request = http
        .get(format!("{url}/scopes/acme/executions"))
        .bearer_auth(&unknown);
    assert_eq!(request.send().await.unwrap().status(), 503);
    sent.push(unknown);
    program.stop();

    let parts = sent
        .iter()
        .flat_map(|token| token.split('.'))
        .filter(|part| part.len() > 9);
    for secret in parts.chain(["canary"]) {
        assert!(!program.log.contains(secret), "{secret} is in the log");
    }
    let causes: Vec<_> = program
        .lines()
        .iter()
        .filter_map(|line| line["cause"].as_str().map(str::to_owned))
        .collect();
    for cause in [
        "subject-7",
        "ExpiredSignature",
        "InvalidAudience",
        "exp",
        "no token",
        "500",
    ] {
        assert!(
            causes.iter().any(|logged| logged.contains(cause)),
            "{cause}: {causes:?}"
        );
    }
}

#[test]
fn a_mode_that_checks_no_caller_is_logged_as_a_warning() {
    let warned = |variables: &[(&str, &str)]| {
        let program = Program::start(variables);
        program
            .lines()
            .iter()
            .any(|line| line["severity"] == "WARNING")
    };
    assert!(warned(&[
        ("API__AUTH__MODE", "public"),
        ("K_SERVICE", "api")
    ]));
    assert!(warned(&[("API__AUTH__MODE", "iam")]));
    assert!(!warned(&[("API__AUTH__MODE", "iam"), ("K_SERVICE", "api")]));
    assert!(!warned(&[("API__AUTH__MODE", "public")]));
}
