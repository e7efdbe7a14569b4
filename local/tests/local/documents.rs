//! Runs the commands in README.md and in docs/ from top to bottom, as a reader would paste them, and compares the
//! outputs that are shown there.
//!
//! The info string of a code block determines its role:
//!
//! | info string | role in this test |
//! | --- | --- |
//! | `sh` | run, in one shell for all blocks of a page; `cargo run` gets a terminal of its own, which replaces the one before |
//! | `sh python3`, `sh node` | the same, if the program is installed; in CI it must be |
//! | `json`, `http`, `text` | the output of the preceding `sh` block; `…` stands for anything, and white space is ignored |
//! | `text terminal` | the next lines in the terminal of `cargo run` |
//! | `toml` | a settings file, with which the service must start |
//! | `sh deploy` | not run, because it needs a project of Google Cloud |
//! | `sh test` | not run, because it runs this test |
//!
//! Each page begins with a new shell and no terminal. A block that only reads is repeated until its output is as
//! shown, because the documents show states that are reached after a short time.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::terminal::{PATIENCE, STARTING, Terminal, lines_of};

/// The line that the shell prints after each block, followed by the exit status.
const END: &str = "== end of block ==";

/// A document whose commands are run.
struct Page {
    /// Its path in the repository.
    name: String,
    blocks: Vec<Block>,
}

/// A fenced code block.
struct Block {
    line: usize,
    info: String,
    text: String,
}

#[test]
fn every_command_in_the_documents_prints_the_output_that_is_shown() {
    if !is_there("curl") {
        return;
    }
    let pages = pages();
    let failed: Vec<_> = thread::scope(|scope| {
        let running = pages.iter().map(|page| (page, scope.spawn(|| page.run())));
        let running: Vec<_> = running.collect();
        let failed = running
            .into_iter()
            .filter_map(|(page, run)| run.join().is_err().then_some(&page.name));
        failed.collect()
    });
    assert!(failed.is_empty(), "not as written: {failed:?}");
    let commands = pages.iter().flat_map(|page| &page.blocks);
    let commands = commands.filter(|block| block.info == "sh").count();
    assert!(commands >= 8, "only {commands} blocks were found");
}

/// README.md and every page of docs/.
fn pages() -> Vec<Page> {
    let docs = std::fs::read_dir(workspace().join("docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().path());
    let docs = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let paths = std::iter::once(workspace().join("README.md")).chain(docs);
    paths.map(Page::read).collect()
}

impl Page {
    fn read(path: PathBuf) -> Self {
        let name = path
            .strip_prefix(workspace())
            .unwrap()
            .display()
            .to_string();
        let blocks = blocks(&name, &std::fs::read_to_string(path).unwrap());
        Self { name, blocks }
    }

    fn run(&self) {
        let mut reader = Reader::new(&self.name);
        for (at, block) in self.blocks.iter().enumerate() {
            let next = self.blocks.get(at + 1);
            let shown = next.filter(|next| is_output(&next.info));
            match block.info.as_str() {
                "sh" => match cargo_run(&block.text) {
                    Some(command) => reader.open_terminal(command),
                    None => reader.paste(block, shown),
                },
                "sh python3" | "sh node" if is_there(&block.info["sh ".len()..]) => {
                    reader.paste(block, shown);
                }
                "text terminal" => reader.look_at_terminal(block),
                "toml" => self.starts_with(block),
                _ => {}
            }
        }
        reader.press_ctrl_c();
    }

    /// Checks that the service becomes ready with a settings file.
    fn starts_with(&self, settings: &Block) {
        let name = self.name.replace('/', "-");
        let file = format!("{}/{name}.toml", env!("CARGO_TARGET_TMPDIR"));
        std::fs::write(&file, &settings.text).unwrap();
        Terminal::local(&[("API_CONFIG", &file)]);
    }
}

/// The command `cargo run` with its variables and arguments, if the block is one.
fn cargo_run(code: &str) -> Option<Command> {
    let words = shlex::split(code)?;
    let assignments = words.iter().map_while(|word| word.split_once('='));
    let variables: Vec<_> = assignments.collect();
    let arguments =
        words[variables.len()..].strip_prefix(&["cargo".to_owned(), "run".to_owned()])?;
    if arguments.first().is_some_and(|first| first != "--") {
        return None; // another program of the workspace
    }
    let mut command = Command::new("cargo");
    command
        .arg("run")
        .args(arguments)
        .envs(variables)
        .current_dir(workspace());
    // Cargo sets these variables for tests. A user's terminal does not have them, and they make build scripts run
    // again.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    Some(command)
}

/// A reader with two terminals: one for `cargo run`, and one into which the rest of a page is pasted.
struct Reader<'a> {
    page: &'a str,
    terminal: Option<(Terminal, u16)>,
    shell: Shell,
}

impl<'a> Reader<'a> {
    fn new(page: &'a str) -> Self {
        Self {
            page,
            terminal: None,
            shell: Shell::new(),
        }
    }

    fn open_terminal(&mut self, mut command: Command) {
        self.press_ctrl_c();
        let mut terminal = Terminal::run(&mut command);
        let port = terminal.ready();
        self.terminal = Some((terminal, port));
    }

    fn paste(&mut self, block: &Block, shown: Option<&Block>) {
        let mut code = block.text.clone();
        if let Some((terminal, port)) = &self.terminal {
            code = code.replace(":8080", &format!(":{port}"));
            code = code.replace(":8787", &format!(":{}", terminal.emulator_port()));
        }
        let only_reads = !code.contains("-X POST");
        let begun = Instant::now();
        loop {
            let (status, output) = self.shell.run(&code);
            assert_eq!(
                status, "0",
                "{}:{}: {code}\n{output}",
                self.page, block.line
            );
            let Some(expected) = shown else { return };
            if shows(&output, &expected.text) {
                return;
            }
            assert!(
                only_reads && begun.elapsed() < PATIENCE,
                "{}:{} shows\n{}but the output is\n{output}",
                self.page,
                expected.line,
                expected.text
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn look_at_terminal(&mut self, block: &Block) {
        let terminal = self.terminal.as_mut();
        let (terminal, _) = terminal.unwrap_or_else(|| panic!("{} has no terminal", self.page));
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

/// One shell for all blocks of a page, so that a later one can use an earlier one's variables.
struct Shell {
    process: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Shell {
    fn new() -> Self {
        // curl draws a progress bar if its output is not a terminal.
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
        let lines = lines_of(process.stdout.take().unwrap());
        Self {
            process,
            input,
            lines,
        }
    }

    /// Runs the block. Returns the exit status of its last command and the output.
    fn run(&mut self, code: &str) -> (String, String) {
        writeln!(self.input, "{code}\nprintf '\\n%s%s\\n' '{END}' $?").unwrap();
        let patience = if code.contains("cargo ") {
            STARTING
        } else {
            PATIENCE * 2
        };
        let mut output = String::new();
        loop {
            let line = self.lines.recv_timeout(patience);
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

/// Whether the output contains the parts of `expected` between `…` in this order. White space is ignored, because the
/// documents break long lines.
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

/// The fenced code blocks. A block of commands that would not be run is refused.
fn blocks(page: &str, markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = (1..).zip(markdown.lines());
    while let Some((line, text)) = lines.next() {
        let Some(info) = text.strip_prefix("```") else {
            continue;
        };
        let unknown = match info {
            "sh" | "sh python3" | "sh node" | "sh deploy" | "sh test" => false,
            "" | "bash" | "console" => true,
            info => info.starts_with("sh"),
        };
        assert!(
            !unknown,
            "{page}:{line}: mark the block as `sh` or its like"
        );
        let body = lines
            .by_ref()
            .take_while(|(_, text)| !text.starts_with("```"));
        let text = body.map(|(_, text)| format!("{text}\n")).collect();
        let info = info.to_owned();
        blocks.push(Block { line, info, text });
    }
    blocks
}

fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap()
}

/// Whether a program that commands need is installed. In CI all must be.
fn is_there(program: &str) -> bool {
    let version = Command::new(program).arg("--version").output();
    let found = version.is_ok_and(|output| output.status.success());
    if !found {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{program}");
        eprintln!("skipped: commands of the documents need {program}");
    }
    found
}

#[test]
fn an_output_matches_regardless_of_white_space_and_with_gaps() {
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
