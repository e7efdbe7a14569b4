//! The one project and the one region of the emulator.

use jiff::Timestamp;

use crate::refusal::Refusal;

/// The project's number, which Google's answers use in place of its id. Any number works.
pub(crate) const PROJECT_NUMBER: &str = "123456789012";

/// The project and the region.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) project: String,
    pub(crate) region: String,
}

impl Site {
    /// Whether this names the project, by its id or, as Google allows everywhere, by its number.
    pub(crate) fn is_project(&self, name: &str) -> bool {
        name == self.project || name == PROJECT_NUMBER
    }

    /// Google's message for a resource that does not exist; `kind` is `JOB`, `EXECUTION` or `TASK`.
    pub(crate) fn missing(&self, kind: &str, name: &str) -> Refusal {
        let Self { project, region } = self;
        Refusal::not_found(format!(
            "Resource '{name}' of kind '{kind}' in region '{region}' in project '{project}' does not exist."
        ))
    }

    fn location(&self) -> String {
        let Self { project, region } = self;
        format!("projects/{project}/locations/{region}")
    }

    /// The full name of a job in v2, which uses the project's id where v1 uses its number.
    pub(crate) fn job_name(&self, job: &str) -> String {
        format!("{}/jobs/{job}", self.location())
    }

    pub(crate) fn execution_name(&self, job: &str, execution: &str) -> String {
        format!("{}/executions/{execution}", self.job_name(job))
    }

    pub(crate) fn operation_name(&self, id: &str) -> String {
        format!("{}/operations/{id}", self.location())
    }

    /// The page of Google's console that shows the lines of the execution.
    pub(crate) fn log_uri(&self, execution: &str) -> String {
        let project = &self.project;
        let filter = format!(
            "resource.type%3D%22cloud_run_job%22%0Alabels.%22run.googleapis.com%2Fexecution_name%22%3D%22{execution}%22"
        );
        format!(
            "https://console.cloud.google.com/logs/viewer?project={project}&advancedFilter={filter}"
        )
    }
}

/// The default service account of the project, under which jobs run that name no other.
pub(crate) fn default_account() -> String {
    format!("{PROJECT_NUMBER}-compute@developer.gserviceaccount.com")
}

/// A time as both APIs write it: in UTC, with microseconds.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}
