//! Label selectors, pages and the envelope of every list in v1.

use serde::{Deserialize, Serialize};

use crate::http::paging::PageRequest;
use crate::refusal::Refusal;

/// The query of a list call. Google documents more parameters but ignores them, and so does the emulator.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Listing {
    label_selector: Option<String>,
    limit: Option<i64>,
    r#continue: Option<String>,
}

impl Listing {
    pub(crate) fn selector(&self) -> Result<Selector, Refusal> {
        Selector::parse(self.label_selector.as_deref().unwrap_or_default())
    }

    pub(crate) fn page(&self) -> Result<PageRequest, Refusal> {
        PageRequest::new(self.limit, self.r#continue.as_deref())
    }
}

/// The envelope of a list. It always has `metadata`, without which gcloud crashes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Page<T> {
    api_version: &'static str,
    kind: &'static str,
    metadata: PageMetadata,
    items: Vec<T>,
}

#[derive(Debug, Serialize)]
struct PageMetadata {
    #[serde(skip_serializing_if = "Option::is_none")]
    r#continue: Option<String>,
}

impl<T> Page<T> {
    pub(crate) fn new(kind: &'static str, (items, next): (Vec<T>, Option<String>)) -> Self {
        Self {
            api_version: "run.googleapis.com/v1",
            kind,
            metadata: PageMetadata { r#continue: next },
            items,
        }
    }
}

/// A parsed label selector. A resource matches if all requirements hold.
#[derive(Debug)]
pub(crate) struct Selector(Vec<Requirement>);

#[derive(Debug)]
enum Requirement {
    Equals(String, String),
    Differs(String, String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
}

impl Selector {
    fn parse(text: &str) -> Result<Self, Refusal> {
        let parts = split_outside_parentheses(text);
        let requirements = parts
            .iter()
            .map(|part| part.trim())
            .filter(|part| !part.is_empty());
        let parsed: Option<Vec<_>> = requirements.map(Requirement::parse).collect();
        parsed
            .map(Self)
            .ok_or_else(|| Refusal::invalid(format!("Invalid label selector: '{text}'.")))
    }

    pub(crate) fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::Equals(key, value) => label(key) == Some(value),
            Requirement::Differs(key, value) => label(key) != Some(value),
            Requirement::In(key, values) => {
                label(key).is_some_and(|found| values.iter().any(|value| value == found))
            }
            Requirement::NotIn(key, values) => {
                !label(key).is_some_and(|found| values.iter().any(|value| value == found))
            }
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Missing(key) => label(key).is_none(),
        })
    }
}

impl Requirement {
    fn parse(text: &str) -> Option<Self> {
        if let Some((key, value)) = text.split_once("!=") {
            return Some(Self::Differs(name(key)?, value.trim().to_owned()));
        }
        if let Some((key, value)) = text.split_once('=') {
            return Some(Self::Equals(
                name(key)?,
                value.trim_start_matches('=').trim().to_owned(),
            ));
        }
        if let Some((head, values)) = text.strip_suffix(')').and_then(|rest| rest.split_once('(')) {
            let values = values
                .split(',')
                .map(|value| value.trim().to_owned())
                .collect();
            let (key, operator) = head.trim().rsplit_once(char::is_whitespace)?;
            return match operator.to_ascii_lowercase().as_str() {
                "in" => Some(Self::In(name(key)?, values)),
                "notin" => Some(Self::NotIn(name(key)?, values)),
                _ => None,
            };
        }
        match text.strip_prefix('!') {
            Some(key) => Some(Self::Missing(name(key)?)),
            None => Some(Self::Exists(name(text)?)),
        }
    }
}

fn name(key: &str) -> Option<String> {
    let key = key.trim();
    let legal = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    (!key.is_empty() && key.chars().all(legal)).then(|| key.to_owned())
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    text.split(move |c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(selector: &str) -> bool {
        let labels = [
            ("run.googleapis.com/job", "a"),
            ("run.googleapis.com/runningState", "Failed"),
        ];
        let find = |key: &str| {
            labels
                .iter()
                .find(|(name, _)| *name == key)
                .map(|(_, value)| *value)
        };
        Selector::parse(selector).unwrap().matches(find)
    }

    #[test]
    fn selectors_in_the_syntax_of_gcloud_match() {
        assert!(holds(""));
        assert!(holds("run.googleapis.com/job = a"));
        assert!(holds(
            "run.googleapis.com/job=a,run.googleapis.com/runningState in (Succeeded,Failed)"
        ));
        assert!(!holds(
            "run.googleapis.com/job = a, run.googleapis.com/servingState = Active"
        ));
        assert!(!holds(
            "run.googleapis.com/runningState notIn (Succeeded, Failed)"
        ));
        assert!(holds(
            "run.googleapis.com/job!=b, run.googleapis.com/job, !other"
        ));
    }

    #[test]
    fn a_malformed_selector_is_refused() {
        for selector in ["a b", "= a", "a near (b)", "a in b)"] {
            assert!(Selector::parse(selector).is_err(), "{selector}");
        }
    }
}
