//! The program as Cloud Run starts and stops it.

use std::time::{Duration, Instant};

use emulator::{Emulator, Fault, Operation, Rule, Settings};
use futures_util::future::join_all;
use reqwest::Client;
use tokio::net::TcpStream;

use crate::helpers::{eventually, instant_job};
use crate::running::Program;

async fn emulator() -> Emulator {
    let settings = Settings {
        jobs: vec![instant_job()],
        ..Settings::default()
    };
    Emulator::start(settings).await.unwrap()
}

fn client() -> Client {
    api::gcp::http_client::HttpClients::new().unwrap().reqwest
}

#[tokio::test]
async fn the_first_start_waits_for_one_call_on_one_connection() {
    let emulator = emulator().await;
    let program = Program::start(&emulator, &[]);
    let calls = |operation| emulator.counters().calls(operation);
    // The program fetches a token, the project and the region before any request, on a connection each.
    eventually(|| (calls(Operation::Token), calls(Operation::Metadata)) == (1, 2)).await;
    let connections = emulator.counters().connections;
    let start = client().post(format!("{}/scopes/acme/process", program.url));
    assert_eq!(start.send().await.unwrap().status(), 202);
    assert_eq!(
        (calls(Operation::Token), calls(Operation::Metadata)),
        (1, 2)
    );
    assert_eq!(calls(Operation::Run), 1);
    assert_eq!(emulator.counters().connections, connections + 1);
}

#[tokio::test]
async fn the_program_listens_at_once_and_refuses_starts_without_a_token() {
    let emulator = emulator().await;
    emulator
        .faults()
        .add(Rule::new(Operation::Token, Fault::Hang));
    let program = Program::start(&emulator, &[]);
    // It takes 200 ms on an idle machine. The machine of a test is shared.
    assert!(
        program.until_listening < Duration::from_secs(1),
        "{:?}",
        program.until_listening
    );
    let begun = Instant::now();
    let response = client()
        .post(format!("{}/scopes/-/process", program.url))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 400);
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn the_program_raises_its_limit_on_open_files() {
    let emulator = emulator().await;
    let program = Program::start(&emulator, &[]);
    let idle = join_all((0..400).map(|_| TcpStream::connect(program.host()))).await;
    let health = client().get(format!("{}/health", program.url)).send();
    let response = tokio::time::timeout(Duration::from_secs(5), health).await;
    assert_eq!(
        response
            .expect("it should not wait for others")
            .unwrap()
            .status(),
        200
    );
    assert!(idle.iter().all(Result::is_ok));
}

#[tokio::test]
async fn sigterm_ends_an_idle_process_at_once() {
    let emulator = emulator().await;
    let program = Program::start(&emulator, &[]);
    let kept = client();
    kept.get(format!("{}/health", program.url))
        .send()
        .await
        .unwrap();
    let _silent = TcpStream::connect(program.host()).await.unwrap();
    program.terminate();
    let (status, _) = program.ended(Duration::from_secs(1)).await;
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn sigterm_lets_starts_in_flight_end() {
    let emulator = emulator().await;
    emulator
        .faults()
        .add(Rule::new(Operation::Run, Fault::Delay { ms: 3000 }));
    let program = Program::start(&emulator, &[]);
    let starts: Vec<_> = (0..10)
        .map(|n| {
            tokio::spawn(
                client()
                    .post(format!("{}/scopes/s{n}/process", program.url))
                    .send(),
            )
        })
        .collect();
    eventually(|| emulator.counters().calls(Operation::Run) == 10).await;
    let host = program.host().to_owned();
    program.terminate();
    let (status, _) = program.ended(Duration::from_millis(9_500)).await;
    assert_eq!(status.code(), Some(0));
    for start in starts {
        assert_eq!(start.await.unwrap().unwrap().status(), 202);
    }
    assert!(TcpStream::connect(host).await.is_err());
    assert_eq!(emulator.counters().runs, 10);
}

#[tokio::test]
async fn sigterm_during_an_unanswered_start_ends_in_time_and_the_next_process_repeats_nothing() {
    let emulator = emulator().await;
    let hang = Rule::new(Operation::Run, Fault::Hang);
    emulator.faults().add(hang.after().first(1));
    let start = |program: &Program| {
        let url = format!("{}/scopes/acme/process", program.url);
        client().post(url).header("idempotency-key", "k").send()
    };
    let program = Program::start(&emulator, &[("API__START__DEADLINE_SECONDS", "60")]);
    let first = tokio::spawn(start(&program));
    eventually(|| emulator.counters().runs == 1).await;
    program.terminate();
    let (status, _) = program.ended(Duration::from_millis(9_900)).await;
    assert_eq!(status.code(), Some(0));
    if let Ok(response) = first.await.unwrap() {
        let status = response.status().as_u16();
        assert!(matches!(status, 202 | 503 | 504), "{status}"); // 202: the execution was found before the deadline
    }
    let successor = Program::start(&emulator, &[]);
    assert_eq!(start(&successor).await.unwrap().status(), 202);
    assert_eq!(emulator.counters().runs, 1);
}
