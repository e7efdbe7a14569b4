//! Measures how the cost of a request grows with the number of past executions, watchers, scopes and tasks.
//!
//! `cargo bench -p bench --bench growth` takes a minute, against the emulator on loopback; `-- --plot FILE` draws the
//! curves as SVG, `-- --json FILE` writes the figures, and `-- --quick` runs it briefly as a test. It measures the
//! service's own processor time and memory, which exclude those of the emulator.

mod plot;

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use emulator::{Emulator, Job, Operation, Settings};
use lexopt::prelude::*;
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use bench::machine::{self, Running};
use bench::wire::Message;

const JOB: &str = "test-job";
/// The number of concurrent requests.
const CONNECTIONS: usize = 8;
/// The rounds of a measurement. The least figure counts, because other programs disturb the rest.
const ROUNDS: usize = 5;
/// The time limit for the service to listen, and for a stream to begin.
const PATIENCE: Duration = Duration::from_secs(20);

/// The figures of one measurement, by the quantity that it varies.
#[derive(Debug, Serialize)]
struct Curve {
    title: &'static str,
    varied: &'static str,
    measured: &'static str,
    /// The lines of the plot: a name and its points.
    lines: Vec<(&'static str, Vec<(f64, f64)>)>,
}

/// The extent of the measurements.
struct Size {
    requests: usize,
    watching: Duration,
    most_watchers: usize,
}

const FULL: Size = Size {
    requests: 2_000,
    watching: Duration::from_secs(5),
    most_watchers: 5_000,
};
const QUICK: Size = Size {
    requests: 400,
    watching: Duration::from_millis(500),
    most_watchers: 100,
};

fn main() -> anyhow::Result<()> {
    let (mut size, mut plot, mut json) = (FULL, None, None);
    let mut words = lexopt::Parser::from_env();
    while let Some(word) = words.next()? {
        match word {
            Long("plot") => plot = Some(PathBuf::from(words.value()?)),
            Long("json") => json = Some(PathBuf::from(words.value()?)),
            Long("quick") => size = QUICK,
            Long("bench") => {} // Cargo's own
            word => return Err(word.unexpected().into()),
        }
    }
    ensure!(
        cfg!(target_os = "linux"),
        "this benchmark needs Linux, because it reads /proc"
    );
    machine::step_aside();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let curves = runtime.block_on(async {
        anyhow::Ok(vec![
            past_executions(&size).await?,
            watchers(&size).await?,
            scopes(&size).await?,
            tasks(&size).await?,
        ])
    })?;
    for curve in &curves {
        println!("{}: {} by {}", curve.title, curve.measured, curve.varied);
        for (name, points) in &curve.lines {
            let points: Vec<_> = points.iter().map(|(x, y)| format!("{x}: {y:.1}")).collect();
            println!("  {name:34} {}", points.join("  "));
        }
    }
    if let Some(path) = json {
        std::fs::write(path, format!("{:#}\n", serde_json::to_value(&curves)?))?;
    }
    if let Some(path) = plot {
        plot::draw(&path, &curves)?;
    }
    Ok(())
}

/// The service with an emulator of its own.
struct World {
    emulator: Emulator,
    service: Running,
    port: u16,
}

impl World {
    async fn new(job: Job, variables: &[(&str, &str)]) -> anyhow::Result<Self> {
        let settings = Settings {
            jobs: vec![job],
            max_running_executions: usize::MAX,
            ..Settings::default()
        };
        let emulator = Emulator::start(settings).await?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new(testkit::api_program());
        command
            .env("PORT", port.to_string())
            .env("API__HOST", "127.0.0.1")
            .env("API__AUTH__MODE", "public")
            .env("API__CLOUD_RUN__JOB", JOB)
            .env("API__CLOUD_RUN__BASE_URL", emulator.url())
            .env("API__CLOUD_LOGGING__BASE_URL", emulator.url())
            .env("GCE_METADATA_HOST", emulator.host())
            .env("API__LIMITS__CALLER_PER_MINUTE", "1000000000")
            .env("API__LIMITS__SCOPE_PER_MINUTE", "1000000000")
            .envs(variables.iter().copied());
        let errors = std::env::temp_dir().join(format!("growth-{}.errors", std::process::id()));
        let service = Running::start(&mut command, &errors)?;
        let world = Self {
            emulator,
            service,
            port,
        };
        let begun = Instant::now();
        while world.ask("GET", "/health", "").await.is_err() {
            ensure!(
                begun.elapsed() < PATIENCE,
                "the service does not listen. Its errors are in {}",
                errors.display()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        std::fs::remove_file(&errors)?; // the service still writes to the open file
        Ok(world)
    }

    /// Sends one request on a new connection and returns the body of the answer.
    async fn ask(&self, method: &str, path: &str, headers: &str) -> anyhow::Result<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: 0\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        let message = loop {
            ensure!(
                stream.read_buf(&mut answer).await? > 0,
                "the connection closed before the end of the answer"
            );
            if let Some(message) = Message::of(&answer) {
                break message;
            }
        };
        ensure!(answer.get(9) == Some(&b'2'), "{method} {path} was refused");
        Ok(serde_json::from_slice(&answer[message.head..message.end]).unwrap_or_default())
    }

    /// Sends this number of different requests in rounds. Returns the microseconds of the service's processor time
    /// for each request in the cheapest round.
    async fn cost(
        &self,
        count: usize,
        request: impl Fn(usize) -> (String, String),
    ) -> anyhow::Result<f64> {
        let mut least = f64::INFINITY;
        for round in 0..ROUNDS {
            let numbers: Vec<_> = (round..count).step_by(ROUNDS).collect();
            let before = self.service.cpu();
            let mut clients = JoinSet::new();
            for share in numbers.chunks(numbers.len().div_ceil(CONNECTIONS)) {
                let requests = share.iter().map(|nth| request(*nth)).collect();
                clients.spawn(client_of(self.port, requests));
            }
            while let Some(client) = clients.join_next().await {
                client??;
            }
            let took = self.service.cpu() - before;
            least = least.min(took.as_secs_f64() * 1e6 / numbers.len() as f64);
        }
        Ok(least)
    }
}

/// Sends the requests one after the other. Each has a method, a path and headers.
async fn client_of(port: u16, requests: Vec<(String, String)>) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let mut answer = Vec::new();
    for (line, headers) in requests {
        let request =
            format!("{line} HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        answer.clear();
        while Message::of(&answer).is_none() {
            ensure!(
                stream.read_buf(&mut answer).await? > 0,
                "the connection closed before the end of the answer"
            );
        }
        ensure!(
            answer.get(9) == Some(&b'2'),
            "{line}: {}",
            String::from_utf8_lossy(&answer)
        );
    }
    Ok(())
}

fn start(scope: &str) -> String {
    format!("POST /scopes/{scope}/process")
}

/// A job that succeeds without a process.
fn instant() -> Job {
    Job::new(JOB, Vec::<String>::new())
}

async fn past_executions(size: &Size) -> anyhow::Result<Curve> {
    let (mut without, mut with, mut listing) = (Vec::new(), Vec::new(), Vec::new());
    for past in [0, 100, 1000] {
        let world = World::new(instant(), &[]).await?;
        let env = |nth: usize| vec![("SCOPE".to_owned(), format!("s{}", nth % 10))];
        world.emulator.add_past_executions(JOB, past, env)?;
        let key = |nth: usize| (start("acme"), format!("idempotency-key: {past}-{nth}\r\n"));
        world
            .cost(CONNECTIONS, |nth| key(size.requests + nth))
            .await?; // the first request reads the whole list
        let x = past as f64;
        listing.push((
            x,
            world
                .cost(size.requests / 20, |_| {
                    ("GET /scopes/s1/executions".to_owned(), String::new())
                })
                .await?,
        ));
        with.push((x, world.cost(size.requests / 20, key).await?));
        without.push((
            x,
            world
                .cost(size.requests, |_| (start("acme"), String::new()))
                .await?,
        ));
    }
    Ok(Curve {
        title: "Past executions of the job",
        varied: "executions",
        measured: "CPU µs a request",
        lines: vec![
            ("start", without),
            ("start with a key", with),
            ("list of a scope", listing),
        ],
    })
}

async fn watchers(size: &Size) -> anyhow::Result<Curve> {
    let (mut memory, mut cpu, mut reads) = (Vec::new(), Vec::new(), Vec::new());
    for watchers in [1, 100, 1000, 5000]
        .into_iter()
        .filter(|watchers| *watchers <= size.most_watchers)
    {
        let job = Job::new(JOB, ["sh", "-c", "while sleep 1; do echo working; done"]);
        let world = World::new(job, &[("API__LIMITS__LOG_READS_PER_MINUTE", "600")]).await?;
        let execution = world.ask("POST", "/scopes/acme/process", "").await?;
        let events = execution["links"]["events"]
            .as_str()
            .context("the execution has no links")?;
        let idle = world.service.memory("VmRSS");
        let mut streams = JoinSet::new();
        for _ in 0..watchers {
            let request = format!("GET {events} HTTP/1.1\r\nhost: localhost\r\n\r\n");
            let mut stream = TcpStream::connect(("127.0.0.1", world.port)).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut beginning = [0; 12];
            tokio::time::timeout(PATIENCE, stream.read_exact(&mut beginning)).await??;
            streams.spawn(async move {
                let mut rest = [0; 4096];
                while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
            });
        }
        let (before, counted, begun) = (
            world.service.cpu(),
            world.emulator.counters(),
            Instant::now(),
        );
        tokio::time::sleep(size.watching).await;
        let seconds = begun.elapsed().as_secs_f64();
        let share = (world.service.cpu() - before).as_secs_f64() / seconds;
        let asked = |operation| {
            (world.emulator.counters().calls(operation) - counted.calls(operation)) as f64 / seconds
        };
        let x = watchers as f64;
        memory.push((x, (world.service.memory("VmRSS") - idle) * 1024.0 / x));
        cpu.push((x, share * 1000.0 / x * 1000.0));
        reads.push((x, asked(Operation::Get) + asked(Operation::Logs)));
    }
    Ok(Curve {
        title: "Watchers of one execution that prints a line a second",
        varied: "watchers",
        measured: "KiB, µs, reads",
        lines: vec![
            ("memory of each, KiB", memory),
            ("CPU of each, µs a second", cpu),
            ("reads of Google's in all, a second", reads),
        ],
    })
}

async fn scopes(size: &Size) -> anyhow::Result<Curve> {
    let mut costs = Vec::new();
    for scopes in [1, 10, 100, 1000] {
        let world = World::new(instant(), &[]).await?;
        let request = |nth: usize| (start(&format!("s{}", nth % scopes)), String::new());
        world.cost(size.requests / 2, request).await?; // so that each scope is known
        costs.push((scopes as f64, world.cost(size.requests, request).await?));
    }
    Ok(Curve {
        title: "Scopes in turn",
        varied: "scopes",
        measured: "CPU µs a request",
        lines: vec![("start", costs)],
    })
}

async fn tasks(size: &Size) -> anyhow::Result<Curve> {
    let (mut starts, mut shows) = (Vec::new(), Vec::new());
    for tasks in [1, 10, 100] {
        let count = tasks.to_string();
        let world = World::new(instant(), &[("API__OVERRIDES__TASK_COUNT", &count)]).await?;
        world
            .cost(CONNECTIONS, |_| (start("acme"), String::new()))
            .await?; // so that the connections exist
        let x = f64::from(tasks);
        starts.push((
            x,
            world
                .cost(size.requests / 4, |_| (start("acme"), String::new()))
                .await?,
        ));
        let execution = world.ask("POST", "/scopes/acme/process", "").await?;
        let path = execution["links"]["self"]
            .as_str()
            .context("the execution has no links")?;
        let show = |_| (format!("GET {path}"), String::new());
        shows.push((x, world.cost(size.requests, show).await?));
    }
    Ok(Curve {
        title: "Tasks of an execution",
        varied: "tasks",
        measured: "CPU µs a request",
        lines: vec![("start", starts), ("one execution", shows)],
    })
}
