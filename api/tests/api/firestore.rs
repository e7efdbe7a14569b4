//! Many instances that share nothing but Cloud Run and the real Firestore emulator.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::config::{Config, Store};
use emulator::{Emulator, Fault, Job, Operation, Rule, Settings, State};
use futures_util::future::join_all;
use reqwest::Response;
use serde_json::{Value, json};

use crate::helpers::{TestApp, client, instant_job, json, link, problem, real_job};
use crate::processes::Process;
use crate::store::{Fate, Way, firestore, project};

/// Three instances, each with a separate connection to the store.
struct Instances {
    apps: [TestApp; 3],
    ways: [Way; 3],
    /// The address of the store.
    store: String,
    project: String,
}

fn run(fault: Fault) -> Rule {
    Rule::new(Operation::Run, fault)
}

async fn emulator(job: Job, project: &str) -> Emulator {
    let settings = Settings {
        jobs: vec![job],
        project: project.to_owned(),
        ..Settings::default()
    };
    Emulator::start(settings).await.unwrap()
}

/// None if there is no Firestore emulator.
async fn instances(job: Job, configure: impl Fn(&mut Config)) -> Option<Instances> {
    let (store, project) = (firestore()?, project());
    let ways = [
        Way::to(&store).await,
        Way::to(&store).await,
        Way::to(&store).await,
    ];
    let with = |way: &Way| {
        let (host, configure) = (way.host.clone(), &configure);
        move |config: &mut Config| {
            config.start.deadline_seconds = 5;
            config.start.quiet_seconds = 2;
            config.idempotency.store = Store::Firestore;
            config.platform.firestore_host = Some(host);
            configure(config);
        }
    };
    let first = TestApp::on(emulator(job, &project).await, with(&ways[0])).await;
    let second = first.another(with(&ways[1])).await;
    let third = first.another(with(&ways[2])).await;
    Some(Instances {
        apps: [first, second, third],
        ways,
        store,
        project,
    })
}

impl Instances {
    fn documents(&self) -> String {
        let (store, project) = (&self.store, &self.project);
        format!("http://{store}/v1/projects/{project}/databases/(default)/documents")
    }

    /// All documents of keys.
    async fn leases(&self) -> Vec<Value> {
        let request = client().get(format!("{}/starts", self.documents()));
        let answer = json(request.header("authorization", "Bearer owner")).await;
        answer["documents"].as_array().cloned().unwrap_or_default()
    }

    /// Makes the only document of a key an expired one.
    async fn expire(&self) {
        let mut lease = self.leases().await.remove(0);
        lease["fields"]["expireAt"] = json!({ "timestampValue": "2020-01-01T00:00:00Z" });
        let update = json!({ "name": lease["name"], "fields": lease["fields"] });
        let request = client().post(format!("{}:commit", self.documents()));
        let body = json!({ "writes": [{ "update": update }] });
        json(request.header("authorization", "Bearer owner").json(&body)).await;
    }
}

#[tokio::test]
async fn a_key_is_leased_once_and_known_to_every_instance() {
    let Some(world) = instances(instant_job(), |_| {}).await else {
        return;
    };
    let [a, b, c] = &world.apps;
    let first = a.accepted("k").await;
    assert_eq!(world.leases().await.len(), 1);
    for app in [b, c, a] {
        let again = app.keyed("k").await;
        assert_eq!(again.headers()["idempotent-replayed"], "true");
        assert_eq!(again.json::<Value>().await.unwrap()["name"], first["name"]);
    }
    let other = c
        .post("/scopes/acme/process?on_running=join")
        .header("idempotency-key", "k");
    problem(other.send().await.unwrap(), "idempotency-key-reused").await;
    assert_eq!(a.runs(), (1, 1));
    assert_eq!(
        a.calls(Operation::List),
        0,
        "the store has the execution, and Cloud Run is not called"
    );
}

#[tokio::test]
async fn a_request_waits_two_seconds_for_a_start_in_flight_in_another_instance() {
    let Some(world) = instances(instant_job(), |_| {}).await else {
        return;
    };
    let [a, b, _] = &world.apps;
    a.emulator
        .faults()
        .add(run(Fault::Delay { ms: 700 }).first(1));
    let (first, second) = tokio::join!(a.accepted("k"), b.accepted("k"));
    assert_eq!(first["name"], second["name"]);

    a.emulator.faults().clear();
    a.emulator.faults().add(run(Fault::Hang).first(1));
    let sent = Instant::now();
    let later = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        b.keyed("l").await
    };
    let (first, second) = tokio::join!(a.keyed("l"), later);
    problem(second, "idempotency-in-progress").await;
    problem(first, "start-outcome-unknown").await;
    assert!(sent.elapsed() > Duration::from_secs(2));
    assert_eq!(a.runs(), (2, 1));
    b.until_accepted("l").await;
    assert_eq!(a.runs(), (3, 2));
}

#[tokio::test]
async fn an_instance_recognises_its_key_lease_if_the_confirmation_was_lost() {
    let Some(world) = instances(instant_job(), |_| {}).await else {
        return;
    };
    let [a, b, _] = &world.apps;
    world.ways[0].fate([Fate::LostAfter], Fate::Passes);
    let first = a.accepted("k").await;
    assert_eq!(b.accepted("k").await["name"], first["name"]);
    assert_eq!(a.runs(), (1, 1));
}

#[tokio::test]
async fn an_instance_recognises_its_scope_lease_if_the_confirmation_was_lost() {
    let Some(world) = instances(instant_job(), |_| {}).await else {
        return;
    };
    let a = &world.apps[0];
    world.ways[0].fate([Fate::LostAfter], Fate::Passes);
    let response = a.post("/scopes/acme/process?on_running=reject");
    assert_eq!(response.send().await.unwrap().status(), 202);
}

#[tokio::test]
async fn without_the_store_nothing_is_started() {
    let Some(world) = instances(instant_job(), |_| {}).await else {
        return;
    };
    let [a, b, _] = &world.apps;
    for fate in [
        Fate::LostBefore,
        Fate::NoDatabase,
        Fate::Slow(Duration::from_secs(3)),
        Fate::StuckBefore,
    ] {
        world.ways[0].fate([], fate);
        let sent = Instant::now();
        let response = a.keyed(&format!("{fate:?}").replace(['(', ')'], "")).await;
        problem(response, "idempotency-store-unavailable").await;
        let response = a.post("/scopes/acme/process?on_running=reject");
        problem(
            response.send().await.unwrap(),
            "idempotency-store-unavailable",
        )
        .await;
        assert!(sent.elapsed() < Duration::from_secs(11), "{fate:?}");
    }
    assert_eq!(a.calls(Operation::Run), 0);
    // Once its lease is over, the failures of this instance do not delay the others.
    b.until_accepted("LostBefore").await;
    world.ways[0].fate([], Fate::Passes);
    a.accepted("k").await;
}

#[tokio::test]
async fn a_slow_store_only_delays_a_start() {
    let Some(world) = instances(instant_job(), |_| {}).await else {
        return;
    };
    world.ways[0].fate([], Fate::Slow(Duration::from_millis(1000)));
    let sent = Instant::now();
    let first = world.apps[0].accepted("k").await;
    assert!(sent.elapsed() < Duration::from_secs(5));
    assert_eq!(world.apps[1].accepted("k").await["name"], first["name"]);
}

#[tokio::test]
async fn an_execution_that_was_not_recorded_in_the_store_is_found_in_the_list() {
    let Some(world) = instances(instant_job(), |_| {}).await else {
        return;
    };
    let [a, b, c] = &world.apps;
    world.ways[0].fate([Fate::Passes], Fate::LostBefore);
    let first = a.accepted("k").await;
    assert_eq!(a.accepted("k").await["name"], first["name"]);
    assert_eq!(b.accepted("k").await["name"], first["name"]);
    tokio::time::sleep(Duration::from_secs(8)).await; // the lease of the key is over
    assert_eq!(c.accepted("k").await["name"], first["name"]);
    assert_eq!(a.runs(), (1, 1));
}

#[tokio::test]
async fn an_instance_is_ready_once_it_has_reached_the_store() {
    let Some(world) = instances(instant_job(), |_| ()).await else {
        return;
    };
    let (app, way) = (&world.apps[0], &world.ways[0]);
    let ask = |path: &'static str| async move { app.get(path).send().await.unwrap() };
    for fate in [Fate::LostBefore, Fate::NoDatabase] {
        way.fate([], fate);
        problem(ask("/ready").await, "idempotency-store-unavailable").await;
        assert_eq!(ask("/health").await.status(), 200);
    }
    way.fate([], Fate::Passes);
    assert_eq!(ask("/ready").await.status(), 200);
    assert!(world.leases().await.is_empty());
    way.fate([], Fate::LostBefore);
    assert_eq!(ask("/ready").await.status(), 200);
}

#[tokio::test]
async fn a_refused_request_releases_its_key_for_every_instance() {
    let Some(world) = instances(instant_job(), |_| {}).await else {
        return;
    };
    let [a, b, _] = &world.apps;
    let refusal = Fault::status(400);
    a.emulator.faults().add(run(refusal).first(1));
    problem(a.keyed("k").await, "upstream-rejected").await;
    assert!(world.leases().await.is_empty());
    b.accepted("k").await;
    assert_eq!(a.runs(), (2, 1));
}

#[tokio::test]
async fn an_expired_document_is_ignored_before_it_is_deleted() {
    let long = |config: &mut Config| config.start.quiet_seconds = 600;
    let Some(world) = instances(instant_job(), long).await else {
        return;
    };
    let [a, b, _] = &world.apps;
    a.emulator.faults().add(run(Fault::Hang).first(1));
    problem(a.keyed("k").await, "start-outcome-unknown").await;
    problem(b.keyed("k").await, "idempotency-in-progress").await;
    world.expire().await;
    b.accepted("k").await;
    assert_eq!(a.runs(), (2, 1));
}

/// A job that runs until it is stopped.
async fn long_running() -> Option<Instances> {
    instances(real_job(), |config| {
        let env = &mut config.overrides.env;
        env.insert("SLEEP_SECONDS".to_owned(), "60".into());
        config.start.deadline_seconds = 10;
    })
    .await
}

/// The same request to every instance, several times at once.
async fn at_once(world: &Instances, on_running: &str) -> Vec<Response> {
    let path = format!("/scopes/acme/process?on_running={on_running}");
    let requests = (0..9).map(|i| world.apps[i % 3].post(&path).send());
    let responses = join_all(requests).await;
    responses.into_iter().map(Result::unwrap).collect()
}

#[tokio::test]
async fn reject_lets_one_of_many_concurrent_instances_start() {
    let Some(world) = long_running().await else {
        return;
    };
    let responses = at_once(&world, "reject").await;
    let mut accepted = 0;
    for response in responses {
        match response.status().as_u16() {
            202 => accepted += 1,
            _ => drop(problem(response, "scope-busy").await),
        }
    }
    assert_eq!((accepted, world.apps[0].runs()), (1, (1, 1)));
}

#[tokio::test]
async fn join_gives_many_instances_one_execution() {
    let Some(world) = long_running().await else {
        return;
    };
    let mut names = HashSet::new();
    for response in at_once(&world, "join").await {
        match response.status().as_u16() {
            200 | 202 => {
                let execution: Value = response.json().await.unwrap();
                names.insert(execution["name"].to_string());
            }
            _ => drop(problem(response, "scope-busy").await),
        }
    }
    assert_eq!((names.len(), world.apps[0].runs()), (1, (1, 1)));
}

#[tokio::test]
async fn replace_leaves_one_execution_of_many_concurrent_instances() {
    let Some(world) = long_running().await else {
        return;
    };
    let app = &world.apps[0];
    let mut last = app.start("acme").await;
    for response in at_once(&world, "replace").await {
        match response.status().as_u16() {
            202 => last = response.json().await.unwrap(),
            _ => drop(problem(response, "scope-busy").await),
        }
    }
    assert!(link(&last, "self").starts_with("/scopes/acme/"));
    let unfinished = app
        .emulator
        .executions()
        .into_iter()
        .filter(|execution| matches!(execution.state, State::Pending | State::Running));
    assert_eq!(unfinished.count(), 1);
    assert!(app.counters().runs > 1);
}

#[tokio::test]
async fn a_thousand_concurrent_requests_to_three_processes_with_one_key_start_one_execution() {
    let Some(store) = firestore() else { return };
    let project = project();
    let emulator = Arc::new(emulator(instant_job(), &project).await);
    emulator.faults().add(run(Fault::Delay { ms: 300 }));
    let variables = [
        ("FIRESTORE_EMULATOR_HOST", &store[..]),
        ("API__IDEMPOTENCY__STORE", "firestore"),
    ];
    let start = || Process::start(&emulator, &variables);
    let processes = [start().await, start().await, start().await];
    let http = client();
    let send = |i: usize| {
        let url = format!("{}/scopes/acme/process", processes[i % 3].url);
        http.post(url).header("idempotency-key", "k").send()
    };
    let mut names = HashSet::new();
    for response in join_all((0..1000).map(send)).await {
        let response = response.unwrap();
        match response.status().as_u16() {
            202 => {
                let execution: Value = response.json().await.unwrap();
                names.insert(execution["name"].to_string());
            }
            _ => drop(problem(response, "idempotency-in-progress").await),
        }
    }
    let counters = emulator.counters();
    assert_eq!((names.len(), counters.calls(Operation::Run)), (1, 1));
    assert_eq!(counters.runs, 1);
}

/// The execution appears long after the answer was lost, when the process that sent the start has been replaced.
#[tokio::test]
async fn an_ambiguous_start_is_not_repeated_after_a_clean_restart() {
    let Some(store) = firestore() else { return };
    let emulator = emulator(instant_job(), &project()).await;
    let late = run(Fault::Reset).late(Duration::from_secs(4));
    emulator.faults().add(late.first(1));
    let variables = [
        ("FIRESTORE_EMULATOR_HOST", &store[..]),
        ("API__IDEMPOTENCY__STORE", "firestore"),
        ("API__START__DEADLINE_SECONDS", "2"),
        ("API__START__QUIET_SECONDS", "6"),
    ];
    let start = async |process: &Process| {
        let url = format!("{}/scopes/acme/process", process.url);
        let request = client().post(url).header("idempotency-key", "k");
        request.send().await.unwrap()
    };
    let first = Process::start(&emulator, &variables).await;
    problem(start(&first).await, "start-outcome-unknown").await;
    assert_eq!(first.terminate().await, Some(0));
    let next = Process::start(&emulator, &variables).await;
    let execution: Value = loop {
        let response = start(&next).await;
        if response.status() == 202 {
            break response.json().await.unwrap();
        }
        assert!(matches!(response.status().as_u16(), 409 | 504));
        tokio::time::sleep(Duration::from_millis(200)).await; // as a client repeats
    };
    let executions = emulator.executions();
    assert_eq!(executions.len(), 1);
    assert_eq!(execution["name"], executions[0].name);
    assert_eq!(emulator.counters().calls(Operation::Run), 1);
}

/// Two services with the same project and database, each with its own job.
#[tokio::test]
async fn two_services_never_touch_each_others_leases() {
    let (Some(store), project) = (firestore(), project()) else {
        return;
    };
    let settings = Settings {
        jobs: vec![instant_job(), Job::new("other-job", Vec::<String>::new())],
        project: project.clone(),
        ..Settings::default()
    };
    let with = |job: &'static str| {
        let store = store.clone();
        move |config: &mut Config| {
            config.cloud_run.job = job.to_owned();
            config.idempotency.store = Store::Firestore;
            config.platform.firestore_host = Some(store);
        }
    };
    let a = TestApp::on(Emulator::start(settings).await.unwrap(), with("test-job")).await;
    let b = a.another(with("other-job")).await;
    assert_eq!(a.accepted("k").await["job"], "test-job");
    assert_eq!(b.accepted("k").await["job"], "other-job");
    let other_request = |app: &TestApp| {
        app.post("/scopes/acme/process?on_running=join")
            .header("idempotency-key", "l")
            .send()
    };
    a.accepted("l").await;
    assert!(other_request(&b).await.unwrap().status().is_success());
    // While one service starts an execution in a scope, the other does not wait.
    a.emulator
        .faults()
        .add(run(Fault::Delay { ms: 4_000 }).first(1));
    let reject = |app: &TestApp| app.post("/scopes/globex/process?on_running=reject").send();
    let before = a.calls(Operation::Run); // the join may have found its execution running
    let slow = tokio::spawn(reject(&a));
    crate::helpers::eventually(|| a.calls(Operation::Run) == before + 1).await;
    let sent = Instant::now();
    assert_eq!(reject(&b).await.unwrap().status(), 202);
    assert!(sent.elapsed() < Duration::from_secs(3));
    assert_eq!(slow.await.unwrap().unwrap().status(), 202);
}

#[tokio::test]
async fn a_start_by_another_instance_counts_before_the_list_shows_it() {
    let Some(world) = long_running().await else {
        return;
    };
    let [a, b, _] = &world.apps;
    a.emulator
        .faults()
        .add(run(Fault::Invisible { ms: 20_000 }));
    let post = |app: &TestApp, scope: &str, what: &str| {
        app.post(&format!("/scopes/{scope}/process?on_running={what}"))
            .send()
    };
    for key in [None, Some("k")] {
        let scope = |name: &str| format!("{name}-{}", key.is_some());
        let start = async |scope: &str| {
            let mut request = a.post(&format!("/scopes/{scope}/process"));
            if let Some(key) = key {
                request = request.header("idempotency-key", key);
            }
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), 202);
            response.json::<Value>().await.unwrap()
        };
        let first = start(&scope("one")).await;
        let busy = post(b, &scope("one"), "reject").await.unwrap();
        problem(busy, "scope-busy").await;
        let first_joined = start(&scope("two")).await;
        let joined = post(b, &scope("two"), "join").await.unwrap();
        assert_eq!(joined.status(), 200);
        let joined: Value = joined.json().await.unwrap();
        assert_eq!(joined["name"], first_joined["name"]);
        let replaced = post(b, &scope("one"), "replace").await.unwrap();
        assert_eq!(replaced.status(), 202);
        assert_eq!(a.show(&first).await["state"], "cancelled");
    }
}

#[tokio::test]
async fn a_refused_start_releases_its_scope_for_every_instance() {
    let Some(world) = instances(instant_job(), |_| {}).await else {
        return;
    };
    let [a, b, _] = &world.apps;
    let refusal = Fault::status(400);
    a.emulator.faults().add(run(refusal).first(1));
    problem(a.keyless().await, "upstream-rejected").await;
    let response = b.post("/scopes/acme/process?on_running=reject").send();
    assert_eq!(response.await.unwrap().status(), 202);
}

#[tokio::test]
async fn all_instances_together_start_at_most_max_running_executions_of_a_scope() {
    let world = instances(real_job(), |config| {
        let env = &mut config.overrides.env;
        env.insert("SLEEP_SECONDS".to_owned(), "60".into());
        config.start.max_running = 3;
        config.start.deadline_seconds = 10;
    });
    let Some(world) = world.await else { return };
    let send = |i: usize| {
        let request = world.apps[i % 3].post("/scopes/acme/process?on_running=reject");
        request.send()
    };
    let mut accepted = 0;
    for response in join_all((0..50).map(send)).await {
        let response = response.unwrap();
        match response.status().as_u16() {
            202 => accepted += 1,
            _ => drop(problem(response, "scope-busy").await),
        }
    }
    assert_eq!((accepted, world.apps[0].counters().runs), (3, 3));
}
