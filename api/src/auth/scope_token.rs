//! Scope tokens: the operator's backend signs them for its pages, with a secret that it shares with the service.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use super::grants::{MAX_SCOPES, Names, Permissions, Rights};
use super::jwt::{LEEWAY, end_of, now, unusable};
use super::{Caller, Error, ring_provider, unauthenticated};
use crate::config::{Invalid, Jwt, Operation, Secrets};
use crate::scope::ProcessName;

/// The longest accepted lifetime of a scope token.
pub const MAX_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// The shortest secret, in bytes: as many as HS256's digest has (RFC 7518, section 3.2).
const MIN_SECRET_BYTES: usize = 32;
/// How many characters of a secret must be unpredictable. Of 32 random hexadecimal digits, about 28 count as such.
const MIN_UNFORESEEN: usize = 20;
/// Words that people put into secrets. They do not count as unpredictable.
const WORDS: [&str; 14] = [
    "a-string-secret-at-least-256-bits-long",
    "your-256-bit-secret",
    "changeme",
    "change-me",
    "development",
    "password",
    "example",
    "qwertyuiop",
    "asdfghjkl",
    "letmein",
    "insecure",
    "default",
    "secret",
    "qwerty",
];
/// The identities of scope tokens' subjects begin with this, which is not the name of an issuer.
const IDENTITY: &str = "scope-token";

/// The claims of a scope token.
#[derive(Debug, Deserialize, Serialize)]
pub struct Claims {
    /// The scopes that it is for.
    pub scopes: Vec<String>,
    /// The operations that are allowed in them.
    pub operations: Vec<Operation>,
    /// When it expires, in seconds since 1970.
    pub exp: f64,
    /// When it was made. It may be absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iat: Option<f64>,
    /// The processes that it is for. If absent, it is for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<Vec<String>>,
    /// The Idempotency-Key of every start with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Its subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
}

/// Authenticates callers by scope tokens.
pub struct ScopeTokens {
    keys: Vec<DecodingKey>,
    validation: Validation,
}

impl ScopeTokens {
    /// None without a secret. Refuses a secret that could be guessed, since it allows everything.
    pub fn new(settings: &Jwt) -> Result<Option<Self>, Invalid> {
        let secrets = settings.secret.reveal();
        if secrets.is_empty() {
            return Ok(None);
        }
        secrets.iter().try_for_each(|secret| check(secret))?;
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_required_spec_claims(&["exp"]);
        validation.leeway = LEEWAY.as_secs();
        validation.validate_nbf = true;
        if let Some(audience) = &settings.audience {
            validation.set_audience(&[audience]); // of a token that has an aud
        }
        let keys = secrets
            .iter()
            .map(|secret| DecodingKey::from_secret(secret.as_bytes()));
        Ok(Some(Self {
            keys: keys.collect(),
            validation,
        }))
    }

    /// Verifies the token and returns its caller.
    pub fn caller(&self, token: &str) -> Result<Caller, Error> {
        let claims = self.verify(token)?;
        let permissions = Permissions::of(Rights {
            scopes: Names::These(all_parsed(&claims.scopes, "scopes", |text| {
                text.parse().ok()
            })?),
            processes: match &claims.processes {
                None => Names::All,
                Some(names) => Names::These(all_parsed(names, "processes", ProcessName::new)?),
            },
            operations: claims.operations,
        });
        Ok(Caller {
            identity: claims
                .sub
                .as_ref()
                .map_or_else(String::new, |sub| format!("{IDENTITY} {sub}")),
            subject: claims.sub,
            key: claims.key,
            permissions: Arc::new(permissions),
            expires_at: Some(end_of(claims.exp)),
        })
    }

    fn verify(&self, token: &str) -> Result<Claims, Error> {
        let mut outcome = Err(ErrorKind::InvalidSignature.into());
        for key in &self.keys {
            outcome = jsonwebtoken::decode::<Claims>(token, key, &self.validation);
            let other_secret = outcome
                .as_ref()
                .is_err_and(|error| matches!(error.kind(), ErrorKind::InvalidSignature));
            if !other_secret {
                break;
            }
        }
        let claims = outcome.map_err(unusable)?.claims;
        let (begun, longest) = (claims.iat.unwrap_or_else(now), MAX_LIFETIME.as_secs_f64());
        if claims
            .iat
            .is_some_and(|iat| iat > now() + LEEWAY.as_secs_f64())
        {
            return Err(unauthenticated("the scope token was issued in the future"));
        }
        if claims.exp - begun > longest || claims.exp - now() > longest {
            return Err(unauthenticated(
                "the scope token's lifetime is more than 24 hours",
            ));
        }
        if claims.operations.is_empty() {
            return Err(unauthenticated("the scope token lists no operations"));
        }
        if claims
            .sub
            .as_ref()
            .is_some_and(|sub| !super::is_subject(sub))
        {
            return Err(unauthenticated(
                "the scope token's sub is empty or has control characters",
            ));
        }
        Ok(claims)
    }
}

/// A scope token with these claims, signed with the first of the secrets.
pub fn sign(secrets: &Secrets, claims: &Claims) -> Result<String, Invalid> {
    let [secret, ..] = secrets.reveal() else {
        return Err(refused("must be set to the secret that the service has"));
    };
    check(secret)?;
    ring_provider::install();
    let key = EncodingKey::from_secret(secret.as_bytes());
    let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key);
    token.map_err(|error| refused(&format!("cannot sign: {error}")))
}

fn all_parsed<T: Eq + std::hash::Hash>(
    texts: &[String],
    claim: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<HashSet<T>, Error> {
    let few = (1..=MAX_SCOPES).contains(&texts.len());
    let parsed: Option<HashSet<T>> = texts.iter().map(|text| parse(text)).collect();
    parsed.filter(|_| few).ok_or_else(|| {
        unauthenticated(format!(
            "the scope token's {claim} are empty or too many, or one of them is not valid"
        ))
    })
}

fn refused(what: &str) -> Invalid {
    let cure = format!("{what}; `openssl rand -base64 32` makes one that cannot be guessed");
    Invalid::new("auth.jwt.secret", cure)
}

/// Refuses a secret that is short or mostly predictable.
fn check(secret: &str) -> Result<(), Invalid> {
    if secret.len() < MIN_SECRET_BYTES {
        return Err(refused("has fewer than 32 bytes"));
    }
    if unforeseen(secret) < MIN_UNFORESEEN || has_one_kind(secret) {
        return Err(refused("can be guessed: it is words, or repeats itself"));
    }
    Ok(())
}

/// Counts the characters that are not part of a common word, do not continue a sequence such as `aaa`, `abc` or `321`, and do not
/// repeat a pair of characters.
fn unforeseen(secret: &str) -> usize {
    let mut rest = secret.to_ascii_lowercase();
    for word in WORDS {
        rest = rest.replace(word, "");
    }
    let (bytes, mut pairs) = (rest.as_bytes(), HashSet::new());
    let continues = |a: u8, b: u8, c: u8| {
        let (before, step) = (i16::from(b) - i16::from(a), i16::from(c) - i16::from(b));
        before == step && step.abs() <= 1
    };
    bytes
        .windows(3)
        .filter(|three| {
            let [a, b, c] = [three[0], three[1], three[2]];
            pairs.insert((b, c)) && !continues(a, b, c)
        })
        .count()
}

/// Whether all letters and digits are small letters, or capitals, or digits, as in a phrase or a number.
fn has_one_kind(secret: &str) -> bool {
    let kinds = [
        secret.bytes().any(|c| c.is_ascii_lowercase()),
        secret.bytes().any(|c| c.is_ascii_uppercase()),
        secret.bytes().any(|c| c.is_ascii_digit()),
    ];
    kinds.into_iter().filter(|there| *there).count() < 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_is_short_or_can_be_guessed_is_refused_without_being_shown() {
        for secret in [
            "T3st",
            "kG7vX2pQ9sL4mZ8wR1tY6uB3nC5dF0h", // 31 bytes
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "abababababababababababababababababababababab",
            "secretsecretsecretsecretsecretsecretsecret",
            "Secret1Secret1Secret1Secret1Secret1Secret1",
            "correct-horse-battery-staple-and-more-words",
            "password000000000000000000000000000000",
            "Password1234567890123456789012345678901234567890",
            "changeme-changeme-changeme-changeme-1",
            "0123456789012345678901234567890123456789",
            "abcdefghijklmnopqrstuvwxyz0123456789",
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
            "a-string-secret-at-least-256-bits-long",
            "your-256-bit-secret-your-256-bit-secret",
        ] {
            let error = check(secret).unwrap_err().to_string();
            assert!(
                error.contains("openssl rand -base64 32"),
                "{secret}: {error}"
            );
            assert!(!error.contains(secret), "{error}");
        }
        let random = ring::rand::SystemRandom::new();
        for _ in 0..10_000 {
            let bytes: [u8; 32] = ring::rand::generate(&random).unwrap().expose();
            let hexadecimal: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
            let base64: String = bytes
                .iter()
                .map(|byte| char::from(digits[usize::from(byte & 63)]))
                .collect();
            for secret in [&hexadecimal, &hexadecimal[..32], &base64] {
                check(secret).unwrap();
            }
        }
    }
}
