use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use emulator::Settings;
use reqwest::{Method, StatusCode};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::helpers::{World, answer, settings, shell};

const ACCOUNT: &str = "123456789012-compute@developer.gserviceaccount.com";
const IDENTITY: &str = "v1/instance/service-accounts/default/identity";

#[tokio::test]
async fn the_server_returns_project_region_and_account() {
    let world = World::of(shell("true")).await;
    for (path, expected) in [
        ("v1/project/project-id", "demo"),
        ("v1/project/project-id?alt=json", "\"demo\""),
        ("v1/project/project-id?alt=text", "demo"),
        ("v1/project/numeric-project-id", "123456789012"),
        (
            "v1/instance/region",
            "projects/123456789012/regions/us-east4",
        ),
        ("v1/instance/zone", "projects/123456789012/zones/us-east4-1"),
        ("v1/instance/service-accounts/default/email", ACCOUNT),
        (
            "v1/instance/service-accounts/123456789012-compute@developer.gserviceaccount.com/email",
            ACCOUNT,
        ),
        (
            "v1/instance/service-accounts/default/scopes",
            "https://www.googleapis.com/auth/cloud-platform\n",
        ),
        (
            "v1/instance/service-accounts/default/aliases?alt=json",
            "[\"default\"]",
        ),
        ("v1/universe/universe-domain", "googleapis.com"),
    ] {
        let answer = world.metadata(path).await;
        assert_eq!(answer, (StatusCode::OK, expected.to_owned()), "{path}");
    }
}

#[tokio::test]
async fn a_directory_returns_its_names_or_recursively_its_values() {
    let world = World::of(shell("true")).await;
    let accounts = format!("{ACCOUNT}/\ndefault/\n");
    for (path, expected) in [
        ("", "v1/\n"),
        ("v1/", "instance/\nproject/\nuniverse/\n"),
        ("v1/instance/", "id\nregion\nservice-accounts/\nzone\n"),
        ("v1/instance/service-accounts/", &accounts),
        (
            "v1/instance/service-accounts/default/",
            "aliases\nemail\nidentity\nscopes\ntoken\n",
        ),
        (
            "v1/project/?recursive=true&alt=text",
            "numeric-project-id 123456789012\nproject-id demo\n",
        ),
    ] {
        let answer = world.metadata(path).await;
        assert_eq!(answer, (StatusCode::OK, expected.to_owned()), "{path}");
        // Without the trailing slash the server redirects, and every client follows.
        let url = format!("{}/computeMetadata/{path}", world.emulator.url());
        let url = url.replace("/?", "?");
        let url = url.trim_end_matches('/');
        let there = world.http.get(url).header("Metadata-Flavor", "Google");
        let response = there.send().await.unwrap();
        assert!(response.url().path().ends_with('/'), "{}", response.url());
        assert_eq!(response.text().await.unwrap(), expected, "{url}");
    }

    let (_, account) = world
        .metadata("v1/instance/service-accounts/default/?recursive=true")
        .await;
    let account: Value = serde_json::from_str(&account).unwrap();
    let scopes = ["https://www.googleapis.com/auth/cloud-platform"];
    let expected = json!({ "aliases": ["default"], "email": ACCOUNT, "scopes": scopes });
    assert_eq!(account, expected);
    let (_, all) = world.metadata("v1/?recursive=TRUE").await;
    let all: Value = serde_json::from_str(&all).unwrap();
    assert_eq!(all["project"]["numericProjectId"], 123_456_789_012_u64);
    assert_eq!(
        all["instance"]["serviceAccounts"],
        json!({ "default": expected, ACCOUNT: expected })
    );
}

#[tokio::test]
async fn a_missing_path_is_refused_as_by_google() {
    let world = World::of(shell("true")).await;
    for (path, status) in [
        ("v1/instance/nope", StatusCode::NOT_FOUND),
        ("v1/nope/", StatusCode::NOT_FOUND),
        ("v1/project/project-id/", StatusCode::NOT_FOUND),
        ("v1//project/project-id", StatusCode::NOT_FOUND),
        (
            "v1/instance/service-accounts/other/token",
            StatusCode::NOT_FOUND,
        ),
        ("v2/", StatusCode::NOT_FOUND),
        (IDENTITY, StatusCode::BAD_REQUEST),
        (
            "v1/instance/service-accounts/default/identity?audience=",
            StatusCode::BAD_REQUEST,
        ),
    ] {
        assert_eq!(world.metadata(path).await.0, status, "{path}");
    }
}

#[tokio::test]
async fn every_answer_has_googles_metadata_flavor() {
    let world = World::of(shell("true")).await;
    let url = format!("{}/computeMetadata/v1/instance/", world.emulator.url());
    let written = world.http.post(url).header("Metadata-Flavor", "Google");
    let response = written.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(response.headers()["metadata-flavor"], "Google");
    for path in [
        "/",
        "/computeMetadata/v1/instance/",
        "/computeMetadata/v1/nope",
    ] {
        for flavored in [true, false] {
            let mut request = world.http.get(format!("{}{path}", world.emulator.url()));
            if flavored {
                request = request.header("Metadata-Flavor", "Google");
            }
            let response = request.send().await.unwrap();
            assert_eq!(response.headers()["metadata-flavor"], "Google", "{path}");
        }
    }
}

#[tokio::test]
async fn an_identity_token_has_account_and_audience_and_a_valid_signature() {
    let world = World::of(shell("true")).await;
    let (status, token) = world
        .metadata(&format!(
            "{IDENTITY}?audience=https://api.example.com&format=full"
        ))
        .await;
    assert_eq!(status, StatusCode::OK);
    let keys = format!("{}/oauth2/v3/certs", world.emulator.url());
    let keys: Value = world
        .http
        .get(keys)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let key = &keys["keys"][0];

    let parts: Vec<&str> = token.split('.').collect();
    let decoded = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).unwrap();
    let json = |text: &str| -> Value { serde_json::from_slice(&decoded(text)).unwrap() };
    let (message, _) = token.rsplit_once('.').unwrap();
    let public = RsaPublicKeyComponents {
        n: decoded(key["n"].as_str().unwrap()),
        e: decoded(key["e"].as_str().unwrap()),
    };
    let check = |message: &str| {
        public.verify(
            &RSA_PKCS1_2048_8192_SHA256,
            message.as_bytes(),
            &decoded(parts[2]),
        )
    };
    check(message).unwrap();
    check(&message.replace('.', "..")).unwrap_err();

    assert_eq!(json(parts[0])["kid"], key["kid"]);
    let claims = json(parts[1]);
    assert_eq!(claims["iss"], "https://accounts.google.com");
    assert_eq!(claims["aud"], "https://api.example.com");
    assert_eq!(
        (&claims["email"], &claims["email_verified"]),
        (&json!(ACCOUNT), &json!(true))
    );
    assert_eq!(claims["sub"], claims["azp"]);
    let now = jiff::Timestamp::now().as_second();
    let (issued, ends) = (
        claims["iat"].as_i64().unwrap(),
        claims["exp"].as_i64().unwrap(),
    );
    assert!(
        issued <= now && issued > now - 60 && ends == issued + 3600,
        "{claims}"
    );
}

#[tokio::test]
async fn requests_without_the_flavor_header_or_through_a_proxy_are_refused() {
    let world = World::of(shell("true")).await;
    let url = format!(
        "{}/computeMetadata/v1/instance/service-accounts/default/token",
        world.emulator.url()
    );
    let plain = world.http.get(&url).send().await.unwrap();
    assert_eq!(plain.status(), StatusCode::FORBIDDEN);
    assert_eq!(plain.headers()["metadata-flavor"], "Google");
    let forwarded = world
        .http
        .get(&url)
        .header("Metadata-Flavor", "Google")
        .header("X-Forwarded-For", "1.2.3.4");
    assert_eq!(
        forwarded.send().await.unwrap().status(),
        StatusCode::FORBIDDEN
    );
}

#[tokio::test]
async fn a_token_is_accepted_until_it_expires_and_is_renewed_before_that() {
    let world = World::with(Settings {
        token_lifetime: Duration::from_secs(2),
        ..settings(shell("true"))
    })
    .await;
    let first = world.fresh_token().await;
    assert_eq!(first["token_type"], "Bearer");
    assert!(first["expires_in"].as_u64().unwrap() < 2, "{first}");
    assert_eq!(
        world.fresh_token().await["access_token"],
        first["access_token"]
    );
    assert_eq!(world.get("executions").await.0, StatusCode::OK);
    while world.fresh_token().await["access_token"] == first["access_token"] {
        sleep(Duration::from_millis(20)).await;
    }
    // The old token has half of its lifetime left.
    assert_eq!(world.get("executions").await.0, StatusCode::OK);
    let refusal = loop {
        let (status, answer) = world.get("executions").await;
        match status {
            StatusCode::OK => sleep(Duration::from_millis(20)).await,
            _ => break (status, answer["error"]["status"].clone()),
        }
    };
    assert_eq!(
        refusal,
        (StatusCode::UNAUTHORIZED, json!("UNAUTHENTICATED"))
    );
}

#[tokio::test]
async fn calls_without_a_token_of_the_emulator_are_refused() {
    let world = World::of(shell("true")).await;
    let bare = world.http.get(format!(
        "{}/apis/run.googleapis.com/v1/namespaces/demo/jobs",
        world.emulator.url()
    ));
    let response = bare.try_clone().unwrap().send().await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert!(
        response.headers()["www-authenticate"]
            .to_str()
            .unwrap()
            .starts_with("Bearer")
    );
    assert_eq!(
        answer(bare.bearer_auth("ya29.made-up")).await.0,
        StatusCode::UNAUTHORIZED
    );

    let old = world.fresh_token().await;
    world.emulator.revoke_tokens();
    assert_eq!(world.get("executions").await.0, StatusCode::UNAUTHORIZED);
    assert_ne!(
        world.fresh_token().await["access_token"],
        old["access_token"]
    );
}

#[tokio::test]
async fn anonymous_calls_are_accepted_with_the_setting() {
    let world = World::with(Settings {
        allow_anonymous: true,
        ..settings(shell("true"))
    })
    .await;
    let url = format!(
        "{}/apis/run.googleapis.com/v1/namespaces/demo/jobs",
        world.emulator.url()
    );
    assert_eq!(
        world
            .http
            .request(Method::GET, url)
            .send()
            .await
            .unwrap()
            .status(),
        StatusCode::OK
    );
}
