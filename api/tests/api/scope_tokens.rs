//! Scope tokens, which the operator's backend signs.

use std::process::Command;

use api::config::{Algorithm, AuthMode, Secrets};
use emulator::Operation;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use crate::auth::{all_to_u1, hmac, jwt, token as token_of_issuer};
use crate::helpers::{TestApp, instant_job, link, problem};
use crate::issuer::{Issuer, Key, base64url, now, unsigned};

const SECRET: &str = "kG7vX2pQ9sL4mZ8wR1tY6uB3nC5dF0hJ";
const NEW_SECRET: &str = "Wq3rT8yU1iO6pA4sD9fG2hJ7kL5zX0cV";

/// A service that accepts only tokens signed with this secret.
async fn spawn() -> TestApp {
    TestApp::with(instant_job(), |config| {
        config.auth.mode = Some(AuthMode::Jwt);
        config.auth.jwt.secret = Secrets::new([SECRET.to_owned()]);
        let import = serde_json::from_value(json!({})).unwrap();
        config.processes.insert("import".to_owned(), import);
    })
    .await
}

fn claims() -> Value {
    json!({"scopes": ["acme"], "operations": ["start", "read"], "exp": now() + 300})
}

/// The claims with some of them changed. Null removes one.
fn with(changes: Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

fn sign(secret: &[u8], header: Value, claims: &Value) -> String {
    let message = unsigned(&header, claims);
    format!("{message}.{}", base64url(&hmac(secret, &message)))
}

fn token(claims: &Value) -> String {
    sign(
        SECRET.as_bytes(),
        json!({"alg": "HS256", "typ": "JWT"}),
        claims,
    )
}

async fn start(app: &TestApp, path: &str, token: &str) -> Response {
    app.post(path).bearer_auth(token).send().await.unwrap()
}

async fn keyed(app: &TestApp, token: &str, key: &str) -> Response {
    let request = app.post(START).bearer_auth(token);
    request.header("idempotency-key", key).send().await.unwrap()
}

const START: &str = "/scopes/acme/process";

#[tokio::test]
async fn a_scope_token_allows_only_its_operations_in_its_scopes() {
    let app = spawn().await;
    let token = token(&claims());
    let response = start(&app, START, &token).await;
    assert_eq!(response.status(), 202);
    let execution: Value = response.json().await.unwrap();
    let show = app.get(link(&execution, "self")).bearer_auth(&token);
    assert_eq!(show.send().await.unwrap().status(), 200);
    let cancel = start(&app, link(&execution, "cancel"), &token).await;
    problem(cancel, "operation-forbidden").await;
    let replace = start(&app, "/scopes/acme/process?on_running=replace", &token).await;
    problem(replace, "operation-forbidden").await;
    let other = start(&app, "/scopes/globex/process", &token).await;
    problem(other, "scope-forbidden").await;
    let without = app.post(START).send().await.unwrap();
    problem(without, "unauthenticated").await;
}

#[tokio::test]
async fn a_scope_token_must_expire_within_a_day_and_list_scopes_and_operations() {
    let app = spawn().await;
    for good in [
        json!({"exp": now() + 24 * 3600 - 60}),
        json!({"iat": now(), "nbf": now() - 10}),
        json!({"exp": now() - 5}), // clocks differ
        json!({"sub": "u1", "processes": ["import"], "operations": ["start", "read", "cancel"]}),
        json!({"whatever": {"else": 1}}),
    ] {
        let path = match good.get("processes") {
            None => START,
            Some(_) => "/scopes/acme/process/import",
        };
        let response = start(&app, path, &token(&with(good.clone()))).await;
        assert_eq!(response.status(), 202, "{good}");
    }
    let runs = app.counters().runs;
    for bad in [
        json!({"exp": null}),
        json!({"exp": now() - 60}),
        json!({"exp": now() + 25 * 3600}),
        json!({"exp": 1e300}),
        json!({"exp": "never"}),
        json!({"iat": now() - 30 * 3600}),
        json!({"iat": now() + 3600, "exp": now() + 7200}),
        json!({"iat": "yesterday"}),
        json!({"nbf": now() + 3600}),
        json!({"aud": "https://another.example"}),
        json!({"scopes": null}),
        json!({"scopes": []}),
        json!({"scopes": "acme"}),
        json!({"scopes": ["*"]}),
        json!({"scopes": ["acme", "a/b"]}),
        json!({"scopes": ["acme", 7]}),
        json!({"operations": null}),
        json!({"operations": []}),
        json!({"operations": ["*"]}),
        json!({"operations": ["Start"]}),
        json!({"operations": "start"}),
        json!({"processes": []}),
        json!({"processes": ["*"]}),
        json!({"processes": "import"}),
        json!({"key": 7}),
        json!({"sub": ""}),
        json!({"sub": "a\nb"}),
        json!({"sub": ["u1"]}),
    ] {
        let response = start(&app, START, &token(&with(bad.clone()))).await;
        assert_eq!(response.status(), 401, "{bad}");
        problem(response, "unauthenticated").await;
    }
    assert_eq!(app.counters().runs, runs);
}

#[tokio::test]
async fn a_scope_token_can_be_limited_to_some_processes() {
    let app = spawn().await;
    let import = token(&with(json!({"processes": ["import"]})));
    let of_import = start(&app, "/scopes/acme/process/import", &import).await;
    assert_eq!(of_import.status(), 202);
    let of_import: Value = of_import.json().await.unwrap();
    problem(start(&app, START, &import).await, "operation-forbidden").await;

    let all = token(&claims());
    let unnamed: Value = start(&app, START, &all).await.json().await.unwrap();
    for (path, expected) in [
        (link(&of_import, "self"), StatusCode::OK),
        (link(&unnamed, "self"), StatusCode::NOT_FOUND),
        (link(&unnamed, "logs"), StatusCode::NOT_FOUND),
        (link(&unnamed, "events"), StatusCode::NOT_FOUND),
    ] {
        let response = app.get(path).bearer_auth(&import).send().await.unwrap();
        assert_eq!(response.status(), expected, "{path}");
    }
    let waiting = format!("{}?wait=1", link(&unnamed, "self"));
    let response = app.get(&waiting).bearer_auth(&import).send().await.unwrap();
    problem(response, "execution-not-found").await;
    for (token, listed) in [(&import, 1), (&all, 2)] {
        let list = app.get("/scopes/acme/executions").bearer_auth(token).send();
        let list: Value = list.await.unwrap().json().await.unwrap();
        assert_eq!(
            list["executions"].as_array().unwrap().len(),
            listed,
            "{list}"
        );
    }
}

/// Each way to use a public key or nothing as the secret, and the secret as a key.
#[tokio::test]
async fn a_token_is_never_checked_with_the_key_of_another_algorithm() {
    let (rsa, ec) = (Key::k1(), Key::new_ec());
    for (algorithm, setting, key) in [
        ("RS256", Algorithm::Rs256, &rsa),
        ("ES256", Algorithm::Es256, &ec),
    ] {
        let issuer = Issuer::start().await;
        let jwk = key.jwk("k1");
        issuer.publish(vec![
            jwk.clone(),
            json!({"kty": "oct", "kid": "k1", "alg": "HS256", "k": base64url(SECRET.as_bytes())}),
        ]);
        let app = TestApp::with(instant_job(), |config| {
            jwt(config, &issuer, all_to_u1());
            config.auth.jwt.algorithm = Some(setting);
            config.auth.jwt.secret = Secrets::new([SECRET.to_owned()]);
        })
        .await;
        let of_issuer = json!({
            "iss": "https://accounts.google.com", "aud": "https://svc.example", "sub": "u1",
            "iat": now(), "exp": now() + 300
        });
        let mut both = claims();
        both.as_object_mut()
            .unwrap()
            .extend(of_issuer.as_object().unwrap().clone());
        let header = |algorithm: &str| json!({"alg": algorithm, "kid": "k1"});

        // Both kinds are accepted, and each allows only what its claims grant.
        let genuine = key.token(&header(algorithm), &of_issuer);
        assert_eq!(start(&app, START, &genuine).await.status(), 202);
        let scope_token = sign(SECRET.as_bytes(), header("HS256"), &both);
        assert_eq!(start(&app, START, &scope_token).await.status(), 202);
        let beyond = start(&app, "/scopes/globex/process", &scope_token).await;
        problem(beyond, "scope-forbidden").await; // u1's grant is for tokens of the issuer
        let mut ungranted = both.clone();
        ungranted["sub"] = json!("u2");
        let ungranted = key.token(&header(algorithm), &ungranted);
        problem(start(&app, START, &ungranted).await, "scope-forbidden").await;

        let public =
            ["n", "e", "x", "y"].map(|part| jwk[part].as_str().unwrap_or_default().to_owned());
        let secrets = [
            jwk.to_string(),
            public[0].clone(),
            format!("{}{}", public[2], public[3]),
            String::new(),
            "k1".to_owned(),
            NEW_SECRET.to_owned(),
        ];
        let mut forged: Vec<String> = secrets
            .iter()
            .flat_map(|secret| {
                [
                    "HS256", "HS384", "HS512", algorithm, "none", "None", "hs256",
                ]
                .map(|alg| sign(secret.as_bytes(), header(alg), &both))
            })
            .collect();
        for alg in ["HS384", "HS512", "RS256", "ES256", "PS256", "EdDSA", "none"] {
            forged.push(sign(SECRET.as_bytes(), header(alg), &both)); // the right secret, another algorithm
        }
        forged.push(key.token(&header("HS256"), &both)); // the right key, the secret's algorithm
        forged.push(key.token(&header("none"), &both));
        forged.push(format!("{}.", unsigned(&header("HS256"), &both)));
        forged.push(format!("{}.", unsigned(&header("none"), &both)));
        for extra in ["jwk", "jku", "x5u", "crit"] {
            let mut header = header("HS256");
            header[extra] = match extra {
                "jwk" => json!({"kty": "oct", "k": base64url(b"mine")}),
                "crit" => json!(["exp"]),
                _ => json!("https://evil.example/keys"),
            };
            forged.push(sign(SECRET.as_bytes(), header.clone(), &both));
            forged.push(sign(b"mine", header, &both));
        }
        let runs = app.counters().runs;
        for token in forged {
            let response = start(&app, START, &token).await;
            assert_eq!(response.status(), 401, "{token}");
        }
        assert_eq!(app.counters().runs, runs);
    }
}

#[tokio::test]
async fn a_kind_of_token_that_is_not_configured_is_refused() {
    let app = spawn().await;
    let response = start(&app, START, &token_of_issuer("u1")).await;
    problem(response, "unauthenticated").await;

    let issuer = Issuer::start().await;
    let app = TestApp::with(instant_job(), |config| jwt(config, &issuer, all_to_u1())).await;
    problem(
        start(&app, START, &token(&claims())).await,
        "unauthenticated",
    )
    .await;
    assert_eq!(app.calls(Operation::Any), 0);
}

#[tokio::test]
async fn during_a_rotation_tokens_of_both_secrets_are_accepted() {
    let secrets = [NEW_SECRET.to_owned(), SECRET.to_owned()];
    let app = TestApp::with(instant_job(), |config| {
        config.auth.mode = Some(AuthMode::Jwt);
        config.auth.jwt.secret = Secrets::new(secrets);
    })
    .await;
    let header = json!({"alg": "HS256"});
    for (secret, expected) in [(NEW_SECRET, 202), (SECRET, 202), ("another", 401)] {
        let token = sign(secret.as_bytes(), header.clone(), &claims());
        assert_eq!(start(&app, START, &token).await.status(), expected);
    }
}

#[tokio::test]
async fn a_token_with_a_key_starts_one_execution() {
    let app = spawn().await;
    let with_key = |more: Value| {
        let mut claims = with(json!({"key": "order-7"}));
        claims
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        token(&claims)
    };
    let one = with_key(json!({}));
    let first = start(&app, START, &one).await;
    assert_eq!(first.status(), 202);
    assert!(!first.headers().contains_key("idempotent-replayed"));
    let first: Value = first.json().await.unwrap();

    // The same token, another token with the same key, and the token with the key in the header.
    let again = with_key(json!({"exp": now() + 600, "operations": ["start"]}));
    for response in [
        start(&app, START, &one).await,
        start(&app, START, &again).await,
        keyed(&app, &again, "order-7").await,
        keyed(&app, &again, "\"order-7\"").await,
    ] {
        assert_eq!(response.status(), 202);
        assert_eq!(response.headers()["idempotent-replayed"], "true");
        let execution: Value = response.json().await.unwrap();
        assert_eq!(execution["name"], first["name"]);
    }
    problem(
        keyed(&app, &one, "order-8").await,
        "idempotency-key-invalid",
    )
    .await;
    let other_query = start(&app, "/scopes/acme/process?on_running=allow", &one).await;
    problem(other_query, "idempotency-key-reused").await;
    assert_eq!(app.counters().runs, 1);

    // A caller's key differs from the same key in a token, and so does the key of another subject.
    assert_eq!(
        keyed(&app, &token(&claims()), "order-7").await.status(),
        202
    );
    assert_eq!(
        start(&app, START, &with_key(json!({"sub": "u1"})))
            .await
            .status(),
        202
    );
    assert_eq!(app.counters().runs, 3);
    let unusable = token(&with(json!({"key": "order 7"})));
    problem(
        start(&app, START, &unusable).await,
        "idempotency-key-invalid",
    )
    .await;
}

#[tokio::test]
async fn api_token_makes_tokens_that_the_service_accepts() {
    let app = spawn().await;
    let make = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_api"));
        command.env_clear().arg("token").args(arguments);
        let output = command
            .env("API__AUTH__JWT__SECRET", SECRET)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let plain = make(&["acme"]);
    assert_eq!(start(&app, START, &plain).await.status(), 202);
    let reader = make(&["acme", "globex", "--operations", "read"]);
    problem(start(&app, START, &reader).await, "operation-forbidden").await;
    for scope in ["acme", "globex"] {
        let list = app.get(&format!("/scopes/{scope}/executions"));
        assert_eq!(
            list.bearer_auth(&reader).send().await.unwrap().status(),
            200
        );
    }
    let arguments = [
        "acme",
        "--operations=start,read",
        "--minutes=15",
        "--process",
        "import",
        "--key",
        "k",
        "--subject",
        "u1",
    ];
    let one = make(&arguments);
    problem(start(&app, START, &one).await, "operation-forbidden").await;
    for replayed in [false, true] {
        let response = start(&app, "/scopes/acme/process/import", &one).await;
        assert_eq!(response.status(), 202);
        assert_eq!(
            response.headers().contains_key("idempotent-replayed"),
            replayed
        );
    }
}

#[test]
fn api_token_makes_no_token_that_the_service_would_refuse() {
    for (arguments, named) in [
        (&["acme", "--subject", ""][..], "--subject must"),
        (&["acme", "--subject", "a\nb"], "--subject must"),
        (&["acme", "--key", "a b"], "--key must"),
        (&["acme", "--minutes", "1441"], "--minutes must"),
        (&["acme", "--minutes", "soon"], "--minutes must"),
        (&["acme", "--process", "Import"], "`Import` is not"),
        (&["acme", "--operations", "write"], "`write` is not"),
        (&["*"], "a scope is"),
        (&[], "name the scopes"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_api"));
        command.env_clear().arg("token").args(arguments);
        let output = command.env("API__AUTH__JWT__SECRET", SECRET).output();
        let output = output.unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(message.contains(named), "{arguments:?}: {message}");
    }
}

/// The programs in the documents, which make a token and print it.
#[tokio::test]
async fn the_programs_in_the_documents_make_tokens_that_the_service_accepts() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/who-may-call.md");
    let page = std::fs::read_to_string(page).unwrap();
    let app = spawn().await;
    for (language, command) in [
        ("python", &["python3", "-c"][..]),
        ("js", &["node", "--input-type=module", "-e"]),
    ] {
        let begin = format!("```{language} scope-token\n");
        let (_, program) = page.split_once(&begin).unwrap();
        let (program, _) = program.split_once("```").unwrap();
        let run = Command::new(command[0])
            .args(&command[1..])
            .arg(program)
            .env("SECRET", SECRET)
            .output();
        let Ok(output) = run else {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{language}");
            eprintln!("skipped: {} is not installed", command[0]);
            continue;
        };
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let token = String::from_utf8(output.stdout).unwrap();
        assert_eq!(
            start(&app, START, token.trim()).await.status(),
            202,
            "{language}"
        );
    }
}
