//! Tokens verified a moment ago, so that a client's next request costs a digest instead of a signature.

use std::collections::HashMap;
use std::mem;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ring::digest::{SHA256, digest};

use super::Caller;

/// How long a token is taken for verified at most. A key that its issuer withdraws is honoured that much longer.
const MAX_AGE: Duration = Duration::from_secs(5 * 60);
/// Tokens in one generation; two are kept. A caller takes about 1 KiB.
const MAX_TOKENS: usize = 4096;

/// Callers by their tokens' SHA-256, in two generations: when the young one is full, the old one is dropped whole, and
/// with it whoever has not called for long. No token is kept.
pub struct Verified {
    generations: Mutex<[Generation; 2]>,
    max_tokens: usize,
}

type Generation = HashMap<Digest, Entry>;

struct Entry {
    caller: Caller,
    until: Instant,
}

/// A token's SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of a token as it came.
    pub fn of(token: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(bytes)
    }
}

impl Default for Verified {
    fn default() -> Self {
        Self {
            generations: Mutex::default(),
            max_tokens: MAX_TOKENS,
        }
    }
}

impl Verified {
    /// Who brings the token, if that was found out before and still holds.
    pub fn get(&self, token: &Digest) -> Option<Caller> {
        let mut generations = self
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let [young, old] = &mut *generations;
        if let Some(entry) = young.get(token) {
            return (Instant::now() < entry.until).then(|| entry.caller.clone());
        }
        let entry = old
            .remove(token)
            .filter(|entry| Instant::now() < entry.until)?;
        let caller = entry.caller.clone();
        self.put(&mut generations, *token, entry);
        Some(caller)
    }

    /// Remembers who brings the token, which ends after `lifetime`.
    pub fn insert(&self, token: Digest, caller: Caller, lifetime: Duration) {
        let until = Instant::now() + lifetime.min(MAX_AGE);
        let mut generations = self
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.put(&mut generations, token, Entry { caller, until });
    }

    fn put(&self, [young, old]: &mut [Generation; 2], token: Digest, entry: Entry) {
        if young.len() >= self.max_tokens {
            *old = mem::take(young);
        }
        young.insert(token, entry);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::auth::Permissions;

    fn caller(number: usize) -> Caller {
        Caller {
            identity: number.to_string(),
            permissions: Arc::new(Permissions::everything()),
            expires_at: None,
        }
    }

    fn found(verified: &Verified, number: usize) -> bool {
        let caller = verified.get(&Digest::of(&number.to_string()));
        caller.is_some_and(|caller| caller.identity == number.to_string())
    }

    #[test]
    fn whoever_keeps_calling_is_kept_and_the_number_is_bounded() {
        let verified = Verified {
            max_tokens: 10,
            ..Verified::default()
        };
        for number in 0..1000 {
            verified.insert(Digest::of(&number.to_string()), caller(number), MAX_AGE);
            assert!(found(&verified, 0) && found(&verified, number));
        }
        let kept: usize = verified
            .generations
            .lock()
            .unwrap()
            .iter()
            .map(HashMap::len)
            .sum();
        assert!(kept <= 20 && !found(&verified, 500), "{kept}");
    }

    #[test]
    fn a_token_that_ended_is_not_found() {
        let verified = Verified::default();
        verified.insert(Digest::of("7"), caller(7), Duration::ZERO);
        assert!(!found(&verified, 7));
    }
}
