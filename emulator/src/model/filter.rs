//! Filters in the query language of Cloud Logging, and whether a log entry matches one.
//!
//! Google describes the language on the page "Logging query language". Unsupported syntax is refused, so that no
//! filter returns other entries than Google would.

mod fields;
mod pattern;
mod syntax;

use std::cmp::Ordering;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use regex::Regex;
use serde_json::Value;

use self::fields::{Field, Kind};
use super::log_entry::severity;

const EXECUTION_NAME: &str = "run.googleapis.com/execution_name";

/// A parsed filter.
#[derive(Debug)]
pub(crate) struct Filter(Expression);

#[derive(Debug)]
enum Expression {
    All(Vec<Expression>),
    Any(Vec<Expression>),
    Not(Box<Expression>),
    Field(Comparison),
    /// Some field of the entry contains this text, which is in lower case.
    Anywhere(String),
    /// The log's name ends in this, in lower case.
    LogId(String),
}

#[derive(Debug)]
struct Comparison {
    field: Field,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Exists,
    Matches(Regex),
    MatchesNot(Regex),
    Compares(Operator, Operand),
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
    Matches,
    MatchesNot,
}

/// The right-hand side of a comparison, converted to the type of the field.
#[derive(Debug, PartialEq)]
enum Operand {
    /// In lower case.
    Text(String),
    Number(f64),
    Boolean(bool),
    Severity(usize),
    /// Nanoseconds since the epoch.
    Time(i128),
    /// In lower case, for a field of a payload, whose type depends on the entry.
    Untyped(String),
}

impl Filter {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        syntax::parse(text).map(Self)
    }

    /// Whether the entry matches. `entry` returns the JSON of the LogEntry's field with this name.
    pub(crate) fn matches(&self, entry: &impl Fn(&str) -> Option<Value>) -> bool {
        self.0.holds(entry)
    }

    /// The execution to which every match belongs, if the filter requires one.
    pub(crate) fn execution(&self) -> Option<&str> {
        self.required().find_map(|comparison| match comparison {
            Comparison {
                field,
                test: Test::Compares(Operator::Equal, Operand::Text(name)),
            } if field.path == ["labels", EXECUTION_NAME] => Some(name.as_str()),
            _ => None,
        })
    }

    /// The time that no match precedes, in nanoseconds since the epoch.
    pub(crate) fn not_before(&self) -> i128 {
        let bounds = self.required().filter_map(|comparison| match comparison {
            Comparison {
                field,
                test:
                    Test::Compares(
                        Operator::More | Operator::AtLeast | Operator::Equal,
                        Operand::Time(time),
                    ),
            } if field.path == ["timestamp"] => Some(*time),
            _ => None,
        });
        bounds.max().unwrap_or(i128::MIN)
    }

    /// The comparisons that hold for every match.
    fn required(&self) -> impl Iterator<Item = &Comparison> {
        let parts = match &self.0 {
            Expression::All(parts) => parts.as_slice(),
            single => std::slice::from_ref(single),
        };
        parts.iter().filter_map(|part| match part {
            Expression::Field(comparison) => Some(comparison),
            _ => None,
        })
    }
}

impl Expression {
    fn holds(&self, entry: &impl Fn(&str) -> Option<Value>) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.holds(entry)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(entry)),
            Self::Not(part) => !part.holds(entry),
            Self::Field(comparison) => comparison.holds(entry),
            Self::Anywhere(text) => fields::SEARCHED
                .iter()
                .filter_map(|name| entry(name))
                .any(|value| contains(&value, text)),
            Self::LogId(id) => entry("logName").is_some_and(|name| {
                let name = name.as_str().unwrap_or_default().to_lowercase();
                name.split_once("/logs/")
                    .is_some_and(|(_, encoded)| encoded.replace("%2f", "/") == *id)
            }),
        }
    }
}

impl Comparison {
    fn new(field: Field, operator: Operator, literal: &syntax::Literal) -> Result<Self, String> {
        let test = match operator {
            Operator::Has if literal.is_star() => Test::Exists,
            Operator::Matches => Test::Matches(expression_for(&field, literal)?),
            Operator::MatchesNot => Test::MatchesNot(expression_for(&field, literal)?),
            _ => Test::Compares(operator, Operand::of(&field, operator, literal)?),
        };
        Ok(Self { field, test })
    }

    fn holds(&self, entry: &impl Fn(&str) -> Option<Value>) -> bool {
        let Some((name, rest)) = self.field.path.split_first() else {
            return false;
        };
        let value = entry(name);
        let mut found = Vec::new();
        if let Some(value) = &value {
            descend(value, rest, &mut found);
        }
        if matches!(self.test, Test::Exists) {
            return !found.is_empty();
        }
        if found.is_empty() {
            // A missing field has its default value if LogEntry defines it. Otherwise the comparison fails.
            return self
                .field
                .kind
                .default_value()
                .is_some_and(|default| self.test.passes(self.field.kind, &default));
        }
        found
            .into_iter()
            .any(|value| self.test.passes(self.field.kind, value))
    }
}

fn expression_for(field: &Field, literal: &syntax::Literal) -> Result<Regex, String> {
    let is_text = matches!(field.kind, Kind::Text | Kind::Label | Kind::Payload);
    if !is_text || field.is_compound() {
        return Err(format!(
            "{field} cannot be matched by a regular expression, because it is not a text"
        ));
    }
    pattern::compile(&literal.raw_text()?)
}

/// Collects the values at the end of the path. There can be several if the path leads through a list.
fn descend<'a>(value: &'a Value, path: &[String], found: &mut Vec<&'a Value>) {
    match (value, path) {
        (Value::Array(elements), []) if elements.is_empty() => found.push(value),
        (Value::Array(elements), _) => {
            for element in elements {
                descend(element, path, found);
            }
        }
        (_, []) => found.push(value),
        (Value::Object(fields), [name, rest @ ..]) => {
            if let Some(value) = fields.get(name) {
                descend(value, rest, found);
            }
        }
        _ => {}
    }
}

/// Whether the value, or one nested in it, contains the text, which is in lower case.
fn contains(value: &Value, text: &str) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(bool) => bool.to_string() == text,
        Value::Number(number) => number.to_string() == text,
        Value::String(string) => string.to_lowercase().contains(text),
        Value::Array(elements) => elements.iter().any(|element| contains(element, text)),
        Value::Object(fields) => fields.values().any(|field| contains(field, text)),
    }
}

impl Test {
    fn passes(&self, kind: Kind, value: &Value) -> bool {
        let matches = |pattern: &Regex| value.as_str().map(|text| pattern.is_match(text));
        match self {
            Self::Exists => true,
            Self::Matches(pattern) => matches(pattern) == Some(true),
            Self::MatchesNot(pattern) => matches(pattern) == Some(false),
            Self::Compares(Operator::Has, Operand::Text(text) | Operand::Untyped(text))
                if value.is_string() || kind == Kind::Payload && value.is_object() =>
            {
                contains(value, text)
            }
            Self::Compares(operator, operand) => operand
                .order(kind, value)
                .is_some_and(|order| operator.accepts(order)),
        }
    }
}

impl Operator {
    fn accepts(self, order: Ordering) -> bool {
        match self {
            Self::Equal | Self::Has => order.is_eq(),
            Self::NotEqual => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::AtMost => order.is_le(),
            Self::More => order.is_gt(),
            Self::AtLeast => order.is_ge(),
            Self::Matches | Self::MatchesNot => false,
        }
    }
}

impl Operand {
    fn of(field: &Field, operator: Operator, literal: &syntax::Literal) -> Result<Self, String> {
        let text = literal.text()?;
        let unfit = |what: &str| format!("'{text}' is not {what}, which {field} is compared with");
        Ok(match field.kind {
            Kind::Text | Kind::Label => Self::Text(text.to_lowercase()),
            Kind::Number => Self::Number(text.parse().map_err(|_| unfit("a number"))?),
            Kind::Duration => Self::Number(seconds(&text).ok_or_else(|| unfit("a duration"))?),
            Kind::Boolean => Self::Boolean(boolean(&text).ok_or_else(|| unfit("true or false"))?),
            Kind::Severity => {
                Self::Severity(severity(&text).ok_or_else(|| unfit("the name of a severity"))?)
            }
            Kind::Time => Self::Time(
                nanoseconds(&text).ok_or_else(|| unfit("a time, such as 2026-01-02T03:04:05Z"))?,
            ),
            Kind::Payload if !field.is_compound() || operator == Operator::Has => {
                Self::Untyped(text.to_lowercase())
            }
            Kind::Payload | Kind::Message => {
                return Err(format!(
                    "{field} is not a single value: compare one of its fields"
                ));
            }
        })
    }

    /// The order of the entry's value relative to this one; `None` if they cannot be compared.
    fn order(&self, kind: Kind, value: &Value) -> Option<Ordering> {
        match self {
            Self::Text(text) => Some(value.as_str()?.to_lowercase().as_str().cmp(text)),
            Self::Number(number) if kind == Kind::Duration => {
                seconds(value.as_str()?)?.partial_cmp(number)
            }
            Self::Number(number) => as_number(value)?.partial_cmp(number),
            Self::Boolean(boolean) => Some(value.as_bool()?.cmp(boolean)),
            Self::Severity(rank) => Some(severity(value.as_str()?)?.cmp(rank)),
            Self::Time(time) => Some(nanoseconds(value.as_str()?)?.cmp(time)),
            Self::Untyped(text) => match value {
                Value::String(string) => Some(string.to_lowercase().as_str().cmp(text)),
                Value::Number(number) => number.as_f64()?.partial_cmp(&text.parse().ok()?),
                Value::Bool(value) => Some(value.cmp(&boolean(text)?)),
                Value::Null => (text == "null_value").then_some(Ordering::Equal),
                Value::Array(_) | Value::Object(_) => None,
            },
        }
    }
}

/// A number, which is a string in JSON if it has 64 bits.
fn as_number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok())
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// Parses a time in RFC 3339, or in ISO 8601 without a zone or without a time of day, which is then in UTC.
fn nanoseconds(text: &str) -> Option<i128> {
    let in_utc = |time: DateTime| TimeZone::UTC.to_timestamp(time).ok();
    let time = text
        .parse::<Timestamp>()
        .ok()
        .or_else(|| in_utc(text.parse::<DateTime>().ok()?))
        .or_else(|| in_utc(text.parse::<Date>().ok()?.into()))?;
    Some(time.as_nanosecond())
}

/// A duration such as `1.5s` or `20ms`.
fn seconds(text: &str) -> Option<f64> {
    const UNITS: [(&str, f64); 6] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
    ];
    UNITS.iter().find_map(|(unit, length)| {
        let number: f64 = text.strip_suffix(unit)?.parse().ok()?;
        Some(number * length)
    })
}

#[cfg(test)]
mod tests;
