//! What a container's arguments and environment may be.

use serde_json::Value;

use crate::refusal::Refusal;

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
