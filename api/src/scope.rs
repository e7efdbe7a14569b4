//! The names that callers put into paths: a scope (such as a tenant) and a process. They are parsed once, when a request arrives.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// The longest scope, in bytes: one DNS label.
const MAX_BYTES: usize = 63;

/// The rule as a regular expression, for clients that check before they send.
pub const PATTERN: &str = "^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$";

/// The owner of an execution, such as a tenant: 1 to 63 of `A-Za-z0-9._-`, beginning and ending with a letter or a digit.
///
/// The rule allows UUIDs and the ids of identity providers. A scope needs no quoting in an argument, an environment value, a log
/// field or a URL segment. Scopes are compared byte by byte, without case folding.
///
/// ```
/// use api::scope::Scope;
///
/// let scope: Scope = "acme".parse()?;
/// assert_eq!(scope.as_str(), "acme");
/// assert!("../acme".parse::<Scope>().is_err());
/// # Ok::<(), api::scope::Invalid>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Scope(String);

/// The text is not a scope. The message says what a scope is.
#[derive(Debug, thiserror::Error)]
#[error(
    "a scope is 1 to 63 letters, digits, dots, underscores or hyphens, \
     and begins and ends with a letter or a digit"
)]
pub struct Invalid;

impl Scope {
    /// The scope as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Scope {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let [first, .., last] = *text.as_bytes() else {
            let single = text.len() == 1 && text.as_bytes()[0].is_ascii_alphanumeric();
            return if single {
                Ok(Self(text.to_owned()))
            } else {
                Err(Invalid)
            };
        };
        let inner = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
        let valid = text.len() <= MAX_BYTES
            && first.is_ascii_alphanumeric()
            && last.is_ascii_alphanumeric()
            && text.bytes().all(inner);
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(Invalid)
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The longest name of a process, in bytes.
const MAX_PROCESS_BYTES: usize = 63;

/// The name of a process: lower-case letters, digits, `_` and `-`, beginning with a letter. It is a segment of the path, a value in
/// the job's environment, and a key of the settings, which is lower case when it comes from an environment variable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ProcessName(String);

impl ProcessName {
    /// Parses a name. None if it is not valid.
    pub fn new(name: &str) -> Option<Self> {
        let mut characters = name.bytes();
        let legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_' || c == b'-';
        let is_name = characters.next().is_some_and(|c| c.is_ascii_lowercase())
            && characters.all(legal)
            && name.len() <= MAX_PROCESS_BYTES;
        is_name.then(|| Self(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProcessName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches_pattern(text: &str) -> bool {
        let schema = serde_json::json!({ "pattern": PATTERN });
        jsonschema::is_valid(&schema, &text.into())
    }

    #[test]
    fn valid_scopes_are_parsed() {
        let long = "a".repeat(MAX_BYTES);
        let ids = [
            "a",
            "7",
            "tenant-1",
            "Tenant_A.b",
            "8e03978e-40d5-43e8-bc93-6894a57f9324",
            &long,
        ];
        for text in ids {
            assert_eq!(text.parse::<Scope>().unwrap().as_str(), text);
            assert!(matches_pattern(text), "{text:?}");
        }
    }

    #[test]
    fn invalid_scopes_are_refused() {
        let long = "a".repeat(MAX_BYTES + 1);
        let texts = [
            "", " ", "-", "--", "-a", "a-", ".", "..", "a/b", "a b", "a\n", "ä", "a\u{301}",
            "{scope}", &long,
        ];
        for text in texts {
            assert!(text.parse::<Scope>().is_err(), "{text:?}");
            assert!(!matches_pattern(text), "{text:?}");
        }
    }

    proptest::proptest! {
        /// A parsed scope has the same text, and needs no quoting in a path, an argument, a variable or a log line.
        #[test]
        fn any_text_is_a_scope_or_refused(text in "\\PC{0,70}|[a-zA-Z0-9._-]{0,70}") {
            let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            let ends = |text: &str| text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.ends_with(|c: char| c.is_ascii_alphanumeric());
            match text.parse::<Scope>() {
                Ok(scope) => assert!(scope.as_str() == text && text.chars().all(legal) && ends(&text) && text.len() <= MAX_BYTES),
                Err(_) => assert!(!(text.chars().all(legal) && ends(&text) && text.len() <= MAX_BYTES)),
            }
        }
    }

    #[test]
    fn a_process_name_is_a_path_segment_and_a_key_of_the_settings() {
        for name in ["import", "a", "re-index_2", &"a".repeat(63)] {
            assert!(ProcessName::new(name).is_some(), "{name}");
        }
        for name in [
            "",
            "Import",
            "2nd",
            "-a",
            "a/b",
            "a b",
            "ä",
            &"a".repeat(64),
        ] {
            assert!(ProcessName::new(name).is_none(), "{name}");
        }
    }
}
