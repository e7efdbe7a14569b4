//! Jobs in the JSON of v2.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::camel_case::camel_case;
use crate::http::extract::{Int, or_default, parsed};
use crate::http::resource_json::{SentContainer, completion_status, container_json};
use crate::model::executions::Execution;
use crate::model::images::Images;
use crate::model::jobs::{Job, JobSpec};
use crate::model::kept::{Api, Kept, refuse_tokens};
use crate::model::template::{ExecutionTemplate, Labels, TaskTemplate, WantedTemplate};
use crate::refusal::Refusal;
use crate::site::{Site, default_account, rfc3339};

/// The annotations by which v1 expresses fields of v2.
const CLIENT: &str = "run.googleapis.com/client-name";
const CLIENT_VERSION: &str = "run.googleapis.com/client-version";
const LAUNCH_STAGE: &str = "run.googleapis.com/launch-stage";
/// The namespaces of v1's labels and annotations, which v2 neither accepts nor shows.
const V1_NAMESPACES: [&str; 4] = [
    "run.googleapis.com",
    "cloud.googleapis.com",
    "serving.knative.dev",
    "autoscaling.knative.dev",
];
/// The names of enum values, in the order of their numbers.
const LAUNCH_STAGES: [&str; 8] = [
    "LAUNCH_STAGE_UNSPECIFIED",
    "EARLY_ACCESS",
    "ALPHA",
    "BETA",
    "GA",
    "DEPRECATED",
    "UNIMPLEMENTED",
    "PRELAUNCH",
];
const ENVIRONMENTS: [&str; 3] = [
    "EXECUTION_ENVIRONMENT_UNSPECIFIED",
    GENERATION_1,
    GENERATION_2,
];
const ENVIRONMENT: &str = "executionEnvironment";
const GENERATION_1: &str = "EXECUTION_ENVIRONMENT_GEN1";
const GENERATION_2: &str = "EXECUTION_ENVIRONMENT_GEN2";

/// A job as clients send it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SentJob {
    #[serde(default, deserialize_with = "or_default")]
    labels: Labels,
    #[serde(default, deserialize_with = "or_default")]
    annotations: Labels,
    #[serde(default, deserialize_with = "or_default")]
    client: String,
    #[serde(default, deserialize_with = "or_default")]
    client_version: String,
    #[serde(default)]
    launch_stage: Value,
    #[serde(default, deserialize_with = "or_default")]
    template: SentExecutionTemplate,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SentExecutionTemplate {
    #[serde(default, deserialize_with = "or_default")]
    labels: Labels,
    #[serde(default, deserialize_with = "or_default")]
    annotations: Labels,
    #[serde(default, deserialize_with = "or_default")]
    task_count: Int,
    #[serde(default, deserialize_with = "or_default")]
    parallelism: Int,
    #[serde(default, deserialize_with = "or_default")]
    template: SentTaskTemplate,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SentTaskTemplate {
    #[serde(default, deserialize_with = "or_default")]
    containers: Vec<SentContainer>,
    max_retries: Option<Int>,
    #[serde(default, deserialize_with = "or_default")]
    timeout: Seconds,
    #[serde(default, deserialize_with = "or_default")]
    service_account: String,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// A duration in protobuf's JSON, such as `"600s"`. An absent one is 0.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Seconds(pub(crate) i64);

impl TryFrom<String> for Seconds {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.strip_suffix('s').unwrap_or_default();
        let whole = digits
            .split_once('.')
            .map_or(Some(digits), |(whole, part)| {
                part.bytes().all(|digit| digit == b'0').then_some(whole)
            });
        let seconds = whole.and_then(|whole| whole.parse().ok());
        seconds
            .map(Self)
            .ok_or_else(|| format!("'{text}' is not a duration of whole seconds such as \"600s\""))
    }
}

impl SentJob {
    /// Parses a job. Its keys may also be in snake case, such as `task_count`, which Google accepts too.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let body: Value = parsed(body)?;
        serde_json::from_value(with_camel_case_keys(body))
            .map_err(|error| Refusal::invalid(format!("Invalid JSON payload received. {error}")))
    }

    /// Checks the job and fills in Google's defaults.
    pub(crate) fn spec(self, images: &Images) -> Result<JobSpec, Refusal> {
        refuse_tokens(&self.rest)?;
        for key in self.labels.keys().chain(self.annotations.keys()) {
            let namespace = key.split('/').next().unwrap_or_default();
            if key.contains('/') && V1_NAMESPACES.contains(&namespace) {
                return Err(Refusal::invalid(format!(
                    "job: the label or annotation '{key}' is of a namespace that v2 does not take."
                )));
            }
        }
        let mut annotations = self.annotations;
        let stage = enum_name(&self.launch_stage, &LAUNCH_STAGES)?;
        let stage = stage.filter(|stage| *stage != "GA" && *stage != LAUNCH_STAGES[0]);
        for (key, value) in [
            (CLIENT, self.client.as_str()),
            (CLIENT_VERSION, self.client_version.as_str()),
            (LAUNCH_STAGE, stage.unwrap_or_default()),
        ] {
            if !value.is_empty() {
                annotations.insert(key.to_owned(), value.to_owned());
            }
        }
        Ok(JobSpec {
            labels: self.labels,
            annotations,
            template: self.template.wanted()?.completed(images)?,
            kept: kept("job", self.rest, &["binaryAuthorization"], &OUTPUT_ONLY)?,
        })
    }
}

/// The output-only fields of a job. Clients send them back when they change a job that they have read.
const OUTPUT_ONLY: [&str; 17] = [
    "name",
    "uid",
    "generation",
    "createTime",
    "updateTime",
    "deleteTime",
    "expireTime",
    "creator",
    "lastModifier",
    "observedGeneration",
    "terminalCondition",
    "conditions",
    "executionCount",
    "latestCreatedExecution",
    "reconciling",
    "satisfiesPzs",
    "etag",
];

impl SentExecutionTemplate {
    fn wanted(self) -> Result<WantedTemplate, Refusal> {
        const KEPT: [&str; 3] = ["client", "clientVersion", "delayExecution"];
        const KEPT_OF_TASK: [&str; 8] = [
            "volumes",
            ENVIRONMENT,
            "encryptionKey",
            "vpcAccess",
            "nodeSelector",
            "gpuZonalRedundancyDisabled",
            "sandboxes",
            "workloadIdentityConfig",
        ];
        let mut task = self.template;
        // The default is shown in any case. It is not stored, so that sending it back changes nothing.
        if let Some(environment) = task.rest.remove(ENVIRONMENT) {
            let name = enum_name(&environment, &ENVIRONMENTS)?;
            let other = name.filter(|name| *name == GENERATION_1);
            task.rest
                .extend(other.map(|name| (ENVIRONMENT.to_owned(), json!(name))));
        }
        let set = |number: i64| (number != 0).then_some(number);
        let containers = task.containers.into_iter();
        let containers = containers.map(|sent| sent.container(kept_of_container));
        let account = task.service_account;
        Ok(WantedTemplate {
            labels: self.labels,
            annotations: self.annotations,
            task_count: set(self.task_count.0),
            parallelism: set(self.parallelism.0),
            kept: kept("job.template", self.rest, &KEPT, &[])?,
            containers: containers.collect::<Result<_, _>>()?,
            max_retries: task.max_retries.map(|Int(count)| count),
            timeout_seconds: set(task.timeout.0),
            service_account: Some(account).filter(|account| !account.is_empty()),
            kept_of_task: kept("job.template.template", task.rest, &KEPT_OF_TASK, &[])?,
        })
    }
}

/// Keeps the known fields of a container.
fn kept_of_container(fields: Map<String, Value>) -> Result<Kept, Refusal> {
    const KEPT: [&str; 13] = [
        "resources",
        "ports",
        "volumeMounts",
        "workingDir",
        "livenessProbe",
        "startupProbe",
        "readinessProbe",
        "dependsOn",
        "baseImageUri",
        "buildInfo",
        "buildConfig",
        "sourceCode",
        "sandboxLauncher",
    ];
    kept("job.template.template.containers[0]", fields, &KEPT, &[])
}

/// Keeps the known fields and drops the ignored ones. Any other field is refused, as by Google.
fn kept(
    at: &str,
    mut fields: Map<String, Value>,
    known: &[&str],
    ignored: &[&str],
) -> Result<Kept, Refusal> {
    fields.retain(|key, value| !ignored.contains(&key.as_str()) && !value.is_null());
    match fields.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(Refusal::invalid(format!(
            "Invalid JSON payload received. Unknown name \"{key}\" at '{at}': Cannot find field."
        ))),
        None => Ok(Kept::new(Api::V2, fields)),
    }
}

/// The name of an enum's value, which clients send as a name or as a number.
fn enum_name<'a>(value: &Value, names: &[&'a str]) -> Result<Option<&'a str>, Refusal> {
    let by_number = |number| names.get(usize::try_from(number).ok()?);
    let found = match value {
        Value::Null => return Ok(None),
        Value::String(name) => names.iter().find(|known| *known == name),
        value => value.as_u64().and_then(by_number),
    };
    found.map(|name| Some(*name)).ok_or_else(|| {
        Refusal::invalid(format!(
            "Invalid JSON payload received. {value} is not one of {}.",
            names.join(", ")
        ))
    })
}

/// Converts keys from snake case to camel case, except in maps whose keys the user chooses.
pub(crate) fn with_camel_case_keys(value: Value) -> Value {
    const USERS: [&str; 4] = ["labels", "annotations", "limits", "nodeSelector"];
    match value {
        Value::Array(values) => values.into_iter().map(with_camel_case_keys).collect(),
        Value::Object(fields) => {
            let camel = |(key, value): (String, Value)| {
                let users = USERS.contains(&key.as_str());
                let value = if users {
                    value
                } else {
                    with_camel_case_keys(value)
                };
                (camel_case(&key, '_'), value)
            };
            Value::Object(fields.into_iter().map(camel).collect())
        }
        other => other,
    }
}

pub(crate) fn job_json(site: &Site, job: &Job, latest: Option<&Execution>) -> Value {
    let mut json = job.spec.kept.shown_by(Api::V2);
    let mut set = |key: &str, value: Value| json.insert(key.to_owned(), value);
    let (created, updated) = (rfc3339(job.created), rfc3339(job.updated));
    let generation = job.generation.to_string();
    let ready =
        json!({ "type": "Ready", "state": "CONDITION_SUCCEEDED", "lastTransitionTime": created });
    set("name", json!(site.job_name(&job.name)));
    set("uid", json!(job.uid));
    set("generation", json!(generation));
    set("observedGeneration", json!(generation));
    set("createTime", json!(created));
    set("updateTime", json!(updated));
    set("creator", json!(default_account()));
    set("lastModifier", json!(default_account()));
    for (key, annotation, default) in [
        ("client", CLIENT, ""),
        ("clientVersion", CLIENT_VERSION, ""),
        ("launchStage", LAUNCH_STAGE, "GA"),
    ] {
        let own = job.spec.annotations.get(annotation).map(String::as_str);
        let value = own.unwrap_or(default);
        if !value.is_empty() {
            set(key, json!(value));
        }
    }
    set("template", execution_template(&job.spec.template));
    set("terminalCondition", ready);
    set("conditions", json!([]));
    // Clients rely on this field, even if there is no execution.
    set(
        "latestCreatedExecution",
        latest.map_or(json!({}), reference),
    );
    if job.executions > 0 {
        set("executionCount", json!(job.executions));
    }
    set("reconciling", json!(false));
    set("etag", json!(format!("\"{}\"", job.resource_version())));
    set_labels(&mut json, &job.spec.labels, &job.spec.annotations);
    Value::Object(json)
}

/// Sets the labels and annotations, without those in v1's namespaces.
fn set_labels(json: &mut Map<String, Value>, labels: &Labels, annotations: &Labels) {
    let own = |(key, _): &(&String, &String)| {
        !V1_NAMESPACES.contains(&key.split('/').next().unwrap_or_default())
    };
    for (key, labels) in [("labels", labels), ("annotations", annotations)] {
        let shown: Map<String, Value> = labels
            .iter()
            .filter(own)
            .map(|(key, value)| (key.clone(), json!(value)))
            .collect();
        if !shown.is_empty() {
            json.insert(key.into(), Value::Object(shown));
        }
    }
}

fn reference(execution: &Execution) -> Value {
    let status = completion_status(execution.state());
    let created = rfc3339(execution.created);
    let mut reference =
        json!({ "name": execution.name, "createTime": created, "completionStatus": status });
    if let Some((completed, _)) = &execution.completed {
        reference["completionTime"] = json!(rfc3339(*completed));
    }
    reference
}

fn execution_template(template: &ExecutionTemplate) -> Value {
    let mut json = template.kept.shown_by(Api::V2);
    set_labels(&mut json, &template.labels, &template.annotations);
    json.insert("taskCount".into(), json!(template.task_count));
    if template.parallelism > 0 {
        json.insert("parallelism".into(), json!(template.parallelism));
    }
    json.insert(
        "template".into(),
        Value::Object(task_template(&template.task)),
    );
    Value::Object(json)
}

/// The fields that every task has: in the `template` of a job or an execution, and in the task itself.
pub(crate) fn task_template(task: &TaskTemplate) -> Map<String, Value> {
    let mut json = task.kept.shown_by(Api::V2);
    json.entry(ENVIRONMENT)
        .or_insert_with(|| json!(GENERATION_2));
    json.insert(
        "containers".into(),
        json!([container_json(&task.container, Api::V2)]),
    );
    json.insert("maxRetries".into(), json!(task.max_retries));
    let timeout = format!("{}s", task.timeout_seconds);
    json.insert("timeout".into(), json!(timeout));
    json.insert("serviceAccount".into(), json!(task.service_account));
    json
}
