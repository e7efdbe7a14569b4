//! An identity provider for tests: it serves its keys over HTTP and signs tokens with them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// A signing key. The RSA keys are files, because ring cannot generate any.
pub enum Key {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
}

impl Key {
    pub fn k1() -> Self {
        Self::rsa(include_bytes!("../data/keys/k1.pk8"))
    }

    pub fn k2() -> Self {
        Self::rsa(include_bytes!("../data/keys/k2.pk8"))
    }

    /// A key that no issuer publishes unless a test does so.
    pub fn rogue() -> Self {
        Self::rsa(include_bytes!("../data/keys/rogue.pk8"))
    }

    fn rsa(pkcs8: &[u8]) -> Self {
        Self::Rsa(RsaKeyPair::from_pkcs8(pkcs8).unwrap())
    }

    pub fn new_ec() -> Self {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self::Ec(EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap())
    }

    /// The public half as a JWK.
    pub fn jwk(&self, id: &str) -> Value {
        match self {
            Self::Rsa(pair) => {
                let PublicKeyComponents::<Vec<u8>> { n, e } = pair.public_key().into();
                json!({"kty": "RSA", "kid": id, "use": "sig", "alg": "RS256", "n": base64url(&n), "e": base64url(&e)})
            }
            Self::Ec(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "kid": id, "use": "sig", "alg": "ES256", "x": base64url(x), "y": base64url(y)})
            }
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .unwrap();
                signature
            }
            Self::Ec(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
        }
    }

    /// A token with exactly this header and these claims.
    pub fn token(&self, header: &Value, claims: &Value) -> String {
        let message = unsigned(header, claims);
        let signature = base64url(&self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }
}

/// The first two parts of a token.
pub fn unsigned(header: &Value, claims: &Value) -> String {
    format!(
        "{}.{}",
        base64url(header.to_string().as_bytes()),
        base64url(claims.to_string().as_bytes())
    )
}

pub fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, i| {
            bits << 8 | u32::from(*chunk.get(i).unwrap_or(&0))
        });
        let digits = (0..=chunk.len()).map(|i| DIGITS[(bits >> (18 - 6 * i) & 63) as usize]);
        text.extend(digits.map(char::from));
    }
    text
}

/// Seconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_secs()
}

/// The answer of the key server.
#[derive(Clone)]
pub enum Answer {
    Keys(Vec<Value>),
    Status(u16),
    Text(&'static str),
    /// It never answers.
    Silence,
}

/// A running key server.
pub struct Issuer {
    pub jwks_url: String,
    answer: Arc<Mutex<Answer>>,
    fetches: Arc<AtomicU64>,
}

impl Issuer {
    /// Starts a server that publishes k1 and k2, as providers do around a rotation.
    pub async fn start() -> Self {
        let issuer = Self {
            answer: Arc::new(Mutex::new(Answer::Status(503))),
            fetches: Arc::default(),
            jwks_url: String::new(),
        };
        issuer.publish(vec![Key::k1().jwk("k1"), Key::k2().jwk("k2")]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let jwks_url = format!("http://{}/keys", listener.local_addr().unwrap());
        let (answer, fetches) = (Arc::clone(&issuer.answer), Arc::clone(&issuer.fetches));
        let keys = get(move || {
            fetches.fetch_add(1, Ordering::SeqCst);
            respond(answer.lock().unwrap().clone())
        });
        tokio::spawn(async { axum::serve(listener, Router::new().route("/keys", keys)).await });
        Self { jwks_url, ..issuer }
    }

    pub fn publish(&self, keys: Vec<Value>) {
        self.answer(Answer::Keys(keys));
    }

    pub fn answer(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    /// The number of requests for the keys.
    pub fn fetches(&self) -> u64 {
        self.fetches.load(Ordering::SeqCst)
    }
}

async fn respond(answer: Answer) -> Response {
    match answer {
        Answer::Keys(keys) => (
            [(header::CACHE_CONTROL, "public, max-age=3600")],
            axum::Json(json!({ "keys": keys })),
        )
            .into_response(),
        Answer::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Answer::Text(text) => text.into_response(),
        Answer::Silence => std::future::pending().await,
    }
}
