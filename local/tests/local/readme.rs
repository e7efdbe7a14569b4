//! The README's own commands, run from top to bottom as a reader would paste them, and the outputs it shows.
//!
//! What a code block is, its info string says:
//!
//! | info string | what happens here |
//! | --- | --- |
//! | `sh` | run, in one shell for all blocks; `cargo run` gets a terminal of its own, which replaces the one before |
//! | `json`, `http`, `text` | the output of the `sh` block before it, `…` for anything, white space aside |
//! | `text terminal` | lines that the terminal of `cargo run` shows next |
//! | `toml` | a settings file: the service starts with it |
//! | `sh deploy` | not run: it needs a project of Google Cloud |
//! | `sh test` | not run: it is what runs this very test |
//!
//! A block that only reads is run again until its output is as shown: "soon" is part of what the README says.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::terminal::{PATIENCE, Terminal};

const README: &str = include_str!("../../../README.md");
/// What the shell prints after each block, followed by the exit status.
const END: &str = "== end of block ==";

struct Block {
    line: usize,
    info: &'static str,
    text: String,
}

#[test]
fn every_command_of_the_readme_works_as_written() {
    if !has_curl() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "curl is needed");
        eprintln!("skipped: there is no curl to run the README's commands with");
        return;
    }
    let mut reader = Reader::new();
    let blocks = blocks(README);
    for (at, block) in blocks.iter().enumerate() {
        let shown = blocks.get(at + 1).filter(|next| is_output(next.info));
        match block.info {
            "sh" if block.text.trim_end().ends_with("cargo run") => reader.cargo_run(block),
            "sh" => reader.paste(block, shown),
            "text terminal" => reader.look_at_terminal(block),
            "toml" => starts_with(block),
            _ => {}
        }
    }
    reader.press_ctrl_c();
    let commands = blocks.iter().filter(|block| block.info == "sh").count();
    assert!(commands >= 8, "only {commands} blocks were found");
}

/// A settings file that cannot work keeps the service from being ready.
fn starts_with(settings: &Block) {
    let file = concat!(env!("CARGO_TARGET_TMPDIR"), "/readme.toml");
    std::fs::write(file, &settings.text).unwrap();
    Terminal::local(&[("API_CONFIG", file)]);
}

/// Somebody with two terminals: one for `cargo run`, one to paste the rest into.
struct Reader {
    terminal: Option<(Terminal, u16)>,
    shell: Shell,
}

impl Reader {
    fn new() -> Self {
        Self {
            terminal: None,
            shell: Shell::new(),
        }
    }

    fn cargo_run(&mut self, block: &Block) {
        self.press_ctrl_c();
        let mut words = block.text.split_whitespace();
        let variables: Vec<_> = words
            .by_ref()
            .map_while(|word| word.split_once('='))
            .collect();
        let mut command = Command::new("cargo");
        command.arg("run").envs(variables).current_dir(workspace());
        // What Cargo tells a test about its package is in no user's terminal, and makes build scripts run again.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                command.env_remove(name);
            }
        }
        let mut terminal = Terminal::run(&mut command);
        let port = terminal.ready();
        self.terminal = Some((terminal, port));
    }

    fn paste(&mut self, block: &Block, shown: Option<&Block>) {
        let (terminal, port) = self.terminal.as_ref().unwrap();
        let code = block.text.replace(":8080", &format!(":{port}"));
        let code = code.replace(":8787", &format!(":{}", terminal.emulator_port()));
        let only_reads = !code.contains("-X POST");
        let begun = Instant::now();
        loop {
            let (status, output) = self.shell.run(&code);
            assert_eq!(
                status, "0",
                "the block in line {}: {code}\n{output}",
                block.line
            );
            let Some(expected) = shown else { return };
            if shows(&output, &expected.text) {
                return;
            }
            assert!(
                only_reads && begun.elapsed() < PATIENCE,
                "line {} shows\n{}but the output is\n{output}",
                expected.line,
                expected.text
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn look_at_terminal(&mut self, block: &Block) {
        let (terminal, _) = self.terminal.as_mut().unwrap();
        for expected in block.text.lines() {
            terminal.until(PATIENCE, |line| shows(line, expected));
        }
    }

    fn press_ctrl_c(&mut self) {
        if let Some((terminal, _)) = self.terminal.take() {
            assert!(terminal.end_by(Signal::INT).success());
        }
    }
}

/// One shell for all blocks, so that a later one can use an earlier one's variables.
struct Shell {
    process: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Shell {
    fn new() -> Self {
        // Where its output is no terminal, curl would draw a progress bar.
        let home = env!("CARGO_TARGET_TMPDIR");
        std::fs::write(format!("{home}/.curlrc"), "silent\nshow-error\n").unwrap();
        let mut process = Command::new("sh")
            .env("CURL_HOME", home)
            .current_dir(workspace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (printed, lines) = channel();
        thread::spawn(move || {
            output
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| printed.send(line))
        });
        Self {
            process,
            input,
            lines,
        }
    }

    /// The exit status of the block's last command, and what it printed.
    fn run(&mut self, code: &str) -> (String, String) {
        writeln!(self.input, "{code}\nprintf '\\n%s%s\\n' '{END}' $?").unwrap();
        let mut output = String::new();
        loop {
            let line = self.lines.recv_timeout(PATIENCE * 2);
            let line = line.unwrap_or_else(|error| panic!("{error}: {code}\n{output}"));
            if let Some(status) = line.strip_prefix(END) {
                return (status.to_owned(), output);
            }
            output.push_str(&line);
            output.push('\n');
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether the parts of `expected` between `…` are in the output, in this order. White space does not count: the README
/// breaks long lines.
fn shows(output: &str, expected: &str) -> bool {
    let dense = |text: &str| text.split_whitespace().collect::<String>();
    let output = dense(output);
    let mut rest = &output[..];
    dense(expected).split('…').all(|part| {
        let found = rest.find(part);
        rest = found.map_or("", |at| &rest[at + part.len()..]);
        found.is_some()
    })
}

fn is_output(info: &str) -> bool {
    matches!(info, "json" | "http" | "text")
}

/// The fenced code blocks. One that looks like commands and would not be run is a mistake.
fn blocks(markdown: &'static str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = (1..).zip(markdown.lines());
    while let Some((line, text)) = lines.next() {
        let Some(info) = text.strip_prefix("```") else {
            continue;
        };
        let unknown = match info {
            "sh" | "sh deploy" | "sh test" => false,
            "" | "bash" | "console" => true,
            info => info.starts_with("sh"),
        };
        assert!(!unknown, "line {line}: mark the block as `sh` or its like");
        let body = lines
            .by_ref()
            .take_while(|(_, text)| !text.starts_with("```"));
        let text = body.map(|(_, text)| format!("{text}\n")).collect();
        blocks.push(Block { line, info, text });
    }
    blocks
}

fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap()
}

fn has_curl() -> bool {
    let version = Command::new("curl").arg("--version").output();
    version.is_ok_and(|output| output.status.success())
}

#[test]
fn an_output_is_compared_without_white_space_and_with_gaps() {
    let output = "HTTP/1.1 202 Accepted\r\nx: 1\r\n\r\n{\"a\":1,\"b\":[2]}";
    for expected in [
        "HTTP/1.1 202 Accepted",
        "202…{ \"a\": 1,\n …[2] }",
        "…x: 1…",
    ] {
        assert!(shows(output, expected), "{expected}");
    }
    for expected in ["203", "\"b\"…\"a\"", "202…202"] {
        assert!(!shows(output, expected), "{expected}");
    }
}
