//! A program in a terminal: its output, and Ctrl-C.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// The time limit of every wait, which is far longer than needed.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// The time limit for starting a program that Cargo may have to build first.
pub const STARTING: Duration = Duration::from_secs(300);

/// A program in a process group of its own, as a shell makes one. Dropping it kills the group.
pub struct Terminal {
    program: Child,
    lines: Receiver<String>,
    /// Everything printed so far.
    pub shown: Vec<String>,
}

impl Terminal {
    /// Runs the command on ports that are free.
    pub fn run(command: &mut Command) -> Self {
        command
            .env("PORT", "0")
            .env("EMULATOR_PORT", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0);
        let mut program = command.spawn().unwrap();
        let lines = lines_of(program.stdout.take().unwrap());
        Self {
            program,
            lines,
            shown: Vec::new(),
        }
    }

    /// Runs the program of this package, and waits until it is ready.
    pub fn local(variables: &[(&str, &str)]) -> (Self, u16) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_local"));
        let mut terminal = Self::run(command.envs(variables.iter().copied()));
        let port = terminal.ready();
        (terminal, port)
    }

    /// The API's port, from the curl line that is printed once everything is ready.
    pub fn ready(&mut self) -> u16 {
        let is_curl = |line: &str| line.trim_start().starts_with("curl ");
        let line = self.until(STARTING, is_curl);
        let (_, after) = line.split_once("localhost:").unwrap();
        let port = after.split('/').next().unwrap().parse().unwrap();
        self.until(PATIENCE, |line| line.contains("Ctrl-C"));
        port
    }

    /// The emulator's port, from the line about it.
    pub fn emulator_port(&self) -> u16 {
        let port = |line: &String| {
            let (_, after) = line.split_once("emulated at http://127.0.0.1:")?;
            after.split(':').next()?.parse().ok()
        };
        self.shown.iter().find_map(port).unwrap()
    }

    /// Waits for the next line for which `wanted` holds.
    pub fn until(&mut self, patience: Duration, wanted: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        loop {
            match self
                .lines
                .recv_timeout(patience.saturating_sub(begun.elapsed()))
            {
                Ok(line) => {
                    self.shown.push(line.clone());
                    if wanted(&line) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("not in time: {:#?}", self.shown),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("the program has ended: {:#?}", self.shown)
                }
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.program.id()
    }

    /// Sends the signal to the whole group, as a terminal does on Ctrl-C, and waits for the program's end.
    pub fn end_by(mut self, signal: Signal) -> ExitStatus {
        kill_process_group(self.group(), signal).unwrap();
        let begun = Instant::now();
        loop {
            if let Some(status) = self.program.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "{signal:?} does not end it");
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn group(&self) -> Pid {
        Pid::from_child(&self.program)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Ok(None) = self.program.try_wait() {
            let _ = kill_process_group(self.group(), Signal::KILL);
            let _ = self.program.wait();
        }
    }
}

/// The lines that a process prints, read as they come so that the process never waits for a full pipe.
pub fn lines_of(output: ChildStdout) -> Receiver<String> {
    let (printed, lines) = channel();
    thread::spawn(move || {
        BufReader::new(output)
            .lines()
            .map_while(Result::ok)
            .try_for_each(|line| printed.send(line))
    });
    lines
}
