//! A container: its command, arguments and environment, and their limits.

use super::kept::Kept;
use crate::refusal::Refusal;

/// Google's limits on a container's environment and arguments.
const MAX_VARIABLES: usize = 1000;
const MAX_VALUE_BYTES: usize = 32 * 1024;
const MAX_ARGS: usize = 1000;
/// Environment variables that Cloud Run reserves for itself.
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

/// The one container of a task.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Container {
    pub(crate) name: Option<String>,
    pub(crate) image: String,
    pub(crate) command: Vec<String>,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<Variable>,
    pub(crate) kept: Kept,
}

/// One environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) value: String,
}

impl Container {
    /// Whether an override with this name is for this container. Cloud Run names a container without a name after
    /// its image.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        match &self.name {
            Some(own) => own == name,
            None => {
                let image = image_name(&self.image);
                name == image || name.strip_suffix("-1") == Some(image)
            }
        }
    }
}

/// The last part of an image's path, without tag and digest.
pub(crate) fn image_name(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split(':').next().unwrap_or_default()
}

pub(crate) fn in_range(name: &str, number: i64, least: i64, most: i64) -> Result<(), Refusal> {
    if (least..=most).contains(&number) {
        return Ok(());
    }
    Err(Refusal::invalid(format!(
        "{name}: {number} is not between {least} and {most}."
    )))
}

/// Refuses a command or arguments with NUL, or with more strings than Google allows.
pub(crate) fn check_words(name: &str, words: &[String]) -> Result<(), Refusal> {
    if words.len() > MAX_ARGS || words.iter().any(|word| word.contains('\0')) {
        return Err(Refusal::invalid(format!(
            "{name}: must be at most {MAX_ARGS} strings without NUL."
        )));
    }
    Ok(())
}

/// Refuses an environment that Cloud Run would refuse.
pub(crate) fn check_env(env: &[Variable]) -> Result<(), Refusal> {
    if env.len() > MAX_VARIABLES {
        return Err(Refusal::invalid(format!(
            "env: has more than {MAX_VARIABLES} variables."
        )));
    }
    env.iter().try_for_each(check_variable)
}

fn check_variable(Variable { name, value }: &Variable) -> Result<(), Refusal> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(Refusal::invalid(format!(
            "env: '{name}' is not the name of an environment variable."
        )));
    }
    if RESERVED.contains(&name.as_str()) || name.starts_with("X_GOOGLE_") {
        return Err(Refusal::invalid(format!(
            "env: '{name}' is reserved and cannot be set."
        )));
    }
    if value.len() > MAX_VALUE_BYTES || value.contains('\0') {
        return Err(Refusal::invalid(format!(
            "env: '{name}' must be a string of at most {MAX_VALUE_BYTES} bytes without NUL."
        )));
    }
    Ok(())
}
