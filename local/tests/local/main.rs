//! `cargo run` as a user meets it, and the commands of the documents.

mod documents;
#[cfg(target_os = "linux")]
mod processes;
mod program;
mod real;
mod smoke;
mod terminal;
