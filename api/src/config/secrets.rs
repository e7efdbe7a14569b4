//! Settings that are secrets.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::load::comma_list;

/// Secrets. Neither `Debug` nor an error about them prints them.
#[derive(Clone, Default)]
pub struct Secrets(Vec<String>);

impl Secrets {
    /// These secrets.
    pub fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        Self(
            secrets
                .into_iter()
                .filter(|secret| !secret.is_empty())
                .collect(),
        )
    }

    /// The secrets themselves, the current one first.
    pub fn reveal(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

/// A text with commas between the secrets, or a list.
impl<'de> Deserialize<'de> for Secrets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The error of serde would quote the value.
        let secrets = comma_list(deserializer).map_err(|_| "must be a text or a list of texts");
        secrets.map(Self::new).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_read_and_never_printed() {
        let read = |value| serde_json::from_value::<Secrets>(value).unwrap();
        for value in [json!("CANARY1, CANARY2"), json!(["CANARY1", "CANARY2"])] {
            let secrets = read(value);
            assert_eq!(secrets.reveal(), ["CANARY1", "CANARY2"]);
            assert!(!format!("{secrets:?} {secrets:#?}").contains("CANARY"));
        }
        assert!(read(json!("")).reveal().is_empty());
        for wrong in [json!(4711), json!([4711]), json!({"4711": "4711"})] {
            let error = serde_json::from_value::<Secrets>(wrong).unwrap_err();
            assert!(!error.to_string().contains("4711"), "{error}");
        }
    }
}
