//! Writes the figures as tables in Markdown.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use jiff::Timestamp;

use crate::counts::Counted;
use crate::measure::{Figures, Measured, Round};
use bench::machine;

/// The contender to which the others are compared, if it is measured.
const YARDSTICK: &str = "nginx";
/// The line that ends the place of the tables in a file. It begins with the same line with the name of the tables.
const END: &str = "<!-- end -->";

/// The date, the commit and the machine of the measurement.
pub fn heading(is_slow: bool) -> String {
    let date = Timestamp::now().strftime("%Y-%m-%d");
    let delay = if is_slow {
        "; the stand-in for Google takes 20 ms"
    } else {
        ""
    };
    format!(
        "{date}, commit {}, {}{delay}.",
        commit(),
        machine::description()
    )
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        output.status.success().then_some(text)
    };
    let changed = git(&[
        "status",
        "--porcelain",
        "--",
        "api/src",
        "Cargo.lock",
        "Cargo.toml",
    ]);
    let suffix = if changed.is_some_and(|files| !files.is_empty()) {
        " with changes"
    } else {
        ""
    };
    git(&["rev-parse", "--short", "HEAD"]).map_or("unknown".to_owned(), |commit| commit + suffix)
}

/// All tables.
pub fn tables(figures: &Figures) -> String {
    let mut text = String::new();
    let all = &figures.contenders;
    let yardstick = all
        .iter()
        .find(|(name, _)| *name == YARDSTICK)
        .map(|(_, measured)| measured);
    let connections: Vec<usize> = all
        .first()
        .map_or(Vec::new(), |(_, one)| one.rounds.keys().copied().collect());
    for connections in connections {
        let _ = writeln!(text, "### {connections} connections\n");
        text += "| | CPU µs a request | × nginx | requests/s | p50 µs | p99 µs | × nginx | tokens a request | bad | others |\n";
        text += "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n";
        for (name, measured) in all {
            let _ = writeln!(text, "{}", row(name, measured, yardstick, connections));
        }
        text.push('\n');
    }
    text += "### To start, and to hold\n\n";
    text += "| | exec to first answer, ms (least) | memory idle, MiB | at most, MiB | program, MiB | |\n";
    text += "| --- | ---: | ---: | ---: | ---: | --- |\n";
    for (name, measured) in all {
        let peak: Vec<_> = measured
            .peak
            .values()
            .map(|peak| format!("{peak:.1}"))
            .collect();
        let _ = writeln!(
            text,
            "| {name} | {} | {:.1} | {} | {} | {} |",
            spread(&measured.first_answer),
            measured.idle,
            peak.join(" / "),
            measured
                .size
                .map_or(String::new(), |size| format!("{size:.2}")),
            measured.what,
        );
    }
    let _ = writeln!(
        text,
        "\nWith Google behind TLS the service's first answer takes {} ms.",
        spread(&figures.first_answer_over_tls)
    );
    if let Some(job) = &figures.job {
        let (took, nothing) = (median(&job.took), median(&job.true_took));
        let _ = writeln!(
            text,
            "The sample job takes {took:.0} µs from exec to exit, {:.2} times what `true` takes ({nothing:.0} µs), and has {:.2} MiB.",
            took / nothing,
            job.size,
        );
    }
    text
}

fn row(
    name: &str,
    measured: &Measured,
    yardstick: Option<&Measured>,
    connections: usize,
) -> String {
    let none = Vec::new();
    let rounds = measured.rounds.get(&connections).unwrap_or(&none);
    let others = yardstick
        .and_then(|other| other.rounds.get(&connections))
        .unwrap_or(&none);
    let of = |figure: fn(&Round) -> f64| median(&rounds.iter().map(figure).collect::<Vec<_>>());
    let over = |figure: fn(&Round) -> f64| {
        let ratios: Vec<_> = rounds
            .iter()
            .zip(others)
            .map(|(one, other)| figure(one) / figure(other))
            .collect();
        if ratios.is_empty() {
            String::new()
        } else {
            format!("{:.2}", median(&ratios))
        }
    };
    let (requests, tokens): (usize, u64) =
        rounds.iter().fold((0, 0), |(requests, tokens), round| {
            (requests + round.requests, tokens + round.tokens)
        });
    format!(
        "| {name} | {:.1} | {} | {:.0} | {:.0} | {:.0} | {} | {:.4} | {} | {:.0} % |",
        of(|round| round.cpu),
        over(|round| round.cpu),
        of(|round| round.per_second),
        of(|round| round.p50),
        of(|round| round.p99),
        over(|round| round.p99),
        tokens as f64 / requests.max(1) as f64,
        rounds.iter().map(|round| round.bad).sum::<u64>(),
        100.0 * rounds.iter().map(|round| round.others).fold(0.0, f64::max),
    )
}

/// The table of the counts.
pub fn counts(all: &[Counted]) -> String {
    let mut text = String::from(
        "| | thousand user instructions a request | × nginx | system calls a request | × nginx | |\n",
    );
    text += "| --- | ---: | ---: | ---: | ---: | --- |\n";
    let yardstick = all.iter().find(|counted| counted.name == YARDSTICK);
    for counted in all {
        let over = |figure: fn(&Counted) -> Option<f64>| {
            let ratio = yardstick
                .and_then(figure)
                .zip(figure(counted))
                .map(|(other, one)| one / other);
            ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"))
        };
        let show = |figure: Option<f64>, digits| {
            figure.map_or(String::new(), |figure| format!("{figure:.digits$}"))
        };
        let calls: Vec<_> = counted
            .calls
            .iter()
            .map(|(name, count)| format!("{name} {count:.2}"))
            .collect();
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {}: {} |",
            counted.name,
            show(counted.instructions, 1),
            over(|counted| counted.instructions),
            show(counted.system_calls, 2),
            over(|counted| counted.system_calls),
            counted.what,
            calls.join(", "),
        );
    }
    text
}

/// Replaces the tables with this name in a file.
pub fn insert(path: &Path, name: &str, tables: &str) -> anyhow::Result<()> {
    let begin = format!("<!-- {name} -->\n");
    let file =
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let (before, rest) = file
        .split_once(&begin)
        .with_context(|| format!("the file has no line {begin}"))?;
    let (_, after) = rest
        .split_once(END)
        .with_context(|| format!("the file has no line {END} after it"))?;
    std::fs::write(
        path,
        format!("{before}{begin}{}\n\n{END}{after}", tables.trim_end()),
    )?;
    Ok(())
}

/// The median and the minimum.
fn spread(figures: &[f64]) -> String {
    let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
    format!("{:.1} ({least:.1})", median(figures))
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => sorted[count / 2],
        count => (sorted[count / 2 - 1] + sorted[count / 2]) / 2.0,
    }
}
