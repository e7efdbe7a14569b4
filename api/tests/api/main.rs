//! The whole service over the wire: against the emulator, and with the real job.

mod bad_input;
mod browsers;
mod cancel;
mod executions;
mod helpers;
mod leaks;
mod lifecycle;
mod limits;
mod logs;
mod process;
mod program;
mod running;
mod sockets;
mod starts;
mod token;
