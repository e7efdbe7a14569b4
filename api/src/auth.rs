//! Who calls, and what they may do: headers and claims in, permissions out.

mod grants;
mod jwks;
mod jwt;
mod provider;
mod ring_provider;
pub mod scope_token;

use std::sync::Arc;
use std::time::Instant;

use axum::http::HeaderMap;
use reqwest::Client;
use serde_json::{Value, json};

pub use self::grants::{Denied, Permissions};
use self::jwt::Tokens;
use crate::config::{AuthMode, Config, Invalid};

/// Who may call.
pub enum Auth {
    /// Whoever reaches the service: anyone.
    Public(Caller),
    /// Whoever reaches the service: those whom Cloud Run's IAM let through.
    Iam(Caller),
    /// Whoever brings a token of the identity provider, as far as its claims are granted something.
    Bearer(Box<Tokens>),
}

impl Auth {
    /// The mode of the settings; there is none by default, since whoever gets it wrong opens every tenant to the internet.
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
                        "auth.mode is iam, but this is not Cloud Run: nobody checks who calls"
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

    /// What callers must bring, as OpenAPI says it; nothing if anyone may call.
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

    /// Who sent these headers.
    pub async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Error> {
        match self {
            Self::Public(caller) | Self::Iam(caller) => Ok(caller.clone()),
            Self::Bearer(tokens) => tokens.caller(headers).await,
        }
    }
}

/// Why it is not known who sent a request. The text is for the log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no token, or not one that is believed.
    #[error("{0}")]
    Unauthenticated(String),
    /// Which token is meant cannot be told.
    #[error("the header with the token came more than once")]
    SeveralTokens,
    /// The token cannot be checked now.
    #[error("the keys at auth.jwt.jwks_url: {0}")]
    KeysUnavailable(String),
}

/// Whether the text can be a subject: it is a line of the log, and may be a value in the job's environment.
pub(crate) fn is_subject(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control)
}

fn unauthenticated(why: impl Into<String>) -> Error {
    Error::Unauthenticated(why.into())
}

/// Whoever sent a request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Tells callers apart who must not share idempotency keys: issuer and subject; empty where nobody is known.
    pub identity: String,
    /// The subject that the token names and its signature proves; none where nobody is known.
    pub subject: Option<String>,
    /// The Idempotency-Key of every start with this token, if it names one.
    pub key: Option<String>,
    /// What the caller may do.
    pub permissions: Arc<Permissions>,
    /// When the caller's token ends, and with it every answer that goes on; none where there is no token.
    pub expires_at: Option<Instant>,
}

impl Caller {
    /// Nobody known, who may do everything.
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
