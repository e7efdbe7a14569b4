//! The HTTP clients: pooled, no redirects, no proxy, Google's roots compiled in, answers read up to a cap.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::body::HttpBody;
use axum::http::Uri;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use reqwest::redirect;
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceBuilder};

/// How long a connection may take to be made, its host's name resolved and TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the other end of a connection may stay silent before the connection is given up. All requests may share it.
const SILENCE: Duration = Duration::from_secs(10);
/// Connections kept for the next request, per host: about as many as requests in flight.
const MAX_IDLE_CONNECTIONS: usize = 256;

/// Connects to a host.
type Connector = BoxCloneSyncService<Uri, MaybeHttpsStream<TokioIo<TcpStream>>, BoxError>;

/// hyper's client with a connection pool.
pub type GoogleApisClient = legacy::Client<Connector, Full<Bytes>>;

/// The clients of the process, which trust the same roots.
#[derive(Clone)]
pub struct HttpClients {
    /// Calls the metadata server, and fetches an issuer's keys.
    pub reqwest: reqwest::Client,
    /// Calls Google's APIs for every request. It is the client on which reqwest is built; `docs/performance.md` says what
    /// reqwest adds to its cost.
    pub google_apis: GoogleApisClient,
}

impl HttpClients {
    /// Clients that trust the public authorities.
    pub fn new() -> Result<Self, BoxError> {
        Self::trusting(webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect())
    }

    /// Clients that trust only these roots: tests and benchmarks run a server in the place of Google's.
    pub fn trusting(roots: RootCertStore) -> Result<Self, BoxError> {
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            google_apis: google_apis_client(tls.clone()),
            reqwest: reqwest_client(tls)?,
        })
    }
}

fn google_apis_client(tls: ClientConfig) -> GoogleApisClient {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_keepalive(Some(SILENCE));
    http.set_keepalive_interval(Some(SILENCE));
    http.set_keepalive_retries(Some(1));
    #[cfg(target_os = "linux")] // other systems use the kernel's default, which is minutes
    http.set_tcp_user_timeout(Some(SILENCE));
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(http);
    let connector = ServiceBuilder::new()
        .timeout(CONNECT_TIMEOUT)
        .service(https);
    legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
        .build(BoxCloneSyncService::new(connector))
}

/// No redirects: a token must not follow one. No proxy: it would see the metadata server's tokens.
fn reqwest_client(mut tls: ClientConfig) -> Result<reqwest::Client, reqwest::Error> {
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .no_proxy()
        .redirect(redirect::Policy::none())
        .referer(false)
        .tcp_nodelay(true)
        .tls_backend_preconfigured(tls)
        .user_agent(USER_AGENT)
        .build()
}

/// The `User-Agent` of every request.
pub const USER_AGENT: &str = concat!("cloud-run-job-api/", env!("CARGO_PKG_VERSION"));

/// An answer that could not be read whole.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It has more bytes than the cap.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
    /// It ended early, or took too long.
    #[error("the answer broke off: {0}")]
    BrokenOff(String),
}

/// The body, if it has at most `cap` bytes.
pub async fn read_capped<B>(body: B, cap: usize) -> Result<Bytes, ReadError>
where
    B: HttpBody<Data = Bytes, Error: Into<BoxError>>,
{
    if body.size_hint().lower() > cap as u64 {
        return Err(ReadError::TooLarge(cap));
    }
    match Limited::new(body, cap).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ReadError::TooLarge(cap)),
        Err(error) => Err(ReadError::BrokenOff(causes(&*error))),
    }
}

/// Describes a failed request of reqwest's, without its URL, for the log.
pub fn describe(error: &reqwest::Error) -> String {
    let what = match () {
        () if error.is_timeout() => "timed out",
        () if error.is_connect() => "no connection",
        () => "the request failed",
    };
    error.source().map_or_else(
        || what.to_owned(),
        |source| format!("{what}: {}", causes(source)),
    )
}

/// The error with its causes.
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
