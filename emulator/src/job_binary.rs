//! The sibling sample job, built.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

/// Where the job lies once it was built; one build per process is enough.
static BUILT: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Builds the package `job` of this workspace, in the profile that this program was built in, and says where its
/// program is. Blocks until then. Cargo is `$CARGO`, else `cargo` on the PATH.
///
/// # Errors
/// Cargo cannot be started, or the job does not compile; Cargo's own messages are on our standard error.
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

/// This workspace as it was when this program was compiled.
fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// The program that one of Cargo's JSON messages says is the job's.
fn executable(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let of_job = message["target"]["name"] == "job" && message["reason"] == "compiler-artifact";
    of_job.then(|| message["executable"].as_str().map(PathBuf::from))?
}
