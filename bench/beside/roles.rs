//! The alternatives that are part of this program: a bare forwarder, the method of the sample, and the service's
//! library over TLS.

use std::convert::Infallible;
use std::env;

use anyhow::Context;
use api::App;
use api::config::Config;
use api::gcp::http_client::HttpClients;
use axum::http::header::{AUTHORIZATION, HeaderValue};
use axum::http::{Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::RootCertStore;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::contenders::RUN;

const TOKEN: &str = "/computeMetadata/v1/instance/service-accounts/default/token";

fn variable(name: &str) -> anyhow::Result<String> {
    env::var(name).with_context(|| format!("{name} is not set"))
}

async fn listener() -> anyhow::Result<TcpListener> {
    let port: u16 = variable("PORT")?.parse()?;
    Ok(TcpListener::bind(("127.0.0.1", port)).await?)
}

/// Serves every request with `answer`.
async fn serve<F>(
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<Response<Full<Bytes>>>> + Send + 'static,
{
    let listener = listener().await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let answer = answer.clone();
        let service = service_fn(move |request| {
            let answering = answer(request);
            async move { Ok::<_, Infallible>(answering.await.unwrap_or_else(|error| failed(&error))) }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

fn failed(error: &anyhow::Error) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(format!("{error:#}").into()));
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}

/// The lower bound in Rust: accept a request, add a token, forward it, answer.
pub async fn forward() -> anyhow::Result<()> {
    let (upstream, metadata) = (variable("UPSTREAM")?, variable("GCE_METADATA_HOST")?);
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let token = Request::get(format!("http://{metadata}{TOKEN}")).body(Full::default())?;
    let token = client
        .request(token)
        .await?
        .into_body()
        .collect()
        .await?
        .to_bytes();
    let token: Value = serde_json::from_slice(&token)?;
    let bearer = format!(
        "Bearer {}",
        token["access_token"].as_str().context("no token")?
    );
    let bearer = HeaderValue::try_from(bearer)?;
    let uri: axum::http::Uri = format!("{upstream}{RUN}").parse()?;
    serve(move |request| {
        let (client, bearer, uri) = (client.clone(), bearer.clone(), uri.clone());
        async move {
            let (mut head, body) = request.into_parts();
            head.uri = uri;
            head.headers.remove("host");
            head.headers.insert(AUTHORIZATION, bearer);
            let body = body.collect().await?.to_bytes();
            let answer = client
                .request(Request::from_parts(head, Full::new(body)))
                .await?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok(Response::from_parts(head, Full::new(body)))
        }
    })
    .await
}

/// The method of the sample from which this service grew, without the cost of .NET: each request creates a client for
/// the token and another one for the call.
pub async fn sample() -> anyhow::Result<()> {
    let upstream = variable("UPSTREAM")?;
    let token = format!("http://{}{TOKEN}", variable("GCE_METADATA_HOST")?);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = || {
        reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .build()
    };
    serve(move |request| {
        let (upstream, token) = (upstream.clone(), token.clone());
        async move {
            let given: Value =
                serde_json::from_slice(&request.into_body().collect().await?.to_bytes())?;
            let metadata = client()?.get(token).header("metadata-flavor", "Google");
            let token: Value = metadata.send().await?.json().await?;
            let document = given["document"].as_str().unwrap_or_default();
            let env = [
                ("SCOPE", "acme".to_owned()),
                ("LIMIT", given["limit"].to_string()),
            ];
            let env = env.map(|(name, value)| json!({ "name": name, "value": value }));
            let args = ["--scope=acme".to_owned(), format!("--document={document}")];
            let overrides = json!({ "containerOverrides": [{ "args": args, "env": env }] });
            let call = client()?.post(format!("{upstream}{RUN}"));
            let call = call.bearer_auth(token["access_token"].as_str().unwrap_or_default());
            let answer = call.json(&json!({ "overrides": overrides })).send().await?;
            let mut response = Response::new(Full::new(answer.error_for_status()?.bytes().await?));
            *response.status_mut() = StatusCode::ACCEPTED;
            Ok(response)
        }
    })
    .await
}

/// The service with a stand-in for Google whose root certificate is in a file.
pub async fn over_tls() -> anyhow::Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add(std::fs::read(variable("ROOT")?)?.into())?;
    let clients = HttpClients::trusting(roots).map_err(|error| anyhow::anyhow!(error))?;
    let config = Config::load()?;
    api::telemetry::init(&config.log)?;
    let app = App::with_clients(&config, clients)?;
    api::serve(listener().await?, app, std::future::pending()).await;
    Ok(())
}

/// Whether the argument names a role.
pub fn is_role(word: &str) -> bool {
    matches!(word, "forward" | "sample" | "tls")
}

/// Plays the role until the process is killed.
pub fn play(role: &str) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match role {
            "forward" => forward().await,
            "sample" => sample().await,
            _ => over_tls().await,
        }
    })
}
