//! The sample job. It prints its environment and its arguments, which shows the overrides that it got.
//!
//! Three variables make it behave like real work: `SLEEP_SECONDS=N` takes N seconds and prints a line each second,
//! `FAIL_WITH=N` exits with the code N (0 to 255) once that is done, and `PROGRESS=1` reports progress and a result.

use std::env;
use std::ffi::OsStr;
use std::io::{self, BufWriter, Write};
use std::process::{self, ExitCode};
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// The exit code for an invalid variable (EX_USAGE in sysexits.h).
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let outcome = exit_on_signals().and_then(|()| run());
    outcome.unwrap_or_else(|error| match error.kind() {
        // The reader of the output has closed it, so there is nothing left to do.
        io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        io::ErrorKind::InvalidInput => complain(&error, USAGE),
        _ => complain(&error, 1),
    })
}

fn run() -> io::Result<ExitCode> {
    let seconds: u64 = variable("SLEEP_SECONDS", "a whole number of seconds")?;
    let code: u8 = variable("FAIL_WITH", "an exit code from 0 to 255")?;
    let reports = flag("PROGRESS")?;
    print_environment_and_arguments()?;
    if reports {
        report_progress("starting", 0, seconds.max(1))?;
    }
    for second in 1..=seconds {
        thread::sleep(Duration::from_secs(1));
        let message = format!("working: {second} of {seconds} s");
        if reports {
            report_progress(&message, second, seconds)?;
        } else {
            writeln!(io::stdout(), "{message}")?;
        }
    }
    if reports && code == 0 {
        report_result(seconds)?;
    }
    Ok(ExitCode::from(code))
}

/// Prints the progress as a line of JSON. Log viewers show its `message`.
fn report_progress(message: &str, done: u64, total: u64) -> io::Result<()> {
    writeln!(
        io::stdout(),
        r#"{{"message": "{message}", "processProgress": {{"done": {done}, "total": {total}}}}}"#
    )
}

/// Prints the result of the work, which can be any JSON of up to 16 KiB.
fn report_result(seconds: u64) -> io::Result<()> {
    writeln!(
        io::stdout(),
        r#"{{"message": "finished", "processResult": {{"seconds": {seconds}}}}}"#
    )
}

fn print_environment_and_arguments() -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut variables: Vec<_> = env::vars_os().collect();
    variables.sort();
    for (name, value) in &variables {
        writeln!(out, "{} = {}", one_line(name), one_line(value))?;
    }
    for argument in env::args_os().skip(1) {
        writeln!(out, "  ARG: {}", one_line(&argument))?;
    }
    out.flush()
}

/// The text with control characters escaped: a log entry is one line, and a value must not forge another.
fn one_line(text: &OsStr) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.to_string_lossy().chars() {
        if c.is_control() {
            line.extend(c.escape_default())
        } else {
            line.push(c)
        }
    }
    line
}

/// The variable as a number, 0 if it is not set.
fn variable<T: FromStr + Default>(name: &str, expected: &str) -> io::Result<T> {
    let Some(value) = env::var_os(name) else {
        return Ok(T::default());
    };
    let number = value.to_str().and_then(|text| text.parse().ok());
    number.ok_or_else(|| unusable(name, expected))
}

/// Whether the variable is 1. It may also be 0 or not set.
fn flag(name: &str) -> io::Result<bool> {
    match variable(name, "0 or 1")? {
        0 => Ok(false),
        1 => Ok(true),
        2_u8.. => Err(unusable(name, "0 or 1")),
    }
}

fn unusable(name: &str, expected: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("{name} must be {expected}"),
    )
}

/// Exits on SIGTERM, by which Cloud Run stops a task, and on SIGINT. By default neither ends process 1 of a
/// container.
fn exit_on_signals() -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            // It uses standard error, because the main thread may be blocked while it locks standard output.
            let name = if signal == SIGTERM {
                "SIGTERM"
            } else {
                "SIGINT"
            };
            let _ = writeln!(io::stderr(), "stopped by {name}");
            process::exit(128 + signal);
        }
    });
    Ok(())
}

fn complain(error: &io::Error, code: u8) -> ExitCode {
    let _ = writeln!(io::stderr(), "job: {error}");
    ExitCode::from(code)
}
