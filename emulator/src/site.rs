//! The one project and region that the emulator is.

use jiff::Timestamp;

use crate::refusal::Refusal;

/// The project's number, which Google's answers use in place of its id. Any number will do.
pub(crate) const PROJECT_NUMBER: &str = "123456789012";

/// Where everything is.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) project: String,
    pub(crate) region: String,
}

impl Site {
    /// Google takes a project's number wherever it takes its id.
    pub(crate) fn is_project(&self, name: &str) -> bool {
        name == self.project || name == PROJECT_NUMBER
    }

    /// Google's sentence for a thing that does not exist; `kind` is `JOB`, `EXECUTION` or `TASK`.
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

    /// The full name of a job, as v2 has it; v2 says the project's id, v1 its number.
    pub(crate) fn job_name(&self, job: &str) -> String {
        format!("{}/jobs/{job}", self.location())
    }

    pub(crate) fn execution_name(&self, job: &str, execution: &str) -> String {
        format!("{}/executions/{execution}", self.job_name(job))
    }

    pub(crate) fn operation_name(&self, id: &str) -> String {
        format!("{}/operations/{id}", self.location())
    }

    /// The console's page with the execution's lines.
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

/// Google's account for whatever runs without another one: that of the project.
pub(crate) fn default_account() -> String {
    format!("{PROJECT_NUMBER}-compute@developer.gserviceaccount.com")
}

/// A time as the v1 API writes it: UTC, microseconds.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}
