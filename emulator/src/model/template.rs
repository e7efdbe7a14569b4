//! The templates of executions and tasks: checked, with Google's defaults filled in.

use std::collections::BTreeMap;

use super::container::{Container, check_env, check_words, in_range};
use super::images::Images;
use super::kept::Kept;
use crate::refusal::Refusal;
use crate::site::default_account;

/// Google's limits, from the quotas of Cloud Run and its reference for jobs.
pub(crate) const MAX_TASKS: i64 = 10_000;
const MAX_RETRIES: i64 = 10;
/// Seven days.
pub(crate) const MAX_TIMEOUT_SECONDS: i64 = 7 * 24 * 3600;

pub(crate) type Labels = BTreeMap<String, String>;

/// The template that an execution copies from its job.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ExecutionTemplate {
    pub(crate) labels: Labels,
    pub(crate) annotations: Labels,
    pub(crate) task_count: i64,
    /// The most tasks at one time; 0 stands for all.
    pub(crate) parallelism: i64,
    pub(crate) task: TaskTemplate,
    pub(crate) kept: Kept,
}

/// The template of every task of an execution.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TaskTemplate {
    pub(crate) container: Container,
    pub(crate) max_retries: i64,
    pub(crate) timeout_seconds: i64,
    pub(crate) service_account: String,
    pub(crate) kept: Kept,
}

/// A template as a request has it, without defaults.
#[derive(Debug)]
pub(crate) struct WantedTemplate {
    pub(crate) labels: Labels,
    pub(crate) annotations: Labels,
    pub(crate) task_count: Option<i64>,
    pub(crate) parallelism: Option<i64>,
    pub(crate) kept: Kept,
    pub(crate) containers: Vec<Container>,
    pub(crate) max_retries: Option<i64>,
    pub(crate) timeout_seconds: Option<i64>,
    pub(crate) service_account: Option<String>,
    pub(crate) kept_of_task: Kept,
}

impl WantedTemplate {
    /// Checks the template as Cloud Run does, and fills in Google's defaults.
    pub(crate) fn completed(self, images: &Images) -> Result<ExecutionTemplate, Refusal> {
        let task_count = self.task_count.unwrap_or(1);
        in_range("taskCount", task_count, 1, MAX_TASKS)?;
        let parallelism = self.parallelism.unwrap_or(0);
        in_range("parallelism", parallelism, 0, task_count)?;
        let max_retries = self.max_retries.unwrap_or(3);
        in_range("maxRetries", max_retries, 0, MAX_RETRIES)?;
        let timeout_seconds = self.timeout_seconds.unwrap_or(600);
        in_range("timeout", timeout_seconds, 1, MAX_TIMEOUT_SECONDS)?;
        let Ok([container]) = <[Container; 1]>::try_from(self.containers) else {
            return Err(Refusal::invalid(
                "containers: this emulator runs exactly one container in a task.",
            ));
        };
        let task = TaskTemplate {
            container: completed(container, images)?,
            max_retries,
            timeout_seconds,
            service_account: self.service_account.unwrap_or_else(default_account),
            kept: self.kept_of_task,
        };
        Ok(ExecutionTemplate {
            labels: self.labels,
            annotations: self.annotations,
            task_count,
            parallelism,
            task,
            kept: self.kept,
        })
    }
}

/// Checks the container as Cloud Run does, and fills in Google's defaults.
fn completed(mut container: Container, images: &Images) -> Result<Container, Refusal> {
    if container.image.is_empty() {
        return Err(Refusal::invalid("containers[0].image: is required."));
    }
    if images.command(&container).is_none() {
        return Err(Refusal::invalid(
            "containers[0].image: this emulator has no local command for the image. Start it with --job NAME=COMMAND.",
        ));
    }
    container.name = container.name.filter(|name| !name.is_empty());
    check_words("command", &container.command)?;
    check_words("args", &container.args)?;
    check_env(&container.env)?;
    container.kept.default_limits();
    Ok(container)
}
