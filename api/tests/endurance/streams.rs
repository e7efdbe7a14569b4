//! Thousands of streams: their memory, how soon all of them get the end, and how the program shuts down with them.

use std::time::{Duration, Instant};

use emulator::{Emulator, Job, Operation, Settings};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::running::Program;
use crate::usage::{delay, memory};
use crate::{QUIET, TURN};

const STREAMS: usize = 5000;
const MAX_BYTES_PER_STREAM: usize = 64 * 1024;
/// Connections opened at one time; fewer than the kernel lets wait.
const AT_ONCE: usize = 100;
/// Sockets that the test and the service need besides the streams.
const OTHER_SOCKETS: usize = 200;
/// How soon after a run's end the last stream gets it. A build without optimisation takes a second to write so many events.
const END: Duration = Duration::from_secs(if cfg!(debug_assertions) { 4 } else { 2 });
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends a request on a new connection. Returns the body of the answer.
async fn post(program: &Program, path: &str) -> Value {
    let mut socket = TcpStream::connect(program.host()).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = timeout(PATIENCE, socket.read_to_string(&mut answer)).await;
    read.expect("an answer in time").unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// Opens streams and reads each up to the run's first lines.
async fn watch(program: &Program, path: &str, count: usize) -> Vec<BufReader<TcpStream>> {
    let mut streams = Vec::new();
    while streams.len() < count {
        let mut opening = JoinSet::new();
        for _ in 0..AT_ONCE.min(count - streams.len()) {
            opening.spawn(open(program.host().to_owned(), path.to_owned()));
        }
        streams.extend(opening.join_all().await);
    }
    streams
}

async fn open(address: String, path: String) -> BufReader<TcpStream> {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut stream = BufReader::with_capacity(1024, socket);
    until(&mut stream, "working: ").await;
    stream
}

/// Reads up to a line that contains the text, and returns it.
async fn until(stream: &mut BufReader<TcpStream>, text: &str) -> String {
    let mut line = String::new();
    while !line.contains(text) {
        line.clear();
        let read = timeout(PATIENCE, stream.read_line(&mut line)).await;
        assert!(
            read.expect("in time").unwrap() > 0,
            "the stream ended before {text:?}"
        );
    }
    line
}

/// How many streams this process may open, with the service's in its own process.
fn possible() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .unwrap();
    let soft = line
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap_or(usize::MAX);
    STREAMS.min(soft.saturating_sub(OTHER_SOCKETS))
}

#[tokio::test]
async fn thousands_of_streams_are_cheap_and_end_together() {
    let job = Job::new("test-job", [emulator::job_binary().unwrap()]);
    let settings = Settings {
        jobs: vec![job],
        ..Settings::default()
    };
    let _turn = TURN.lock().await;
    let emulator = Emulator::start(settings).await.unwrap();
    let program = Program::start(
        &emulator,
        &[
            ("API__LOG", QUIET),
            ("API__LIMITS__CALLER_PER_MINUTE", "1000000"),
            // All come from one address, and one caller may have half of the streams.
            ("API__LIMITS__STREAMS", "20000"),
            ("API__OVERRIDES__ENV__SLEEP_SECONDS", "600"),
        ],
    );
    let count = possible();
    if count < STREAMS {
        println!("the limit on open files leaves {count} streams of {STREAMS}");
    }

    let execution = post(&program, "/scopes/acme/process").await;
    let path = execution["links"]["events"].as_str().unwrap();
    let mut one = watch(&program, path, 1).await;
    let (idle, begun) = (memory(program.pid()), Instant::now());
    let (gets, logs) = (
        emulator.counters().calls(Operation::Get),
        emulator.counters().calls(Operation::Logs),
    );
    let mut streams = watch(&program, path, count).await;
    let each = (memory(program.pid()) - idle) / count;
    println!(
        "{count} streams: {} KiB of memory each, {} KiB in all",
        each / 1024,
        memory(program.pid()) / 1024
    );
    assert!(each <= MAX_BYTES_PER_STREAM, "{each} bytes a stream");

    let before = delay(program.pid());
    post(&program, execution["links"]["cancel"].as_str().unwrap()).await;
    let mut latest = Duration::ZERO;
    for stream in one.iter_mut().chain(&mut streams) {
        let state = until(stream, r#""state":"cancelled""#).await;
        until(stream, "event: end").await;
        latest = latest.max(since_its_end(&state));
    }
    let seconds = begun.elapsed().as_secs() + 1;
    let counters = emulator.counters();
    let (gets, logs) = (
        counters.calls(Operation::Get) - gets,
        counters.calls(Operation::Logs) - logs,
    );
    let delayed = delay(program.pid()) - before;
    println!(
        "the last knew of the end after {latest:?}, {delayed:?} of it waiting for a processor; {gets} reads of the execution and {logs} of its lines in {seconds} s"
    );
    assert!(latest <= END + delayed, "{latest:?}");
    // The cancellation also read the execution.
    assert!(
        gets <= seconds + 1 && logs <= seconds,
        "{gets} {logs} in {seconds} s"
    );
    drop(streams);

    let execution = post(&program, "/scopes/acme/process").await;
    let path = execution["links"]["events"].as_str().unwrap();
    let mut streams = watch(&program, path, count.min(1000)).await;
    let (begun, before) = (Instant::now(), delay(program.pid()));
    program.terminate();
    for stream in &mut streams {
        let mut rest = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut rest))
            .await
            .expect("in time")
            .unwrap();
        assert!(
            rest.ends_with(": to be continued\n\n\r\n0\r\n\r\n"),
            "{rest:?}"
        );
    }
    let (ended, delayed) = (begun.elapsed(), delay(program.pid()) - before);
    let (status, _) = program.ended(Duration::from_secs(10)).await;
    println!(
        "after SIGTERM it ended {} streams in {ended:?}, {delayed:?} of it waiting for a processor, and itself in {:?}",
        streams.len(),
        begun.elapsed()
    );
    assert!(ended <= Duration::from_secs(1) + delayed, "{ended:?}");
    assert!(
        status.success() && begun.elapsed() < Duration::from_secs(10),
        "{status}"
    );
}

/// How long ago the execution in this `data:` line ended.
fn since_its_end(line: &str) -> Duration {
    let execution: Value =
        serde_json::from_str(line.trim().strip_prefix("data: ").unwrap()).unwrap();
    let ended: jiff::Timestamp = execution["completedAt"].as_str().unwrap().parse().unwrap();
    jiff::Timestamp::now()
        .duration_since(ended)
        .try_into()
        .unwrap()
}
