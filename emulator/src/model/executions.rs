//! Executions: what is known of one, and the list of all.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio::time::Instant;

use super::jobs::{Job, Template};
use super::tasks::{Phase, Task};
use crate::random;
use crate::refusal::Refusal;
use crate::site::Site;

/// Becomes true, or closes, when the tasks are to end.
pub(crate) type Cancelled = watch::Receiver<bool>;

/// Returns when the execution is cancelled or deleted.
pub(crate) async fn asked_to_end(cancelled: &mut Cancelled) {
    // An error means that the execution is gone.
    let _closed = cancelled.wait_for(|cancelled| *cancelled).await.map(drop);
}

/// One execution of a job.
#[derive(Debug)]
pub(crate) struct Execution {
    pub(crate) name: String,
    pub(crate) job: String,
    pub(crate) template: Template,
    pub(crate) tasks: Vec<Task>,
    /// The overrides as they were sent.
    pub(crate) overrides: Value,
    pub(crate) listed_from: Instant,
    /// Turns true when somebody cancels; dropped when the execution is deleted.
    pub(crate) cancelled: watch::Sender<bool>,
    pub(crate) uid: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) job_uid: String,
    pub(crate) operation: String,
    pub(crate) created: Timestamp,
    pub(crate) started: Option<Timestamp>,
    pub(crate) completed: Option<(Timestamp, Outcome)>,
    /// What v1 shows of a finished one, once it was asked for: lists of hundreds are read again and again.
    pub(crate) shown_by_v1: OnceLock<Box<RawValue>>,
}

/// How an execution ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Succeeded,
    /// The first task that failed, and whether it was for want of time.
    Failed {
        task: usize,
        timed_out: bool,
    },
    Cancelled,
}

/// An execution as a test wants to see it.
#[derive(Clone, Debug, PartialEq)]
pub struct ExecutionRecord {
    /// `{job}-{five characters}`.
    pub name: String,
    /// The job it is of.
    pub job: String,
    /// The merged environment: the job's own and the overrides'.
    pub env: BTreeMap<String, String>,
    /// The arguments after merging.
    pub args: Vec<String>,
    /// The overrides exactly as they came over the wire; null without any.
    pub overrides: Value,
    /// Tasks, after merging.
    pub task_count: usize,
    /// Seconds an attempt may take, after merging.
    pub timeout_seconds: u64,
    /// Where it stands.
    pub state: State,
}

/// Where an execution stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Accepted; no task has started.
    Pending,
    /// Its tasks run, or are being cancelled.
    Running,
    /// Every task succeeded.
    Succeeded,
    /// A task failed for good.
    Failed,
    /// Cancelled before it was through.
    Cancelled,
}

/// Every execution by its place in time: a higher position is newer.
#[derive(Debug, Default)]
pub(crate) struct Executions {
    by_position: BTreeMap<i64, Execution>,
    positions: HashMap<String, i64>,
    unfinished: usize,
}

impl Executions {
    pub(crate) fn find(&self, site: &Site, name: &str) -> Result<&Execution, Refusal> {
        self.get(name)
            .ok_or_else(|| site.missing("EXECUTION", name))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Execution> {
        self.by_position.get(self.positions.get(name)?)
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut Execution> {
        self.by_position.get_mut(self.positions.get(name)?)
    }

    pub(crate) fn oldest_first(&self) -> impl Iterator<Item = &Execution> {
        self.by_position.values()
    }

    /// Newest first, those older than position `after` only.
    pub(crate) fn newest_first(
        &self,
        after: Option<i64>,
    ) -> impl Iterator<Item = (i64, &Execution)> {
        let end = after.unwrap_or(i64::MAX);
        self.by_position
            .range(..end)
            .rev()
            .map(|(position, execution)| (*position, execution))
    }

    /// How many have not ended.
    pub(crate) fn unfinished(&self) -> usize {
        self.unfinished
    }

    pub(crate) fn add_newest(&mut self, execution: Execution) {
        let position = self
            .by_position
            .last_key_value()
            .map_or(0, |(last, _)| last + 1);
        self.add(position, execution);
    }

    pub(crate) fn add_oldest(&mut self, execution: Execution) {
        let position = self
            .by_position
            .first_key_value()
            .map_or(0, |(first, _)| first - 1);
        self.add(position, execution);
    }

    fn add(&mut self, position: i64, execution: Execution) {
        self.unfinished += usize::from(execution.completed.is_none());
        self.positions.insert(execution.name.clone(), position);
        self.by_position.insert(position, execution);
    }

    /// Ends an execution that is still there, and forgets the job's oldest ones beyond `retained`.
    pub(crate) fn finish(&mut self, name: &str, retained: usize) {
        let Some(execution) = self.get_mut(name) else {
            return;
        };
        execution.finish();
        let job = execution.job.clone();
        self.unfinished -= 1;
        self.evict(&job, retained);
    }

    /// Forgets the finished executions of `job` but the newest `retained`.
    pub(crate) fn evict(&mut self, job: &str, retained: usize) {
        if self.by_position.len() <= retained {
            return;
        }
        let finished = self
            .newest_first(None)
            .filter(|(_, execution)| execution.job == job && execution.completed.is_some());
        let surplus: Vec<String> = finished
            .skip(retained)
            .map(|(_, execution)| execution.name.clone())
            .collect();
        surplus.iter().for_each(|name| self.remove(name));
    }

    pub(crate) fn remove_job(&mut self, job: &str) {
        let of_job = self.oldest_first().filter(|execution| execution.job == job);
        let names: Vec<String> = of_job.map(|execution| execution.name.clone()).collect();
        names.iter().for_each(|name| self.remove(name));
    }

    /// Forgets an execution. Its runner sees the `cancelled` channel close and ends the tasks.
    pub(crate) fn remove(&mut self, name: &str) {
        let removed = self
            .positions
            .remove(name)
            .and_then(|position| self.by_position.remove(&position));
        self.unfinished -=
            usize::from(removed.is_some_and(|execution| execution.completed.is_none()));
    }
}

impl Execution {
    pub(crate) fn new(
        site: &Site,
        job: &Job,
        name: String,
        template: Template,
        created: Timestamp,
    ) -> Self {
        let own = template
            .labels
            .iter()
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
        let mut labels: BTreeMap<String, String> = own.collect();
        let mut label = |key: &str, value: String| labels.insert(key.to_owned(), value);
        label("run.googleapis.com/job", job.name.clone());
        label("run.googleapis.com/jobUid", job.uid.clone());
        label(
            "run.googleapis.com/jobGeneration",
            job.generation.to_string(),
        );
        label(
            "run.googleapis.com/jobResourceVersion",
            job.resource_version(),
        );
        label("cloud.googleapis.com/location", site.region.clone());
        Self {
            job: job.name.clone(),
            job_uid: job.uid.clone(),
            tasks: (0..template.task_count).map(|_| Task::default()).collect(),
            name,
            template,
            overrides: Value::Null,
            listed_from: Instant::now(),
            cancelled: watch::Sender::new(false),
            uid: random::uuid(),
            labels,
            operation: random::uuid(),
            created,
            started: None,
            completed: None,
            shown_by_v1: OnceLock::new(),
        }
    }

    pub(crate) fn start(&mut self) {
        self.started = Some(Timestamp::now());
    }

    fn finish(&mut self) {
        self.completed = Some((Timestamp::now(), self.outcome()));
    }

    /// As if every task had run and succeeded at the time of creation.
    pub(crate) fn finish_at_once(&mut self) {
        self.started = Some(self.created);
        self.tasks
            .iter_mut()
            .for_each(|task| task.finish_at_once(self.created));
        self.completed = Some((self.created, Outcome::Succeeded));
    }

    /// What the tasks' ends make of the whole.
    fn outcome(&self) -> Outcome {
        let failed = self
            .tasks
            .iter()
            .position(|task| task.phase == Phase::Failed);
        if self.tasks.iter().any(|task| task.phase == Phase::Cancelled) {
            Outcome::Cancelled
        } else if let Some(task) = failed {
            Outcome::Failed {
                task,
                timed_out: self.tasks[task].timed_out(),
            }
        } else {
            Outcome::Succeeded
        }
    }

    pub(crate) fn parallelism(&self) -> usize {
        let all = self.tasks.len();
        usize::try_from(self.template.parallelism)
            .ok()
            .filter(|&wanted| wanted > 0)
            .map_or(all, |wanted| wanted.min(all))
    }

    /// The merged environment.
    pub(crate) fn env(&self) -> BTreeMap<String, String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let variables = self.template.container["env"]
            .as_array()
            .into_iter()
            .flatten();
        variables
            .map(|variable| (text(&variable["name"]), text(&variable["value"])))
            .collect()
    }

    /// The merged arguments.
    pub(crate) fn args(&self) -> Vec<String> {
        let args = self.template.container["args"]
            .as_array()
            .into_iter()
            .flatten();
        args.filter_map(|arg| arg.as_str().map(str::to_owned))
            .collect()
    }

    pub(crate) fn record(&self) -> ExecutionRecord {
        ExecutionRecord {
            name: self.name.clone(),
            job: self.job.clone(),
            env: self.env(),
            args: self.args(),
            overrides: self.overrides.clone(),
            task_count: self.tasks.len(),
            timeout_seconds: u64::try_from(self.template.timeout_seconds).unwrap_or_default(),
            state: self.state(),
        }
    }

    pub(crate) fn state(&self) -> State {
        match (&self.completed, self.started) {
            (Some((_, Outcome::Succeeded)), _) => State::Succeeded,
            (Some((_, Outcome::Failed { .. })), _) => State::Failed,
            (Some((_, Outcome::Cancelled)), _) => State::Cancelled,
            (None, Some(_)) => State::Running,
            (None, None) => State::Pending,
        }
    }
}
