//! The child processes, each in a process group of its own. All are killed when the emulator stops.

use std::collections::HashSet;
use std::io;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::time::timeout;

/// How long a killed process may take to end. Only one that waits in the kernel, as for a disk, needs any time.
const DYING: Duration = Duration::from_secs(5);

/// The running process groups, so that all can be killed at once, whatever their tasks are waiting for.
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

/// A running process group. Dropping it kills the processes that are left.
#[derive(Debug)]
pub(crate) struct Group<'a> {
    leader: Option<Pid>,
    children: &'a Children,
}

impl Children {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the command as the leader of a new process group. The lock is held during that, so that `close` misses
    /// no child.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<(Child, Group<'_>)> {
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

    /// Kills every group and refuses to start new ones.
    pub(crate) fn close(&self) {
        let mut registry = self.registry();
        registry.closed = true;
        for group in &registry.groups {
            let _gone = kill_process_group(*group, Signal::KILL);
        }
    }

    /// Returns when every child has been reaped, or after [`DYING`].
    pub(crate) async fn ended(&self) {
        let all = async {
            loop {
                // Registered before the check, so that an end in between is not missed.
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
    /// Sends SIGTERM to the leader alone, as a container's first process alone gets it.
    pub(crate) fn ask_to_end(&self) {
        let _gone = self.leader.map(|leader| kill_process(leader, Signal::TERM));
    }

    /// Sends SIGKILL to all processes of the group.
    pub(crate) fn kill(&self) {
        // It fails only if no process is left.
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
