//! Opaque values that mark a position in a list, such as `page`. Each is valid only for the list that it came from.

use axum::http::StatusCode;
use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::gcp::client;
use crate::http::problem::{Kind, Problem};

/// The longest value that is accepted, in bytes; Google's tokens have a few hundred.
const MAX_BYTES: usize = 4096;
/// Bytes of the digest by which a page of this list is recognised.
const CHECK_BYTES: usize = 8;

/// The position at which a list continues.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Google's token of the page to read. None for the first page.
    pub token: Option<String>,
    /// Creation time and name of the last entry that was returned. That page may have more entries after it, and new ones before it.
    pub after: Option<(Timestamp, String)>,
}

impl Page {
    /// The page as a value for a URL. `list` names the list, such as `executions/acme`.
    pub fn encode(&self, list: &str) -> String {
        encode(list, self)
    }

    /// The page that [`Page::encode`] made for the same list.
    pub fn decode(list: &str, text: &str) -> Result<Self, Problem> {
        decode(list, text).ok_or_else(refused)
    }
}

/// The problem of a page that is not of this list, or whose token of Google's has expired, which it does after a day.
pub fn refused() -> Problem {
    Problem::new(
        Kind::MalformedRequest,
        "page must be the nextPage of an answer about the same list, from the last 24 hours.",
    )
}

/// Whether Google refused the token of a page.
pub fn is_refused(token: Option<&str>, error: &client::Error) -> bool {
    let is_about_the_request = |status: &StatusCode| matches!(status.as_u16(), 400 | 410);
    token.is_some()
        && matches!(error, client::Error::Refused { status, .. } if is_about_the_request(status))
}

/// The value as a text that [`decode`] reads. `list` names the list that it belongs to.
pub fn encode(list: &str, value: &impl Serialize) -> String {
    let json = serde_json::to_vec(value).unwrap_or_default();
    format!("{}{}", hex(&check(list, &json)), hex(&json))
}

/// The value that [`encode`] wrote for the same list.
pub fn decode<T: DeserializeOwned>(list: &str, text: &str) -> Option<T> {
    if text.len() > MAX_BYTES {
        return None;
    }
    let bytes = unhex(text)?;
    let (given, json) = bytes.split_at_checked(CHECK_BYTES)?;
    if given != check(list, json) {
        return None;
    }
    serde_json::from_slice(json).ok()
}

fn check(list: &str, json: &[u8]) -> [u8; CHECK_BYTES] {
    let digest = digest(&SHA256, &[list.as_bytes(), b"\n", json].concat());
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&digest.as_ref()[..CHECK_BYTES]);
    check
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from(b"0123456789abcdef"[usize::from(half)]);
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(digit).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digits = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if rest.is_empty() {
        pairs.iter().map(digits).collect()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_valid_only_for_its_list() {
        let page = Page {
            token: Some("Google's".to_owned()),
            after: None,
        };
        let text = page.encode("executions/acme");
        assert_eq!(Page::decode("executions/acme", &text).unwrap(), page);
        assert!(Page::decode("executions/globex", &text).is_err());
    }

    #[test]
    fn garbage_is_refused_as_a_page() {
        let mut flipped = Page::default().encode("x");
        flipped.replace_range(20..21, if &flipped[20..21] == "0" { "1" } else { "0" });
        for text in [
            "",
            "0",
            "zz",
            "é",
            "+1",
            "00",
            &flipped,
            &"0".repeat(MAX_BYTES + 2),
        ] {
            assert!(Page::decode("x", text).is_err(), "{text}");
        }
    }
}
