//! Why an execution cannot be watched.

use crate::gcp::client;

/// Why an execution cannot be watched.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The scope has no such execution, or it was deleted.
    #[error("the scope has no such execution")]
    NotFound,
    /// The call to Cloud Run failed.
    #[error("{0}")]
    Upstream(client::Error),
}
