//! Sends with an ambiguous outcome: each may still take effect until its window is over.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::Start;
use super::error::Error;
use super::invocation_id::KeyDigest;
use crate::scope::{ProcessName, Scope};

/// The ambiguous sends of this process.
pub struct AmbiguousSends {
    window: Duration,
    sends: Mutex<HashMap<KeyDigest, AmbiguousSend>>,
}

/// A start with unknown outcome. It may still take effect until the window after `sent_by` is over.
struct AmbiguousSend {
    scope: Scope,
    process: Option<ProcessName>,
    sent_by: Instant,
}

impl AmbiguousSends {
    /// `window` is how long after an unanswered send the execution may still appear.
    pub fn new(window: Duration) -> Self {
        Self {
            window,
            sends: Mutex::default(),
        }
    }

    /// Records a send, and removes those that can no longer take effect.
    pub fn record(&self, start: &Start, sent_by: Instant) {
        let mut sends = self.sends();
        sends.retain(|_, send| !self.is_over(send.sent_by));
        let send = AmbiguousSend {
            scope: start.scope.clone(),
            process: start.process.name.clone(),
            sent_by,
        };
        sends.insert(start.id.key(), send);
    }

    /// Removes the start: its outcome is known now.
    pub fn resolve(&self, key: KeyDigest) {
        self.sends().remove(&key);
    }

    /// The last moment at which the start can have been sent, if its outcome is unknown.
    pub fn sent_by(&self, key: KeyDigest) -> Option<Instant> {
        self.sends().get(&key).map(|send| send.sent_by)
    }

    /// Whether a send by this moment can no longer take effect.
    pub fn is_over(&self, sent_by: Instant) -> bool {
        sent_by.elapsed() >= self.window
    }

    /// Other starts of the same scope and process that may still take effect.
    pub fn in_scope_of(&self, start: &Start) -> Vec<KeyDigest> {
        let sends = self.sends();
        let others = sends.iter().filter(|(key, send)| {
            **key != start.id.key()
                && send.scope == start.scope
                && send.process == start.process.name
                && !self.is_over(send.sent_by)
        });
        others.map(|(key, _)| *key).collect()
    }

    /// The error of a start whose send by this moment may still take effect.
    pub fn error(&self, sent_by: Instant, cause: impl Into<String>) -> Error {
        Error::Ambiguous {
            retry_after: self.window.saturating_sub(sent_by.elapsed()),
            cause: cause.into(),
        }
    }

    fn sends(&self) -> MutexGuard<'_, HashMap<KeyDigest, AmbiguousSend>> {
        self.sends.lock()
    }
}
