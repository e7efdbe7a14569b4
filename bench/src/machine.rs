//! Programs under measurement, and their use of the machine, which is read from Linux's `/proc`.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// The processors that this program may use before it is pinned to one.
fn processors() -> &'static [usize] {
    static ALL: OnceLock<Vec<usize>> = OnceLock::new();
    ALL.get_or_init(|| {
        let allowed = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
        let all = 0..CpuSet::MAX_CPU;
        all.filter(|cpu| allowed.is_set(*cpu)).collect()
    })
}

/// Pins this thread, and those that it starts, to one processor. Returns false if that fails.
fn pin(cpu: usize) -> bool {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    sched_setaffinity(None, &cpus).is_ok()
}

/// Leaves the first processor to the measured program. Returns false if there is no other.
pub fn step_aside() -> bool {
    matches!(processors(), [_, other, ..] if pin(*other))
}

/// Moves to the processor of the measured program.
fn step_in() {
    if let [measured, _, ..] = processors() {
        pin(*measured);
    }
}

/// A measured program, alone on its processor. Dropping it ends it and its children.
pub struct Running {
    child: Child,
}

impl Running {
    /// Starts the program. Its standard output is discarded, and its standard error goes to the file.
    pub fn start(command: &mut Command, errors: &Path) -> anyhow::Result<Self> {
        let errors = fs::File::create(errors)?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors);
        step_in(); // a child inherits the processor of its parent
        let child = command.spawn();
        step_aside();
        let child =
            child.with_context(|| format!("starting {}", command.get_program().display()))?;
        Ok(Self { child })
    }

    /// Whether the program has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Waits until the program ends, and fails if its status is not a success.
    pub fn wait(&mut self) -> anyhow::Result<()> {
        let status = self.child.wait()?;
        ensure!(status.success(), "the program ended with {status}");
        Ok(())
    }

    /// Sends SIGTERM to the program and its children, and waits for its end.
    pub fn terminate(&mut self, patience: Duration) {
        signal(&self.processes());
        let begun = Instant::now();
        while !self.has_ended() && begun.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The CPU time so far, including that of the children.
    pub fn cpu(&self) -> Duration {
        self.processes().iter().map(|pid| cpu(*pid)).sum()
    }

    /// Resident memory in MiB, by its name in `/proc/PID/status`: `VmRSS`, or `VmHWM` for the peak.
    pub fn memory(&self, field: &str) -> f64 {
        let all = self.processes();
        let kibibytes = all.iter().filter_map(|pid| status(*pid, field));
        kibibytes.sum::<u64>() as f64 / 1024.0
    }

    /// The process ids of the program and its descendants, the youngest first.
    fn processes(&self) -> Vec<u32> {
        let mut all = vec![self.child.id()];
        let mut next = 0;
        while let Some(pid) = all.get(next) {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            let children = children.unwrap_or_default();
            all.extend(
                children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse::<u32>().ok()),
            );
            next += 1;
        }
        all.reverse();
        all
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.terminate(Duration::from_secs(3));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal(processes: &[u32]) {
    for pid in processes {
        if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

/// The CPU time of the threads of a process (see Linux's documentation of schedstats).
fn cpu(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let nanoseconds = threads.filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

fn status(pid: u32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim_start_matches(':')
        .trim()
        .strip_suffix(" kB")?
        .parse()
        .ok()
}

/// The CPU time of the whole machine.
pub fn busy() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1);
    let ticks: Vec<u64> = fields.filter_map(|ticks| ticks.parse().ok()).collect();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    let all: u64 = ticks.iter().take(8).sum();
    Duration::from_secs_f64((all - idle) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The CPU time of this program.
pub fn own() -> Duration {
    cpu(std::process::id())
}

/// The size of a file in MiB.
pub fn size(path: &Path) -> Option<f64> {
    Some(fs::metadata(path).ok()?.len() as f64 / MEBIBYTE)
}

/// A description of the machine.
pub fn description() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("", |model| model.trim_start_matches(['\t', ' ', ':']));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{} processors, {model}, Linux {}",
        processors().len(),
        kernel.trim()
    )
}
