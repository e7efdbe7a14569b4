//! One attempt of a task: a child process in its own process group.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::cloud::Cloud;
use crate::model::executions::{Cancelled, Execution, asked_to_end};
use crate::model::log_entry::{Source, Stream};
use crate::model::tasks::{CANNOT_START, End};
use crate::processes::Group;

/// The most bytes of a line in one log entry, as in Cloud Logging. A longer line becomes several entries.
const LONGEST_LINE: usize = 256 * 1024;
/// How long output is still read after the process has ended: a descendant that left its group may keep the pipe
/// open.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// What to run for one attempt, and for how long.
#[derive(Debug)]
pub(crate) struct Attempt {
    command: Arc<[OsString]>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    timeout: Duration,
    source: Source,
}

impl Attempt {
    pub(crate) fn new(
        command: Arc<[OsString]>,
        execution: &Execution,
        index: usize,
        attempt: usize,
    ) -> Self {
        let mut env: Vec<_> = execution.env().into_iter().collect();
        let mut set = |name: &str, value: String| env.push((name.to_owned(), value));
        set("CLOUD_RUN_JOB", execution.job.clone());
        set("CLOUD_RUN_EXECUTION", execution.name.clone());
        set("CLOUD_RUN_TASK_INDEX", index.to_string());
        set("CLOUD_RUN_TASK_ATTEMPT", attempt.to_string());
        set("CLOUD_RUN_TASK_COUNT", execution.tasks.len().to_string());
        let timeout = Duration::from_secs(
            u64::try_from(execution.template.task.timeout_seconds).unwrap_or_default(),
        );
        let source = Source {
            job: execution.job.as_str().into(),
            execution: execution.name.as_str().into(),
            index,
            attempt,
        };
        Self {
            command,
            args: execution.template.task.container.args.clone(),
            env,
            timeout,
            source,
        }
    }
}

/// Runs the attempt to its end and writes its lines to the log as they arrive.
pub(crate) async fn run(cloud: &Cloud, attempt: Attempt, cancelled: &mut Cancelled) -> End {
    if *cancelled.borrow() {
        return End::Cancelled;
    }
    let Some((program, leading)) = attempt.command.split_first() else {
        return End::Exited(0);
    };
    let mut command = Command::new(program);
    command
        .args(leading)
        .args(&attempt.args)
        .env_clear()
        .envs(inherited(&cloud.settings.inherit_env))
        // Google's client libraries find the metadata server by the first variable; Python's also reads the second.
        // The job's own variables override both.
        .env("GCE_METADATA_HOST", cloud.address.to_string())
        .env("GCE_METADATA_IP", cloud.address.to_string())
        .envs(attempt.env.iter().cloned());
    match cloud.children.spawn(&mut command) {
        Ok((child, group)) => supervise(cloud, &attempt, child, group, cancelled).await,
        Err(error) => {
            let line = format!(
                "emulator: cannot start {}: {error}",
                Path::new(program).display()
            );
            cloud
                .logs
                .write(&attempt.source, Stream::Stderr, line.as_bytes());
            End::Exited(CANNOT_START)
        }
    }
}

/// The variables of the emulator's own environment that tasks inherit.
fn inherited(names: &[String]) -> impl Iterator<Item = (&String, OsString)> {
    let variable = |name| Some((name, std::env::var_os(name)?));
    names.iter().filter_map(variable)
}

async fn supervise(
    cloud: &Cloud,
    attempt: &Attempt,
    mut child: Child,
    group: Group<'_>,
    cancelled: &mut Cancelled,
) -> End {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let gone = Notify::new();
    let process = async {
        let end = wait(cloud, attempt.timeout, &mut child, &group, cancelled).await;
        // This kills the descendants of the process, as the end of a container does.
        drop(group);
        gone.notify_one();
        end
    };
    let lines = async {
        tokio::join!(
            each_line(stdout, |line| cloud.logs.write(
                &attempt.source,
                Stream::Stdout,
                line
            )),
            each_line(stderr, |line| cloud.logs.write(
                &attempt.source,
                Stream::Stderr,
                line
            )),
        )
    };
    let output = async {
        tokio::select! {
            _both = lines => {}
            () = async { gone.notified().await; sleep(LAST_OUTPUT).await } => {}
        }
    };
    tokio::join!(process, output).0
}

/// Waits until the process exits, its time is up or it is cancelled. In the last two cases it ends the process.
async fn wait(
    cloud: &Cloud,
    time: Duration,
    child: &mut Child,
    group: &Group<'_>,
    cancelled: &mut Cancelled,
) -> End {
    let end = tokio::select! {
        exited = child.wait() => return exited.map_or(End::Exited(CANNOT_START), End::from),
        () = sleep(time) => End::TimedOut,
        () = asked_to_end(cancelled) => End::Cancelled,
    };
    group.ask_to_end();
    if timeout(cloud.settings.grace, child.wait()).await.is_err() {
        group.kill();
        // A process cannot ignore SIGKILL, so this wait only reaps it.
        let _reaped = child.wait().await;
    }
    end
}

/// Calls `line` with each line of the pipe, without its line ending.
async fn each_line(pipe: Option<impl AsyncRead + Unpin>, mut line: impl FnMut(&[u8])) {
    let Some(mut pipe) = pipe else { return };
    let mut chunk = vec![0; 16 * 1024];
    let mut held = Vec::new();
    while let Ok(length @ 1..) = pipe.read(&mut chunk).await {
        for piece in chunk[..length].split_inclusive(|byte| *byte == b'\n') {
            held.extend_from_slice(piece);
            if held.last() == Some(&b'\n') {
                held.pop();
                line(&held);
                held.clear();
            } else if held.len() > LONGEST_LINE {
                let cut = character_boundary(&held, LONGEST_LINE);
                line(&held[..cut]);
                held.drain(..cut);
            }
        }
    }
    if !held.is_empty() {
        line(&held);
    }
}

/// The last index up to `limit` that does not split a UTF-8 character.
fn character_boundary(bytes: &[u8], limit: usize) -> usize {
    let starts_here = |&cut: &usize| bytes[cut] & 0b1100_0000 != 0b1000_0000;
    (limit - 3..=limit).rev().find(starts_here).unwrap_or(limit)
}
