//! Jobs: the state of each, and the collection of all.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::container::{Container, Variable};
use super::images::Images;
use super::kept::{Api, Kept};
use super::template::{ExecutionTemplate, Labels, WantedTemplate};
use crate::refusal::{Code, Refusal};
use crate::site::Site;
use crate::{random, settings};

/// The most jobs in a region, which is Google's quota.
const MAX_JOBS: usize = 1000;
const MAX_NAME: usize = 63;

/// All jobs by name.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    by_name: BTreeMap<String, Job>,
    /// The position of the newest job.
    newest: i64,
}

/// A job, with its defaults filled in.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) generation: u64,
    pub(crate) policy: Value,
    /// Its position: a newer job has a higher one.
    pub(crate) position: i64,
    pub(crate) created: Timestamp,
    pub(crate) updated: Timestamp,
    pub(crate) spec: JobSpec,
    pub(crate) executions: u64,
    pub(crate) latest: Option<String>,
}

/// The part of a job that users write.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct JobSpec {
    pub(crate) labels: Labels,
    pub(crate) annotations: Labels,
    pub(crate) template: ExecutionTemplate,
    pub(crate) kept: Kept,
}

impl Jobs {
    pub(crate) fn get(&self, name: &str) -> Option<&Job> {
        self.by_name.get(name)
    }

    pub(crate) fn find(&self, site: &Site, name: &str) -> Result<&Job, Refusal> {
        self.get(name).ok_or_else(|| site.missing("JOB", name))
    }

    pub(crate) fn find_mut(&mut self, site: &Site, name: &str) -> Result<&mut Job, Refusal> {
        self.by_name
            .get_mut(name)
            .ok_or_else(|| site.missing("JOB", name))
    }

    /// The jobs older than position `after`, newest first.
    pub(crate) fn newest_first(&self, after: Option<i64>) -> impl Iterator<Item = &Job> {
        let older = |job: &&Job| after.is_none_or(|after| job.position < after);
        let mut jobs: Vec<&Job> = self.by_name.values().filter(older).collect();
        jobs.sort_by_key(|job| std::cmp::Reverse(job.position));
        jobs.into_iter()
    }

    /// Refuses a new job if its name is invalid or taken, or if there are too many jobs.
    pub(crate) fn check_new(&self, name: &str) -> Result<(), Refusal> {
        check_name(name)?;
        if self.by_name.contains_key(name) {
            let exists = format!("Resource '{name}' already exists.");
            return Err(Refusal::new(Code::AlreadyExists, exists));
        }
        if self.by_name.len() >= MAX_JOBS {
            return Err(Refusal::exhausted(format!(
                "Quota exceeded: {MAX_JOBS} jobs in this region."
            )));
        }
        Ok(())
    }

    /// Adds a job.
    pub(crate) fn create(&mut self, name: &str, spec: JobSpec) -> Result<&Job, Refusal> {
        self.check_new(name)?;
        self.newest += 1;
        let job = Job::new(name, spec, self.newest);
        Ok(self.by_name.entry(name.to_owned()).or_insert(job))
    }

    pub(crate) fn remove(&mut self, site: &Site, name: &str) -> Result<Job, Refusal> {
        let removed = self.by_name.remove(name);
        removed.ok_or_else(|| site.missing("JOB", name))
    }

    pub(crate) fn started(&mut self, job: &str, execution: &str) {
        if let Some(job) = self.by_name.get_mut(job) {
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
        if self.by_name.contains_key(&job.name) {
            return Err(Refusal::invalid("is given twice"));
        }
        let nothing = || Kept::new(Api::V2, serde_json::Map::new());
        let env = job.env.iter().cloned();
        let container = Container {
            name: None,
            image: image(site, &job.name),
            command: Vec::new(),
            args: job.args.clone(),
            env: env.map(|(name, value)| Variable { name, value }).collect(),
            kept: nothing(),
        };
        let template = WantedTemplate {
            labels: Labels::new(),
            annotations: Labels::new(),
            task_count: Some(job.task_count.into()),
            parallelism: Some(job.parallelism.into()),
            kept: nothing(),
            containers: vec![container],
            max_retries: Some(job.max_retries.into()),
            timeout_seconds: Some(job.timeout_seconds.into()),
            service_account: None,
            kept_of_task: nothing(),
        };
        let spec = JobSpec {
            labels: Labels::new(),
            annotations: Labels::new(),
            template: template.completed(images)?,
            kept: nothing(),
        };
        self.create(&job.name, spec).map(drop)
    }
}

fn image(site: &Site, job: &str) -> String {
    let Site { project, region } = site;
    format!("{region}-docker.pkg.dev/{project}/images/{job}")
}

/// Refuses an invalid name.
fn check_name(name: &str) -> Result<(), Refusal> {
    let legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let bytes = name.as_bytes();
    let framed = bytes.first().is_some_and(u8::is_ascii_lowercase) && !name.ends_with('-');
    if framed && bytes.len() <= MAX_NAME && bytes.iter().copied().all(legal) {
        return Ok(());
    }
    Err(Refusal::invalid(format!(
        "The name '{name}' must use only lowercase letters, digits and '-', begin with a letter, not end with '-', and be at most {MAX_NAME} characters."
    )))
}

impl Job {
    pub(crate) fn new(name: &str, spec: JobSpec, position: i64) -> Self {
        let now = Timestamp::now();
        Self {
            name: name.to_owned(),
            uid: random::uuid(),
            generation: 1,
            policy: json!({ "version": 1, "etag": policy_etag() }),
            position,
            created: now,
            updated: now,
            spec,
            executions: 0,
            latest: None,
        }
    }

    /// Replaces the part that users write. A change of the template increments the generation.
    pub(crate) fn replace(&mut self, spec: JobSpec) {
        self.generation += u64::from(self.spec.template != spec.template);
        self.updated = Timestamp::now();
        self.spec = spec;
    }

    pub(crate) fn resource_version(&self) -> String {
        format!("AAY{:08x}", self.generation)
    }
}

/// A random etag in canonical base64, because gcloud decodes it and encodes it again.
pub(crate) fn policy_etag() -> String {
    format!("BwX{:09x}", random::bits() >> 28)
}
