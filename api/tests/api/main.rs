//! The whole service over the wire: against the emulator, and with the real job.

mod auth;
mod bad_input;
mod cancel;
mod check;
mod clients;
mod document;
mod executions;
mod firestore;
mod helpers;
mod independent_issuer;
mod issuer;
mod logs;
mod process;
#[allow(dead_code)] // shared with the proofs, which use all of it
mod processes;
mod program;
mod repository;
mod secrets;
mod starts;
#[allow(dead_code)] // shared with the proofs
mod store;
mod token;
