//! Fault injection: rules that select calls and make them fail.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use crate::random;

/// The operation of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// `jobs.run`.
    Run,
    /// Get of one execution.
    Get,
    /// List of executions.
    List,
    /// Cancel of an execution.
    Cancel,
    /// An access token of the metadata server.
    Token,
    /// Every other call of the metadata server.
    Metadata,
    /// `entries.list` of Cloud Logging.
    Logs,
    /// Every other call: jobs, tasks, deletions, policies.
    Other,
    /// In a rule: every operation.
    Any,
}

/// A rule that injects a fault into the calls that it matches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The operation of the calls that it matches.
    pub operation: Operation,
    /// Matches only calls for this scope: the variable `SCOPE` in the overrides of a run, or in the environment of
    /// the execution that a get or a cancel names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Applies only to the nth matching call, counted from 1 since the rule was added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nth: Option<u64>,
    /// Applies only to the first n matching calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
    /// Applies only to this share of the matching calls, 0 to 1. The same seed picks the same calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// The seed of `probability`.
    #[serde(default)]
    pub seed: u64,
    /// When the fault happens, relative to the effect of the call.
    #[serde(default)]
    pub when: When,
    /// The fault that is injected.
    pub fault: Fault,
}

/// When a fault happens, relative to the effect of the call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// Instead of the effect: nothing is started, cancelled or read.
    #[default]
    Before,
    /// After the effect: only the answer is faulty.
    After,
    /// The faulty answer comes at once, and the effect happens this many milliseconds later.
    LateMs(u64),
}

/// A fault. Times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// Answers with this status. A 3xx with a `location` header is a redirect.
    Status {
        /// The status code, 200 to 599.
        code: u16,
        /// Further headers.
        #[serde(default)]
        headers: BTreeMap<String, String>,
        /// The body.
        #[serde(default)]
        body: FaultBody,
    },
    /// Delays the answer. With `When::Before` it delays the effect too, which happens even if the client has
    /// disconnected by then.
    Delay {
        /// The delay.
        ms: u64,
    },
    /// Resets the connection (a TCP RST) instead of answering.
    Reset,
    /// Closes the connection (a TCP FIN) before the end of the body that the headers announce.
    Truncated {
        /// The most bytes of the body that are sent.
        sent: usize,
    },
    /// Answers 200 with `application/json` and a body that is not JSON.
    Garbage,
    /// Never answers, and keeps the connection open.
    Hang,
    /// Sends the body byte by byte.
    Drip {
        /// The time from one byte to the next.
        interval_ms: u64,
    },
    /// Answers 200 with a JSON body that consists of spaces and an empty object.
    Huge {
        /// The length of the body.
        bytes: u64,
    },
    /// Answers correctly, and closes the connection some time later without announcing it.
    HangUp {
        /// The time from the answer until the connection is closed.
        ms: u64,
    },
    /// Hides what is new from lists, as Google's lists lag behind. A run succeeds, but lists do not show its
    /// execution at first. A read of logs omits lines that are too young.
    Invisible {
        /// The age from which an execution or a line is visible.
        ms: u64,
    },
}

/// The body of a `Fault::Status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultBody {
    /// Google's JSON for an error of that status.
    #[default]
    Google,
    /// An HTML page, as Google's front end sends it.
    Html,
    /// This text, with the content type `application/json`.
    Text(String),
}

impl Fault {
    /// Answers with this status and Google's JSON for it.
    #[must_use]
    pub fn status(code: u16) -> Self {
        Self::answer(code, FaultBody::Google)
    }

    /// Answers with this status and this body.
    #[must_use]
    pub fn answer(code: u16, body: FaultBody) -> Self {
        Self::Status {
            code,
            headers: BTreeMap::new(),
            body,
        }
    }
}

/// The rules in force. The first rule that applies to a call decides.
#[derive(Debug, Default)]
pub struct Faults(Mutex<Vec<(Rule, u64)>>);

impl Rule {
    /// A rule that injects `fault` into every call of `operation` before its effect. The methods below narrow it.
    #[must_use]
    pub fn new(operation: Operation, fault: Fault) -> Self {
        Self {
            operation,
            scope: None,
            nth: None,
            first: None,
            probability: None,
            seed: 0,
            when: When::Before,
            fault,
        }
    }

    /// Matches only calls for this scope.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        self.scope = Some(scope.into());
        self
    }

    /// Applies only to the nth matching call, counted from 1.
    #[must_use]
    pub fn nth(mut self, nth: u64) -> Self {
        self.nth = Some(nth);
        self
    }

    /// Applies only to the first `first` matching calls.
    #[must_use]
    pub fn first(mut self, first: u64) -> Self {
        self.first = Some(first);
        self
    }

    /// Applies only to this share of the matching calls, which `seed` picks.
    #[must_use]
    pub fn probability(mut self, probability: f64, seed: u64) -> Self {
        (self.probability, self.seed) = (Some(probability), seed);
        self
    }

    /// Lets the fault happen after the effect instead of before it.
    #[must_use]
    pub fn after(mut self) -> Self {
        self.when = When::After;
        self
    }

    /// Lets the fault happen at once, and the effect after this time.
    #[must_use]
    pub fn late(mut self, effect: Duration) -> Self {
        self.when = When::LateMs(u64::try_from(effect.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// Whether the rule applies to the `seen`th call that it matches.
    fn applies_to(&self, seen: u64) -> bool {
        self.nth.is_none_or(|nth| seen == nth)
            && self.first.is_none_or(|first| seen <= first)
            && self
                .probability
                .is_none_or(|probability| random::nth(self.seed, seen) < probability)
    }

    fn matches(&self, call: &Call) -> bool {
        let operation = self.operation == Operation::Any || self.operation == call.operation;
        operation
            && self
                .scope
                .as_ref()
                .is_none_or(|scope| call.scope.as_ref() == Some(scope))
    }

    /// Checks that the rule is valid. The error says what is wrong with it.
    pub(crate) fn check(&self) -> Result<(), String> {
        if let Some(share) = self
            .probability
            .filter(|share| !(0.0..=1.0).contains(share))
        {
            return Err(format!("probability: {share} is not between 0 and 1"));
        }
        match &self.fault {
            Fault::Status { code, .. } if !(200..=599).contains(code) => {
                Err(format!("code: {code} is not between 200 and 599"))
            }
            Fault::Status { headers, .. }
                if !headers
                    .iter()
                    .all(|(name, value)| header(name, value).is_some()) =>
            {
                Err("headers: at least one is not a valid HTTP header".into())
            }
            Fault::Invisible { .. }
                if !matches!(
                    self.operation,
                    Operation::Run | Operation::Logs | Operation::Any
                ) =>
            {
                Err("invisible: applies to the operations 'run' and 'logs' only".into())
            }
            _ => Ok(()),
        }
    }
}

impl Faults {
    fn rules(&self) -> MutexGuard<'_, Vec<(Rule, u64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a rule after the others.
    ///
    /// # Panics
    /// The rule is invalid, which is a mistake in the test that wrote it.
    pub fn add(&self, rule: Rule) {
        if let Err(reason) = rule.check() {
            panic!("{reason}");
        }
        self.rules().push((rule, 0));
    }

    /// Removes all rules. Calls that a rule already delays stay delayed.
    pub fn clear(&self) {
        self.rules().clear();
    }

    /// The rules in force, each with the number of calls that it has matched.
    #[must_use]
    pub fn list(&self) -> Vec<(Rule, u64)> {
        self.rules().clone()
    }

    /// Counts the call for every rule that matches it, and returns the first rule that applies.
    pub(crate) fn first_match(&self, call: &Call) -> Option<Rule> {
        let mut found = None;
        for (rule, seen) in self
            .rules()
            .iter_mut()
            .filter(|(rule, _)| rule.matches(call))
        {
            *seen += 1;
            if found.is_none() && rule.applies_to(*seen) {
                found = Some(rule.clone());
            }
        }
        found
    }
}

/// The properties of a call that the counters and the rules use.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) operation: Operation,
    pub(crate) scope: Option<String>,
    pub(crate) invocation: Option<String>,
}

/// Parses a header; `None` if it is invalid.
pub(crate) fn header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    Some((name.parse().ok()?, value.parse().ok()?))
}
