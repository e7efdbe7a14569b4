//! Measures the contenders in rounds.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;

use crate::contenders::{Contender, PROCESS, Setting};
use crate::upstream::Upstream;
use bench::load::{self, Until};
use bench::machine::{self, Running};

/// Rounds in which other programs used more of a processor than this are repeated, until `PATIENCE` is used up.
const DISTURBED: f64 = 0.08;
const PATIENCE: Duration = Duration::from_secs(30);
/// The runs of a program that ends by itself.
const RUNS: usize = 31;

/// The extent of the measurement.
pub struct Plan {
    pub connections: Vec<usize>,
    pub rounds: usize,
    pub time: Duration,
    /// The number of starts of each program.
    pub starts: usize,
    pub patience: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            connections: vec![1, 16, 64, 256],
            rounds: 3,
            time: Duration::from_secs(2),
            starts: 9,
            patience: PATIENCE,
        }
    }
}

impl Plan {
    /// A short measurement, to test the benchmark.
    pub fn quick() -> Self {
        Self {
            connections: vec![1, 16],
            rounds: 1,
            time: Duration::from_millis(300),
            starts: 1,
            patience: Duration::ZERO,
        }
    }
}

/// One round of one contender.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    pub requests: usize,
    pub per_second: f64,
    /// The CPU time of each request, in microseconds.
    pub cpu: f64,
    /// Latencies in microseconds.
    pub p50: f64,
    pub p99: f64,
    /// The number of answers other than 2xx, and of starts without a token.
    pub bad: u64,
    /// The number of tokens fetched.
    pub tokens: u64,
    /// The share of a processor that other programs used meanwhile.
    pub others: f64,
}

/// The figures of one contender.
#[derive(Debug, Default, Serialize)]
pub struct Measured {
    pub what: &'static str,
    /// The rounds, by number of connections.
    pub rounds: BTreeMap<usize, Vec<Round>>,
    /// From exec to the first answer, in milliseconds.
    pub first_answer: Vec<f64>,
    /// Resident memory in MiB after the first answer, and its peak up to each number of connections.
    pub idle: f64,
    pub peak: BTreeMap<usize, f64>,
    /// The size of the program in MiB, if it is one file.
    pub size: Option<f64>,
}

/// All figures.
#[derive(Debug, Default, Serialize)]
pub struct Figures {
    pub contenders: Vec<(&'static str, Measured)>,
    /// From exec to the first answer over TLS, in milliseconds.
    pub first_answer_over_tls: Vec<f64>,
    pub job: Option<Job>,
}

/// The sample job: from exec to exit, in microseconds, in turns with `true`.
#[derive(Debug, Serialize)]
pub struct Job {
    pub took: Vec<f64>,
    pub true_took: Vec<f64>,
    /// The size of the program in MiB.
    pub size: f64,
}

/// Measures the contenders in turns.
pub async fn measure(
    plan: &Plan,
    setting: &Setting<'_>,
    contenders: Vec<Contender>,
    job: &Path,
) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    for contender in &contenders {
        let measured = Measured {
            what: contender.what,
            size: contender.size(),
            ..Measured::default()
        };
        figures.contenders.push((contender.name, measured));
    }
    let tls = setting.over_tls()?;
    for _ in 0..plan.starts {
        for (contender, (_, measured)) in contenders.iter().zip(&mut figures.contenders) {
            measured
                .first_answer
                .push(first_answer(contender, setting).await?);
        }
        figures
            .first_answer_over_tls
            .push(first_answer(&tls, setting).await?);
    }
    let mut running = Vec::new();
    for (contender, (_, measured)) in contenders.iter().zip(&mut figures.contenders) {
        let mut program = contender.start(setting.directory)?;
        contender
            .answers(&mut program, Instant::now(), setting.directory)
            .await?;
        measured.idle = program.memory("VmRSS");
        running.push(program);
    }
    let mut patience = plan.patience;
    for connections in &plan.connections {
        for contender in &contenders {
            round(
                contender,
                None,
                *connections,
                plan.time / 4,
                setting.upstream,
            )
            .await?; // to warm up
        }
        for nth in 0..plan.rounds {
            let mut order: Vec<usize> = (0..contenders.len()).collect();
            if nth % 2 == 1 {
                order.reverse();
            }
            for which in order {
                let (contender, program) = (&contenders[which], Some(&running[which]));
                let mut best = round(
                    contender,
                    program,
                    *connections,
                    plan.time,
                    setting.upstream,
                )
                .await?;
                while best.others > DISTURBED && patience > Duration::ZERO {
                    patience = patience.saturating_sub(plan.time);
                    let again = round(
                        contender,
                        program,
                        *connections,
                        plan.time,
                        setting.upstream,
                    )
                    .await?;
                    if again.others < best.others {
                        best = again;
                    }
                }
                let rounds = &mut figures.contenders[which].1.rounds;
                rounds.entry(*connections).or_default().push(best);
            }
        }
        for (program, (_, measured)) in running.iter().zip(&mut figures.contenders) {
            measured.peak.insert(*connections, program.memory("VmHWM"));
        }
    }
    drop(running);
    figures.job = Some(time_job(job, setting.directory)?);
    Ok(figures)
}

async fn first_answer(contender: &Contender, setting: &Setting<'_>) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let mut program = contender.start(setting.directory)?;
    let took = contender
        .answers(&mut program, begun, setting.directory)
        .await?;
    Ok(took.as_secs_f64() * 1e3)
}

/// Measures one round. Without a program it only sends the load.
async fn round(
    contender: &Contender,
    program: Option<&Running>,
    connections: usize,
    time: Duration,
    upstream: &Upstream,
) -> anyhow::Result<Round> {
    let request = load::request(PROCESS, &contender.headers);
    let cpu = || program.map_or(Duration::ZERO, Running::cpu);
    upstream.take();
    let (cpu_before, busy_before, own_before) = (cpu(), machine::busy(), machine::own());
    let outcome = load::run(contender.port, &request, connections, Until::Time(time)).await;
    let outcome = outcome.with_context(|| format!("the load on {} failed", contender.name))?;
    let used = cpu().saturating_sub(cpu_before);
    let known = used + machine::own().saturating_sub(own_before);
    let others = machine::busy()
        .saturating_sub(busy_before)
        .saturating_sub(known);
    let (tokens, unauthorized) = upstream.take();
    let requests = outcome.latencies.len();
    let micros = |duration: Duration| duration.as_secs_f64() * 1e6;
    Ok(Round {
        requests,
        per_second: requests as f64 / outcome.took.as_secs_f64(),
        cpu: micros(used) / requests.max(1) as f64,
        p50: micros(outcome.quantile(0.5)),
        p99: micros(outcome.quantile(0.99)),
        bad: outcome.bad as u64 + unauthorized,
        tokens,
        others: others.as_secs_f64() / outcome.took.as_secs_f64(),
    })
}

fn time_job(path: &Path, directory: &Path) -> anyhow::Result<Job> {
    let time = |program: &Path| -> anyhow::Result<f64> {
        let mut command = Command::new(program);
        command.args(["--scope=acme", "--document=annual-report"]);
        let begun = Instant::now();
        Running::start(&mut command, &directory.join("job.errors"))?.wait()?;
        Ok(begun.elapsed().as_secs_f64() * 1e6)
    };
    let size = machine::size(path).context("the size of the job is unknown")?;
    let (mut took, mut true_took) = (Vec::new(), Vec::new());
    let nothing = crate::contenders::find("true").context("there is no program `true`")?;
    for _ in 0..RUNS {
        took.push(time(path)?);
        true_took.push(time(&nothing)?);
    }
    Ok(Job {
        took,
        true_took,
        size,
    })
}
