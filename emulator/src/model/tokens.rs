//! The access tokens that the metadata server issues.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::random;

/// Google's server returns the same token until its remaining lifetime is less than this.
const RENEWED_BEFORE_END: Duration = Duration::from_secs(300);

/// The access tokens issued so far.
#[derive(Debug)]
pub(crate) struct Tokens {
    lifetime: Duration,
    /// Tokens with the times at which they expire, oldest first. The last one is the current token.
    alive: Mutex<Vec<(String, Instant)>>,
}

impl Tokens {
    pub(crate) fn new(lifetime: Duration) -> Self {
        Self {
            lifetime,
            alive: Mutex::default(),
        }
    }

    /// The tokens that have not expired.
    fn alive(&self) -> MutexGuard<'_, Vec<(String, Instant)>> {
        let mut alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        alive.retain(|(_, end)| *end > Instant::now());
        alive
    }

    /// The current token and its remaining lifetime, or a new token if little time remains. A token that lives less
    /// than ten minutes is renewed at half its lifetime, so that tests can observe a renewal.
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
