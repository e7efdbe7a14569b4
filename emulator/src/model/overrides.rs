//! Overrides of `jobs.run`, and how they are merged into the job's template.

use serde::Deserialize;
use serde_json::{Value, json};

use super::container::{check_args, check_env};
use super::job_spec;
use super::jobs::Template;
use crate::refusal::Refusal;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Overrides {
    #[serde(default)]
    container_overrides: Vec<ContainerOverride>,
    task_count: Option<Value>,
    timeout_seconds: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ContainerOverride {
    /// With one container, whatever name is given means that one.
    #[serde(rename = "name")]
    _name: Option<String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    clear_args: bool,
    #[serde(default)]
    env: Vec<Value>,
}

impl Overrides {
    /// These environment variables and nothing else.
    pub(crate) fn of_env(env: Vec<(String, String)>) -> Self {
        let env = env
            .into_iter()
            .map(|(name, value)| json!({ "name": name, "value": value }))
            .collect();
        let container = ContainerOverride {
            env,
            ..ContainerOverride::default()
        };
        Self {
            container_overrides: vec![container],
            ..Self::default()
        }
    }
}

/// The job's template with the overrides in it. 0 and an empty list mean "not set", as in protobuf.
pub(crate) fn merged(mut template: Template, overrides: Overrides) -> Result<Template, Refusal> {
    template.task_count = replaced(
        "taskCount",
        overrides.task_count,
        job_spec::MAX_TASKS,
        template.task_count,
    )?;
    template.timeout_seconds = replaced(
        "timeoutSeconds",
        overrides.timeout_seconds,
        job_spec::MAX_TIMEOUT_SECONDS,
        template.timeout_seconds,
    )?;
    if overrides.container_overrides.len() > 1 {
        return Err(Refusal::invalid(
            "overrides.containerOverrides: the job has one container only.",
        ));
    }
    for wanted in overrides.container_overrides {
        merge_container(&mut template.container, wanted)?;
    }
    Ok(template)
}

fn replaced(name: &str, wanted: Option<Value>, most: i64, own: i64) -> Result<i64, Refusal> {
    let Some(wanted) = wanted else { return Ok(own) };
    match job_spec::int(&wanted) {
        Some(0) => Ok(own),
        Some(number) if (1..=most).contains(&number) => Ok(number),
        _ => Err(Refusal::invalid(format!(
            "overrides.{name}: {wanted} is not between 1 and {most}."
        ))),
    }
}

fn merge_container(container: &mut Value, wanted: ContainerOverride) -> Result<(), Refusal> {
    if wanted.clear_args && !wanted.args.is_empty() {
        return Err(Refusal::invalid(
            "overrides.containerOverrides[0]: args must be empty when clearArgs is set.",
        ));
    }
    if wanted.clear_args || !wanted.args.is_empty() {
        container["args"] = json!(wanted.args);
        check_args(container.get("args"))?;
    }
    check_env(Some(&Value::Array(wanted.env.clone())))?;
    let mut env = container
        .get("env")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    for variable in wanted.env {
        match env
            .iter_mut()
            .find(|known| known["name"] == variable["name"])
        {
            Some(known) => *known = variable,
            None => env.push(variable),
        }
    }
    check_env(Some(&Value::Array(env.clone())))?;
    container["env"] = Value::Array(env);
    Ok(())
}
