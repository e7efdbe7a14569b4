//! Who calls, and what they may do. A handler takes [`Granted`], and so cannot forget to ask.

use std::marker::PhantomData;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::App;
use crate::config::Invalid;
use crate::extract;
use crate::problem::Problem;
use crate::scope::Scope;

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Anyone.
    Public,
}

impl Mode {
    /// The mode of the settings; there is none by default, since whoever gets it wrong opens every tenant to the internet.
    pub fn new(setting: &str) -> Result<Self, Invalid> {
        match setting {
            "public" => Ok(Self::Public),
            "" => Err(Invalid::new(
                "auth.mode",
                "must be chosen: public (anyone who reaches the service may start the job)",
            )),
            other => Err(Invalid::new(
                "auth.mode",
                format!("`{other}` is unknown; choose public"),
            )),
        }
    }
}

/// Whoever sent a request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Tells callers apart who must not share idempotency keys; the same for everyone where nobody is known.
    pub identity: String,
}

/// What a request does to a scope.
pub trait Operation {}

/// Starts executions.
pub struct Start;
/// Reads executions, their events and their lines.
pub struct Read;
/// Asks for an execution's end.
pub struct Cancel;

impl Operation for Start {}
impl Operation for Read {}
impl Operation for Cancel {}

/// A caller who may do the operation to the scope in the path.
pub struct Granted<O> {
    /// Who it is.
    pub caller: Caller,
    /// Whom it is about.
    pub scope: Scope,
    operation: PhantomData<O>,
}

impl<O: Operation> FromRequestParts<Arc<App>> for Granted<O> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Problem> {
        let caller = Caller {
            identity: String::new(),
        };
        Ok(Self {
            caller,
            scope: extract::scope(parts).await?,
            operation: PhantomData,
        })
    }
}
