//! What marks an execution as one start's: its `INVOCATION_ID`.

use std::fmt;

use axum::http::{HeaderMap, HeaderName};
use ring::digest::{Context, SHA256};
use ring::rand::{SecureRandom, SystemRandom};

use crate::page::hex;
use crate::problem::{Kind, Problem};
use crate::scope::Scope;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The longest key, in characters.
const MAX_KEY_LENGTH: usize = 128;
/// What [`IdempotencyKey::from_headers`] takes, as a regular expression.
pub const KEY_PATTERN: &str = r#"^(?:[A-Za-z0-9._:~-]{1,128}|"[A-Za-z0-9._:~-]{1,128}")$"#;
/// Bytes of a marker that tell one start from every other: as many as a UUID has.
const START_BYTES: usize = 16;
/// Bytes of a marker that tell whether a repeated key came with the same request.
const FINGERPRINT_BYTES: usize = 8;

/// The caller's name for one start (draft-ietf-httpapi-idempotency-key-header): 1 to 128 of `A-Za-z0-9._:~-`.
#[derive(Clone, PartialEq, Eq)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// The key of a request that has one: a single field, bare or quoted as a structured field's string.
    pub fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let mut fields = headers.get_all(IDEMPOTENCY_KEY).iter();
        let (field, more) = (fields.next(), fields.next());
        let Some(field) = field else { return Ok(None) };
        let text = field.to_str().ok().filter(|_| more.is_none()).map(unquoted);
        let key = text
            .filter(|text| is_key(text))
            .map(|text| Self(text.to_owned()));
        key.map(Some).ok_or_else(|| {
            let detail = "Send one Idempotency-Key of 1 to 128 letters, digits or . _ : ~ -, such as a UUID.";
            Problem::new(Kind::IdempotencyKeyInvalid, detail)
        })
    }
}

fn unquoted(text: &str) -> &str {
    text.strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .unwrap_or(text)
}

fn is_key(text: &str) -> bool {
    let legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b':' | b'~' | b'-');
    (1..=MAX_KEY_LENGTH).contains(&text.len()) && text.bytes().all(legal)
}

/// Which start an execution came from, as any instance can tell at any time from the execution alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    start: String,
    fingerprint: Option<String>,
}

impl Marker {
    /// The marker of a start without a key: no other start ever has it.
    pub fn random() -> Result<Self, Problem> {
        let mut bytes = [0; START_BYTES];
        let filled = SystemRandom::new().fill(&mut bytes);
        filled
            .map_err(|_| Problem::from(Kind::Internal).because("the system has no random bytes"))?;
        Ok(Self {
            start: hex(&bytes),
            fingerprint: None,
        })
    }

    /// The marker of a start with a key. `request` is whatever must not differ when the key is repeated.
    pub fn keyed(identity: &str, scope: &Scope, key: &IdempotencyKey, request: &str) -> Self {
        Self {
            start: digest(&[identity, scope.as_str(), &key.0], START_BYTES),
            fingerprint: Some(digest(&[request], FINGERPRINT_BYTES)),
        }
    }

    /// The marker in an execution's `INVOCATION_ID`; nothing in one that others set.
    pub fn parse(invocation_id: &str) -> Option<Self> {
        let (start, fingerprint) = match invocation_id.split_once('-') {
            Some((start, fingerprint)) => (start, Some(fingerprint)),
            None => (invocation_id, None),
        };
        let is_hex = |text: &str, bytes| {
            text.len() == 2 * bytes && text.bytes().all(|c| c.is_ascii_hexdigit())
        };
        let ours = is_hex(start, START_BYTES)
            && fingerprint.is_none_or(|text| is_hex(text, FINGERPRINT_BYTES));
        ours.then(|| Self {
            start: start.to_owned(),
            fingerprint: fingerprint.map(str::to_owned),
        })
    }

    /// What is the same for every request with the same caller, scope and key.
    pub fn start(&self) -> &str {
        &self.start
    }

    /// Whether a caller can repeat this start.
    pub fn is_keyed(&self) -> bool {
        self.fingerprint.is_some()
    }

    /// Refuses a key that came with another request before.
    pub fn must_equal(&self, earlier: &Self) -> Result<(), Problem> {
        if self == earlier {
            return Ok(());
        }
        let detail = "This Idempotency-Key came with another body or query before. Use a new key for a new start.";
        Err(Problem::new(Kind::IdempotencyKeyReused, detail))
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fingerprint {
            Some(fingerprint) => write!(f, "{}-{fingerprint}", self.start),
            None => f.write_str(&self.start),
        }
    }
}

/// A digest of the texts, each with its length: `ab`, `c` must not be `a`, `bc`.
fn digest(texts: &[&str], bytes: usize) -> String {
    let mut context = Context::new(&SHA256);
    for text in texts {
        context.update(&(text.len() as u64).to_be_bytes());
        context.update(text.as_bytes());
    }
    hex(&context.finish().as_ref()[..bytes])
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn key(text: &str) -> Result<Option<IdempotencyKey>, Problem> {
        let value = HeaderValue::from_bytes(text.as_bytes()).unwrap();
        let key = IdempotencyKey::from_headers(&HeaderMap::from_iter([(IDEMPOTENCY_KEY, value)]));
        let schema = serde_json::json!({ "pattern": KEY_PATTERN });
        let told = jsonschema::is_valid(&schema, &text.into());
        assert_eq!(told, matches!(key, Ok(Some(_))), "{text}");
        key
    }

    fn marker(identity: &str, scope: &str, name: &str, request: &str) -> Marker {
        Marker::keyed(
            identity,
            &scope.parse().unwrap(),
            &key(name).unwrap().unwrap(),
            request,
        )
    }

    #[test]
    fn a_marker_survives_the_way_through_an_execution() {
        for marker in [Marker::random().unwrap(), marker("me", "acme", "k", "{}")] {
            assert_eq!(Marker::parse(&marker.to_string()), Some(marker));
        }
        for foreign in [
            "",
            "x",
            "5f0c",
            "5f0c-1",
            &"0".repeat(33),
            &format!("{}-", "0".repeat(32)),
        ] {
            assert_eq!(Marker::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_start_is_told_by_caller_scope_and_key() {
        let one = marker("me", "acme", "k", "{}");
        assert_eq!(
            one.start(),
            marker("me", "acme", "\"k\"", "{\"a\":1}").start()
        );
        for other in [
            marker("you", "acme", "k", "{}"),
            marker("me", "globex", "k", "{}"),
            marker("me", "acme", "l", "{}"),
        ] {
            assert_ne!(one.start(), other.start());
        }
        assert!(one.must_equal(&one.clone()).is_ok());
        let reused = one
            .must_equal(&marker("me", "acme", "k", "{\"a\":1}"))
            .unwrap_err();
        assert_eq!(reused.kind, Kind::IdempotencyKeyReused);
        assert_ne!(Marker::random().unwrap(), Marker::random().unwrap());
    }

    #[test]
    fn two_fields_are_no_key() {
        let mut headers = HeaderMap::new();
        assert!(IdempotencyKey::from_headers(&headers).unwrap().is_none());
        for _ in 0..2 {
            headers.append(IDEMPOTENCY_KEY, HeaderValue::from_static("k"));
        }
        assert!(IdempotencyKey::from_headers(&headers).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_a_key_or_refused(bytes in proptest::collection::vec(0x20_u8..=0xff, 0..140)) {
            let Ok(value) = HeaderValue::from_bytes(&bytes) else { return Ok(()) };
            let parsed = IdempotencyKey::from_headers(&HeaderMap::from_iter([(IDEMPOTENCY_KEY, value)]));
            if let Ok(Some(IdempotencyKey(key))) = parsed {
                assert!(is_key(&key) && String::from_utf8_lossy(&bytes).contains(&key));
            }
        }

        #[test]
        fn any_invocation_id_is_a_marker_or_none(text in "\\PC{0,60}|[0-9a-f]{32}(-[0-9a-f]{16})?") {
            if let Some(marker) = Marker::parse(&text) {
                assert_eq!(marker.to_string(), text);
            }
        }
    }
}
