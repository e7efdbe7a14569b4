//! The part of Cloud Logging's query language that gcloud and this project use: comparisons joined by AND.
//! What it does not understand it refuses, rather than to answer something else.

use jiff::Timestamp;

use super::log_entry::{Entry, SEVERITIES};
use crate::site::Site;

#[derive(Debug)]
pub(crate) struct Filter(Vec<Comparison>);

#[derive(Debug)]
struct Comparison {
    field: Field,
    operator: Operator,
    value: String,
    /// The value as a number, for the fields that have an order.
    rank: i128,
}

#[derive(Debug, PartialEq)]
enum Field {
    ResourceType,
    ResourceLabel(String),
    Label(String),
    LogName,
    InsertId,
    TextPayload,
    Severity,
    Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    AtMost,
    More,
    AtLeast,
    Has,
}

#[derive(Debug, PartialEq)]
enum Token {
    Word(String),
    Operator(Operator),
}

impl Filter {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let tokens = tokens(text)?;
        let mut rest = tokens.as_slice();
        let mut comparisons = Vec::new();
        while !rest.is_empty() {
            if !comparisons.is_empty() {
                // AND may be left out.
                rest = rest
                    .strip_prefix(&[Token::Word("AND".into())])
                    .unwrap_or(rest);
            }
            let [
                Token::Word(field),
                Token::Operator(operator),
                Token::Word(value),
                more @ ..,
            ] = rest
            else {
                return Err(
                    "only comparisons joined by AND are understood by this emulator".into(),
                );
            };
            comparisons.push(Comparison::new(field, *operator, value)?);
            rest = more;
        }
        Ok(Self(comparisons))
    }

    /// The execution that all matches must be of, if the filter names one.
    pub(crate) fn execution(&self) -> Option<&str> {
        let wanted = |comparison: &&Comparison| {
            comparison.operator == Operator::Equal
                && matches!(&comparison.field, Field::Label(key) if key == "run.googleapis.com/execution_name")
        };
        self.0
            .iter()
            .find(wanted)
            .map(|comparison| comparison.value.as_str())
    }

    /// No match is older than this time, in nanoseconds since the epoch.
    pub(crate) fn not_before(&self) -> i128 {
        let lower = |comparison: &&Comparison| {
            comparison.field == Field::Timestamp
                && matches!(
                    comparison.operator,
                    Operator::More | Operator::AtLeast | Operator::Equal
                )
        };
        self.0
            .iter()
            .filter(lower)
            .map(|comparison| comparison.rank)
            .max()
            .unwrap_or(i128::MIN)
    }

    pub(crate) fn matches(&self, site: &Site, entry: &Entry) -> bool {
        self.0
            .iter()
            .all(|comparison| comparison.holds(site, entry))
    }
}

impl Comparison {
    fn new(field: &str, operator: Operator, value: &str) -> Result<Self, String> {
        let known =
            Field::parse(field).ok_or_else(|| format!("the field '{field}' is not known"))?;
        let rank = match known {
            Field::Severity => {
                severity(value).ok_or_else(|| format!("'{value}' is not a severity"))?
            }
            Field::Timestamp => {
                nanoseconds(value).ok_or_else(|| format!("'{value}' is not an RFC 3339 time"))?
            }
            Field::InsertId => 0,
            _ if matches!(
                operator,
                Operator::Equal | Operator::NotEqual | Operator::Has
            ) =>
            {
                0
            }
            _ => return Err(format!("'{field}' has no order in this emulator")),
        };
        Ok(Self {
            field: known,
            operator,
            value: value.to_owned(),
            rank,
        })
    }

    fn holds(&self, site: &Site, entry: &Entry) -> bool {
        match &self.field {
            Field::Severity => {
                self.orders(i128::try_from(entry.severity).unwrap_or(0).cmp(&self.rank))
            }
            Field::Timestamp => self.orders(entry.time.cmp(&self.rank)),
            Field::InsertId => self.orders(entry.insert_id().as_str().cmp(&self.value)),
            Field::ResourceType => self.says(Some("cloud_run_job")),
            Field::ResourceLabel(key) => self.says(match key.as_str() {
                "project_id" => Some(site.project.as_str()),
                "location" => Some(site.region.as_str()),
                "job_name" => Some(&entry.source.job),
                _ => None,
            }),
            Field::Label(key) => self.says(entry.label(key).as_deref()),
            Field::LogName => self.says(Some(&format!(
                "projects/{}/logs/{}",
                site.project,
                entry.stream.log()
            ))),
            Field::TextPayload => self.says(entry.text()),
        }
    }

    fn orders(&self, ordering: std::cmp::Ordering) -> bool {
        match self.operator {
            Operator::Equal | Operator::Has => ordering.is_eq(),
            Operator::NotEqual => ordering.is_ne(),
            Operator::Less => ordering.is_lt(),
            Operator::AtMost => ordering.is_le(),
            Operator::More => ordering.is_gt(),
            Operator::AtLeast => ordering.is_ge(),
        }
    }

    fn says(&self, text: Option<&str>) -> bool {
        match self.operator {
            Operator::NotEqual => text != Some(&self.value),
            Operator::Has => {
                text.is_some_and(|text| text.to_lowercase().contains(&self.value.to_lowercase()))
            }
            _ => text == Some(&self.value),
        }
    }
}

impl Field {
    fn parse(text: &str) -> Option<Self> {
        let after = |prefix: &str| {
            text.strip_prefix(prefix)
                .filter(|key| !key.is_empty())
                .map(str::to_owned)
        };
        Some(match text {
            "resource.type" => Self::ResourceType,
            "logName" | "log_name" => Self::LogName,
            "insertId" | "insert_id" => Self::InsertId,
            "textPayload" | "text_payload" => Self::TextPayload,
            "severity" => Self::Severity,
            "timestamp" => Self::Timestamp,
            _ => after("resource.labels.")
                .map(Self::ResourceLabel)
                .or(after("labels.").map(Self::Label))?,
        })
    }
}

fn severity(name: &str) -> Option<i128> {
    let position = SEVERITIES
        .iter()
        .position(|severity| severity.eq_ignore_ascii_case(name))?;
    i128::try_from(position).ok()
}

fn nanoseconds(text: &str) -> Option<i128> {
    text.parse::<Timestamp>()
        .ok()
        .map(|time| time.as_nanosecond())
}

/// Words (with quoted parts, quotes taken off) and operators.
fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if let Some((operator, length)) = operator(rest) {
            tokens.push(Token::Operator(operator));
            rest = &rest[length..];
        } else if "()~-,".contains(first) {
            return Err(format!("'{first}' is not understood by this emulator"));
        } else {
            let (word, length) = word(rest)?;
            if matches!(word.as_str(), "OR" | "NOT") {
                return Err(format!("{word} is not understood by this emulator"));
            }
            tokens.push(Token::Word(word));
            rest = &rest[length..];
        }
        rest = rest.trim_start();
    }
    Ok(tokens)
}

fn operator(text: &str) -> Option<(Operator, usize)> {
    // Longer ones first.
    const OPERATORS: [(&str, Operator); 7] = [
        ("!=", Operator::NotEqual),
        (">=", Operator::AtLeast),
        ("<=", Operator::AtMost),
        ("=", Operator::Equal),
        (">", Operator::More),
        ("<", Operator::Less),
        (":", Operator::Has),
    ];
    OPERATORS
        .iter()
        .find(|(sign, _)| text.starts_with(sign))
        .map(|(sign, operator)| (*operator, sign.len()))
}

/// The word at the start of `text`, and its length there.
fn word(text: &str) -> Result<(String, usize), String> {
    let mut word = String::new();
    let mut quoted = false;
    let mut characters = text.char_indices();
    while let Some((position, character)) = characters.next() {
        match character {
            '"' => quoted = !quoted,
            '\\' if quoted => word.extend(characters.next().map(|(_, escaped)| escaped)),
            _ if quoted => word.push(character),
            '=' | '!' | '<' | '>' | ':' | '(' | ')' | '~' | ',' => return Ok((word, position)),
            _ if character.is_whitespace() => return Ok((word, position)),
            _ => word.push(character),
        }
    }
    if quoted {
        Err("a quote is not closed".into())
    } else {
        Ok((word, text.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_of_gcloud_is_understood() {
        let text = "resource.type = cloud_run_job AND labels.\"run.googleapis.com/execution_name\" = test-job-x7k2p\n\
            resource.labels.location = us-east4 AND severity >= DEFAULT AND timestamp>=\"2026-11-22T21:00:00.000000Z\"";
        let filter = Filter::parse(text).unwrap();
        assert_eq!(filter.0.len(), 5);
        assert_eq!(filter.execution(), Some("test-job-x7k2p"));
        assert_eq!(
            Timestamp::from_nanosecond(filter.not_before())
                .unwrap()
                .to_string(),
            "2026-11-22T21:00:00Z"
        );
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            "severity",
            "severity >= LOUD",
            "timestamp > yesterday",
            "resource.type=a OR resource.type=b",
            "NOT severity=INFO",
            "(severity=INFO)",
            "colour=red",
            "textPayload=~\"a\"",
            "textPayload=\"open",
            "resource.type > a",
            "AND severity=INFO",
        ] {
            assert!(Filter::parse(text).is_err(), "{text}");
        }
    }
}
