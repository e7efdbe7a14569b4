//! An outage of Cloud Run.

use std::time::{Duration, Instant};

use emulator::{FaultBody, Operation};
use futures_util::future::join_all;

use crate::amplification::most;
use crate::helpers::TestApp;
use crate::{roomy, rule, size, status};

/// Requests per second.
const RATE: u64 = 100;
/// How soon after the outage every request must be accepted.
const RECOVERY: Duration = Duration::from_secs(5);
/// How long requests go on after the outage.
const AFTERMATH: Duration = Duration::from_secs(8);

#[tokio::test]
async fn an_outage_causes_few_repeated_calls_and_starts_recover_soon_after_it() {
    let outage = Duration::from_secs(size(6, 60));
    let app = TestApp::on(roomy().await, |_| {}).await;
    let begun = Instant::now();
    app.emulator
        .faults()
        .add(rule(status(503, FaultBody::Google)));
    let total = (outage + AFTERMATH).as_secs() * RATE;
    let healing = async {
        tokio::time::sleep(outage).await;
        let counters = app.counters();
        app.emulator.faults().clear();
        (counters.calls(Operation::Run), Instant::now())
    };
    let requests = join_all((0..total).map(async |i| {
        tokio::time::sleep_until((begun + Duration::from_secs(1) * i as u32 / RATE as u32).into())
            .await;
        let sent = Instant::now();
        (sent, app.keyed(&format!("k{i}")).await.status().as_u16())
    }));
    let ((calls, healed), answers) = tokio::join!(healing, requests);
    let during = answers.iter().filter(|(sent, _)| *sent < healed).count() as u64;
    let last_failure = answers
        .iter()
        .filter(|(_, status)| *status != 202)
        .map(|(sent, _)| *sent)
        .max();
    let recovery = last_failure.map_or(Duration::ZERO, |sent| {
        sent.saturating_duration_since(healed)
    });
    println!(
        "outage: {} s at {RATE}/s: {during} requests, {calls} run calls ({:.2} per request), recovered after {recovery:.1?}",
        outage.as_secs(),
        calls as f64 / during as f64
    );
    assert!(
        calls as f64 <= most(during, outage.as_secs_f64()),
        "{calls}"
    );
    assert!(recovery < RECOVERY);
    assert!(
        app.counters()
            .runs_by_invocation
            .values()
            .all(|runs| *runs == 1)
    );
}
