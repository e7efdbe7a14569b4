//! The identity provider's keys (a JWKS, RFC 7517), cached. Concurrent requests share one fetch.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use reqwest::header::{CACHE_CONTROL, HeaderMap};
use reqwest::{Client, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use crate::cached::{Cached, Entry};
use crate::gcp::http_client::{describe, read_capped};

/// How long fetching the keys may take. They are mostly static files on a CDN.
const TIMEOUT: Duration = Duration::from_secs(3);
/// The largest set that is read, in bytes; a genuine one has a few KiB.
const MAX_BYTES: usize = 256 * 1024;
/// The longest id of a key, in bytes.
pub const MAX_ID_BYTES: usize = 64;
/// How long keys are fresh if the answer does not say, and the bounds of what it may say.
const DEFAULT_MAX_AGE: Duration = Duration::from_secs(10 * 60);
const MIN_MAX_AGE: Duration = Duration::from_secs(60);
const MAX_MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// How long keys are used after that if newer ones cannot be fetched.
const MAX_STALE: Duration = Duration::from_secs(24 * 60 * 60);
/// The least time between two fetches while there are keys, since any caller can name a key that does not exist.
const REFETCH_PAUSE: Duration = Duration::from_secs(30);
/// The least time between two fetches while there are no keys.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Keys by their ids.
pub struct Keys {
    http: Client,
    url: String,
    algorithm: Algorithm,
    cached: Cached<KeySet, String>,
}

type KeySet = HashMap<String, Key>;
type Key = Arc<DecodingKey>;

/// Why a key was not found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The provider has no such key, so the token is not from this provider.
    Unknown,
    /// The keys could not be fetched.
    Unavailable(String),
}

impl Keys {
    /// Fetches no keys yet. Keys for other algorithms are ignored.
    pub fn new(http: Client, url: String, algorithm: Algorithm) -> Self {
        Self {
            http,
            url,
            algorithm,
            cached: Cached::new(REFETCH_PAUSE, RETRY_PAUSE),
        }
    }

    /// The key of this id. Old keys are used while another request fetches new ones, and if that fails.
    pub async fn get(self: &Arc<Self>, id: &str) -> Result<Key, Error> {
        let asked_at = Instant::now();
        if let Some(key) = self.cached.find(asked_at, |set| set.get(id).cloned()) {
            return Ok(key);
        }
        // In a separate task: a client that disconnects must not cancel a fetch for which others wait.
        let (keys, id) = (Arc::clone(self), id.to_owned());
        let found = tokio::spawn(async move {
            let find = |set: &KeySet| set.get(&id).cloned();
            keys.cached
                .find_or_fetch(asked_at, find, keys.fetch())
                .await
        });
        match found.await {
            Ok(Ok(key)) => key.ok_or(Error::Unknown),
            Ok(Err(why)) => Err(Error::Unavailable(why)),
            Err(error) => Err(Error::Unavailable(error.to_string())),
        }
    }

    async fn fetch(&self) -> Result<Entry<KeySet>, String> {
        self.try_fetch().await.inspect_err(|cause| {
            tracing::warn!(cause, "the identity provider's keys could not be fetched");
        })
    }

    async fn try_fetch(&self) -> Result<Entry<KeySet>, String> {
        let request = self.http.get(&self.url).timeout(TIMEOUT);
        let response = request.send().await.map_err(|error| describe(&error))?;
        if response.status() != StatusCode::OK {
            return Err(format!("the answer was {}", response.status()));
        }
        let max_age = max_age(response.headers());
        let body = axum::http::Response::from(response).into_body();
        let body = read_capped(body, MAX_BYTES)
            .await
            .map_err(|error| error.to_string())?;
        let keys = parse(&body, self.algorithm).ok_or("the answer is not a JWKS")?;
        if keys.is_empty() {
            return Err(format!("there is no key for {:?}", self.algorithm));
        }
        Ok(entry(keys, Instant::now(), max_age))
    }
}

/// Keys that are fresh for `max_age`, and usable for a day more.
fn entry<T>(value: T, fetched_at: Instant, max_age: Duration) -> Entry<T> {
    let fresh_until = fetched_at + max_age;
    Entry {
        value,
        fetched_at,
        fresh_until,
        usable_until: fresh_until + MAX_STALE,
    }
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

/// The keys that can have signed a token. Others are ignored, as they may be of kinds that are not known here.
fn parse(body: &[u8], algorithm: Algorithm) -> Option<KeySet> {
    let set: Set = serde_json::from_slice(body).ok()?;
    let keys = set.keys.into_iter().filter_map(|key| {
        let key: Jwk = serde_json::from_value(key).ok()?;
        let decoding = is_for(&key, algorithm).then(|| DecodingKey::from_jwk(&key).ok())??;
        let id = key.common.key_id.filter(|id| id.len() <= MAX_ID_BYTES)?;
        Some((id, Arc::new(decoding)))
    });
    Some(keys.collect())
}

fn is_for(key: &Jwk, algorithm: Algorithm) -> bool {
    let kind = match (&key.algorithm, algorithm) {
        (AlgorithmParameters::RSA(_), Algorithm::RS256) => true,
        (AlgorithmParameters::EllipticCurve(key), Algorithm::ES256) => {
            key.curve == EllipticCurve::P256
        }
        _ => false,
    };
    let named = key
        .common
        .key_algorithm
        .is_none_or(|named| named == algorithm.into());
    let signs = key
        .common
        .public_key_use
        .as_ref()
        .is_none_or(|usage| *usage == PublicKeyUse::Signature);
    kind && named && signs
}

/// How long the answer is fresh, by its `Cache-Control`.
fn max_age(headers: &HeaderMap) -> Duration {
    let directives = headers
        .get(CACHE_CONTROL)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let seconds = directives.split(',').find_map(|directive| {
        let (name, value) = directive.trim().split_once('=')?;
        let value = value.trim_matches('"').parse().ok()?;
        name.eq_ignore_ascii_case("max-age").then_some(value)
    });
    let max_age = seconds.map_or(DEFAULT_MAX_AGE, Duration::from_secs);
    max_age.clamp(MIN_MAX_AGE, MAX_MAX_AGE)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_fresh_for_the_max_age_of_the_answer_within_bounds() {
        let seconds = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, value.parse().unwrap());
            max_age(&headers).as_secs()
        };
        assert_eq!(
            seconds("public, max-age=19482, must-revalidate, no-transform"),
            19482
        );
        assert_eq!(seconds("Max-Age=\"600\""), 600);
        assert_eq!(seconds("max-age=0"), MIN_MAX_AGE.as_secs());
        assert_eq!(seconds("max-age=99999999"), MAX_MAX_AGE.as_secs());
        for unclear in ["no-store", "max-age", "max-age=soon", "s-maxage=7", ""] {
            assert_eq!(seconds(unclear), DEFAULT_MAX_AGE.as_secs(), "{unclear}");
        }
        assert_eq!(max_age(&HeaderMap::new()), DEFAULT_MAX_AGE);
    }

    #[test]
    fn keys_are_usable_for_a_day_after_they_were_fresh() {
        let now = Instant::now();
        let entry = entry((), now, DEFAULT_MAX_AGE);
        assert_eq!(entry.fresh_until, now + DEFAULT_MAX_AGE);
        let day = Duration::from_secs(24 * 60 * 60);
        assert_eq!(entry.usable_until, entry.fresh_until + day);
    }

    #[test]
    fn only_keys_for_the_algorithm_are_taken() {
        let rsa = json!({"kty": "RSA", "kid": "rsa", "n": "AQAB", "e": "AQAB"});
        let with = |field: &str, value: Value| {
            let mut key = rsa.clone();
            key["kid"] = json!(format!("{field}={value}"));
            key[field] = value;
            key
        };
        let set = json!({"keys": [
            rsa,
            with("use", json!("enc")),
            with("alg", json!("RS512")),
            with("alg", json!("XY1")),
            with("kid", json!("k".repeat(MAX_ID_BYTES + 1))),
            with("kid", json!(null)),
            with("n", json!("not base64!")),
            {"kty": "EC", "kid": "p256", "crv": "P-256", "x": "AQAB", "y": "AQAB", "use": "sig", "alg": "ES256"},
            {"kty": "EC", "kid": "p384", "crv": "P-384", "x": "AQAB", "y": "AQAB"},
            {"kty": "oct", "kid": "oct", "k": "AQAB"},
            {"kty": "future", "kid": "future"},
            "nonsense",
        ]});
        let ids = |algorithm| {
            let keys = parse(set.to_string().as_bytes(), algorithm).unwrap();
            keys.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(ids(Algorithm::RS256), ["rsa"]);
        assert_eq!(ids(Algorithm::ES256), ["p256"]);
        for nonsense in ["", "[]", "{}", "<html>", r#"{"keys":{}}"#] {
            assert!(
                parse(nonsense.as_bytes(), Algorithm::RS256).is_none(),
                "{nonsense}"
            );
        }
    }
}
