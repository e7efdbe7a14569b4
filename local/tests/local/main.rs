//! `cargo run` as a user meets it, and the README's own commands.

#[cfg(target_os = "linux")]
mod processes;
mod program;
mod readme;
mod terminal;
