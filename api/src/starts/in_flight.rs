//! Requests that come with the same key at the same time: the first one leads, the others follow and share its outcome.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;
use tokio::time::timeout;

use super::error::Error;
use super::invocation_id::{InvocationId, KeyDigest};
use super::{Outcome, Started};

/// How long a follower waits for the leader.
pub const FOLLOW_TIMEOUT: Duration = Duration::from_secs(2);

/// Starts with a key that are in flight in this process.
#[derive(Default)]
pub struct InFlight(Mutex<HashMap<KeyDigest, Leading>>);

/// The outcome of a start, once there is one.
type OutcomeRx = watch::Receiver<Option<Outcome>>;

struct Leading {
    id: InvocationId,
    outcome: OutcomeRx,
}

/// The role of a request among those with the same key.
pub enum Role {
    /// It has no key, so it cannot be repeated.
    Unkeyed,
    /// It makes the start.
    Leader(LeaderGuard),
    /// It waits for the leader.
    Follower(OutcomeRx),
}

/// Removes the start from those in flight when it is dropped.
pub struct LeaderGuard {
    in_flight: Arc<InFlight>,
    key: KeyDigest,
    outcome: watch::Sender<Option<Outcome>>,
}

impl InFlight {
    /// Follows the start that is in flight for the same key, or leads a new one.
    pub fn join_or_lead(self: &Arc<Self>, id: InvocationId) -> Result<Role, Error> {
        if !id.is_keyed() {
            return Ok(Role::Unkeyed);
        }
        let mut starts = self.starts();
        if let Some(leading) = starts.get(&id.key()) {
            leading.id.ensure_same_request(&id)?;
            return Ok(Role::Follower(leading.outcome.clone()));
        }
        let (sender, outcome) = watch::channel(None);
        starts.insert(id.key(), Leading { id, outcome });
        Ok(Role::Leader(LeaderGuard {
            in_flight: Arc::clone(self),
            key: id.key(),
            outcome: sender,
        }))
    }

    fn starts(&self) -> MutexGuard<'_, HashMap<KeyDigest, Leading>> {
        self.0.lock()
    }
}

/// Waits for the leader's outcome, for a short while.
pub async fn follow(mut outcome: OutcomeRx) -> Outcome {
    let published = timeout(FOLLOW_TIMEOUT, outcome.wait_for(Option::is_some)).await;
    let published = match published.map_err(|_| Error::InProgress)? {
        Ok(outcome) => outcome.clone(),
        Err(_) => None,
    };
    let panicked =
        || Error::Internal("the start of the request with the same key panicked".to_owned());
    let started = published.unwrap_or_else(|| Err(panicked()))?;
    Ok(Started {
        replayed: true,
        ..started
    })
}

impl LeaderGuard {
    /// Hands the outcome to the followers.
    pub fn publish(self, outcome: &Outcome) {
        let sender = self.outcome.clone();
        drop(self);
        if sender.receiver_count() > 0 {
            sender.send_replace(Some(outcome.clone()));
        }
    }
}

impl Drop for LeaderGuard {
    fn drop(&mut self) {
        self.in_flight.starts().remove(&self.key);
    }
}
