//! The one HTTP client: pooled, no redirects, no proxy, Google's roots compiled in, answers read up to a cap.

use std::error::Error as _;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::{Certificate, Client, Response, redirect};
use rustls::pki_types::CertificateDer;

/// How long a connection may take to be made, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections kept for the next request, per host: about as many as requests in flight.
const MAX_IDLE_CONNECTIONS: usize = 256;

/// Makes the client.
pub fn new() -> Result<Client, reqwest::Error> {
    trusting(webpki_root_certs::TLS_SERVER_ROOT_CERTS)
}

/// The same client, but for whom it trusts: servers that these certificates vouch for, and nobody else.
///
/// No redirects: a token must not follow one. No proxy: it would see the metadata server's tokens.
pub fn trusting(roots: &[CertificateDer<'_>]) -> Result<Client, reqwest::Error> {
    // An error would only say that a provider is installed already, as in a second test of one process.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let roots = roots.iter().map(|der| Certificate::from_der(der));
    Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .no_proxy()
        .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
        .redirect(redirect::Policy::none())
        .referer(false)
        .tcp_nodelay(true)
        .tls_certs_only(roots.collect::<Result<Vec<_>, _>>()?)
        .user_agent(concat!("cloud-run-job-api/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// An answer that could not be read whole.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// More bytes than we are willing to hold.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
    /// It ended early, or took too long.
    #[error("the answer broke off: {0}")]
    BrokenOff(String),
}

/// The body, if it has at most `cap` bytes.
pub async fn read_capped(mut response: Response, cap: usize) -> Result<Bytes, ReadError> {
    let announced = response.content_length().unwrap_or(0);
    if announced > cap as u64 {
        return Err(ReadError::TooLarge(cap));
    }
    let mut body = BytesMut::with_capacity(announced as usize);
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|e| ReadError::BrokenOff(describe(&e)))?
    {
        if body.len() + chunk.len() > cap {
            return Err(ReadError::TooLarge(cap));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// The error with its causes and without the URL: for the log, where the request's own fields say the rest.
pub fn describe(error: &reqwest::Error) -> String {
    let mut text = match () {
        () if error.is_timeout() => "timed out".to_owned(),
        () if error.is_connect() => "no connection".to_owned(),
        () => "the request failed".to_owned(),
    };
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
