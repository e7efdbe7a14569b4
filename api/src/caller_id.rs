//! Whom limits count.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::LazyLock;

/// A caller's identity or address as a number, the same as long as the process lives. Nobody can choose theirs: the keys of the
/// hash are drawn by the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallerId(u64);

impl CallerId {
    /// The number of what tells the caller from others.
    pub fn of(caller: impl Hash) -> Self {
        static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        Self(KEYS.hash_one(caller))
    }
}
