use std::time::Duration;

use emulator::Settings;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::time::sleep;

use crate::helpers::{World, answer, settings, shell};

#[tokio::test]
async fn the_server_says_who_and_where_it_is() {
    let world = World::of(shell("true")).await;
    for (path, expected) in [
        ("project/project-id", "demo"),
        ("project/numeric-project-id", "123456789012"),
        ("instance/region", "projects/123456789012/regions/us-east4"),
        (
            "instance/service-accounts/default/email",
            "123456789012-compute@developer.gserviceaccount.com",
        ),
    ] {
        assert_eq!(
            world.metadata(path).await,
            (StatusCode::OK, expected.to_owned()),
            "{path}"
        );
    }
    assert_eq!(
        world.metadata("universe/universe-domain").await.0,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn requests_without_the_flavour_or_through_a_proxy_are_refused() {
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
async fn a_token_opens_the_apis_until_it_ends_and_a_new_one_comes_before() {
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
    // The old one still has its second half to live.
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
async fn calls_without_a_token_of_ours_are_refused() {
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
async fn anonymous_calls_pass_when_they_are_allowed() {
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
