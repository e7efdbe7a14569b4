//! Overload: with more requests than its capacity the service accepts as many as before, and refuses the rest at once.

use std::time::{Duration, Instant};

use emulator::{Fault, Operation, Rule};
use futures_util::future::join_all;
use reqwest::StatusCode;

use crate::TURN;
use crate::helpers::{TestApp, instant_job};

/// The answers to a burst of requests.
#[derive(Debug, Default)]
struct Outcome {
    accepted: usize,
    refused: usize,
    /// The 99th percentile of the refusals' times.
    refused_p99: Duration,
    /// The longest time of an accepted request.
    accepted_max: Duration,
}

/// The most requests in flight in the tests of overload. Each takes `UPSTREAM`.
const CAPACITY: usize = 20;
const UPSTREAM: Duration = Duration::from_secs(1);

async fn overloaded() -> TestApp {
    let app = TestApp::with(instant_job(), |config| {
        config.limits.in_flight = CAPACITY as u32;
        config.limits.trusted_proxies = 1; // tests say who calls
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

/// `times` the capacity, evenly over two seconds, each request from another address or all from this one.
async fn offer(app: &TestApp, times: f64, address: Option<&str>) -> Outcome {
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
            .header(
                "x-forwarded-for",
                address.map_or_else(|| format!("198.51.{}.{}", n / 256, n % 256), str::to_owned),
            )
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
async fn overload_does_not_reduce_the_goodput_and_leaves_no_after_effects() {
    // At ten times the capacity only the goodput is guaranteed.
    let _turn = TURN.lock().await;
    let app = overloaded().await;
    let full = offer(&app, 1.0, None).await;
    for times in [2.0, 5.0, 10.0] {
        let over = offer(&app, times, None).await;
        println!("{times} times the capacity: {over:?}");
        assert!(
            over.accepted * 10 >= full.accepted * 9,
            "{over:?} after {full:?}"
        );
    }
    let after = offer(&app, 0.5, None).await;
    assert_eq!(after.refused, 0, "{after:?}");
}

#[tokio::test]
async fn at_five_times_the_capacity_refusals_come_at_once_and_the_rest_is_no_slower() {
    /// Other work on this machine can only slow the service down, so the best of a few measurements counts.
    const ATTEMPTS: usize = 5;
    let _turn = TURN.lock().await;
    let app = overloaded().await;
    for attempt in 1..=ATTEMPTS {
        let over = offer(&app, 5.0, None).await;
        if over.refused_p99 < Duration::from_millis(50) && over.accepted_max < 2 * UPSTREAM {
            return;
        }
        assert!(attempt < ATTEMPTS, "{over:?}");
    }
}

#[tokio::test]
async fn while_one_caller_offers_ten_times_the_capacity_another_is_served() {
    let _turn = TURN.lock().await;
    let app = overloaded().await;
    let app = &app;
    let flood = offer(app, 10.0, Some("192.0.2.1"));
    // Five at a time, of the ten that one caller may have.
    let second = join_all((0..10).map(async |n| {
        tokio::time::sleep(UPSTREAM / 5 * n).await;
        let request = app.post("/scopes/second/process");
        let request = request.header("x-forwarded-for", "192.0.2.2");
        request.send().await.unwrap().status()
    }));
    let (flood, second) = tokio::join!(flood, second);
    println!("the first: {flood:?}; the second: {second:?}");
    assert!(
        second.iter().all(|status| *status == StatusCode::ACCEPTED),
        "{second:?}"
    );
    assert!(
        flood.refused > flood.accepted && flood.accepted >= CAPACITY / 2,
        "{flood:?}"
    );
}
