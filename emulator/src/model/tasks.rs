//! Tasks and their phases.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use jiff::Timestamp;

/// The exit code that a shell reports for a program that it cannot find.
pub(crate) const CANNOT_START: i32 = 127;

/// One task of an execution.
#[derive(Debug, Default)]
pub(crate) struct Task {
    pub(crate) phase: Phase,
    pub(crate) retries: usize,
    pub(crate) last: Option<End>,
    pub(crate) started: Option<Timestamp>,
    pub(crate) completed: Option<Timestamp>,
}

/// The phase of a task. The names are those of Google's label `runningState`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    #[default]
    Pending,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl Task {
    pub(crate) fn begin_attempt(&mut self, attempt: usize) {
        self.phase = Phase::Running;
        self.retries = attempt;
        self.started.get_or_insert_with(Timestamp::now);
    }

    pub(crate) fn end(&mut self, phase: Phase, last: Option<End>) {
        self.phase = phase;
        self.last = last.or(self.last.take());
        self.completed = Some(Timestamp::now());
    }

    pub(crate) fn finish_at_once(&mut self, time: Timestamp) {
        *self = Self {
            phase: Phase::Succeeded,
            last: Some(End::Exited(0)),
            started: Some(time),
            completed: Some(time),
            retries: 0,
        };
    }

    /// A number that grows with every change.
    pub(crate) fn changes(&self) -> usize {
        usize::from(self.started.is_some()) + self.retries + usize::from(self.completed.is_some())
    }
}

impl Phase {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
        }
    }
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    /// It exited with this code. If a signal ended it, the code is 128 plus the signal's number.
    Exited(i32),
    TimedOut,
    Cancelled,
}

impl From<ExitStatus> for End {
    fn from(status: ExitStatus) -> Self {
        // A process ends with either a code or a signal.
        Self::Exited(
            status
                .code()
                .or(status.signal().map(|signal| 128 + signal))
                .unwrap_or(CANNOT_START),
        )
    }
}
