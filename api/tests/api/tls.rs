//! Servers in the place of Google's: only one with a valid certificate gets a byte of a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api::App;
use api::gcp::http_client::HttpClients;
use axum::http::{Request, Response};
use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::helpers::{TestApp, client, config, eventually, instant_job, problem};

/// Sends per start; the service has the same number.
const MOST_TRIES: u64 = 3;

/// The certificate authority that these tests trust.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

/// A certificate and its key.
type Identity = (CertificateDer<'static>, PrivateKeyDer<'static>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().into();
        Self {
            issuer: Issuer::new(params, key),
            root,
        }
    }

    /// A certificate for this name.
    fn vouches_for(&self, name: &str, change: fn(&mut CertificateParams)) -> Identity {
        let (mut params, key) = identity(name);
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.into(), key.into())
    }
}

fn identity(name: &str) -> (CertificateParams, KeyPair) {
    let params = CertificateParams::new([name.to_owned()]).unwrap();
    (params, KeyPair::generate().unwrap())
}

/// What a server received.
#[derive(Default)]
struct Seen {
    connections: AtomicU64,
    /// Connections that got past the handshake, and so could see a request.
    trusted: AtomicU64,
}

fn acceptor((certificate, key): Identity, protocols: &[&[u8]]) -> TlsAcceptor {
    let tls = ServerConfig::builder().with_no_client_auth();
    let mut tls = tls.with_single_cert(vec![certificate], key).unwrap();
    tls.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    TlsAcceptor::from(Arc::new(tls))
}

/// A TLS server that forwards all bytes to the emulator.
async fn server(identity: Identity, emulator: String) -> (String, Arc<Seen>) {
    let acceptor = acceptor(identity, &[]);
    listen(move |stream, seen| {
        let (acceptor, emulator) = (acceptor.clone(), emulator.clone());
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                return;
            };
            seen.trusted.fetch_add(1, Ordering::Relaxed);
            let mut behind = TcpStream::connect(emulator).await.unwrap();
            let _ = copy_bidirectional(&mut stream, &mut behind).await;
        }
    })
    .await
}

/// The type of a TLS record that is part of a handshake, and of one that ends it (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;
const ALERT: u8 = 21;

/// A server that supports only TLS 1.0 (RFC 2246, section 7.4.1.3).
async fn old_server() -> (String, Arc<Seen>) {
    let mut hello = vec![HANDSHAKE, 3, 1, 0, 42, 2, 0, 0, 38, 3, 1];
    hello.extend([7; 32]); // its random bytes
    hello.extend([0, 0, 47, 0]); // no session; TLS_RSA_WITH_AES_128_CBC_SHA; no compression
    listen(move |mut stream, seen| {
        let hello = hello.clone();
        async move {
            let mut sent = false;
            while let Ok(kind) = stream.read_u8().await {
                let _version = stream.read_u16().await.unwrap();
                let mut record = vec![0; stream.read_u16().await.unwrap().into()];
                stream.read_exact(&mut record).await.unwrap();
                if ![HANDSHAKE, ALERT].contains(&kind) {
                    seen.trusted.fetch_add(1, Ordering::Relaxed);
                }
                if !std::mem::replace(&mut sent, true) {
                    stream.write_all(&hello).await.unwrap();
                }
            }
        }
    })
    .await
}

async fn listen<F>(
    serve: impl Fn(TcpStream, Arc<Seen>) -> F + Send + 'static,
) -> (String, Arc<Seen>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(Seen::default());
    let counting = Arc::clone(&seen);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counting.connections.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(serve(stream, Arc::clone(&counting)));
        }
    });
    (format!("https://localhost:{port}"), seen)
}

/// The service with this server as Cloud Run. It trusts only the authority.
async fn service(world: &TestApp, authority: &Authority, url: &str) -> TestApp {
    let mut config = config(&world.emulator);
    config.cloud_run.base_url = Some(url.to_owned());
    let mut roots = RootCertStore::empty();
    roots.add(authority.root.clone()).unwrap();
    let clients = HttpClients::trusting(roots).unwrap();
    let app = App::with_clients(&config, clients).unwrap();
    TestApp::made(Arc::clone(&world.emulator), app).await
}

#[tokio::test]
async fn a_server_without_a_valid_certificate_gets_no_request() {
    let world = TestApp::with(instant_job(), |_| {}).await;
    let authority = Authority::new();
    let (params, key) = identity("localhost");
    let self_signed = (params.self_signed(&key).unwrap().into(), key.into());
    let expired = authority.vouches_for("localhost", |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let for_another = authority.vouches_for("elsewhere.example", |_| {});
    let host = || world.emulator.host();
    for (name, (url, seen)) in [
        ("self-signed", server(self_signed, host()).await),
        ("expired", server(expired, host()).await),
        ("of another name", server(for_another, host()).await),
        ("TLS 1.0 only", old_server().await),
    ] {
        let service = service(&world, &authority, &url).await;
        problem(service.keyless().await, "upstream-unavailable").await;
        let tries = seen.connections.load(Ordering::Relaxed);
        assert_eq!(
            tries, MOST_TRIES,
            "{name}: as often as may be, and never without TLS"
        );
        assert_eq!(seen.trusted.load(Ordering::Relaxed), 0, "{name}");
    }
    assert_eq!(world.runs(), (0, 0));
}

/// The control: with a valid certificate the same request succeeds.
#[tokio::test]
async fn a_server_with_a_valid_certificate_is_trusted() {
    let world = TestApp::with(instant_job(), |_| {}).await;
    let authority = Authority::new();
    let genuine = authority.vouches_for("localhost", |_| {});
    let (url, seen) = server(genuine, world.emulator.host()).await;
    let service = service(&world, &authority, &url).await;
    assert_eq!(service.keyless().await.status(), 202);
    assert_eq!(seen.trusted.load(Ordering::Relaxed), 1);
    // The program's roots did not issue this certificate.
    let program = world
        .another(|config| config.cloud_run.base_url = Some(url))
        .await;
    problem(program.keyless().await, "upstream-unavailable").await;
    eventually(|| seen.connections.load(Ordering::Relaxed) == 1 + MOST_TRIES).await;
    assert_eq!(seen.trusted.load(Ordering::Relaxed), 1);
    assert_eq!(world.runs(), (1, 1));
}

/// A server that speaks HTTP/2, as Google's do. The first request meets this fate, and the others are forwarded.
async fn http2_server(
    identity: Identity,
    emulator: String,
    fate: h2::Reason,
) -> (String, Arc<Seen>) {
    let acceptor = acceptor(identity, &[b"h2"]);
    listen(move |stream, seen| {
        let (acceptor, emulator) = (acceptor.clone(), emulator.clone());
        async move {
            let stream = acceptor.accept(stream).await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                if seen.trusted.fetch_add(1, Ordering::Relaxed) == 0 {
                    respond.send_reset(fate);
                } else {
                    tokio::spawn(pass(request, respond, emulator.clone()));
                }
            }
        }
    })
    .await
}

async fn pass(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    emulator: String,
) {
    let (head, mut body) = request.into_parts();
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        bytes.extend_from_slice(&chunk.unwrap());
    }
    let url = format!("http://{emulator}{}", head.uri.path_and_query().unwrap());
    let request = client().request(head.method, url).headers(head.headers);
    let answer = request.body(bytes).send().await.unwrap();
    let head = Response::builder().status(answer.status());
    let mut stream = respond
        .send_response(head.body(()).unwrap(), false)
        .unwrap();
    stream
        .send_data(answer.bytes().await.unwrap(), true)
        .unwrap();
}

/// A request that the server says it did not process is sent again at once. One that it may have processed is not.
#[tokio::test]
async fn a_refused_stream_is_sent_again_and_a_broken_one_is_not() {
    let authority = Authority::new();
    for (fate, accepted) in [
        (h2::Reason::REFUSED_STREAM, true),
        (h2::Reason::INTERNAL_ERROR, false),
    ] {
        let world = TestApp::with(instant_job(), |_| {}).await;
        let genuine = authority.vouches_for("localhost", |_| {});
        let (url, seen) = http2_server(genuine, world.emulator.host(), fate).await;
        let service = service(&world, &authority, &url).await;
        let response = service.keyless().await;
        if accepted {
            assert_eq!(response.status(), 202);
            assert_eq!(seen.trusted.load(Ordering::Relaxed), 2);
        } else {
            problem(response, "start-outcome-unknown").await;
        }
        assert_eq!(world.runs(), (u64::from(accepted), u64::from(accepted)));
    }
}
