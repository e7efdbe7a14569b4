//! Why an execution cannot be watched.

use crate::gcp::client;

/// Why an execution cannot be watched.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The scope has no such execution, or has it no longer.
    #[error("the scope has no such execution")]
    NotFound,
    /// Cloud Run could not be asked.
    #[error("{0}")]
    Upstream(client::Error),
}
