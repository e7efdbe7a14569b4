//! Bearer tokens (JWT): from whom one is, whether it holds, and what it grants.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Header, Validation, decode, decode_header};
use reqwest::Client;
use serde_json::{Value, json};

use super::Caller;
use super::grants::Grants;
use super::jwks::{self, Keys, MAX_ID_BYTES};
use super::provider::Provider;
use super::ring_provider;
use super::verified::{Digest, Verified};
use crate::config::{self, Invalid};
use crate::http::problem::{Kind, Problem};

/// The largest token looked at, in bytes.
const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// How far our clock and the issuer's may be apart.
const LEEWAY: Duration = Duration::from_secs(30);
/// The longest time a token may be good for, in seconds. Google's, Firebase's and Auth0's live an hour to a day.
const MAX_LIFETIME_SECONDS: f64 = 24.0 * 60.0 * 60.0;

/// Tells from a request's token who calls.
pub struct Tokens {
    provider: Provider,
    validation: Validation,
    keys: Arc<Keys>,
    grants: Grants,
    verified: Verified,
}

impl Tokens {
    /// Checks the settings; no key is fetched yet.
    pub fn new(settings: &config::Auth, http: Client) -> Result<Self, Invalid> {
        ring_provider::install();
        let provider = Provider::new(&settings.jwt)?;
        Ok(Self {
            validation: validation(&provider),
            keys: Arc::new(Keys::new(
                http,
                provider.jwks_url.clone(),
                provider.algorithm,
            )),
            grants: Grants::new(settings)?,
            verified: Verified::default(),
            provider,
        })
    }

    /// What callers must bring, as OpenAPI says it.
    pub fn security_scheme(&self) -> Value {
        let description = format!("A token of {} for this service.", self.provider.name());
        match self.provider.header == AUTHORIZATION {
            true => json!({
                "type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": description,
            }),
            false => json!({
                "type": "apiKey", "in": "header", "name": self.provider.header.as_str(), "description": description,
            }),
        }
    }

    /// Where the keys are.
    pub fn jwks_url(&self) -> &str {
        &self.provider.jwks_url
    }

    /// Whether the keys can be had; if not, why.
    pub async fn try_keys(&self) -> Result<(), String> {
        match self.keys.get("").await {
            Ok(_) | Err(jwks::Error::Unknown) => Ok(()),
            Err(jwks::Error::Unavailable(why)) => Err(why),
        }
    }

    /// Who calls.
    pub async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        let token = self.token(headers)?;
        let digest = Digest::of(token);
        if let Some(caller) = self.verified.get(&digest) {
            return Ok(caller);
        }
        let claims = self.verify(token).await?;
        let left = number(&claims, "exp")? - now();
        let caller = self.describe(claims)?;
        let Ok(left) = Duration::try_from_secs_f64(left) else {
            // It lives by the leeway alone, and is not remembered.
            return Ok(caller.until(Instant::now() + LEEWAY));
        };
        let caller = caller.until(Instant::now() + left);
        self.verified.insert(digest, caller.clone(), left);
        Ok(caller)
    }

    /// The token as the request brings it.
    fn token<'a>(&self, headers: &'a HeaderMap) -> Result<&'a str, Problem> {
        let mut values = headers.get_all(&self.provider.header).iter();
        let Some(value) = values.next() else {
            return Err(refused("there is no token"));
        };
        if values.next().is_some() {
            let detail = "Send the header with the token once.";
            return Err(Problem::new(Kind::MalformedRequest, detail));
        }
        let text = value
            .to_str()
            .map_err(|_| refused("the token is not ASCII"))?;
        let token = match self.provider.header == AUTHORIZATION {
            true => bearer(text).ok_or_else(|| refused("the Authorization is not Bearer"))?,
            false => text,
        };
        match token.len() <= MAX_TOKEN_BYTES {
            true => Ok(token),
            false => Err(refused("the token is too large")),
        }
    }

    /// The claims of a token that holds.
    async fn verify(&self, token: &str) -> Result<Value, Problem> {
        let header = decode_header(token).map_err(unusable)?;
        if header.alg != self.provider.algorithm {
            return Err(refused("the token has another algorithm"));
        }
        let key = self.keys.get(key_id(&header)?).await;
        let key = key.map_err(|error| match error {
            jwks::Error::Unknown => refused("the issuer has no key of this id"),
            jwks::Error::Unavailable(why) => Problem::from(Kind::AuthUnavailable)
                .because(format!("the keys at auth.jwt.jwks_url: {why}")),
        })?;
        let claims: Value = decode(token, &key, &self.validation)
            .map_err(unusable)?
            .claims;
        check_times(&claims)?;
        Ok(claims)
    }

    /// Who the claims are about, and what they grant.
    fn describe(&self, mut claims: Value) -> Result<Caller, Problem> {
        // The library would take a list of issuers too, and an empty subject.
        let text = |name: &str| claims[name].as_str().filter(|text| !text.is_empty());
        let (Some(_), Some(subject)) = (text("iss"), text("sub")) else {
            return Err(refused("iss or sub is not a text"));
        };
        let identity = format!("{} {subject}", self.provider.name());
        if !self.email_is_proven(&claims)
            && let Some(claims) = claims.as_object_mut()
        {
            claims.remove("email");
        }
        Ok(Caller {
            identity,
            permissions: Arc::new(self.grants.of(&claims)),
            expires_at: None,
        })
    }

    /// Whether `email` is more than what somebody typed into a form.
    fn email_is_proven(&self, claims: &Value) -> bool {
        match &claims["email_verified"] {
            Value::Null => self.provider.vouches_for_email,
            verified => *verified == Value::Bool(true),
        }
    }
}

fn refused(why: &'static str) -> Problem {
    Problem::from(Kind::Unauthenticated).because(why)
}

/// The library's word for what is wrong; but not of what it could not parse, which it would quote.
fn unusable(error: jsonwebtoken::errors::Error) -> Problem {
    match error.kind() {
        ErrorKind::Base64(_) | ErrorKind::Json(_) | ErrorKind::Utf8(_) => {
            refused("this is no token")
        }
        _ => Problem::from(Kind::Unauthenticated).because(error),
    }
}

/// The token after `Bearer`, whose case does not matter (RFC 9110, section 11.1).
fn bearer(text: &str) -> Option<&str> {
    let (scheme, token) = text.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_start_matches(' '))
}

/// The key that the header names. A key that comes with the token, or stands where the token says, proves nothing; and
/// what `crit` lists must be understood (RFC 7515, section 4.1.11), of which we understand nothing.
fn key_id(header: &Header) -> Result<&str, Problem> {
    let Header {
        crit,
        jku,
        jwk,
        x5u,
        ..
    } = header;
    if crit.is_some() || jku.is_some() || jwk.is_some() || x5u.is_some() {
        return Err(refused("the token's header has crit, jku, jwk or x5u"));
    }
    match &header.kid {
        Some(id) if id.len() <= MAX_ID_BYTES => Ok(id),
        _ => Err(refused("the token's header has no kid, or a long one")),
    }
}

/// What the library leaves out: that `iat` is there and past, and that the token does not live for ever.
fn check_times(claims: &Value) -> Result<(), Problem> {
    let (issued, expires) = (number(claims, "iat")?, number(claims, "exp")?);
    if issued > now() + LEEWAY.as_secs_f64() {
        return Err(refused("the token was issued in the future"));
    }
    match expires - issued <= MAX_LIFETIME_SECONDS {
        true => Ok(()),
        false => Err(refused("the token is good for too long")),
    }
}

fn number(claims: &Value, name: &str) -> Result<f64, Problem> {
    claims[name]
        .as_f64()
        .ok_or_else(|| refused("iat or exp is not a number"))
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

/// The library's checks, every one on: by default it would take a token without audience, issuer or subject.
fn validation(provider: &Provider) -> Validation {
    let mut validation = Validation::new(provider.algorithm);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    validation.set_issuer(&provider.issuers);
    validation.set_audience(&[&provider.audience]);
    validation.leeway = LEEWAY.as_secs();
    validation.validate_nbf = true;
    validation
}
