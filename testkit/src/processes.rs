//! The service as a process of its own, which a test can kill.

use std::process::Stdio;
use std::sync::{Arc, Mutex};

use emulator::Emulator;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::variables;

/// A running service. Dropping it kills the process.
pub struct Process {
    pub url: String,
    child: Child,
    errors: Arc<Mutex<Vec<Value>>>,
}

impl Process {
    /// Starts the service with the emulator and waits until it listens. `more` are further environment variables.
    pub async fn start(emulator: &Emulator, more: &[(&str, &str)]) -> Self {
        let mut command = Command::new(crate::api_program());
        command.env_clear().kill_on_drop(true);
        command
            .envs(variables(emulator))
            // The limits have tests of their own, as in `crate::config`.
            .env("API__LIMITS__IN_FLIGHT", "10000")
            .env("API__LIMITS__CALLER_PER_MINUTE", "1000000")
            .env("API__LIMITS__SCOPE_PER_MINUTE", "1000000")
            .envs(more.iter().copied());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = loop {
            let line = lines
                .next_line()
                .await
                .unwrap()
                .expect("the service did not start");
            let line: Value = serde_json::from_str(&line).unwrap();
            if let Some(address) = line["address"].as_str() {
                break address.to_owned();
            }
        };
        // Keeps reading, so that the service never blocks on a full pipe.
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

    /// The log lines with the severity `ERROR` so far.
    pub fn errors(&self) -> Arc<Mutex<Vec<Value>>> {
        Arc::clone(&self.errors)
    }

    /// Kills the process with SIGKILL.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Sends SIGTERM and returns the exit code.
    pub async fn terminate(mut self) -> Option<i32> {
        let pid = Pid::from_raw(self.child.id().unwrap().cast_signed()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        self.child.wait().await.unwrap().code()
    }
}
