//! Builds the sample job of this workspace.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

/// The path of the job once it has been built. One build per process is enough.
static BUILT: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Builds the package `job` in the profile of this program and returns the path of its executable. Blocks until the
/// build ends. It runs `$CARGO`, or `cargo` on the PATH if that is not set.
///
/// # Errors
/// Cargo cannot be started, or the job does not compile. Cargo writes its own messages to standard error.
pub fn job_binary() -> io::Result<PathBuf> {
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = built.as_ref().filter(|path| path.exists()) {
        return Ok(path.clone());
    }
    let path = build()?;
    *built = Some(path.clone());
    Ok(path)
}

fn build() -> io::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(&cargo);
    command.args([
        "build",
        "--quiet",
        "--package",
        "job",
        "--message-format=json-render-diagnostics",
    ]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    command
        .current_dir(workspace())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = command.output().map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot start {}: {error}", Path::new(&cargo).display()),
        )
    })?;
    if !output.status.success() {
        return Err(io::Error::other("the package `job` does not build"));
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    messages
        .lines()
        .find_map(executable)
        .ok_or_else(|| io::Error::other("Cargo named no executable of the package `job`"))
}

/// The folder of this workspace when this program was compiled.
fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// The executable of the job, if this JSON message of Cargo names it.
fn executable(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let of_job = message["target"]["name"] == "job" && message["reason"] == "compiler-artifact";
    of_job.then(|| message["executable"].as_str().map(PathBuf::from))?
}
