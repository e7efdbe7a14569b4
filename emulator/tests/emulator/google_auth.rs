//! Google's credential libraries for Python and Node, outside and inside of tasks.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use emulator::{Emulator, Job};
use serde_json::json;

use crate::helpers::{World, settings};

/// Finds credentials, calls an API with them, and verifies an identity token with the keys that the emulator
/// publishes.
const PYTHON: &str = r#"
import os
import google.auth
from google.auth.transport.requests import AuthorizedSession, Request
from google.oauth2 import id_token

emulator = "http://" + os.environ["GCE_METADATA_HOST"]
credentials, project = google.auth.default()
jobs = AuthorizedSession(credentials).get(emulator + "/apis/run.googleapis.com/v1/namespaces/demo/jobs")
token = id_token.fetch_id_token(Request(), "https://api.example.com")
claims = id_token.verify_token(token, Request(), "https://api.example.com", emulator + "/oauth2/v3/certs")
print(project, jobs.status_code, claims["email"])
"#;
const NODE: &str = r#"
const { createPublicKey } = require('node:crypto');
const { GoogleAuth, OAuth2Client } = require('google-auth-library');

async function main() {
  const emulator = 'http://' + process.env.GCE_METADATA_HOST;
  const auth = new GoogleAuth({ scopes: 'https://www.googleapis.com/auth/cloud-platform' });
  const client = await auth.getClient();
  const jobs = await client.request({ url: emulator + '/apis/run.googleapis.com/v1/namespaces/demo/jobs' });
  const caller = await auth.getIdTokenClient('https://api.example.com');
  const token = await caller.idTokenProvider.fetchIdToken('https://api.example.com');
  const { keys } = await (await fetch(emulator + '/oauth2/v3/certs')).json();
  const pem = (key) => createPublicKey({ key, format: 'jwk' }).export({ type: 'spki', format: 'pem' });
  const certificates = Object.fromEntries(keys.map((key) => [key.kid, pem(key)]));
  const ticket = await new OAuth2Client().verifySignedJwtWithCertsAsync(
    token, certificates, 'https://api.example.com', ['https://accounts.google.com']);
  console.log(await auth.getProjectId(), jobs.status, ticket.getPayload().email);
}
main();
"#;
const EXPECTED: &str = "demo 200 123456789012-compute@developer.gserviceaccount.com";

struct Language {
    program: &'static str,
    /// The option that runs a program given as text.
    run: &'static str,
    text: &'static str,
    /// A program that succeeds if the library is installed.
    probe: &'static str,
    install: &'static str,
}

const LANGUAGES: [Language; 2] = [
    Language {
        program: "python3",
        run: "-c",
        text: PYTHON,
        probe: "import google.auth, jwt, requests",
        install: "pip install google-auth requests pyjwt cryptography",
    },
    Language {
        program: "node",
        run: "-e",
        text: NODE,
        probe: "require('google-auth-library')",
        install: "npm install google-auth-library, and NODE_PATH",
    },
];

impl Language {
    /// Whether the program and its library are installed. In CI (`CI=true`) they must be.
    fn is_here(&self) -> bool {
        let probe = Command::new(self.program)
            .args([self.run, self.probe])
            .stderr(Stdio::null())
            .status();
        let found = probe.is_ok_and(|status| status.success());
        let required = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(found || !required, "needed here: {}", self.install);
        if !found {
            eprintln!(
                "skipped: {} lacks its library ({})",
                self.program, self.install
            );
        }
        found
    }

    /// The output of a shell on this machine with the variables of the banner.
    async fn outside(&self, emulator: &Emulator, home: &Path) -> String {
        let mut command = tokio::process::Command::new(self.program);
        let banner = emulator.instructions();
        let exports = banner
            .lines()
            .find_map(|line| line.trim().strip_prefix("export GCE_METADATA_HOST="));
        let (host, ip) = exports.unwrap().split_once(" GCE_METADATA_IP=").unwrap();
        let output = command
            .args([self.run, self.text])
            .env_clear()
            .envs(surroundings(home))
            .envs([("GCE_METADATA_HOST", host), ("GCE_METADATA_IP", ip)])
            .output()
            .await
            .unwrap();
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    }
}

/// The variables by which the languages find their programs and libraries. They exclude the user's own credentials.
fn surroundings(home: &Path) -> Vec<(String, String)> {
    let named = ["PATH", "NODE_PATH", "PYENV_ROOT"];
    let given = named
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)));
    let home = ("HOME".to_owned(), home.display().to_string());
    given.chain([home]).collect()
}

#[tokio::test]
async fn googles_libraries_find_credentials_outside_and_inside_of_tasks() {
    let home = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    for language in LANGUAGES.iter().filter(|language| language.is_here()) {
        let job = Job {
            env: surroundings(&home),
            max_retries: 0,
            ..Job::new("sh", [language.program, language.run, language.text])
        };
        let world = World::with(settings(job)).await;
        let outside = language.outside(&world.emulator, &home).await;
        assert_eq!(outside.trim(), EXPECTED, "{}", language.program);
        let name = world.run(json!({})).await;
        world.finished(&name).await;
        assert_eq!(world.lines(&name).await, [EXPECTED], "{}", language.program);
    }
}
