//! Overrides of `jobs.run`, and how they are merged into the job's template.

use super::container::{Container, Variable, check_env, check_words, in_range};
use super::template::{ExecutionTemplate, MAX_TASKS, MAX_TIMEOUT_SECONDS};
use crate::refusal::Refusal;

/// The values of one execution that differ from its job. 0 and an empty list mean "not set", as in protobuf.
#[derive(Debug, Default)]
pub(crate) struct Overrides {
    pub(crate) containers: Vec<ContainerOverride>,
    pub(crate) task_count: i64,
    pub(crate) timeout_seconds: i64,
}

#[derive(Debug, Default)]
pub(crate) struct ContainerOverride {
    /// If it is empty, the override is for the only container.
    pub(crate) name: String,
    pub(crate) args: Vec<String>,
    pub(crate) clear_args: bool,
    pub(crate) env: Vec<Variable>,
}

impl Overrides {
    /// Overrides of environment variables alone.
    pub(crate) fn of_env(env: Vec<(String, String)>) -> Self {
        let env = env
            .into_iter()
            .map(|(name, value)| Variable { name, value })
            .collect();
        let container = ContainerOverride {
            env,
            ..ContainerOverride::default()
        };
        Self {
            containers: vec![container],
            ..Self::default()
        }
    }

    /// Merges the overrides into the template.
    pub(crate) fn merged_into(
        self,
        mut template: ExecutionTemplate,
    ) -> Result<ExecutionTemplate, Refusal> {
        in_range("overrides.taskCount", self.task_count, 0, MAX_TASKS)?;
        if self.task_count > 0 {
            template.task_count = self.task_count;
        }
        in_range(
            "overrides.timeout",
            self.timeout_seconds,
            0,
            MAX_TIMEOUT_SECONDS,
        )?;
        if self.timeout_seconds > 0 {
            template.task.timeout_seconds = self.timeout_seconds;
        }
        if self.containers.len() > 1 {
            return Err(Refusal::invalid(
                "overrides.containerOverrides: the job has one container only.",
            ));
        }
        for wanted in self.containers {
            wanted.merge_into(&mut template.task.container)?;
        }
        Ok(template)
    }
}

impl ContainerOverride {
    fn merge_into(self, container: &mut Container) -> Result<(), Refusal> {
        let name = &self.name;
        if !name.is_empty() && !container.is_called(name) {
            return Err(Refusal::invalid(format!(
                "overrides.containerOverrides[0].name: the job has no container named '{name}'."
            )));
        }
        if self.clear_args && !self.args.is_empty() {
            return Err(Refusal::invalid(
                "overrides.containerOverrides[0]: args must be empty when clearArgs is set.",
            ));
        }
        if self.clear_args || !self.args.is_empty() {
            check_words("args", &self.args)?;
            container.args = self.args;
        }
        check_env(&self.env)?;
        for variable in self.env {
            match container
                .env
                .iter_mut()
                .find(|known| known.name == variable.name)
            {
                Some(known) => *known = variable,
                None => container.env.push(variable),
            }
        }
        check_env(&container.env)
    }
}
