//! Tests of the whole service over HTTP, against the emulator and with the real job.

mod auth;
mod bad_input;
mod browsers;
mod cancel;
mod check;
mod clients;
mod document;
mod events;
mod example_clients;
mod example_jobs;
mod executions;
mod firestore;
mod google_keys;
mod independent_issuer;
mod leaks;
mod lifecycle;
mod limits;
mod logs;
mod named_processes;
mod observability;
mod process;
mod program;
mod reports;
mod repository;
mod scope_tokens;
mod secrets;
mod sockets;
mod starts;
mod tls;
mod token;

use testkit as helpers;
use testkit::{issuer, processes, running, store};
