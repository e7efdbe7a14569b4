//! Jobs: create, get, replace, list, delete.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::cloud::{Cloud, PROJECT_NUMBER, rfc3339};
use crate::executions::Execution;
use crate::job_spec::{check_name, completed, int};
use crate::listing::{Listing, Page};
use crate::refusal::Refusal;
use crate::settings;
use crate::{overrides, policy, random};

/// Google's quota.
const MAX_JOBS: usize = 1000;

pub(crate) type Answer = Result<Json<Value>, Refusal>;

#[derive(Debug, Default)]
pub(crate) struct Jobs(BTreeMap<String, Job>);

/// A job as it was written, defaults filled in.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) generation: u64,
    pub(crate) policy: Value,
    created: Timestamp,
    updated: Timestamp,
    labels: Map<String, Value>,
    annotations: Map<String, Value>,
    spec: Value,
    executions: u64,
    latest: Option<String>,
}

/// What an execution takes over from its job.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    pub(crate) container: Value,
    pub(crate) task_count: i64,
    /// 0: as many as there are tasks.
    pub(crate) parallelism: i64,
    pub(crate) max_retries: i64,
    pub(crate) timeout_seconds: i64,
    pub(crate) service_account: String,
    pub(crate) labels: Map<String, Value>,
}

pub(crate) async fn create(
    State(cloud): State<Arc<Cloud>>,
    Path(_): Path<String>,
    body: Bytes,
) -> Answer {
    let wanted = parsed(&body)?;
    let mut state = cloud.state();
    let job = Job::from_request(&cloud, &wanted)?;
    if state.jobs.0.contains_key(&job.name) {
        let exists = format!("Resource '{}' already exists.", job.name);
        return Err(Refusal::new(StatusCode::CONFLICT, "ALREADY_EXISTS", exists));
    }
    if state.jobs.0.len() >= MAX_JOBS {
        return Err(Refusal::exhausted(format!(
            "Quota exceeded: {MAX_JOBS} jobs in this region."
        )));
    }
    let answer = job.json(&cloud, None);
    state.jobs.0.insert(job.name.clone(), job);
    Ok(Json(answer))
}

pub(crate) async fn get(
    State(cloud): State<Arc<Cloud>>,
    Path((_, name)): Path<(String, String)>,
) -> Answer {
    let state = cloud.state();
    let job = state.jobs.find(&cloud, &name)?;
    Ok(Json(job.json(&cloud, state.latest_of(job))))
}

pub(crate) async fn replace(
    State(cloud): State<Arc<Cloud>>,
    Path((_, name)): Path<(String, String)>,
    body: Bytes,
) -> Answer {
    let wanted = parsed(&body)?;
    let mut state = cloud.state();
    state.jobs.find(&cloud, &name)?;
    let new = Job::from_request(&cloud, &wanted)?;
    if new.name != name {
        return Err(Refusal::invalid(format!(
            "metadata.name is '{}', the URL says '{name}'.",
            new.name
        )));
    }
    if let Some(job) = state.jobs.0.get_mut(&name) {
        job.replace(new);
    }
    let job = state.jobs.find(&cloud, &name)?;
    Ok(Json(job.json(&cloud, state.latest_of(job))))
}

pub(crate) async fn list(
    State(cloud): State<Arc<Cloud>>,
    Query(listing): Query<Listing>,
) -> Result<Json<Page<Value>>, Refusal> {
    let selector = listing.selector()?;
    let after = listing.after()?;
    let state = cloud.state();
    let mut jobs: Vec<&Job> = state.jobs.0.values().collect();
    jobs.sort_by_key(|job| std::cmp::Reverse(job.created));
    let numbered = (0_i64..)
        .zip(jobs)
        .filter(|(position, _)| after.is_none_or(|after| *position > after));
    let labelled = numbered.filter(|(_, job)| selector.matches(|key| job.label(&cloud, key)));
    let items = labelled.map(|(position, job)| (position, job.json(&cloud, state.latest_of(job))));
    Ok(Json(listing.page("JobsList", items)))
}

/// Deletes a job with its executions; those that still run are cancelled, as gcloud's prompt promises.
pub(crate) async fn delete(
    State(cloud): State<Arc<Cloud>>,
    Path((_, name)): Path<(String, String)>,
) -> Answer {
    let mut state = cloud.state();
    state
        .jobs
        .0
        .remove(&name)
        .ok_or_else(|| cloud.missing("JOB", &name))?;
    state.executions.remove_job(&name);
    Ok(deleted())
}

/// `POST jobs/{job}:run` is the only verb there is.
pub(crate) async fn verb(
    State(cloud): State<Arc<Cloud>>,
    Path((_, job_and_verb)): Path<(String, String)>,
    visibility: Option<axum::Extension<overrides::Unlisted>>,
    body: Bytes,
) -> Answer {
    match job_and_verb.rsplit_once(':') {
        Some((job, "run")) => {
            overrides::run(&cloud, job, &body, visibility.map(|extension| extension.0))
        }
        _ => Err(Refusal::not_found("Method not found.")),
    }
}

/// Kubernetes' way to say that something is gone.
pub(crate) fn deleted() -> Json<Value> {
    Json(json!({ "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Success" }))
}

pub(crate) fn parsed(body: &[u8]) -> Result<Value, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| Refusal::invalid(format!("Invalid JSON payload received. {error}")))
}

impl crate::cloud::State {
    fn latest_of(&self, job: &Job) -> Option<&Execution> {
        self.executions.get(job.latest.as_deref()?)
    }
}

impl Jobs {
    pub(crate) fn find(&self, cloud: &Cloud, name: &str) -> Result<&Job, Refusal> {
        self.0.get(name).ok_or_else(|| cloud.missing("JOB", name))
    }

    pub(crate) fn find_mut(&mut self, cloud: &Cloud, name: &str) -> Result<&mut Job, Refusal> {
        self.0
            .get_mut(name)
            .ok_or_else(|| cloud.missing("JOB", name))
    }

    pub(crate) fn started(&mut self, job: &str, execution: &str) {
        if let Some(job) = self.0.get_mut(job) {
            job.executions += 1;
            job.latest = Some(execution.to_owned());
        }
    }

    pub(crate) fn add_from_settings(
        &mut self,
        cloud: &Cloud,
        job: &settings::Job,
    ) -> Result<(), Refusal> {
        let env: Vec<Value> = job
            .env
            .iter()
            .map(|(name, value)| json!({ "name": name, "value": value }))
            .collect();
        if self.0.contains_key(&job.name) {
            return Err(Refusal::invalid("is given twice"));
        }
        let image = image(cloud, &job.name);
        let container = json!({ "image": image, "args": job.args, "env": env });
        let task = json!({ "containers": [container], "maxRetries": job.max_retries, "timeoutSeconds": job.timeout_seconds.to_string() });
        let spec = json!({ "taskCount": job.task_count, "parallelism": job.parallelism, "template": { "spec": task } });
        let request =
            json!({ "metadata": { "name": job.name }, "spec": { "template": { "spec": spec } } });
        self.0
            .insert(job.name.clone(), Job::from_request(cloud, &request)?);
        Ok(())
    }
}

fn image(cloud: &Cloud, job: &str) -> String {
    let settings::Settings {
        project, region, ..
    } = &cloud.settings;
    format!("{region}-docker.pkg.dev/{project}/images/{job}")
}

impl Job {
    /// A job from a create or replace request, checked, with the defaults that Google fills in.
    fn from_request(cloud: &Cloud, request: &Value) -> Result<Self, Refusal> {
        let text = |pointer: &str| request.pointer(pointer).and_then(Value::as_str);
        let object = |pointer: &str| {
            request
                .pointer(pointer)
                .and_then(Value::as_object)
                .cloned()
                .unwrap_or_default()
        };
        let now = Timestamp::now();
        let name = text("/metadata/name").unwrap_or_default();
        check_name(name)?;
        let spec = request.get("spec").cloned().unwrap_or_default();
        Ok(Self {
            name: name.to_owned(),
            uid: random::uuid(),
            generation: 1,
            policy: json!({ "version": 1, "etag": policy::etag() }),
            created: now,
            updated: now,
            labels: object("/metadata/labels"),
            annotations: object("/metadata/annotations"),
            spec: completed(cloud, spec)?,
            executions: 0,
            latest: None,
        })
    }

    fn replace(&mut self, new: Self) {
        self.generation += u64::from(self.spec != new.spec);
        self.updated = new.updated;
        self.labels = new.labels;
        self.annotations = new.annotations;
        self.spec = new.spec;
    }

    pub(crate) fn template(&self) -> Template {
        let at = |pointer: &str| self.spec.pointer(pointer);
        let number = |pointer: &str, default| at(pointer).and_then(int).unwrap_or(default);
        Template {
            container: at("/template/spec/template/spec/containers/0")
                .cloned()
                .unwrap_or_default(),
            task_count: number("/template/spec/taskCount", 1),
            parallelism: number("/template/spec/parallelism", 0),
            max_retries: number("/template/spec/template/spec/maxRetries", 3),
            timeout_seconds: number("/template/spec/template/spec/timeoutSeconds", 600),
            service_account: at("/template/spec/template/spec/serviceAccountName")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            labels: at("/template/metadata/labels")
                .and_then(Value::as_object)
                .cloned()
                .unwrap_or_default(),
        }
    }

    fn label<'a>(&'a self, cloud: &'a Cloud, key: &str) -> Option<&'a str> {
        match key {
            "cloud.googleapis.com/location" => Some(&cloud.settings.region),
            _ => self.labels.get(key).and_then(Value::as_str),
        }
    }

    pub(crate) fn resource_version(&self) -> String {
        format!("AAY{:08x}", self.generation)
    }

    fn json(&self, cloud: &Cloud, latest: Option<&Execution>) -> Value {
        let mut labels = self.labels.clone();
        labels.insert(
            "cloud.googleapis.com/location".into(),
            json!(cloud.settings.region),
        );
        labels.insert(
            "run.googleapis.com/lastUpdatedTime".into(),
            json!(rfc3339(self.updated)),
        );
        let mut annotations = self.annotations.clone();
        for key in [
            "run.googleapis.com/creator",
            "run.googleapis.com/lastModifier",
        ] {
            annotations.insert(key.into(), json!(cloud.default_account()));
        }
        let created = rfc3339(self.created);
        let ready = json!({ "type": "Ready", "status": "True", "lastTransitionTime": created });
        let mut status = json!({ "observedGeneration": self.generation, "conditions": [ready], "latestCreatedExecution": {} });
        if self.executions > 0 {
            status["executionCount"] = json!(self.executions);
        }
        if let Some(latest) = latest {
            status["latestCreatedExecution"] = latest.reference();
        }
        json!({
            "apiVersion": "run.googleapis.com/v1", "kind": "Job",
            "metadata": {
                "name": self.name, "namespace": PROJECT_NUMBER, "uid": self.uid, "generation": self.generation,
                "resourceVersion": self.resource_version(), "creationTimestamp": created,
                "selfLink": format!("/apis/run.googleapis.com/v1/namespaces/{PROJECT_NUMBER}/jobs/{}", self.name),
                "labels": labels, "annotations": annotations,
            },
            "spec": self.spec, "status": status,
        })
    }
}
