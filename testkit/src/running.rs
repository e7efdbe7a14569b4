//! A running service program, with its log.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use emulator::Emulator;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{PATIENCE, variables};

/// Starts the program with a low soft limit of open files, as many shells and containers do.
const FEW_FILES: &str = "ulimit -Sn 256 && exec \"$0\"";

/// A running program. Dropping it kills it.
pub struct Program {
    pub url: String,
    /// The time from the start of the process to the log line that it listens.
    pub until_listening: Duration,
    child: Child,
    log: JoinHandle<Vec<String>>,
}

impl Program {
    /// Starts the program on a free port, with the emulator and these further variables.
    pub fn start(emulator: &Emulator, more: &[(&str, &str)]) -> Self {
        let begun = Instant::now();
        let mut child = Command::new("sh")
            .args(["-c", FEW_FILES])
            .arg(crate::api_program())
            .env_clear()
            .envs(variables(emulator))
            .envs(more.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (log, address) = read(&mut child);
        let address = address.recv_timeout(PATIENCE).unwrap();
        let until_listening = begun.elapsed();
        Self {
            url: format!("http://{address}"),
            until_listening,
            child,
            log,
        }
    }

    /// `host:port`.
    pub fn host(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGTERM, as Cloud Run does before it stops an instance.
    pub fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    /// Waits until the process ends, which it must within this time. Returns its status and the lines of both
    /// streams.
    pub async fn ended(mut self, within: Duration) -> (ExitStatus, Vec<String>) {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < within, "still running after {within:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let none = std::thread::spawn(Vec::new);
        let log = std::mem::replace(&mut self.log, none);
        (status, log.join().unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Collects the output of the program, and sends the address once the program logs it.
fn read(child: &mut Child) -> (JoinHandle<Vec<String>>, Receiver<String>) {
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let errors =
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).collect::<Vec<_>>());
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let (address_sender, address) = channel();
    let log = std::thread::spawn(move || {
        let mut lines = Vec::new();
        for bytes in stdout.split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8(bytes).expect("the log should be UTF-8");
            let json: Value = serde_json::from_str(&line).unwrap_or_default();
            if let ("listening", Some(address)) = (
                json["message"].as_str().unwrap_or_default(),
                json["address"].as_str(),
            ) {
                let _ = address_sender.send(address.to_owned());
            }
            lines.push(line);
        }
        lines.extend(errors.join().unwrap());
        lines
    });
    (log, address)
}
