//! Tests of `cargo run` as users run it, and of the commands in the documents.

mod documents;
#[cfg(target_os = "linux")]
mod processes;
mod program;
mod real;
mod smoke;
mod terminal;
