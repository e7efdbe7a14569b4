//! The HTTP interface: socket, URLs, authorization, and the texts of all problems. Only `lib` imports this module.

pub(crate) mod authorize;
pub(crate) mod browsers;
pub(crate) mod extract;
pub(crate) mod handlers;
pub(crate) mod held_body;
pub(crate) mod json;
pub(crate) mod limits;
mod minimum_rate;
pub(crate) mod openapi;
mod operations;
pub mod page_token;
mod paths;
mod prefix;
pub mod problem;
pub(crate) mod request_log;
pub(crate) mod router;
pub mod server;
mod start_key;
