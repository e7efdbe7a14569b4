//! `api check`: a doctor. Does what the service will do, as far as that harms nothing, and says what is amiss and how to mend it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, StatusCode, Uri};
use bytes::Bytes;
use reqwest::Client;
use serde::Serialize;
use serde_json::{Value, json};

use crate::auth::Auth;
use crate::caller_id::CallerId;
use crate::config::{self, Config, Invalid, WholeProcess};
use crate::gcp::client::{Call, Error, Google, not_a_uri};
use crate::gcp::cloud_logging::{self, Only, PageSize};
use crate::gcp::cloud_run::Job;
use crate::gcp::http_client::{self, HttpClients};
use crate::gcp::log_budget::Priority;
use crate::gcp::metadata::{self, Place};
use crate::telemetry;
use crate::{App, FIRESTORE};

/// With more than this of the job's own variables and arguments, in bytes, Cloud Run's list takes more calls.
const LIGHT_JOB_BYTES: usize = 4 * 1024;
/// What a start needs on the job: `runWithOverrides` comes with no role but the one below and stronger ones.
const STARTING: [&str; 2] = ["run.jobs.run", "run.jobs.runWithOverrides"];
const CANCELLING: &str = "run.executions.cancel";
/// The weakest of Google's own roles that has the permissions.
const EXECUTOR: &str = "roles/run.jobsExecutorWithOverrides";
/// What the service reads in the project, and the custom role that has that and nothing else. `build-deploy-api.sh` makes it.
const READS: &str = "logging.logEntries.list,run.executions.get,run.executions.list,run.jobs.get";
const READER: &str = "testInvokeJobApi";
const DATASTORE_USER: &str = "roles/datastore.user";
const SCRIPT: &str = "./build-deploy-api.sh";

/// Google's names of causes (google.rpc.ErrorInfo): the API was never switched on in the project; there is no such project,
/// or none that we may name.
const SERVICE_DISABLED: &str = "SERVICE_DISABLED";
const NO_PROJECT: [&str; 3] = [
    "CONSUMER_INVALID",
    "USER_PROJECT_DENIED",
    "RESOURCE_PROJECT_INVALID",
];

/// How long an answer to what only the doctor asks may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer to that, in bytes.
const MAX_BYTES: usize = 64 * 1024;

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
    /// The command that mends it, or several, a line each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

/// Everything that was looked at, in order.
#[derive(Debug, Default)]
pub struct Report {
    findings: Vec<Finding>,
    settings: Option<Summary>,
}

/// What a deploy has to know of settings that fit together: whom to grant what, and how many requests fit into an instance.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    jobs: Vec<String>,
    in_flight: u32,
    streams: u32,
}

impl Summary {
    fn of(app: &App, config: &Config) -> Self {
        let jobs: BTreeSet<_> = app
            .processes
            .iter()
            .map(|process| process.target.job().to_owned())
            .collect();
        Self {
            jobs: jobs.into_iter().collect(),
            in_flight: config.limits.in_flight,
            streams: config.limits.streams,
        }
    }
}

impl Report {
    /// Whether the service can work; warnings do not count.
    pub fn is_well(&self) -> bool {
        let failed = |finding: &Finding| finding.verdict == Verdict::Failed;
        !self.findings.iter().any(failed)
    }

    /// `{"ok": …, "findings": […], "settings": {…}}`; `settings` only if they fit together.
    pub fn json(&self) -> Value {
        let mut report = json!({ "ok": self.is_well(), "findings": self.findings });
        if let Some(settings) = &self.settings {
            report["settings"] = json!(settings);
        }
        report
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
            for line in finding.cure.iter().flat_map(|cure| cure.lines()) {
                writeln!(f, "    {line}")?;
            }
        }
        Ok(())
    }
}

/// Looks at everything that a service of these settings needs. Starts nothing and leaves nothing behind.
pub async fn check(settings: Result<Config, Invalid>) -> Report {
    let mut report = Report::default();
    if let Some((app, config)) = made(settings, &mut report) {
        look(&app, &config, &mut report).await;
    }
    report
}

/// Looks at the settings alone; nothing is sent to anybody.
pub fn settings(settings: Result<Config, Invalid>) -> Report {
    let mut report = Report::default();
    made(settings, &mut report);
    report
}

/// The service that these settings make, if they make one.
fn made(settings: Result<Config, Invalid>, report: &mut Report) -> Option<(App, Config)> {
    let made = settings.and_then(|config| {
        telemetry::checked(&config.log)?;
        Ok((App::new(&config)?, config))
    });
    match made {
        Ok((app, config)) => {
            report.ok("settings", "they fit together");
            report.settings = Some(Summary::of(&app, &config));
            Some((app, config))
        }
        Err(invalid) => {
            report.fail("settings", invalid.to_string(), None);
            None
        }
    }
}

async fn look(app: &App, config: &Config, report: &mut Report) {
    access(&app.auth, config, report).await;
    let Some(cures) = identity(app, config, report).await else {
        return report.fail("the rest", "not looked at: it needs the above", None);
    };
    let reads = Reads::of(app, &cures.job).await;
    if reads.are_all_forbidden() {
        let found = format!(
            "Google refuses every read in project {}: it does not exist, or {} has no role in it",
            cures.place.project, cures.account
        );
        report.fail("project", found, Some(cures.the_project()));
    }
    look_at_jobs(app, config, &cures, report).await;
    reads.tell(&cures, report);
    if config.idempotency.store == config::Store::Firestore {
        store(app, config, &cures, report).await;
    }
}

/// Who may call, and whether we can tell.
async fn access(auth: &Auth, config: &Config, report: &mut Report) {
    match auth {
        Auth::Public(_) if config.platform.cloud_run => {
            let found = "anyone who reaches the service may do everything";
            let cure = "export API__AUTH__MODE=iam";
            report.warn("access", found, Some(cure.to_owned()));
        }
        Auth::Public(_) => report.ok("access", "anyone who reaches the service"),
        Auth::Iam(_) => report.ok("access", "whoever Cloud Run's IAM lets through"),
        Auth::Bearer(tokens) => {
            match tokens.try_keys().await {
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
            }
            audience(&config.auth.jwt.audience, report);
            // The presets know their issuers.
            if config.auth.jwt.preset.is_empty() && !config.auth.jwt.issuer.is_empty() {
                issuer(&config.auth.jwt.issuer, report).await;
            }
        }
    }
}

/// The audience is one text, which a token has as it is.
fn audience(audience: &str, report: &mut Report) {
    if let Some((first, _)) = audience.split_once([',', ' ']) {
        let found = format!(
            "{audience:?} is looked for as it is, comma and blank included: there is one audience, not a list"
        );
        let cure = format!("export API__AUTH__JWT__AUDIENCE={first}");
        report.warn("audience", found, Some(cure));
    }
}

/// What the issuer says of itself (OpenID Connect Discovery 1.0, section 4): tokens have that as `iss`, to the letter.
async fn issuer(issuer: &str, report: &mut Report) {
    let root = issuer.trim_end_matches('/');
    let url = format!("{root}/.well-known/openid-configuration");
    let answer = match HttpClients::new() {
        Ok(clients) => described_issuer(&clients.reqwest, &url).await,
        Err(error) => Err(error.to_string()),
    };
    match answer {
        Ok(told) if told == issuer => report.ok("issuer", format!("{issuer} calls itself so")),
        Ok(told) => {
            let found = format!("{issuer} calls itself {told}, so that no token's iss can match");
            let cure = format!("export API__AUTH__JWT__ISSUER={told}");
            report.fail("issuer", found, Some(cure));
        }
        Err(why) => report.warn(
            "issuer",
            format!("{issuer} does not say who it is, so check that it is a token's iss to the letter: {why}"),
            Some(format!("curl --fail {url}")),
        ),
    }
}

async fn described_issuer(http: &Client, url: &str) -> Result<String, String> {
    let answer = http.get(url).timeout(TIMEOUT).send().await;
    let answer = answer.map_err(|error| http_client::describe(&error))?;
    if !answer.status().is_success() {
        return Err(format!("it answered {}", answer.status()));
    }
    let answer = axum::http::Response::from(answer);
    let body = http_client::read_capped(answer.into_body(), MAX_BYTES).await;
    let body = body.map_err(|error| error.to_string())?;
    let described: Value = serde_json::from_slice(&body).unwrap_or_default();
    let told = described["issuer"].as_str();
    told.map(str::to_owned)
        .ok_or_else(|| "its answer names no issuer".to_owned())
}

/// Google's APIs that the service calls.
#[derive(Clone, Copy, Debug)]
enum Api {
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

/// The commands that mend things, with all that is known of the place filled in. The kind of an error chooses among them.
struct Cures {
    account: String,
    place: Place,
    /// The unnamed process's job.
    job: String,
    /// Settings that lead an API's calls elsewhere.
    leads: [Option<&'static str>; 3],
}

impl Cures {
    fn new(account: String, place: Place, job: &str, config: &Config) -> Self {
        let set = |is_set: bool, variable| is_set.then_some(variable);
        let elsewhere =
            config.cloud_logging.base_url != format!("https://{}", Api::CloudLogging.host());
        Self {
            account,
            place,
            job: job.to_owned(),
            leads: [
                set(
                    !config.cloud_run.base_url.is_empty(),
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

    /// Mends a call that failed in this way; `forbidden` is the command that gives the permission.
    fn of(&self, error: &Error, api: Api, forbidden: String) -> Option<String> {
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

    /// Mends calls that do not reach the API.
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

    fn the_project(&self) -> String {
        let project = &self.place.project;
        format!(
            "gcloud projects describe {project} # does it exist? if not: export API__CLOUD_RUN__PROJECT=…\n{}",
            self.reads()
        )
    }

    /// Gives the permission to start and to cancel.
    fn starts(&self, job: &str) -> String {
        format!(
            "gcloud run jobs add-iam-policy-binding {job} --member=serviceAccount:{} --role={EXECUTOR} {}",
            self.account,
            self.place()
        )
    }

    /// Gives the permissions to read, and no others.
    fn reads(&self) -> String {
        let (account, project) = (&self.account, &self.place.project);
        format!(
            "gcloud iam roles create {READER} --project={project} --permissions={READS} --stage=GA # unless {SCRIPT} made it
gcloud projects add-iam-policy-binding {project} --member=serviceAccount:{account} --role=projects/{project}/roles/{READER} --condition=None"
        )
    }

    /// Gives the permission to keep claims, in one database.
    fn claims(&self) -> String {
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

    fn update(&self, job: &str, flags: &str) -> String {
        format!("gcloud run jobs update {job} {flags} {}", self.place())
    }

    fn for_job(&self, job: &str, error: &Error) -> Option<String> {
        match status(error) {
            Some(StatusCode::NOT_FOUND) => Some(format!(
                "gcloud run jobs deploy {job} --image=IMAGE --max-retries=0 {}",
                self.place()
            )),
            _ => self.of(error, Api::CloudRun, self.reads()),
        }
    }
}

fn status(error: &Error) -> Option<StatusCode> {
    match error {
        Error::Refused { status, .. } => Some(*status),
        _ => None,
    }
}

/// Google's words, or ours where Google said nothing.
fn trouble(error: &Error) -> String {
    match error {
        Error::Refused {
            status, message, ..
        } => format!("Google {status}: {message}"),
        error => error.to_string(),
    }
}

/// Who we are and where; nothing else can be asked without.
async fn identity(app: &App, config: &Config, report: &mut Report) -> Option<Cures> {
    let job = app.processes.unnamed().target.job();
    let account = app.location.metadata().account().await;
    let token = app.token.bearer().await;
    match (&token, &account) {
        (Ok(_), Ok(account)) => report.ok("token", format!("it is {account}'s")),
        (Ok(_), Err(error)) => report.warn("token", format!("whose it is not told: {error}"), None),
        (Err(error), _) => {
            let cure = match error {
                metadata::Error::Unreachable(_) => format!(
                    "{SCRIPT} --check # on Cloud Run\ncargo run -- --project PROJECT --region REGION --job {job} # here"
                ),
                metadata::Error::Unusable { .. } => {
                    "echo $GCE_METADATA_HOST # is that a metadata server?".to_owned()
                }
            };
            report.fail("token", error.to_string(), Some(cure));
        }
    }
    let place = app.location.get().await;
    match &place {
        Ok(place) => report.ok(
            "place",
            format!("project {}, region {}", place.project, place.region),
        ),
        Err(error) => {
            // Names would not help where no token can be had.
            let cure = "export API__CLOUD_RUN__PROJECT=PROJECT API__CLOUD_RUN__REGION=REGION";
            report.fail(
                "place",
                error.to_string(),
                token.is_ok().then(|| cure.to_owned()),
            );
        }
    }
    token.ok()?;
    let account = account.unwrap_or_else(|_| "SERVICE_ACCOUNT".to_owned());
    Some(Cures::new(account, place.ok()?.clone(), job, config))
}

/// The job of each process. Where there are several processes, each finding names its own.
async fn look_at_jobs(app: &App, config: &Config, cures: &Cures, report: &mut Report) {
    let unnamed = config::Process::default();
    let named = config.processes.iter().map(|(name, own)| (&name[..], own));
    for (name, own) in std::iter::once(("the unnamed process", &unnamed)).chain(named) {
        let begun = report.findings.len();
        look_at_job(app, &own.within(config), cures, report).await;
        if !config.processes.is_empty() {
            for finding in &mut report.findings[begun..] {
                finding.found = format!("{name}: {}", finding.found);
            }
        }
    }
}

async fn look_at_job(app: &App, process: &WholeProcess, cures: &Cures, report: &mut Report) {
    let job = &process.job;
    match app.cloud_run.describe(job).await {
        Ok(described) => {
            report.ok("job", format!("{job} exists"));
            container(&described, &process.container, report);
            own_size(&described, report);
            tasks(&described, process, cures, report);
        }
        Err(error) => report.fail("job", trouble(&error), cures.for_job(job, &error)),
    }
    permissions(app, job, cures, report).await;
}

fn tasks(job: &Job, process: &WholeProcess, cures: &Cures, report: &mut Report) {
    let tasks = process.overrides.task_count.unwrap_or(job.task_count);
    match job.parallelism {
        0 => report.ok("tasks", format!("{tasks}, all at one time")),
        parallelism if parallelism < tasks => report.warn(
            "tasks",
            format!("{tasks}, but no more than {parallelism} at one time"),
            Some(cures.update(&process.job, "--parallelism=0")),
        ),
        parallelism => report.ok("tasks", format!("{tasks}, up to {parallelism} at one time")),
    }
    match job.max_retries {
        0 => report.ok("retries", "none: a task runs once"),
        retries => report.warn(
            "retries",
            format!("a task that fails runs up to {retries} more times; leave that only if it may do its work twice"),
            Some(cures.update(&process.job, "--max-retries=0")),
        ),
    }
}

/// Cloud Run's list repeats the job's own variables for every execution.
fn own_size(job: &Job, report: &mut Report) {
    if job.own_bytes <= LIGHT_JOB_BYTES {
        return;
    }
    let kib = job.own_bytes.div_ceil(1024);
    let told = format!(
        "the job's own variables and arguments have {kib} KiB; the list of executions repeats them for each, so that it takes more calls \
         to find what a key has started: keep large values in a secret or a file that the job reads"
    );
    report.warn("size", told, None);
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
async fn permissions(app: &App, job: &str, cures: &Cures, report: &mut Report) {
    match app.cloud_run.granted(job, &STARTING).await {
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
                    Some(cures.starts(job)),
                ),
            }
        }
        Err(error) => report.warn("start", untested(&error), None),
    }
    // Apart: it is a permission on executions, which have no policy of their own, and IAM may not take it for a job's.
    match app.cloud_run.granted(job, &[CANCELLING]).await {
        Ok(granted) if granted.is_empty() => report.fail(
            "cancel",
            format!("no permission: {CANCELLING}"),
            Some(cures.starts(job)),
        ),
        Ok(_) => report.ok("cancel", CANCELLING),
        Err(error) => report.warn("cancel", untested(&error), None),
    }
}

/// IAM's answer is missing, and the thing itself would do harm.
fn untested(error: &Error) -> String {
    format!("not tested, because IAM does not tell: {}", trouble(error))
}

/// What harms nobody is tried: the very reads that the service will make.
struct Reads {
    list: Result<(), Error>,
    follow: Result<(), Error>,
    logs: Result<(), Error>,
}

impl Reads {
    async fn of(app: &App, job: &str) -> Self {
        // A name of this job's that Cloud Run does not give: not to be found is as good as to be found.
        let nobody = format!("{job}-check");
        let lines = cloud_logging::Query {
            execution: &nobody,
            only: Only::All,
            since: None,
            page_token: None,
            size: PageSize::default(),
            caller: CallerId::of("check"),
            priority: Priority::Interactive,
        };
        Self {
            list: app.cloud_run.list(None, 1).await.map(|_| ()),
            follow: app.cloud_run.get(&nobody).await.map(|_| ()),
            logs: match app.cloud_logging.lines(&lines).await {
                Err(cloud_logging::Error::Google(error)) => Err(error),
                // Nobody else reads in this process: neither our own budget nor our memory is spent.
                Err(cloud_logging::Error::Budget(_) | cloud_logging::Error::NoMemory) | Ok(_) => {
                    Ok(())
                }
            },
        }
    }

    fn are_all_forbidden(&self) -> bool {
        let forbidden = |read: &Result<(), Error>| {
            let status = read.as_ref().err().and_then(status);
            status == Some(StatusCode::FORBIDDEN)
        };
        [&self.list, &self.follow, &self.logs]
            .into_iter()
            .all(forbidden)
    }

    fn tell(&self, cures: &Cures, report: &mut Report) {
        let reads = [
            (
                "list",
                &self.list,
                "executions can be listed",
                Api::CloudRun,
            ),
            (
                "follow",
                &self.follow,
                "executions can be read",
                Api::CloudRun,
            ),
            ("logs", &self.logs, "lines can be read", Api::CloudLogging),
        ];
        for (subject, read, works, api) in reads {
            match read {
                Ok(()) => report.ok(subject, works),
                Err(error) => {
                    report.fail(subject, trouble(error), cures.of(error, api, cures.reads()))
                }
            }
        }
    }
}

/// Whether Firestore keeps claims. An empty commit tells first whether the database can be reached and is there.
async fn store(app: &App, config: &Config, cures: &Cures, report: &mut Report) {
    if let Err(error) = commit_nothing(app, config, &cures.place.project).await {
        let (project, region) = (&cures.place.project, &cures.place.region);
        let cure = match status(&error) {
            Some(StatusCode::NOT_FOUND) => Some(format!(
                "gcloud firestore databases create --location={region} --project={project} # or nam5, eur3: docs/deploy.md"
            )),
            _ => cures.of(&error, Api::Firestore, cures.claims()),
        };
        return report.fail("store", trouble(&error), cure);
    }
    match app.starts.check_store().await {
        None | Some(Ok(())) => report.ok("store", "Firestore keeps claims"),
        Some(Err(error)) => report.fail("store", error.to_string(), Some(cures.claims())),
    }
}

async fn commit_nothing(app: &App, config: &Config, project: &str) -> Result<(), Error> {
    let clients = HttpClients::new().map_err(|error| Error::NoEffect(error.to_string()))?;
    let (base, token) = match &config.platform.firestore_host {
        Some(host) => (format!("http://{host}"), None),
        None => (FIRESTORE.to_owned(), Some(Arc::clone(&app.token))),
    };
    let uri: Uri = format!("{base}/v1/projects/{project}/databases/(default)/documents:commit")
        .parse()
        .map_err(not_a_uri)?;
    let call = Call {
        method: Method::POST,
        uri: &uri,
        body: Some(Bytes::from_static(b"{}")),
        timeout: TIMEOUT,
        max_bytes: MAX_BYTES,
    };
    let google = Google::new(clients.google_apis, token);
    google.call(&call).await.map(|_| ())
}
