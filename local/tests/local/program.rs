//! `cargo run`: what it prints, and that nothing is left of it.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

#[cfg(target_os = "linux")]
use crate::processes;
use crate::terminal::{PATIENCE, Terminal};

/// A user looks at the terminal and expects the job's output there at once.
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
fn it_prints_what_to_try_and_then_what_the_job_prints() {
    let (mut terminal, port) = Terminal::local(&[]);
    let emulator = terminal.emulator_port();
    let expected = format!(
        "building the job
Ready. Start the job for the scope acme, and see its output here:

  curl -i -X POST localhost:{port}/scopes/acme/process

The same with a button, in a browser:

  http://localhost:{port}/

Cloud Run Jobs is emulated at http://127.0.0.1:{emulator}: emulator/README.md says how gcloud and your own programs use it.
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
fn ctrl_c_and_sigterm_stop_everything_it_started() {
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
fn a_port_in_use_is_told_with_the_cure() {
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
fn what_is_no_port_is_told() {
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
