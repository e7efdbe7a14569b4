//! Programs that use the service by its OpenAPI document only. They are JavaScript and Python, installed by
//! `npm ci` in `tests/typescript` and by `pip install -r tests/schemathesis/requirements.txt`.

use std::path::{Path, PathBuf};

use api::config::AuthMode;
use serde_json::json;
use tokio::process::Command;

use crate::auth;
use crate::helpers::{TestApp, instant_job, json, real_job};

/// A folder of tests that are not Rust.
fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(name)
}

/// Prints why a test is skipped. In CI, where every tool must be installed, it fails instead.
fn skip(what: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{what}");
    println!("skipped: {what}");
}

/// Runs a program to its end. It must succeed.
async fn run(folder: &Path, program: impl AsRef<Path>, arguments: &[&str]) {
    let mut command = Command::new(program.as_ref());
    command
        .current_dir(folder)
        .args(arguments)
        .kill_on_drop(true);
    let output = command.output().await.unwrap();
    assert!(
        output.status.success(),
        "{command:?}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

async fn service(job: emulator::Job) -> TestApp {
    let declared = json!({
        "document": { "type": "string", "pattern": "^[A-Za-z0-9-]{1,64}$", "description": "which", "required": true },
        "limit": { "type": "integer", "minimum": 1, "maximum": 1000, "default": 100 },
    });
    TestApp::with(job, |config| {
        config.parameters = declared.as_object().unwrap().clone();
        config.overrides.args = vec![
            "--document={document}".to_owned(),
            "--limit={limit}".to_owned(),
        ];
    })
    .await
}

#[tokio::test]
async fn linters_find_nothing_and_a_generated_client_drives_the_service() {
    let folder = folder("typescript");
    let tool = |name: &str| folder.join("node_modules/.bin").join(name);
    if !tool("tsc").exists() {
        return skip("npm's packages are not there: run npm ci in api/tests/typescript");
    }
    let iam = TestApp::with(instant_job(), |config| {
        config.auth.mode = Some(AuthMode::Iam)
    })
    .await;
    let app = service(real_job()).await;
    std::fs::create_dir_all(folder.join("generated")).unwrap();
    for (service, file) in [
        (&iam, "generated/iam.json"),
        (&app, "generated/public.json"),
    ] {
        let document = json(service.get("/openapi.json")).await.to_string();
        std::fs::write(folder.join(file), document).unwrap();
        let redocly = ["lint", file, "--max-problems", "1000"];
        run(&folder, tool("redocly"), &redocly).await;
        let spectral = ["lint", file, "--fail-severity", "hint"];
        run(&folder, tool("spectral"), &spectral).await;
    }
    let types = ["generated/public.json", "--output", "generated/schema.d.ts"];
    run(&folder, tool("openapi-typescript"), &types).await;
    run(&folder, tool("tsc"), &["--project", "."]).await;
    run(&folder, "node", &["generated/client.js", &app.url]).await;
}

#[tokio::test]
async fn schemathesis_finds_no_answer_that_the_document_does_not_describe() {
    let found = Command::new("schemathesis").arg("--version").output().await;
    if found.is_err() {
        return skip(
            "schemathesis is not there: run pip install -r api/tests/schemathesis/requirements.txt",
        );
    }
    let app = service(instant_job()).await;
    let (guarded, _issuer) = auth::spawn(auth::all_to_u1()).await;
    let document = |app: &TestApp| format!("{}/openapi.json", app.url);
    let (of_app, of_guarded) = (document(&app), document(&guarded));
    let bearer = format!("Authorization: Bearer {}", auth::token("u1"));
    let folder = folder("schemathesis");
    let public = ["run", &of_app];
    let with_token = ["run", &of_guarded, "--header", &bearer];
    tokio::join!(
        run(&folder, "schemathesis", &public),
        run(&folder, "schemathesis", &with_token)
    );
}
