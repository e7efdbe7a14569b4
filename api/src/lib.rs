//! Starts a Cloud Run Job for a scope and follows it to its end.
//!
//! `serve` is the whole service; the program and its tests run the same function.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> anyhow::Result<()> {
//! let mut config = api::config::Config::defaults()?;
//! config.auth.mode = Some(api::config::AuthMode::Public);
//! config.cloud_run.job = "test-job".to_owned();
//! let app = api::App::new(&config)?;
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let shutdown = std::future::ready(()); // in the program, a signal
//! api::serve(listener, app, shutdown).await;
//! # Ok(())
//! # }
//! ```

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)
)]

pub mod auth;
mod backoff;
mod cached;
pub mod caller_id;
pub mod check;
pub mod config;
pub mod execution;
pub mod gcp;
pub mod http;
pub mod mint;
pub mod overrides;
pub mod parameters;
pub mod process;
pub mod progress;
mod random;
pub mod scope;
pub mod starts;
pub mod telemetry;
pub mod watch;
pub mod web;

use std::future::Future;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::net::TcpListener;

use crate::auth::Auth;
use crate::config::{Config, Invalid};
use crate::execution::Execution;
use crate::gcp::access_token::AccessToken;
use crate::gcp::client::Google;
use crate::gcp::cloud_logging::CloudLogging;
use crate::gcp::cloud_run::CloudRun;
use crate::gcp::http_client::{GoogleApisClient, HttpClients};
use crate::gcp::log_budget::LogBudget;
use crate::gcp::metadata::{Location, Metadata};
use crate::http::authorize::{Authorized, Op};
use crate::http::browsers::Origins;
use crate::http::limits::Limits;
use crate::http::problem::{Kind, Problem};
use crate::http::router;
use crate::http::server::{self, Bounds};
use crate::process::Processes;
use crate::starts::{Starts, Store};
use crate::watch::Watches;

/// Firestore's API.
const FIRESTORE: &str = "https://firestore.googleapis.com";

/// What handlers share.
pub struct App {
    auth: Auth,
    origins: Origins,
    limits: Limits,
    bounds: Bounds,
    processes: Processes,
    starts: Starts,
    cloud_run: Arc<CloudRun>,
    cloud_logging: Arc<CloudLogging>,
    watches: Watches,
    token: Arc<AccessToken>,
    location: Arc<Location>,
    /// Whether a start without a key takes one from the headers of Cloud Scheduler and Cloud Tasks.
    google_keys: bool,
    draining: tokio::sync::watch::Sender<bool>,
    document: OnceLock<Bytes>,
}

impl App {
    /// Checks the settings against each other and connects the parts. It makes no calls.
    pub fn new(config: &Config) -> Result<Self, Invalid> {
        let clients = HttpClients::new().map_err(|error| Invalid::new("TLS", error.to_string()))?;
        Self::with_clients(config, clients)
    }

    /// The same with other HTTP clients, such as those that trust a test server.
    pub fn with_clients(config: &Config, clients: HttpClients) -> Result<Self, Invalid> {
        let HttpClients {
            google_apis,
            reqwest,
        } = clients;
        let auth = Auth::new(config, reqwest.clone())?;
        config.check()?;
        let google_keys = config.idempotency.from_google && !matches!(auth, Auth::Public(_));
        let origins = Origins::new(&config.cors.origins)?;
        let limits = Limits::new(&config.limits, config.platform.cloud_run)?;
        let processes = Processes::new(config)?;
        let metadata = Metadata::new(reqwest, &config.platform.metadata_host);
        let location = Location::new(
            metadata.clone(),
            config.cloud_run.project.clone(),
            config.cloud_run.region.clone(),
        );
        let (location, token) = (Arc::new(location), Arc::new(AccessToken::new(metadata)));
        let google = Google::new(google_apis.clone(), Some(Arc::clone(&token)));
        let store = store(config, google_apis, &google, &location);
        let cloud_run = Arc::new(CloudRun::new(
            google.clone(),
            Arc::clone(&location),
            config.cloud_run.base_url.as_deref(),
            processes
                .iter()
                .map(|process| Arc::clone(&process.target))
                .collect(),
        ));
        let cloud_logging = Arc::new(CloudLogging::new(
            google,
            Arc::clone(&location),
            LogBudget::new(config.limits.log_reads_per_minute),
            &config.cloud_logging.base_url,
            cloud_run.targets().iter().map(|target| target.job()),
        ));
        Ok(Self {
            auth,
            origins,
            limits,
            bounds: Bounds::new(&config.limits, config.platform.cloud_run),
            processes,
            starts: Starts::new(Arc::clone(&cloud_run), store, &config.start),
            watches: Watches::new(
                Arc::clone(&cloud_run),
                Arc::clone(&cloud_logging),
                http::handlers::events::render,
            ),
            cloud_run,
            cloud_logging,
            token,
            location,
            google_keys,
            draining: tokio::sync::watch::Sender::new(false),
            document: OnceLock::new(),
        })
    }

    /// Fetches a token, and the job's project and region, for which the first start would otherwise wait. If that fails, each request
    /// tries again.
    pub fn warm_up(&self) -> impl Future<Output = ()> + Send + 'static {
        let (token, location) = (Arc::clone(&self.token), Arc::clone(&self.location));
        let starts = self.starts.clone();
        async move {
            starts.look_for_duplicates();
            let (token, place) = tokio::join!(token.bearer(), location.get());
            if let Some(error) = token.err().or(place.err()) {
                tracing::warn!(cause = %error, "executions cannot be started yet");
            }
        }
    }

    /// The OpenAPI document for these settings, as JSON. It is made at the first request.
    pub fn document(&self) -> Bytes {
        let make = || format!("{:#}\n", router::document(self)).into();
        self.document.get_or_init(make).clone()
    }

    /// The execution of this name, if the caller is authorized for it.
    async fn execution<O: Op>(
        &self,
        authorized: &Authorized<O>,
        name: &str,
    ) -> Result<Execution, Problem> {
        let execution = self
            .cloud_run
            .get(name)
            .await?
            .filter(|execution| authorized.covers(execution));
        execution.ok_or_else(|| Kind::ExecutionNotFound.into())
    }

    /// Tests that a token, the project and the region are available for calls to Google.
    async fn can_call(&self) -> Result<(), gcp::metadata::Error> {
        self.token.bearer().await?;
        self.location.get().await.map(|_| ())
    }

    /// The job's project, if it is known by now.
    fn project(&self) -> Option<&str> {
        self.location.known().map(|place| &place.project[..])
    }

    fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Waits until the drain begins.
    async fn drains(&self) {
        // An error would mean that the sender was dropped, and `self` has it.
        let _ = self
            .draining
            .subscribe()
            .wait_for(|draining| *draining)
            .await;
    }
}

/// The store of leases. None if they are kept in memory.
fn store(
    config: &Config,
    http: GoogleApisClient,
    google: &Google,
    location: &Arc<Location>,
) -> Option<Store> {
    let (google, base_url) = match (&config.idempotency.store, &config.platform.firestore_host) {
        (config::Store::Memory, _) => return None,
        (config::Store::Firestore, None) => (google.clone(), FIRESTORE.to_owned()),
        (config::Store::Firestore, Some(host)) => {
            (Google::new(http, None), format!("http://{host}"))
        }
    };
    Some(Store {
        google,
        location: Arc::clone(location),
        base_url,
    })
}

/// Serves until `shutdown` is ready, waits for the requests in flight, and returns.
pub async fn serve(listener: TcpListener, app: App, shutdown: impl Future<Output = ()>) {
    let app = Arc::new(app);
    let service = router::service(Arc::clone(&app));
    let bounds = app.bounds;
    let drain = async {
        shutdown.await;
        app.draining.send_replace(true);
    };
    // This runs after the requests have ended. A start continues if its caller has disconnected.
    let unattended = async { app.starts.drain().await };
    server::serve(listener, service, bounds, drain, unattended).await;
}
