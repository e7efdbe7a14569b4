//! A log of very many lines: each line is delivered, the program's memory does not grow, and nothing is read for a client that has
//! left.

use std::time::{Duration, Instant};

use emulator::{Emulator, Job, Operation, Settings};
use reqwest::{Client, Response};
use serde_json::Value;

use crate::helpers::{JOB, client};
use crate::running::Program;
use crate::usage::memory;
use crate::{QUIET, TURN, size};

/// How much the program may grow while most of the lines pass through it, in bytes.
const GROWTH: usize = 8 * 1024 * 1024;
/// How soon after a client has left the reads for it end.
const LEFT: Duration = Duration::from_secs(1);

/// A stream of events.
struct Stream {
    response: Response,
    rest: Vec<u8>,
    /// Lines read so far; they are numbered from 1.
    lines: usize,
    /// What the last event `progress` says is done.
    done: u64,
}

impl Stream {
    async fn open(http: &Client, url: &str) -> Self {
        let response = http.get(url).send().await.unwrap();
        assert_eq!(response.status(), 200);
        Self {
            response,
            rest: Vec::new(),
            lines: 0,
            done: 0,
        }
    }

    /// Takes the bytes that have arrived, and checks that each line is the next one. False at the end of the stream.
    async fn read(&mut self) -> bool {
        let Some(chunk) = self.response.chunk().await.unwrap() else {
            return false;
        };
        self.rest.extend_from_slice(&chunk);
        let whole = self
            .rest
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        for line in self.rest[..whole].split(|byte| *byte == b'\n') {
            let Some(data) = line.strip_prefix(b"data: ") else {
                continue;
            };
            let data: Value = serde_json::from_slice(data).unwrap();
            if let Some(text) = data["text"].as_str() {
                self.lines += 1;
                assert_eq!(text, self.lines.to_string());
            }
            if let Some(done) = data["done"].as_u64() {
                assert!(done >= self.done, "progress went back to {done}");
                self.done = done;
            }
        }
        self.rest.drain(..whole);
        true
    }

    /// Reads so many lines.
    async fn until(&mut self, lines: usize) {
        while self.lines < lines {
            assert!(self.read().await, "the stream ended after {}", self.lines);
        }
    }
}

/// The service in front of a job that runs this command of the shell.
async fn printing(command: &str) -> (Emulator, Program) {
    let settings = Settings {
        jobs: vec![Job::new(JOB, ["sh", "-c", command])],
        ..Settings::default()
    };
    let emulator = Emulator::start(settings).await.unwrap();
    let variables = [
        ("API__LOG", QUIET),
        ("API__LIMITS__LOG_READS_PER_MINUTE", "60000"),
    ];
    let program = Program::start(&emulator, &variables);
    (emulator, program)
}

/// Starts the job; the address of the execution's events.
async fn started(http: &Client, program: &Program) -> String {
    let start = http.post(format!("{}/scopes/acme/process", program.url));
    let execution: Value = start.send().await.unwrap().json().await.unwrap();
    let events = execution["links"]["events"].as_str().unwrap();
    format!("{}{events}", program.url)
}

#[tokio::test]
async fn a_run_with_many_reports_of_progress_is_followed_in_constant_memory() {
    let _turn = TURN.lock().await;
    const REPORTS: usize = 10_000;
    let report = r#"{"message":"&","processProgress":{"done":&,"total":10000}}"#;
    let (_emulator, program) = printing(&format!("seq {REPORTS} | sed 's/.*/{report}/'")).await;
    let http = client();
    let mut stream = Stream::open(&http, &started(&http, &program).await).await;
    stream.until(REPORTS / 10).await;
    let (early, mut peak) = (memory(program.pid()), 0);
    while stream.read().await {
        peak = peak.max(memory(program.pid()));
    }
    println!(
        "{REPORTS} reports of progress: {} KiB of memory after a tenth of them, {} KiB at most",
        early / 1024,
        peak / 1024
    );
    assert_eq!((stream.lines, stream.done), (REPORTS, REPORTS as u64));
    assert!(peak < early + GROWTH, "{early} {peak}");
}

#[tokio::test]
async fn a_log_of_any_length_takes_constant_memory_and_is_not_read_for_clients_that_left() {
    let _turn = TURN.lock().await;
    let lines: usize = size(50_000, 1_000_000);
    let print = format!("seq {lines}");
    let (emulator, program) = printing(&print).await;
    let http = client();
    let events = started(&http, &program).await;

    let begun = Instant::now();
    let mut stream = Stream::open(&http, &events).await;
    stream.until(lines / 10).await;
    let (early, mut peak) = (memory(program.pid()), 0);
    while stream.read().await {
        peak = peak.max(memory(program.pid()));
    }
    assert_eq!(stream.lines, lines);
    println!(
        "{lines} lines in {:?}: {} KiB of memory after a tenth of them, {} KiB at most",
        begun.elapsed(),
        early / 1024,
        peak / 1024
    );
    assert!(peak < early + GROWTH, "{early} {peak}");

    let reads = || emulator.counters().calls(Operation::Logs);
    let before = reads();
    let mut stream = Stream::open(&http, &events).await;
    stream.until(lines / 10).await;
    assert!(reads() > before);
    drop(stream);
    tokio::time::sleep(LEFT).await;
    let after = reads();
    tokio::time::sleep(LEFT).await;
    assert_eq!(
        reads(),
        after,
        "lines are still read for a client that has left"
    );
}
