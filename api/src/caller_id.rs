//! Identifies callers for the limits.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::LazyLock;

/// A hash of a caller's identity or address, which is stable for the lifetime of the process. Its key is random, so that callers
/// cannot choose their hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallerId(u64);

impl CallerId {
    /// The hash of a caller's identity or address.
    pub fn of(caller: impl Hash) -> Self {
        static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        Self(KEYS.hash_one(caller))
    }
}
