//! A running emulator, and a client with an access token.

use std::time::Duration;

use emulator::{Emulator, Job, Settings};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// The time limit of every wait. Only a bug reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct World {
    pub(crate) emulator: Emulator,
    pub(crate) http: reqwest::Client,
    token: String,
}

/// A job named `sh` that runs `script`.
pub(crate) fn shell(script: &str) -> Job {
    Job {
        max_retries: 0,
        ..Job::new("sh", ["sh", "-c", script])
    }
}

pub(crate) fn settings(job: Job) -> Settings {
    Settings {
        jobs: vec![job],
        pending: Duration::from_millis(5),
        grace: Duration::from_secs(5),
        ..Settings::default()
    }
}

pub(crate) fn client() -> reqwest::Client {
    // reqwest has no TLS provider of its own. Installing one a second time fails, which is harmless.
    let _installed_before = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

impl World {
    pub(crate) async fn of(job: Job) -> Self {
        Self::with(settings(job)).await
    }

    pub(crate) async fn with(settings: Settings) -> Self {
        let emulator = Emulator::start(settings).await.unwrap();
        let mut world = Self {
            emulator,
            http: client(),
            token: String::new(),
        };
        world.token = world.fresh_token().await["access_token"]
            .as_str()
            .unwrap()
            .to_owned();
        world
    }

    pub(crate) async fn fresh_token(&self) -> Value {
        let (status, body) = self
            .metadata("v1/instance/service-accounts/default/token")
            .await;
        assert_eq!(status, StatusCode::OK);
        serde_json::from_str(&body).unwrap()
    }

    pub(crate) async fn metadata(&self, path: &str) -> (StatusCode, String) {
        let url = format!("{}/computeMetadata/{path}", self.emulator.url());
        let response = self
            .http
            .get(url)
            .header("Metadata-Flavor", "Google")
            .send()
            .await
            .unwrap();
        (response.status(), response.text().await.unwrap())
    }

    /// A request with the access token. `path` is relative to the namespace unless it begins with a slash.
    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let base = if path.starts_with('/') {
            ""
        } else {
            "/apis/run.googleapis.com/v1/namespaces/demo/"
        };
        self.http
            .request(method, format!("{}{base}{path}", self.emulator.url()))
            .bearer_auth(&self.token)
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Value) {
        answer(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        answer(self.request(Method::POST, path).json(&body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> (StatusCode, Value) {
        answer(self.request(Method::DELETE, path)).await
    }

    /// Starts an execution of the job `sh` and returns its name.
    pub(crate) async fn run(&self, overrides: Value) -> String {
        let (status, execution) = self
            .post("jobs/sh:run", json!({ "overrides": overrides }))
            .await;
        assert_eq!(status, StatusCode::OK, "{execution}");
        execution["metadata"]["name"].as_str().unwrap().to_owned()
    }

    /// Waits until `ready` holds for the execution, and returns it.
    pub(crate) async fn until(&self, name: &str, ready: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, execution) = self.get(&format!("executions/{name}")).await;
            assert_eq!(status, StatusCode::OK, "{execution}");
            if ready(&execution) {
                return execution;
            }
            assert!(Instant::now() < deadline, "still {execution}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn finished(&self, name: &str) -> Value {
        self.until(name, |execution| {
            condition(execution, "Completed")["status"] != "Unknown"
        })
        .await
    }

    /// The text of each log line of the execution, oldest first.
    pub(crate) async fn lines(&self, name: &str) -> Vec<String> {
        let filter = format!("labels.\"run.googleapis.com/execution_name\"=\"{name}\"");
        let body =
            json!({ "resourceNames": ["projects/demo"], "filter": filter, "pageSize": 1000 });
        let (status, answer) = self.post("/v2/entries:list", body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let entries = answer["entries"].as_array().cloned().unwrap_or_default();
        entries
            .iter()
            .map(|entry| entry["textPayload"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// Waits until the execution has `count` log lines, and returns them.
    pub(crate) async fn until_lines(&self, name: &str, count: usize) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let lines = self.lines(name).await;
            if lines.len() >= count {
                return lines;
            }
            assert!(Instant::now() < deadline, "no {count} lines in {lines:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

pub(crate) async fn answer(request: reqwest::RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

/// The condition of this type, or null.
pub(crate) fn condition(resource: &Value, kind: &str) -> Value {
    let conditions = resource["status"]["conditions"].as_array().unwrap();
    conditions
        .iter()
        .find(|condition| condition["type"] == kind)
        .cloned()
        .unwrap_or_default()
}

/// Overrides with these environment variables.
pub(crate) fn env(variables: &[(&str, &str)]) -> Value {
    let env: Vec<Value> = variables
        .iter()
        .map(|(name, value)| json!({ "name": name, "value": value }))
        .collect();
    json!({ "containerOverrides": [{ "env": env }] })
}

/// Whether the process runs. A zombie does not.
pub(crate) fn alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

pub(crate) async fn until_dead(pid: &str) {
    let deadline = Instant::now() + PATIENCE;
    while alive(pid) {
        assert!(Instant::now() < deadline, "{pid} still runs");
        sleep(Duration::from_millis(10)).await;
    }
}
