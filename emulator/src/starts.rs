//! Creates executions: those that run, and past ones for tests.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::time::Instant;

use crate::cloud::Cloud;
use crate::model::executions::Execution;
use crate::model::jobs::Job;
use crate::model::operations::Subject;
use crate::model::overrides::Overrides;
use crate::model::template::ExecutionTemplate;
use crate::refusal::Refusal;
use crate::site::Site;
use crate::{random, runner};

/// The parameters of a start.
#[derive(Debug, Default)]
pub(crate) struct Start {
    pub(crate) overrides: Overrides,
    /// The overrides exactly as the client sent them.
    pub(crate) sent: Value,
    /// How long lists do not show the execution.
    pub(crate) hidden: Duration,
    /// Only checks whether the execution could be started.
    pub(crate) validate_only: bool,
}

/// Starts an execution. Returns the result of `show`, which sees it while it is pending.
pub(crate) fn start<T>(
    cloud: &Arc<Cloud>,
    job: &str,
    start: Start,
    show: impl FnOnce(&Execution) -> T,
) -> Result<T, Refusal> {
    let mut state = cloud.state();
    let job = state.jobs.find(&cloud.site, job)?;
    let template = start.overrides.merged_into(job.spec.template.clone())?;
    if state.executions.unfinished() >= cloud.settings.max_running_executions {
        return Err(Refusal::exhausted(
            "Quota exceeded: too many executions are already running.",
        ));
    }
    let mut execution = new_execution(&cloud.site, job, template, Timestamp::now());
    execution.overrides = start.sent;
    execution.listed_from = Instant::now() + start.hidden.max(cloud.settings.listing_lag);
    while state.executions.get(&execution.name).is_some() {
        execution.name = format!("{}-{}", execution.job, random::suffix());
    }
    if start.validate_only {
        return Ok(show(&execution));
    }
    cloud.counters.started(&execution);
    let answer = show(&execution);
    state.jobs.started(&execution.job, &execution.name);
    let (name, cancelled) = (execution.name.clone(), execution.cancelled.subscribe());
    let subject = Subject::Execution(name.clone());
    state.operations.add(execution.operation.clone(), subject);
    state.executions.add_newest(execution);
    tokio::spawn(runner::follow(Arc::clone(cloud), name, cancelled));
    Ok(answer)
}

/// Adds executions of the past that never ran. The newest is an hour old, and each further one a second older.
pub(crate) fn add_past(
    cloud: &Cloud,
    job_name: &str,
    count: usize,
    env: impl Fn(usize) -> Vec<(String, String)>,
) -> Result<(), Refusal> {
    const NEWEST: Duration = Duration::from_secs(3600);
    let mut state = cloud.state();
    let job = state.jobs.find(&cloud.site, job_name)?;
    let mut past = Vec::new();
    for index in 0..count {
        let created = Timestamp::now() - NEWEST - Duration::from_secs(index as u64);
        let overrides = Overrides::of_env(env(index));
        let mut execution = new_execution(
            &cloud.site,
            job,
            overrides.merged_into(job.spec.template.clone())?,
            created,
        );
        execution.finish_at_once();
        past.push(execution);
    }
    past.into_iter()
        .for_each(|execution| state.executions.add_oldest(execution));
    state
        .executions
        .evict(job_name, cloud.settings.retained_executions);
    Ok(())
}

fn new_execution(
    site: &Site,
    job: &Job,
    mut template: ExecutionTemplate,
    created: Timestamp,
) -> Execution {
    pin(&mut template.task.container.image);
    let name = format!("{}-{}", job.name, random::suffix());
    Execution::new(site, job, name, template, created)
}

/// Adds a digest to the image, as Cloud Run does when it creates an execution. Here the digest depends on the name
/// only.
fn pin(image: &mut String) {
    if image.contains('@') {
        return;
    }
    let part = |number: u8| {
        let mut hasher = DefaultHasher::new();
        (number, &image).hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    };
    let digest: String = (0..4).map(part).collect();
    *image = format!("{image}@sha256:{digest}");
}
