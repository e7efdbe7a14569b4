//! The ways in which a start fails, and whether the lease of its key is kept then.

use std::time::Duration;

use crate::gcp::client;

/// Why a start was not answered with an execution.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Another request with the same key has not been answered yet.
    #[error("a start with the same key is still in flight")]
    InProgress,
    /// The key was used with a different request before.
    #[error("the key was used with a different request before")]
    KeyReused,
    /// The execution that the key started no longer exists.
    #[error("the execution that the key started has been deleted")]
    Deleted,
    /// An unfinished execution or another start of the scope prevents this one.
    #[error("the scope is busy: {0:?}")]
    ScopeBusy(Busy),
    /// A send may have taken effect, or may still do so. After `retry_after` a repetition may send again.
    #[error("{cause}")]
    Ambiguous {
        /// Until the send can no longer take effect.
        retry_after: Duration,
        /// What happened to the send.
        cause: String,
    },
    /// The send had no effect and cannot have one later.
    #[error("{0}")]
    NotStarted(client::Error),
    /// A read or a cancellation failed. Nothing had been sent.
    #[error("{0}")]
    Upstream(client::Error),
    /// The deadline passed before anything was sent.
    #[error("the deadline had passed")]
    OutOfTime,
    /// The idempotency store failed.
    #[error("{0}")]
    Store(String),
    /// The service has a bug.
    #[error("{0}")]
    Internal(String),
}

/// What prevents a start in a busy scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Busy {
    /// Another start of the scope holds the scope's lock.
    Starting,
    /// An earlier start of the scope has an ambiguous outcome.
    Uncertain,
    /// The execution at this path is unfinished.
    Running(String),
    /// The execution at this path was cancelled but has not ended yet.
    Ending(String),
}

impl Error {
    /// Whether a send may still take effect. If so, the lease is kept until it no longer can.
    pub fn may_take_effect(&self) -> bool {
        match self {
            Self::Ambiguous { .. } => true,
            Self::InProgress
            | Self::KeyReused
            | Self::Deleted
            | Self::ScopeBusy(_)
            | Self::NotStarted(_)
            | Self::Upstream(_)
            | Self::OutOfTime
            | Self::Store(_)
            | Self::Internal(_) => false,
        }
    }
}

impl From<client::Error> for Error {
    fn from(error: client::Error) -> Self {
        Self::Upstream(error)
    }
}
