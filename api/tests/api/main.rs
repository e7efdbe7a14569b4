//! The whole service over the wire: against the emulator, and with the real job.

mod auth;
mod bad_input;
mod browsers;
mod cancel;
mod check;
mod clients;
mod document;
mod events;
mod executions;
mod helpers;
mod independent_issuer;
mod issuer;
mod leaks;
mod lifecycle;
mod limits;
mod logs;
mod process;
mod program;
mod repository;
mod running;
mod secrets;
mod sockets;
mod starts;
mod token;
