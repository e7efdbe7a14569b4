//! Jobs: what is known of one, and all of them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::images::Images;
use super::job_spec::{check_name, completed, int};
use crate::refusal::{Code, Refusal};
use crate::site::Site;
use crate::{random, settings};

/// Google's quota.
const MAX_JOBS: usize = 1000;

#[derive(Debug, Default)]
pub(crate) struct Jobs(BTreeMap<String, Job>);

/// A job as it was written, defaults filled in.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) generation: u64,
    pub(crate) policy: Value,
    pub(crate) created: Timestamp,
    pub(crate) updated: Timestamp,
    pub(crate) labels: Map<String, Value>,
    pub(crate) annotations: Map<String, Value>,
    pub(crate) spec: Value,
    pub(crate) executions: u64,
    pub(crate) latest: Option<String>,
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

impl Jobs {
    pub(crate) fn find(&self, site: &Site, name: &str) -> Result<&Job, Refusal> {
        self.0.get(name).ok_or_else(|| site.missing("JOB", name))
    }

    pub(crate) fn find_mut(&mut self, site: &Site, name: &str) -> Result<&mut Job, Refusal> {
        self.0
            .get_mut(name)
            .ok_or_else(|| site.missing("JOB", name))
    }

    pub(crate) fn newest_first(&self) -> Vec<&Job> {
        let mut jobs: Vec<&Job> = self.0.values().collect();
        jobs.sort_by_key(|job| std::cmp::Reverse(job.created));
        jobs
    }

    pub(crate) fn create(&mut self, job: Job) -> Result<(), Refusal> {
        if self.0.contains_key(&job.name) {
            let exists = format!("Resource '{}' already exists.", job.name);
            return Err(Refusal::new(Code::AlreadyExists, exists));
        }
        if self.0.len() >= MAX_JOBS {
            return Err(Refusal::exhausted(format!(
                "Quota exceeded: {MAX_JOBS} jobs in this region."
            )));
        }
        self.0.insert(job.name.clone(), job);
        Ok(())
    }

    pub(crate) fn remove(&mut self, site: &Site, name: &str) -> Result<(), Refusal> {
        let removed = self.0.remove(name);
        removed.map(drop).ok_or_else(|| site.missing("JOB", name))
    }

    pub(crate) fn started(&mut self, job: &str, execution: &str) {
        if let Some(job) = self.0.get_mut(job) {
            job.executions += 1;
            job.latest = Some(execution.to_owned());
        }
    }

    pub(crate) fn add_from_settings(
        &mut self,
        site: &Site,
        images: &Images,
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
        let image = image(site, &job.name);
        let container = json!({ "image": image, "args": job.args, "env": env });
        let task = json!({ "containers": [container], "maxRetries": job.max_retries, "timeoutSeconds": job.timeout_seconds.to_string() });
        let spec = json!({ "taskCount": job.task_count, "parallelism": job.parallelism, "template": { "spec": task } });
        let request =
            json!({ "metadata": { "name": job.name }, "spec": { "template": { "spec": spec } } });
        self.0
            .insert(job.name.clone(), Job::from_request(images, &request)?);
        Ok(())
    }
}

fn image(site: &Site, job: &str) -> String {
    let Site { project, region } = site;
    format!("{region}-docker.pkg.dev/{project}/images/{job}")
}

impl Job {
    /// A job from a create or replace request, checked, with the defaults that Google fills in.
    pub(crate) fn from_request(images: &Images, request: &Value) -> Result<Self, Refusal> {
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
            policy: json!({ "version": 1, "etag": policy_etag() }),
            created: now,
            updated: now,
            labels: object("/metadata/labels"),
            annotations: object("/metadata/annotations"),
            spec: completed(images, spec)?,
            executions: 0,
            latest: None,
        })
    }

    pub(crate) fn replace(&mut self, new: Self) {
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

    pub(crate) fn resource_version(&self) -> String {
        format!("AAY{:08x}", self.generation)
    }
}

/// Bytes in base64, and so that decoding and encoding it again gives the same: gcloud does that.
pub(crate) fn policy_etag() -> String {
    format!("BwX{:09x}", random::bits() >> 28)
}
