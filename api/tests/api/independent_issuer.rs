//! Tokens made by an independent implementation: joserfc, in Python.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use api::config::{Algorithm, AuthMode};
use serde_json::{Value, json};

use crate::helpers::{TestApp, instant_job};
use crate::issuer::now;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/api/issuer.py");

/// A running provider. It ends when this is dropped, since its standard input then closes.
struct Provider {
    url: String,
    child: Child,
}

impl Provider {
    fn start(algorithm: &str) -> Self {
        let mut command = Command::new("python3");
        command
            .args([SCRIPT, algorithm])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut port)
            .unwrap();
        let url = format!("http://127.0.0.1:{}", port.trim());
        Self { url, child }
    }

    async fn post(&self, app: &TestApp, path: &str, body: &Value) -> String {
        let request = app
            .http
            .post(format!("{}{path}", self.url))
            .body(body.to_string());
        request.send().await.unwrap().text().await.unwrap()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ended = self.child.wait();
    }
}

/// Whether joserfc is installed. In CI (`CI=true`) it must be.
fn has_joserfc() -> bool {
    let mut command = Command::new("python3");
    let found = command
        .args(["-c", "import joserfc"])
        .stderr(Stdio::null())
        .status();
    let found = found.is_ok_and(|status| status.success());
    let required = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(
        found || !required,
        "python3 with joserfc is needed here: pip install joserfc"
    );
    if !found {
        eprintln!("skipped: python3 with joserfc is not installed (pip install joserfc)");
    }
    found
}

#[tokio::test]
async fn tokens_of_another_implementation_are_accepted_across_a_key_rotation() {
    if !has_joserfc() {
        return;
    }
    for (algorithm, setting) in [("RS256", Algorithm::Rs256), ("ES256", Algorithm::Es256)] {
        let provider = Provider::start(algorithm);
        let app = TestApp::with(instant_job(), |config| {
            config.auth.mode = Some(AuthMode::Jwt);
            config.auth.jwt.issuer = Some("https://issuer.example/".to_owned());
            config.auth.jwt.audience = Some("cloud-run-job-api".to_owned());
            config.auth.jwt.jwks_url = Some(format!("{}/keys", provider.url));
            config.auth.jwt.algorithm = Some(setting);
            config.auth.scope_claim = Some("tenants".to_owned());
        })
        .await;
        let claims = |change: Value| {
            let mut claims = json!({"iss": "https://issuer.example/", "aud": ["other", "cloud-run-job-api"], "sub": "auth0|7",
                "iat": now(), "exp": now() + 60, "tenants": ["acme"]});
            claims
                .as_object_mut()
                .unwrap()
                .extend(change.as_object().unwrap().clone());
            claims
        };
        let (app, provider) = (&app, &provider);
        let token = async |change| provider.post(app, "/token", &claims(change)).await;
        let status = async |token: &str| {
            let request = app.post("/scopes/acme/process").bearer_auth(token);
            request.send().await.unwrap().status().as_u16()
        };
        assert_eq!(status(&token(json!({})).await).await, 202, "{algorithm}");
        assert_eq!(
            status(&token(json!({"tenants": ["globex"]})).await).await,
            403
        );
        assert_eq!(status(&token(json!({"aud": "other"})).await).await, 401);
        assert_eq!(
            status(&token(json!({"iss": "https://issuer.example"})).await).await,
            401
        );
        assert_eq!(status(&token(json!({"exp": now() - 60})).await).await, 401);
        let unseen = token(json!({"jti": "unseen"})).await;
        provider.post(app, "/rotate", &json!({})).await;
        assert_eq!(status(&token(json!({})).await).await, 202, "{algorithm}");
        assert_eq!(status(&unseen).await, 401, "its key was withdrawn");
    }
}
