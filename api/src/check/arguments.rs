//! Checks whether the arguments of a start reach a program. They replace the image's CMD, so that a container with neither a
//! command of the job nor an ENTRYPOINT of the image executes the first argument. The service cannot read the image, so the check
//! uses the job and its executions.

use super::Report;
use super::cures::Cures;
use crate::config::WholeProcess;
use crate::execution::{Execution, State};
use crate::gcp::cloud_run::JobContainer;

const SUBJECT: &str = "arguments";

/// `started` are the executions of the process that the service has started, newest first.
pub(super) fn arguments(
    container: &JobContainer,
    process: &WholeProcess,
    started: &[&Execution],
    cures: &Cures,
    report: &mut Report,
) {
    if process.overrides.args.is_empty() {
        return report.ok(SUBJECT, "the job's own, which no template replaces");
    }
    if !container.command.is_empty() {
        return report.ok(SUBJECT, "they follow the job's command");
    }
    if takes_options(container) {
        return report.ok(
            SUBJECT,
            "they replace the job's own options, so that the image has an ENTRYPOINT",
        );
    }
    by_executions(&process.job, started, cures, report);
}

/// Whether the job's arguments show that there is an ENTRYPOINT, because the first one is an option and not a program.
fn takes_options(container: &JobContainer) -> bool {
    let first = container.args.first();
    first.is_some_and(|first| first.starts_with('-'))
}

/// One success shows that there is an ENTRYPOINT. A failure alone does not show that there is none: Cloud Run documents no reason
/// that distinguishes a container that could not start from one that ended with an error. So its message is shown.
fn by_executions(job: &str, started: &[&Execution], cures: &Cures, report: &mut Report) {
    let newest = |state| started.iter().find(|execution| execution.state == state);
    if let Some(Execution { name, .. }) = newest(State::Succeeded) {
        return report.ok(SUBJECT, format!("the execution {name} succeeded"));
    }
    let rule = format!("The image of {job} must have an ENTRYPOINT, since arguments replace CMD");
    match newest(State::Failed) {
        Some(Execution { name, message, .. }) => {
            let message = message.as_deref().unwrap_or_default();
            let found =
                format!("no recent execution succeeded, and {name} failed ({message:?}). {rule}");
            report.warn(SUBJECT, found, Some(cures.arguments(job)));
        }
        None => report.unknown(
            SUBJECT,
            format!("no execution has shown yet that the image can be started with them. {rule}"),
        ),
    }
}
