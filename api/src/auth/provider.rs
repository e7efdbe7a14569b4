//! Whose tokens are believed: an identity provider known by name, or described by hand.

use axum::http::HeaderName;
use axum::http::header::AUTHORIZATION;
use jsonwebtoken::Algorithm;

use crate::config::{Invalid, Jwt};

/// What the tokens of a provider are like.
pub struct Provider {
    /// The names it goes by in `iss`; never empty.
    pub issuers: Vec<String>,
    /// What `aud` must have.
    pub audience: String,
    /// Where its keys are.
    pub jwks_url: String,
    /// The only algorithm it signs with.
    pub algorithm: Algorithm,
    /// Where requests have the token.
    pub header: HeaderName,
    /// Whether its `email` without `email_verified` is a proven one.
    pub trusts_unverified_email: bool,
}

impl Provider {
    /// The preset, changed by whatever else is set.
    pub fn new(settings: &Jwt) -> Result<Self, Invalid> {
        let mut provider = preset(&settings.preset, &settings.audience)?;
        if !settings.issuer.is_empty() {
            provider.issuers = vec![settings.issuer.clone()];
        }
        if !settings.jwks_url.is_empty() {
            provider.jwks_url.clone_from(&settings.jwks_url);
        }
        if !settings.algorithm.is_empty() {
            provider.algorithm = algorithm(&settings.algorithm)?;
        }
        if !settings.header.is_empty() {
            provider.header = HeaderName::try_from(&settings.header)
                .map_err(|_| Invalid::new("auth.jwt.header", "must be the name of a header"))?;
        }
        provider.complete()
    }

    fn complete(self) -> Result<Self, Invalid> {
        let missing = |setting, what| {
            let cure =
                format!("must be set to {what}, or auth.jwt.preset to google, firebase or iap");
            Err(Invalid::new(setting, cure))
        };
        if self.issuers.is_empty() {
            return missing("auth.jwt.issuer", "the iss of the tokens");
        }
        if self.jwks_url.is_empty() {
            return missing("auth.jwt.jwks_url", "the URL of the issuer's keys");
        }
        if self.audience.is_empty() {
            let cure = "must be set to the aud of tokens made for this service (firebase: the project's id)";
            return Err(Invalid::new("auth.jwt.audience", cure));
        }
        Ok(self)
    }

    /// One name, also for a provider that goes by two.
    pub fn name(&self) -> &str {
        self.issuers.first().map_or("", String::as_str)
    }
}

/// The providers known by name. Sources: Google's "Verify the Google ID token on your server side", Firebase's "Verify
/// ID tokens", IAP's "Securing your app with signed headers".
fn preset(name: &str, audience: &str) -> Result<Provider, Invalid> {
    let by_hand = Provider {
        issuers: Vec::new(),
        audience: audience.to_owned(),
        jwks_url: String::new(),
        algorithm: Algorithm::RS256, // what OpenID Connect takes for granted
        header: AUTHORIZATION,
        trusts_unverified_email: false,
    };
    let (issuers, jwks_url) = match name {
        "" => return Ok(by_hand),
        "google" => (
            vec![
                "https://accounts.google.com".to_owned(),
                "accounts.google.com".to_owned(),
            ],
            "https://www.googleapis.com/oauth2/v3/certs",
        ),
        "firebase" => (
            vec![format!("https://securetoken.google.com/{audience}")],
            "https://www.googleapis.com/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com",
        ),
        "iap" => (
            vec!["https://cloud.google.com/iap".to_owned()],
            "https://www.gstatic.com/iap/verify/public_key-jwk",
        ),
        other => {
            let cure = format!(
                "`{other}` is unknown; choose google, firebase or iap, or set issuer and jwks_url"
            );
            return Err(Invalid::new("auth.jwt.preset", cure));
        }
    };
    let known = Provider {
        issuers,
        jwks_url: jwks_url.to_owned(),
        ..by_hand
    };
    Ok(match name {
        "iap" => Provider {
            algorithm: Algorithm::ES256,
            header: HeaderName::from_static("x-goog-iap-jwt-assertion"),
            trusts_unverified_email: true, // its tokens have no email_verified: IAP itself let the account of that address in
            ..known
        },
        _ => known,
    })
}

fn algorithm(name: &str) -> Result<Algorithm, Invalid> {
    match name {
        "RS256" => Ok(Algorithm::RS256),
        "ES256" => Ok(Algorithm::ES256),
        _ => Err(Invalid::new("auth.jwt.algorithm", "must be RS256 or ES256")),
    }
}
