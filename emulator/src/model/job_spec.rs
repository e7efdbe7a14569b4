//! What a job may be: its name and spec, checked, with Google's defaults filled in.

use serde_json::{Value, json};

use super::container::{check_args, check_env};
use super::images::Images;
use crate::refusal::Refusal;
use crate::site::default_account;

/// Google's limits, from the quotas of Cloud Run and its reference for jobs.
const MAX_NAME: usize = 63;
pub(crate) const MAX_TASKS: i64 = 10_000;
const MAX_RETRIES: i64 = 10;
/// Seven days.
pub(crate) const MAX_TIMEOUT_SECONDS: i64 = 7 * 24 * 3600;

/// Refuses a name that no job can have.
pub(crate) fn check_name(name: &str) -> Result<(), Refusal> {
    let legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let bytes = name.as_bytes();
    let framed = bytes.first().is_some_and(u8::is_ascii_lowercase) && !name.ends_with('-');
    if framed && bytes.len() <= MAX_NAME && bytes.iter().copied().all(legal) {
        return Ok(());
    }
    Err(Refusal::invalid(format!(
        "metadata.name: '{name}' must use only lowercase letters, digits and '-', begin with a letter, not end with '-', and be at most {MAX_NAME} characters."
    )))
}

/// The spec with Google's defaults in it. `template.metadata` is always there: gcloud crashes without.
pub(crate) fn completed(images: &Images, mut spec: Value) -> Result<Value, Refusal> {
    if !spec
        .pointer("/template/spec/template/spec")
        .is_some_and(Value::is_object)
    {
        return Err(Refusal::invalid(
            "spec.template.spec.template.spec: is required.",
        ));
    }
    let template = &mut spec["template"];
    default(template, "metadata", json!({}));
    let execution = &mut template["spec"];
    default(execution, "taskCount", json!(1));
    let task_count = bounded(execution, "taskCount", 1, MAX_TASKS)?;
    bounded(execution, "parallelism", 0, MAX_TASKS.min(task_count))?;
    let task = &mut execution["template"]["spec"];
    default(task, "maxRetries", json!(3));
    default(task, "timeoutSeconds", json!("600"));
    default(task, "serviceAccountName", json!(default_account()));
    bounded(task, "maxRetries", 0, MAX_RETRIES)?;
    // An int64, hence a string in JSON.
    task["timeoutSeconds"] =
        json!(bounded(task, "timeoutSeconds", 1, MAX_TIMEOUT_SECONDS)?.to_string());
    let containers = task.get_mut("containers").and_then(Value::as_array_mut);
    let Some([container]) = containers.map(Vec::as_mut_slice) else {
        return Err(Refusal::invalid(
            "containers: this emulator runs exactly one container in a task.",
        ));
    };
    complete_container(images, container)?;
    Ok(spec)
}

fn complete_container(images: &Images, container: &mut Value) -> Result<(), Refusal> {
    let image = container
        .get("image")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if image.is_empty() {
        return Err(Refusal::invalid("containers[0].image: is required."));
    }
    if images.command(image).is_none() {
        return Err(Refusal::invalid(
            "containers[0].image: this emulator was started without a job whose command could stand for an image; start it with --job NAME=COMMAND.",
        ));
    }
    if container
        .get("command")
        .and_then(Value::as_array)
        .is_some_and(|command| !command.is_empty())
    {
        return Err(Refusal::invalid(
            "containers[0].command: this emulator has no images to look into; an image stands for a local command. Start it with --job NAME=COMMAND.",
        ));
    }
    check_args(container.get("args"))?;
    check_env(container.get("env"))?;
    if container.get("name").is_some_and(|name| name == "") {
        container
            .as_object_mut()
            .map(|container| container.remove("name"));
    }
    default(container, "resources", json!({}));
    default(
        &mut container["resources"],
        "limits",
        json!({ "cpu": "1000m", "memory": "512Mi" }),
    );
    Ok(())
}

fn default(object: &mut Value, key: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        let entry = object.entry(key).or_insert(Value::Null);
        if entry.is_null() {
            *entry = value;
        }
    }
}

/// The number at `key`, 0 where there is none, or the refusal if it is outside `least..=most`.
fn bounded(object: &Value, key: &str, least: i64, most: i64) -> Result<i64, Refusal> {
    let Some(value) = object.get(key).filter(|value| !value.is_null()) else {
        return Ok(0);
    };
    let number = int(value).filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| {
        Refusal::invalid(format!("{key}: {value} is not between {least} and {most}."))
    })
}

/// An integer of protobuf's JSON, where it may be a string as well.
pub(crate) fn int(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}
