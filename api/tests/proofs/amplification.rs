//! Counts how many calls of `run` a request causes while calls fail.

use std::time::Instant;

use emulator::Operation;
use futures_util::future::join_all;

use crate::helpers::TestApp;
use crate::{failures, full, roomy, seed, size};

/// How many of the calls fail.
const SHARE: f64 = 0.3;
/// The most calls per request.
const MOST: f64 = 1.2;
/// The repeated sends that are always allowed: three a second, saved up for ten seconds.
const FLOOR_PER_SECOND: f64 = 3.0;
const SAVED_SECONDS: f64 = 10.0;

/// The most calls that so many requests may cause. In the full size the allowance above is negligible.
pub fn most(requests: u64, seconds: f64) -> f64 {
    let floor = FLOOR_PER_SECOND * (SAVED_SECONDS + seconds);
    requests as f64 * MOST + if full() { 0.0 } else { floor }
}

#[tokio::test]
async fn a_request_costs_little_more_than_one_call_whatever_fails() {
    let (requests, seed) = (size(150, 1_000), seed("amplification"));
    println!(
        "{:<16} {:>8} {:>10} {:>9} {:>11}",
        "fault, 30 %", "requests", "run calls", "per request", "executions"
    );
    for faults in failures().chunks(4) {
        let measured = faults.iter().map(async |(name, rule)| {
            let app = TestApp::on(roomy().await, |config| {
                config.start.deadline_seconds = 4;
                config.start.quiet_seconds = 2;
            })
            .await;
            app.emulator
                .faults()
                .add(rule.clone().probability(SHARE, seed));
            let begun = Instant::now();
            let send = async |i| drop(app.keyed(&format!("k{i}")).await);
            join_all((0..requests).map(send)).await;
            (*name, app.counters(), begun.elapsed().as_secs_f64())
        });
        for (name, counters, seconds) in join_all(measured).await {
            let calls = counters.calls(Operation::Run);
            let ratio = calls as f64 / requests as f64;
            println!(
                "{name:<16} {requests:>8} {calls:>10} {ratio:>9.2} {:>11}",
                counters.runs
            );
            assert!(calls as f64 <= most(requests, seconds), "{name}: {calls}");
            assert!(
                counters.runs_by_invocation.values().all(|runs| *runs == 1),
                "{name}"
            );
        }
    }
}
