//! Bearer tokens (JWT): it verifies a token, and reads its subject and its grants.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Header, Validation, decode, decode_header};
use reqwest::Client;
use serde_json::{Value, json};

use super::grants::Grants;
use super::jwks::{self, Keys, MAX_ID_BYTES};
use super::provider::Provider;
use super::scope_token::ScopeTokens;
use super::{Caller, Error, is_subject, ring_provider, unauthenticated};
use crate::config::{Config, Invalid, Jwt};

/// The largest accepted difference between our clock and the issuer's.
pub(super) const LEEWAY: Duration = Duration::from_secs(30);
/// The longest accepted lifetime of a token. Those of Google, Firebase and Auth0 live for an hour to a day.
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Authenticates callers by a token of the identity provider or a scope token of the operator's backend. The token's `alg` says
/// which it is, and neither kind is checked with the keys of the other.
pub struct Tokens {
    issuer: Option<Issuer>,
    scope_tokens: Option<ScopeTokens>,
}

/// A trusted identity provider.
struct Issuer {
    provider: Provider,
    validation: Validation,
    keys: Arc<Keys>,
    grants: Grants,
}

impl Tokens {
    /// Checks the settings; no key is fetched yet.
    pub fn new(config: &Config, http: Client) -> Result<Self, Invalid> {
        ring_provider::install();
        let scope_tokens = ScopeTokens::new(&config.auth.jwt)?;
        let needs_issuer = scope_tokens.is_none() || names_issuer(&config.auth.jwt);
        let issuer = needs_issuer
            .then(|| Issuer::new(config, http))
            .transpose()?;
        Ok(Self {
            issuer,
            scope_tokens,
        })
    }

    /// The callers' credentials, as an OpenAPI security scheme.
    pub fn security_scheme(&self) -> Value {
        let of_issuer = self.issuer.as_ref().map(|issuer| &issuer.provider);
        let description = match (of_issuer, &self.scope_tokens) {
            (Some(provider), None) => format!("A token of {} for this service.", provider.name()),
            (Some(provider), Some(_)) => format!(
                "A token of {} for this service, or a scope token in Authorization after Bearer.",
                provider.name()
            ),
            (None, _) => "A scope token, signed by the operator's backend.".to_owned(),
        };
        match of_issuer.filter(|provider| provider.header != AUTHORIZATION) {
            None => json!({
                "type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": description,
            }),
            Some(provider) => json!({
                "type": "apiKey", "in": "header", "name": provider.header.as_str(), "description": description,
            }),
        }
    }

    /// The URL of the issuer's keys, if there is an issuer.
    pub fn jwks_url(&self) -> Option<&str> {
        self.issuer
            .as_ref()
            .map(|issuer| &issuer.provider.jwks_url[..])
    }

    /// Tests that the issuer's keys can be fetched.
    pub async fn try_keys(&self) -> Result<(), String> {
        let Some(issuer) = &self.issuer else {
            return Ok(());
        };
        match issuer.keys.get("").await {
            Ok(_) | Err(jwks::Error::Unknown) => Ok(()),
            Err(jwks::Error::Unavailable(why)) => Err(why),
        }
    }

    /// Authenticates the sender of these headers.
    pub async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Error> {
        let token = self.token(headers)?;
        let header = decode_header(token).map_err(unusable)?;
        has_nothing_critical(&header)?;
        match (&self.scope_tokens, &self.issuer) {
            (Some(scope_tokens), _) if header.alg == Algorithm::HS256 => scope_tokens.caller(token),
            (_, Some(issuer)) if header.alg == issuer.provider.algorithm => {
                issuer.caller(token, &header).await
            }
            _ => Err(unauthenticated("the token has another algorithm")),
        }
    }

    /// The request's token. A scope token is always in `Authorization`, even if the issuer's are in another header.
    fn token<'a>(&self, headers: &'a HeaderMap) -> Result<&'a str, Error> {
        let of_issuer = self.issuer.as_ref().map(|issuer| &issuer.provider.header);
        if let Some(name) = of_issuer.filter(|name| **name != AUTHORIZATION) {
            match only(headers, name)? {
                Some(token) => return Ok(token),
                None if self.scope_tokens.is_none() => {
                    return Err(unauthenticated("there is no token"));
                }
                None => {}
            }
        }
        let authorization = only(headers, &AUTHORIZATION)?;
        let authorization = authorization.ok_or_else(|| unauthenticated("there is no token"))?;
        bearer(authorization)
            .ok_or_else(|| unauthenticated("the header Authorization does not begin with Bearer"))
    }
}

/// Whether an identity provider is configured besides the secret.
fn names_issuer(settings: &Jwt) -> bool {
    let Jwt {
        issuer,
        jwks_url,
        audience,
        ..
    } = settings;
    settings.preset.is_some()
        || [issuer, jwks_url, audience]
            .into_iter()
            .any(Option::is_some)
}

/// The value of the header, if it was sent once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Error> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            let text = value.to_str();
            text.map(Some)
                .map_err(|_| unauthenticated("the token is not ASCII"))
        }
        (Some(_), Some(_)) => Err(Error::SeveralTokens),
    }
}

impl Issuer {
    fn new(config: &Config, http: Client) -> Result<Self, Invalid> {
        let provider = Provider::new(&config.auth.jwt)?;
        Ok(Self {
            validation: validation(&provider),
            keys: Arc::new(Keys::new(
                http,
                provider.jwks_url.clone(),
                provider.algorithm,
            )),
            grants: Grants::new(config)?,
            provider,
        })
    }

    /// Verifies the token and returns its caller.
    async fn caller(&self, token: &str, header: &Header) -> Result<Caller, Error> {
        let key = self.keys.get(key_id(header)?).await;
        let key = key.map_err(|error| match error {
            jwks::Error::Unknown => unauthenticated("the issuer has no key of this id"),
            jwks::Error::Unavailable(why) => Error::KeysUnavailable(why),
        })?;
        let claims: Value = decode(token, &key, &self.validation)
            .map_err(unusable)?
            .claims;
        check_times(&claims)?;
        self.describe(claims)
    }

    /// The caller that the claims describe.
    fn describe(&self, mut claims: Value) -> Result<Caller, Error> {
        // The library would also accept a list of issuers, and an empty subject.
        let text = |name: &str| claims[name].as_str();
        let (Some(_), Some(subject)) = (text("iss"), text("sub").filter(|sub| is_subject(sub)))
        else {
            return Err(unauthenticated("iss or sub is not a text"));
        };
        let (subject, end) = (subject.to_owned(), end_of(number(&claims, "exp")?));
        if !self.email_is_proven(&claims)
            && let Some(claims) = claims.as_object_mut()
        {
            claims.remove("email");
        }
        Ok(Caller {
            identity: format!("{} {subject}", self.provider.name()),
            subject: Some(subject),
            key: None,
            permissions: Arc::new(self.grants.of(&claims)),
            expires_at: Some(end),
        })
    }

    /// Whether the provider has verified the `email`.
    fn email_is_proven(&self, claims: &Value) -> bool {
        match &claims["email_verified"] {
            Value::Null => self.provider.trusts_unverified_email,
            verified => *verified == Value::Bool(true),
        }
    }
}

/// The library's message, unless it is about text that it could not parse and would quote.
pub(super) fn unusable(error: jsonwebtoken::errors::Error) -> Error {
    match error.kind() {
        ErrorKind::Base64(_) | ErrorKind::Json(_) | ErrorKind::Utf8(_) => {
            unauthenticated("no token could be read: it, or one of its claims, is malformed")
        }
        _ => unauthenticated(error.to_string()),
    }
}

/// The token after `Bearer`, whose case does not matter (RFC 9110, section 11.1).
fn bearer(text: &str) -> Option<&str> {
    let (scheme, token) = text.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_start_matches(' '))
}

/// Refuses tokens that bring or name their own key, which would prove nothing, and tokens with `crit`: its extensions must be
/// understood (RFC 7515, section 4.1.11), and none is supported here.
fn has_nothing_critical(header: &Header) -> Result<(), Error> {
    let Header {
        crit,
        jku,
        jwk,
        x5u,
        ..
    } = header;
    if crit.is_some() || jku.is_some() || jwk.is_some() || x5u.is_some() {
        return Err(unauthenticated(
            "the token's header has crit, jku, jwk or x5u",
        ));
    }
    Ok(())
}

/// The key that the header names.
fn key_id(header: &Header) -> Result<&str, Error> {
    let id = header.kid.as_deref().filter(|id| id.len() <= MAX_ID_BYTES);
    id.ok_or_else(|| unauthenticated("the token's header has no kid, or a long one"))
}

/// Checks what the library does not: that `iat` is present and in the past, and that the lifetime is limited.
fn check_times(claims: &Value) -> Result<(), Error> {
    let (issued, expires) = (number(claims, "iat")?, number(claims, "exp")?);
    if issued > now() + LEEWAY.as_secs_f64() {
        return Err(unauthenticated("the token was issued in the future"));
    }
    if expires - issued <= MAX_LIFETIME.as_secs_f64() {
        Ok(())
    } else {
        Err(unauthenticated("the token's lifetime is too long"))
    }
}

fn number(claims: &Value, name: &str) -> Result<f64, Error> {
    claims[name]
        .as_f64()
        .ok_or_else(|| unauthenticated("iat or exp is not a number"))
}

/// When a token with this `exp` expires. If that is past already, the leeway applies.
pub(super) fn end_of(exp: f64) -> Instant {
    let left = Duration::try_from_secs_f64(exp - now());
    Instant::now() + left.unwrap_or(LEEWAY).min(MAX_LIFETIME)
}

/// Seconds since 1970.
pub(super) fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

/// Enables all checks of the library. By default it would accept a token without audience, issuer or subject.
fn validation(provider: &Provider) -> Validation {
    let mut validation = Validation::new(provider.algorithm);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    validation.set_issuer(&provider.issuers);
    validation.set_audience(&[&provider.audience]);
    validation.leeway = LEEWAY.as_secs();
    validation.validate_nbf = true;
    validation
}
