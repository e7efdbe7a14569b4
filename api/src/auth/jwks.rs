//! The identity provider's keys (a JWKS, RFC 7517): cached, fetched once however many wait.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use parking_lot::RwLock;
use reqwest::header::{CACHE_CONTROL, HeaderMap};
use reqwest::{Client, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;

use crate::gcp::http_client::{describe, read_capped};

/// How long the keys may take to come; they are static files on somebody's edge.
const TIMEOUT: Duration = Duration::from_secs(3);
/// The largest set read, in bytes; a genuine one has a few KiB.
const MAX_BYTES: usize = 256 * 1024;
/// The longest id of a key, in bytes.
pub const MAX_ID_BYTES: usize = 64;
/// How long keys are fresh if the answer does not say, and the bounds of what it may say.
const DEFAULT_MAX_AGE: Duration = Duration::from_secs(10 * 60);
const MIN_MAX_AGE: Duration = Duration::from_secs(60);
const MAX_MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// How long keys are used after that while no newer ones can be had.
const MAX_STALE: Duration = Duration::from_secs(24 * 60 * 60);
/// The least time between two fetches while there are keys: anybody can name one that does not exist.
const REFETCH_PAUSE: Duration = Duration::from_secs(30);
/// The least time between two fetches while there are none.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Keys by their ids.
pub struct Keys {
    http: Client,
    url: String,
    algorithm: Algorithm,
    current: RwLock<Option<Arc<KeySet>>>,
    /// Held while fetching. What came of the last fetch, except of one that replaced nothing.
    last: Mutex<Option<Attempt>>,
}

struct KeySet {
    keys: HashMap<String, Key>,
    fetched_at: Instant,
    fresh_until: Instant,
}

type Key = Arc<DecodingKey>;

struct Attempt {
    /// When its outcome was known: whoever asked before shares it.
    at: Instant,
    failure: Option<String>,
}

/// Why there is no key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The provider has no such key: the token is not its.
    Unknown,
    /// Whether it has cannot be found out now.
    Unavailable(String),
}

impl Keys {
    /// Fetches nothing yet. Only keys for the algorithm will be taken.
    pub fn new(http: Client, url: String, algorithm: Algorithm) -> Self {
        Self {
            http,
            url,
            algorithm,
            current: RwLock::default(),
            last: Mutex::default(),
        }
    }

    /// The key of this id. Keys that are a little old are better than none, and than waiting for who fetches already.
    pub async fn get(self: &Arc<Self>, id: &str) -> Result<Key, Error> {
        let asked_at = Instant::now();
        if let Some(set) = self.current(asked_at)
            && let Some(key) = set.keys.get(id)
            && (asked_at < set.fresh_until || self.last.try_lock().is_err())
        {
            return Ok(Arc::clone(key));
        }
        // In a task of its own: a client that goes away must not call back a fetch that others wait for.
        let (keys, id) = (Arc::clone(self), id.to_owned());
        let found = tokio::spawn(async move { keys.find_or_fetch(&id, asked_at).await });
        found
            .await
            .unwrap_or_else(|error| Err(Error::Unavailable(error.to_string())))
    }

    async fn find_or_fetch(&self, id: &str, asked_at: Instant) -> Result<Key, Error> {
        let mut last = self.last.lock().await;
        let now = Instant::now();
        let set = self.current(now);
        if let Some(answer) = answer(set.as_deref(), last.as_ref(), id, asked_at, now) {
            return answer;
        }
        let failure = match self.fetch().await {
            Ok(keys) => {
                *self.current.write() = Some(Arc::new(keys));
                None
            }
            Err(failure) => {
                tracing::warn!(
                    cause = failure,
                    "the identity provider's keys could not be fetched"
                );
                Some(failure)
            }
        };
        let at = Instant::now();
        let key = self.current(at).and_then(|set| set.keys.get(id).cloned());
        let outcome = outcome(key, failure.as_ref());
        *last = (set.is_some() || failure.is_some()).then_some(Attempt { at, failure });
        outcome
    }

    /// The keys, unless they are too old to be used at all.
    fn current(&self, now: Instant) -> Option<Arc<KeySet>> {
        let current = self.current.read();
        current
            .clone()
            .filter(|set| now < set.fresh_until + MAX_STALE)
    }

    async fn fetch(&self) -> Result<KeySet, String> {
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
        let keys = parse(&body, self.algorithm).ok_or("the answer is no JWKS")?;
        if keys.is_empty() {
            return Err(format!("there is no key for {:?}", self.algorithm));
        }
        let fetched_at = Instant::now();
        Ok(KeySet {
            keys,
            fetched_at,
            fresh_until: fetched_at + max_age,
        })
    }
}

/// What can be said without a fetch: from the keys there are, and from the last fetch if it is too early for another.
fn answer(
    set: Option<&KeySet>,
    last: Option<&Attempt>,
    id: &str,
    asked_at: Instant,
    now: Instant,
) -> Option<Result<Key, Error>> {
    let key = set.and_then(|set| set.keys.get(id)).cloned();
    let pause = if set.is_some() {
        REFETCH_PAUSE
    } else {
        RETRY_PAUSE
    };
    let too_early = last.filter(|last| last.at >= asked_at || now < last.at + pause);
    match (set, too_early) {
        (Some(set), _) if key.is_some() && now < set.fresh_until => Some(outcome(key, None)),
        (_, Some(last)) => Some(outcome(key, last.failure.as_ref())),
        (Some(set), _) if set.fetched_at >= asked_at => Some(outcome(key, None)),
        _ => None,
    }
}

/// An old key is still good. No key after a failed fetch may be a new one: that is not the caller's fault.
fn outcome(key: Option<Key>, failure: Option<&String>) -> Result<Key, Error> {
    match (key, failure) {
        (Some(key), _) => Ok(key),
        (None, None) => Err(Error::Unknown),
        (None, Some(failure)) => Err(Error::Unavailable(failure.clone())),
    }
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

/// The keys that can have signed a token; others, of kinds that we may never have heard of, are passed over.
fn parse(body: &[u8], algorithm: Algorithm) -> Option<HashMap<String, Key>> {
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

/// How long the answer is fresh, as `Cache-Control` has it.
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
    let told = seconds.map_or(DEFAULT_MAX_AGE, Duration::from_secs);
    told.clamp(MIN_MAX_AGE, MAX_MAX_AGE)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NEVER: Option<&Attempt> = None;

    fn set(fetched_at: Instant) -> KeySet {
        KeySet {
            keys: [("k1".to_owned(), Arc::new(DecodingKey::from_secret(b"")))].into(),
            fetched_at,
            fresh_until: fetched_at + MIN_MAX_AGE,
        }
    }

    fn tried(at: Instant, failure: Option<&str>) -> Attempt {
        Attempt {
            at,
            failure: failure.map(str::to_owned),
        }
    }

    /// The answer without a fetch, in a word.
    fn said(
        set: Option<&KeySet>,
        last: Option<&Attempt>,
        id: &str,
        asked_at: Instant,
    ) -> &'static str {
        match answer(set, last, id, asked_at, asked_at) {
            None => "fetch",
            Some(Ok(_)) => "known",
            Some(Err(Error::Unknown)) => "unknown",
            Some(Err(Error::Unavailable(_))) => "unavailable",
        }
    }

    #[test]
    fn fresh_keys_are_used_and_old_ones_while_no_newer_can_be_had() {
        let begun = Instant::now();
        let set = set(begun);
        let later = begun + MIN_MAX_AGE;
        assert_eq!(said(Some(&set), NEVER, "k1", begun), "known");
        assert_eq!(said(Some(&set), NEVER, "k1", later), "fetch");
        let failed = tried(later, Some("down"));
        assert_eq!(
            said(Some(&set), Some(&failed), "k1", later + REFETCH_PAUSE / 2),
            "known"
        );
        assert_eq!(
            said(Some(&set), Some(&failed), "k1", later + REFETCH_PAUSE),
            "fetch"
        );
    }

    #[test]
    fn an_unknown_key_is_asked_for_once_in_a_while() {
        let begun = Instant::now();
        let set = set(begun);
        let later = begun + Duration::from_millis(1);
        assert_eq!(said(Some(&set), NEVER, "k2", later), "fetch");
        assert_eq!(said(Some(&set), NEVER, "k2", begun), "unknown"); // it waited for this very set
        let looked = tried(later, None);
        assert_eq!(
            said(Some(&set), Some(&looked), "k2", later + REFETCH_PAUSE / 2),
            "unknown"
        );
        assert_eq!(
            said(Some(&set), Some(&looked), "k1", later + REFETCH_PAUSE / 2),
            "known"
        );
        assert_eq!(
            said(Some(&set), Some(&looked), "k2", later + REFETCH_PAUSE),
            "fetch"
        );
        let failed = tried(later, Some("down"));
        assert_eq!(
            said(Some(&set), Some(&failed), "k2", later + REFETCH_PAUSE / 2),
            "unavailable"
        );
    }

    #[test]
    fn without_keys_each_second_brings_one_fetch_and_nobody_is_called_a_stranger() {
        let begun = Instant::now();
        assert_eq!(said(None, NEVER, "k1", begun), "fetch");
        let failed = tried(begun, Some("down"));
        assert_eq!(said(None, Some(&failed), "k1", begun), "unavailable");
        assert_eq!(
            said(None, Some(&failed), "k1", begun + RETRY_PAUSE / 2),
            "unavailable"
        );
        assert_eq!(
            said(None, Some(&failed), "k1", begun + RETRY_PAUSE),
            "fetch"
        );
    }

    #[test]
    fn keys_end_a_day_after_they_should_have_been_renewed() {
        let keys = Keys::new(
            crate::gcp::http_client::HttpClients::new().unwrap().reqwest,
            String::new(),
            Algorithm::RS256,
        );
        let begun = Instant::now();
        *keys.current.write() = Some(Arc::new(set(begun)));
        assert!(keys.current(begun + MAX_STALE).is_some());
        assert!(keys.current(begun + MIN_MAX_AGE + MAX_STALE).is_none());
    }

    #[test]
    fn how_long_keys_are_fresh() {
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
