//! The program as processes of its own, which can be killed.

use std::process::Stdio;
use std::sync::{Arc, Mutex};

use emulator::Emulator;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::variables;

/// The program, running. Dropping it kills it.
pub struct Process {
    pub url: String,
    child: Child,
    errors: Arc<Mutex<Vec<Value>>>,
}

impl Process {
    /// Starts it on the emulator and waits until it listens. `more` are variables of its environment.
    pub async fn start(emulator: &Emulator, more: &[(&str, &str)]) -> Self {
        let mut command = Command::new(crate::api_program());
        command.env_clear().kill_on_drop(true);
        command
            .envs(variables(emulator))
            // As in `config` of the helpers: the limits have tests of their own.
            .env("API__LIMITS__IN_FLIGHT", "10000")
            .env("API__LIMITS__CALLER_PER_MINUTE", "1000000")
            .env("API__LIMITS__SCOPE_PER_MINUTE", "1000000")
            .envs(more.iter().copied());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = loop {
            let line = lines.next_line().await.unwrap().expect("it did not start");
            let line: Value = serde_json::from_str(&line).unwrap();
            if let Some(address) = line["address"].as_str() {
                break address.to_owned();
            }
        };
        // Read on, so that it never waits for us.
        let errors = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&errors);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let line: Value = serde_json::from_str(&line).unwrap_or_default();
                if line["severity"] == "ERROR" {
                    seen.lock().unwrap().push(line);
                }
            }
        });
        Self {
            url: format!("http://{address}"),
            child,
            errors,
        }
    }

    /// The lines of its log with the severity `ERROR` so far.
    pub fn errors(&self) -> Arc<Mutex<Vec<Value>>> {
        Arc::clone(&self.errors)
    }

    /// `kill -9`.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// `SIGTERM`; the code it ends with.
    pub async fn terminate(mut self) -> Option<i32> {
        let pid = Pid::from_raw(self.child.id().unwrap().cast_signed()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        self.child.wait().await.unwrap().code()
    }
}
