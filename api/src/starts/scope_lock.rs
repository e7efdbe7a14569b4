//! One at a time per scope, for starts that look at what else the scope is running.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

use crate::scope::Scope;

/// Whose turn it is, by scope.
#[derive(Default)]
pub struct Turns(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits for the scope's turn; it ends when the guard is dropped.
    pub async fn take(&self, scope: &Scope) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1); // nobody has it, nobody waits
            Arc::clone(turns.entry(scope.to_string()).or_default())
        };
        turn.lock_owned().await
    }
}
