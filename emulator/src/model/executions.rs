//! Executions: the state of each, and the collection of all.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::OnceLock;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio::time::Instant;

use super::jobs::Job;
use super::tasks::{End, Phase, Task};
use super::template::{ExecutionTemplate, Labels};
use crate::random;
use crate::refusal::Refusal;
use crate::site::Site;

/// The number of deleted executions that are kept, so that their operations can still be read.
const MOST_DELETED: usize = 50;

/// A place in a list: the position of a job, an execution or an operation, which is higher if it is newer, and an
/// index. A task has the position of its execution and an index of its own; for the others the index is 0.
pub(crate) type Place = (i64, usize);

/// Becomes true, or closes, when the tasks must end.
pub(crate) type Cancelled = watch::Receiver<bool>;

/// Returns when the execution is cancelled or deleted.
pub(crate) async fn asked_to_end(cancelled: &mut Cancelled) {
    // An error means that the execution has been dropped.
    let _closed = cancelled.wait_for(|cancelled| *cancelled).await.map(drop);
}

/// One execution of a job.
#[derive(Debug)]
pub(crate) struct Execution {
    pub(crate) name: String,
    pub(crate) job: String,
    pub(crate) template: ExecutionTemplate,
    pub(crate) tasks: Vec<Task>,
    /// The overrides exactly as the client sent them.
    pub(crate) overrides: Value,
    pub(crate) listed_from: Instant,
    /// Becomes true when the execution is cancelled or deleted.
    pub(crate) cancelled: watch::Sender<bool>,
    pub(crate) uid: String,
    pub(crate) labels: Labels,
    pub(crate) job_uid: String,
    pub(crate) operation: String,
    pub(crate) created: Timestamp,
    pub(crate) started: Option<Timestamp>,
    pub(crate) completed: Option<(Timestamp, Outcome)>,
    /// The v1 JSON of a completed execution, cached because lists of hundreds are read repeatedly.
    pub(crate) shown_by_v1: OnceLock<Box<RawValue>>,
}

/// How an execution ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Succeeded,
    /// `task` is the first one that failed.
    Failed {
        task: usize,
    },
    Cancelled,
}

/// An execution in a form for tests.
#[derive(Clone, Debug, PartialEq)]
pub struct ExecutionRecord {
    /// `{job}-{five characters}`.
    pub name: String,
    /// The name of its job.
    pub job: String,
    /// The merged environment: the job's own and the overrides'.
    pub env: BTreeMap<String, String>,
    /// The arguments after merging.
    pub args: Vec<String>,
    /// The overrides exactly as the client sent them; null if there were none.
    pub overrides: Value,
    /// The number of tasks after merging.
    pub task_count: usize,
    /// The timeout of an attempt in seconds, after merging.
    pub timeout_seconds: u64,
    /// Its state.
    pub state: State,
}

/// The state of an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Accepted; no task has started.
    Pending,
    /// Its tasks run, or are being cancelled.
    Running,
    /// Every task succeeded.
    Succeeded,
    /// A task failed and is not retried.
    Failed,
    /// Cancelled before it completed.
    Cancelled,
}

/// All executions by position. A higher position is newer.
#[derive(Debug, Default)]
pub(crate) struct Executions {
    by_position: BTreeMap<i64, Execution>,
    positions: HashMap<String, i64>,
    unfinished: usize,
    deleted: VecDeque<Execution>,
}

impl Executions {
    pub(crate) fn find(&self, site: &Site, name: &str) -> Result<&Execution, Refusal> {
        self.get(name)
            .ok_or_else(|| site.missing("EXECUTION", name))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Execution> {
        self.by_position.get(self.positions.get(name)?)
    }

    /// The execution, even if it was deleted recently.
    pub(crate) fn get_or_deleted(&self, name: &str) -> Option<&Execution> {
        let deleted = || self.deleted.iter().find(|execution| execution.name == name);
        self.get(name).or_else(deleted)
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut Execution> {
        self.by_position.get_mut(self.positions.get(name)?)
    }

    pub(crate) fn oldest_first(&self) -> impl Iterator<Item = &Execution> {
        self.by_position.values()
    }

    /// The executions older than position `after`, newest first.
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

    /// The tasks after a place. Tasks of newer executions come first, those of one execution by index.
    pub(crate) fn tasks_after(
        &self,
        after: Option<Place>,
    ) -> impl Iterator<Item = (Place, &Execution, usize)> {
        let newest = after.map(|(position, _)| position.saturating_add(1));
        let executions = self.newest_first(newest);
        executions.flat_map(move |(position, execution)| {
            let first = match after {
                Some((last, index)) if last == position => index + 1,
                _ => 0,
            };
            (first..execution.tasks.len()).map(move |index| ((position, index), execution, index))
        })
    }

    /// The number of executions that have not ended.
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

    /// Completes an execution, unless it has been deleted, and evicts the oldest ones of its job beyond `retained`.
    pub(crate) fn finish(&mut self, name: &str, retained: usize) {
        let Some(execution) = self.get_mut(name) else {
            return;
        };
        execution.finish();
        let job = execution.job.clone();
        self.unfinished -= 1;
        self.evict(&job, retained);
    }

    /// Evicts the finished executions of `job`, except the newest `retained`.
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
        for name in surplus {
            self.remove(&name);
        }
    }

    pub(crate) fn delete_job(&mut self, job: &str) {
        let of_job = self.oldest_first().filter(|execution| execution.job == job);
        let names: Vec<String> = of_job.map(|execution| execution.name.clone()).collect();
        for name in names {
            self.delete(&name);
        }
    }

    /// Deletes an execution, and cancels it if it still runs. Returns its last state.
    pub(crate) fn delete(&mut self, name: &str) -> Option<&Execution> {
        let mut execution = self.remove(name)?;
        execution.cancelled.send_replace(true);
        if execution.completed.is_none() {
            execution.cancel_tasks();
            execution.finish();
        }
        if self.deleted.len() == MOST_DELETED {
            self.deleted.pop_back();
        }
        self.deleted.push_front(execution);
        self.deleted.front()
    }

    fn remove(&mut self, name: &str) -> Option<Execution> {
        let position = self.positions.remove(name)?;
        let execution = self.by_position.remove(&position)?;
        self.unfinished -= usize::from(execution.completed.is_none());
        Some(execution)
    }
}

impl Execution {
    pub(crate) fn new(
        site: &Site,
        job: &Job,
        name: String,
        template: ExecutionTemplate,
        created: Timestamp,
    ) -> Self {
        let mut labels = template.labels.clone();
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

    pub(crate) fn check_running(&self) -> Result<(), Refusal> {
        if self.completed.is_some() {
            return Err(Refusal::precondition(format!(
                "Execution '{}' cannot be cancelled because it is not running.",
                self.name
            )));
        }
        Ok(())
    }

    /// Asks the tasks to end.
    pub(crate) fn cancel(&self) -> Result<(), Refusal> {
        self.check_running()?;
        self.cancelled.send_replace(true);
        Ok(())
    }

    /// Marks the tasks that have not ended as cancelled.
    pub(crate) fn cancel_tasks(&mut self) {
        let unfinished = |task: &&mut Task| matches!(task.phase, Phase::Pending | Phase::Running);
        for task in self.tasks.iter_mut().filter(unfinished) {
            let last = (task.phase == Phase::Running).then_some(End::Cancelled);
            task.end(Phase::Cancelled, last);
        }
    }

    fn finish(&mut self) {
        self.completed = Some((Timestamp::now(), self.outcome()));
    }

    /// Completes the execution as if every task had succeeded at the time of its creation.
    pub(crate) fn finish_at_once(&mut self) {
        self.started = Some(self.created);
        self.tasks
            .iter_mut()
            .for_each(|task| task.finish_at_once(self.created));
        self.completed = Some((self.created, Outcome::Succeeded));
    }

    /// The outcome that follows from the ends of the tasks.
    fn outcome(&self) -> Outcome {
        let failed = self
            .tasks
            .iter()
            .position(|task| task.phase == Phase::Failed);
        if self.tasks.iter().any(|task| task.phase == Phase::Cancelled) {
            Outcome::Cancelled
        } else if let Some(task) = failed {
            Outcome::Failed { task }
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
        let variables = self.template.task.container.env.iter();
        variables
            .map(|variable| (variable.name.clone(), variable.value.clone()))
            .collect()
    }

    /// A number that grows with every change.
    pub(crate) fn changes(&self) -> usize {
        let attempts: usize = self.tasks.iter().map(Task::changes).sum();
        let phase = usize::from(self.started.is_some()) + 2 * usize::from(self.completed.is_some());
        attempts * 4 + phase
    }

    /// The time of the last change.
    pub(crate) fn updated(&self) -> Timestamp {
        let end = self.completed_at();
        end.or(self.started).unwrap_or(self.created)
    }

    pub(crate) fn completed_at(&self) -> Option<Timestamp> {
        self.completed.as_ref().map(|(time, _)| *time)
    }

    /// The id of a task: that of its execution, with the task's index in the last group. It is stable without being
    /// stored.
    pub(crate) fn task_uid(&self, index: usize) -> String {
        format!("{}{index:012x}", self.uid.get(..24).unwrap_or_default())
    }

    pub(crate) fn record(&self) -> ExecutionRecord {
        ExecutionRecord {
            name: self.name.clone(),
            job: self.job.clone(),
            env: self.env(),
            args: self.template.task.container.args.clone(),
            overrides: self.overrides.clone(),
            task_count: self.tasks.len(),
            timeout_seconds: u64::try_from(self.template.task.timeout_seconds).unwrap_or_default(),
            state: self.state(),
        }
    }

    /// The line that the terminal shows when the execution has ended.
    pub(crate) fn end_in_words(&self) -> String {
        let name = &self.name;
        let failed = |(_, task): &(usize, &Task)| task.phase == Phase::Failed;
        let reason = match self.tasks.iter().enumerate().find(failed) {
            Some((index, task)) => match task.last {
                Some(End::Exited(code)) => format!(": task {index} ended with exit code {code}"),
                Some(End::TimedOut) => format!(": task {index} timed out"),
                Some(End::Cancelled) | None => String::new(),
            },
            None => String::new(),
        };
        match self.state() {
            State::Succeeded => format!("{name} succeeded"),
            State::Failed => format!("{name} failed{reason}"),
            State::Cancelled => format!("{name} was cancelled"),
            State::Pending | State::Running => format!("{name} has not ended"),
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
