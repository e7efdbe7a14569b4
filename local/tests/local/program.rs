//! Tests what `cargo run` prints, and that it leaves no process behind.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

#[cfg(target_os = "linux")]
use crate::processes;
use crate::terminal::{PATIENCE, Terminal};

/// The time within which a user expects the job's output in the terminal.
const AT_ONCE: Duration = Duration::from_secs(1);

fn start(port: u16) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let url = format!("http://localhost:{port}/scopes/acme/process");
        let http = api::gcp::http_client::HttpClients::new().unwrap().reqwest;
        assert_eq!(http.post(url).send().await.unwrap().status(), 202);
    });
}

#[test]
fn cargo_run_prints_the_first_steps_and_then_the_output_of_the_job() {
    let (mut terminal, port) = Terminal::local(&[]);
    let emulator = terminal.emulator_port();
    let expected = format!(
        "building the job
Ready. Start the job for the scope acme, and see its output here:

  curl -i -X POST localhost:{port}/scopes/acme/process

The same with a button, in a browser:

  http://localhost:{port}/

Cloud Run Jobs is emulated at http://127.0.0.1:{emulator}: emulator/README.md says how gcloud and your own programs use it.
cargo run -- --help says how to run a job of your own, and how to use the real Cloud Run.
Ctrl-C stops everything."
    );
    assert_eq!(terminal.shown.join("\n"), expected);
    start(port);
    terminal.until(AT_ONCE, |line| line.ends_with("| SCOPE = acme"));
    terminal.until(AT_ONCE, |line| line.ends_with("|   ARG: --scope=acme"));
    assert!(terminal.end_by(Signal::INT).success());
}

#[cfg(target_os = "linux")]
#[test]
fn ctrl_c_and_sigterm_stop_every_process() {
    for signal in [Signal::INT, Signal::TERM] {
        let (mut terminal, port) = Terminal::local(&[("API__OVERRIDES__ENV__SLEEP_SECONDS", "60")]);
        start(port);
        terminal.until(PATIENCE, |line| line.contains("| working: 1 of 60 s"));
        let children = processes::children(terminal.pid());
        assert_eq!(children.len(), 1, "the job's one task");
        assert!(terminal.end_by(signal).success());
        assert!(
            !children.into_iter().any(processes::is_running),
            "{signal:?}"
        );
        let address = ("127.0.0.1", port);
        assert!(TcpListener::bind(address).is_ok(), "the port is free");
    }
}

#[test]
fn a_command_of_the_user_runs_as_the_job_and_its_failure_is_reported() {
    // Programs that a version manager puts on the PATH must be found.
    let own = concat!(env!("CARGO_TARGET_TMPDIR"), "/own-programs");
    std::fs::create_dir_all(own).unwrap();
    let program = format!("{own}/my-job");
    let text = "#!/bin/sh\necho \"my $SCOPE, $1, $HOME\"\nexit 7\n";
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{own}:{}", std::env::var("PATH").unwrap());
    for by_argument in [true, false] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_local"));
        command.env("PATH", &path).env("HOME", "/my/home");
        if by_argument {
            command.args(["--command", "sh -c 'exec my-job \"$@\"' job"]);
        } else {
            command.env("JOB_COMMAND", "sh -c 'exec my-job \"$@\"' job");
        }
        let mut terminal = Terminal::run(&mut command);
        let port = terminal.ready();
        start(port);
        let said = "| my acme, --scope=acme, /my/home";
        terminal.until(PATIENCE, |line| line.ends_with(said));
        let failed = " failed: task 0 ended with exit code 7";
        terminal.until(PATIENCE, |line| {
            line.starts_with("test-job-") && line.ends_with(failed)
        });
        assert!(terminal.end_by(Signal::INT).success());
    }
}

#[test]
fn in_mode_jwt_the_printed_commands_start_the_job() {
    let secret = "an-8-or-9-word-secret-of-this-test-0123456789";
    let (terminal, port) = Terminal::local(&[
        ("API__AUTH__MODE", "jwt"),
        ("API__AUTH__JWT__SECRET", secret),
    ]);
    let printed = |start: &str| {
        let line = terminal.shown.iter().find(|line| line.contains(start));
        line.unwrap().trim().to_owned()
    };
    let call = printed("curl ");
    let set = printed("TOKEN=");
    assert!(call.contains(&format!("localhost:{port}")), "{call}");
    let curl = Command::new("sh")
        .args(["-c", &format!("{set}\n{call}")])
        .output();
    let answer = String::from_utf8(curl.unwrap().stdout).unwrap();
    if answer.is_empty() {
        assert!(std::env::var_os("CI").is_none(), "curl is needed");
    } else {
        assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    }
}

#[test]
fn both_addresses_of_localhost_answer() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: this machine has no IPv6");
        return;
    }
    let (_terminal, port) = Terminal::local(&[]);
    for host in ["127.0.0.1", "::1"] {
        let mut service = TcpStream::connect((host, port)).unwrap();
        let request = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        service.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        service.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{host}: {answer}");
    }
}

#[test]
fn an_invalid_argument_is_refused_with_the_cure() {
    for (arguments, cure) in [
        (&["--prject=x"][..], "--help"),
        (&["--project=p", "--job=j"], "--region"),
        (&["--command", "'"], "quote"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_local"));
        let output = command.args(arguments).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains(cure), "{message}");
    }
    let mut help = Command::new(env!("CARGO_BIN_EXE_local"));
    let output = help.arg("--help").output().unwrap();
    assert!(output.status.success());
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("--impersonate")
    );
}

#[test]
fn a_port_in_use_is_reported_with_the_cure() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().port().to_string();
    for (variable, other) in [("PORT", "EMULATOR_PORT"), ("EMULATOR_PORT", "PORT")] {
        let output = Command::new(env!("CARGO_BIN_EXE_local"))
            .env(variable, &taken)
            .env(other, "0")
            .output()
            .unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(
            message.contains(&format!("port {taken}")) && message.contains(&format!("{variable}=")),
            "{message}"
        );
    }
}

#[test]
fn an_invalid_port_is_refused() {
    for variable in ["PORT", "EMULATOR_PORT"] {
        let output = Command::new(env!("CARGO_BIN_EXE_local"))
            .envs([("PORT", "0"), ("EMULATOR_PORT", "0"), (variable, "http")])
            .output()
            .unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        let named = message.contains(variable) && message.contains("must be a port, such as");
        assert!(named, "{message}");
    }
}
