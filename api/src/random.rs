//! Non-cryptographic random numbers, for ids and jitter. They take no system call each, and must not be used for secrets.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The next number: the standard library's keyed hash of a counter. Its keys are random, once for each process.
pub fn number() -> u64 {
    static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static COUNT: AtomicU64 = AtomicU64::new(0);
    KEYS.hash_one(COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A number from 0 to 1, uniformly distributed.
pub fn fraction() -> f64 {
    number() as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn numbers_differ_and_are_spread() {
        let numbers: HashSet<u64> = (0..10_000).map(|_| number()).collect();
        assert_eq!(numbers.len(), 10_000);
        let small = (0..10_000).filter(|_| fraction() < 0.1).count();
        assert!((800..1_200).contains(&small), "{small}");
    }
}
