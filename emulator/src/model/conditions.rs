//! The conditions of executions and tasks, as Google defines them.

use jiff::Timestamp;

use super::executions::{Execution, Outcome};
use super::tasks::{End, Phase, Task};

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Unknown,
    True,
    False,
}

/// The reason for the status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    NonZeroExitCode,
    Cancelled,
    Cancelling,
    ImmediateRetry,
    WaitingForOperation,
}

/// One condition of an execution or a task.
#[derive(Clone, Debug)]
pub(crate) struct Condition {
    pub(crate) kind: &'static str,
    pub(crate) status: Status,
    pub(crate) reason: Option<Reason>,
    pub(crate) message: String,
    pub(crate) changed: Option<Timestamp>,
}

/// The numbers of tasks in each phase.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    pub(crate) running: usize,
    pub(crate) succeeded: usize,
    pub(crate) failed: usize,
    pub(crate) cancelled: usize,
    pub(crate) retried: usize,
}

impl Counts {
    /// The numbers with their names, which are the same in both APIs.
    pub(crate) fn named(self) -> [(&'static str, usize); 5] {
        [
            ("runningCount", self.running),
            ("succeededCount", self.succeeded),
            ("failedCount", self.failed),
            ("cancelledCount", self.cancelled),
            ("retriedCount", self.retried),
        ]
    }
}

/// The code of google.rpc and Google's message for the end of an attempt; `None` for a success.
pub(crate) fn attempt_status(end: &End) -> Option<(u8, &'static str)> {
    match end {
        End::Exited(0) => None,
        End::Exited(_) => Some((10, "The container exited with an error.")),
        End::TimedOut => Some((4, "The configured timeout was reached.")),
        End::Cancelled => Some((1, "Cancelled by user.")),
    }
}

/// The code and the message of a failed execution.
pub(crate) fn failure(execution: &Execution) -> Option<(u8, String)> {
    let Some((_, Outcome::Failed { task })) = execution.completed else {
        return None;
    };
    let end = execution.tasks[task].last.as_ref()?;
    let (code, why) = attempt_status(end)?;
    let message = format!(
        "Task {}-task{task} failed with message: {why}",
        execution.name
    );
    Some((code, message))
}

pub(crate) fn counts(execution: &Execution) -> Counts {
    let tasks = || execution.tasks.iter();
    let in_phase = |phase| tasks().filter(|task| task.phase == phase).count();
    Counts {
        running: in_phase(Phase::Running),
        succeeded: in_phase(Phase::Succeeded),
        failed: in_phase(Phase::Failed),
        cancelled: in_phase(Phase::Cancelled),
        retried: tasks().filter(|task| task.retries > 0).count(),
    }
}

/// The conditions of an execution; the first one is `Completed`.
pub(crate) fn of_execution(execution: &Execution) -> Vec<Condition> {
    let mut conditions = vec![completed(execution)];
    conditions.extend(earlier(execution));
    if counts(execution).retried > 0 {
        conditions.push(retry(execution, Reason::ImmediateRetry));
    } else if execution.started.is_some() && execution.completed.is_none() {
        conditions.push(retry(execution, Reason::WaitingForOperation));
    }
    conditions
}

fn completed(execution: &Execution) -> Condition {
    let (status, reason, message) = match &execution.completed {
        None if *execution.cancelled.borrow() => (
            Status::Unknown,
            Some(Reason::Cancelling),
            "Waiting for execution to be cancelled.".to_owned(),
        ),
        None => (
            Status::Unknown,
            None,
            "Waiting for execution to complete.".to_owned(),
        ),
        Some((end, Outcome::Succeeded)) => {
            let took = seconds(execution.created, *end);
            let message = format!("Execution completed successfully in {took}.");
            (Status::True, None, message)
        }
        Some((_, Outcome::Failed { .. })) => {
            let (code, message) = failure(execution).unwrap_or_default();
            // A timeout has no reason on Google either.
            let reason = (code == 10).then_some(Reason::NonZeroExitCode);
            (Status::False, reason, message)
        }
        Some((_, Outcome::Cancelled)) => (
            Status::False,
            Some(Reason::Cancelled),
            "Cancelled by user.".to_owned(),
        ),
    };
    Condition {
        kind: "Completed",
        status,
        reason,
        message,
        changed: execution.completed_at().or(Some(execution.created)),
    }
}

/// The conditions before completion. If an execution ends before it starts, `Started` is false: otherwise gcloud
/// would wait for it forever.
fn earlier(execution: &Execution) -> [Condition; 3] {
    let end = execution.completed_at();
    let condition = |kind, status, reason, message| Condition {
        kind,
        status,
        reason,
        message,
        changed: execution.started.or(end).or(Some(execution.created)),
    };
    let Some(started) = execution.started else {
        let (status, reason) = match execution.completed {
            Some(_) => (Status::False, Some(Reason::Cancelled)),
            None => (Status::Unknown, None),
        };
        return ["ResourcesAvailable", "Started", "ContainerReady"]
            .map(|kind| condition(kind, status, reason, String::new()));
    };
    let took = seconds(execution.created, started);
    [
        (
            "ResourcesAvailable",
            "Provisioned imported containers.".to_owned(),
        ),
        ("Started", format!("Started deployed execution in {took}.")),
        (
            "ContainerReady",
            format!("Imported container image in {took}."),
        ),
    ]
    .map(|(kind, message)| condition(kind, Status::True, None, message))
}

fn retry(execution: &Execution, reason: Reason) -> Condition {
    Condition {
        kind: "Retry",
        status: Status::True,
        reason: Some(reason),
        message: String::new(),
        changed: execution.started.or(Some(execution.created)),
    }
}

/// The conditions of a task; the first one is `Completed`.
pub(crate) fn of_task(task: &Task) -> [Condition; 2] {
    let changed = task.completed.or(task.started);
    let (reason, message) = match (task.phase, &task.last) {
        (Phase::Cancelled, _) => (Some(Reason::Cancelled), "Cancelled by user."),
        (Phase::Failed, Some(end)) => (
            (*end != End::TimedOut).then_some(Reason::NonZeroExitCode),
            attempt_status(end).map_or("", |(_, message)| message),
        ),
        _ => (None, ""),
    };
    let completed = match task.phase {
        Phase::Pending | Phase::Running => Status::Unknown,
        Phase::Succeeded => Status::True,
        Phase::Failed | Phase::Cancelled => Status::False,
    };
    let started = match (task.started, task.completed) {
        (Some(_), _) => Status::True,
        (None, Some(_)) => Status::False,
        (None, None) => Status::Unknown,
    };
    [
        Condition {
            kind: "Completed",
            status: completed,
            reason,
            message: message.to_owned(),
            changed,
        },
        Condition {
            kind: "Started",
            status: started,
            reason: None,
            message: String::new(),
            changed,
        },
    ]
}

fn seconds(from: Timestamp, to: Timestamp) -> String {
    format!("{:.2}s", to.duration_since(from).as_secs_f64())
}
