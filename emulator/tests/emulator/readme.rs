//! Runs the programs in the README as they are written.

use std::path::Path;
use std::process::Command;

use emulator::{Emulator, Job, Settings};

const README: &str = include_str!("../../README.md");

/// Each block of Python, with the block of text after it, which is its expected output.
fn programs() -> Vec<(&'static str, &'static str)> {
    let blocks = README.split("\n```python\n").skip(1);
    let program = |block: &'static str| {
        let (program, rest) = block.split_once("```\n").unwrap();
        let (_, printed) = rest.split_once("```text\n").unwrap();
        (program, printed.split_once("```").unwrap().0)
    };
    blocks.map(program).collect()
}

#[tokio::test]
async fn the_programs_of_the_readme_print_the_output_that_it_shows() {
    let programs = programs();
    assert_eq!(programs.len(), 2);
    for (program, printed) in programs {
        let imports = program
            .lines()
            .filter(|line| line.starts_with("import ") || line.starts_with("from "));
        let imports = imports.collect::<Vec<_>>().join("\n");
        let found = Command::new("python3").args(["-c", &imports]).output();
        if !found.is_ok_and(|found| found.status.success()) {
            let required = std::env::var("CI").is_ok_and(|ci| ci == "true");
            assert!(!required, "python3 lacks what is needed here: {imports}");
            eprintln!("skipped: python3 or a library of it is not here: {imports}");
            continue;
        }
        let emulator = Emulator::start(Settings {
            jobs: vec![Job::new("hello", ["echo", "hello"])],
            ..Settings::default()
        })
        .await
        .unwrap();
        let directory = Path::new(env!("CARGO_BIN_EXE_emulator")).parent().unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let output = tokio::process::Command::new("python3")
            .args(["-c", program])
            .env("PATH", format!("{}:{path}", directory.display()))
            .env("GCE_METADATA_HOST", emulator.host())
            .env("GCE_METADATA_IP", emulator.host())
            .env("RUN_EMULATOR_HOST", emulator.host())
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said, printed, "{program}\n{error}");
    }
}
