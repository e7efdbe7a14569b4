//! Slow clients are disconnected and delay no other client: our own, and those of slowhttptest if it is installed
//! (Debian's package of that name).

use std::process::Stdio;
use std::time::{Duration, Instant};

use emulator::{Emulator, Settings};
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::TURN;
use crate::helpers::{TestApp, instant_job};
use crate::running::Program;

const CONNECTIONS: u32 = 1000;
/// Heads and bodies may take ten seconds; five more for the tool to see that its connections are closed.
const SECONDS: u32 = 15;

/// Whether the tool is installed. In CI it must be.
async fn installed() -> bool {
    let found = Command::new("slowhttptest")
        .arg("-h")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await
        .is_ok();
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(
        found || !ci,
        "slowhttptest is missing: apt-get install slowhttptest"
    );
    if !found {
        println!("skipped: slowhttptest is not installed");
    }
    found
}

/// Attacks a service while other clients check its health. Returns the end of the tool's output.
async fn attack(arguments: &[&str]) -> String {
    let settings = Settings {
        jobs: vec![instant_job()],
        ..Settings::default()
    };
    let emulator = Emulator::start(settings).await.unwrap();
    let program = Program::start(&emulator, &[]);
    let (connections, seconds) = (CONNECTIONS.to_string(), SECONDS.to_string());
    let tool = Command::new("slowhttptest")
        .args([
            "-c",
            &connections,
            "-r",
            &connections,
            "-l",
            &seconds,
            "-i",
            "2",
            "-p",
            "3",
            "-x",
            "20",
        ])
        .args(["-u", &format!("{}/scopes/acme/process", program.url)])
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let mut tool = std::pin::pin!(tool);
    let http = api::gcp::http_client::HttpClients::new().unwrap().reqwest;
    let output = loop {
        let asked = Instant::now();
        let response = http
            .get(format!("{}/health", program.url))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        assert!(
            asked.elapsed() < Duration::from_secs(1),
            "others wait: {:?}",
            asked.elapsed()
        );
        tokio::select! {
            output = &mut tool => break output.unwrap(),
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
    };
    without_colours(&String::from_utf8_lossy(&output.stdout))
}

fn without_colours(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        text + part
            .split_once(|c: char| c.is_ascii_alphabetic())
            .map_or("", |(_, rest)| rest)
    })
}

/// Checks that every connection was closed in time, and that the service was available throughout.
fn check(report: &str) {
    assert!(report.contains("No open connections left"), "{report}");
    let probes = report
        .lines()
        .filter(|line| line.starts_with("service available:"));
    assert!(
        probes.clone().count() > 0 && probes.into_iter().all(|line| line.contains("YES")),
        "{report}"
    );
}

#[tokio::test]
async fn hundreds_of_slow_clients_are_disconnected_and_delay_no_other() {
    let _turn = TURN.lock().await;
    let app = TestApp::with(instant_job(), |_| {}).await;
    let host = app.url.strip_prefix("http://").unwrap();
    let begun = Instant::now();
    let dawdlers = join_all((0..300).map(async |n| {
        let mut stream = TcpStream::connect(host).await.unwrap();
        let begun: &[u8] = [
            &b""[..],
            b"P",
            b"POST /scopes/acme/process HTTP/1.1\r\nx-a: ",
        ][n % 3];
        stream.write_all(begun).await.unwrap();
        stream
    }))
    .await;
    for n in 0..20 {
        let asked = Instant::now();
        app.start(&format!("s{n}")).await;
        assert!(
            asked.elapsed() < Duration::from_secs(1),
            "{:?}",
            asked.elapsed()
        );
    }
    let closed = join_all(dawdlers.into_iter().map(async |mut stream| {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.is_empty());
    }));
    let left = Duration::from_secs(SECONDS.into()).saturating_sub(begun.elapsed());
    tokio::time::timeout(left, closed)
        .await
        .expect("all should be closed");
}

#[tokio::test]
async fn slow_heads_and_bodies_of_slowhttptest_are_disconnected() {
    let _turn = TURN.lock().await;
    if installed().await {
        let heads = ["-H", "-t", "GET"];
        let bodies = ["-B", "-t", "POST", "-s", "8192", "-f", "application/json"];
        let (heads, bodies) = tokio::join!(attack(&heads), attack(&bodies));
        check(&heads);
        check(&bodies);
    }
}
