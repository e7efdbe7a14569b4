//! Many keys at once.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use emulator::{Fault, Operation};
use futures_util::StreamExt;
use futures_util::stream;

use crate::helpers::TestApp;
use crate::{roomy, rule, size};

/// Requests at a time.
const CONNECTIONS: usize = 256;

#[tokio::test]
async fn each_of_many_concurrent_keys_starts_one_execution() {
    let keys: usize = size(1_500, 10_000);
    let app = TestApp::on(roomy().await, |_| {}).await;
    app.emulator.faults().add(rule(Fault::Delay { ms: 50 }));
    let begun = Instant::now();
    let starts = (0..keys).map(|i| {
        let app = &app;
        async move {
            let sent = Instant::now();
            let execution = app.accepted(&format!("k{i}")).await;
            (
                sent.elapsed(),
                execution["invocationId"].as_str().unwrap().to_owned(),
            )
        }
    });
    let answers: Vec<(Duration, String)> = stream::iter(starts)
        .buffer_unordered(CONNECTIONS)
        .collect()
        .await;
    let seconds = begun.elapsed().as_secs_f64();
    let mut times: Vec<_> = answers.iter().map(|(time, _)| *time).collect();
    times.sort();
    let counters = app.counters();
    println!(
        "load: {keys} keys in {seconds:.1} s ({:.0}/s), p50 {:?}, p99 {:?}, {} pages of the list",
        keys as f64 / seconds,
        times[keys / 2],
        times[keys * 99 / 100],
        counters.calls(Operation::List)
    );
    let answered: HashSet<&String> = answers.iter().map(|(_, id)| id).collect();
    let made: HashSet<&String> = counters.runs_by_invocation.keys().collect();
    assert_eq!(
        (counters.runs, counters.calls(Operation::Run)),
        (keys as u64, keys as u64)
    );
    assert!(answered.len() == keys && answered == made);
}
