//! Whether the service may start and cancel executions of a job.

use super::Report;
use super::cures::{Cures, trouble};
use crate::App;
use crate::gcp::client::Error;

/// What a start needs on the job: `runWithOverrides` comes with no weaker role than `cures::EXECUTOR`.
const STARTING: [&str; 2] = ["run.jobs.run", "run.jobs.runWithOverrides"];
const CANCELLING: &str = "run.executions.cancel";

/// What cannot be tried without harm is asked of IAM.
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
    // Apart: it is a permission on executions, which have no policy of their own, and IAM may not take it for a job's.
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

/// IAM's answer is missing, and the thing itself would do harm.
fn untested(error: &Error) -> String {
    format!("not tested, because IAM does not tell: {}", trouble(error))
}
