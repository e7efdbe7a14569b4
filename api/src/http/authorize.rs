//! Extractors that authenticate the caller and refuse operations that are not granted. A handler that takes [`Authorized`] cannot
//! forget the check.

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

/// Answers 401 without a valid token, and 503 if tokens cannot be checked now.
impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        Ok(app.auth.caller(&parts.headers).await?)
    }
}

/// A type that stands for an operation, so that a handler's signature names the operation that it needs.
pub trait Op {
    /// The operation that must be granted.
    const OPERATION: Operation;
}

/// Starts executions.
pub struct Start;
/// Reads executions, their events and their lines.
pub struct Read;
/// Cancels executions.
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

/// A caller who may do the operation in the scope of the path, and is within the rate limit.
pub struct Authorized<O> {
    /// The caller.
    pub caller: Caller,
    /// The scope in the path.
    pub scope: Scope,
    /// The caller as the limits count it.
    pub caller_id: CallerId,
    operation: PhantomData<O>,
}

impl<O: Op> FromRequestParts<Arc<App>> for Authorized<O> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let authorized = check(parts, app, O::OPERATION).await;
        // A refused request counts against its address, so that tokens and scopes cannot be guessed without limit.
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
    /// Answers 403 if the caller may not do this operation on the process. A query such as `on_running=replace` can need another
    /// operation than the route.
    pub fn require(
        &self,
        operation: Operation,
        process: Option<&ProcessName>,
    ) -> Result<(), Problem> {
        let permissions = &self.caller.permissions;
        let verdict = permissions.check_process(&self.scope, operation, process);
        verdict.map_err(|denied| refused(&self.caller, denied, operation))
    }

    /// Answers 403 if the caller may not do the operation of the route on the process.
    pub fn require_process(&self, process: Option<&ProcessName>) -> Result<(), Problem> {
        self.require(O::OPERATION, process)
    }

    /// Whether the execution is of the scope, and of a process on which the caller may do the operation of the route. Any other
    /// execution is answered like one that never existed.
    pub fn covers(&self, execution: &Execution) -> bool {
        execution.belongs_to(&self.scope)
            && self.require_process(execution.process.as_ref()).is_ok()
    }
}

/// Authentication comes first, so that an unauthenticated caller does not even learn which scopes are valid.
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
