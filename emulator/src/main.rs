//! The emulator as a program. `--help` lists its options.

use std::io::Write;
use std::net::IpAddr;
use std::process::ExitCode;

use emulator::{Emulator, Job, Settings};
use lexopt::{Arg, Parser, ValueExt};
use tokio::signal::unix::{SignalKind, signal};

const HELP: &str = "\
An emulator of Cloud Run Jobs, the metadata server and reads of Cloud Logging, on loopback.

Usage: emulator [OPTION]... --job NAME=COMMAND...

  --host ADDRESS       the IP address to listen on (127.0.0.1). On another one, such as 0.0.0.0, other machines
                       can run the commands of the jobs
  --allow-host NAME    a host name by which clients call, such as that of a container; repeat it for more names.
                       IP addresses, localhost and Google's names are always accepted
  --port PORT          listen on this port; 0 for any free one (8787)
  --project ID         the project (demo)
  --region REGION      the region (us-east4)
  --job NAME=COMMAND   a job and the local command its image stands for, split into words as a shell does;
                       repeat it for more jobs. A job that gcloud creates runs the command of the job whose
                       name its image ends in, else the first one
  --allow-commands     run the `command` of a job's container as a local program, with the rights of your account;
                       without this option the command of its image runs instead
  --inherit-env NAMES  pass these variables of the emulator's own environment, such as PATH,HOME, to every task;
                       without this option a task inherits none, as on Cloud Run
  --allow-anonymous    accept calls without an access token of the emulator's metadata server
  --faults             serve /emulator/faults and /emulator/counters
  --quiet              do not print the lines of tasks, for programs that start the emulator and do not read them
  --help, --version
";

enum Wanted {
    Serve(Box<Settings>),
    Print(String),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = match wanted(Parser::from_env()) {
        Ok(Wanted::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Ok(Wanted::Serve(settings)) => serve(*settings).await.map_err(|error| error.to_string()),
        Err(error) => Err(format!("{error}\nTry --help.")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("emulator: {error}");
            ExitCode::FAILURE
        }
    }
}

fn wanted(mut arguments: Parser) -> Result<Wanted, lexopt::Error> {
    let mut settings = Settings {
        port: 8787,
        echo: true,
        ..Settings::default()
    };
    while let Some(argument) = arguments.next()? {
        match argument {
            Arg::Long("host") => settings.host = address(&arguments.value()?.string()?)?,
            Arg::Long("allow-host") => settings
                .allow_hosts
                .push(host_name(arguments.value()?.string()?)?),
            Arg::Long("port") => settings.port = port(&arguments.value()?.string()?)?,
            Arg::Long("project") => settings.project = id("project", arguments.value()?.string()?)?,
            Arg::Long("region") => settings.region = id("region", arguments.value()?.string()?)?,
            Arg::Long("job") => settings.jobs.push(job(&arguments.value()?.string()?)?),
            Arg::Long("allow-commands") => settings.allow_commands = true,
            Arg::Long("inherit-env") => {
                let names = arguments.value()?.string()?;
                let names = names.split(',').map(str::trim);
                let names = names.filter(|name| !name.is_empty()).map(str::to_owned);
                settings.inherit_env.extend(names);
            }
            Arg::Long("allow-anonymous") => settings.allow_anonymous = true,
            Arg::Long("faults") => settings.faults = true,
            Arg::Long("quiet") => settings.echo = false,
            Arg::Long("help") | Arg::Short('h') => return Ok(Wanted::Print(HELP.into())),
            Arg::Long("version") | Arg::Short('V') => {
                return Ok(Wanted::Print(
                    concat!("emulator ", env!("CARGO_PKG_VERSION"), "\n").into(),
                ));
            }
            _ => return Err(argument.unexpected()),
        }
    }
    if settings.jobs.is_empty() {
        return Err(
            "--job NAME=COMMAND is missing: images need a local command that they stand for".into(),
        );
    }
    Ok(Wanted::Serve(settings.into()))
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| {
        format!("--host {text}: must be an IP address, such as 127.0.0.1, 0.0.0.0 or ::1")
    })
}

fn port(text: &str) -> Result<u16, String> {
    text.parse()
        .map_err(|_| format!("--port {text}: must be a port, such as 8787"))
}

/// An id that can be a part of a path.
fn id(option: &str, text: String) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.:".contains(c);
    if text.is_empty() || !text.chars().all(legal) {
        return Err(format!(
            "--{option} {text}: must consist of lowercase letters, digits and '-'"
        ));
    }
    Ok(text)
}

fn host_name(text: String) -> Result<String, String> {
    if text.is_empty() || text.contains([':', '/', ' ']) {
        return Err(format!(
            "--allow-host {text}: must be a host name alone, such as emulator"
        ));
    }
    Ok(text)
}

fn job(text: &str) -> Result<Job, String> {
    let (name, command) = text
        .split_once('=')
        .ok_or_else(|| format!("--job {text}: must be NAME=COMMAND"))?;
    let words = shlex::split(command)
        .ok_or_else(|| format!("--job {text}: a quote in the command is not closed"))?;
    if words.is_empty() {
        return Err(format!("--job {text}: the command is empty"));
    }
    Ok(Job::new(name, words))
}

async fn serve(settings: Settings) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let emulator = Emulator::start(settings).await?;
    writeln!(std::io::stdout(), "{}", emulator.instructions())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    emulator.stop().await;
    Ok(())
}
