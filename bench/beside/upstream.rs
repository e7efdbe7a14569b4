//! A fixed stand-in for Google and for an identity provider: the metadata server's token, `jobs.run` of the v1 and v2
//! APIs, and an issuer's keys. Its answers are always the same.
//!
//! It uses bare sockets, because it shares a processor with the load generator.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use bench::wire::Message;
use testkit::issuer::Key;

/// An execution and an operation of typical size in Google's form.
const EXECUTION: &str = include_str!("upstream/execution_v1.json");
const OPERATION: &str = include_str!("upstream/operation_v2.json");
/// The length of a service account's access token, in bytes.
const TOKEN_BYTES: usize = 1000;
/// The latency of a start in the slow upstream.
const DELAY: Duration = Duration::from_millis(20);

/// A running stand-in: its addresses and its counters.
pub struct Upstream {
    /// Answers at once.
    pub fast: SocketAddr,
    /// Takes 20 ms for a start.
    pub slow: SocketAddr,
    /// Serves TLS as `localhost`, with a certificate that `root` signs.
    pub tls: SocketAddr,
    /// A root certificate, in DER.
    pub root: Vec<u8>,
    seen: Arc<Seen>,
}

/// The counts of requests since the last call of `take`.
#[derive(Default)]
struct Seen {
    tokens: AtomicU64,
    unauthorized: AtomicU64,
}

#[derive(Clone)]
struct Place {
    seen: Arc<Seen>,
    delay: Duration,
}

impl Upstream {
    /// Starts the stand-in in a thread of its own, which ends with the program.
    pub fn start() -> anyhow::Result<Self> {
        let (identity, root) = identity()?;
        let (addresses, listening) = std::sync::mpsc::channel();
        let seen = Arc::new(Seen::default());
        let seen_there = Arc::clone(&seen);
        std::thread::spawn(move || -> anyhow::Result<()> {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async move {
                let bind = || TcpListener::bind("127.0.0.1:0");
                let (fast, slow, tls) = (bind().await?, bind().await?, bind().await?);
                addresses.send((fast.local_addr()?, slow.local_addr()?, tls.local_addr()?))?;
                let place = |delay| Place {
                    seen: Arc::clone(&seen_there),
                    delay,
                };
                tokio::join!(
                    listen(fast, place(Duration::ZERO), None),
                    listen(slow, place(DELAY), None),
                    listen(tls, place(Duration::ZERO), Some(identity)),
                );
                Ok(())
            })
        });
        let (fast, slow, tls) = listening.recv().context("the upstream did not start")?;
        Ok(Self {
            fast,
            slow,
            tls,
            root,
            seen,
        })
    }

    /// The numbers of tokens issued and of starts without a token, since the last call.
    pub fn take(&self) -> (u64, u64) {
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        (take(&self.seen.tokens), take(&self.seen.unauthorized))
    }

    /// The token that the stand-in issues.
    pub fn token() -> String {
        format!("ya29.c.{}", "T".repeat(TOKEN_BYTES))
    }
}

async fn listen(listener: TcpListener, place: Place, tls: Option<TlsAcceptor>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (place, tls) = (place.clone(), tls.clone());
        tokio::spawn(async move {
            stream.set_nodelay(true)?;
            match tls {
                Some(tls) => serve(tls.accept(stream).await?, place).await,
                None => serve(stream, place).await,
            }
        });
    }
}

/// Answers requests until the connection ends.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, place: Place) -> io::Result<()> {
    let mut request = Vec::with_capacity(4096);
    loop {
        let message = loop {
            match Message::of(&request) {
                Some(message) => break message,
                None if stream.read_buf(&mut request).await? == 0 => return Ok(()),
                None => {}
            }
        };
        let answer = place.answer(&request[..message.head]);
        request.drain(..message.end);
        if answer.is_start && !place.delay.is_zero() {
            sleep(place.delay).await;
        }
        stream.write_all(answer.to_bytes().as_bytes()).await?;
    }
}

struct Answer {
    status: &'static str,
    body: String,
    is_start: bool,
}

impl Answer {
    fn to_bytes(&self) -> String {
        let (status, length, body) = (self.status, self.body.len(), &self.body);
        let kind = if body.starts_with('{') {
            "application/json; charset=UTF-8"
        } else {
            "application/text"
        };
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\nmetadata-flavor: Google\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    }
}

impl Place {
    fn answer(&self, head: &[u8]) -> Answer {
        let head = String::from_utf8_lossy(head);
        let path = head.split(['?', ' ']).nth(1).unwrap_or_default();
        let ok = |body: String| Answer {
            status: "200 OK",
            body,
            is_start: false,
        };
        if path.contains(":run") {
            if !head.contains(&Upstream::token()) {
                self.seen.unauthorized.fetch_add(1, Ordering::Relaxed);
                let body = r#"{"error":{"code":401,"status":"UNAUTHENTICATED"}}"#.to_owned();
                return Answer {
                    status: "401 Unauthorized",
                    body,
                    is_start: true,
                };
            }
            let v2 = path.starts_with("/v2/");
            let body = if v2 { OPERATION } else { EXECUTION }.to_owned();
            return Answer {
                status: "200 OK",
                body,
                is_start: true,
            };
        }
        if path.ends_with("/token") {
            self.seen.tokens.fetch_add(1, Ordering::Relaxed);
            let token = Upstream::token();
            return ok(format!(
                r#"{{"access_token":"{token}","expires_in":3599,"token_type":"Bearer"}}"#
            ));
        }
        if path == "/keys" {
            return ok(json!({ "keys": [Key::k1().jwk("k1")] }).to_string());
        }
        // Other paths of the metadata server that Google's clients read.
        ok(match path {
            _ if path.ends_with("/email") => "runner@p.iam.gserviceaccount.com".to_owned(),
            _ if path.ends_with("/project-id") => "p".to_owned(),
            _ if path.contains("universe") => "googleapis.com".to_owned(),
            _ => r#"{"email":"runner@p.iam.gserviceaccount.com","scopes":["https://www.googleapis.com/auth/cloud-platform"]}"#.to_owned(),
        })
    }
}

/// A key and a certificate for `localhost`, and the root certificate that signs it.
fn identity() -> anyhow::Result<(TlsAcceptor, Vec<u8>)> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate()?;
    let root = authority.self_signed(&authority_key)?.der().to_vec();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(["localhost".to_owned()])?.signed_by(&key, &issuer)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.into()], key.into())?;
    Ok((TlsAcceptor::from(Arc::new(tls)), root))
}
