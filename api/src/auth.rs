//! Authentication and authorization: it turns headers and claims into a caller with permissions.

mod grants;
mod jwks;
mod jwt;
mod provider;
mod ring_provider;
pub mod scope_token;
mod verified_signatures;

use std::sync::Arc;
use std::time::Instant;

use axum::http::HeaderMap;
use reqwest::Client;
use serde_json::{Value, json};

pub use self::grants::{Denied, Permissions};
use self::jwt::Tokens;
use crate::config::{AuthMode, Config, Invalid};

/// The authentication mode, which decides who may call.
pub enum Auth {
    /// Anyone who reaches the service.
    Public(Caller),
    /// Anyone who reaches the service, because Cloud Run's IAM has checked them.
    Iam(Caller),
    /// Callers with a valid token, as far as its claims are granted something.
    Bearer(Box<Tokens>),
}

impl Auth {
    /// The mode of the settings. There is no default, since a wrong mode can open every scope to the internet.
    pub fn new(config: &Config, http: Client) -> Result<Self, Invalid> {
        let on_cloud_run = config.platform.cloud_run;
        match config.auth.mode {
            Some(AuthMode::Public) => {
                if on_cloud_run {
                    tracing::warn!(
                        "auth.mode is public: anyone who reaches the service may start the job"
                    );
                }
                Ok(Self::Public(Caller::anyone()))
            }
            Some(AuthMode::Iam) => {
                if !on_cloud_run {
                    tracing::warn!(
                        "auth.mode is iam, but this is not Cloud Run, so callers are not checked"
                    );
                }
                Ok(Self::Iam(Caller::anyone()))
            }
            Some(AuthMode::Jwt) => Ok(Self::Bearer(Box::new(Tokens::new(config, http)?))),
            None => Err(Invalid::new(
                "auth.mode",
                format!("must be chosen: {}", AuthMode::CHOICES),
            )),
        }
    }

    /// The callers' credentials, as an OpenAPI security scheme. None if anyone may call.
    pub fn security_scheme(&self) -> Option<Value> {
        let google = "A Google ID token of a member of roles/run.invoker; its audience is the URL of this service.";
        match self {
            Self::Public(_) => None,
            Self::Iam(_) => Some(
                json!({ "type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": google }),
            ),
            Self::Bearer(tokens) => Some(tokens.security_scheme()),
        }
    }

    /// The caller who sent these headers.
    pub async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Error> {
        match self {
            Self::Public(caller) | Self::Iam(caller) => Ok(caller.clone()),
            Self::Bearer(tokens) => tokens.caller(headers).await,
        }
    }
}

/// Why a caller could not be authenticated. The text is for the log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no token, or it is not valid.
    #[error("{0}")]
    Unauthenticated(String),
    /// There are several tokens.
    #[error("the header with the token came more than once")]
    SeveralTokens,
    /// The token cannot be checked now.
    #[error("the keys at auth.jwt.jwks_url: {0}")]
    KeysUnavailable(String),
}

/// Whether the text can be a subject. It must fit into a log line and into a value of the job's environment.
pub(crate) fn is_subject(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control)
}

fn unauthenticated(why: impl Into<String>) -> Error {
    Error::Unauthenticated(why.into())
}

/// The sender of a request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Issuer and subject. Callers with different identities do not share idempotency keys. Empty without authentication.
    pub identity: String,
    /// The subject of the verified token. None without authentication.
    pub subject: Option<String>,
    /// The Idempotency-Key of every start with this token, if it names one.
    pub key: Option<String>,
    /// The operations that the caller may do.
    pub permissions: Arc<Permissions>,
    /// When the caller's token expires. Streams end then. None without a token.
    pub expires_at: Option<Instant>,
}

impl Caller {
    /// An unauthenticated caller, who may do everything.
    fn anyone() -> Self {
        Self {
            identity: String::new(),
            subject: None,
            key: None,
            permissions: Arc::new(Permissions::everything()),
            expires_at: None,
        }
    }
}
