//! Starts over connections that stay open, each sending the next as soon as it has its answer.

use std::io;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::wire::Message;

/// The body of every request: two parameters.
pub const BODY: &str = r#"{"document":"annual-report","limit":42}"#;
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long to go on.
#[derive(Clone, Copy)]
pub enum Until {
    /// So long.
    Time(Duration),
    /// So many requests on each connection.
    Requests(usize),
}

/// What came of it.
pub struct Outcome {
    /// How long each answer took, the shortest first.
    pub latencies: Vec<Duration>,
    /// Answers that were no 2xx.
    pub bad: usize,
    /// All of it.
    pub took: Duration,
}

impl Outcome {
    /// The latency that this share of the answers did not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        let at = (last as f64 * share).round() as usize;
        self.latencies.get(at).copied().unwrap_or_default()
    }
}

/// The request that starts something for a scope.
pub fn request(path: &str, more: &str) -> Vec<u8> {
    let length = BODY.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}"
    );
    format!("{head}\r\n{more}\r\n{BODY}").into_bytes()
}

/// Sends the request over so many connections.
pub async fn run(
    port: u16,
    request: &[u8],
    connections: usize,
    until: Until,
) -> anyhow::Result<Outcome> {
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        clients.spawn(client(port, request.to_vec(), begun, until));
    }
    let (mut latencies, mut bad) = (Vec::new(), 0);
    while let Some(client) = clients.join_next().await {
        let (some, refused) = client??;
        latencies.extend(some);
        bad += refused;
    }
    let took = begun.elapsed();
    latencies.sort_unstable();
    Ok(Outcome {
        latencies,
        bad,
        took,
    })
}

async fn client(
    port: u16,
    request: Vec<u8>,
    begun: Instant,
    until: Until,
) -> anyhow::Result<(Vec<Duration>, usize)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let (mut answer, mut latencies, mut bad) = (Vec::with_capacity(4096), Vec::new(), 0);
    loop {
        let over = match until {
            Until::Time(time) => begun.elapsed() >= time,
            Until::Requests(requests) => latencies.len() >= requests,
        };
        if over {
            return Ok((latencies, bad));
        }
        let sent = Instant::now();
        let asked = tokio::time::timeout(PATIENCE, ask(&mut stream, &request, &mut answer));
        bad += usize::from(!asked.await.context("no answer in time")??);
        latencies.push(sent.elapsed());
    }
}

/// Sends a request and reads its answer; whether that is a 2xx.
async fn ask(stream: &mut TcpStream, request: &[u8], answer: &mut Vec<u8>) -> io::Result<bool> {
    stream.write_all(request).await?;
    answer.clear();
    while Message::of(answer).is_none() {
        if stream.read_buf(answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(answer.get(9) == Some(&b'2'))
}
