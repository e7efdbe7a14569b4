//! Extractors that say who calls and refuse what they may not do. A handler takes [`Authorized`], and so cannot forget to ask.

use std::marker::PhantomData;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::App;
use crate::auth::{Caller, Denied};
use crate::caller_id::CallerId;
use crate::config::Operation;
use crate::execution::Execution;
use crate::http::extract;
use crate::http::problem::Problem;
use crate::scope::{ProcessName, Scope};

/// Refused with 401 without a valid token, 503 if none can be checked.
impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        Ok(app.auth.caller(&parts.headers).await?)
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

impl<O: Op> Authorized<O> {
    /// Refuses with 403 another operation on the process than the one of the route: a request can name one in its query.
    pub fn require(
        &self,
        operation: Operation,
        process: Option<&ProcessName>,
    ) -> Result<(), Problem> {
        let permissions = &self.caller.permissions;
        let verdict = permissions.check_process(&self.scope, operation, process);
        verdict.map_err(|denied| refused(&self.caller, denied, operation))
    }

    /// Refuses with 403 a process that the caller may not do the operation of the route to.
    pub fn require_process(&self, process: Option<&ProcessName>) -> Result<(), Problem> {
        self.require(O::OPERATION, process)
    }

    /// Whether the execution is of the scope, and of a process that the caller may do the operation of the route to. Any
    /// other is as unknown as one that never was.
    pub fn covers(&self, execution: &Execution) -> bool {
        execution.belongs_to(&self.scope)
            && self.require_process(execution.process.as_ref()).is_ok()
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
    let verdict = caller.permissions.check(&scope, operation);
    verdict.map_err(|denied| refused(&caller, denied, operation))?;
    Ok((caller, scope))
}

fn refused(caller: &Caller, denied: Denied, operation: Operation) -> Problem {
    let identity = &caller.identity;
    Problem::from(denied).because(format!("{identity}: {operation:?}: {denied}"))
}
