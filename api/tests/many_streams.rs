//! Thousands of streams on the program itself: what they cost, how soon all of them know the end, and how it ends itself.
//!
//! A test program of its own, so that nothing else runs beside it. It prints its figures: `--nocapture` shows them.

use std::io::BufRead;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use emulator::{Emulator, Job, Operation, Settings};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

const STREAMS: usize = 5000;
const MAX_BYTES_PER_STREAM: usize = 64 * 1024;
/// Connections opened at one time; fewer than the kernel lets wait.
const AT_ONCE: usize = 100;
/// Sockets that the test and the service need beside the streams.
const OTHER_SOCKETS: usize = 200;
/// How soon after a run's end the last of all knows. A build without optimisation takes a second to write so many events.
const END: Duration = Duration::from_secs(if cfg!(debug_assertions) { 4 } else { 2 });
const PATIENCE: Duration = Duration::from_secs(60);

struct Program {
    child: Child,
    address: String,
}

impl Program {
    fn start(emulator: &Emulator) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_api"))
            .env_clear()
            .env("PORT", "0")
            .env("API__HOST", "127.0.0.1")
            .env("API__LOG", "warn,api=info,api::routes=warn") // where it listens, and no line for each request
            .env("API__LIMITS__CALLER_PER_MINUTE", "1000000")
            .env("API__AUTH__MODE", "public")
            .env("API__CLOUD_RUN__JOB", "test-job")
            .env("API__CLOUD_RUN__BASE_URL", emulator.url())
            .env("API__CLOUD_LOGGING__BASE_URL", emulator.url())
            .env("API__OVERRIDES__ENV__SLEEP_SECONDS", "600")
            .env("GCE_METADATA_HOST", emulator.host())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let log = std::io::BufReader::new(child.stdout.take().unwrap());
        let address = log.lines().find_map(|line| {
            let line: Value = serde_json::from_str(&line.unwrap()).ok()?;
            Some(line["address"].as_str()?.to_owned())
        });
        Self {
            child,
            address: address.expect("it says where it listens"),
        }
    }

    /// Resident memory, in bytes.
    fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        line.trim()
            .strip_suffix(" kB")
            .unwrap()
            .parse::<usize>()
            .unwrap()
            * 1024
    }

    /// How long the program and the test were ready to run and others had the processor: a busy machine is no fault of ours.
    fn delayed(&self) -> Duration {
        let delays = [
            format!("/proc/{}/schedstat", self.child.id()),
            "/proc/thread-self/schedstat".to_owned(),
        ];
        let nanoseconds = delays.iter().filter_map(|path| {
            let text = std::fs::read_to_string(path).ok()?;
            text.split(' ').nth(1)?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanoseconds.sum())
    }

    /// Sends a request on a connection of its own; the body of the answer.
    async fn post(&self, path: &str) -> Value {
        let mut socket = TcpStream::connect(&self.address).await.unwrap();
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
    async fn watch(&self, path: &str, count: usize) -> Vec<BufReader<TcpStream>> {
        let mut streams = Vec::new();
        while streams.len() < count {
            let mut opening = JoinSet::new();
            for _ in 0..AT_ONCE.min(count - streams.len()) {
                opening.spawn(open(self.address.clone(), path.to_owned()));
            }
            streams.extend(opening.join_all().await);
        }
        streams
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
    let emulator = Emulator::start(settings).await.unwrap();
    let mut program = Program::start(&emulator);
    let count = possible();
    if count < STREAMS {
        println!("the limit on open files leaves {count} streams of {STREAMS}");
    }

    let execution = program.post("/scopes/acme/process").await;
    let path = execution["links"]["events"].as_str().unwrap();
    let mut one = program.watch(path, 1).await;
    let (idle, begun) = (program.memory(), Instant::now());
    let (gets, logs) = (
        emulator.counters().calls(Operation::Get),
        emulator.counters().calls(Operation::Logs),
    );
    let mut streams = program.watch(path, count).await;
    let each = (program.memory() - idle) / count;
    println!(
        "{count} streams: {} KiB of memory each, {} KiB in all",
        each / 1024,
        program.memory() / 1024
    );
    assert!(each <= MAX_BYTES_PER_STREAM, "{each} bytes a stream");

    let delayed = program.delayed();
    program
        .post(execution["links"]["cancel"].as_str().unwrap())
        .await;
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
    let delayed = program.delayed() - delayed;
    println!(
        "the last knew of the end after {latest:?}, {delayed:?} of it waiting for a processor; {gets} reads of the execution and {logs} of its lines in {seconds} s"
    );
    assert!(latest <= END + delayed, "{latest:?}");
    assert!(
        gets <= seconds && logs <= seconds,
        "{gets} {logs} in {seconds} s"
    );
    drop(streams);

    let execution = program.post("/scopes/acme/process").await;
    let path = execution["links"]["events"].as_str().unwrap();
    let mut streams = program.watch(path, count.min(1000)).await;
    let (begun, delayed) = (Instant::now(), program.delayed());
    let id = program.child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .unwrap()
            .success()
    );
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
    let (ended, delayed) = (begun.elapsed(), program.delayed().saturating_sub(delayed));
    let status = program.child.wait().unwrap();
    println!(
        "told to stop, it ended {} streams in {ended:?}, {delayed:?} of it waiting for a processor, and itself in {:?}",
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
