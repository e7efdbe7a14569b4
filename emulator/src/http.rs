//! The HTTP interface: the emulated APIs and the emulator's own endpoints.

pub(crate) mod control;
pub(crate) mod error;
pub(crate) mod extract;
pub(crate) mod faults;
pub(crate) mod grpc;
pub(crate) mod logging;
pub(crate) mod metadata;
pub(crate) mod paging;
pub(crate) mod policy;
pub(crate) mod project;
pub(crate) mod resource_json;
pub(crate) mod routes;
pub(crate) mod server;
pub(crate) mod v1;
pub(crate) mod v2;
pub(crate) mod wire;
