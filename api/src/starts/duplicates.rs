//! Cancels duplicates: of two unfinished executions with the same `INVOCATION_ID`, the younger one.
//!
//! One start can lead to two executions if the second send could not know of the first: with the memory store in two processes,
//! or if Cloud Run answered with an error, created the execution nevertheless, and listed it late.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::time::sleep;

use super::execution_index::{Duplicate, Horizon, IndexedStart};
use super::submit::Submitted;
use super::{Inner, Start, warn};
use crate::execution::Execution;
use crate::gcp::client;
use crate::random;

/// A start that took longer than this may have been overtaken by another process with the same key.
const SLOW: Duration = Duration::from_secs(1);
/// How often the list is read after a start that may have a duplicate, and the jitter added to that.
const LOOK_SPREAD: Duration = Duration::from_secs(4);
const LOOK_INTERVAL: Duration = Duration::from_secs(8);

impl Inner {
    /// Whether an execution that was just started may have a duplicate that the list does not show, or did not show.
    pub(super) fn may_be_duplicate(
        &self,
        start: &Start,
        submitted: &Submitted,
        began: Instant,
    ) -> bool {
        let alone = self.leases.is_some() || !start.id.is_keyed();
        submitted.was_resent || !alone && (self.is_young() || began.elapsed() >= SLOW)
    }

    /// The execution to answer with: if the list shows an older one of the same start by now, this one is cancelled. The list
    /// is read again later, too.
    pub(super) async fn oldest(
        &self,
        start: &Start,
        submitted: Submitted,
        began: Instant,
        deadline: Instant,
    ) -> Arc<Execution> {
        self.look_later();
        if submitted.was_resent || began.elapsed() >= SLOW {
            let since = Horizon::Since(Timestamp::now() - self.index.listing_lag());
            if self.read(since, deadline).await.is_ok()
                && let Some(older) = self.index.find(start)
                && older.name != submitted.execution.name
                && let Ok(Some(older)) = self.cloud_run.get(&older.name).await
            {
                return older.into();
            }
        }
        submitted.execution
    }

    /// Whether another process, such as the one that this one replaces, may have made the same start unknown to this one.
    pub(super) fn may_have_duplicate(&self, known: &IndexedStart) -> bool {
        let lag = self.index.listing_lag();
        self.leases.is_none() && self.is_young() && known.created_at > Timestamp::now() - lag
    }

    /// Whether executions that were started before this process may still be missing from the list.
    fn is_young(&self) -> bool {
        let lag = self.index.listing_lag().unsigned_abs();
        self.since.elapsed() < lag
    }

    /// Cancels the younger one of each pair of unfinished executions that was seen.
    pub(super) async fn cancel_duplicates(&self) {
        for duplicate in self.index.take_duplicates() {
            if let Err(error) = self.cancel_duplicate(&duplicate).await {
                let Duplicate { id, older, younger } = duplicate;
                tracing::error!(
                    invocationId = %id, kept = older, duplicate = younger, cause = %error,
                    "one start has two unfinished executions, and the younger one could not be cancelled"
                );
            }
        }
    }

    async fn cancel_duplicate(&self, duplicate: &Duplicate) -> Result<(), client::Error> {
        let Duplicate { id, older, younger } = duplicate;
        // Their states may have changed since: an execution that has ended needs no cancelling.
        for name in [older, younger] {
            let execution = self.cloud_run.get(name).await?;
            if execution.is_none_or(|execution| execution.state.is_finished()) {
                self.index.set_finished(name);
                return Ok(());
            }
        }
        self.cloud_run.cancel(younger).await?;
        self.index.set_cancelled(younger.clone());
        tracing::error!(
            invocationId = %id, kept = older, cancelled = younger,
            "one start had two unfinished executions; the younger one was cancelled"
        );
        if let Some(leases) = &self.leases {
            warn(leases.redirect(id.key(), younger, older).await);
        }
        Ok(())
    }

    /// Reads the list from time to time until it shows everything that was created by now. On Cloud Run this task only runs
    /// while the instance has CPU, which is while it answers requests.
    pub(super) fn look_later(&self) {
        let lag = self.index.listing_lag().unsigned_abs();
        let mut until = self.looking_until.lock();
        let is_looking = until.replace(Instant::now() + lag).is_some();
        if !is_looking {
            tokio::spawn(look(self.this.clone()));
        }
    }

    /// None once it is over.
    fn next_look(&self) -> Option<Horizon> {
        let mut until = self.looking_until.lock();
        *until = until.filter(|until| Instant::now() < *until);
        until.map(|_| Horizon::Since(Timestamp::now() - self.index.listing_lag()))
    }
}

async fn look(inner: Weak<Inner>) {
    loop {
        sleep(LOOK_INTERVAL + LOOK_SPREAD.mul_f64(random::fraction())).await;
        let Some(inner) = inner.upgrade() else { return };
        let horizon = inner.next_look();
        let last = Horizon::Since(Timestamp::now() - inner.index.listing_lag());
        let read = inner.index.read(horizon.unwrap_or(last)).await;
        if let Err(error) = read {
            tracing::warn!(cause = %error, "the list could not be read to look for duplicates");
        }
        inner.cancel_duplicates().await;
        if horizon.is_none() {
            return;
        }
    }
}
