//! Tests `cargo run -- --project …`, which uses gcloud's token. The emulator stands for Cloud Run and accepts only
//! the token that it has issued. gcloud is real and reads that token from a file.

use std::process::Command;

use emulator::{Emulator, Job, Settings};
use reqwest::{Client, StatusCode};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::terminal::Terminal;

const SCOPE: &str = "acme";

/// An emulated Cloud Run with one job, and a configuration folder for gcloud.
struct World {
    cloud_run: Emulator,
    token: String,
    folder: String,
}

impl World {
    /// Returns `None` if gcloud is not installed. In CI it must be.
    async fn new(name: &str) -> Option<Self> {
        if Command::new("gcloud").arg("--version").output().is_err() {
            assert_ne!(
                std::env::var("CI").as_deref(),
                Ok("true"),
                "gcloud is needed"
            );
            eprintln!("skipped: gcloud is not installed");
            return None;
        }
        let settings = Settings {
            jobs: vec![Job::new("import-job", ["true"])],
            ..Settings::default()
        };
        let cloud_run = Emulator::start(settings).await.unwrap();
        let url = format!(
            "{}/computeMetadata/v1/instance/service-accounts/default/token",
            cloud_run.url()
        );
        let answer = http().get(url).header("Metadata-Flavor", "Google");
        let answer: serde_json::Value = answer.send().await.unwrap().json().await.unwrap();
        let folder = format!("{}/{name}", env!("CARGO_TARGET_TMPDIR"));
        std::fs::create_dir_all(&folder).unwrap();
        Some(Self {
            cloud_run,
            token: answer["access_token"].as_str().unwrap().to_owned(),
            folder,
        })
    }

    fn local(&self, gclouds_token: &str) -> Command {
        let file = format!("{}/token", self.folder);
        std::fs::write(&file, gclouds_token).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_local"));
        command
            .args(["--project", "demo", "--region=us-east4", "--job=import-job"])
            .env("CLOUDSDK_CONFIG", &self.folder)
            .env("CLOUDSDK_AUTH_ACCESS_TOKEN_FILE", file)
            .env("CLOUDSDK_CORE_ACCOUNT", "ann@example.com")
            .env("CLOUDSDK_CORE_DISABLE_USAGE_REPORTING", "true")
            .env("API__CLOUD_RUN__BASE_URL", self.cloud_run.url())
            .env("API__CLOUD_LOGGING__BASE_URL", self.cloud_run.url());
        command
    }

    async fn start(&self, port: u16) -> StatusCode {
        let url = format!("http://127.0.0.1:{port}/scopes/{SCOPE}/process");
        http().post(url).send().await.unwrap().status()
    }
}

/// Waits until the service accepts requests. It waits in another thread, because the emulator runs in this one.
async fn ready(mut command: Command) -> (Terminal, u16) {
    let wait = move || {
        let mut terminal = Terminal::run(&mut command);
        let port = terminal.ready();
        (terminal, port)
    };
    tokio::task::spawn_blocking(wait).await.unwrap()
}

fn http() -> Client {
    api::gcp::http_client::HttpClients::new().unwrap().reqwest
}

/// The metadata server's `host:port`, from the doctor's line.
fn metadata_host(terminal: &Terminal) -> String {
    let line = terminal
        .shown
        .iter()
        .find_map(|line| line.split_once("GCE_METADATA_HOST="));
    let (_, rest) = line.unwrap();
    rest.split(' ').next().unwrap().to_owned()
}

#[tokio::test]
async fn starts_reach_cloud_run_with_gclouds_token() {
    let Some(world) = World::new("gcloud").await else {
        return;
    };
    let (terminal, port) = ready(world.local(&world.token)).await;
    let shown = terminal.shown.join("\n");
    let warning =
        "*** THIS IS REAL: job import-job, project demo, region us-east4, as ann@example.com.";
    assert!(shown.contains(warning), "{shown}");
    assert_eq!(world.start(port).await, StatusCode::ACCEPTED);
    let started = world.cloud_run.executions();
    assert_eq!(started.len(), 1);
    assert_eq!(started[0].env["SCOPE"], SCOPE);

    // The doctor and other programs of this machine get the token; a page in a browser does not.
    let host = metadata_host(&terminal);
    let path = "/computeMetadata/v1/instance/service-accounts/default/token";
    let ask = |name: &'static str, flavor: Option<&'static str>| {
        let request = http()
            .get(format!("http://{host}{path}"))
            .header("Host", name);
        let request = match flavor {
            Some(flavor) => request.header("Metadata-Flavor", flavor),
            None => request,
        };
        async move { request.send().await.unwrap() }
    };
    let answer = ask("127.0.0.1", Some("Google")).await;
    assert_eq!(answer.headers()["metadata-flavor"], "Google");
    let answer: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(answer["access_token"], world.token);
    assert!((1..=1800).contains(&answer["expires_in"].as_u64().unwrap()));
    assert_eq!(ask("127.0.0.1", None).await.status(), StatusCode::FORBIDDEN);
    let rebound = ask("rebound.example.com", Some("Google")).await;
    assert_eq!(rebound.status(), StatusCode::FORBIDDEN);
    assert!(terminal.end_by(Signal::INT).success());
}

#[tokio::test]
async fn a_service_account_can_be_impersonated() {
    let Some(world) = World::new("impersonate").await else {
        return;
    };
    let (credentials, asked) = iam_credentials(world.token.clone()).await;
    let mut command = world.local("ann's token");
    command
        .arg("--impersonate=svc@demo.iam.gserviceaccount.com")
        .env(
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_IAMCREDENTIALS",
            credentials,
        );
    let (terminal, port) = ready(command).await;
    assert_eq!(world.start(port).await, StatusCode::ACCEPTED);
    let asked = asked.await.unwrap();
    assert!(
        asked.contains("/serviceAccounts/svc@demo.iam.gserviceaccount.com:generateAccessToken"),
        "{asked}"
    );
    assert!(asked.contains("Bearer ann's token"), "{asked}");
    let shown = terminal.shown.join("\n");
    assert!(
        shown.contains("as svc@demo.iam.gserviceaccount.com."),
        "{shown}"
    );
}

/// A server that answers one call of Google's IAM credentials API. Returns its URL and the request that it gets.
async fn iam_credentials(token: String) -> (String, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let answered = tokio::spawn(async move {
        let (mut caller, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 16 * 1024];
        let mut length = 0;
        while !request[..length].ends_with(b"}") {
            length += caller.read(&mut request[length..]).await.unwrap();
        }
        let body = format!(r#"{{"accessToken": "{token}", "expireTime": "2030-01-01T00:00:00Z"}}"#);
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close";
        let answer = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        caller.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    (url, answered)
}

#[tokio::test]
async fn a_gcloud_without_a_token_is_reported_with_the_cure() {
    let Some(world) = World::new("no-token").await else {
        return;
    };
    let mut command = world.local("");
    command.env_remove("CLOUDSDK_AUTH_ACCESS_TOKEN_FILE");
    command.envs([("PORT", "0"), ("EMULATOR_PORT", "0")]);
    let output = command.output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("run `gcloud auth login`"), "{message}");
    // Here gcloud is not on the PATH.
    let output = world.local("x").env("PATH", "/nowhere").output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.contains("https://cloud.google.com/sdk/docs/install"),
        "{message}"
    );
}
