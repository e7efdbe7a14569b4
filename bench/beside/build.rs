//! Builds the service and the sample job as in their images: without the features of test libraries, and static if
//! possible.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// As in the Dockerfiles.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const FLAGS: (&str, &str) = (
    "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
    "-C target-feature=+crt-static",
);

/// The environment that the service's image gives it.
pub fn environment() -> impl Iterator<Item = (&'static str, String)> {
    let stages = include_str!("../../Dockerfile.api").split("\nFROM ");
    let lines = stages.last().unwrap_or_default().lines();
    let variables = lines.filter_map(|line| line.strip_prefix("ENV ")?.split_once('='));
    variables.map(|(name, value)| (name, value.to_owned()))
}

/// The paths of the programs.
pub struct Programs {
    pub api: PathBuf,
    pub job: PathBuf,
}

/// Builds the programs, which takes a minute or two the first time.
pub fn programs() -> anyhow::Result<Programs> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the package is not in a workspace")?;
    let folder = target_folder()?.join("as-deployed");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(workspace).args([
        "build",
        "--release",
        "--locked",
        "--package=api",
        "--package=job",
    ]);
    cargo.arg("--target-dir").arg(&folder);
    let is_static = cfg!(all(
        target_arch = "x86_64",
        target_os = "linux",
        target_env = "gnu"
    ));
    if is_static {
        cargo.args(["--target", TARGET]).env(FLAGS.0, FLAGS.1);
    }
    println!("building the programs as they are deployed");
    ensure!(cargo.status()?.success(), "the programs cannot be built");
    let programs = if is_static {
        folder.join(TARGET)
    } else {
        folder
    };
    let program = |name| programs.join("release").join(name);
    Ok(Programs {
        api: program("api"),
        job: program("job"),
    })
}

/// Cargo's target folder, from the path of this program: `target/release/deps/beside-…`.
fn target_folder() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folder = program
        .ancestors()
        .nth(3)
        .context("this program is not in Cargo's target folder")?;
    Ok(folder.to_owned())
}
