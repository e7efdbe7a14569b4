//! Whether executions and their lines can be read.

use axum::http::StatusCode;

use super::Report;
use super::cures::{Api, Cures, status, trouble};
use crate::App;
use crate::caller_id::CallerId;
use crate::execution::Execution;
use crate::gcp::client::Error;
use crate::gcp::cloud_logging::{self, Only, PageSize};
use crate::gcp::log_budget::Priority;
use crate::scope::ProcessName;

/// How many executions are read: as many as fit into an answer even where each is as large as a start may make it.
const RECENT: usize = 20;

/// What harms nobody is tried: the very reads that the service will make.
pub(super) struct Reads {
    /// The newest executions of all processes, newest first; none if they cannot be listed.
    recent: Vec<Execution>,
    list: Result<(), Error>,
    follow: Result<(), Error>,
    logs: Result<(), Error>,
}

impl Reads {
    pub(super) async fn of(app: &App, job: &str) -> Self {
        // A name of this job's that Cloud Run does not give: not to be found is as good as to be found.
        let nobody = format!("{job}-check");
        let lines = cloud_logging::Query {
            execution: &nobody,
            only: Only::All,
            since: None,
            page_token: None,
            size: PageSize::default(),
            caller: CallerId::of("check"),
            priority: Priority::Interactive,
        };
        let (recent, list) = match app.cloud_run.list(None, RECENT).await {
            Ok(page) => (page.executions, Ok(())),
            Err(error) => (Vec::new(), Err(error)),
        };
        Self {
            recent,
            list,
            follow: app.cloud_run.get(&nobody).await.map(|_| ()),
            logs: match app.cloud_logging.lines(&lines).await {
                Err(cloud_logging::Error::Google(error)) => Err(error),
                // Nobody else reads in this process: neither our own budget nor our memory is spent.
                Err(cloud_logging::Error::Budget(_) | cloud_logging::Error::NoMemory) | Ok(_) => {
                    Ok(())
                }
            },
        }
    }

    /// The recent executions that the service has started of this process with this job, newest first.
    pub(super) fn started(&self, process: Option<&str>, job: &str) -> Vec<&Execution> {
        let own = self.recent.iter().filter(|execution| {
            let name = execution.process.as_ref().map(ProcessName::as_str);
            name == process && execution.job == job && execution.invocation_id.is_some()
        });
        own.collect()
    }

    pub(super) fn are_all_forbidden(&self) -> bool {
        let forbidden = |read: &Result<(), Error>| {
            let status = read.as_ref().err().and_then(status);
            status == Some(StatusCode::FORBIDDEN)
        };
        [&self.list, &self.follow, &self.logs]
            .into_iter()
            .all(forbidden)
    }

    pub(super) fn tell(&self, cures: &Cures, report: &mut Report) {
        let reads = [
            (
                "list",
                &self.list,
                "executions can be listed",
                Api::CloudRun,
            ),
            (
                "follow",
                &self.follow,
                "executions can be read",
                Api::CloudRun,
            ),
            ("logs", &self.logs, "lines can be read", Api::CloudLogging),
        ];
        for (subject, read, works, api) in reads {
            match read {
                Ok(()) => report.ok(subject, works),
                Err(error) => {
                    report.fail(subject, trouble(error), cures.of(error, api, cures.reads()))
                }
            }
        }
    }
}
