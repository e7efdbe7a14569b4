//! The emulator with the sample job, and the service in front of it, which can be stopped and started again.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use api::App;
use api::config::{AuthMode, Config};
use emulator::{Emulator, Job, Settings};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub struct World {
    pub emulator: Emulator,
    pub config: Config,
    service: Option<Service>,
}

struct Service {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl World {
    /// With a job that takes `seconds` and exits with `fail_with`.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// The same with settings changed.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let binary = emulator::job_binary().unwrap();
        let job = Job {
            max_retries: 0,
            ..Job::new("test-job", [binary])
        };
        let settings = Settings {
            jobs: vec![job],
            ..Settings::default()
        };
        let emulator = Emulator::start(settings).await.unwrap();
        let mut config = Config::defaults().unwrap();
        config.auth.mode = Some(AuthMode::Public);
        config.cloud_run.job = "test-job".to_owned();
        config.cloud_run.base_url = Some(emulator.url());
        config.cloud_logging.base_url = emulator.url();
        config.platform.metadata_host = emulator.host();
        config.overrides.env = object(
            json!({"SLEEP_SECONDS": "{seconds}", "FAIL_WITH": "{fail_with}", "MODE": "{mode}"}),
        );
        config.parameters = object(json!({
            "seconds": {"type": "integer", "minimum": 0, "maximum": 600, "default": 1, "description": "how long it takes"},
            "fail_with": {"type": "integer", "minimum": 0, "maximum": 255, "description": "the exit code"},
            "mode": {"type": "string", "enum": ["full", "quick"], "default": "quick"},
        }));
        change(&mut config);
        let mut world = Self {
            emulator,
            config,
            service: None,
        };
        world.config.port = 0;
        world.start_service().await;
        world
    }

    /// Starts the service, on the same port each time.
    pub async fn start_service(&mut self) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.config.port))
            .await
            .unwrap();
        self.config.port = listener.local_addr().unwrap().port();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async { drop(stopped.await) };
        let app = App::new(&self.config).unwrap();
        let task = tokio::spawn(api::serve(listener, app, shutdown));
        self.service = Some(Service { stop, task });
    }

    /// Stops the service as a new revision would; returns once its port is free.
    pub async fn stop_service(&mut self) {
        let Service { stop, task } = self.service.take().unwrap();
        stop.send(()).unwrap();
        task.await.unwrap();
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.config.port)
    }

    /// How many executions were started in total.
    pub fn started(&self) -> u64 {
        self.emulator.counters().runs
    }

    /// Waits until so many executions were started.
    pub async fn until_started(&self, count: u64) {
        let began = Instant::now();
        while self.started() != count {
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "{} were started, not {count}",
                self.started()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("{other} is not an object"),
    }
}
