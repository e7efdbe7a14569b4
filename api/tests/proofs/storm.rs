//! All failures at the same time: calls of `run` fail before and after their effect, the list lags, a rollout replaces one process
//! by another while both are called, and a process is killed.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use emulator::{Emulator, Settings, State};
use futures_util::StreamExt;
use futures_util::stream;
use serde_json::Value;

use crate::helpers::{client, eventually, instant_job};
use crate::processes::Process;
use crate::store::{firestore, project};
use crate::{failures, full, mixed, seed, size};

/// How many of the calls of `run` fail.
const SHARE: f64 = 0.3;
/// Clients at a time.
const CLIENTS: usize = 32;
/// How long a client repeats at most.
const PATIENCE: Duration = Duration::from_secs(300);
/// From one event of the rollout to the next.
const STEP: Duration = Duration::from_secs(3);

/// How late the list shows executions, and the settings for that.
#[derive(Clone, Copy)]
struct Times {
    lag_seconds: u64,
    quiet_seconds: u64,
    deadline_seconds: u64,
}

struct World {
    emulator: Emulator,
    variables: Vec<(&'static str, String)>,
    /// Where clients call now.
    urls: Mutex<Vec<String>>,
    errors: Mutex<Vec<Arc<Mutex<Vec<Value>>>>>,
}

impl World {
    /// Whether executions stay unfinished, so that two of one start are visible.
    async fn new(store: Option<String>, times: Times) -> Self {
        let settings = Settings {
            jobs: vec![instant_job()],
            project: project(),
            max_running_executions: usize::MAX,
            retained_executions: usize::MAX,
            pending: Duration::from_secs(3600),
            listing_lag: Duration::from_secs(times.lag_seconds),
            ..Settings::default()
        };
        let mut variables = vec![
            (
                "API__START__DEADLINE_SECONDS",
                times.deadline_seconds.to_string(),
            ),
            ("API__START__QUIET_SECONDS", times.quiet_seconds.to_string()),
        ];
        if let Some(host) = store {
            variables.push(("FIRESTORE_EMULATOR_HOST", host));
            variables.push(("API__IDEMPOTENCY__STORE", "firestore".to_owned()));
        }
        Self {
            emulator: Emulator::start(settings).await.unwrap(),
            variables,
            urls: Mutex::default(),
            errors: Mutex::default(),
        }
    }

    async fn process(&self) -> Process {
        let variables = self
            .variables
            .iter()
            .map(|(name, value)| (*name, &value[..]));
        let process = Process::start(&self.emulator, &variables.collect::<Vec<_>>()).await;
        self.errors.lock().unwrap().push(process.errors());
        process
    }

    fn call(&self, processes: &[&Process]) {
        let urls = processes.iter().map(|process| process.url.clone());
        *self.urls.lock().unwrap() = urls.collect();
    }

    /// Repeats a key, each time to the next process, until it is accepted twice. Returns the names that it was answered with.
    async fn insist(&self, key: &str) -> HashSet<String> {
        let (http, begun) = (client(), Instant::now());
        let (mut names, mut accepted, mut nth) = (HashSet::new(), 0, key.len());
        while accepted < 2 {
            assert!(begun.elapsed() < PATIENCE, "{key} is never accepted");
            let url = {
                let urls = self.urls.lock().unwrap();
                urls[nth % urls.len()].clone()
            };
            nth += 1;
            let request = http.post(format!("{url}/scopes/acme/process"));
            // A process that has ended does not answer.
            if let Ok(response) = request.header("idempotency-key", key).send().await
                && response.status() == 202
            {
                let execution: Value = response.json().await.unwrap();
                names.insert(execution["name"].as_str().unwrap().to_owned());
                accepted += 1;
                continue;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        names
    }

    /// The executions of each start: whether they survive.
    fn starts(&self) -> BTreeMap<String, Vec<bool>> {
        let mut starts = BTreeMap::<_, Vec<_>>::new();
        for execution in self.emulator.executions() {
            let env = &execution.overrides["containerOverrides"][0]["env"];
            let mut variables = env.as_array().into_iter().flatten();
            let id = variables
                .find(|variable| variable["name"] == "INVOCATION_ID")
                .unwrap();
            let id = id["value"].as_str().unwrap().to_owned();
            let survives = execution.state != State::Cancelled;
            starts.entry(id).or_default().push(survives);
        }
        starts
    }

    /// The starts with several executions.
    fn doubled(&self) -> usize {
        self.starts().values().filter(|all| all.len() > 1).count()
    }

    fn cancelled_duplicates(&self) -> usize {
        let errors = self.errors.lock().unwrap();
        let lines = errors
            .iter()
            .flat_map(|errors| errors.lock().unwrap().clone());
        let is_told = |line: &Value| {
            line["message"]
                .to_string()
                .contains("younger one was cancelled")
        };
        lines.filter(is_told).count()
    }
}

/// A second process is started, the first one gets SIGTERM, and then one of the running processes is killed.
async fn roll_out(world: &World, also: Option<Process>, first: Process) -> Vec<Process> {
    tokio::time::sleep(STEP).await;
    let second = world.process().await;
    world.call(&also.iter().chain([&first, &second]).collect::<Vec<_>>());
    tokio::time::sleep(STEP).await;
    world.call(&also.iter().chain([&second]).collect::<Vec<_>>());
    assert_eq!(first.terminate().await, Some(0));
    tokio::time::sleep(STEP).await;
    let third = world.process().await;
    world.call(&also.iter().chain([&third]).collect::<Vec<_>>());
    second.kill().await;
    also.into_iter().chain([third]).collect()
}

/// The names that each key was answered with, and the processes that are left.
async fn storm(
    world: &World,
    keys: usize,
    several: bool,
) -> (BTreeMap<String, HashSet<String>>, Vec<Process>) {
    let seed = seed("storm");
    let runs = failures().into_iter().map(|(_, rule)| rule).collect();
    for rule in mixed(runs, SHARE, seed) {
        world.emulator.faults().add(rule);
    }
    let first = world.process().await;
    let mut also = None;
    if several {
        also = Some(world.process().await);
    }
    world.call(&also.iter().chain([&first]).collect::<Vec<_>>());
    let insisting = (0..keys).map(|nth| async move {
        let key = format!("k{nth}");
        let names = world.insist(&key).await;
        (key, names)
    });
    let answers = stream::iter(insisting)
        .buffer_unordered(CLIENTS)
        .collect::<BTreeMap<_, _>>();
    let (answers, left) = tokio::join!(answers, roll_out(world, also, first));
    (answers, left)
}

fn all_times() -> Vec<Times> {
    let times = |lag_seconds, quiet_seconds, deadline_seconds| Times {
        lag_seconds,
        quiet_seconds,
        deadline_seconds,
    };
    if full() {
        vec![times(1, 10, 10), times(3, 10, 10), times(8, 10, 10)]
    } else {
        vec![times(1, 3, 7)]
    }
}

#[tokio::test]
async fn with_firestore_a_key_starts_one_execution_whatever_happens() {
    let Some(store) = firestore() else { return };
    let keys = size(60, 1_000);
    for times in all_times() {
        let world = World::new(Some(store.clone()), times).await;
        let begun = Instant::now();
        let (answers, _left) = storm(&world, keys, true).await;
        let (starts, doubled) = (world.starts(), world.doubled());
        println!(
            "storm, firestore, the list lags by {} s: {keys} keys, {doubled} duplicates, {} losses in {:.0} s",
            times.lag_seconds,
            keys - starts.len(),
            begun.elapsed().as_secs_f64(),
        );
        assert_eq!((starts.len(), doubled), (keys, 0));
        let several: Vec<_> = answers
            .iter()
            .filter(|(_, names)| names.len() != 1)
            .collect();
        assert!(several.is_empty(), "{several:?}");
    }
}

/// Two concurrent processes do not know of each other's starts, and a killed one forgets what it sent. At most one execution of a
/// start survives, and the log reports the cancelled ones.
#[tokio::test]
async fn with_memory_at_most_one_execution_of_a_key_survives() {
    let keys = size(60, 1_000);
    for times in all_times() {
        let world = World::new(None, times).await;
        let begun = Instant::now();
        let (_, left) = storm(&world, keys, false).await;
        world.emulator.faults().clear();
        let (starts, doubled) = (world.starts(), world.doubled());
        let too_many = || {
            let starts = world.starts();
            starts
                .values()
                .any(|all| all.iter().filter(|survives| **survives).count() > 1)
        };
        // The list is read again in time, even without requests.
        let waiting = Instant::now();
        while too_many() && waiting.elapsed() < Duration::from_secs(60) {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        eventually(|| world.cancelled_duplicates() >= doubled).await;
        println!(
            "storm, memory, the list lags by {} s: {keys} keys, {doubled} duplicates, of which {} were cancelled, {} losses in {:.0} s",
            times.lag_seconds,
            world.cancelled_duplicates(),
            keys - starts.len(),
            begun.elapsed().as_secs_f64(),
        );
        assert_eq!(starts.len(), keys);
        assert!(!too_many());
        assert!(
            starts
                .values()
                .all(|all| all.iter().any(|survives| *survives))
        );
        drop(left);
    }
}

/// One surviving process gives the same guarantee as Firestore.
#[tokio::test]
async fn one_surviving_process_starts_one_execution_of_a_key() {
    let keys = size(60, 1_000);
    for times in all_times() {
        let world = World::new(None, times).await;
        let seed = seed("storm");
        let runs = failures().into_iter().map(|(_, rule)| rule).collect();
        for rule in mixed(runs, SHARE, seed) {
            world.emulator.faults().add(rule);
        }
        let process = world.process().await;
        world.call(&[&process]);
        let insisting = (0..keys).map(|nth| {
            let world = &world;
            async move { world.insist(&format!("k{nth}")).await }
        });
        let answers: Vec<_> = stream::iter(insisting)
            .buffer_unordered(CLIENTS)
            .collect()
            .await;
        println!(
            "storm, one process, the list lags by {} s: {keys} keys, {} duplicates, {} losses",
            times.lag_seconds,
            world.doubled(),
            keys - world.starts().len(),
        );
        assert!(answers.iter().all(|names| names.len() == 1));
        assert_eq!((world.starts().len(), world.doubled()), (keys, 0));
    }
}
