//! The access tokens that the metadata server gives out.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::random;

/// Google's server gives the same token out until it has less than this left.
const RENEWED_BEFORE_END: Duration = Duration::from_secs(300);

/// The access tokens given out.
#[derive(Debug)]
pub(crate) struct Tokens {
    lifetime: Duration,
    /// Oldest first, the last is the current one.
    alive: Mutex<Vec<(String, Instant)>>,
}

impl Tokens {
    pub(crate) fn new(lifetime: Duration) -> Self {
        Self {
            lifetime,
            alive: Mutex::default(),
        }
    }

    /// Tokens that have not ended yet.
    fn alive(&self) -> MutexGuard<'_, Vec<(String, Instant)>> {
        let mut alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        alive.retain(|(_, end)| *end > Instant::now());
        alive
    }

    /// The current token and the time it has left; a new one if that is short. A lifetime below ten minutes is
    /// renewed at its half, so that tests can watch it happen.
    pub(crate) fn current(&self) -> (String, Duration) {
        let mut alive = self.alive();
        let now = Instant::now();
        let enough = RENEWED_BEFORE_END.min(self.lifetime / 2);
        if let Some((token, end)) = alive.last().filter(|(_, end)| *end - now > enough) {
            return (token.clone(), *end - now);
        }
        let token = format!(
            "ya29.emulator-{:016x}{:016x}",
            random::bits(),
            random::bits()
        );
        alive.push((token.clone(), now + self.lifetime));
        (token, self.lifetime)
    }

    pub(crate) fn accepts(&self, token: &str) -> bool {
        self.alive().iter().any(|(alive, _)| alive == token)
    }

    pub(crate) fn revoke(&self) {
        self.alive().clear();
    }
}
