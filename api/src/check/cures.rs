//! The commands that correct what the doctor finds.

use axum::http::StatusCode;

use crate::config::Config;
use crate::gcp::client::Error;
use crate::gcp::metadata::ProjectRegion;

/// The weakest of Google's own roles that may start and cancel.
const EXECUTOR: &str = "roles/run.jobsExecutorWithOverrides";
/// The permissions to read that the service needs in the project, and the custom role with only these. `build-deploy-api.sh`
/// creates it.
const READS: &str = "logging.logEntries.list,run.executions.get,run.executions.list,run.jobs.get";
const READER: &str = "testInvokeJobApi";
const DATASTORE_USER: &str = "roles/datastore.user";
pub(super) const SCRIPT: &str = "./build-deploy-api.sh";

/// Google's names of causes (google.rpc.ErrorInfo): the API was never enabled in the project; the project does not exist, or the
/// caller may not see it.
const SERVICE_DISABLED: &str = "SERVICE_DISABLED";
const NO_PROJECT: [&str; 3] = [
    "CONSUMER_INVALID",
    "USER_PROJECT_DENIED",
    "RESOURCE_PROJECT_INVALID",
];

/// Google's APIs that the service calls.
#[derive(Clone, Copy, Debug)]
pub(super) enum Api {
    CloudRun,
    CloudLogging,
    Firestore,
}

impl Api {
    fn host(self) -> &'static str {
        match self {
            Self::CloudRun => "run.googleapis.com",
            Self::CloudLogging => "logging.googleapis.com",
            Self::Firestore => "firestore.googleapis.com",
        }
    }
}

/// Makes the commands, with the known names of project, region and job. The kind of an error decides which one applies.
pub(super) struct Cures {
    pub(super) account: String,
    pub(super) place: ProjectRegion,
    /// The unnamed process's job.
    pub(super) job: String,
    /// Settings that send an API's calls to another URL.
    leads: [Option<&'static str>; 3],
}

impl Cures {
    pub(super) fn new(account: String, place: ProjectRegion, job: &str, config: &Config) -> Self {
        let set = |is_set: bool, variable| is_set.then_some(variable);
        let elsewhere =
            config.cloud_logging.base_url != format!("https://{}", Api::CloudLogging.host());
        Self {
            account,
            place,
            job: job.to_owned(),
            leads: [
                set(
                    config.cloud_run.base_url.is_some(),
                    "API__CLOUD_RUN__BASE_URL",
                ),
                set(elsewhere, "API__CLOUD_LOGGING__BASE_URL"),
                set(
                    config.platform.firestore_host.is_some(),
                    "FIRESTORE_EMULATOR_HOST",
                ),
            ],
        }
    }

    /// The cure of a call that failed with this error. `forbidden` is the command that grants the permission.
    pub(super) fn of(&self, error: &Error, api: Api, forbidden: String) -> Option<String> {
        match error {
            Error::Refused { status, reason, .. } => match reason.as_deref() {
                Some(SERVICE_DISABLED) => Some(format!(
                    "gcloud services enable {} --project={}",
                    api.host(),
                    self.place.project
                )),
                Some(reason) if NO_PROJECT.contains(&reason) => Some(self.the_project()),
                _ if *status == StatusCode::FORBIDDEN => Some(forbidden),
                _ => None,
            },
            Error::NoEffect(_)
            | Error::NoResponse(_)
            | Error::Unreadable(_)
            | Error::NotTheApi(_) => Some(self.the_way_to(api)),
            Error::Metadata(_) | Error::TooLarge(_) => None,
        }
    }

    /// The cure of calls that do not reach the API.
    fn the_way_to(&self, api: Api) -> String {
        match (self.leads[api as usize], api) {
            (Some(variable), _) => format!("unset {variable} # or correct it"),
            (None, Api::CloudRun) => format!(
                "gcloud run regions list --project={} # is {} one of them?",
                self.place.project, self.place.region
            ),
            (None, api) => format!("curl --verbose https://{}", api.host()),
        }
    }

    pub(super) fn the_project(&self) -> String {
        let project = &self.place.project;
        format!(
            "gcloud projects describe {project} # does it exist? if not: export API__CLOUD_RUN__PROJECT=…\n{}",
            self.reads()
        )
    }

    /// Grants the permission to start and to cancel.
    pub(super) fn starts(&self, job: &str) -> String {
        format!(
            "gcloud run jobs add-iam-policy-binding {job} --member=serviceAccount:{} --role={EXECUTOR} {}",
            self.account,
            self.place()
        )
    }

    /// Grants only the permissions to read.
    pub(super) fn reads(&self) -> String {
        let (account, project) = (&self.account, &self.place.project);
        format!(
            "gcloud iam roles create {READER} --project={project} --permissions={READS} --stage=GA # unless {SCRIPT} made it
gcloud projects add-iam-policy-binding {project} --member=serviceAccount:{account} --role=projects/{project}/roles/{READER} --condition=None"
        )
    }

    /// Grants the permission to keep leases, in one database.
    pub(super) fn leases(&self) -> String {
        let (account, project) = (&self.account, &self.place.project);
        format!(
            "gcloud projects add-iam-policy-binding {project} --member=serviceAccount:{account} --role={DATASTORE_USER} \
'--condition=expression=resource.name == \"projects/{project}/databases/(default)\",title=one-database'"
        )
    }

    fn place(&self) -> String {
        format!(
            "--region={} --project={}",
            self.place.region, self.place.project
        )
    }

    /// Makes arguments reach a program.
    pub(super) fn arguments(&self, job: &str) -> String {
        let command = self.update(job, "--command=PROGRAM");
        format!(
            "ENTRYPOINT [\"PROGRAM\"] # in the Dockerfile, in place of CMD; or:\n{command} # or:\noverrides.args = [] # in the settings, if the job reads SCOPE"
        )
    }

    pub(super) fn update(&self, job: &str, flags: &str) -> String {
        format!("gcloud run jobs update {job} {flags} {}", self.place())
    }

    pub(super) fn for_job(&self, job: &str, error: &Error) -> Option<String> {
        match status(error) {
            Some(StatusCode::NOT_FOUND) => Some(format!(
                "gcloud run jobs deploy {job} --image=IMAGE --max-retries=0 {}",
                self.place()
            )),
            _ => self.of(error, Api::CloudRun, self.reads()),
        }
    }
}

pub(super) fn status(error: &Error) -> Option<StatusCode> {
    match error {
        Error::Refused { status, .. } => Some(*status),
        _ => None,
    }
}

/// Google's message, or ours if there was no answer.
pub(super) fn trouble(error: &Error) -> String {
    match error {
        Error::Refused {
            status, message, ..
        } => format!("Google {status}: {message}"),
        error => error.to_string(),
    }
}
