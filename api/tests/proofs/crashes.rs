//! The program is killed at each step of a start, and the request repeated to a new process.

use std::time::{Duration, Instant};

use emulator::{Emulator, Fault, FaultBody, Operation, Rule, Settings};
use futures_util::future::join_all;
use reqwest::Client;
use serde_json::Value;

use crate::helpers::{client, eventually, instant_job};
use crate::processes::Process;
use crate::store::{Fate, Way, firestore, project};
use crate::{rule, status};

/// Longer than the lease of a process that died, which is the deadline (8 s) and the quiet time (2 s) of these processes.
const PATIENCE: Duration = Duration::from_secs(20);

/// The step of a start at which the process is killed: the call that hangs then, and the calls before it.
struct Step {
    name: &'static str,
    rules: Vec<Rule>,
    /// The call of this operation, counted from 1.
    hangs: (Operation, u64),
    /// Whether that call has its effect.
    after: bool,
}

fn steps() -> Vec<Step> {
    let step = |name, rules, operation, nth, after| Step {
        name,
        rules,
        hangs: (operation, nth),
        after,
    };
    let error = || rule(status(503, FaultBody::Google)).first(1);
    vec![
        step("before the token", vec![], Operation::Token, 1, false),
        step(
            "before Cloud Run has the send",
            vec![],
            Operation::Run,
            1,
            false,
        ),
        step(
            "before Cloud Run answers the send",
            vec![],
            Operation::Run,
            1,
            true,
        ),
        step(
            "looking for what was started",
            vec![error().after()],
            Operation::List,
            1,
            false,
        ),
        step(
            "looking for what was not started",
            vec![error()],
            Operation::List,
            1,
            false,
        ),
        step(
            "reading what was found",
            vec![error().after()],
            Operation::Get,
            1,
            false,
        ),
        step(
            "before the second send arrives",
            vec![error()],
            Operation::Run,
            2,
            false,
        ),
        step(
            "before the second send is answered",
            vec![error()],
            Operation::Run,
            2,
            true,
        ),
    ]
}

async fn emulator(project: &str) -> Emulator {
    let settings = Settings {
        jobs: vec![instant_job()],
        project: project.to_owned(),
        ..Settings::default()
    };
    Emulator::start(settings).await.unwrap()
}

async fn process(emulator: &Emulator, way: Option<&Way>) -> Process {
    let mut variables = vec![
        ("API__START__DEADLINE_SECONDS", "8"),
        ("API__START__QUIET_SECONDS", "2"),
    ];
    variables.extend(way.into_iter().flat_map(|way| {
        [
            ("FIRESTORE_EMULATOR_HOST", &way.host[..]),
            ("API__IDEMPOTENCY__STORE", "firestore"),
        ]
    }));
    Process::start(emulator, &variables).await
}

fn send(http: &Client, process: &Process) -> reqwest::RequestBuilder {
    let url = format!("{}/scopes/acme/process", process.url);
    http.post(url).header("idempotency-key", "k")
}

/// Repeats the request to a process until it is accepted.
async fn insist(name: &str, process: &Process) -> Value {
    let (http, begun) = (client(), Instant::now());
    loop {
        let response = send(&http, process).send().await.unwrap();
        if response.status() == 202 {
            return response.json().await.unwrap();
        }
        let said = response.text().await.unwrap();
        assert!(begun.elapsed() < PATIENCE, "{name}: {said}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Kills the process in the middle of a start, once `reached`. Another process must then find or start one execution.
async fn killed(name: &str, emulator: &Emulator, way: Option<&Way>, reached: impl Fn() -> bool) {
    let first = process(emulator, way).await;
    let request = tokio::spawn(send(&client(), &first).send());
    println!("crashes: {name}"); // shown should it never get there
    eventually(reached).await;
    first.kill().await;
    assert!(
        request.await.unwrap().is_err(),
        "{name}: there was an answer"
    );
    emulator.faults().clear();
    if let Some(way) = way {
        way.fate([], Fate::Passes);
    }
    let second = process(emulator, way).await;
    let execution = insist(name, &second).await;
    assert_eq!(
        insist(name, &second).await["name"],
        execution["name"],
        "{name}"
    );
    let executions = emulator.executions();
    assert_eq!(executions.len(), 1, "{name}");
    assert_eq!(execution["name"], executions[0].name, "{name}");
}

async fn killed_at(step: Step, way: Option<&Way>, project: &str) {
    let emulator = emulator(project).await;
    let (operation, nth) = step.hangs;
    // With the memory store the key is looked up in the list before anything is sent.
    let nth = nth + u64::from(operation == Operation::List && way.is_none());
    let hang = Rule::new(operation, Fault::Hang).nth(nth);
    emulator
        .faults()
        .add(if step.after { hang.after() } else { hang });
    step.rules
        .into_iter()
        .for_each(|rule| emulator.faults().add(rule));
    let reached = || {
        let effects = if step.after {
            emulator.counters().runs
        } else {
            1
        };
        emulator.counters().calls(operation) >= nth && effects == 1
    };
    killed(step.name, &emulator, way, reached).await;
}

#[tokio::test]
async fn a_process_killed_at_any_step_loses_and_doubles_nothing() {
    let look_up = Step {
        name: "looking the key up",
        rules: vec![],
        hangs: (Operation::List, 0),
        after: false,
    };
    let steps = steps().into_iter().chain([look_up]);
    join_all(steps.map(|step| killed_at(step, None, "demo"))).await;
}

#[tokio::test]
async fn one_of_many_instances_killed_at_any_step_loses_and_doubles_nothing() {
    let Some(store) = firestore() else { return };
    let at_cloud_run = steps().into_iter().map(async |step| {
        let way = Way::to(&store).await;
        killed_at(step, Some(&way), &project()).await;
    });
    let at_the_store = [
        ("before the lease is taken", 1, Fate::StuckBefore),
        ("before the lease is confirmed", 1, Fate::StuckAfter),
        ("before the execution is recorded", 2, Fate::StuckBefore),
        ("before the record is confirmed", 2, Fate::StuckAfter),
    ];
    let at_the_store = at_the_store.into_iter().map(async |(name, nth, fate)| {
        let (way, emulator) = (Way::to(&store).await, emulator(&project()).await);
        let passing = std::iter::repeat_n(Fate::Passes, nth - 1);
        way.fate(passing.chain([fate]), Fate::Passes);
        killed(name, &emulator, Some(&way), || way.stuck()).await;
    });
    tokio::join!(join_all(at_cloud_run), join_all(at_the_store));
}

/// After SIGTERM the starts in flight end first, even if their callers have disconnected.
#[tokio::test]
async fn a_process_after_sigterm_finishes_its_starts() {
    let emulator = emulator("demo").await;
    emulator
        .faults()
        .add(rule(Fault::Delay { ms: 1500 }).after().first(1));
    emulator
        .faults()
        .add(Rule::new(Operation::List, Fault::Delay { ms: 800 }).first(1));
    let process = Process::start(&emulator, &[]).await;
    let request = tokio::spawn(send(&client(), &process).send());
    eventually(|| emulator.counters().calls(Operation::List) == 1).await;
    request.abort();
    tokio::time::sleep(Duration::from_millis(100)).await; // for the connection to close
    assert_eq!(emulator.counters().calls(Operation::Run), 0);
    assert_eq!(process.terminate().await, Some(0));
    assert_eq!(emulator.counters().runs, 1);
}

#[tokio::test]
async fn a_process_after_sigterm_answers_in_time() {
    for (fault, accepted) in [(Fault::Delay { ms: 3000 }, true), (Fault::Hang, false)] {
        let emulator = emulator("demo").await;
        emulator.faults().add(rule(fault).after().first(1));
        let process = Process::start(&emulator, &[]).await;
        let request = tokio::spawn(send(&client(), &process).send());
        eventually(|| emulator.counters().calls(Operation::Run) == 1).await;
        let signalled = Instant::now();
        assert_eq!(process.terminate().await, Some(0));
        assert!(signalled.elapsed() < Duration::from_millis(9500));
        let status = request
            .await
            .unwrap()
            .map(|response| response.status().as_u16());
        assert!(!accepted || status.is_ok_and(|status| status == 202));
        let next = Process::start(&emulator, &[]).await;
        insist("after SIGTERM", &next).await;
        assert_eq!(emulator.counters().runs, 1);
    }
}
