//! `INVOCATION_ID`: the environment variable by which the execution of a start is recognised.

use std::fmt;

use ring::digest::{Context, SHA256};

use super::error::Error;
use crate::random;
use crate::scope::{ProcessName, Scope};

/// The longest key, in characters.
const MAX_KEY_LENGTH: usize = 128;
/// What [`IdempotencyKey::parse`] takes, as a regular expression.
pub const KEY_PATTERN: &str = r#"^(?:[A-Za-z0-9._:~-]{1,128}|"[A-Za-z0-9._:~-]{1,128}")$"#;
/// Hexadecimal digits of a key's digest and of a request's fingerprint.
const KEY_DIGITS: usize = 32;
const FINGERPRINT_DIGITS: usize = 16;

/// The caller's name for one start (draft-ietf-httpapi-idempotency-key-header): 1 to 128 of `A-Za-z0-9._:~-`.
#[derive(Clone, PartialEq, Eq)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// The key in a header's value: bare, or quoted as a structured field's string.
    pub fn parse(value: &str) -> Option<Self> {
        let key = unquoted(value);
        is_key(key).then(|| Self(key.to_owned()))
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

/// Which start an execution came from. Any instance can read it from the execution at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvocationId {
    key: KeyDigest,
    /// The request's fingerprint: a repeated key must come with the same one.
    fingerprint: Option<u64>,
}

/// A digest of owner and key, with as many bits as a UUID has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyDigest(u128);

/// What a key belongs to. The same key of two owners is two starts.
#[derive(Clone, Copy)]
pub struct KeyOwner<'a> {
    /// The project of the job.
    pub project: &'a str,
    /// The region of the job.
    pub region: &'a str,
    /// The job that is started.
    pub job: &'a str,
    /// The process that is started; none for the unnamed process.
    pub process: Option<&'a ProcessName>,
    /// The caller's identity.
    pub caller: &'a str,
    /// The scope that the start is for.
    pub scope: &'a Scope,
}

impl InvocationId {
    /// The id of a start without a key: a random one.
    pub fn random() -> Self {
        let (high, low) = (u128::from(random::number()), u128::from(random::number()));
        Self {
            key: KeyDigest(high << 64 | low),
            fingerprint: None,
        }
    }

    /// The id of a start with a key. A repeated key must come with the same `request`.
    pub fn keyed(owner: KeyOwner<'_>, key: &IdempotencyKey, request: &str) -> Self {
        let key = digest(&[
            owner.project,
            owner.region,
            owner.job,
            owner.process.map_or("", ProcessName::as_str),
            owner.caller,
            owner.scope.as_str(),
            &key.0,
        ]);
        Self {
            key: KeyDigest(u128::from_be_bytes(key)),
            fingerprint: Some(u64::from_be_bytes(digest(&[request]))),
        }
    }

    /// The id in an execution's `INVOCATION_ID`. None if the value is not one that this service sets.
    pub fn parse(invocation_id: &str) -> Option<Self> {
        let (key, fingerprint) = match invocation_id.split_once('-') {
            Some((key, fingerprint)) => (key, Some(fingerprint)),
            None => (invocation_id, None),
        };
        let is_hex = |text: &str, digits| {
            text.len() == digits && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
        };
        let ours = is_hex(key, KEY_DIGITS)
            && fingerprint.is_none_or(|text| is_hex(text, FINGERPRINT_DIGITS));
        let number = |text| u64::from_str_radix(text, 16).ok();
        ours.then(|| {
            Some(Self {
                key: KeyDigest(u128::from_str_radix(key, 16).ok()?),
                fingerprint: fingerprint.and_then(number),
            })
        })?
    }

    /// The digest of owner and key.
    pub fn key(&self) -> KeyDigest {
        self.key
    }

    /// Whether a caller can repeat this start.
    pub fn is_keyed(&self) -> bool {
        self.fingerprint.is_some()
    }

    /// Refuses a key that was used with a different request before.
    pub fn ensure_same_request(&self, earlier: &Self) -> Result<(), Error> {
        if self == earlier {
            Ok(())
        } else {
            Err(Error::KeyReused)
        }
    }
}

impl fmt::Display for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fingerprint {
            Some(fingerprint) => write!(f, "{}-{fingerprint:016x}", self.key),
            None => self.key.fmt(f),
        }
    }
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The first bytes of a digest of the texts. Their lengths are digested too, so that `ab`, `c` differs from `a`, `bc`.
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
    use super::*;

    fn key(text: &str) -> Option<IdempotencyKey> {
        let key = IdempotencyKey::parse(text);
        let schema = serde_json::json!({ "pattern": KEY_PATTERN });
        let documented = jsonschema::is_valid(&schema, &text.into());
        assert_eq!(documented, key.is_some(), "{text}");
        key
    }

    fn owner(scope: &Scope) -> KeyOwner<'_> {
        KeyOwner {
            project: "demo",
            region: "us-east4",
            job: "test-job",
            process: None,
            caller: "me",
            scope,
        }
    }

    fn id(owner: KeyOwner<'_>, name: &str, request: &str) -> InvocationId {
        InvocationId::keyed(owner, &key(name).unwrap(), request)
    }

    #[test]
    fn an_id_is_the_same_after_it_was_written_and_parsed() {
        let acme = "acme".parse().unwrap();
        for id in [InvocationId::random(), id(owner(&acme), "k", "{}")] {
            assert_eq!(InvocationId::parse(&id.to_string()), Some(id));
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
            assert_eq!(InvocationId::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn the_same_key_of_another_owner_has_another_id() {
        let (acme, globex) = ("acme".parse().unwrap(), "globex".parse().unwrap());
        let import = ProcessName::new("import").unwrap();
        let mine = owner(&acme);
        let one = id(mine, "k", "{}");
        assert_eq!(one.key(), id(mine, "\"k\"", "{\"a\":1}").key());
        let others = [
            KeyOwner {
                project: "other",
                ..mine
            },
            KeyOwner {
                region: "us-west1",
                ..mine
            },
            KeyOwner {
                job: "other-job",
                ..mine
            },
            KeyOwner {
                process: Some(&import),
                ..mine
            },
            KeyOwner {
                caller: "you",
                ..mine
            },
            KeyOwner {
                scope: &globex,
                ..mine
            },
        ];
        for other in others {
            assert_ne!(one.key(), id(other, "k", "{}").key());
        }
        assert_ne!(one.key(), id(mine, "l", "{}").key());
        assert_ne!(InvocationId::random(), InvocationId::random());
    }

    #[test]
    fn a_repeated_key_with_a_different_request_is_refused() {
        let acme = "acme".parse().unwrap();
        let one = id(owner(&acme), "k", "{}");
        assert!(one.ensure_same_request(&one.clone()).is_ok());
        let other = id(owner(&acme), "k", "{\"a\":1}");
        assert!(matches!(
            one.ensure_same_request(&other),
            Err(Error::KeyReused)
        ));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_parsed_as_a_key_or_refused(text in "\\PC{0,140}") {
            if let Some(IdempotencyKey(key)) = IdempotencyKey::parse(&text) {
                assert!(is_key(&key) && text.contains(&key));
            }
        }

        #[test]
        fn any_text_is_parsed_as_an_invocation_id_or_ignored(text in "\\PC{0,60}|[0-9a-f]{32}(-[0-9a-f]{16})?") {
            if let Some(id) = InvocationId::parse(&text) {
                assert_eq!(id.to_string(), text);
            }
        }
    }
}
