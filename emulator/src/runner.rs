//! Runs an execution: pending at first, then its tasks in parallel, each with its attempts, then its end.

use std::io::Write;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::attempt::{self, Attempt};
use crate::cloud::Cloud;
use crate::model::executions::{Cancelled, Execution, asked_to_end};
use crate::model::tasks::{End, Phase, Task};

/// Runs the execution `name` from pending to its end.
pub(crate) async fn follow(cloud: Arc<Cloud>, name: String, mut cancelled: Cancelled) {
    let pending = sleep(cloud.settings.pending);
    tokio::select! {
        () = pending => run_tasks(&cloud, &name, &cancelled).await,
        () = asked_to_end(&mut cancelled) => {}
    }
    let mut state = cloud.state();
    if let Some(execution) = state.executions.get_mut(&name) {
        execution.cancel_tasks();
    }
    state
        .executions
        .finish(&name, cloud.settings.retained_executions);
    if let Some(execution) = state.executions.get(&name).filter(|_| cloud.settings.echo) {
        // A closed terminal must not stop the emulator.
        let _closed = writeln!(std::io::stdout().lock(), "{}", execution.end_in_words());
    }
    drop(state);
    cloud.one_ended.notify_waiters();
}

async fn run_tasks(cloud: &Arc<Cloud>, name: &str, cancelled: &Cancelled) {
    let Some((tasks, parallelism)) = update(cloud, name, |execution| {
        execution.start();
        (execution.tasks.len(), execution.parallelism())
    }) else {
        return;
    };
    let places = Arc::new(Semaphore::new(parallelism));
    let mut running = JoinSet::new();
    for index in 0..tasks {
        let mut cancelled = cancelled.clone();
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = asked_to_end(&mut cancelled) => break,
        };
        let (cloud, name) = (Arc::clone(cloud), name.to_owned());
        running.spawn(async move {
            run_task(&cloud, &name, index, cancelled).await;
            drop(place);
        });
    }
    while running.join_next().await.is_some() {}
}

async fn run_task(cloud: &Cloud, execution: &str, index: usize, mut cancelled: Cancelled) {
    for attempt in 0.. {
        let permit = tokio::select! {
            permit = cloud.processes.acquire() => permit,
            () = asked_to_end(&mut cancelled) => return,
        };
        let Some((what, retries_left)) = begin(cloud, execution, index, attempt) else {
            return;
        };
        let end = attempt::run(cloud, what, &mut cancelled).await;
        drop(permit);
        let phase = match end {
            End::Exited(0) => Phase::Succeeded,
            End::Cancelled => Phase::Cancelled,
            _ if retries_left => continue,
            _ => Phase::Failed,
        };
        update(cloud, execution, |execution| {
            execution.tasks[index].end(phase, Some(end))
        });
        return;
    }
}

/// Marks the attempt as running. Returns it, and whether a retry may follow it.
fn begin(cloud: &Cloud, execution: &str, index: usize, attempt: usize) -> Option<(Attempt, bool)> {
    update(cloud, execution, |execution| {
        Task::begin_attempt(&mut execution.tasks[index], attempt);
        let task = &execution.template.task;
        let command = cloud.images.command(&task.container)?;
        let retries = usize::try_from(task.max_retries).unwrap_or_default();
        let what = Attempt::new(command, execution, index, attempt);
        Some((what, attempt < retries))
    })?
}

fn update<T>(
    cloud: &Cloud,
    execution: &str,
    change: impl FnOnce(&mut Execution) -> T,
) -> Option<T> {
    cloud.state().executions.get_mut(execution).map(change)
}
