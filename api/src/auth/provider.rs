//! The trusted identity provider: a preset, or one described by the settings.

use axum::http::HeaderName;
use axum::http::header::AUTHORIZATION;
use jsonwebtoken::Algorithm;

use crate::config::{self, Invalid, Jwt, Preset};

/// The properties of a provider's tokens.
pub struct Provider {
    /// The values of `iss` that it uses; never empty.
    pub issuers: Vec<String>,
    /// The value that `aud` must be or contain.
    pub audience: String,
    /// The URL of its keys.
    pub jwks_url: String,
    /// The only accepted signature algorithm.
    pub algorithm: Algorithm,
    /// The request header with the token.
    pub header: HeaderName,
    /// Whether its `email` is verified even without `email_verified`.
    pub trusts_unverified_email: bool,
}

impl Provider {
    /// The preset or the provider that the settings describe. Settings override the preset.
    pub fn new(settings: &Jwt) -> Result<Self, Invalid> {
        let mut provider = match settings.preset {
            Some(preset) => known(preset, audience(settings)?),
            None => by_hand(settings)?,
        };
        if let Some(issuer) = &settings.issuer {
            provider.issuers = vec![issuer.clone()];
        }
        if let Some(url) = &settings.jwks_url {
            provider.jwks_url.clone_from(url);
        }
        if let Some(algorithm) = settings.algorithm {
            provider.algorithm = algorithm.into();
        }
        if let Some(header) = &settings.header {
            provider.header = HeaderName::try_from(header)
                .map_err(|_| Invalid::new("auth.jwt.header", "must be the name of a header"))?;
        }
        Ok(provider)
    }

    /// The provider's name. A provider with two values of `iss` has one name.
    pub fn name(&self) -> &str {
        self.issuers.first().map_or("", String::as_str)
    }
}

impl From<config::Algorithm> for Algorithm {
    fn from(algorithm: config::Algorithm) -> Self {
        match algorithm {
            config::Algorithm::Rs256 => Self::RS256,
            config::Algorithm::Es256 => Self::ES256,
        }
    }
}

fn by_hand(settings: &Jwt) -> Result<Provider, Invalid> {
    let set = |value: &Option<String>, setting, what| {
        value.clone().ok_or_else(|| {
            let cure =
                format!("must be set to {what}, or auth.jwt.preset to google, firebase or iap");
            Invalid::new(setting, cure)
        })
    };
    let issuer = set(&settings.issuer, "auth.jwt.issuer", "the iss of the tokens")?;
    let keys = "the URL of the issuer's keys";
    Ok(Provider {
        issuers: vec![issuer],
        jwks_url: set(&settings.jwks_url, "auth.jwt.jwks_url", keys)?,
        audience: audience(settings)?,
        algorithm: Algorithm::RS256, // OpenID Connect's default
        header: AUTHORIZATION,
        trusts_unverified_email: false,
    })
}

fn audience(settings: &Jwt) -> Result<String, Invalid> {
    settings.audience.clone().ok_or_else(|| {
        let cure =
            "must be set to the aud of tokens made for this service (firebase: the project's id)";
        Invalid::new("auth.jwt.audience", cure)
    })
}

/// The presets. Sources: Google's "Verify the Google ID token on your server side", Firebase's "Verify
/// ID tokens", IAP's "Securing your app with signed headers".
fn known(preset: Preset, audience: String) -> Provider {
    let (issuers, jwks_url) = match preset {
        Preset::Google => (
            vec![
                "https://accounts.google.com".to_owned(),
                "accounts.google.com".to_owned(),
            ],
            "https://www.googleapis.com/oauth2/v3/certs",
        ),
        Preset::Firebase => (
            vec![format!("https://securetoken.google.com/{audience}")],
            "https://www.googleapis.com/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com",
        ),
        Preset::Iap => (
            vec!["https://cloud.google.com/iap".to_owned()],
            "https://www.gstatic.com/iap/verify/public_key-jwk",
        ),
    };
    let (algorithm, header) = match preset {
        Preset::Google | Preset::Firebase => (Algorithm::RS256, AUTHORIZATION),
        Preset::Iap => (
            Algorithm::ES256,
            HeaderName::from_static("x-goog-iap-jwt-assertion"),
        ),
    };
    Provider {
        issuers,
        audience,
        jwks_url: jwks_url.to_owned(),
        algorithm,
        header,
        // IAP's tokens have no email_verified: IAP itself let the account of that address in.
        trusts_unverified_email: preset == Preset::Iap,
    }
}
