//! The whole service over the wire: against the emulator, and with the real job.

mod auth;
mod bad_input;
mod cancel;
mod executions;
mod helpers;
mod independent_issuer;
mod issuer;
mod logs;
mod process;
mod program;
mod secrets;
mod starts;
mod token;
