//! Cloud Run's v1 REST API: run a job; get, list and cancel its executions. Google's JSON stays in here.
//!
//! Source of every path and field: Google's reference for `namespaces.jobs` and `namespaces.executions`, v1.

mod job;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::{Method, StatusCode, Uri};
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

pub use self::job::{Job, JobContainer};
use crate::execution::{self, Condition, Execution, Links, Tasks};
use crate::gcp::client::{self, Call, Error, Google};
use crate::gcp::metadata::{Location, ProjectRegion};
use crate::overrides::{Args, INVOCATION_ID, Overrides, PARAMETERS, PROCESS, SCOPE};
use crate::scope::{ProcessName, Scope};

/// How long reading one execution, a page of a list, or a cancellation may take.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// How long starting an execution may take.
pub const RUN_TIMEOUT: Duration = Duration::from_secs(5);
/// The initial capacity for the body of a start, in bytes.
const TYPICAL_BODY_BYTES: usize = 512;
/// The largest answer about one execution, in bytes.
const MAX_EXECUTION_BYTES: usize = 1024 * 1024;
/// The largest page of a list, in bytes.
const MAX_LIST_BYTES: usize = 8 * 1024 * 1024;

/// Page sizes, in executions. One execution may have 64 KiB of arguments and values besides the job's own environment.
const PAGE_SIZES: [usize; 4] = [500, 100, 20, 1];

/// The jobs of one project and region.
pub struct CloudRun {
    google: Google,
    location: Arc<Location>,
    base_url: Option<String>,
    targets: Vec<Arc<Target>>,
    /// The page size, chosen by the last page so that the next one stays below the cap.
    page_size: AtomicUsize,
}

/// The job that a process starts.
pub struct Target {
    /// None for the unnamed process.
    process: Option<ProcessName>,
    job: String,
    /// The container that gets the overrides; none if the job has one only.
    container: Option<String>,
    run_uri: OnceCell<Uri>,
}

impl Target {
    /// Makes no call to Google yet.
    pub fn new(process: Option<ProcessName>, job: &str, container: Option<&str>) -> Self {
        Self {
            process,
            job: job.to_owned(),
            container: container.map(str::to_owned),
            run_uri: OnceCell::new(),
        }
    }

    /// The job's name.
    pub fn job(&self) -> &str {
        &self.job
    }

    /// The process, unless it is the unnamed one.
    pub fn process(&self) -> Option<&ProcessName> {
        self.process.as_ref()
    }

    /// Whether Cloud Run could have given an execution of this job the name: `JOB-` and a suffix. No other name is put into a path.
    fn may_have(&self, execution: &str) -> bool {
        let suffix = execution
            .strip_prefix(&self.job)
            .and_then(|rest| rest.strip_prefix('-'));
        suffix.is_some_and(|suffix| {
            let legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
            (1..=63).contains(&suffix.len()) && suffix.bytes().all(legal)
        })
    }

    /// The variable's value in the environment of the execution.
    fn variable<'a>(&self, theirs: &'a GoogleExecution<'_>, name: &str) -> Option<&'a str> {
        let containers = &theirs.spec.template.spec.containers;
        let container = match &self.container {
            Some(container) => containers
                .iter()
                .find(|c| c.name.as_deref() == Some(container)),
            None => containers.first(),
        };
        let variable = container?
            .env
            .iter()
            .find(|variable| variable.name == name)?;
        variable.value.as_deref()
    }
}

/// A page of the job's executions, newest first.
pub struct Page {
    /// Executions of the job. Those without a scope are left out, since no caller could reach them.
    pub executions: Vec<Execution>,
    /// How many executions the page has, those left out included.
    pub listed: usize,
    /// When the first one was created, those left out included.
    pub newest: Option<Timestamp>,
    /// When the last one was created, those left out included.
    pub oldest: Option<Timestamp>,
    /// The token of the next page.
    pub next: Option<String>,
}

impl CloudRun {
    /// Without a `base_url` the regional endpoint is called. `targets` are the jobs of the processes, that of the unnamed process first.
    pub fn new(
        google: Google,
        location: Arc<Location>,
        base_url: Option<&str>,
        targets: Vec<Arc<Target>>,
    ) -> Self {
        Self {
            google,
            location,
            base_url: base_url.map(|url| url.trim_end_matches('/').to_owned()),
            targets,
            page_size: AtomicUsize::new(PAGE_SIZES[0]),
        }
    }

    /// The jobs of the processes, that of the unnamed process first.
    pub fn targets(&self) -> &[Arc<Target>] {
        &self.targets
    }

    /// Starts an execution. The call is never repeated here, since that could start two.
    pub async fn run(
        &self,
        target: &Target,
        overrides: &Overrides,
        timeout: Duration,
    ) -> Result<Execution, Error> {
        let uri = self.run_uri(target).await?;
        let body = RunJobRequest::new(overrides, target.container.as_deref());
        let mut json = Vec::with_capacity(TYPICAL_BODY_BYTES);
        serde_json::to_writer(&mut json, &body)
            .map_err(|error| Error::NoEffect(error.to_string()))?;
        let call = post(uri, json.into(), timeout);
        let answer = self.google.call_once(&call).await?;
        self.read_execution(&answer)
    }

    /// The execution of this name, if there is one and it is this job's.
    pub async fn get(&self, name: &str) -> Result<Option<Execution>, Error> {
        if !self.targets.iter().any(|target| target.may_have(name)) {
            return Ok(None);
        }
        let uri = self.uri(&format!("executions/{name}")).await?;
        match self.read(&uri, MAX_EXECUTION_BYTES).await {
            Ok(answer) => self.view(&answer),
            Err(Error::Refused {
                status: StatusCode::NOT_FOUND,
                ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A page of up to `limit` of the job's executions, newest first. `from` is an earlier page's `next`. Where executions are
    /// so large that the page exceeds the cap, it has fewer of them.
    pub async fn list(&self, from: Option<&str>, limit: usize) -> Result<Page, Error> {
        let mut size = limit.min(self.page_size.load(Ordering::Relaxed));
        loop {
            let uri = self.uri(&self.list_path(from, size)).await?;
            match self.read(&uri, MAX_LIST_BYTES).await {
                Ok(answer) => {
                    let page = self.page(&answer)?;
                    if let Some(bytes) = answer.len().checked_div(page.listed) {
                        self.page_size.store(fitting_size(bytes), Ordering::Relaxed);
                    }
                    return Ok(page);
                }
                Err(Error::TooLarge(cause)) => match PAGE_SIZES.iter().find(|next| **next < size) {
                    Some(smaller) => size = *smaller,
                    None => return Err(Error::TooLarge(cause)),
                },
                Err(error) => return Err(error),
            }
            self.page_size.store(size, Ordering::Relaxed);
        }
    }

    fn page(&self, answer: &[u8]) -> Result<Page, Error> {
        let list: List<'_> = client::json(answer)?;
        let next = list
            .metadata
            .and_then(|metadata| metadata.next)
            .filter(|next| !next.is_empty());
        let created = |item: &GoogleExecution<'_>| time(&item.metadata.creation_timestamp);
        let executions = list
            .items
            .iter()
            .filter_map(|item| self.execution(item))
            .collect();
        Ok(Page {
            executions,
            listed: list.items.len(),
            newest: list.items.first().and_then(created),
            oldest: list.items.last().and_then(created),
            next: next.map(|Text(next)| next.into_owned()),
        })
    }

    fn list_path(&self, from: Option<&str>, limit: usize) -> String {
        let jobs: BTreeSet<_> = self.targets.iter().map(|target| target.job()).collect();
        let jobs: Vec<_> = jobs.into_iter().collect();
        let job = match jobs[..] {
            [job] => format!("run.googleapis.com/job={job}"),
            _ => format!("run.googleapis.com/job in ({})", jobs.join(",")),
        };
        let mut path =
            form_urlencoded::Serializer::for_suffix("executions?".to_owned(), "executions?".len());
        path.append_pair("labelSelector", &job)
            .append_pair("limit", &limit.to_string());
        if let Some(token) = from {
            path.append_pair("continue", token);
        }
        path.finish()
    }

    /// Cancels an execution. None if it had finished before.
    pub async fn cancel(&self, name: &str) -> Result<Option<Execution>, Error> {
        let uri = self.uri(&format!("executions/{name}:cancel")).await?;
        let call = post(&uri, Bytes::from_static(b"{}"), READ_TIMEOUT);
        match self.google.call(&call).await {
            Ok(answer) => self.view(&answer),
            Err(Error::Refused {
                status: StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND,
                ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The URL of `jobs.run`, which every start needs, made once.
    async fn run_uri<'a>(&self, target: &'a Target) -> Result<&'a Uri, Error> {
        let make = || async { self.uri(&format!("jobs/{}:run", target.job)).await };
        target.run_uri.get_or_try_init(make).await
    }

    async fn uri(&self, path: &str) -> Result<Uri, Error> {
        let place = self.location.get().await?;
        let (root, project) = (self.root(place), &place.project);
        let uri = format!("{root}/apis/run.googleapis.com/v1/namespaces/{project}/{path}");
        uri.parse().map_err(client::not_a_uri)
    }

    fn root(&self, place: &ProjectRegion) -> String {
        let regional = || format!("https://{}-run.googleapis.com", place.region);
        self.base_url.clone().unwrap_or_else(regional)
    }

    /// Reads, and repeats the read once, immediately, if the connection broke.
    async fn read(&self, uri: &Uri, max_bytes: usize) -> Result<Bytes, Error> {
        let call = Call {
            method: Method::GET,
            uri,
            body: None,
            timeout: READ_TIMEOUT,
            max_bytes,
        };
        match self.google.call(&call).await {
            Err(Error::NoResponse(_) | Error::NoEffect(_)) => self.google.call(&call).await,
            outcome => outcome,
        }
    }

    fn read_execution(&self, answer: &[u8]) -> Result<Execution, Error> {
        self.view(answer)?
            .ok_or_else(|| Error::Unreadable("it is not an execution of the job".to_owned()))
    }

    fn view(&self, answer: &[u8]) -> Result<Option<Execution>, Error> {
        let theirs: GoogleExecution<'_> = client::json(answer)?;
        Ok(self.execution(&theirs))
    }

    /// Our view of Google's execution. None if it is not of one of our jobs or has no scope.
    fn execution(&self, theirs: &GoogleExecution<'_>) -> Option<Execution> {
        let metadata = &theirs.metadata;
        let target = self.target(theirs)?;
        let scope: Scope = target.variable(theirs, SCOPE)?.parse().ok()?;
        let parameters = target.variable(theirs, PARAMETERS);
        let status = &theirs.status;
        let completed = status.condition("Completed");
        let own = |text: &Option<Text<'_>>| {
            text.as_deref()
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };
        Some(Execution {
            links: Links::new(&scope, &metadata.name),
            name: metadata.name.clone().into_owned(),
            scope,
            process: self.process(target, theirs),
            job: target.job.clone(),
            invocation_id: target.variable(theirs, INVOCATION_ID).map(str::to_owned),
            progress: None,
            parameters: parameters.and_then(|json| serde_json::from_str(json).ok()),
            state: execution::state(
                completed.map(GoogleCondition::view),
                status.condition("Started").map(GoogleCondition::view),
            ),
            reason: completed.and_then(|condition| own(&condition.reason)),
            message: completed.and_then(|condition| own(&condition.message)),
            tasks: Tasks {
                total: theirs.spec.task_count.unwrap_or(1),
                running: status.running_count,
                succeeded: status.succeeded_count,
                failed: status.failed_count,
                cancelled: status.cancelled_count,
                retried: status.retried_count,
            },
            created_at: time(&metadata.creation_timestamp),
            started_at: time(&status.start_time),
            completed_at: time(&status.completion_time),
            log_uri: own(&status.log_uri),
        })
    }

    /// The name of the execution's process. Without named processes a variable of this name is the job's and is ignored.
    fn process(&self, target: &Target, theirs: &GoogleExecution<'_>) -> Option<ProcessName> {
        let has_names = self.targets.len() > 1;
        let name = target.variable(theirs, PROCESS).filter(|_| has_names)?;
        ProcessName::new(name)
    }

    /// The process of the execution. If the settings no longer have that process, another one with the same job.
    fn target(&self, theirs: &GoogleExecution<'_>) -> Option<&Target> {
        let metadata = &theirs.metadata;
        let of_the_job = || {
            self.targets.iter().filter(|target| {
                metadata.labels.job.as_deref() == Some(&target.job)
                    && target.may_have(&metadata.name)
            })
        };
        let own = of_the_job().find(|target| {
            target.variable(theirs, PROCESS) == target.process.as_ref().map(ProcessName::as_str)
        });
        own.or_else(|| of_the_job().next()).map(|target| &**target)
    }
}

/// Parses a time of Google's. None if it is absent or invalid.
fn time(text: &Option<Text<'_>>) -> Option<Timestamp> {
    text.as_deref()?.parse().ok()
}

/// The size of the next page if an execution has so many bytes: the largest that stays well below the cap.
fn fitting_size(bytes: usize) -> usize {
    let mut sizes = PAGE_SIZES.into_iter();
    let fitting = sizes.find(|size| bytes.saturating_mul(*size) < MAX_LIST_BYTES / 2);
    fitting.unwrap_or(1)
}

fn post(uri: &Uri, body: Bytes, timeout: Duration) -> Call<'_> {
    Call {
        method: Method::POST,
        uri,
        body: Some(body),
        timeout,
        max_bytes: MAX_EXECUTION_BYTES,
    }
}

#[derive(Serialize)]
struct RunJobRequest<'a> {
    overrides: GoogleOverrides<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GoogleOverrides<'a> {
    container_overrides: [ContainerOverride<'a>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    task_count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_seconds: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerOverride<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    args: &'a [String],
    /// Removes all arguments. An empty list would mean the job's own.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    clear_args: bool,
    env: Vec<NewVariable<'a>>,
}

#[derive(Serialize)]
struct NewVariable<'a> {
    name: &'a str,
    value: &'a str,
}

impl<'a> RunJobRequest<'a> {
    fn new(overrides: &'a Overrides, container: Option<&'a str>) -> Self {
        let env = overrides
            .env
            .iter()
            .map(|(name, value)| NewVariable { name, value })
            .collect();
        let args = match &overrides.args {
            Args::OfTheJob => None,
            Args::These(args) => Some(&args[..]),
        };
        Self {
            overrides: GoogleOverrides {
                container_overrides: [ContainerOverride {
                    name: container,
                    args: args.unwrap_or_default(),
                    clear_args: args.is_some_and(<[_]>::is_empty),
                    env,
                }],
                task_count: overrides.task_count,
                timeout_seconds: overrides.timeout_seconds,
            },
        }
    }
}

/// A text that borrows from the answer where possible. (Within an `Option`, serde copies a bare `Cow`.)
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

#[derive(Deserialize)]
struct List<'a> {
    #[serde(borrow, default)]
    metadata: Option<ListMetadata<'a>>,
    #[serde(borrow, default)]
    items: Vec<GoogleExecution<'a>>,
}

#[derive(Deserialize)]
struct ListMetadata<'a> {
    #[serde(borrow, default, rename = "continue")]
    next: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct GoogleExecution<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(borrow)]
    spec: Spec<'a>,
    #[serde(borrow, default)]
    status: Status<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    creation_timestamp: Option<Text<'a>>,
    #[serde(borrow, default)]
    labels: Labels<'a>,
}

#[derive(Default, Deserialize)]
struct Labels<'a> {
    #[serde(borrow, default, rename = "run.googleapis.com/job")]
    job: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    #[serde(default)]
    task_count: Option<u32>,
    #[serde(borrow)]
    template: Template<'a>,
}

#[derive(Deserialize)]
struct Template<'a> {
    #[serde(borrow)]
    spec: TemplateSpec<'a>,
}

#[derive(Deserialize)]
struct TemplateSpec<'a> {
    #[serde(borrow, default)]
    containers: Vec<Container<'a>>,
}

#[derive(Deserialize)]
struct Container<'a> {
    #[serde(borrow, default)]
    name: Option<Text<'a>>,
    #[serde(borrow, default)]
    env: Vec<Variable<'a>>,
}

#[derive(Deserialize)]
struct Variable<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    value: Option<Text<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status<'a> {
    #[serde(borrow)]
    conditions: Vec<GoogleCondition<'a>>,
    #[serde(borrow)]
    start_time: Option<Text<'a>>,
    #[serde(borrow)]
    completion_time: Option<Text<'a>>,
    #[serde(borrow)]
    log_uri: Option<Text<'a>>,
    running_count: u32,
    succeeded_count: u32,
    failed_count: u32,
    cancelled_count: u32,
    retried_count: u32,
}

impl<'a> Status<'a> {
    fn condition(&self, kind: &str) -> Option<&GoogleCondition<'a>> {
        self.conditions
            .iter()
            .find(|condition| condition.kind == kind)
    }
}

#[derive(Deserialize)]
struct GoogleCondition<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    status: Cow<'a, str>,
    #[serde(borrow, default)]
    reason: Option<Text<'a>>,
    #[serde(borrow, default)]
    message: Option<Text<'a>>,
}

impl GoogleCondition<'_> {
    fn view(&self) -> Condition<'_> {
        Condition {
            status: &self.status,
            reason: self.reason.as_deref(),
        }
    }
}

#[cfg(test)]
impl CloudRun {
    /// A client whose calls reach no server.
    pub(crate) fn for_tests() -> Self {
        let clients = crate::gcp::http_client::HttpClients::new().unwrap();
        let metadata = crate::gcp::metadata::Metadata::new(clients.reqwest, "127.0.0.1:1");
        let location = Arc::new(Location::new(
            metadata,
            Some("demo".to_owned()),
            Some("us-east4".to_owned()),
        ));
        let target = Arc::new(Target::new(None, "test-job", None));
        Self::new(
            Google::new(clients.google_apis, None),
            location,
            None,
            vec![target],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer of Google's with one of its bytes replaced, or cut off.
    fn answer() -> impl proptest::strategy::Strategy<Value = Vec<u8>> {
        use proptest::prelude::*;
        const WHOLE: &str = r#"{"metadata":{"name":"test-job-x7k2p","labels":{"run.googleapis.com/job":"test-job"}},
            "spec":{"taskCount":1,"template":{"spec":{"containers":[{"env":[{"name":"SCOPE","value":"acme"}]}]}}},
            "status":{"conditions":[{"type":"Completed","status":"Unknown"}],"runningCount":1}}"#;
        (0..WHOLE.len(), any::<u8>(), any::<bool>()).prop_map(|(at, byte, cut)| {
            let mut bytes = WHOLE.as_bytes().to_vec();
            if cut {
                bytes.truncate(at)
            } else {
                bytes[at] = byte
            }
            bytes
        })
    }

    #[test]
    fn larger_executions_are_listed_on_smaller_pages() {
        assert_eq!(fitting_size(3_000), 500);
        assert_eq!(fitting_size(17_000), 100);
        assert_eq!(fitting_size(66_000), 20);
        assert_eq!(fitting_size(MAX_LIST_BYTES), 1);
    }

    proptest::proptest! {
        /// Any answer of Google's is our view of an execution of this job with a scope, none, or an error, and never a panic.
        #[test]
        fn any_answer_is_an_execution_of_the_job_or_refused(bytes in answer()) {
            let cloud_run = CloudRun::for_tests();
            if let Ok(Some(execution)) = cloud_run.view(&bytes) {
                assert!(cloud_run.targets[0].may_have(&execution.name));
            }
        }
    }
}
