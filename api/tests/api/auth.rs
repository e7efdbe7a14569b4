//! Authentication and authorization: tokens, grants, and the answers to unauthenticated callers.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use api::config::{AuthMode, Config, Preset};
use axum::http::HeaderName;
use bytes::Bytes;
use emulator::{Job, Operation};
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use http_body_util::StreamBody;
use hyper::body::Frame;
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};

use crate::helpers::{JOB, PATIENCE, TestApp, instant_job, link, problem};
use crate::issuer::{Answer, Issuer, Key, base64url, now, unsigned};

const ISSUER: &str = "https://accounts.google.com";
const AUDIENCE: &str = "https://svc.example";

/// A service that accepts the issuer's tokens like Google's, and the issuer.
pub async fn spawn(grants: Value) -> (TestApp, Issuer) {
    spawn_with(grants, instant_job()).await
}

/// The same with another job.
pub async fn spawn_with(grants: Value, job: Job) -> (TestApp, Issuer) {
    let issuer = Issuer::start().await;
    let app = TestApp::with(job, |config| jwt(config, &issuer, grants)).await;
    (app, issuer)
}

/// Sets the service to accept the issuer's tokens like Google's.
pub fn jwt(config: &mut Config, issuer: &Issuer, grants: Value) {
    config.auth.mode = Some(AuthMode::Jwt);
    config.auth.jwt.preset = Some(Preset::Google);
    config.auth.jwt.audience = Some(AUDIENCE.to_owned());
    config.auth.jwt.jwks_url = Some(issuer.jwks_url.clone());
    config.auth.grants = serde_json::from_value(grants).unwrap();
}

fn grant(claim: &str, value: &str, scopes: &[&str], operations: &[&str]) -> Value {
    json!({"claim": claim, "value": value, "scopes": scopes, "operations": operations})
}

/// `u1` may do everything.
pub fn all_to_u1() -> Value {
    json!([grant("sub", "u1", &["*"], &["start", "read", "cancel"])])
}

fn claims(subject: &str) -> Value {
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "iat": now(), "exp": now() + 300})
}

fn header() -> Value {
    json!({"alg": "RS256", "kid": "k1", "typ": "JWT"})
}

/// A valid token for this subject.
pub fn token(subject: &str) -> String {
    Key::k1().token(&header(), &claims(subject))
}

/// A token for `u1` with one claim changed. Null removes the claim.
pub fn changed(name: &str, value: Value) -> String {
    let mut claims = claims("u1");
    set(&mut claims, name, value);
    Key::k1().token(&header(), &claims)
}

fn set(object: &mut Value, name: &str, value: Value) {
    let fields = object.as_object_mut().unwrap();
    match value {
        Value::Null => drop(fields.remove(name)),
        value => drop(fields.insert(name.to_owned(), value)),
    }
}

fn start(app: &TestApp, scope: &str) -> RequestBuilder {
    app.post(&format!("/scopes/{scope}/process"))
}

async fn status(request: RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

/// The problem's body without the parts that differ between requests.
async fn anonymous(response: Response, slug: &str) -> String {
    let mut body = problem(response, slug).await;
    body["requestId"] = Value::Null;
    body.to_string()
}

async fn unauthenticated(request: RequestBuilder) -> String {
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
    anonymous(response, "unauthenticated").await
}

/// All requests about an execution, and the operation of each.
fn requests(app: &TestApp, scope: &str, execution: &str) -> Vec<(&'static str, RequestBuilder)> {
    let path = |rest: &str| format!("/scopes/{scope}/{rest}");
    let of_one = |rest: &str| path(&format!("executions/{execution}{rest}"));
    vec![
        ("start", app.post(&path("process"))),
        ("read", app.get(&path("executions"))),
        ("read", app.get(&of_one(""))),
        ("read", app.get(&of_one("/logs"))),
        ("read", app.get(&of_one("/events"))),
        ("cancel", app.post(&of_one("/cancel"))),
    ]
}

#[tokio::test]
async fn every_route_answers_an_unauthenticated_caller_with_the_same_401() {
    let (app, _issuer) = spawn(all_to_u1()).await;
    let mut bodies = HashSet::new();
    for scope in ["acme", "-", "%ff", "a%2Fb", ""] {
        for (_, request) in requests(&app, scope, "test-job-x7k2p") {
            bodies.insert(unauthenticated(request).await);
        }
    }
    let whatever = app.post("/scopes/acme/process?nope=1").body("{");
    bodies.insert(unauthenticated(whatever).await);
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    assert_eq!(app.calls(Operation::Any), 0);
    assert_eq!(status(app.get("/health")).await, 200);
    assert_eq!(status(app.get("/ready")).await, 200);
    problem(app.get("/nothing").send().await.unwrap(), "not-found").await;
}

#[tokio::test]
async fn an_unauthenticated_request_is_refused_before_its_body_is_read() {
    let (app, _issuer) = spawn(all_to_u1()).await;
    let never = stream::pending::<Result<Frame<Bytes>, std::io::Error>>();
    let body = reqwest::Body::wrap(StreamBody::new(never));
    let request = start(&app, "acme").header("content-type", "application/json");
    unauthenticated(request.body(body)).await;
}

#[tokio::test]
async fn each_operation_is_allowed_exactly_where_it_is_granted() {
    let (app, _issuer) = spawn(json!([
        grant(
            "email",
            "admin@example.com",
            &["*"],
            &["start", "read", "cancel"]
        ),
        grant("sub", "a-start", &["a"], &["start"]),
        grant("sub", "a-read", &["a"], &["read"]),
        grant("sub", "b-start", &["b", "c"], &["start"]),
        grant("sub", "b-start", &["b"], &["cancel"]),
    ]))
    .await;
    let mut admin = claims("admin");
    admin["email"] = json!("admin@example.com");
    admin["email_verified"] = json!(true);
    let admin = Key::k1().token(&header(), &admin);
    type Row = (&'static str, &'static [&'static str]);
    let table: [(String, [Row; 3]); 5] = [
        (
            admin.clone(),
            [
                ("a", &["start", "read", "cancel"]),
                ("b", &["start", "read", "cancel"]),
                ("c", &["start", "read", "cancel"]),
            ],
        ),
        (
            token("a-start"),
            [("a", &["start"]), ("b", &[]), ("c", &[])],
        ),
        (token("a-read"), [("a", &["read"]), ("b", &[]), ("c", &[])]),
        (
            token("b-start"),
            [("a", &[]), ("b", &["start", "cancel"]), ("c", &["start"])],
        ),
        (token("none"), [("a", &[]), ("b", &[]), ("c", &[])]),
    ];
    for (caller, (token, rows)) in table.iter().enumerate() {
        for (scope, allowed) in rows {
            let started = start(&app, scope).bearer_auth(&admin).send().await.unwrap();
            let execution: Value = started.json().await.unwrap();
            let name = execution["name"].as_str().unwrap();
            for (operation, request) in requests(&app, scope, name) {
                let response = request.bearer_auth(token).send().await.unwrap();
                let cell = format!("caller {caller} {operation} {scope}: {}", response.status());
                match (allowed.contains(&operation), allowed.is_empty()) {
                    (true, _) => assert!(response.status().is_success(), "{cell}"),
                    (false, true) => drop(anonymous(response, "scope-forbidden").await),
                    (false, false) => drop(anonymous(response, "operation-forbidden").await),
                }
            }
        }
    }
}

/// Every value of on_running, and the operations that it needs.
const MODES: [(&str, &[&str]); 4] = [
    ("allow", &["start"]),
    ("reject", &["start"]),
    ("join", &["start", "read"]),
    ("replace", &["start", "cancel"]),
];

#[tokio::test]
async fn on_running_in_a_query_needs_the_operation_that_it_carries_out() {
    let sets: [&[&str]; 7] = [
        &["start"],
        &["read"],
        &["cancel"],
        &["start", "read"],
        &["start", "cancel"],
        &["read", "cancel"],
        &["start", "read", "cancel"],
    ];
    let callers = sets
        .iter()
        .map(|set| grant("sub", &set.join("-"), &["acme"], set));
    let mut grants: Vec<_> = callers.collect();
    grants.push(grant("sub", "owner", &["*"], &["start", "read", "cancel"]));
    let issuer = Issuer::start().await;
    let job = Job::new(JOB, ["/bin/sh", "-c", "sleep 60"]);
    let app = TestApp::with(job, |config| jwt(config, &issuer, json!(grants))).await;
    let owner = token("owner");
    for (mode, needed) in MODES {
        for set in sets {
            let run = start(&app, "acme")
                .bearer_auth(&owner)
                .send()
                .await
                .unwrap();
            let run: Value = run.json().await.unwrap();
            let (runs, cancels) = (app.counters().runs, app.calls(Operation::Cancel));
            let request = app.post(&format!("/scopes/acme/process?on_running={mode}"));
            let response = request
                .bearer_auth(token(&set.join("-")))
                .send()
                .await
                .unwrap();
            let (cell, status) = (format!("{mode} by {set:?}"), response.status());
            if needed.iter().all(|operation| set.contains(operation)) {
                let expected = match mode {
                    "reject" => 409,
                    "join" => 200,
                    _ => 202,
                };
                assert_eq!(status, expected, "{cell}");
                continue;
            }
            assert_eq!(status, 403, "{cell}");
            problem(response, "operation-forbidden").await;
            assert_eq!(
                (app.counters().runs, app.calls(Operation::Cancel)),
                (runs, cancels),
                "{cell}"
            );
            let request = app.get(link(&run, "self")).bearer_auth(&owner);
            let now: Value = request.send().await.unwrap().json().await.unwrap();
            assert!(
                matches!(now["state"].as_str(), Some("pending" | "running")),
                "{cell}: {now}"
            );
        }
    }
}

#[tokio::test]
async fn on_running_of_the_settings_needs_only_start() {
    for (mode, expected) in [("join", 200), ("replace", 202)] {
        let issuer = Issuer::start().await;
        let grants = json!([grant("sub", "starter", &["acme"], &["start"])]);
        let job = Job::new(JOB, ["/bin/sh", "-c", "sleep 60"]);
        let app = TestApp::with(job, |config| {
            jwt(config, &issuer, grants);
            config.start.on_running = serde_json::from_value(json!(mode)).unwrap();
        })
        .await;
        for status_of_start in [202, expected] {
            let request = start(&app, "acme").bearer_auth(token("starter"));
            assert_eq!(status(request).await, status_of_start, "{mode}");
        }
        let named = app.post(&format!("/scopes/acme/process?on_running={mode}"));
        let response = named.bearer_auth(token("starter")).send().await.unwrap();
        problem(response, "operation-forbidden").await;
    }
}

#[tokio::test]
async fn the_403_is_the_same_for_a_scope_with_and_without_executions() {
    let (app, _issuer) = spawn(json!([
        grant("sub", "a", &["a"], &["start", "read"]),
        grant("sub", "b", &["b"], &["start"]),
    ]))
    .await;
    assert_eq!(status(start(&app, "b").bearer_auth(token("b"))).await, 202);
    let before = app.calls(Operation::Any);
    let mut bodies = HashSet::new();
    for scope in ["b", "never-seen"] {
        for (_, request) in requests(&app, scope, "test-job-x7k2p") {
            let response = request.bearer_auth(token("a")).send().await.unwrap();
            assert_eq!(response.status(), 403);
            bodies.insert(anonymous(response, "scope-forbidden").await);
        }
    }
    assert_eq!((bodies.len(), app.calls(Operation::Any)), (1, before));
}

#[tokio::test]
async fn an_execution_of_a_forbidden_scope_is_answered_like_a_missing_one() {
    let (app, _issuer) = spawn(json!([
        grant("sub", "a", &["a"], &["start", "read", "cancel"]),
        grant("sub", "b", &["b"], &["start", "read"]),
    ]))
    .await;
    let started = start(&app, "b")
        .bearer_auth(token("b"))
        .send()
        .await
        .unwrap();
    let execution: Value = started.json().await.unwrap();
    let theirs = execution["name"].as_str().unwrap();
    assert_eq!(
        status(app.get(link(&execution, "self")).bearer_auth(token("b"))).await,
        200
    );
    let mut bodies = HashSet::new();
    for name in [theirs, "test-job-zzzzz"] {
        for (_, request) in requests(&app, "a", name).into_iter().skip(2) {
            let response = request.bearer_auth(token("a")).send().await.unwrap();
            assert_eq!(response.status(), 404);
            bodies.insert(anonymous(response, "execution-not-found").await);
        }
    }
    assert_eq!((bodies.len(), app.calls(Operation::Cancel)), (1, 0));
}

fn inputs(group: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("../data/nasty-inputs.json")).unwrap();
    let items = all["items"].as_array().unwrap().iter();
    items
        .filter(|item| item["group"] == group)
        .cloned()
        .collect()
}

/// `now`, `now+300` and `now-31` as numbers, `"\"7\""` as the text `7`.
fn meant(value: &Value) -> Value {
    let Some(text) = value.as_str() else {
        return value.clone();
    };
    match text.strip_prefix("now") {
        Some("") => json!(now()),
        Some(offset) => json!(now().checked_add_signed(offset.parse().unwrap()).unwrap()),
        None => serde_json::from_str::<String>(text).map_or_else(|_| json!(text), Value::from),
    }
}

/// The token that an input describes.
fn nasty(item: &Value) -> String {
    let (mut header, mut claims) = (
        json!({}),
        json!({"email": "u1@example.com", "email_verified": true, "hd": "example.com"}),
    );
    let mut key = Key::k1();
    let fields = |name: &str| item[name].as_object().unwrap().clone();
    for (name, value) in fields("base").into_iter().chain(fields("mutate")) {
        match name.as_str() {
            "alg" | "kid" | "jku" => set(&mut header, &name, value),
            "jwk" => {
                key = Key::rogue();
                header["jwk"] = key.jwk("k1");
            }
            "key" | "sig" | "tamper" => {}
            _ => set(&mut claims, &name, meant(&value)),
        }
    }
    if header["kid"] == "k2" {
        key = Key::k2();
    }
    let (mutate, message) = (&item["mutate"], unsigned(&header, &claims));
    let signature = |signature: &[u8]| format!("{message}.{}", base64url(signature));
    if mutate["tamper"] == "sub" {
        let token = key.token(&header, &claims);
        claims["sub"] = json!("admin");
        return format!(
            "{}.{}",
            unsigned(&header, &claims),
            token.rsplit('.').next().unwrap()
        );
    }
    match (mutate["sig"].as_str(), mutate["key"].as_str()) {
        (Some(""), _) => format!("{message}."),
        (Some("first 10 bytes"), _) => key.token(&header, &claims)[..message.len() + 15].to_owned(),
        (Some(text), _) => format!("{message}.{text}"),
        (_, Some("public_pem_bytes")) => signature(&hmac(
            include_bytes!("../../../testkit/data/keys/k1.pub.pem"),
            &message,
        )),
        (_, Some("jwk_n")) => signature(&hmac(
            key.jwk("")["n"].as_str().unwrap().as_bytes(),
            &message,
        )),
        _ => key.token(&header, &claims),
    }
}

pub fn hmac(key: &[u8], message: &str) -> Vec<u8> {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
    ring::hmac::sign(&key, message.as_bytes()).as_ref().to_vec()
}

#[tokio::test]
async fn every_kind_of_invalid_token_is_refused() {
    let (app, _issuer) = spawn(json!([grant(
        "email",
        "u1@example.com",
        &["*"],
        &["start"]
    )]))
    .await;
    let (by_domain, _issuer) = spawn(json!([grant("hd", "example.com", &["*"], &["start"])])).await;
    let mut bodies = HashSet::new();
    for item in inputs("jwt") {
        let label = item["label"].as_str().unwrap();
        let request = start(&app, "acme").bearer_auth(nasty(&item));
        match (label, item["expect"].as_str()) {
            (_, Some("accept")) => assert_eq!(status(request).await, 202, "{label}"),
            // The token is valid, and its claims grant nothing.
            ("email_verified false", _) => assert_eq!(status(request).await, 403),
            ("hd other domain", _) => {
                let request = start(&by_domain, "acme");
                assert_eq!(status(request.bearer_auth(nasty(&item))).await, 403);
            }
            _ => {
                assert_eq!(status(request.try_clone().unwrap()).await, 401, "{label}");
                bodies.insert(unauthenticated(request).await);
            }
        }
    }
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    assert_eq!(app.counters().runs, 3);
}

#[tokio::test]
async fn claims_that_the_library_does_not_check_are_checked() {
    let (app, _issuer) = spawn(all_to_u1()).await;
    let with_header = |name: &str, value: Value| {
        let mut header = header();
        set(&mut header, name, value);
        Key::k1().token(&header, &claims("u1"))
    };
    let good = [
        token("u1"),
        changed("iss", json!("accounts.google.com")),
        changed("nbf", json!(now() + 20)),
        changed("iat", json!(now() + 20)),
        changed("exp", json!(now() - 20)),
        changed("exp", json!(now() as f64 + 300.5)),
        with_header("x5t", json!("AQAB")),
    ];
    for token in good {
        assert_eq!(
            status(start(&app, "acme").bearer_auth(&token)).await,
            202,
            "{token}"
        );
    }
    let bad = [
        changed("iat", json!(null)),
        changed("iat", json!("7")),
        changed("iat", json!(now() + 40)),
        changed("iat", json!(now() - 25 * 3600)),
        changed("nbf", json!(now() + 40)),
        changed("nbf", json!(-1)),
        changed("sub", json!("")),
        changed("sub", json!(["u1"])),
        changed("sub", json!(7)),
        changed("iss", json!([ISSUER])),
        changed("iss", json!(format!("{ISSUER}/"))),
        changed("aud", json!({AUDIENCE: true})),
        with_header("crit", json!(["exp"])),
        with_header("crit", json!([])),
        with_header("x5u", json!("https://svc.example/key")),
        with_header("kid", json!(7)),
        with_header("kid", json!("k".repeat(65))),
        with_header("alg", json!("RS512")),
        with_header("alg", json!("ES256")),
        Key::rogue().token(&header(), &claims("u1")),
        format!("{}.x", token("u1")),
        token("u1").replace('.', " "),
        format!("{}=", token("u1")),
        "..".to_owned(),
        String::new(),
    ];
    for token in bad {
        assert_eq!(
            status(start(&app, "acme").bearer_auth(&token)).await,
            401,
            "{token}"
        );
    }
    assert_eq!(app.counters().runs, 7);
}

/// Entra ID lists up to 200 groups in a token.
#[tokio::test]
async fn a_token_of_the_size_of_the_largest_head_is_accepted() {
    let (app, _issuer) = spawn(json!([grant("groups", "group-198", &["acme"], &["start"])])).await;
    let groups = |padding: &str| {
        (0..199)
            .map(|n| format!("{padding}group-{n}"))
            .collect::<Vec<_>>()
    };
    let mut large = groups("0123456789012345678901234567890123456789");
    large.push("group-198".to_owned());
    let token = changed("groups", json!(large));
    assert!(
        token.len() > 12_000 && token.len() < 15_000,
        "{}",
        token.len()
    );
    assert_eq!(status(start(&app, "acme").bearer_auth(token)).await, 202);
}

#[tokio::test]
async fn the_authorization_must_be_a_single_bearer_token() {
    let (app, _issuer) = spawn(all_to_u1()).await;
    let with = |value: String| start(&app, "acme").header("authorization", value);
    let good = token("u1");
    assert_eq!(status(with(format!("bearer {good}"))).await, 202);
    for wrong in [
        good.clone(),
        format!("Basic {good}"),
        format!("Bearer{good}"),
        "Bearer".to_owned(),
    ] {
        assert_eq!(status(with(wrong)).await, 401);
    }
    let twice = with(format!("Bearer {good}")).header("authorization", format!("Bearer {good}"));
    problem(twice.send().await.unwrap(), "malformed-request").await;
    let path = format!("/scopes/acme/executions?token={good}&access_token={good}");
    unauthenticated(app.get(&path)).await;
}

#[tokio::test]
async fn headers_of_a_platform_do_not_authenticate() {
    let (app, _issuer) = spawn(all_to_u1()).await;
    for item in inputs("spoof") {
        let (name, value) = item["header"].as_str().unwrap().split_once(": ").unwrap();
        let name = HeaderName::try_from(name).unwrap();
        unauthenticated(start(&app, "acme").header(name, value)).await;
    }
    assert_eq!(app.calls(Operation::Any), 0);
}

#[tokio::test]
async fn an_email_is_granted_something_only_if_it_is_verified() {
    let (app, _issuer) = spawn(json!([grant(
        "email",
        "u1@example.com",
        &["*"],
        &["start"]
    )]))
    .await;
    for (verified, expected) in [
        (json!(true), 202),
        (json!(false), 403),
        (json!("true"), 403),
        (json!(null), 403),
    ] {
        let mut claims = claims("u1");
        claims["email"] = json!("u1@example.com");
        set(&mut claims, "email_verified", verified.clone());
        let token = Key::k1().token(&header(), &claims);
        assert_eq!(
            status(start(&app, "acme").bearer_auth(token)).await,
            expected,
            "{verified}"
        );
    }
}

#[tokio::test]
async fn behind_iap_only_its_header_authenticates() {
    let (issuer, key) = (Issuer::start().await, Key::new_ec());
    issuer.publish(vec![key.jwk("iap-1"), Key::k1().jwk("k1")]);
    let grants = json!([grant("email", "ann@example.com", &["acme"], &["start"])]);
    let app = TestApp::with(instant_job(), |config| {
        jwt(config, &issuer, grants);
        config.auth.jwt.preset = Some(Preset::Iap);
    })
    .await;
    let mut claims = claims("accounts.google.com:1");
    claims["iss"] = json!("https://cloud.google.com/iap");
    claims["email"] = json!("ann@example.com");
    let assertion = key.token(&json!({"alg": "ES256", "kid": "iap-1"}), &claims);
    let with = |name: &str, value: &str| start(&app, "acme").header(name, value);
    assert_eq!(
        status(with("x-goog-iap-jwt-assertion", &assertion)).await,
        202
    );
    unauthenticated(start(&app, "acme").bearer_auth(&assertion)).await;
    unauthenticated(with(
        "x-goog-authenticated-user-email",
        "accounts.google.com:ann@example.com",
    ))
    .await;
    unauthenticated(with(
        "x-goog-iap-jwt-assertion",
        &format!("Bearer {assertion}"),
    ))
    .await;
    let rs256 = Key::k1().token(&header(), &claims);
    unauthenticated(with("x-goog-iap-jwt-assertion", &rs256)).await;
}

#[tokio::test]
async fn the_same_key_of_two_callers_is_two_starts() {
    let (app, _issuer) = spawn(json!([
        grant("sub", "u1", &["acme"], &["start"]),
        grant("sub", "u2", &["acme"], &["start"]),
    ]))
    .await;
    let name = async |token: String| {
        let request = start(&app, "acme").header("idempotency-key", "one");
        let started = request.bearer_auth(token).send().await.unwrap();
        let execution: Value = started.json().await.unwrap();
        execution["name"].as_str().unwrap().to_owned()
    };
    let (first, theirs) = (name(token("u1")).await, name(token("u2")).await);
    assert_ne!(first, theirs);
    // Another token, and the issuer's other name, are still the same caller.
    assert_eq!(name(changed("jti", json!("renewed"))).await, first);
    assert_eq!(
        name(changed("iss", json!("accounts.google.com"))).await,
        first
    );
    assert_eq!(app.counters().runs, 2);
}

#[tokio::test]
async fn a_token_can_list_its_scopes() {
    let issuer = Issuer::start().await;
    let app = TestApp::with(instant_job(), |config| {
        jwt(config, &issuer, json!([]));
        config.auth.scope_claim = Some("/app/tenants".to_owned());
    })
    .await;
    let token = changed("app", json!({"tenants": ["acme", "*"]}));
    assert_eq!(status(start(&app, "acme").bearer_auth(&token)).await, 202);
    for scope in ["globex", "ACME"] {
        let response = start(&app, scope).bearer_auth(&token).send().await.unwrap();
        anonymous(response, "scope-forbidden").await;
    }
    problem(
        start(&app, "-").bearer_auth(&token).send().await.unwrap(),
        "invalid-scope",
    )
    .await;
}

#[tokio::test]
async fn a_new_signing_key_is_fetched_once_and_used_at_once() {
    let (app, issuer) = spawn(all_to_u1()).await;
    assert_eq!(
        status(start(&app, "acme").bearer_auth(token("u1"))).await,
        202
    );
    assert_eq!(issuer.fetches(), 1);
    issuer.publish(vec![Key::k2().jwk("k2"), Key::rogue().jwk("k3")]);
    let token = Key::rogue().token(&json!({"alg": "RS256", "kid": "k3"}), &claims("u1"));
    let request = || start(&app, "acme").bearer_auth(&token);
    let statuses = join_all((0..20).map(|_| status(request()))).await;
    assert_eq!((statuses, issuer.fetches()), (vec![202; 20], 2));
}

#[tokio::test]
async fn a_token_that_was_accepted_is_refused_once_it_expires_or_its_key_is_withdrawn() {
    let (app, issuer) = spawn(all_to_u1()).await;
    let listed = |token: &str| status(app.get("/scopes/acme/executions").bearer_auth(token));
    let expiring = changed("exp", json!(now() - 28)); // accepted for 30 s after that
    assert_eq!(listed(&expiring).await, 200);
    let began = Instant::now();
    while listed(&expiring).await != 401 {
        assert!(began.elapsed() < PATIENCE, "an expired token is accepted");
    }
    let withdrawn = token("u1");
    assert_eq!(listed(&withdrawn).await, 200);
    issuer.publish(vec![Key::rogue().jwk("k3")]); // an unknown id makes the service fetch the keys again
    let new = Key::rogue().token(&json!({"alg": "RS256", "kid": "k3"}), &claims("u1"));
    assert_eq!(listed(&new).await, 200);
    assert_eq!(listed(&withdrawn).await, 401);
}

const STRANGERS: usize = 2_000;

#[tokio::test]
async fn invented_key_ids_cause_few_fetches_and_affect_no_other_caller() {
    let (app, issuer) = spawn(all_to_u1()).await;
    assert_eq!(
        status(start(&app, "acme").bearer_auth(token("u1"))).await,
        202
    );
    let (app, good) = (Arc::new(app), token("u1"));
    let strangers = stream::iter(0..STRANGERS).map(|number| {
        let header = json!({"alg": "RS256", "kid": format!("made-up-{number}")});
        let token = format!("{}.AQAB", unsigned(&header, &claims("u1")));
        status(app.get("/scopes/acme/executions").bearer_auth(token))
    });
    let refused = strangers
        .buffer_unordered(16)
        .filter(|status| std::future::ready(*status == 401));
    let guests = async {
        for _ in 0..20 {
            assert_eq!(
                status(app.get("/scopes/acme/executions").bearer_auth(&good)).await,
                200
            );
        }
    };
    let (refused, ()) = tokio::join!(refused.count(), guests);
    assert_eq!(refused, STRANGERS);
    // The first one and one more, unless the machine took longer than the pause between two.
    assert!((2..=3).contains(&issuer.fetches()), "{}", issuer.fetches());
}

#[tokio::test]
async fn a_token_with_a_known_key_does_not_wait_for_the_fetch_of_another_key() {
    let (app, issuer) = spawn(all_to_u1()).await;
    let good = || status(start(&app, "acme").bearer_auth(token("u1")));
    assert_eq!(good().await, 202);
    issuer.answer(Answer::Silence);
    let unknown = Key::rogue().token(&json!({"alg": "RS256", "kid": "k3"}), &claims("u1"));
    let fetching = async {
        while issuer.fetches() < 2 {
            tokio::task::yield_now().await
        }
    };
    tokio::select! {
        status = status(start(&app, "acme").bearer_auth(unknown)) => panic!("{status} without the key"),
        status = async { fetching.await; good().await } => assert_eq!(status, 202),
    }
}

#[tokio::test]
async fn many_concurrent_first_callers_share_one_fetch() {
    let (app, issuer) = spawn(all_to_u1()).await;
    let tokens: Vec<_> = (0..50).map(|n| changed("jti", json!(n))).collect();
    let statuses = join_all(
        tokens
            .iter()
            .map(|token| status(start(&app, "acme").bearer_auth(token))),
    )
    .await;
    assert_eq!((statuses, issuer.fetches()), (vec![202; 50], 1));
}

#[tokio::test]
async fn while_the_issuers_keys_are_unavailable_the_answer_is_503_and_not_401() {
    let (app, issuer) = spawn(all_to_u1()).await;
    for answer in [
        Answer::Status(500),
        Answer::Status(302),
        Answer::Text("<html>"),
        Answer::Keys(vec![]),
        Answer::Silence,
    ] {
        issuer.answer(answer);
        let response = start(&app, "acme")
            .bearer_auth(token("u1"))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 503);
        problem(response, "auth-unavailable").await;
        unauthenticated(start(&app, "acme")).await;
    }
    issuer.publish(vec![Key::k1().jwk("k1")]);
    let begun = Instant::now();
    while status(start(&app, "acme").bearer_auth(token("u1"))).await != 202 {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    issuer.answer(Answer::Status(500));
    assert_eq!(
        status(start(&app, "acme").bearer_auth(changed("jti", json!(1)))).await,
        202
    );
    // It may be a new key, which cannot be known without the issuer.
    let new = Key::rogue().token(&json!({"alg": "RS256", "kid": "k3"}), &claims("u1"));
    for _ in 0..2 {
        problem(
            start(&app, "acme").bearer_auth(&new).send().await.unwrap(),
            "auth-unavailable",
        )
        .await;
    }
}

#[tokio::test]
async fn each_caller_has_a_rate_limit_and_unauthenticated_ones_share_that_of_their_address() {
    const EACH: u32 = 3;
    let issuer = Issuer::start().await;
    let everyone = json!([grant("iss", ISSUER, &["acme"], &["read"])]);
    let app = TestApp::with(instant_job(), |config| {
        jwt(config, &issuer, everyone);
        config.limits.caller_per_minute = EACH;
    })
    .await;
    let list = |token: &str| app.get("/scopes/acme/executions").bearer_auth(token).send();
    for caller in [token("u1"), token("u2")] {
        for _ in 0..EACH {
            assert_eq!(list(&caller).await.unwrap().status(), 200);
        }
        problem(list(&caller).await.unwrap(), "rate-limited").await;
    }
    for _ in 0..EACH {
        problem(list("no token").await.unwrap(), "unauthenticated").await;
    }
    problem(list("no token").await.unwrap(), "rate-limited").await;
    assert_eq!(
        list(&token("u3")).await.unwrap().status(),
        200,
        "an authenticated caller does not share the address's rate"
    );
}

#[tokio::test]
async fn a_preflight_needs_no_token_and_a_page_can_read_the_401() {
    const PAGE: &str = "https://app.example.com";
    let issuer = Issuer::start().await;
    let app = TestApp::with(instant_job(), |config| {
        jwt(config, &issuer, all_to_u1());
        config.cors.origins = vec![PAGE.to_owned()];
    })
    .await;
    let preflight = app
        .http
        .request(
            reqwest::Method::OPTIONS,
            format!("{}/scopes/acme/process", app.url),
        )
        .header("access-control-request-method", "POST");
    for (request, status) in [(preflight, 200), (start(&app, "acme"), 401)] {
        let response = request.header("origin", PAGE).send().await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()["access-control-allow-origin"], PAGE);
    }
    assert_eq!((app.calls(Operation::Any), issuer.fetches()), (0, 0));
}

#[tokio::test]
async fn identity_tokens_of_the_emulator_are_accepted_like_googles() {
    let account = "123456789012-compute@developer.gserviceaccount.com";
    let grants = json!([grant("email", account, &["acme"], &["start"])]);
    let app = TestApp::with(instant_job(), |config| {
        config.auth.mode = Some(AuthMode::Jwt);
        config.auth.jwt.preset = Some(Preset::Google);
        config.auth.jwt.audience = Some(AUDIENCE.to_owned());
        config.auth.jwt.jwks_url =
            Some(format!("{}/oauth2/v3/certs", config.cloud_logging.base_url));
        config.auth.grants = serde_json::from_value(grants).unwrap();
    })
    .await;
    for (audience, scope, status) in [
        (AUDIENCE, "acme", 202),
        (AUDIENCE, "globex", 403),
        ("https://other.example", "acme", 401),
    ] {
        let url = format!(
            "{}/computeMetadata/v1/instance/service-accounts/default/identity?audience={audience}&format=full",
            app.emulator.url()
        );
        let token = app.http.get(url).header("Metadata-Flavor", "Google");
        let token = token.send().await.unwrap().text().await.unwrap();
        let start = app.post(&format!("/scopes/{scope}/process"));
        let response = start.bearer_auth(token).send().await.unwrap();
        assert_eq!(response.status(), status, "{audience} {scope}");
    }
}
