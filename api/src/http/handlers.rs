//! The handlers, one file for each endpoint.

pub mod assets;
pub mod cancel;
pub mod document;
pub mod events;
pub mod executions;
pub mod health;
pub mod logs;
pub mod process;
pub mod result;
