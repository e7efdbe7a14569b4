//! What marks an execution as one start's: its `INVOCATION_ID`.

use std::fmt;

use axum::http::{HeaderMap, HeaderName};
use ring::digest::{Context, SHA256};

use crate::http::problem::{Kind, Problem};
use crate::random;
use crate::scope::Scope;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The longest key, in characters.
const MAX_KEY_LENGTH: usize = 128;
/// What [`IdempotencyKey::from_headers`] takes, as a regular expression.
pub const KEY_PATTERN: &str = r#"^(?:[A-Za-z0-9._:~-]{1,128}|"[A-Za-z0-9._:~-]{1,128}")$"#;
/// Hexadecimal digits of a start and of a fingerprint.
const START_DIGITS: usize = 32;
const FINGERPRINT_DIGITS: usize = 16;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    start: StartId,
    /// Whether a repeated key came with the same request.
    fingerprint: Option<u64>,
}

/// What is the same for every request with the same caller, scope and key: as many bits as a UUID has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StartId(u128);

impl Marker {
    /// The marker of a start without a key: no other start ever has it.
    pub fn random() -> Self {
        let (high, low) = (u128::from(random::number()), u128::from(random::number()));
        Self {
            start: StartId(high << 64 | low),
            fingerprint: None,
        }
    }

    /// The marker of a start with a key. `request` is whatever must not differ when the key is repeated.
    pub fn keyed(identity: &str, scope: &Scope, key: &IdempotencyKey, request: &str) -> Self {
        let start = digest(&[identity, scope.as_str(), &key.0]);
        Self {
            start: StartId(u128::from_be_bytes(start)),
            fingerprint: Some(u64::from_be_bytes(digest(&[request]))),
        }
    }

    /// The marker in an execution's `INVOCATION_ID`; nothing in one that others set.
    pub fn parse(invocation_id: &str) -> Option<Self> {
        let (start, fingerprint) = match invocation_id.split_once('-') {
            Some((start, fingerprint)) => (start, Some(fingerprint)),
            None => (invocation_id, None),
        };
        let is_hex = |text: &str, digits| {
            text.len() == digits && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
        };
        let ours = is_hex(start, START_DIGITS)
            && fingerprint.is_none_or(|text| is_hex(text, FINGERPRINT_DIGITS));
        let number = |text| u64::from_str_radix(text, 16).ok();
        ours.then(|| {
            Some(Self {
                start: StartId(u128::from_str_radix(start, 16).ok()?),
                fingerprint: fingerprint.and_then(number),
            })
        })?
    }

    /// What is the same for every request with the same caller, scope and key.
    pub fn start(&self) -> StartId {
        self.start
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
            Some(fingerprint) => write!(f, "{}-{fingerprint:016x}", self.start),
            None => self.start.fmt(f),
        }
    }
}

impl fmt::Display for StartId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The first bytes of a digest of the texts, each with its length: `ab`, `c` must not be `a`, `bc`.
fn digest<const BYTES: usize>(texts: &[&str]) -> [u8; BYTES] {
    let mut context = Context::new(&SHA256);
    for text in texts {
        context.update(&(text.len() as u64).to_be_bytes());
        context.update(text.as_bytes());
    }
    let mut bytes = [0; BYTES];
    bytes.copy_from_slice(&context.finish().as_ref()[..BYTES]);
    bytes
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
        for marker in [Marker::random(), marker("me", "acme", "k", "{}")] {
            assert_eq!(Marker::parse(&marker.to_string()), Some(marker));
        }
        for foreign in [
            "",
            "x",
            "5f0c",
            "5f0c-1",
            &"0".repeat(33),
            &format!("{}-", "0".repeat(32)),
            &"A".repeat(32),
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
        assert_ne!(Marker::random(), Marker::random());
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
