//! The whole service over the wire: against the emulator, and with the real job.

mod auth;
mod bad_input;
mod cancel;
mod check;
mod clients;
mod document;
mod executions;
mod helpers;
mod independent_issuer;
mod issuer;
mod logs;
mod process;
mod program;
mod repository;
mod secrets;
mod starts;
mod token;
