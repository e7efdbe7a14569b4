//! The exclusive right to start in a scope: an in-process lock and, with a shared store, a lease.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;
use tokio::time::{sleep, timeout_at};

use super::error::{Busy, Error};
use super::lease::{Lease, Leases};
use super::{ASK_AGAIN, Start};
use crate::scope::{ProcessName, Scope};

/// How much of its deadline a start reserves for the send while it waits for others.
pub const TIME_TO_SEND: Duration = Duration::from_secs(1);

/// The locks that this instance holds, by scope and by the process that is started.
#[derive(Default)]
pub struct ScopeLocks(Mutex<HashMap<LockName, Arc<tokio::sync::Mutex<()>>>>);

type LockName = (Scope, Option<ProcessName>);

/// The right to start in a scope, held until this is dropped and its lease released.
pub struct ScopeLock {
    _local: OwnedMutexGuard<()>,
    /// None if this is the only instance.
    pub lease: Option<Lease>,
}

impl ScopeLocks {
    /// Waits until no other start of the scope holds the right, here or, with `leases`, in another instance.
    pub async fn acquire(
        &self,
        start: &Start,
        leases: Option<&Leases>,
        deadline: Instant,
    ) -> Result<ScopeLock, Error> {
        let busy = || Error::ScopeBusy(Busy::Starting);
        let until = deadline.checked_sub(TIME_TO_SEND).unwrap_or(deadline);
        let local = timeout_at(until.into(), self.lock(start)).await;
        let local = local.map_err(|_| busy())?;
        let Some(leases) = leases else {
            return Ok(ScopeLock {
                _local: local,
                lease: None,
            });
        };
        // A call is never abandoned halfway: it could take the lease without this process knowing it.
        loop {
            if let Some(lease) = leases.acquire_scope(start).await? {
                return Ok(ScopeLock {
                    _local: local,
                    lease: Some(lease),
                });
            }
            if Instant::now() + ASK_AGAIN > until {
                return Err(busy());
            }
            sleep(ASK_AGAIN).await;
        }
    }

    async fn lock(&self, start: &Start) -> OwnedMutexGuard<()> {
        let lock = {
            let name = (start.scope.clone(), start.process.name.clone());
            let mut locks = self.0.lock();
            locks.retain(|_, lock| Arc::strong_count(lock) > 1); // keep those that are held or waited for
            Arc::clone(locks.entry(name).or_default())
        };
        lock.lock_owned().await
    }
}
