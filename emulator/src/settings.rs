//! What an emulator is started with.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// How an emulator is to run. Start from the default and change what matters.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address to listen on. Whoever reaches another one than loopback can run the jobs' commands.
    pub host: IpAddr,
    /// The port; 0 takes any that is free.
    pub port: u16,
    /// Host names by which clients call, beside `localhost`, those of Google, and any IP address. Pages in a browser
    /// that come by another name are refused.
    pub allow_hosts: Vec<String>,
    /// The only project there is.
    pub project: String,
    /// The only region there is.
    pub region: String,
    /// Jobs that exist from the start. The first one's command is also that of jobs created later whose image
    /// is not named like a job of this list.
    pub jobs: Vec<Job>,
    /// Lets calls through that bring no access token. The real gcloud CLI needs that with its credentials disabled.
    pub allow_anonymous: bool,
    /// Runs a container's own `command` as a local program. Else the command behind its image is run in its place.
    pub allow_commands: bool,
    /// Variables of the emulator's own environment that every task gets, `PATH` and `HOME` for instance.
    pub inherit_env: Vec<String>,
    /// Serves `/emulator/faults` and `/emulator/counters` too.
    pub faults: bool,
    /// How long an access token of the metadata server lives.
    pub token_lifetime: Duration,
    /// How long an execution stays pending before its tasks start.
    pub pending: Duration,
    /// How long after its creation lists begin to show an execution.
    pub listing_lag: Duration,
    /// From SIGTERM to SIGKILL when a task is cancelled or out of time.
    pub grace: Duration,
    /// Prints every line of a task on our standard output too, after the execution's name.
    pub echo: bool,
    /// Unfinished executions beyond which `:run` answers 429. Google's default quota.
    pub max_running_executions: usize,
    /// Finished executions kept per job, the newest. Google's number.
    pub retained_executions: usize,
    /// Child processes at one time. Further tasks wait, as they do on Cloud Run when capacity is short.
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
    /// Its name, and that of the image that stands for its command.
    pub name: String,
    /// Program and leading arguments: what an image's ENTRYPOINT would be. Empty: tasks succeed without a process,
    /// for tests that want very many executions.
    pub command: Vec<OsString>,
    /// The job's own arguments, which an override replaces.
    pub args: Vec<String>,
    /// The job's own environment, which an override is merged into.
    pub env: Vec<(String, String)>,
    /// Tasks of an execution, 1 to 10,000.
    pub task_count: u32,
    /// Tasks at one time; 0 for as many as there are.
    pub parallelism: u32,
    /// Attempts of a task after the first, 0 to 10.
    pub max_retries: u32,
    /// Seconds an attempt may take.
    pub timeout_seconds: u32,
}

impl Job {
    /// A job of one task, three retries and ten minutes, as Cloud Run makes it when nothing else is said.
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
