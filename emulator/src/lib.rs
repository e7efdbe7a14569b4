//! An emulator of Cloud Run Jobs, the metadata server and reads of Cloud Logging, on loopback.
//!
//! One listener serves Cloud Run Jobs in v1 and v2 (REST and gRPC), `entries:list` of Cloud Logging and the metadata
//! server. Each attempt of a task is a child process. The package's README lists what is emulated and what is not.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use emulator::{Emulator, Job, Settings};
//!
//! let hello = Job::new("hello", ["sh", "-c", "echo hello $CLOUD_RUN_TASK_INDEX"]);
//! let emulator = Emulator::start(Settings { jobs: vec![hello], ..Settings::default() }).await?;
//! println!("POST {}/apis/run.googleapis.com/v1/namespaces/demo/jobs/hello:run", emulator.url());
//! emulator.stop().await;
//! # Ok(())
//! # }
//! ```

mod attempt;
mod camel_case;
mod cloud;
mod http;
mod job_binary;
mod model;
mod processes;
mod random;
mod refusal;
mod runner;
mod settings;
mod site;
mod starts;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::cloud::Cloud;
pub use crate::job_binary::job_binary;
pub use crate::model::counters::{Arrival, Counters};
use crate::model::executions::Execution;
pub use crate::model::executions::{ExecutionRecord, State};
pub use crate::model::faults::{Fault, FaultBody, Faults, Operation, Rule, When};
pub use crate::settings::{Job, Settings};

/// A running emulator. Dropping it ends every task's process group and stops serving.
#[derive(Debug)]
pub struct Emulator {
    cloud: Arc<Cloud>,
    server: JoinHandle<()>,
}

impl Emulator {
    /// Listens and serves until stopped or dropped.
    ///
    /// # Errors
    /// The port is taken, or Cloud Run would refuse a job of the settings.
    pub async fn start(settings: Settings) -> io::Result<Self> {
        let wanted = SocketAddr::new(settings.host, settings.port);
        let listener = TcpListener::bind(wanted).await.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot listen on {wanted}: {error}"))
        })?;
        let address = reachable(listener.local_addr()?);
        let cloud = Arc::new(Cloud::new(settings, address)?);
        let server = tokio::spawn(http::server::serve(listener, Arc::clone(&cloud)));
        Ok(Self { cloud, server })
    }

    /// The base URL of every emulated API for programs on this machine: `http://127.0.0.1:PORT`, without a trailing
    /// slash.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.cloud.address)
    }

    /// The address as `127.0.0.1:PORT`, the form of `GCE_METADATA_HOST`.
    #[must_use]
    pub fn host(&self) -> String {
        self.cloud.address.to_string()
    }

    /// Shell commands that make the gcloud CLI, or a program with Google's client libraries, use this emulator.
    #[must_use]
    pub fn instructions(&self) -> String {
        let Settings {
            project,
            region,
            allow_anonymous,
            ..
        } = &self.cloud.settings;
        let (url, host) = (self.url(), self.host());
        let own = self.cloud.address.ip();
        let credentials = if *allow_anonymous {
            "CLOUDSDK_AUTH_DISABLE_CREDENTIALS=true".to_owned()
        } else {
            // With a configuration of its own, gcloud asks no account of the user for a token.
            format!("GCE_METADATA_ROOT={host} CLOUDSDK_CONFIG=$(mktemp -d)")
        };
        format!(
            "The emulator of Cloud Run Jobs listens on {url}

For a program with Google's client libraries, in any language:
  export GCE_METADATA_HOST={host} GCE_METADATA_IP={host}

For gcloud:
  export http_proxy={url} no_proxy=localhost,{own} \\
    CLOUDSDK_API_ENDPOINT_OVERRIDES_RUN=http://run.googleapis.com/ \\
    CLOUDSDK_API_ENDPOINT_OVERRIDES_LOGGING=http://logging.googleapis.com/ \\
    CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDRESOURCEMANAGER=http://cloudresourcemanager.googleapis.com/ \\
    {credentials} \\
    CLOUDSDK_CORE_PROJECT={project} CLOUDSDK_RUN_REGION={region} \\
    CLOUDSDK_CORE_DISABLE_PROMPTS=1 CLOUDSDK_CORE_SHOULD_PROMPT_TO_ENABLE_API=false \\
    CLOUDSDK_CORE_DISABLE_USAGE_REPORTING=true CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK=true
"
        )
    }

    /// The fault rules, which can be added and cleared while the emulator runs.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.cloud.faults
    }

    /// The counts of calls and executions so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.cloud.counters.snapshot()
    }

    /// The executions that are kept, oldest first.
    #[must_use]
    pub fn executions(&self) -> Vec<ExecutionRecord> {
        self.cloud
            .state()
            .executions
            .oldest_first()
            .map(Execution::record)
            .collect()
    }

    /// Adds `count` executions of `job` that have succeeded, without running anything. The newest is an hour old,
    /// each further one a second older, and all come before the existing ones. `env` returns the overridden
    /// environment of each; index 0 is the newest. As on Google Cloud, only the newest 1,000 finished executions are
    /// kept.
    ///
    /// # Errors
    /// There is no such job.
    pub fn add_past_executions(
        &self,
        job: &str,
        count: usize,
        env: impl Fn(usize) -> Vec<(String, String)>,
    ) -> io::Result<()> {
        let missing =
            |refusal: refusal::Refusal| io::Error::new(io::ErrorKind::NotFound, refusal.message);
        starts::add_past(&self.cloud, job, count, env).map_err(missing)
    }

    /// Invalidates every access token issued so far. The metadata server then issues a new one.
    pub fn revoke_tokens(&self) {
        self.cloud.tokens.revoke();
    }

    /// Stops serving, kills every child with its process group, and returns once they are gone and the port is free.
    pub async fn stop(mut self) {
        self.cloud.children.close();
        self.server.abort();
        let _cancelled = (&mut self.server).await;
        self.cloud.children.ended().await;
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.cloud.children.close();
        self.server.abort();
    }
}

/// The address at which programs on this machine reach the listener: loopback if it listens on all addresses.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}
