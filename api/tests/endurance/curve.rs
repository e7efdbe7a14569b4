//! Offered more than the capacity, it serves as much as ever, and refuses the rest at once.

use std::time::{Duration, Instant};

use emulator::{Fault, Operation, Rule};
use futures_util::future::join_all;
use reqwest::StatusCode;

use crate::TURN;
use crate::helpers::{TestApp, instant_job};

/// What a burst of requests met.
#[derive(Debug, Default)]
struct Outcome {
    accepted: usize,
    refused: usize,
    /// Of the refusals: 99 of 100 took less.
    refused_p99: Duration,
    /// Of the accepted ones, the longest.
    accepted_max: Duration,
}

/// Requests in flight at most, in the tests of overload; each takes `UPSTREAM`.
const CAPACITY: usize = 20;
const UPSTREAM: Duration = Duration::from_secs(1);

async fn overloaded() -> TestApp {
    let app = TestApp::with(instant_job(), |config| {
        config.limits.in_flight = CAPACITY as u32
    })
    .await;
    app.start("warm-up").await; // the token and the connections are there
    app.emulator.faults().add(Rule::new(
        Operation::Run,
        Fault::Delay {
            ms: UPSTREAM.as_millis() as u64,
        },
    ));
    app
}

/// `times` the capacity, evenly over two seconds.
async fn offer(app: &TestApp, times: f64) -> Outcome {
    let seconds = 2.0;
    let requests = (times * CAPACITY as f64 * seconds) as usize;
    let begun = tokio::time::Instant::now();
    let answers = join_all((0..requests).map(async |n| {
        tokio::time::sleep_until(
            begun + Duration::from_secs_f64(seconds * n as f64 / requests as f64),
        )
        .await;
        let sent = Instant::now();
        let response = app
            .post(&format!("/scopes/s{n}/process"))
            .send()
            .await
            .unwrap();
        (
            response.status(),
            response.headers().contains_key("retry-after"),
            sent.elapsed(),
        )
    }))
    .await;
    let mut refusals: Vec<_> = answers
        .iter()
        .filter(|(status, ..)| *status == StatusCode::SERVICE_UNAVAILABLE)
        .collect();
    assert!(refusals.iter().all(|(_, retry_after, _)| *retry_after));
    refusals.sort_by_key(|(.., took)| *took);
    let accepted: Vec<_> = answers
        .iter()
        .filter(|(status, ..)| *status == StatusCode::ACCEPTED)
        .collect();
    assert_eq!(
        accepted.len() + refusals.len(),
        answers.len(),
        "nothing else happens"
    );
    Outcome {
        accepted: accepted.len(),
        refused: refusals.len(),
        refused_p99: refusals
            .get((refusals.len() * 99 / 100).saturating_sub(1))
            .map_or(Duration::ZERO, |answer| answer.2),
        accepted_max: accepted
            .iter()
            .map(|answer| answer.2)
            .max()
            .unwrap_or_default(),
    }
}

#[tokio::test]
async fn overload_costs_nothing_of_the_goodput_and_passes() {
    // At ten times the capacity it is the goodput alone that is promised.
    let _turn = TURN.lock().await;
    let app = overloaded().await;
    let full = offer(&app, 1.0).await;
    for times in [2.0, 5.0, 10.0] {
        let over = offer(&app, times).await;
        println!("{times} times the capacity: {over:?}");
        assert!(
            over.accepted * 10 >= full.accepted * 9,
            "{over:?} after {full:?}"
        );
    }
    let after = offer(&app, 0.5).await;
    assert_eq!(after.refused, 0, "{after:?}");
}

#[tokio::test]
async fn at_five_times_the_capacity_refusals_come_at_once_and_the_rest_is_no_slower() {
    /// Somebody else's work on this machine can only make it slower: the best of a few measurements is ours.
    const ATTEMPTS: usize = 5;
    let _turn = TURN.lock().await;
    let app = overloaded().await;
    for attempt in 1..=ATTEMPTS {
        let over = offer(&app, 5.0).await;
        if over.refused_p99 < Duration::from_millis(50) && over.accepted_max < 2 * UPSTREAM {
            return;
        }
        assert!(attempt < ATTEMPTS, "{over:?}");
    }
}
