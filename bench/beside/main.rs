//! Measures the cost of a start in the service and in its alternatives: CPU, throughput, latency, memory, time to the
//! first answer.
//!
//! `cargo bench -p bench --bench beside` takes five minutes with all contenders, uses loopback alone and installs
//! nothing: contenders that are not installed are left out, with the command that installs them. The measured program
//! has processor 0 to itself; the load and the stand-in for Google share processor 1. The contenders run in turns, in
//! alternating order, and ratios are computed for each round, because the speed of a shared machine drifts.

mod build;
mod contenders;
mod counts;
mod measure;
mod report;
mod roles;
mod upstream;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use bench::machine;
use lexopt::prelude::*;

use crate::contenders::{Field, Setting};
use crate::measure::{Figures, Plan};
use crate::upstream::Upstream;

const HELP: &str = "\
Measures the cost of a start in the service and in its alternatives.

Usage: cargo bench -p bench --bench beside [-- OPTION…]

  --with NAME,…         only these contenders; --list shows them
  --connections N,…     concurrent connections (1,16,64,256)
  --rounds N            rounds of each measurement (3)
  --seconds N           length of each round (2)
  --delay               the stand-in for Google takes 20 ms
  --count               counts user instructions (valgrind) and system calls (strace) per request instead
  --api PATH            measures this build of the service instead of building one
  --job PATH            measures this build of the sample job instead of building one
  --quick               runs everything briefly with the programs of the tests, as a test of the benchmark
  --json FILE           writes all figures
  --report FILE         puts the tables between the lines `<!-- beside -->` (`<!-- counts -->`) and `<!-- end -->` of a file
  --list                lists the contenders, and the commands that install the missing ones
";

struct Options {
    plan: Plan,
    only: Vec<String>,
    is_slow: bool,
    count: bool,
    list: bool,
    api: Option<PathBuf>,
    job: Option<PathBuf>,
    json: Option<PathBuf>,
    report: Option<PathBuf>,
}

fn options() -> anyhow::Result<Option<Options>> {
    let mut options = Options {
        plan: Plan::default(),
        only: Vec::new(),
        is_slow: false,
        count: false,
        list: false,
        api: None,
        job: None,
        json: None,
        report: None,
    };
    let mut words = lexopt::Parser::from_env();
    while let Some(word) = words.next()? {
        match word {
            Long("with") => options.only = list(&words.value()?.string()?),
            Long("connections") => {
                let numbers = list(&words.value()?.string()?);
                let numbers = numbers.iter().map(|number| number.parse());
                options.plan.connections = numbers.collect::<Result<_, _>>()?;
            }
            Long("rounds") => options.plan.rounds = words.value()?.parse()?,
            Long("seconds") => options.plan.time = Duration::from_secs_f64(words.value()?.parse()?),
            Long("delay") => options.is_slow = true,
            Long("count") => options.count = true,
            Long("api") => options.api = Some(words.value()?.into()),
            Long("job") => options.job = Some(words.value()?.into()),
            Long("quick") => {
                options.plan = Plan::quick();
                options.api = Some(testkit::api_program());
                options.job = Some(emulator::job_binary().context("building the sample job")?);
            }
            Long("json") => options.json = Some(words.value()?.into()),
            Long("report") => options.report = Some(words.value()?.into()),
            Long("list") => options.list = true,
            Long("bench") => {} // Cargo's own
            Long("help") | Short('h') => {
                print!("{HELP}");
                return Ok(None);
            }
            word => return Err(word.unexpected().into()),
        }
    }
    Ok(Some(options))
}

fn list(words: &str) -> Vec<String> {
    words
        .split(',')
        .map(|word| word.trim().to_owned())
        .collect()
}

fn main() -> anyhow::Result<()> {
    if let Some(role) = std::env::args().nth(1).filter(|word| roles::is_role(word)) {
        return roles::play(&role);
    }
    let Some(options) = options()? else {
        return Ok(());
    };
    ensure!(
        cfg!(target_os = "linux"),
        "this benchmark needs Linux, because it reads /proc"
    );
    let directory = std::env::temp_dir().join(format!("beside-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let outcome = run(&options, &directory);
    std::fs::remove_dir_all(&directory)
        .with_context(|| format!("removing {}", directory.display()))?;
    outcome
}

fn run(options: &Options, directory: &std::path::Path) -> anyhow::Result<()> {
    let programs = match (&options.api, &options.job) {
        (Some(api), Some(job)) => build::Programs {
            api: api.clone(),
            job: job.clone(),
        },
        (api, job) => {
            let built = build::programs()?;
            build::Programs {
                api: api.clone().unwrap_or(built.api),
                job: job.clone().unwrap_or(built.job),
            }
        }
    };
    if !machine::step_aside() {
        println!("There is only one processor: the measured program shares it with the load.");
    }
    let upstream = Upstream::start()?;
    let setting = Setting {
        upstream: &upstream,
        is_slow: options.is_slow,
        directory,
        api: programs.api,
        is_counted: options.count,
    };
    let Field {
        mut contenders,
        missing,
    } = setting.field()?;
    for (name, how) in &missing {
        println!("{name} is left out: {how}");
    }
    if options.list {
        contenders
            .iter()
            .for_each(|contender| println!("{:12} {}", contender.name, contender.what));
        return Ok(());
    }
    contenders.retain(|contender| {
        options.only.is_empty() || options.only.iter().any(|name| name == contender.name)
    });
    ensure!(
        !contenders.is_empty(),
        "no contender is left: --list shows those that are installed"
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (tables, figures) = if options.count {
        let counted = runtime.block_on(counts::count(&setting, contenders))?;
        (report::counts(&counted), serde_json::to_value(&counted)?)
    } else {
        let measuring = measure::measure(&options.plan, &setting, contenders, &programs.job);
        let figures: Figures = runtime.block_on(measuring)?;
        (report::tables(&figures), serde_json::to_value(&figures)?)
    };
    let tables = format!("{}\n\n{tables}", report::heading(options.is_slow));
    println!("{tables}");
    if let Some(path) = &options.json {
        std::fs::write(path, format!("{figures:#}\n")).context("writing the figures")?;
    }
    if let Some(path) = &options.report {
        let name = if options.count { "counts" } else { "beside" };
        report::insert(path, name, &tables)?;
    }
    Ok(())
}
