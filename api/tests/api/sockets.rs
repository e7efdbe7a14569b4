//! Requests written byte by byte, requests that are too large or too slow, and bytes that are not requests.

use std::time::{Duration, Instant};

use emulator::Operation;
use futures_util::future::join_all;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::bad_input::inputs;
use crate::helpers::{TestApp, eventually, instant_job};

/// A time that is longer than heads and bodies may take.
const TOO_SLOW: Duration = Duration::from_secs(15);
const START: &str =
    "POST /scopes/acme/process HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";

async fn connect(app: &TestApp) -> TcpStream {
    TcpStream::connect(app.url.strip_prefix("http://").unwrap())
        .await
        .unwrap()
}

/// All bytes until the server closes, or has been silent for the time.
async fn answers(stream: &mut TcpStream, silence: Duration) -> String {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(Ok(1..)) = timeout(silence, stream.read(&mut buffer))
        .await
        .map(|read| read.inspect(|&read| answer.extend_from_slice(&buffer[..read])))
    {}
    String::from_utf8(answer).unwrap()
}

/// The statuses of the answers.
fn statuses(answers: &str) -> Vec<u16> {
    let heads = answers.split("HTTP/1.1 ").skip(1);
    heads.map(|head| head[..3].parse().unwrap()).collect()
}

/// `@repeat:X:N` is X repeated N times, `\r`, `\n` and `\xNN` are bytes.
fn bytes(text: &str) -> Vec<u8> {
    if let Some((before, rest)) = text.split_once("@repeat:") {
        let is_count =
            |(at, _): &(usize, &str)| rest.as_bytes().get(at + 1).is_some_and(u8::is_ascii_digit);
        let (at, _) = rest.match_indices(':').find(is_count).unwrap();
        let digits = rest[at + 1..]
            .bytes()
            .take_while(u8::is_ascii_digit)
            .count();
        let (count, after) = rest[at + 1..].split_at(digits);
        return [
            bytes(before),
            bytes(&rest[..at]).repeat(count.parse().unwrap()),
            bytes(after),
        ]
        .concat();
    }
    let mut parts = text.split('\\');
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        let (byte, rest) = match part.as_bytes()[0] {
            b'r' => (b'\r', &part[1..]),
            b'n' => (b'\n', &part[1..]),
            b'x' => (u8::from_str_radix(&part[1..3], 16).unwrap(), &part[3..]),
            other => panic!("an escape that is not known: {other}"),
        };
        bytes.push(byte);
        bytes.extend_from_slice(rest.as_bytes());
    }
    bytes
}

#[tokio::test]
async fn a_malformed_request_gets_the_right_status_and_never_hangs() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    let items = inputs("raw");
    let outcomes = join_all(items.iter().map(async |item| {
        let begun = Instant::now();
        let mut stream = connect(&app).await;
        let _ = stream
            .write_all(&bytes(item["raw_request"].as_str().unwrap()))
            .await;
        let silence = if item["label"] == "silent connection, no bytes" {
            TOO_SLOW
        } else {
            Duration::from_secs(3)
        };
        let answers = answers(&mut stream, silence).await;
        (answers, begun.elapsed())
    }))
    .await;
    for (item, (answers, took)) in items.iter().zip(outcomes) {
        let statuses = statuses(&answers);
        let first: Value = statuses.first().copied().unwrap_or(0).into();
        assert!(
            item["status"].as_array().unwrap().contains(&first),
            "{item}: {answers}"
        );
        assert!(took < TOO_SLOW, "{item}: {took:?}");
        // The bytes after a smuggled head are a separate request that starts nothing.
        assert!(
            statuses[1.min(statuses.len())..]
                .iter()
                .all(|status| matches!(status, 400 | 404)),
            "{item}: {answers}"
        );
    }
    let accepted = items
        .iter()
        .filter(|item| item["status"].as_array().unwrap().contains(&202.into()))
        .count();
    assert!(app.calls(Operation::Run) <= accepted as u64);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    let header = |bytes: usize| {
        format!(
            "GET /health HTTP/1.1\r\nhost: x\r\nx-a: {}\r\n\r\n",
            "a".repeat(bytes)
        )
    };
    let headers =
        |count: usize| format!("GET /health HTTP/1.1\r\n{}\r\n", "x-a: b\r\n".repeat(count));
    let uri = |bytes: usize| {
        format!(
            "GET /health?{} HTTP/1.1\r\nhost: x\r\n\r\n",
            "a".repeat(bytes)
        )
    };
    for (request, status) in [
        (header(15 * 1024), 200),
        (header(64 * 1024), 431),
        (headers(100), 200),
        (headers(101), 431),
        (uri(15 * 1024), 200),
        (uri(16 * 1024), 431),
        (uri(70 * 1024), 431),
    ] {
        let mut stream = connect(&app).await;
        let _ = stream.write_all(request.as_bytes()).await;
        let answers = answers(&mut stream, Duration::from_secs(1)).await;
        assert_eq!(statuses(&answers), [status], "{} bytes", request.len());
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    let mut stream = connect(&app).await;
    let requests = "GET /health HTTP/1.1\r\nhost: x\r\n\r\nGET /nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(requests.as_bytes()).await.unwrap();
    assert_eq!(statuses(&answers(&mut stream, TOO_SLOW).await), [200, 404]);
}

/// Sends `chunk` until the server closes or 100 MiB are sent. Returns how much was taken, and the answer.
async fn flood(app: &TestApp, head: &str, chunk: &[u8]) -> (usize, String) {
    let (mut read, mut write) = connect(app).await.into_split();
    let head = head.to_owned();
    let chunk = chunk.to_vec();
    let writer = tokio::spawn(async move {
        write.write_all(head.as_bytes()).await.unwrap();
        let mut sent = 0;
        while sent < 100 << 20 && write.write_all(&chunk).await.is_ok() {
            sent += chunk.len();
        }
        sent
    });
    let mut answer = Vec::new();
    let _ = timeout(TOO_SLOW, read.read_to_end(&mut answer))
        .await
        .expect("it should be closed");
    (writer.await.unwrap(), String::from_utf8(answer).unwrap())
}

#[tokio::test]
async fn an_endless_body_is_refused_before_it_is_read() {
    /// The kernel's buffers of both ends on loopback, which are far smaller than what is sent.
    const BUFFERS: usize = 16 << 20;
    let app = TestApp::with(instant_job(), |_| {}).await;
    let blank = [b' '; 1024];
    let chunk = [b"400\r\n", &blank[..], b"\r\n"].concat();
    for (framing, chunk) in [
        ("content-length: 104857600", &blank[..]),
        ("transfer-encoding: chunked", &chunk),
    ] {
        for start in [
            START.to_owned(),
            START.replace("/process", "/executions/x/cancel"),
        ] {
            let (sent, answer) = flood(&app, &format!("{start}{framing}\r\n\r\n"), chunk).await;
            let status = if start == START { 413 } else { 404 }; // a cancellation does not read a body
            assert_eq!(statuses(&answer), [status], "{framing}: {answer}");
            assert!(sent < BUFFERS, "{framing}: {sent} bytes were taken");
        }
    }
    assert_eq!(app.calls(Operation::Run), 0);
}

#[tokio::test]
async fn a_body_that_trickles_is_refused_after_the_timeout() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    let (mut read, mut write) = connect(&app).await.into_split();
    let begun = Instant::now();
    write
        .write_all(format!("{START}content-length: 1024\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let trickle = tokio::spawn(async move {
        while write.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let mut answer = String::new();
    timeout(TOO_SLOW, read.read_to_string(&mut answer))
        .await
        .expect("it should be closed")
        .unwrap();
    assert!(begun.elapsed() > Duration::from_secs(5));
    assert!(
        answer.starts_with("HTTP/1.1 408 ") && answer.contains("/problems/request-timeout"),
        "{answer}"
    );
    drop(read);
    trickle.await.unwrap();
}

/// A connection whose other end has vanished must not be waited on for the kernel's default time.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn idle_connections_to_google_are_kept_alive() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    app.start("acme").await;
    let emulator = app.emulator.host();
    let (_, port) = emulator.rsplit_once(':').unwrap();
    let port = format!(":{:04X}", port.parse::<u16>().unwrap());
    // proc(5), and the kernel's proc_net_tcp: established is 01, and 02:TICKS is the time to the next keepalive of an idle
    // connection. A tick is 10 ms; the kernel's default is two hours.
    let is_soon = |timer: &str| {
        let ticks = timer.strip_prefix("02:");
        ticks.is_some_and(|ticks| u64::from_str_radix(ticks, 16).unwrap() < 6_000)
    };
    eventually(|| {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let timers: Vec<_> = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|fields| fields[2].ends_with(&port) && fields[3] == "01")
            .map(|fields| fields[5].to_owned())
            .collect();
        !timers.is_empty() && timers.iter().all(|timer| is_soon(timer))
    })
    .await;
}
