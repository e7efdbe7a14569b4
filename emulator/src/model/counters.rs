//! Counts of calls and executions.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Serialize, Serializer};
use tokio::time::Instant;

use super::executions::Execution;
use super::faults::Operation;

/// The most arrivals that are kept one by one. The counts include the others too.
const MOST_ARRIVALS: usize = 100_000;

/// The calls and executions since the emulator started.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    /// Calls by operation, including those that were refused or met a fault.
    pub calls: BTreeMap<Operation, u64>,
    /// TCP connections accepted.
    pub connections: u64,
    /// Executions created.
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
    /// The operation.
    pub operation: Operation,
    /// The time since the emulator started; in JSON `atMs`, in milliseconds.
    #[serde(rename = "atMs", serialize_with = "milliseconds")]
    pub at: Duration,
    /// The `INVOCATION_ID` of a run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invocation: Option<String>,
}

fn milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u128(duration.as_millis())
}

impl Counters {
    /// The number of calls of `operation`; `Any` stands for all calls.
    #[must_use]
    pub fn calls(&self, operation: Operation) -> u64 {
        match operation {
            Operation::Any => self.calls.values().sum(),
            _ => self.calls.get(&operation).copied().unwrap_or_default(),
        }
    }
}

/// The counters that calls and executions increment.
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
