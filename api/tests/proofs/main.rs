//! Proofs that a start happens once: chaos, load, an outage, a kill at every step, and all at once.
//!
//! Random choices come from a seed that is printed; `PROOFS_SEED=…` repeats them. `PROOFS=full` runs every proof in its full
//! size, for a release build. Otherwise they are small enough for a debug build.

mod amplification;
mod chaos;
mod crashes;
mod load;
mod outage;
mod storm;

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use emulator::{Emulator, Fault, FaultBody, Operation, Rule, Settings};

use testkit as helpers;
use testkit::{instant_job, processes, store};

/// Whether to run every proof in its full size.
fn full() -> bool {
    std::env::var("PROOFS").as_deref() == Ok("full")
}

/// One of two sizes.
fn size<T>(small: T, large: T) -> T {
    if full() { large } else { small }
}

/// The seed of a proof, which is printed. It decides which of an operation's calls fail. The scheduler decides which request makes
/// the nth call.
fn seed(proof: &str) -> u64 {
    let given = std::env::var("PROOFS_SEED").ok();
    let by_chance = || RandomState::new().hash_one(proof); // keyed at random
    let seed = given.map_or_else(by_chance, |text| text.parse().expect("a number"));
    println!("{proof}: PROOFS_SEED={seed}");
    seed
}

/// An emulator that keeps and runs as many executions as a proof starts.
async fn roomy() -> Emulator {
    let settings = Settings {
        jobs: vec![instant_job()],
        max_running_executions: usize::MAX,
        retained_executions: usize::MAX,
        ..Settings::default()
    };
    Emulator::start(settings).await.unwrap()
}

fn rule(fault: Fault) -> Rule {
    Rule::new(Operation::Run, fault)
}

fn status(code: u16, body: FaultBody) -> Fault {
    let headers = Default::default();
    Fault::Status {
        code,
        headers,
        body,
    }
}

/// The ways in which a call of `run` can fail, by name. Commits that come late are earlier than the quiet time of 2 s.
fn failures() -> Vec<(&'static str, Rule)> {
    let google = |code| status(code, FaultBody::Google);
    let html = |code| status(code, FaultBody::Html);
    let late = Duration::from_millis(1500);
    vec![
        ("400 before", rule(google(400))),
        ("401 before", rule(google(401))),
        ("429 before", rule(google(429))),
        ("500 before", rule(google(500))),
        ("503 before", rule(google(503))),
        ("504 HTML before", rule(html(504))),
        ("reset before", rule(Fault::Reset)),
        ("500 after", rule(google(500)).after()),
        ("503 after", rule(google(503)).after()),
        ("502 HTML after", rule(html(502)).after()),
        ("garbage after", rule(Fault::Garbage).after()),
        (
            "truncated after",
            rule(Fault::Truncated { sent: 20 }).after(),
        ),
        ("reset after", rule(Fault::Reset).after()),
        ("reset, late", rule(Fault::Reset).late(late)),
    ]
}

/// Makes each call fail with the probability `share`. All failures are equally likely.
fn mixed(failures: Vec<Rule>, share: f64, seed: u64) -> Vec<Rule> {
    let each = share / failures.len() as f64;
    let rules = failures.into_iter().zip(0_u64..);
    // The first rule that matches applies, so that a later rule only sees the calls that the earlier ones left.
    rules
        .map(|(rule, nth)| {
            rule.probability(each / (1.0 - each * nth as f64), seed ^ (nth + 1) << 40)
        })
        .collect()
}
