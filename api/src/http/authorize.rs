//! Extractors that say who calls and refuse what they may not do. A handler takes [`Authorized`], and so cannot forget to ask.

use std::marker::PhantomData;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::App;
use crate::auth::Caller;
use crate::caller_id::CallerId;
use crate::config::Operation;
use crate::http::extract;
use crate::http::problem::Problem;
use crate::scope::Scope;

/// Refused with 401 without a valid token, 503 if none can be checked.
impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        app.auth.caller(&parts.headers).await
    }
}

/// A type that stands for an operation, so that a handler's signature names what it does to the scope.
pub trait Op {
    /// What must be authorized.
    const OPERATION: Operation;
}

/// Starts executions.
pub struct Start;
/// Reads executions, their events and their lines.
pub struct Read;
/// Asks for an execution's end.
pub struct Cancel;

impl Op for Start {
    const OPERATION: Operation = Operation::Start;
}
impl Op for Read {
    const OPERATION: Operation = Operation::Read;
}
impl Op for Cancel {
    const OPERATION: Operation = Operation::Cancel;
}

/// A caller who may do the operation to the scope in the path, and has not asked too often.
pub struct Authorized<O> {
    /// Who it is.
    pub caller: Caller,
    /// Whom it is about.
    pub scope: Scope,
    /// The caller as limits count it.
    pub caller_id: CallerId,
    operation: PhantomData<O>,
}

impl<O: Op> FromRequestParts<Arc<App>> for Authorized<O> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let authorized = check(parts, app, O::OPERATION).await;
        // Whoever is refused is known by address alone, and counted too: nobody may try scopes or tokens without end.
        let identity = authorized
            .as_ref()
            .map_or("", |(caller, _)| &caller.identity);
        let caller_id = app.limits.request(parts, identity)?;
        let (caller, scope) = authorized?;
        Ok(Self {
            caller,
            scope,
            caller_id,
            operation: PhantomData,
        })
    }
}

impl<O> Authorized<O> {
    /// Refuses with 403 what the caller may not do to the scope: a request can name, in its query, a second operation.
    pub fn require(&self, operation: Operation) -> Result<(), Problem> {
        require(&self.caller, &self.scope, operation)
    }
}

/// Who it is comes first: a stranger learns nothing of scopes, not even what they look like.
async fn check(
    parts: &mut Parts,
    app: &Arc<App>,
    operation: Operation,
) -> Result<(Caller, Scope), Problem> {
    let caller = Caller::from_request_parts(parts, app).await?;
    let scope = extract::scope(parts).await?;
    require(&caller, &scope, operation)?;
    Ok((caller, scope))
}

fn require(caller: &Caller, scope: &Scope, operation: Operation) -> Result<(), Problem> {
    let verdict = caller.permissions.check(scope, operation);
    verdict.map_err(|kind| {
        let identity = &caller.identity;
        Problem::from(kind).because(format!("{identity} has no grant for {operation:?}"))
    })
}
