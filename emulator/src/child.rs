//! One attempt of a task: a child process in its own process group.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::cloud::Cloud;
use crate::executions::Execution;
use crate::logging::{Source, Stream};
use crate::runner::{Cancelled, asked_to_end};

/// A longer line becomes several entries: Cloud Logging's limit for one is 256 KiB.
const LONGEST_LINE: usize = 256 * 1024;
/// How long output may still arrive after the process is gone, should a descendant have left its group.
const LAST_OUTPUT: Duration = Duration::from_secs(1);
/// How long a killed process may take to be gone: only one that waits in the kernel, as for a disk, takes any time.
const DYING: Duration = Duration::from_secs(5);
/// What a shell reports for a program that it cannot start.
const CANNOT_START: i32 = 127;

/// What one attempt is to run.
#[derive(Debug)]
pub(crate) struct Attempt {
    command: Arc<[OsString]>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    timeout: Duration,
    source: Source,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    /// With this code; 128 and the signal's number if a signal ended it.
    Exited(i32),
    TimedOut,
    Cancelled,
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
            u64::try_from(execution.template.timeout_seconds).unwrap_or_default(),
        );
        let source = Source {
            job: execution.job.as_str().into(),
            execution: execution.name.as_str().into(),
            index,
            attempt,
        };
        Self {
            command,
            args: execution.args(),
            env,
            timeout,
            source,
        }
    }
}

impl End {
    /// The task's `lastAttemptResult`, with the codes of google.rpc.Code.
    pub(crate) fn json(&self) -> Value {
        let status = |code: u8, message: &str| json!({ "code": code, "message": message });
        match self {
            Self::Exited(0) => json!({ "status": {} }),
            Self::Exited(code) => {
                json!({ "exitCode": code, "status": status(10, "The container exited with an error.") })
            }
            Self::TimedOut => json!({ "status": status(4, "The configured timeout was reached.") }),
            Self::Cancelled => json!({ "status": status(1, "Cancelled by user.") }),
        }
    }
}

impl From<ExitStatus> for End {
    fn from(status: ExitStatus) -> Self {
        // One of the two is always there.
        Self::Exited(
            status
                .code()
                .or(status.signal().map(|signal| 128 + signal))
                .unwrap_or(CANNOT_START),
        )
    }
}

/// The command with its program looked up on our PATH: the child's own environment may have none.
pub(crate) fn resolved(command: &[OsString]) -> Arc<[OsString]> {
    let mut command = command.to_vec();
    if let Some(path) = command.first().and_then(|program| on_path(program)) {
        command[0] = path;
    }
    command.into()
}

fn on_path(program: &OsStr) -> Option<OsString> {
    if Path::new(program).components().count() != 1 {
        return None;
    }
    let directories = std::env::var_os("PATH")?;
    let mut candidates =
        std::env::split_paths(&directories).map(|directory| directory.join(program));
    candidates
        .find(|candidate| candidate.is_file())
        .map(Into::into)
}

/// Runs the attempt to its end. Its lines become log entries as they come.
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
        .envs(attempt.env.iter().cloned());
    match cloud.children.spawn(&mut command) {
        Ok((child, group)) => supervise(cloud, &attempt, child, group, cancelled).await,
        Err(error) => {
            let line = format!(
                "emulator: cannot start {}: {error}",
                Path::new(program).display()
            );
            cloud.log(&attempt.source, Stream::Stderr, line.as_bytes());
            End::Exited(CANNOT_START)
        }
    }
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
        // What the process started ends with it, as it does with a container.
        drop(group);
        gone.notify_one();
        end
    };
    let lines = async {
        tokio::join!(
            each_line(stdout, |line| cloud.log(
                &attempt.source,
                Stream::Stdout,
                line
            )),
            each_line(stderr, |line| cloud.log(
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

/// Waits for the process, its time, or the cancellation, whichever is first.
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
        // It cannot refuse, so this is only to not leave it behind unreaped.
        let _reaped = child.wait().await;
    }
    end
}

/// Calls `line` for each line, without its end, that the pipe brings.
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

/// The last place up to `limit` where no UTF-8 character is cut in two.
fn character_boundary(bytes: &[u8], limit: usize) -> usize {
    let starts_here = |&cut: &usize| bytes[cut] & 0b1100_0000 != 0b1000_0000;
    (limit - 3..=limit).rev().find(starts_here).unwrap_or(limit)
}

/// Every process group that runs, so that all can be ended at once, whatever their tasks are waiting for.
#[derive(Debug, Default)]
pub(crate) struct Children {
    registry: Mutex<Registry>,
    one_ended: Notify,
}

#[derive(Debug, Default)]
struct Registry {
    closed: bool,
    groups: HashSet<Pid>,
}

/// A running process group. Dropping it kills what is left of it.
#[derive(Debug)]
struct Group<'a> {
    leader: Option<Pid>,
    children: &'a Children,
}

impl Children {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the command at the head of a new process group. The lock is held meanwhile: a child must not
    /// start unseen while all are being ended.
    fn spawn(&self, command: &mut Command) -> io::Result<(Child, Group<'_>)> {
        let mut registry = self.registry();
        if registry.closed {
            return Err(io::Error::other("the emulator is stopping"));
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn()?;
        let leader = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        registry.groups.extend(leader);
        Ok((
            child,
            Group {
                leader,
                children: self,
            },
        ))
    }

    /// Kills every group and lets no further one start.
    pub(crate) fn close(&self) {
        let mut registry = self.registry();
        registry.closed = true;
        for group in &registry.groups {
            let _gone = kill_process_group(*group, Signal::KILL);
        }
    }

    /// Returns once every process that was started has been waited for, or after [`DYING`].
    pub(crate) async fn ended(&self) {
        let all = async {
            loop {
                // Registered before looking, so that an end in between is not missed.
                let one_ended = self.one_ended.notified();
                if self.registry().groups.is_empty() {
                    return;
                }
                one_ended.await;
            }
        };
        let _in_time = timeout(DYING, all).await;
    }
}

impl Group<'_> {
    /// SIGTERM to the process that was started, and to no other: a container's first process gets it alone too.
    fn ask_to_end(&self) {
        let _gone = self.leader.map(|leader| kill_process(leader, Signal::TERM));
    }

    /// SIGKILL to all that is left.
    fn kill(&self) {
        // It fails only if nothing is.
        let _gone = self
            .leader
            .map(|leader| kill_process_group(leader, Signal::KILL));
    }
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        let mut registry = self.children.registry();
        if self
            .leader
            .is_some_and(|leader| registry.groups.remove(&leader))
        {
            self.kill();
            self.children.one_ended.notify_waiters();
        }
    }
}
