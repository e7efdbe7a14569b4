//! `jobs.run`: the overrides, the template they are merged into, and the new execution.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cloud::Cloud;
use crate::executions::Execution;
use crate::job_spec;
use crate::jobs::{self, Answer, Job, Template};
use crate::random;
use crate::refusal::Refusal;
use crate::runner;

/// Google's limits on a container's environment and arguments.
const MAX_VARIABLES: usize = 1000;
const MAX_VALUE_BYTES: usize = 32 * 1024;
const MAX_ARGS: usize = 1000;
/// Names that Cloud Run sets itself and refuses to have set.
const RESERVED: [&str; 11] = [
    "CLOUD_RUN_JOB",
    "CLOUD_RUN_EXECUTION",
    "CLOUD_RUN_TASK_INDEX",
    "CLOUD_RUN_TASK_ATTEMPT",
    "CLOUD_RUN_TASK_COUNT",
    "CLOUD_RUN_REVISION",
    "CLOUD_RUN_WORKER_POOL",
    "PORT",
    "K_SERVICE",
    "K_REVISION",
    "K_CONFIGURATION",
];

/// A fault's wish: lists are not to show the new execution for this long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unlisted(pub(crate) Duration);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunRequest {
    overrides: Option<Overrides>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Overrides {
    #[serde(default)]
    container_overrides: Vec<ContainerOverride>,
    task_count: Option<Value>,
    timeout_seconds: Option<Value>,
}

#[derive(Debug, Deserialize)]
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

/// Starts an execution and answers it, still pending.
pub(crate) fn run(
    cloud: &Arc<Cloud>,
    job: &str,
    body: &[u8],
    unlisted: Option<Unlisted>,
) -> Answer {
    let body = if body.is_empty() {
        json!({})
    } else {
        jobs::parsed(body)?
    };
    let request: RunRequest = serde_json::from_value(body.clone())
        .map_err(|error| Refusal::invalid(format!("Invalid JSON payload received. {error}")))?;
    let mut state = cloud.state();
    let job = state.jobs.find(cloud, job)?;
    let template = merged(job.template(), request.overrides.unwrap_or_default())?;
    if state.executions.unfinished() >= cloud.settings.max_running_executions {
        return Err(Refusal::exhausted(
            "Quota exceeded: too many executions are already running.",
        ));
    }
    let mut execution = new_execution(cloud, job, template, Timestamp::now());
    execution.overrides = body.get("overrides").cloned().unwrap_or_default();
    execution.listed_from = Instant::now() + unlisted.map_or(Duration::ZERO, |unlisted| unlisted.0);
    while state.executions.get(&execution.name).is_some() {
        execution.name = format!("{}-{}", execution.job, random::suffix());
    }
    cloud.counters.started(&execution);
    let answer = execution.json(cloud);
    state.jobs.started(&execution.job, &execution.name);
    let (name, cancelled) = (execution.name.clone(), execution.cancelled.subscribe());
    state.executions.add_newest(execution);
    tokio::spawn(runner::follow(Arc::clone(cloud), name, cancelled));
    Ok(Json(answer))
}

/// Executions of the past that never ran here: the newest an hour ago, the others a second apart before it.
pub(crate) fn add_past(
    cloud: &Cloud,
    job_name: &str,
    count: usize,
    env: impl Fn(usize) -> Vec<(String, String)>,
) -> Result<(), Refusal> {
    const NEWEST: Duration = Duration::from_secs(3600);
    let mut state = cloud.state();
    let job = state.jobs.find(cloud, job_name)?;
    let mut past = Vec::new();
    for index in 0..count {
        let created = Timestamp::now() - NEWEST - Duration::from_secs(index as u64);
        let env = env(index)
            .into_iter()
            .map(|(name, value)| json!({ "name": name, "value": value }))
            .collect();
        let container = ContainerOverride {
            _name: None,
            args: Vec::new(),
            clear_args: false,
            env,
        };
        let overrides = Overrides {
            container_overrides: vec![container],
            ..Overrides::default()
        };
        let mut execution = new_execution(cloud, job, merged(job.template(), overrides)?, created);
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
    cloud: &Cloud,
    job: &Job,
    mut template: Template,
    created: Timestamp,
) -> Execution {
    pin(&mut template.container["image"]);
    let name = format!("{}-{}", job.name, random::suffix());
    Execution::new(cloud, job, name, template, created)
}

/// Gives the image a digest, as Cloud Run does when it makes an execution. Ours is of the name only.
fn pin(image: &mut Value) {
    let Some(name) = image.as_str().filter(|name| !name.contains('@')) else {
        return;
    };
    let part = |number: u8| {
        let mut hasher = DefaultHasher::new();
        (number, name).hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    };
    let digest: String = (0..4).map(part).collect();
    *image = json!(format!("{name}@sha256:{digest}"));
}

/// The job's template with the overrides in it. 0 and an empty list mean "not set", as in protobuf.
fn merged(mut template: Template, overrides: Overrides) -> Result<Template, Refusal> {
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

/// Refuses arguments that no process could be given.
pub(crate) fn check_args(args: Option<&Value>) -> Result<(), Refusal> {
    let args = list("args", args)?;
    let sound = |arg: &Value| arg.as_str().is_some_and(|arg| !arg.contains('\0'));
    if args.len() > MAX_ARGS || !args.iter().all(sound) {
        return Err(Refusal::invalid(format!(
            "args: must be at most {MAX_ARGS} strings without NUL."
        )));
    }
    Ok(())
}

/// Refuses an environment that Cloud Run would refuse.
pub(crate) fn check_env(env: Option<&Value>) -> Result<(), Refusal> {
    let env = list("env", env)?;
    if env.len() > MAX_VARIABLES {
        return Err(Refusal::invalid(format!(
            "env: has more than {MAX_VARIABLES} variables."
        )));
    }
    env.iter().try_for_each(check_variable)
}

fn check_variable(variable: &Value) -> Result<(), Refusal> {
    let name = variable
        .get("name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(Refusal::invalid(format!(
            "env: '{name}' is not the name of an environment variable."
        )));
    }
    if RESERVED.contains(&name) || name.starts_with("X_GOOGLE_") {
        return Err(Refusal::invalid(format!(
            "env: '{name}' is reserved and cannot be set."
        )));
    }
    if variable
        .get("valueFrom")
        .is_some_and(|from| !from.is_null())
    {
        return Err(Refusal::invalid(format!(
            "env: '{name}' has valueFrom, but this emulator has no secrets."
        )));
    }
    let value = variable.get("value").unwrap_or(&Value::Null);
    let sound = |text: &str| text.len() <= MAX_VALUE_BYTES && !text.contains('\0');
    if value.is_null() || value.as_str().is_some_and(sound) {
        return Ok(());
    }
    Err(Refusal::invalid(format!(
        "env: '{name}' must be a string of at most {MAX_VALUE_BYTES} bytes without NUL."
    )))
}

fn list<'a>(name: &str, value: Option<&'a Value>) -> Result<&'a [Value], Refusal> {
    match value {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(list)) => Ok(list),
        Some(_) => Err(Refusal::invalid(format!("{name}: must be a list."))),
    }
}
