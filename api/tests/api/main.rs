//! The whole service over the wire: against the emulator, and with the real job.

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
mod helpers;
mod independent_issuer;
mod issuer;
mod leaks;
mod lifecycle;
mod limits;
mod logs;
mod named_processes;
mod observability;
mod process;
#[allow(dead_code)] // shared with the proofs, which use all of it
mod processes;
mod program;
mod repository;
#[allow(dead_code)] // shared with those about endurance
mod running;
mod secrets;
mod sockets;
mod starts;
#[allow(dead_code)] // shared with the proofs
mod store;
mod tls;
mod token;
