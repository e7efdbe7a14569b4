//! Access tokens from the metadata server: cached, fetched once however many wait, unprintable.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use reqwest::header::HeaderValue;
use serde::Deserialize;
use serde_json::Value;

use crate::cached::{Cached, Entry};
use crate::gcp::metadata::{Error, Metadata};

const PATH: &str = "instance/service-accounts/default/token";
/// A token is renewed this long before its end. The metadata server hands out the same one until five minutes before
/// (Compute Engine, "Authenticate workloads using service accounts"), so asking sooner brings nothing new.
const RENEW_BEFORE_END: Duration = Duration::from_secs(4 * 60);
/// The least time between two fetches, also if an answer has an implausible lifetime or many tokens are refused.
const MIN_BETWEEN_FETCHES: Duration = Duration::from_secs(1);
/// A renewal that failed is tried again after this long, the old token being used meanwhile (as Google's Rust client does).
const RETRY_RENEWAL_AFTER: Duration = Duration::from_secs(10);
/// Without a token every request fails, so the next request tries to fetch one at once.
const RETRY_FETCH_AFTER: Duration = Duration::ZERO;
/// The longest lifetime that is accepted from an answer.
const MAX_LIFETIME_SECONDS: f64 = 3600.0;

/// The service account's access token.
pub struct AccessToken {
    metadata: Metadata,
    /// The value of an `Authorization` header, marked sensitive.
    bearer: Cached<HeaderValue, Error>,
    last_refusal: Mutex<Option<Instant>>,
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    expires_in: Value,
}

impl AccessToken {
    /// Fetches no token yet.
    pub fn new(metadata: Metadata) -> Self {
        Self {
            metadata,
            bearer: Cached::new(RETRY_RENEWAL_AFTER, RETRY_FETCH_AFTER),
            last_refusal: Mutex::new(None),
        }
    }

    /// The value of an `Authorization` header, marked sensitive.
    pub async fn bearer(&self) -> Result<HeaderValue, Error> {
        let asked_at = Instant::now();
        let bearer = |bearer: &HeaderValue| Some(bearer.clone());
        if let Some(bearer) = self.bearer.find(asked_at, bearer) {
            return Ok(bearer);
        }
        let fetched = self.bearer.find_or_fetch(asked_at, bearer, self.fetch());
        fetched.await?.ok_or_else(not_a_token)
    }

    /// Drops a token that was refused, so that the next request fetches another. If that one is refused as well, the token is
    /// not the cause, so it is kept for a moment.
    pub fn forget(&self, refused: &HeaderValue) {
        let mut last_refusal = self.last_refusal.lock();
        if last_refusal.is_some_and(|at| at.elapsed() < MIN_BETWEEN_FETCHES) {
            return;
        }
        if self.bearer.forget(|bearer| bearer == refused) {
            *last_refusal = Some(Instant::now());
        }
    }

    async fn fetch(&self) -> Result<Entry<HeaderValue>, Error> {
        let bytes = self.metadata.get(PATH).await?;
        parse(&bytes, Instant::now()).ok_or_else(not_a_token)
    }
}

fn not_a_token() -> Error {
    Error::Unusable {
        path: PATH,
        why: "it is not a token with a lifetime".to_owned(),
    }
}

fn parse(bytes: &[u8], now: Instant) -> Option<Entry<HeaderValue>> {
    let answer: Answer = serde_json::from_slice(bytes).ok()?;
    let seconds = match &answer.expires_in {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.parse().ok()?,
        _ => return None,
    };
    if seconds.is_nan() {
        return None;
    }
    if answer.access_token.is_empty() || !answer.access_token.bytes().all(|c| c.is_ascii_graphic())
    {
        return None;
    }
    let lifetime = Duration::from_secs_f64(seconds.clamp(0.0, MAX_LIFETIME_SECONDS));
    let mut bearer = HeaderValue::try_from(format!("Bearer {}", answer.access_token)).ok()?;
    bearer.set_sensitive(true);
    let renew_after = lifetime
        .saturating_sub(RENEW_BEFORE_END)
        .max(MIN_BETWEEN_FETCHES);
    Some(Entry {
        value: bearer,
        fetched_at: now,
        fresh_until: now + renew_after,
        usable_until: now + lifetime.max(renew_after),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renewed_after(expires_in: &str) -> Option<u64> {
        let now = Instant::now();
        let answer =
            format!(r#"{{"access_token":"t","expires_in":{expires_in},"token_type":"Bearer"}}"#);
        parse(answer.as_bytes(), now).map(|token| (token.fresh_until - now).as_secs())
    }

    #[test]
    fn a_token_is_renewed_four_minutes_before_its_end() {
        assert_eq!(renewed_after("3599"), Some(3359));
        assert_eq!(renewed_after("\"3599\""), Some(3359));
        assert_eq!(renewed_after("3599.5"), Some(3359));
    }

    #[test]
    fn an_implausible_lifetime_causes_neither_constant_fetches_nor_an_eternal_token() {
        for lifetime in ["0", "-1", "1", "240"] {
            assert_eq!(renewed_after(lifetime), Some(1), "{lifetime}");
        }
        assert_eq!(renewed_after("1000000000000000000"), Some(3360));
        for nonsense in ["null", "\"soon\"", "\"NaN\"", "{}", "true"] {
            assert!(
                renewed_after(nonsense).is_none_or(|seconds| seconds <= 3360),
                "{nonsense}"
            );
        }
    }

    #[test]
    fn an_answer_without_a_token_is_refused() {
        for answer in [
            "",
            "{}",
            "<html>",
            r#"{"access_token":"","expires_in":1}"#,
            r#"{"access_token":"a\r\nb","expires_in":1}"#,
        ] {
            assert!(
                parse(answer.as_bytes(), Instant::now()).is_none(),
                "{answer}"
            );
        }
    }
}
