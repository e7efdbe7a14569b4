//! The emulator over the wire.

mod compose;
mod executions;
mod faults;
mod google_auth;
mod grpc;
mod helpers;
mod house;
mod jobs;
mod logs;
mod metadata;
mod program;
mod readme;
mod routes;
mod tasks;
mod v2;
