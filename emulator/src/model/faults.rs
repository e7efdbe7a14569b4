//! What goes wrong, and when.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use crate::random;

/// What a call asks for.
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
    /// Everything else that the metadata server is asked.
    Metadata,
    /// `entries.list` of Cloud Logging.
    Logs,
    /// Every other call: jobs, tasks, deletions, policies.
    Other,
    /// In a rule: whatever is called.
    Any,
}

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Which calls it is about.
    pub operation: Operation,
    /// Only calls about this scope: the variable `SCOPE` of a run's overrides, or of the execution that a get or
    /// a cancel names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Only the nth of those calls, counted from 1 since the rule was added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nth: Option<u64>,
    /// Only the first so many of those calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
    /// Only this share of those calls, 0 to 1, picked by `seed`: the same seed picks the same calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// Of `probability`.
    #[serde(default)]
    pub seed: u64,
    /// Before the effect, after it, or with the effect to follow.
    #[serde(default)]
    pub when: When,
    /// What goes wrong.
    pub fault: Fault,
}

/// Where in a call the fault happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// Instead of the effect: nothing is started, cancelled or read.
    #[default]
    Before,
    /// The effect has happened; its answer is what suffers.
    After,
    /// The answer suffers at once, and the effect happens so many milliseconds later.
    LateMs(u64),
}

/// What goes wrong. Times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// This status instead of the answer; a 3xx with a `location` is a redirect.
    Status {
        /// 200 to 599.
        code: u16,
        /// More headers.
        #[serde(default)]
        headers: BTreeMap<String, String>,
        /// What the body is.
        #[serde(default)]
        body: FaultBody,
    },
    /// The call takes so much longer. Before the effect this delays it too, even if the client has left by then.
    Delay {
        /// How much longer.
        ms: u64,
    },
    /// The connection is reset (a TCP RST) in place of an answer.
    Reset,
    /// The connection ends (a TCP FIN) after so many bytes of a body that was announced as longer.
    Truncated {
        /// Bytes of the body that are sent at most.
        sent: usize,
    },
    /// 200 and `application/json`, but not JSON.
    Garbage,
    /// Never an answer; the connection stays open.
    Hang,
    /// The body comes byte by byte.
    Drip {
        /// From one byte to the next.
        interval_ms: u64,
    },
    /// 200 and `application/json` with a body of so many spaces before its end.
    Huge {
        /// Its length.
        bytes: u64,
    },
    /// The answer is as it should be, and so many milliseconds later the connection is closed unannounced.
    HangUp {
        /// Until the connection is closed.
        ms: u64,
    },
    /// Run: all goes well, but lists do not show the execution for so long. Logs: the answer lacks the lines that are
    /// younger than this, as Cloud Logging shows lines a little late.
    Invisible {
        /// From the creation of the execution, or of the line.
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
    /// A page of HTML, as Google's front end answers.
    Html,
    /// This, as `application/json`.
    Text(String),
}

impl Fault {
    /// This status, with Google's JSON for it.
    #[must_use]
    pub fn status(code: u16) -> Self {
        Self::answer(code, FaultBody::Google)
    }

    /// This status with this body.
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
    /// Every call of `operation` meets `fault` before its effect, until said otherwise.
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

    /// Only calls about this scope.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        self.scope = Some(scope.into());
        self
    }

    /// Only the nth call, counted from 1.
    #[must_use]
    pub fn nth(mut self, nth: u64) -> Self {
        self.nth = Some(nth);
        self
    }

    /// Only the first `first` calls.
    #[must_use]
    pub fn first(mut self, first: u64) -> Self {
        self.first = Some(first);
        self
    }

    /// Only this share of the calls, picked by `seed`.
    #[must_use]
    pub fn probability(mut self, probability: f64, seed: u64) -> Self {
        (self.probability, self.seed) = (Some(probability), seed);
        self
    }

    /// After the effect instead of before it.
    #[must_use]
    pub fn after(mut self) -> Self {
        self.when = When::After;
        self
    }

    /// At once, with the effect to follow.
    #[must_use]
    pub fn late(mut self, effect: Duration) -> Self {
        self.when = When::LateMs(u64::try_from(effect.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// Whether the `seen`th call that the rule is about meets the fault.
    fn applies_to(&self, seen: u64) -> bool {
        self.nth.is_none_or(|nth| seen == nth)
            && self.first.is_none_or(|first| seen <= first)
            && self
                .probability
                .is_none_or(|probability| random::nth(self.seed, seen) < probability)
    }

    fn is_about(&self, call: &Call) -> bool {
        let operation = self.operation == Operation::Any || self.operation == call.operation;
        operation
            && self
                .scope
                .as_ref()
                .is_none_or(|scope| call.scope.as_ref() == Some(scope))
    }

    /// What is wrong with the rule itself, if anything.
    pub(crate) fn check(&self) -> Result<(), String> {
        match &self.fault {
            Fault::Status { code, .. } if !(200..=599).contains(code) => {
                Err(format!("code: {code} is not between 200 and 599"))
            }
            Fault::Status { headers, .. }
                if !headers
                    .iter()
                    .all(|(name, value)| header(name, value).is_some()) =>
            {
                Err("headers: one of them is not a legal header".into())
            }
            Fault::Invisible { .. }
                if !matches!(
                    self.operation,
                    Operation::Run | Operation::Logs | Operation::Any
                ) =>
            {
                Err("invisible: is for the operations 'run' and 'logs' only".into())
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
    /// The rule's status or one of its headers is none; a slip of the test that wrote it.
    pub fn add(&self, rule: Rule) {
        if let Err(reason) = rule.check() {
            panic!("{reason}");
        }
        self.rules().push((rule, 0));
    }

    /// Takes all rules away. Calls that are held by one stay held.
    pub fn clear(&self) {
        self.rules().clear();
    }

    /// The rules in force, each with the number of calls that it was about so far.
    #[must_use]
    pub fn list(&self) -> Vec<(Rule, u64)> {
        self.rules().clone()
    }

    /// Counts the call for every rule that is about it, and returns the first one that applies.
    pub(crate) fn first_match(&self, call: &Call) -> Option<Rule> {
        let mut found = None;
        for (rule, seen) in self
            .rules()
            .iter_mut()
            .filter(|(rule, _)| rule.is_about(call))
        {
            *seen += 1;
            if found.is_none() && rule.applies_to(*seen) {
                found = Some(rule.clone());
            }
        }
        found
    }
}

/// What of a call matters to the counters and the rules.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) operation: Operation,
    pub(crate) scope: Option<String>,
    pub(crate) invocation: Option<String>,
}

/// A header, if it is a legal one.
pub(crate) fn header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    Some((name.parse().ok()?, value.parse().ok()?))
}
