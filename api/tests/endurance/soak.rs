//! A long run with occasional faults: the memory and the connections of the program do not grow.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use emulator::{Emulator, Fault, Operation, Rule, Settings};
use futures_util::future::join_all;
use reqwest::Client;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::interval;

use crate::helpers::{client, instant_job, link};
use crate::running::Program;
use crate::usage::{files, memory, threads};
use crate::{QUIET, TURN, size};

/// Requests per second, in the full size.
const RATE: u64 = 200;
/// One in so many requests starts an execution with a key, which is remembered for a day: three a second, as many as Cloud Run's
/// quota allows. The others start without a key and read the execution, and one in so many lists.
const KEYED: u64 = 64;
const LISTS: u64 = 32;
/// Requests in flight at most. A busy machine gets fewer requests a second rather than more at one time, whose memory would be
/// taken for growth.
const CLIENTS: usize = 64;
/// The share of all calls to Google that fail.
const FAULTS: f64 = 0.01;
/// How much memory may grow, in bytes per second: a mebibyte in ten minutes.
const SLOPE: f64 = 1024.0 * 1024.0 / 600.0;
/// Memory that may be in use temporarily, in bytes: the small size ends before a start without a key is evicted.
const BREATH: f64 = 8.0 * 1024.0 * 1024.0;
/// Connections come and go.
const SOME_FILES: usize = 64;

fn faults(emulator: &Emulator) {
    let faults = [
        Fault::status(503),
        Fault::status(429),
        Fault::Reset,
        Fault::Garbage,
    ];
    let share = FAULTS / faults.len() as f64;
    for (fault, seed) in faults.into_iter().zip(1..) {
        let rule = Rule::new(Operation::Any, fault).probability(share, seed);
        emulator.faults().add(rule);
    }
}

/// Answers by what was asked and their status.
type Answers = BTreeMap<(&'static str, u16), u64>;

/// The requests of users, one after another.
async fn use_it(http: &Client, url: &str, nth: u64, answers: &Mutex<Answers>) {
    let process = format!("{url}/scopes/s{}/process", nth % 100);
    let (what, request) = match nth {
        _ if nth.is_multiple_of(KEYED) => {
            ("keyed", http.post(process).header("idempotency-key", nth))
        }
        _ if nth % LISTS == 1 => (
            "list",
            http.get(format!("{url}/scopes/s{}/executions", nth % 100)),
        ),
        _ => ("start", http.post(process)),
    };
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    *answers.lock().unwrap().entry((what, status)).or_default() += 1;
    if status == 202 {
        let execution: Value = response.json().await.unwrap();
        let shown = http
            .get(format!("{url}{}", link(&execution, "self")))
            .send()
            .await
            .unwrap();
        *answers
            .lock()
            .unwrap()
            .entry(("show", shown.status().as_u16()))
            .or_default() += 1;
    }
}

/// Lets as many requests wait at one time as ever will, so that the memory and the connections which they take are there before
/// anything is measured.
async fn fill(emulator: &Emulator, http: &Client, url: &str) {
    let delay = Rule::new(Operation::Any, Fault::Delay { ms: 500 });
    emulator.faults().add(delay);
    let answers = Mutex::default();
    join_all((0..CLIENTS as u64).map(|nth| use_it(http, url, 2 * LISTS * nth + 2, &answers))).await;
    emulator.faults().clear();
    let started = answers.lock().unwrap().get(&("start", 202)).copied();
    assert_eq!(started, Some(CLIENTS as u64));
}

#[tokio::test]
async fn memory_and_connections_do_not_grow_over_time() {
    let _turn = TURN.lock().await;
    let (rate, seconds) = (size(RATE / 4, RATE), size(20, 30 * 60));
    let settings = Settings {
        jobs: vec![instant_job()],
        max_running_executions: usize::MAX,
        ..Settings::default()
    };
    let emulator = Emulator::start(settings).await.unwrap();
    let unlimited = [
        ("API__LOG", QUIET),
        ("API__LIMITS__CALLER_PER_MINUTE", "1000000"),
        ("API__LIMITS__SCOPE_PER_MINUTE", "1000000"),
        ("API__START__QUIET_SECONDS", "2"),
    ];
    let program = Program::start(&emulator, &unlimited);
    let (http, url) = (client(), program.url.clone());
    fill(&emulator, &http, &url).await;
    faults(&emulator);

    let answers = std::sync::Arc::new(Mutex::new(Answers::new()));
    let (mut asking, mut tick) = (
        JoinSet::new(),
        interval(Duration::from_secs(1) / rate as u32),
    );
    let (begun, mut at_first) = (Instant::now(), None);
    for nth in 0..rate * seconds {
        tick.tick().await;
        let (http, url, answers) = (http.clone(), url.clone(), answers.clone());
        asking.spawn(async move { use_it(&http, &url, nth, &answers).await });
        while asking.try_join_next().is_some() {}
        if asking.len() >= CLIENTS {
            asking.join_next().await;
        }
        if nth == rate * seconds / 4 {
            at_first = Some((Instant::now(), memory(program.pid()), files(program.pid())));
        }
    }
    let (since, memory_before, files_before) = at_first.unwrap();
    let (grown, files_now) = (
        memory(program.pid()) as f64 - memory_before as f64,
        files(program.pid()),
    );
    let measured = since.elapsed().as_secs_f64();
    asking.join_all().await;
    let answers = answers.lock().unwrap().clone();
    println!(
        "{:.0} s at {rate}/s: {:.0} KiB more than the {} KiB of the first quarter, {files_before} files then and {files_now} now; {answers:?}",
        begun.elapsed().as_secs_f64(),
        grown / 1024.0,
        memory_before / 1024,
    );
    assert!(
        grown <= BREATH + SLOPE * measured,
        "{grown} bytes in {measured} s"
    );
    assert!(files_now <= files_before + SOME_FILES);
    assert!(
        threads(program.pid()) <= 2,
        "one, and perhaps one that resolves names"
    );

    // Faults are answered with their problems or retried: no answer is an internal error, and no key started twice.
    let total: u64 = answers.values().sum();
    let failed: u64 = answers
        .iter()
        .filter(|((_, status), _)| *status >= 400)
        .map(|(_, count)| count)
        .sum();
    assert!(failed as f64 <= 2.0 * FAULTS * total as f64, "{answers:?}");
    assert!(
        answers.keys().all(|(_, status)| *status != 500),
        "{answers:?}"
    );
    let counters = emulator.counters();
    assert!(counters.runs_by_invocation.values().all(|runs| *runs == 1));
    let accepted: u64 = answers
        .iter()
        .filter(|((_, status), _)| *status == 202)
        .map(|(_, count)| count)
        .sum();
    assert!(counters.runs >= accepted);
}
