//! Programs of the tests that are JavaScript, installed by `npm ci --prefix api/tests/page/frameworks`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder with the programs. None if they are not installed, which is a failure if `CI` is set.
pub fn folder() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page/frameworks");
    if folder.join("node_modules").is_dir() {
        return Some(folder);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "CI needs npm ci --prefix api/tests/page/frameworks"
    );
    eprintln!("skipped: run npm ci --prefix api/tests/page/frameworks");
    None
}

/// Runs a program in that folder. It must succeed.
pub fn run(folder: &Path, program: &str, arguments: &[&str]) {
    let mut command = Command::new(program);
    let output = command.current_dir(folder).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
