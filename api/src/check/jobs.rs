//! Checks the job of each process, as it is deployed.

use super::Report;
use super::arguments::arguments;
use super::cures::{Cures, trouble};
use super::permissions::permissions;
use super::reads::Reads;
use crate::App;
use crate::config::{self, Config, WholeProcess};
use crate::execution::Execution;
use crate::gcp::cloud_run::{Job, JobContainer};
use crate::overrides::{INVOCATION_ID, PARAMETERS, PROCESS, SCOPE};

/// If the job's own variables and arguments have more bytes than this, reading Cloud Run's list takes more calls.
const LIGHT_JOB_BYTES: usize = 4 * 1024;
/// The variables by which the service recognises an execution.
const READ_BACK: [&str; 4] = [SCOPE, PROCESS, INVOCATION_ID, PARAMETERS];

/// Checks the job of each process. If there are several processes, each finding names its process.
pub(super) async fn look_at_jobs(
    app: &App,
    config: &Config,
    reads: &Reads,
    cures: &Cures,
    report: &mut Report,
) {
    let unnamed = config::Process::default();
    let named = config
        .processes
        .iter()
        .map(|(name, own)| (Some(&name[..]), own));
    for (name, own) in std::iter::once((None, &unnamed)).chain(named) {
        let begun = report.findings.len();
        let process = own.within(config);
        let started = reads.started(name, &process.job);
        look_at_job(app, &process, &started, cures, report).await;
        if !config.processes.is_empty() {
            let name = name.unwrap_or("the unnamed process");
            for finding in &mut report.findings[begun..] {
                finding.found = format!("{name}: {}", finding.found);
            }
        }
    }
}

async fn look_at_job(
    app: &App,
    process: &WholeProcess,
    started: &[&Execution],
    cures: &Cures,
    report: &mut Report,
) {
    let job = &process.job;
    match app.cloud_run.describe(job).await {
        Ok(described) => {
            report.ok("job", format!("{job} exists"));
            container(&described, process.container.as_deref(), report);
            if let Some(overridden) = described.overridden(process.container.as_deref()) {
                arguments(overridden, process, started, cures, report);
                own_variables(overridden, &process.job, cures, report);
            }
            own_size(&described, report);
            tasks(&described, process, cures, report);
        }
        Err(error) => report.fail("job", trouble(&error), cures.for_job(job, &error)),
    }
    permissions(app, job, cures, report).await;
}

fn tasks(job: &Job, process: &WholeProcess, cures: &Cures, report: &mut Report) {
    let tasks = process.overrides.task_count.unwrap_or(job.task_count);
    match job.parallelism {
        0 => report.ok("tasks", format!("{tasks}, all at one time")),
        parallelism if parallelism < tasks => report.warn(
            "tasks",
            format!("{tasks}, but no more than {parallelism} at one time"),
            Some(cures.update(&process.job, "--parallelism=0")),
        ),
        parallelism => report.ok("tasks", format!("{tasks}, up to {parallelism} at one time")),
    }
    match job.max_retries {
        0 => report.ok("retries", "none: a task runs once"),
        retries => report.warn(
            "retries",
            format!("a task that fails runs up to {retries} more times; leave that only if it may do its work twice"),
            Some(cures.update(&process.job, "--max-retries=0")),
        ),
    }
}

/// Cloud Run's list repeats the job's own variables for every execution.
fn own_size(job: &Job, report: &mut Report) {
    if job.own_bytes <= LIGHT_JOB_BYTES {
        return;
    }
    let kib = job.own_bytes.div_ceil(1024);
    let found = format!(
        "the job's own variables and arguments have {kib} KiB. The list of executions repeats them for each, so that it takes more calls \
         to find the execution of a key. Keep large values in a secret or a file that the job reads"
    );
    report.warn("size", found, None);
}

/// Warns of such variables in the job itself. Not every start replaces them: the unnamed process does not set PROCESS, and a start
/// outside of the service sets none of them.
fn own_variables(container: &JobContainer, job: &str, cures: &Cures, report: &mut Report) {
    let own: Vec<_> = READ_BACK
        .into_iter()
        .filter(|name| container.sets(name))
        .collect();
    if own.is_empty() {
        return;
    }
    let found = format!(
        "the job {job} itself sets {}. The service recognises executions by these variables, so an execution that \
         keeps the job's value is shown in the wrong place",
        own.join(", ")
    );
    let flag = format!("--remove-env-vars={}", own.join(","));
    report.warn("variables", found, Some(cures.update(job, &flag)));
}

/// Google applies a named override to a job's only container even if that has another name, but the service reads the scope of an
/// execution back by the container's name.
fn container(job: &Job, wanted: Option<&str>, report: &mut Report) {
    let names = job.containers.iter().filter_map(|own| own.name.clone());
    let names: Vec<_> = names.collect();
    let choose = || {
        let first = names.first().map_or("", String::as_str);
        Some(format!("export API__CLOUD_RUN__CONTAINER={first}"))
    };
    match wanted {
        None if job.containers.len() > 1 => report.fail(
            "container",
            format!(
                "the job has several ({}): say which one gets the overrides",
                names.join(", ")
            ),
            choose(),
        ),
        None => report.ok("container", "the only one"),
        Some(name) if names.iter().any(|own| own == name) => report.ok("container", name),
        Some(name) => report.fail(
            "container",
            format!("the job has none named {name}"),
            if names.is_empty() {
                Some("unset API__CLOUD_RUN__CONTAINER".to_owned())
            } else {
                choose()
            },
        ),
    }
}
