//! Load: starts over persistent connections, each of which sends the next request as soon as it has an answer.

use std::io;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::wire::Message;

/// The body of every request: two parameters.
pub const BODY: &str = r#"{"document":"annual-report","limit":42}"#;
/// The time limit of one answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// When the load ends.
#[derive(Clone, Copy)]
pub enum Until {
    /// After this time.
    Time(Duration),
    /// After this number of requests on each connection.
    Requests(usize),
}

/// The result of a load.
pub struct Outcome {
    /// The latency of each answer, the shortest first.
    pub latencies: Vec<Duration>,
    /// The number of answers other than 2xx.
    pub bad: usize,
    /// The duration of the whole load.
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

/// A request that starts the job for a scope. `more` are further header lines.
pub fn request(path: &str, more: &str) -> Vec<u8> {
    let length = BODY.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}"
    );
    format!("{head}\r\n{more}\r\n{BODY}").into_bytes()
}

/// Sends the request repeatedly over this number of connections.
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

/// Sends a request and reads its answer. Returns whether that is a 2xx.
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
