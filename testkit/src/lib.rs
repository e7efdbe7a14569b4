//! The helpers that tests and benchmarks share: the service on an emulator, in this process or as a program.

#![allow(
    missing_docs,
    reason = "each item's name says what it is, and only tests read it"
)]

pub mod issuer;
pub mod processes;
pub mod running;
pub mod store;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use api::App;
use api::config::{AuthMode, Config};
use emulator::{Counters, Emulator, Job, Operation, Settings};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// The path of the service's program. Cargo puts it beside the tests and benchmarks of the same profile, and builds
/// it for those of `api`.
pub fn api_program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("api");
    assert!(
        program.exists(),
        "{} is not there: run cargo build -p api in the same profile",
        program.display()
    );
    program
}

/// The job of every test.
pub const JOB: &str = "test-job";
/// The time limit of every wait, which is far longer than needed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running service. Dropping it stops it, its emulator and their jobs.
pub struct TestApp {
    pub url: String,
    pub emulator: Arc<Emulator>,
    pub http: Client,
    stop: Option<oneshot::Sender<()>>,
}

/// A job that succeeds without a process, for tests of the service alone.
pub fn instant_job() -> Job {
    Job::new(JOB, Vec::<String>::new())
}

/// The sample job, which is built once per run of the tests.
pub fn real_job() -> Job {
    static BINARY: OnceLock<std::path::PathBuf> = OnceLock::new();
    let binary = BINARY.get_or_init(|| emulator::job_binary().unwrap());
    Job {
        max_retries: 0,
        ..Job::new(JOB, [binary])
    }
}

impl TestApp {
    /// Sends a start for the scope acme with this mode of `on_running`.
    pub async fn on_running(&self, mode: &str) -> Response {
        let path = format!("/scopes/acme/process?on_running={mode}");
        self.post(&path).send().await.unwrap()
    }

    /// A service with the default settings and the sample job.
    pub async fn spawn() -> Self {
        Self::with(real_job(), |_| {}).await
    }

    /// A service with this job and these settings.
    pub async fn with(job: Job, configure: impl FnOnce(&mut Config)) -> Self {
        let settings = Settings {
            jobs: vec![job],
            ..Settings::default()
        };
        Self::on(Emulator::start(settings).await.unwrap(), configure).await
    }

    /// A service on an emulator that the test has started.
    pub async fn on(emulator: Emulator, configure: impl FnOnce(&mut Config)) -> Self {
        Self::serve(Arc::new(emulator), configure).await
    }

    /// Another instance of the service, which shares only Cloud Run with this one.
    pub async fn another(&self, configure: impl FnOnce(&mut Config)) -> Self {
        Self::serve(Arc::clone(&self.emulator), configure).await
    }

    async fn serve(emulator: Arc<Emulator>, configure: impl FnOnce(&mut Config)) -> Self {
        let mut config = config(&emulator);
        configure(&mut config);
        Self::made(emulator, App::new(&config).unwrap()).await
    }

    /// A service from an `App` that the test has made.
    pub async fn made(emulator: Arc<Emulator>, app: App) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move { drop(stopped.await) };
        tokio::spawn(api::serve(listener, app, shutdown));
        Self {
            url,
            emulator,
            http: client(),
            stop: Some(stop),
        }
    }

    /// Stops the service, as SIGTERM does.
    pub fn stop(&mut self) {
        drop(self.stop.take());
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(format!("{}{path}", self.url))
    }

    pub fn post(&self, path: &str) -> RequestBuilder {
        self.http.post(format!("{}{path}", self.url))
    }

    /// Starts an execution and returns it.
    pub async fn start(&self, scope: &str) -> Value {
        let response = self
            .post(&format!("/scopes/{scope}/process"))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 202);
        response.json().await.unwrap()
    }

    /// Sends a start with this idempotency key.
    pub async fn keyed(&self, key: &str) -> Response {
        self.post("/scopes/acme/process")
            .header("idempotency-key", key)
            .send()
            .await
            .unwrap()
    }

    /// Sends a start without an idempotency key.
    pub async fn keyless(&self) -> Response {
        self.post("/scopes/acme/process").send().await.unwrap()
    }

    /// Sends a start with this key and checks that it is accepted.
    pub async fn accepted(&self, key: &str) -> Value {
        let response = self.keyed(key).await;
        assert_eq!(response.status(), 202);
        response.json().await.unwrap()
    }

    /// Repeats a start with this key, as clients do, until it is accepted.
    pub async fn until_accepted(&self, key: &str) -> Value {
        let begun = Instant::now();
        loop {
            let response = self.keyed(key).await;
            if response.status() == 202 {
                return response.json().await.unwrap();
            }
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "{}",
                response.text().await.unwrap()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The number of calls of `run`, and of the executions that they created.
    pub fn runs(&self) -> (u64, u64) {
        (self.calls(Operation::Run), self.counters().runs)
    }

    /// Reads an execution.
    pub async fn show(&self, execution: &Value) -> Value {
        json(self.get(link(execution, "self"))).await
    }

    /// Waits until the execution is in this state, and returns it.
    pub async fn until(&self, execution: &Value, state: &str) -> Value {
        let begun = Instant::now();
        loop {
            let now = self.show(execution).await;
            if now["state"] == state {
                return now;
            }
            assert!(begun.elapsed() < PATIENCE, "not {state} in time: {now}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The text of each log line of an execution.
    pub async fn lines(&self, execution: &Value) -> Vec<String> {
        let answer = json(self.get(link(execution, "logs"))).await;
        let lines = answer["lines"].as_array().unwrap();
        lines
            .iter()
            .map(|line| line["text"].as_str().unwrap().to_owned())
            .collect()
    }

    /// The number of calls of an operation of the emulator.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.counters().calls(operation)
    }

    pub fn counters(&self) -> Counters {
        self.emulator.counters()
    }
}

/// A client of the service. It has no timeout, because a test may open a thousand connections at once. It drops idle
/// connections after five seconds, because the service closes them after ten and must not do so just when the client
/// reuses one.
pub fn client() -> Client {
    // An error only means that another test has installed the provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .no_proxy()
        .pool_idle_timeout(Duration::from_secs(5))
        .tls_certs_only([])
        .build()
        .unwrap()
}

/// The settings of a service that uses the emulator.
pub fn config(emulator: &Emulator) -> Config {
    let mut config = Config::defaults().unwrap();
    config.auth.mode = Some(AuthMode::Public);
    config.cloud_run.job = JOB.to_owned();
    config.cloud_run.base_url = Some(emulator.url());
    config.cloud_logging.base_url = emulator.url();
    config.platform.metadata_host = emulator.host();
    // All tests come from one address, some with thousands of requests, and the limits have tests of their own.
    config.limits.in_flight = 10_000;
    config.limits.caller_per_minute = 1_000_000;
    config.limits.scope_per_minute = 1_000_000;
    config
}

/// The environment variables of a service on a free port that uses the emulator.
pub fn variables(emulator: &Emulator) -> [(&'static str, String); 7] {
    [
        ("PORT", "0".to_owned()),
        ("API__HOST", "127.0.0.1".to_owned()),
        ("API__AUTH__MODE", "public".to_owned()),
        ("API__CLOUD_RUN__JOB", JOB.to_owned()),
        ("API__CLOUD_RUN__BASE_URL", emulator.url()),
        ("API__CLOUD_LOGGING__BASE_URL", emulator.url()),
        ("GCE_METADATA_HOST", emulator.host()),
    ]
}

/// A path in the `links` of an execution.
pub fn link<'a>(execution: &'a Value, name: &str) -> &'a str {
    execution["links"][name].as_str().unwrap()
}

/// The JSON body of an answer, which must be a success.
pub async fn json(request: RequestBuilder) -> Value {
    let response = request.send().await.unwrap();
    assert!(response.status().is_success(), "{}", response.status());
    response.json().await.unwrap()
}

/// Checks that an answer is the problem with this slug, in full, and returns its body.
pub async fn problem(response: Response, slug: &str) -> Value {
    let (status, headers) = (response.status(), response.headers().clone());
    assert_eq!(
        headers["content-type"], "application/problem+json",
        "{status}"
    );
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["type"], format!("/problems/{slug}"), "{body}");
    assert_eq!(body["status"], status.as_u16());
    assert_eq!(body["requestId"], headers["x-request-id"].to_str().unwrap());
    assert!(
        body["title"].is_string() && body["retryable"].is_boolean(),
        "{body}"
    );
    assert!(!body["detail"].as_str().unwrap().is_empty());
    assert_eq!(
        headers.contains_key("retry-after"),
        matches!(status.as_u16(), 409 | 429 | 503 | 504)
    );
    body
}

/// Waits until the condition holds.
pub async fn eventually(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(
            begun.elapsed() < PATIENCE,
            "the condition did not hold in time"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
