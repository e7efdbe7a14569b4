//! Slow readers of long logs: the memory that is held for them is limited, and other readers are served meanwhile.

use std::time::{Duration, Instant};

use emulator::{Emulator, Job, Settings};
use rustix::net::sockopt::set_socket_recv_buffer_size;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::helpers::{JOB, client};
use crate::running::Program;
use crate::usage::memory;
use crate::{QUIET, TURN};

const READERS: usize = 200;
/// 7.5 MB: a thousand lines of 7,500 bytes.
const PRINT: &str = "seq 1 1000 | while read n; do printf '%07500d\\n' $n; done";
const GROWTH: usize = 64 * 1024 * 1024;
/// How often each reader takes something, and how much.
const EVERY: Duration = Duration::from_secs(3);
const TAKEN_BYTES: usize = 32 * 1024;

/// Opens a reader that takes nothing yet, with a small socket buffer.
async fn reader(host: &str, path: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    set_socket_recv_buffer_size(&socket, 16 * 1024).unwrap();
    let mut stream = socket.connect(host.parse().unwrap()).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// Runs two hundred slow readers of each of these paths. Returns the most memory that the program used meanwhile.
async fn read_slowly(program: &Program, paths: &[String]) -> usize {
    let mut readers = Vec::new();
    for number in 0..READERS {
        readers.push(reader(program.host(), &paths[number % paths.len()]).await);
    }
    let (began, mut peak) = (Instant::now(), 0);
    let mut buffer = vec![0; TAKEN_BYTES];
    while began.elapsed() < 3 * EVERY {
        tokio::time::sleep(EVERY / 12).await;
        peak = peak.max(memory(program.pid()));
        let round = began.elapsed().as_millis() / (EVERY / 12).as_millis();
        if round.is_multiple_of(12) {
            for reader in &mut readers {
                let taking = reader.read(&mut buffer);
                let _ = tokio::time::timeout(Duration::from_millis(1), taking).await;
            }
        }
    }
    peak
}

#[tokio::test]
async fn slow_readers_of_long_logs_take_no_more_memory_than_their_budget() {
    let _turn = TURN.lock().await;
    let settings = Settings {
        jobs: vec![Job::new(JOB, ["sh", "-c", PRINT])],
        ..Settings::default()
    };
    let emulator = Emulator::start(settings).await.unwrap();
    let variables = [
        ("API__LOG", QUIET),
        ("API__LIMITS__LOG_READS_PER_MINUTE", "60000"),
        ("API__LIMITS__CALLER_PER_MINUTE", "1000000"),
    ];
    let program = Program::start(&emulator, &variables);
    let http = client();
    let mut executions: Vec<Value> = Vec::new();
    for _ in 0..19 {
        let start = http.post(format!("{}/scopes/acme/process", program.url));
        executions.push(start.send().await.unwrap().json().await.unwrap());
    }
    let paths = |link: &str| -> Vec<String> {
        let link = |execution: &Value| execution["links"][link].as_str().unwrap().to_owned();
        executions.iter().map(link).collect()
    };
    for path in paths("self") {
        let wait = http.get(format!("{}{path}?wait=60", program.url));
        let ended: Value = wait.send().await.unwrap().json().await.unwrap();
        assert_eq!(ended["state"], "succeeded");
    }
    let logs = |path: &str| http.get(format!("{}{path}", program.url)).send();
    assert_eq!(logs(&paths("logs")[0]).await.unwrap().status(), 200);
    let idle = memory(program.pid());

    for link in ["logs", "events"] {
        for count in [1, executions.len()] {
            let paths = &paths(link)[..count];
            let peak = read_slowly(&program, paths).await;
            println!(
                "{READERS} slow readers of {link} of {count} executions: {} MiB over idle",
                peak.saturating_sub(idle) / 1024 / 1024
            );
            assert!(peak < idle + GROWTH, "{idle} {peak}");
            // A reader with normal speed is served.
            let began = Instant::now();
            loop {
                let answer = logs(executions[0]["links"]["logs"].as_str().unwrap());
                let answer = answer.await.unwrap();
                if answer.status() == 200 {
                    assert!(answer.bytes().await.unwrap().len() > 700_000);
                    break;
                }
                assert!(
                    began.elapsed() < Duration::from_secs(10),
                    "{}",
                    answer.status()
                );
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }
}
