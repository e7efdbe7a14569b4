//! Random names and ids, and the reproducible choice of faults.

use std::hash::{BuildHasher, Hasher, RandomState};

/// 64 random bits. The hash keys of std come from the operating system's randomness, which is enough for names and
/// for tokens that guard a loopback port, and needs no further dependency.
pub(crate) fn bits() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A random (version 4) UUID.
pub(crate) fn uuid() -> String {
    let (high, low) = (bits(), bits());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        0x8000 | (low >> 50),
        low & 0xffff_ffff_ffff,
    )
}

/// The five characters that Cloud Run puts after a job's name.
pub(crate) fn suffix() -> String {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut bits = bits();
    let mut next = || {
        let character = ALPHABET[(bits % 36) as usize];
        bits /= 36;
        char::from(character)
    };
    (0..5).map(|_| next()).collect()
}

/// The `n`th number in [0, 1) of the pseudorandom series with this seed (SplitMix64).
pub(crate) fn nth(seed: u64, n: u64) -> f64 {
    let mut z = seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 11) as f64 / (1u64 << 53) as f64
}
