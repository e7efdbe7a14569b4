//! Google's APIs: the metadata server, Cloud Run, Cloud Logging, and one way to call them all. Google's JSON stays in here.

pub mod access_token;
pub mod client;
pub mod cloud_logging;
pub mod cloud_run;
pub mod http_client;
pub mod log_budget;
pub mod metadata;
pub mod page_memory;
pub(crate) mod upstream_timing;
