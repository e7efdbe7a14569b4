//! Checks whether executions and their lines can be read.

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

/// How many executions are read: as many as fit into an answer even if each is as large as a start can make it.
const RECENT: usize = 20;

/// The results of the reads that the service makes, which are harmless to try.
pub(super) struct Reads {
    /// The newest executions of all processes, newest first. Empty if they cannot be listed.
    recent: Vec<Execution>,
    list: Result<(), Error>,
    follow: Result<(), Error>,
    logs: Result<(), Error>,
}

impl Reads {
    pub(super) async fn of(app: &App, job: &str) -> Self {
        // A name that Cloud Run never gives to an execution of this job. The answer "not found" shows that it can be read.
        let absent = format!("{job}-check");
        let lines = cloud_logging::Query {
            execution: &absent,
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
            follow: app.cloud_run.get(&absent).await.map(|_| ()),
            logs: match app.cloud_logging.lines(&lines).await {
                Err(cloud_logging::Error::Google(error)) => Err(error),
                // This process makes no other reads, so neither budget is spent.
                Err(cloud_logging::Error::Budget(_) | cloud_logging::Error::NoMemory) | Ok(_) => {
                    Ok(())
                }
            },
        }
    }

    /// The recent executions of this process and job that the service has started, newest first.
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

    pub(super) fn add_to(&self, cures: &Cures, report: &mut Report) {
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
