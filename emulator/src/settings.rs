//! The settings of an emulator.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// The settings of an emulator. Start from the default and change single fields.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address to listen on. Beyond loopback, other machines can run the jobs' commands.
    pub host: IpAddr,
    /// The port; 0 stands for any free one.
    pub port: u16,
    /// Host names by which clients may call, beside `localhost`, Google's names and any IP address. Other names are
    /// refused, because a page in a browser could use one by DNS rebinding.
    pub allow_hosts: Vec<String>,
    /// The id of the only project.
    pub project: String,
    /// The only region.
    pub region: String,
    /// Jobs that exist from the start. A job that is created later runs the command of the job that its image is
    /// named after, or else that of the first job.
    pub jobs: Vec<Job>,
    /// Accepts calls without an access token. The gcloud CLI needs that if its credentials are disabled.
    pub allow_anonymous: bool,
    /// Runs a container's own `command` as a local program. Otherwise the command of its image runs instead.
    pub allow_commands: bool,
    /// Variables of the emulator's own environment that every task inherits, such as `PATH` and `HOME`.
    pub inherit_env: Vec<String>,
    /// Also serves `/emulator/faults` and `/emulator/counters`.
    pub faults: bool,
    /// The lifetime of the metadata server's access tokens.
    pub token_lifetime: Duration,
    /// How long an execution stays pending before its tasks start.
    pub pending: Duration,
    /// The time from the creation of an execution until lists show it.
    pub listing_lag: Duration,
    /// The time from SIGTERM to SIGKILL when a task is cancelled or times out.
    pub grace: Duration,
    /// Also prints every line of a task on standard output, after the name of its execution.
    pub echo: bool,
    /// The most unfinished executions, beyond which `:run` answers 429. The default is Google's default quota.
    pub max_running_executions: usize,
    /// The number of finished executions that are kept for each job, the newest ones. The default is Google's number.
    pub retained_executions: usize,
    /// The most child processes at one time. Further tasks wait, as they do on Cloud Run when capacity is short.
    pub max_processes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            host: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            allow_hosts: Vec::new(),
            project: "demo".into(),
            region: "us-east4".into(),
            jobs: Vec::new(),
            allow_anonymous: false,
            allow_commands: false,
            inherit_env: Vec::new(),
            faults: false,
            token_lifetime: Duration::from_secs(3600),
            pending: Duration::from_millis(50),
            listing_lag: Duration::ZERO,
            grace: Duration::from_secs(10),
            echo: false,
            max_running_executions: 1000,
            retained_executions: 1000,
            max_processes: 100,
        }
    }
}

/// A job that exists from the start, with Cloud Run's defaults.
#[derive(Clone, Debug)]
pub struct Job {
    /// The name of the job, and of the image that stands for its command.
    pub name: String,
    /// The program and its leading arguments, in the role of an image's ENTRYPOINT. If it is empty, tasks succeed
    /// without a process, for tests that need very many executions.
    pub command: Vec<OsString>,
    /// The job's own arguments, which an override replaces.
    pub args: Vec<String>,
    /// The job's own environment, which an override is merged into.
    pub env: Vec<(String, String)>,
    /// The number of tasks of an execution, 1 to 10,000.
    pub task_count: u32,
    /// The most tasks at one time; 0 stands for all.
    pub parallelism: u32,
    /// The retries of a task, 0 to 10.
    pub max_retries: u32,
    /// The timeout of an attempt, in seconds.
    pub timeout_seconds: u32,
}

impl Job {
    /// A job with Cloud Run's defaults: one task, three retries and a timeout of ten minutes.
    pub fn new(
        name: impl Into<String>,
        command: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Self {
        Self {
            name: name.into(),
            command: command.into_iter().map(Into::into).collect(),
            args: Vec::new(),
            env: Vec::new(),
            task_count: 1,
            parallelism: 0,
            max_retries: 3,
            timeout_seconds: 600,
        }
    }
}
