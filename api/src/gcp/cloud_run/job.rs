//! Reads the job itself and our permissions on it. Only the doctor needs them, no start does.
//!
//! Source: Google's reference for `namespaces.jobs.get` and `projects.locations.jobs.testIamPermissions`, v1.

use serde::Deserialize;
use serde_json::json;

use super::{CloudRun, MAX_EXECUTION_BYTES, READ_TIMEOUT, post};
use crate::gcp::client::{self, Error};

/// Cloud Run's defaults for fields that a job leaves out (Cloud Run, "Create jobs").
const DEFAULT_TASKS: u32 = 1;
const DEFAULT_RETRIES: u32 = 3;

/// The job as it is deployed.
pub struct Job {
    /// Its containers, in the order of its specification.
    pub containers: Vec<JobContainer>,
    /// Tasks of an execution.
    pub task_count: u32,
    /// Tasks that run at the same time; 0 for all of them.
    pub parallelism: u32,
    /// Attempts of a task after the first.
    pub max_retries: u32,
    /// Bytes of its containers' own variables and arguments. Each of its executions repeats them.
    pub own_bytes: usize,
}

/// One container of a job.
#[derive(Deserialize)]
pub struct JobContainer {
    /// The only container of a job may have no name.
    pub name: Option<String>,
    /// Replaces the ENTRYPOINT of the image; empty if the image's is executed.
    #[serde(default)]
    pub command: Vec<String>,
    /// Replace the CMD of the image; empty if the image's is used.
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
}

#[derive(Deserialize)]
struct Variable {
    name: String,
    /// None if the value is a secret's: Cloud Run does not return it.
    #[serde(default)]
    value: Option<String>,
}

impl Job {
    /// The container that gets the overrides: the one of this name; without a name, the first.
    pub fn overridden(&self, name: Option<&str>) -> Option<&JobContainer> {
        match name {
            None => self.containers.first(),
            name => self
                .containers
                .iter()
                .find(|container| container.name.as_deref() == name),
        }
    }
}

impl JobContainer {
    /// Whether its own environment has this variable with a value that can be read.
    pub fn sets(&self, variable: &str) -> bool {
        self.env
            .iter()
            .any(|own| own.name == variable && own.value.is_some())
    }

    fn bytes(&self) -> usize {
        let args = self.args.iter().map(String::len);
        let env = self
            .env
            .iter()
            .map(|variable| variable.name.len() + variable.value.as_ref().map_or(0, String::len));
        args.chain(env).sum()
    }

    /// Reads an empty name as None.
    fn normalised(self) -> Self {
        Self {
            name: self.name.filter(|name| !name.is_empty()),
            ..self
        }
    }
}

impl CloudRun {
    /// The job as it is deployed.
    pub async fn describe(&self, job: &str) -> Result<Job, Error> {
        let uri = self.uri(&format!("jobs/{job}")).await?;
        let answer = self.read(&uri, MAX_EXECUTION_BYTES).await?;
        let GoogleJob { spec } = client::json(&answer)?;
        let execution = spec.template.spec;
        let task = execution.template.spec;
        let own_bytes = task.containers.iter().map(JobContainer::bytes).sum();
        let containers = task.containers.into_iter();
        Ok(Job {
            own_bytes,
            containers: containers.map(JobContainer::normalised).collect(),
            task_count: execution.task_count.unwrap_or(DEFAULT_TASKS),
            parallelism: execution.parallelism.unwrap_or(0),
            max_retries: task.max_retries.unwrap_or(DEFAULT_RETRIES),
        })
    }

    /// Those of the permissions that we have on the job. Testing a permission does not use it.
    pub async fn granted(&self, job: &str, permissions: &[&str]) -> Result<Vec<String>, Error> {
        let place = self.location.get().await?;
        let (root, project, region) = (self.root(place), &place.project, &place.region);
        let job = format!("projects/{project}/locations/{region}/jobs/{job}");
        let uri = format!("{root}/v1/{job}:testIamPermissions").parse();
        let uri = uri.map_err(client::not_a_uri)?;
        let body = json!({ "permissions": permissions }).to_string();
        let answer = self
            .google
            .call(&post(&uri, body.into(), READ_TIMEOUT))
            .await?;
        let granted: Granted = client::json(&answer)?;
        Ok(granted.permissions)
    }
}

#[derive(Deserialize)]
struct Granted {
    #[serde(default)]
    permissions: Vec<String>,
}

#[derive(Deserialize)]
struct GoogleJob {
    spec: Template<ExecutionSpec>,
}

#[derive(Deserialize)]
struct Template<T> {
    template: Spec<T>,
}

#[derive(Deserialize)]
struct Spec<T> {
    spec: T,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecutionSpec {
    task_count: Option<u32>,
    parallelism: Option<u32>,
    template: Spec<TaskSpec>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TaskSpec {
    #[serde(default)]
    containers: Vec<JobContainer>,
    max_retries: Option<u32>,
}
