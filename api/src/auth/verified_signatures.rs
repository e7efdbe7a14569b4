//! Remembers signatures that were valid. The same key, message and signature verify again, so the next request with a token costs
//! a digest instead of the arithmetic of RSA. Only the signature is remembered: expiry, audience and grants are checked on
//! every request, and a key that its issuer withdraws is no longer asked about.

use std::collections::BTreeSet;
use std::mem;

use parking_lot::Mutex;
use ring::digest::{Context, SHA256};

/// Signatures in one generation. Two generations are kept, of 32 bytes for each signature: less than 1 MiB in all.
const MAX_SIGNATURES: usize = 4096;

/// The SHA-256 of a key, a message and a signature.
type Digest = [u8; 32];

/// Valid signatures in two generations. When the young generation is full, it replaces the old one, and so the signatures
/// that were not seen for long are forgotten.
pub struct VerifiedSignatures(Mutex<Generations>);

struct Generations {
    young: BTreeSet<Digest>,
    old: BTreeSet<Digest>,
}

impl VerifiedSignatures {
    /// Remembers none.
    pub const fn new() -> Self {
        Self(Mutex::new(Generations {
            young: BTreeSet::new(),
            old: BTreeSet::new(),
        }))
    }

    /// The result of `verify`, which is called only if these parts were not verified before. `parts` are all that the result
    /// depends on. An error is not remembered.
    pub fn verify<E>(
        &self,
        parts: &[&[u8]],
        verify: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let digest = digest(parts);
        if self.0.lock().contains(&digest) {
            return Ok(());
        }
        verify()?;
        self.0.lock().insert(digest);
        Ok(())
    }
}

impl Generations {
    /// Whether the signature is known. One of the old generation becomes young again.
    fn contains(&mut self, digest: &Digest) -> bool {
        if self.young.contains(digest) {
            return true;
        }
        let is_known = self.old.remove(digest);
        if is_known {
            self.insert(*digest);
        }
        is_known
    }

    fn insert(&mut self, digest: Digest) {
        if self.young.len() >= MAX_SIGNATURES {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(digest);
    }
}

/// Each part has its length before it, so that no other parts have the same digest.
fn digest(parts: &[&[u8]]) -> Digest {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&part.len().to_le_bytes());
        context.update(part);
    }
    let mut digest = Digest::default();
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> Result<(), &'static str> {
        Ok(())
    }

    fn refused() -> Result<(), &'static str> {
        Err("refused")
    }

    #[test]
    fn a_valid_signature_is_verified_once_and_only_with_the_same_parts() {
        let signatures = VerifiedSignatures::new();
        let parts: [&[u8]; 3] = [b"key", b"message", b"signature"];
        assert_eq!(signatures.verify(&parts, refused), Err("refused"));
        assert_eq!(signatures.verify(&parts, valid), Ok(()));
        assert_eq!(signatures.verify(&parts, refused), Ok(()));
        let others: [[&[u8]; 3]; 4] = [
            [b"other key", b"message", b"signature"],
            [b"key", b"other message", b"signature"],
            [b"key", b"message", b"other signature"],
            [b"keym", b"essage", b"signature"],
        ];
        for parts in others {
            assert_eq!(signatures.verify(&parts, refused), Err("refused"));
        }
    }

    #[test]
    fn the_number_of_signatures_is_bounded_and_those_in_use_are_kept() {
        let signatures = VerifiedSignatures::new();
        let in_use: [&[u8]; 1] = [b"in use"];
        signatures.verify(&in_use, valid).unwrap();
        for number in 0..5 * MAX_SIGNATURES {
            signatures.verify(&[&number.to_le_bytes()], valid).unwrap();
            signatures.verify(&in_use, refused).unwrap();
        }
        let generations = signatures.0.lock();
        let count = generations.young.len() + generations.old.len();
        assert!(count <= 2 * MAX_SIGNATURES, "{count}");
    }
}
