//! Checks whether the service may start and cancel executions of a job.

use super::Report;
use super::cures::{Cures, trouble};
use crate::App;
use crate::gcp::client::Error;

/// The permissions on the job that a start needs. `cures::EXECUTOR` is the weakest role with `runWithOverrides`.
const STARTING: [&str; 2] = ["run.jobs.run", "run.jobs.runWithOverrides"];
const CANCELLING: &str = "run.executions.cancel";

/// Asks IAM, since starting and cancelling cannot be tried without harm.
pub(super) async fn permissions(app: &App, job: &str, cures: &Cures, report: &mut Report) {
    match app.cloud_run.granted(job, &STARTING).await {
        Ok(granted) => {
            let missing: Vec<_> = STARTING
                .into_iter()
                .filter(|wanted| !granted.iter().any(|own| own == wanted))
                .collect();
            if missing.is_empty() {
                report.ok("start", STARTING.join(", "))
            } else {
                report.fail(
                    "start",
                    format!("no permission: {}", missing.join(", ")),
                    Some(cures.starts(job)),
                )
            }
        }
        Err(error) => report.warn("start", untested(&error), None),
    }
    // A separate call: this is a permission on executions, which have no policy, and IAM may refuse to test it on a job.
    match app.cloud_run.granted(job, &[CANCELLING]).await {
        Ok(granted) if granted.is_empty() => report.fail(
            "cancel",
            format!("no permission: {CANCELLING}"),
            Some(cures.starts(job)),
        ),
        Ok(_) => report.ok("cancel", CANCELLING),
        Err(error) => report.warn("cancel", untested(&error), None),
    }
}

/// The finding if IAM does not answer.
fn untested(error: &Error) -> String {
    format!("not tested, because IAM did not answer: {}", trouble(error))
}
