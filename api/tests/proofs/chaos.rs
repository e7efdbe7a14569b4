//! Every upstream call fails with probability 0.3, before or after its effect, and clients repeat until they are accepted.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use emulator::{Fault, FaultBody, Operation, Rule};
use futures_util::StreamExt;
use futures_util::stream;

use crate::helpers::TestApp;
use crate::{failures, mixed, roomy, seed, size, status};

/// How many of all calls fail.
const SHARE: f64 = 0.3;
/// Clients at a time.
const CLIENTS: usize = 128;
/// How long a client repeats at most.
const PATIENCE: Duration = Duration::from_secs(240);

/// How reads fail.
fn reads(operation: Operation) -> Vec<Rule> {
    let faults = [
        status(500, FaultBody::Google),
        status(503, FaultBody::Html),
        Fault::Reset,
        Fault::Garbage,
    ];
    faults
        .into_iter()
        .map(|fault| Rule::new(operation, fault))
        .collect()
}

/// Repeats a key until it is accepted, and once more. Returns the names in the answers.
async fn insist(app: &TestApp, key: &str) -> HashSet<String> {
    let (begun, mut names, mut accepted) = (Instant::now(), HashSet::new(), 0);
    while accepted < 2 {
        let response = app.keyed(key).await;
        match response.status().as_u16() {
            202 => {
                let execution: serde_json::Value = response.json().await.unwrap();
                names.insert(execution["name"].to_string());
                accepted += 1;
            }
            _ => tokio::time::sleep(Duration::from_millis(200)).await,
        }
        assert!(begun.elapsed() < PATIENCE, "{key} is never accepted");
    }
    names
}

#[tokio::test]
async fn each_key_starts_one_execution_whatever_fails() {
    let (keys, seed) = (size(250, 2_000), seed("chaos"));
    let app = TestApp::on(roomy().await, |config| {
        config.start.deadline_seconds = 4;
        config.start.quiet_seconds = 2;
    })
    .await;
    let runs = failures().into_iter().map(|(_, rule)| rule).collect();
    for (rules, nth) in [runs, reads(Operation::List), reads(Operation::Get)]
        .into_iter()
        .zip(0..)
    {
        for rule in mixed(rules, SHARE, seed.wrapping_add(nth)) {
            app.emulator.faults().add(rule);
        }
    }
    let begun = Instant::now();
    // Each key is used twice at the same time, as by a double click.
    let insisting = (0..2 * keys).map(|i| {
        let (app, key) = (&app, format!("k{}", i / 2));
        async move { (key.clone(), insist(app, &key).await) }
    });
    let mut answered: HashMap<String, HashSet<String>> = HashMap::new();
    let mut answers = stream::iter(insisting).buffer_unordered(CLIENTS);
    while let Some((key, names)) = answers.next().await {
        answered.entry(key).or_default().extend(names);
    }
    let counters = app.counters();
    println!(
        "chaos: {keys} keys, {} run calls, {} executions in {:.1} s",
        counters.calls(Operation::Run),
        counters.runs,
        begun.elapsed().as_secs_f64()
    );
    let twice: Vec<_> = counters
        .runs_by_invocation
        .iter()
        .filter(|(_, runs)| **runs != 1)
        .collect();
    assert!(twice.is_empty(), "{twice:?}");
    assert_eq!(counters.runs, keys);
    let several: Vec<_> = answered
        .iter()
        .filter(|(_, names)| names.len() != 1)
        .collect();
    assert!(several.is_empty(), "{several:?}");
    let names: HashSet<_> = answered.values().flatten().collect();
    assert_eq!(names.len() as u64, keys);
}
