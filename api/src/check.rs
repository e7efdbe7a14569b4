//! `api check`: a doctor. Does what the service will do, as far as that harms nothing, and says what is amiss and how to mend it.

use std::fmt;

use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use crate::App;
use crate::auth::Auth;
use crate::caller_id::CallerId;
use crate::config::{Config, Invalid};
use crate::gcp::client::Error;
use crate::gcp::cloud_logging::{self, PageSize};
use crate::gcp::cloud_run::Job;
use crate::gcp::log_budget::Priority;
use crate::gcp::metadata::Place;
use crate::starts;

/// What a start needs on the job: `runWithOverrides` comes with no role but the one below and stronger ones.
const STARTING: [&str; 2] = ["run.jobs.run", "run.jobs.runWithOverrides"];
const CANCELLING: &str = "run.executions.cancel";
/// The weakest of Google's own roles that has the permissions.
const EXECUTOR: &str = "roles/run.jobsExecutorWithOverrides";
const VIEWER: &str = "roles/run.viewer";
const LOG_VIEWER: &str = "roles/logging.viewer";
const DATASTORE_USER: &str = "roles/datastore.user";

/// How one thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It will work, but perhaps not as meant; or it could not be tested.
    Warning,
    /// It will not work.
    Failed,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// How it is.
    pub verdict: Verdict,
    /// What was looked at, in a word or two.
    pub subject: &'static str,
    /// What was found.
    pub found: String,
    /// The command that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

/// Everything that was looked at, in order.
#[derive(Debug, Default)]
pub struct Report {
    findings: Vec<Finding>,
}

impl Report {
    /// Whether the service can work; warnings do not count.
    pub fn is_well(&self) -> bool {
        let failed = |finding: &Finding| finding.verdict == Verdict::Failed;
        !self.findings.iter().any(failed)
    }

    /// `{"ok": …, "findings": […]}`.
    pub fn json(&self) -> Value {
        json!({ "ok": self.is_well(), "findings": self.findings })
    }

    fn add(
        &mut self,
        verdict: Verdict,
        subject: &'static str,
        found: impl Into<String>,
        cure: Option<String>,
    ) {
        self.findings.push(Finding {
            verdict,
            subject,
            found: found.into(),
            cure,
        });
    }

    fn ok(&mut self, subject: &'static str, found: impl Into<String>) {
        self.add(Verdict::Ok, subject, found, None);
    }

    fn warn(&mut self, subject: &'static str, found: impl Into<String>, cure: Option<String>) {
        self.add(Verdict::Warning, subject, found, cure);
    }

    fn fail(&mut self, subject: &'static str, found: impl Into<String>, cure: Option<String>) {
        self.add(Verdict::Failed, subject, found, cure);
    }
}

/// A line each; what mends it stands below.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            let mark = match finding.verdict {
                Verdict::Ok => '✓',
                Verdict::Warning => '!',
                Verdict::Failed => '✗',
            };
            writeln!(f, "{mark} {}: {}", finding.subject, finding.found)?;
            if let Some(cure) = &finding.cure {
                writeln!(f, "    {cure}")?;
            }
        }
        Ok(())
    }
}

/// Looks at everything that a service of these settings needs. Starts nothing and leaves nothing behind.
pub async fn check(settings: Result<Config, Invalid>) -> Report {
    let mut report = Report::default();
    let made = settings.and_then(|config| Ok((App::new(&config)?, config)));
    match made {
        Ok((app, config)) => {
            report.ok("settings", "they fit together");
            look(&app, &config, &mut report).await;
        }
        Err(invalid) => report.fail("settings", invalid.to_string(), None),
    }
    report
}

async fn look(app: &App, config: &Config, report: &mut Report) {
    access(&app.auth, config.platform.cloud_run, report).await;
    let Some(commands) = identity(app, report).await else {
        return report.fail("the rest", "not looked at: it needs the above", None);
    };
    match app.cloud_run.describe(&commands.job).await {
        Ok(job) => described(&job, config, &commands, report),
        Err(error) => report.fail("job", trouble(&error), commands.for_job(&error)),
    }
    permissions(app, &commands, report).await;
    reads(app, &commands, report).await;
    if let Some(tried) = app.starts.check_store().await {
        store(&tried, &commands, report);
    }
}

/// Who may call, and whether we can tell.
async fn access(auth: &Auth, on_cloud_run: bool, report: &mut Report) {
    match auth {
        Auth::Public(_) if on_cloud_run => {
            let found = "anyone who reaches the service may do everything";
            let cure = "export API__AUTH__MODE=iam";
            report.warn("access", found, Some(cure.to_owned()));
        }
        Auth::Public(_) => report.ok("access", "anyone who reaches the service"),
        Auth::Iam(_) => report.ok("access", "whoever Cloud Run's IAM lets through"),
        Auth::Bearer(tokens) => match tokens.try_keys().await {
            Ok(()) => {
                let of_issuer = tokens.jwks_url().map(|url| format!("keys come from {url}"));
                let found = of_issuer.unwrap_or_else(|| "whoever has a scope token".to_owned());
                report.ok("access", found);
            }
            Err(why) => {
                let cure = format!("curl --fail {}", tokens.jwks_url().unwrap_or_default());
                let found = format!("no keys to check tokens with: {why}");
                report.fail("access", found, Some(cure));
            }
        },
    }
}

/// The commands that mend things, with all that is known of the place filled in.
struct Commands {
    account: String,
    place: Place,
    job: String,
}

impl Commands {
    fn on_the_job(&self, role: &str) -> String {
        let Self { account, job, .. } = self;
        format!(
            "gcloud run jobs add-iam-policy-binding {job} --member=serviceAccount:{account} --role={role} {}",
            self.place()
        )
    }

    fn in_the_project(&self, role: &str) -> String {
        let (account, project) = (&self.account, &self.place.project);
        format!(
            "gcloud projects add-iam-policy-binding {project} --member=serviceAccount:{account} --role={role}"
        )
    }

    fn place(&self) -> String {
        format!(
            "--region={} --project={}",
            self.place.region, self.place.project
        )
    }

    fn update(&self, flags: &str) -> String {
        format!(
            "gcloud run jobs update {} {flags} {}",
            self.job,
            self.place()
        )
    }

    /// Mends a read of the API `host` that was refused.
    fn for_read(&self, error: &Error, host: &str, role: &str) -> Option<String> {
        match error {
            Error::Refused { message, .. } if is_off(message) => Some(format!(
                "gcloud services enable {host} --project={}",
                self.place.project
            )),
            _ if has_status(error, StatusCode::FORBIDDEN) => Some(self.in_the_project(role)),
            _ => None,
        }
    }

    fn for_job(&self, error: &Error) -> Option<String> {
        match has_status(error, StatusCode::NOT_FOUND) {
            true => Some(format!(
                "gcloud run jobs deploy {} --image=IMAGE --max-retries=0 {}",
                self.job,
                self.place()
            )),
            false => self.for_read(error, "run.googleapis.com", VIEWER),
        }
    }
}

/// Google's words where an API was never switched on in the project; the status is 403 there too.
fn is_off(message: &str) -> bool {
    message.contains("has not been used in project") || message.contains("it is disabled")
}

fn has_status(error: &Error, expected: StatusCode) -> bool {
    matches!(error, Error::Refused { status, .. } if *status == expected)
}

fn trouble(error: &Error) -> String {
    match error {
        Error::Refused {
            status, message, ..
        } => format!("Google {status}: {message}"),
        error => error.to_string(),
    }
}

/// Who we are and where; nothing else can be asked without.
async fn identity(app: &App, report: &mut Report) -> Option<Commands> {
    let account = app.location.metadata().account().await;
    let token = app.token.bearer().await;
    match (&token, &account) {
        (Ok(_), Ok(account)) => report.ok("token", format!("it is {account}'s")),
        (Ok(_), Err(error)) => report.warn("token", format!("whose it is not told: {error}"), None),
        (Err(error), _) => report.fail("token", error.to_string(), None),
    }
    let place = app.location.get().await;
    match &place {
        Ok(place) => report.ok(
            "place",
            format!("project {}, region {}", place.project, place.region),
        ),
        Err(error) => {
            let cure = "export API__CLOUD_RUN__PROJECT=PROJECT API__CLOUD_RUN__REGION=REGION";
            report.fail("place", error.to_string(), Some(cure.to_owned()));
        }
    }
    token.ok()?;
    Some(Commands {
        account: account.unwrap_or_else(|_| "SERVICE_ACCOUNT".to_owned()),
        place: place.ok()?.clone(),
        job: app.processes.unnamed().target.job().to_owned(),
    })
}

fn described(job: &Job, config: &Config, commands: &Commands, report: &mut Report) {
    report.ok("job", format!("{} exists", commands.job));
    container(job, &config.cloud_run.container, report);
    let tasks = config.overrides.task_count.unwrap_or(job.task_count);
    match job.parallelism {
        0 => report.ok("tasks", format!("{tasks}, all at one time")),
        parallelism if parallelism < tasks => report.warn(
            "tasks",
            format!("{tasks}, but no more than {parallelism} at one time"),
            Some(commands.update("--parallelism=0")),
        ),
        parallelism => report.ok("tasks", format!("{tasks}, up to {parallelism} at one time")),
    }
    match job.max_retries {
        0 => report.ok("retries", "none: a task runs once"),
        retries => report.warn(
            "retries",
            format!("a task that fails runs up to {retries} more times; leave that only if it may do its work twice"),
            Some(commands.update("--max-retries=0")),
        ),
    }
}

/// Google applies an override with a name to a job's only container whatever that is called; we read the scope back by the name.
fn container(job: &Job, wanted: &str, report: &mut Report) {
    let names: Vec<_> = job.containers.iter().flatten().cloned().collect();
    let choose = || {
        let first = names.first().map_or("", String::as_str);
        Some(format!("export API__CLOUD_RUN__CONTAINER={first}"))
    };
    match wanted {
        "" if job.containers.len() > 1 => report.fail(
            "container",
            format!(
                "the job has several ({}): say which one gets the overrides",
                names.join(", ")
            ),
            choose(),
        ),
        "" => report.ok("container", "the only one"),
        name if names.iter().any(|own| own == name) => report.ok("container", name),
        name => report.fail(
            "container",
            format!("the job has none named {name}"),
            if names.is_empty() {
                Some("unset API__CLOUD_RUN__CONTAINER".to_owned())
            } else {
                choose()
            },
        ),
    }
}

/// What cannot be tried without harm is asked of IAM.
async fn permissions(app: &App, commands: &Commands, report: &mut Report) {
    match app.cloud_run.granted(&commands.job, &STARTING).await {
        Ok(granted) => {
            let missing: Vec<_> = STARTING
                .into_iter()
                .filter(|wanted| !granted.iter().any(|own| own == wanted))
                .collect();
            match missing.is_empty() {
                true => report.ok("start", STARTING.join(", ")),
                false => report.fail(
                    "start",
                    format!("no permission: {}", missing.join(", ")),
                    Some(commands.on_the_job(EXECUTOR)),
                ),
            }
        }
        Err(error) => report.warn("start", untested(&error), None),
    }
    // Apart: it is a permission on executions, which have no policy of their own, and IAM may not take it for a job's.
    match app.cloud_run.granted(&commands.job, &[CANCELLING]).await {
        Ok(granted) if granted.is_empty() => report.fail(
            "cancel",
            format!("no permission: {CANCELLING}"),
            Some(commands.on_the_job(EXECUTOR)),
        ),
        Ok(_) => report.ok("cancel", CANCELLING),
        Err(error) => report.warn("cancel", untested(&error), None),
    }
}

fn untested(error: &Error) -> String {
    format!("could not be tested without doing it: {}", trouble(error))
}

/// What harms nobody is tried: the very reads that the service will make.
async fn reads(app: &App, commands: &Commands, report: &mut Report) {
    // A name of this job's that Cloud Run does not give: not to be found is as good as to be found.
    let nobody = format!("{}-check", commands.job);
    let run = |error: &Error| commands.for_read(error, "run.googleapis.com", VIEWER);
    match app.cloud_run.list(None, 1).await {
        Ok(_) => report.ok("list", "executions can be listed"),
        Err(error) => report.fail("list", trouble(&error), run(&error)),
    }
    match app.cloud_run.get(&nobody).await {
        Ok(_) => report.ok("follow", "executions can be read"),
        Err(error) => report.fail("follow", trouble(&error), run(&error)),
    }
    let lines = cloud_logging::Query {
        execution: &nobody,
        since: None,
        page_token: None,
        size: PageSize::default(),
        caller: CallerId::of("check"),
        priority: Priority::Interactive,
    };
    match app.cloud_logging.lines(&lines).await {
        Ok(_) => report.ok("logs", "lines can be read"),
        Err(cloud_logging::Error::Google(error)) => {
            let cure = commands.for_read(&error, "logging.googleapis.com", LOG_VIEWER);
            report.fail("logs", trouble(&error), cure);
        }
        Err(error) => report.fail("logs", error.to_string(), None),
    }
}

fn store(tried: &Result<(), starts::Error>, commands: &Commands, report: &mut Report) {
    let Err(error) = tried else {
        return report.ok("store", "Firestore keeps claims");
    };
    let cause = error.to_string();
    let (project, region) = (&commands.place.project, &commands.place.region);
    let cure = if cause.contains("database") {
        format!("gcloud firestore databases create --location={region} --project={project}")
    } else if is_off(&cause) {
        format!("gcloud services enable firestore.googleapis.com --project={project}")
    } else {
        commands.in_the_project(DATASTORE_USER)
    };
    report.fail("store", cause, Some(cure));
}
