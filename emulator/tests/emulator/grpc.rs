//! gRPC on the wire. `tests/clients.rs` tests it with Google's libraries.

use bytes::{BufMut, Bytes, BytesMut};
use emulator::{Fault, Operation, Rule, Settings};
use reqwest::Method;
use serde_json::json;
use tokio::net::TcpStream;

use crate::helpers::{World, settings, shell};

const GET_JOB: &str = "/google.cloud.run.v2.Jobs/GetJob";
const RUN_JOB: &str = "/google.cloud.run.v2.Jobs/RunJob";
const NAME: &str = "projects/demo/locations/us-east4/jobs/sh";

/// A request message with this text as its first field.
fn named(name: &str) -> Vec<u8> {
    let mut message = vec![0x0a, u8::try_from(name.len()).unwrap()];
    message.extend_from_slice(name.as_bytes());
    message
}

fn framed(message: &[u8]) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len()).unwrap());
    body.put_slice(message);
    body.freeze()
}

/// Calls a method. Returns the status, the message if there is one, and the error text.
async fn call(world: &World, path: &str, body: Bytes, token: Option<&str>) -> (u8, Bytes, String) {
    let socket = TcpStream::connect(world.emulator.host()).await.unwrap();
    let (client, connection) = h2::client::handshake(socket).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut request = http::Request::post(format!("http://{}{path}", world.emulator.host()))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let mut client = client.ready().await.unwrap();
    let (response, mut stream) = client
        .send_request(request.body(()).unwrap(), false)
        .unwrap();
    stream.send_data(body, true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/grpc");
    let mut body = response.into_body();
    let mut content = BytesMut::new();
    while let Some(data) = body.data().await {
        content.extend_from_slice(&data.unwrap());
    }
    let trailers = body.trailers().await.unwrap().unwrap();
    connection.abort();
    let text = |key: &str| {
        trailers
            .get(key)
            .map_or("", |value| value.to_str().unwrap())
    };
    let status = text("grpc-status").parse().unwrap();
    (status, content.freeze(), text("grpc-message").to_owned())
}

#[tokio::test]
async fn a_successful_call_returns_a_message_and_a_status() {
    let world = World::of(shell("true")).await;
    let token = world.fresh_token().await["access_token"].clone();
    let (status, content, _) = call(&world, GET_JOB, framed(&named(NAME)), token.as_str()).await;
    assert_eq!(status, 0);
    let length = u32::from_be_bytes(content[1..5].try_into().unwrap());
    assert_eq!((content[0], length as usize), (0, content.len() - 5));
    assert_eq!(content[5..7], [0x0a, u8::try_from(NAME.len()).unwrap()]);
    assert_eq!(&content[7..7 + NAME.len()], NAME.as_bytes());

    // REST has the same state, counters and faults.
    let (status, ..) = call(&world, RUN_JOB, framed(&named(NAME)), token.as_str()).await;
    assert_eq!((status, world.emulator.executions().len()), (0, 1));
    let fault = Fault::status(503);
    world
        .emulator
        .faults()
        .add(Rule::new(Operation::Run, fault));
    let (status, ..) = call(&world, RUN_JOB, framed(&named(NAME)), token.as_str()).await;
    assert_eq!(status, 14);
    assert_eq!(world.emulator.counters().calls(Operation::Run), 2);
}

#[tokio::test]
async fn a_failed_call_returns_a_status_and_an_error_text() {
    let world = World::of(shell("true")).await;
    let token = world.fresh_token().await["access_token"].clone();
    let missing = named("projects/demo/locations/us-east4/jobs/nope");
    let good = framed(&named(NAME));
    let mut compressed = good.to_vec();
    compressed[0] = 1;
    let cut = good.slice(..good.len() - 1);
    for (path, body, token, expected, says) in [
        (GET_JOB, good.clone(), None, 16, "authentication"),
        (
            GET_JOB,
            good.clone(),
            Some("ya29.wrong"),
            16,
            "authentication",
        ),
        (GET_JOB, framed(&missing), token.as_str(), 5, "nope"),
        (
            GET_JOB,
            framed(&named("no-name")),
            token.as_str(),
            5,
            "serve",
        ),
        (GET_JOB, Bytes::new(), token.as_str(), 3, "not%20a%20gRPC"),
        (GET_JOB, cut, token.as_str(), 3, "not%20exactly%20one"),
        (GET_JOB, framed(&[0xff]), token.as_str(), 3, ""),
        (GET_JOB, compressed.into(), token.as_str(), 12, "Compressed"),
        (
            "/google.cloud.run.v2.Services/GetService",
            good.clone(),
            token.as_str(),
            12,
            "Services",
        ),
    ] {
        let (status, content, message) = call(&world, path, body, token).await;
        assert_eq!(
            (status, content.len()),
            (expected, 0),
            "{path} {says}: {message}"
        );
        assert!(message.contains(says), "{message}");
    }
}

#[tokio::test]
async fn rest_is_served_over_http2_too() {
    let world = World::with(Settings {
        allow_anonymous: true,
        ..settings(shell("true"))
    })
    .await;
    let client = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge();
    let client = client.build().unwrap();
    let url = format!("{}/v2/{NAME}:run", world.emulator.url());
    let response = client
        .request(Method::POST, url)
        .json(&json!({}))
        .send()
        .await;
    let response = response.unwrap();
    assert_eq!(response.version(), http::Version::HTTP_2);
    assert!(response.status().is_success());
}
