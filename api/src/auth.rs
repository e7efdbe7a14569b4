//! Who calls, and what they may do. A handler takes [`Granted`], and so cannot forget to ask.

mod grants;
mod keys;
mod provider;
mod ring_provider;
mod tokens;
mod verified;

use std::marker::PhantomData;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use reqwest::Client;
use serde_json::{Value, json};

pub use self::grants::Operation;
use self::grants::Permissions;
use self::tokens::Tokens;
use crate::App;
use crate::config::{Config, Invalid};
use crate::extract;
use crate::problem::Problem;
use crate::scope::Scope;

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
        match config.auth.mode.as_str() {
            "public" => {
                if on_cloud_run {
                    tracing::warn!(
                        "auth.mode is public: anyone who reaches the service may start the job"
                    );
                }
                Ok(Self::Public(Caller::anyone()))
            }
            "iam" => {
                if !on_cloud_run {
                    tracing::warn!(
                        "auth.mode is iam, but this is not Cloud Run: nobody checks who calls"
                    );
                }
                Ok(Self::Iam(Caller::anyone()))
            }
            "jwt" => Ok(Self::Bearer(Box::new(Tokens::new(&config.auth, http)?))),
            mode => Err(unknown_mode(mode)),
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

    async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        match self {
            Self::Public(caller) | Self::Iam(caller) => Ok(caller.clone()),
            Self::Bearer(tokens) => tokens.caller(headers).await,
        }
    }
}

fn unknown_mode(mode: &str) -> Invalid {
    let problem = match mode {
        "" => "must be chosen".to_owned(),
        other => format!("`{other}` is unknown; choose"),
    };
    let modes = "public (anyone who reaches the service may start the job), \
                 iam (whoever Cloud Run's IAM lets through), jwt (whoever brings a token that auth.grants allows)";
    Invalid::new("auth.mode", format!("{problem}: {modes}"))
}

/// Whoever sent a request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Tells callers apart who must not share idempotency keys: issuer and subject; empty where nobody is known.
    pub identity: String,
    permissions: Arc<Permissions>,
}

impl Caller {
    /// Nobody known, who may do everything.
    fn anyone() -> Self {
        Self {
            identity: String::new(),
            permissions: Arc::new(Permissions::everything()),
        }
    }
}

/// Refused with 401 without a valid token, 503 if none can be checked.
impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        app.auth.caller(&parts.headers).await
    }
}

/// A type that stands for an operation, so that a handler's signature names what it does to the scope.
pub trait Verb {
    /// What must be granted.
    const OPERATION: Operation;
}

/// Starts executions.
pub struct Start;
/// Reads executions, their events and their lines.
pub struct Read;
/// Asks for an execution's end.
pub struct Cancel;

impl Verb for Start {
    const OPERATION: Operation = Operation::Start;
}
impl Verb for Read {
    const OPERATION: Operation = Operation::Read;
}
impl Verb for Cancel {
    const OPERATION: Operation = Operation::Cancel;
}

/// A caller who may do the operation to the scope in the path, and has not asked too often.
pub struct Granted<V> {
    /// Who it is.
    pub caller: Caller,
    /// Whom it is about.
    pub scope: Scope,
    verb: PhantomData<V>,
}

impl<V: Verb> FromRequestParts<Arc<App>> for Granted<V> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let granted = Self::check(parts, app).await;
        // Whoever is refused is known by address alone, and counted too: nobody may try scopes or tokens without end.
        let identity = granted
            .as_ref()
            .map_or("", |granted| &granted.caller.identity);
        app.limits.request(parts, identity)?;
        granted
    }
}

impl<V: Verb> Granted<V> {
    /// Who it is comes first: a stranger learns nothing of scopes, not even what they look like.
    async fn check(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, app).await?;
        let scope = extract::scope(parts).await?;
        let verdict = caller.permissions.check(&scope, V::OPERATION);
        verdict.map_err(|kind| {
            let identity = &caller.identity;
            Problem::from(kind).because(format!("{identity} has no grant for this"))
        })?;
        Ok(Self {
            caller,
            scope,
            verb: PhantomData,
        })
    }
}
