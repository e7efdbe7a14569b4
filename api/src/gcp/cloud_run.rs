//! Cloud Run's v1 REST API: run a job; get, list and cancel its executions. Google's JSON stays in here.
//!
//! Source of every path and field: Google's reference for `namespaces.jobs` and `namespaces.executions`, v1.

mod job;

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, StatusCode, Uri};
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

pub use self::job::Job;
use crate::execution::{self, Condition, Execution, Links, Tasks};
use crate::gcp::client::{self, Call, Error, Google};
use crate::gcp::metadata::{Location, Place};
use crate::overrides::{INVOCATION_ID, Overrides, SCOPE};
use crate::scope::Scope;

/// How long reading one execution, a page of a list, or a cancellation may take.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// How long starting an execution may take.
pub const RUN_TIMEOUT: Duration = Duration::from_secs(5);
/// What the body of a start mostly has, in bytes; more is no problem.
const TYPICAL_BODY_BYTES: usize = 512;
/// The largest answer about one execution, in bytes.
const MAX_EXECUTION_BYTES: usize = 1024 * 1024;
/// The largest page of a list, in bytes.
const MAX_LIST_BYTES: usize = 8 * 1024 * 1024;

/// One job of one project and region.
pub struct CloudRun {
    google: Google,
    location: Arc<Location>,
    base_url: Option<String>,
    job: String,
    container: Option<String>,
    run_uri: OnceCell<Uri>,
}

/// A page of the job's executions, newest first.
pub struct Page {
    /// Executions of the job; those without a scope are left out, since nobody could reach them.
    pub executions: Vec<Execution>,
    /// When the first one was created, those left out included.
    pub newest: Option<Timestamp>,
    /// When the last one was created, those left out included.
    pub oldest: Option<Timestamp>,
    /// Goes on from here.
    pub next: Option<String>,
}

impl CloudRun {
    /// `base_url` without a trailing slash, or none for the regional endpoint.
    pub fn new(
        google: Google,
        location: Arc<Location>,
        settings: &crate::config::CloudRun,
    ) -> Self {
        let given = |text: &str| (!text.is_empty()).then(|| text.trim_end_matches('/').to_owned());
        Self {
            google,
            location,
            base_url: given(&settings.base_url),
            job: settings.job.clone(),
            container: given(&settings.container),
            run_uri: OnceCell::new(),
        }
    }

    /// The job's name.
    pub fn job(&self) -> &str {
        &self.job
    }

    /// Starts an execution. Never repeated here: that could start two.
    pub async fn run(&self, overrides: &Overrides, timeout: Duration) -> Result<Execution, Error> {
        let uri = self.run_uri().await?;
        let body = RunJobRequest::new(overrides, self.container.as_deref());
        let mut json = Vec::with_capacity(TYPICAL_BODY_BYTES);
        serde_json::to_writer(&mut json, &body)
            .map_err(|error| Error::NotTaken(error.to_string()))?;
        let call = post(uri, json.into(), timeout);
        let answer = self.google.call_once(&call).await?;
        self.read_execution(&answer)
    }

    /// The execution of this name, if there is one and it is this job's.
    pub async fn get(&self, name: &str) -> Result<Option<Execution>, Error> {
        if !self.may_be_an_execution(name) {
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

    /// A page of up to `limit` of the job's executions, newest first. `from` is an earlier page's `next`.
    pub async fn list(&self, from: Option<&str>, limit: usize) -> Result<Page, Error> {
        let uri = self.uri(&self.list_path(from, limit)).await?;
        let answer = self.read(&uri, MAX_LIST_BYTES).await?;
        let list: List<'_> = client::json(&answer)?;
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
            newest: list.items.first().and_then(created),
            oldest: list.items.last().and_then(created),
            next: next.map(|Text(next)| next.into_owned()),
        })
    }

    fn list_path(&self, from: Option<&str>, limit: usize) -> String {
        let job = format!("run.googleapis.com/job={}", self.job);
        let mut path =
            form_urlencoded::Serializer::for_suffix("executions?".to_owned(), "executions?".len());
        path.append_pair("labelSelector", &job)
            .append_pair("limit", &limit.to_string());
        if let Some(token) = from {
            path.append_pair("continue", token);
        }
        path.finish()
    }

    /// Asks for an execution's end. `None`: it had finished before.
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

    /// Whether Cloud Run could have given an execution of this job the name: `JOB-` and a suffix. Nothing else is put into a path.
    fn may_be_an_execution(&self, name: &str) -> bool {
        let suffix = name
            .strip_prefix(&self.job)
            .and_then(|rest| rest.strip_prefix('-'));
        suffix.is_some_and(|suffix| {
            let legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
            (1..=63).contains(&suffix.len()) && suffix.bytes().all(legal)
        })
    }

    /// The one that every start needs, made once.
    async fn run_uri(&self) -> Result<&Uri, Error> {
        let make = || async { self.uri(&format!("jobs/{}:run", self.job)).await };
        self.run_uri.get_or_try_init(make).await
    }

    async fn uri(&self, path: &str) -> Result<Uri, Error> {
        let place = self.location.get().await?;
        let (root, project) = (self.root(place), &place.project);
        let uri = format!("{root}/apis/run.googleapis.com/v1/namespaces/{project}/{path}");
        uri.parse().map_err(client::not_a_uri)
    }

    fn root(&self, place: &Place) -> String {
        let regional = || format!("https://{}-run.googleapis.com", place.region);
        self.base_url.clone().unwrap_or_else(regional)
    }

    /// A read may be repeated: once, at once, if the connection broke.
    async fn read(&self, uri: &Uri, max_bytes: usize) -> Result<Bytes, Error> {
        let call = Call {
            method: Method::GET,
            uri,
            body: None,
            timeout: READ_TIMEOUT,
            max_bytes,
        };
        match self.google.call(&call).await {
            Err(Error::Silent(_) | Error::NotTaken(_)) => self.google.call(&call).await,
            outcome => outcome,
        }
    }

    fn read_execution(&self, answer: &[u8]) -> Result<Execution, Error> {
        self.view(answer)?
            .ok_or_else(|| Error::Unreadable("it is no execution of the job's".to_owned()))
    }

    fn view(&self, answer: &[u8]) -> Result<Option<Execution>, Error> {
        let theirs: GoogleExecution<'_> = client::json(answer)?;
        Ok(self.execution(&theirs))
    }

    /// Our view of Google's execution; none if it is not this job's or was started for no scope.
    fn execution(&self, theirs: &GoogleExecution<'_>) -> Option<Execution> {
        let metadata = &theirs.metadata;
        let ours = metadata.labels.job.as_deref() == Some(&self.job)
            && self.may_be_an_execution(&metadata.name);
        let scope = self.variable(theirs, SCOPE).filter(|_| ours)?;
        let scope: Scope = scope.parse().ok()?;
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
            job: self.job.clone(),
            invocation_id: self.variable(theirs, INVOCATION_ID).map(str::to_owned),
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

    /// The value that the execution's own environment has for the variable.
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

/// A time of Google's; none if it is absent or no time.
fn time(text: &Option<Text<'_>>) -> Option<Timestamp> {
    text.as_deref()?.parse().ok()
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
struct ContainerOverride<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    args: &'a [String],
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
        Self {
            overrides: GoogleOverrides {
                container_overrides: [ContainerOverride {
                    name: container,
                    args: &overrides.args,
                    env,
                }],
                task_count: overrides.task_count,
                timeout_seconds: overrides.timeout_seconds,
            },
        }
    }
}

/// Borrowed where it can be. (Within an `Option`, serde copies a bare `Cow`.)
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
    /// One that reaches nothing.
    pub(crate) fn for_tests() -> Self {
        let clients = crate::gcp::http_client::HttpClients::new().unwrap();
        let metadata = crate::gcp::metadata::Metadata::new(clients.reqwest, "127.0.0.1:1");
        let mut settings = crate::config::Config::defaults().unwrap().cloud_run;
        settings.job = "test-job".to_owned();
        let location = Arc::new(Location::new(metadata, "demo", "us-east4"));
        Self::new(Google::new(clients.google_apis, None), location, &settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer of Google's, with something else in the place of one of its bytes, or cut off.
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

    proptest::proptest! {
        /// Whatever Google answers: our view of an execution of this job for a scope, none, or an error; never a panic.
        #[test]
        fn any_answer_is_an_execution_of_ours_or_none(bytes in answer()) {
            let cloud_run = CloudRun::for_tests();
            if let Ok(Some(execution)) = cloud_run.view(&bytes) {
                assert!(cloud_run.may_be_an_execution(&execution.name));
            }
        }
    }
}
