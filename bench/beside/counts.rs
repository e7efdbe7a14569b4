//! Counts the user instructions (with valgrind's callgrind) and the system calls (with strace) of one request. They
//! do not depend on the load of the machine. It takes the difference of two runs of different length, which excludes
//! start and end.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::contenders::{Contender, PROCESS, Setting, find};
use bench::load::{self, Until};

const CONNECTIONS: usize = 16;
/// The requests on each connection in the short run and in the long run.
const SHORT: usize = 20;
const LONG: usize = 100;
/// The time limit for a program under valgrind to write its counts.
const PATIENCE: Duration = Duration::from_secs(30);

/// The cost of one request.
#[derive(Debug, Serialize)]
pub struct Counted {
    pub name: &'static str,
    pub what: &'static str,
    /// User instructions, in thousands.
    pub instructions: Option<f64>,
    pub system_calls: Option<f64>,
    /// The number of each system call, by name.
    pub calls: Vec<(String, f64)>,
}

/// Counts the work of the contenders.
pub async fn count(
    setting: &Setting<'_>,
    contenders: Vec<Contender>,
) -> anyhow::Result<Vec<Counted>> {
    let (valgrind, strace) = (find("valgrind"), find("strace"));
    ensure!(
        valgrind.is_some() || strace.is_some(),
        "neither valgrind nor strace is installed: apt-get install valgrind strace"
    );
    let output = setting.directory.join("count");
    let mut all = Vec::new();
    for mut contender in contenders {
        let mut counted = Counted {
            name: contender.name,
            what: contender.what,
            instructions: None,
            system_calls: None,
            calls: Vec::new(),
        };
        if valgrind.is_some() {
            contender.wrapper = words(
                "valgrind --tool=callgrind --quiet --callgrind-out-file=",
                &output,
            );
            let short = instructions(&run(&contender, SHORT, setting, &output).await?)?;
            let long = instructions(&run(&contender, LONG, setting, &output).await?)?;
            counted.instructions = Some((long - short) / requests() / 1e3);
        }
        if strace.is_some() {
            contender.wrapper = words("strace -f -c -S calls -o ", &output);
            let short = system_calls(&run(&contender, SHORT, setting, &output).await?);
            let long = system_calls(&run(&contender, LONG, setting, &output).await?);
            let before = |name: &str| {
                short
                    .iter()
                    .find(|(other, _)| other == name)
                    .map_or(0.0, |(_, count)| *count)
            };
            let each = |(name, count): (String, f64)| {
                let each = (count - before(&name)) / requests();
                (name, each)
            };
            counted.calls = long
                .into_iter()
                .map(each)
                .filter(|(_, count)| *count > 0.05)
                .collect();
            counted.system_calls = Some(counted.calls.iter().map(|(_, count)| count).sum());
        }
        all.push(counted);
    }
    Ok(all)
}

fn words(command: &str, output: &Path) -> Vec<String> {
    let command = format!("{command}{}", output.display());
    command.split(' ').map(str::to_owned).collect()
}

fn requests() -> f64 {
    ((LONG - SHORT) * CONNECTIONS) as f64
}

/// Runs the contender under its wrapper for this number of requests and returns the wrapper's output.
async fn run(
    contender: &Contender,
    each: usize,
    setting: &Setting<'_>,
    output: &Path,
) -> anyhow::Result<String> {
    let _ = fs::remove_file(output);
    let mut program = contender.start(setting.directory)?;
    contender
        .answers(&mut program, Instant::now(), setting.directory)
        .await?;
    let request = load::request(PROCESS, &contender.headers);
    let outcome = load::run(contender.port, &request, CONNECTIONS, Until::Requests(each)).await?;
    ensure!(
        outcome.bad == 0,
        "{} refused {} requests",
        contender.name,
        outcome.bad
    );
    program.terminate(PATIENCE);
    fs::read_to_string(output).with_context(|| format!("{} left no count", contender.name))
}

fn instructions(output: &str) -> anyhow::Result<f64> {
    let total = output.lines().find_map(|line| {
        let total = line
            .strip_prefix("totals: ")
            .or_else(|| line.strip_prefix("summary: "));
        total?.trim().parse().ok()
    });
    total.context("callgrind's output has no total")
}

/// strace's table: the number of calls is the fourth column, the name the last.
fn system_calls(output: &str) -> Vec<(String, f64)> {
    let rows = output.lines().filter_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let calls = columns.get(3)?.parse().ok()?;
        let name = columns.last().filter(|name| **name != "total")?;
        Some(((*name).to_owned(), calls))
    });
    rows.collect()
}
