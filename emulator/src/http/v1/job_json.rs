//! Jobs in the JSON of v1.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::http::extract::{Int, or_default};
use crate::http::resource_json::{SentContainer, completion_status, container_json};
use crate::model::executions::Execution;
use crate::model::images::Images;
use crate::model::jobs::{Job, JobSpec};
use crate::model::kept::{Api, Kept, refuse_tokens};
use crate::model::template::{ExecutionTemplate, Labels, TaskTemplate, WantedTemplate};
use crate::refusal::Refusal;
use crate::site::{PROJECT_NUMBER, Site, default_account, rfc3339};

/// A job as clients send it. Output-only fields are ignored.
#[derive(Debug, Deserialize)]
pub(crate) struct SentJob {
    #[serde(default, deserialize_with = "or_default")]
    metadata: SentMetadata,
    #[serde(default, deserialize_with = "or_default")]
    spec: SentSpec,
}

#[derive(Debug, Default, Deserialize)]
struct SentMetadata {
    #[serde(default)]
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    labels: Labels,
    #[serde(default, deserialize_with = "or_default")]
    annotations: Labels,
}

#[derive(Debug, Default, Deserialize)]
struct SentSpec {
    #[serde(default, deserialize_with = "or_default")]
    template: SentExecutionTemplate,
    #[serde(flatten)]
    kept: Map<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
struct SentExecutionTemplate {
    #[serde(default, deserialize_with = "or_default")]
    metadata: SentMetadata,
    #[serde(default, deserialize_with = "or_default")]
    spec: SentExecutionSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SentExecutionSpec {
    task_count: Option<Int>,
    parallelism: Option<Int>,
    #[serde(default, deserialize_with = "or_default")]
    template: SentTaskTemplate,
    #[serde(flatten)]
    kept: Map<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
struct SentTaskTemplate {
    #[serde(default, deserialize_with = "or_default")]
    spec: SentTaskSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SentTaskSpec {
    #[serde(default, deserialize_with = "or_default")]
    containers: Vec<SentContainer>,
    max_retries: Option<Int>,
    timeout_seconds: Option<Int>,
    service_account_name: Option<String>,
    #[serde(flatten)]
    kept: Map<String, Value>,
}

impl SentJob {
    pub(crate) fn name(&self) -> &str {
        &self.metadata.name
    }

    /// Checks the job and fills in Google's defaults.
    pub(crate) fn spec(self, images: &Images) -> Result<JobSpec, Refusal> {
        let keep = |fields| Kept::new(Api::V1, fields);
        let Self { metadata, spec } = self;
        refuse_tokens(&spec.kept)?;
        let SentExecutionTemplate {
            metadata: of_execution,
            spec: execution,
        } = spec.template;
        let task = execution.template.spec;
        let containers = task.containers.into_iter();
        let containers = containers.map(|sent| sent.container(|fields| Ok(keep(fields))));
        let wanted = WantedTemplate {
            labels: of_execution.labels,
            annotations: of_execution.annotations,
            task_count: execution.task_count.map(|Int(count)| count),
            parallelism: execution.parallelism.map(|Int(count)| count),
            kept: keep(execution.kept),
            containers: containers.collect::<Result<_, _>>()?,
            max_retries: task.max_retries.map(|Int(count)| count),
            timeout_seconds: task.timeout_seconds.map(|Int(seconds)| seconds),
            service_account: task.service_account_name,
            kept_of_task: keep(task.kept),
        };
        Ok(JobSpec {
            labels: metadata.labels,
            annotations: metadata.annotations,
            template: wanted.completed(images)?,
            kept: keep(spec.kept),
        })
    }
}

pub(crate) fn job_json(site: &Site, job: &Job, latest: Option<&Execution>) -> Value {
    let mut labels = job.spec.labels.clone();
    let mut label = |key: &str, value: String| labels.insert(key.to_owned(), value);
    label("cloud.googleapis.com/location", site.region.clone());
    label("run.googleapis.com/lastUpdatedTime", rfc3339(job.updated));
    let mut annotations = job.spec.annotations.clone();
    for key in [
        "run.googleapis.com/creator",
        "run.googleapis.com/lastModifier",
    ] {
        annotations.insert(key.into(), default_account());
    }
    let created = rfc3339(job.created);
    let ready = json!({ "type": "Ready", "status": "True", "lastTransitionTime": created });
    let mut status = json!({ "observedGeneration": job.generation, "conditions": [ready], "latestCreatedExecution": {} });
    if job.executions > 0 {
        status["executionCount"] = json!(job.executions);
    }
    if let Some(latest) = latest {
        status["latestCreatedExecution"] = reference(latest);
    }
    let mut spec = job.spec.kept.shown_by(Api::V1);
    spec.insert("template".into(), execution_template(&job.spec.template));
    json!({
        "apiVersion": "run.googleapis.com/v1", "kind": "Job",
        "metadata": {
            "name": job.name, "namespace": PROJECT_NUMBER, "uid": job.uid, "generation": job.generation,
            "resourceVersion": job.resource_version(), "creationTimestamp": created,
            "selfLink": format!("/apis/run.googleapis.com/v1/namespaces/{PROJECT_NUMBER}/jobs/{}", job.name),
            "labels": labels, "annotations": annotations,
        },
        "spec": spec, "status": status,
    })
}

/// The `status.latestCreatedExecution` of a job.
fn reference(execution: &Execution) -> Value {
    let status = completion_status(execution.state());
    let mut reference = json!({ "name": execution.name, "creationTimestamp": rfc3339(execution.created), "completionStatus": status });
    if let Some((completed, _)) = &execution.completed {
        reference["completionTimestamp"] = json!(rfc3339(*completed));
    }
    reference
}

/// The template of executions. It always has `metadata`, because gcloud crashes without it.
fn execution_template(template: &ExecutionTemplate) -> Value {
    let mut metadata = Map::new();
    for (key, labels) in [
        ("labels", &template.labels),
        ("annotations", &template.annotations),
    ] {
        if !labels.is_empty() {
            metadata.insert(key.into(), json!(labels));
        }
    }
    let mut spec = template.kept.shown_by(Api::V1);
    spec.insert("taskCount".into(), json!(template.task_count));
    if template.parallelism > 0 {
        spec.insert("parallelism".into(), json!(template.parallelism));
    }
    spec.insert(
        "template".into(),
        json!({ "spec": task_spec(&template.task) }),
    );
    json!({ "metadata": metadata, "spec": spec })
}

/// The spec of every task. `timeoutSeconds` is an int64, which protobuf's JSON writes as a string.
pub(crate) fn task_spec(task: &TaskTemplate) -> Value {
    let mut spec = task.kept.shown_by(Api::V1);
    spec.insert(
        "containers".into(),
        json!([container_json(&task.container, Api::V1)]),
    );
    spec.insert("maxRetries".into(), json!(task.max_retries));
    spec.insert("serviceAccountName".into(), json!(task.service_account));
    let timeout = task.timeout_seconds.to_string();
    spec.insert("timeoutSeconds".into(), json!(timeout));
    Value::Object(spec)
}
