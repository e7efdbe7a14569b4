//! What has been called, and what that started.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Serialize, Serializer};
use tokio::time::Instant;

use super::executions::Execution;
use super::faults::Operation;

/// Arrivals remembered one by one; the counts go on beyond.
const MOST_ARRIVALS: usize = 100_000;

/// What has been called since the emulator started.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    /// Calls by operation, those that a fault or a refusal met included.
    pub calls: BTreeMap<Operation, u64>,
    /// TCP connections accepted.
    pub connections: u64,
    /// Executions really created.
    pub runs: u64,
    /// Executions created, by the `INVOCATION_ID` of their environment.
    pub runs_by_invocation: BTreeMap<String, u64>,
    /// Executions created, by the `SCOPE` of their environment.
    pub runs_by_scope: BTreeMap<String, u64>,
    /// The last 100,000 calls in order.
    pub arrivals: VecDeque<Arrival>,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Arrival {
    /// What was asked.
    pub operation: Operation,
    /// When, since the emulator started; in JSON `atMs`, milliseconds.
    #[serde(rename = "atMs", serialize_with = "milliseconds")]
    pub at: Duration,
    /// A run's `INVOCATION_ID`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invocation: Option<String>,
}

fn milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u128(duration.as_millis())
}

impl Counters {
    /// How often `operation` was called; `Any` for all calls together.
    #[must_use]
    pub fn calls(&self, operation: Operation) -> u64 {
        match operation {
            Operation::Any => self.calls.values().sum(),
            _ => self.calls.get(&operation).copied().unwrap_or_default(),
        }
    }
}

/// The counters as they grow.
#[derive(Debug)]
pub(crate) struct CounterBook {
    since: Instant,
    counters: Mutex<Counters>,
}

impl Default for CounterBook {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            counters: Mutex::default(),
        }
    }
}

impl CounterBook {
    fn counters(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn snapshot(&self) -> Counters {
        self.counters().clone()
    }

    pub(crate) fn connected(&self) {
        self.counters().connections += 1;
    }

    pub(crate) fn arrived(&self, operation: Operation, invocation: Option<String>) {
        let mut counters = self.counters();
        *counters.calls.entry(operation).or_default() += 1;
        if counters.arrivals.len() == MOST_ARRIVALS {
            counters.arrivals.pop_front();
        }
        counters.arrivals.push_back(Arrival {
            operation,
            at: self.since.elapsed(),
            invocation,
        });
    }

    pub(crate) fn started(&self, execution: &Execution) {
        let env = execution.env();
        let mut counters = self.counters();
        counters.runs += 1;
        if let Some(invocation) = env.get("INVOCATION_ID") {
            *counters
                .runs_by_invocation
                .entry(invocation.clone())
                .or_default() += 1;
        }
        if let Some(scope) = env.get("SCOPE") {
            *counters.runs_by_scope.entry(scope.clone()).or_default() += 1;
        }
    }
}
