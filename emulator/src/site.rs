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
}

/// Google's account for whatever runs without another one: that of the project.
pub(crate) fn default_account() -> String {
    format!("{PROJECT_NUMBER}-compute@developer.gserviceaccount.com")
}

/// A time as the v1 API writes it: UTC, microseconds.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}
