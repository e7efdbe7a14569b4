//! Checks a parameter against the part of JSON Schema (2020-12) that is about scalars, with error messages for callers.
//!
//! It does not use a library, because that for all of JSON Schema was nearly half of the program and of its start-up time. The
//! tests compare the results with that library.

use std::cmp::Ordering;

use regex::Regex;
use serde_json::{Map, Number, Value};

use super::format::Format;
use super::pattern;

/// The keywords that limit a value, and the types to which each applies. A keyword for another type would check nothing, so it is
/// refused.
const RULES: &[(&str, &[&str])] = &[
    ("enum", &["string", "integer", "number", "boolean"]),
    ("const", &["string", "integer", "number", "boolean"]),
    ("pattern", &["string"]),
    ("format", &["string"]),
    ("minLength", &["string"]),
    ("maxLength", &["string"]),
    ("minimum", &["integer", "number"]),
    ("maximum", &["integer", "number"]),
    ("exclusiveMinimum", &["integer", "number"]),
    ("exclusiveMaximum", &["integer", "number"]),
    ("multipleOf", &["integer", "number"]),
];
/// The keywords that only describe a parameter.
const ANNOTATIONS: &[&str] = &["type", "title", "description", "default", "examples"];

/// A compiled schema.
pub struct Scalar {
    kind: Kind,
    rules: Vec<Rule>,
}

/// The scalar types of JSON Schema.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    String,
    Integer,
    Number,
    Boolean,
}

enum Rule {
    OneOf(Vec<Value>),
    /// The compiled pattern, and its source.
    Matches(Regex, String),
    IsA(Format),
    AtLeastLong(u64),
    AtMostLong(u64),
    AtLeast(Number),
    AtMost(Number),
    Above(Number),
    Below(Number),
    MultipleOf(Number),
}

impl Scalar {
    /// Compiles a schema. The error says what is wrong, and how to correct it.
    pub fn new(schema: &Map<String, Value>) -> Result<Self, String> {
        let (kind, type_name) = kind(schema)?;
        let mut rules = Vec::new();
        for (keyword, argument) in schema {
            match RULES.iter().find(|(name, _)| name == keyword) {
                Some((_, types)) if types.contains(&type_name) => {
                    rules.push(rule(keyword, argument)?);
                }
                Some((_, types)) => {
                    return Err(format!(
                        "`{keyword}` is for the types: {}",
                        types.join(", ")
                    ));
                }
                None if ANNOTATIONS.contains(&&keyword[..]) => {}
                None => return Err(unknown(keyword)),
            }
        }
        Ok(Self { kind, rules })
    }

    /// Checks the value. The error names the rule and not the value, which may be long, hostile or secret.
    pub fn check(&self, value: &Value) -> Result<(), String> {
        if !self.kind.has(value) {
            return Err(format!("it must be {}", self.kind.words()));
        }
        let broken = self.rules.iter().find(|rule| !rule.allows(value));
        broken.map_or(Ok(()), |rule| Err(rule.words()))
    }

    /// Whether no value is between its bounds.
    pub fn is_contradictory(&self) -> bool {
        let mut pairs = self
            .rules
            .iter()
            .flat_map(|one| self.rules.iter().map(move |other| (one, other)));
        pairs.any(|pair| match pair {
            (Rule::AtLeastLong(least), Rule::AtMostLong(most)) => least > most,
            (Rule::AtLeast(least), Rule::AtMost(most)) => compare(least, most).is_gt(),
            (Rule::AtLeast(low), Rule::Below(high))
            | (Rule::Above(low), Rule::AtMost(high) | Rule::Below(high)) => {
                compare(low, high).is_ge()
            }
            _ => false,
        })
    }
}

fn kind(schema: &Map<String, Value>) -> Result<(Kind, &str), String> {
    let name = schema.get("type").and_then(Value::as_str);
    let kind = match name {
        Some("string") => Kind::String,
        Some("integer") => Kind::Integer,
        Some("number") => Kind::Number,
        Some("boolean") => Kind::Boolean,
        _ => return Err("needs a `type`, one of: string, integer, number, boolean".to_owned()),
    };
    Ok((kind, name.unwrap_or_default()))
}

fn unknown(keyword: &str) -> String {
    let rules = RULES.iter().map(|(name, _)| *name);
    let all: Vec<_> = ANNOTATIONS
        .iter()
        .copied()
        .chain(["required"])
        .chain(rules)
        .collect();
    format!("knows no `{keyword}`; use some of: {}", all.join(", "))
}

fn rule(keyword: &str, argument: &Value) -> Result<Rule, String> {
    let must_be = |what: &str| format!("`{keyword}` must be {what}");
    let length = || argument.as_u64().ok_or_else(|| must_be("a whole number"));
    let number = || match argument {
        Value::Number(number) => Ok(number.clone()),
        _ => Err(must_be("a number")),
    };
    let text = || argument.as_str().ok_or_else(|| must_be("a text"));
    Ok(match keyword {
        "enum" => Rule::OneOf(match argument.as_array() {
            Some(values) if !values.is_empty() => values.clone(),
            _ => return Err(must_be("a list of the values")),
        }),
        "const" => Rule::OneOf(vec![argument.clone()]),
        "pattern" => {
            let pattern = Regex::new(&pattern::translated(text()?));
            let pattern = pattern.map_err(|error| {
                let shown = error.to_string(); // the pattern in several lines, and then what is wrong with it
                let fault = shown.lines().last().unwrap_or_default();
                format!(
                    "`pattern` cannot be used: {}",
                    fault.trim_start_matches("error: ")
                )
            })?;
            Rule::Matches(pattern, text()?.to_owned())
        }
        "format" => Rule::IsA(Format::new(text()?)?),
        "minLength" => Rule::AtLeastLong(length()?),
        "maxLength" => Rule::AtMostLong(length()?),
        "minimum" => Rule::AtLeast(number()?),
        "maximum" => Rule::AtMost(number()?),
        "exclusiveMinimum" => Rule::Above(number()?),
        "exclusiveMaximum" => Rule::Below(number()?),
        _ => match number()? {
            divisor if float(&divisor) > 0.0 => Rule::MultipleOf(divisor),
            _ => return Err(must_be("greater than 0")),
        },
    })
}

impl Kind {
    fn has(self, value: &Value) -> bool {
        match self {
            Self::String => value.is_string(),
            Self::Boolean => value.is_boolean(),
            Self::Number => value.is_number(),
            Self::Integer => value
                .as_number()
                .is_some_and(|number| float(number).fract() == 0.0),
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::String => "a text",
            Self::Integer => "a whole number",
            Self::Number => "a number",
            Self::Boolean => "true or false",
        }
    }
}

impl Rule {
    /// Whether a value of the right type satisfies the rule.
    fn allows(&self, value: &Value) -> bool {
        let length = || value.as_str().map_or(0, |text| text.chars().count() as u64);
        let compared = |to: &Number| value.as_number().map(|number| compare(number, to));
        match self {
            Self::OneOf(values) => values.iter().any(|one| equal(one, value)),
            Self::Matches(pattern, _) => value.as_str().is_some_and(|text| pattern.is_match(text)),
            Self::IsA(format) => value.as_str().is_some_and(|text| format.fits(text)),
            Self::AtLeastLong(least) => length() >= *least,
            Self::AtMostLong(most) => length() <= *most,
            Self::AtLeast(least) => compared(least).is_some_and(Ordering::is_ge),
            Self::AtMost(most) => compared(most).is_some_and(Ordering::is_le),
            Self::Above(bound) => compared(bound).is_some_and(Ordering::is_gt),
            Self::Below(bound) => compared(bound).is_some_and(Ordering::is_lt),
            Self::MultipleOf(divisor) => value
                .as_number()
                .is_some_and(|number| is_multiple(number, divisor)),
        }
    }

    fn words(&self) -> String {
        match self {
            Self::OneOf(values) => {
                let values: Vec<_> = values.iter().map(Value::to_string).collect();
                format!("it must be one of: {}", values.join(", "))
            }
            Self::Matches(_, pattern) => format!("it must match {pattern}"),
            Self::IsA(format) => format!("it must be {}", format.words()),
            Self::AtLeastLong(least) => format!("it must have {least} characters at least"),
            Self::AtMostLong(most) => format!("it must have {most} characters at most"),
            Self::AtLeast(least) => format!("it must be {least} at least"),
            Self::AtMost(most) => format!("it must be {most} at most"),
            Self::Above(bound) => format!("it must be more than {bound}"),
            Self::Below(bound) => format!("it must be less than {bound}"),
            Self::MultipleOf(divisor) => format!("it must be a multiple of {divisor}"),
        }
    }
}

/// JSON Schema's equality: 5 and 5.0 are equal.
fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => compare(one, other).is_eq(),
        _ => one == other,
    }
}

/// Compares exactly: numbers that are not whole are small enough for a double to be exact.
fn compare(one: &Number, other: &Number) -> Ordering {
    match (whole(one), whole(other)) {
        (Some(one), Some(other)) => one.cmp(&other),
        _ => float(one).total_cmp(&float(other)),
    }
}

/// Computes with the decimals as they are written, since doubles only approximate them: 0.3 is a multiple of 0.1.
fn is_multiple(number: &Number, divisor: &Number) -> bool {
    let (Some((digits, exponent)), Some((divisor, unit))) = (decimal(number), decimal(divisor))
    else {
        return false;
    };
    let Ok(finer) = u32::try_from(unit - exponent) else {
        let rest = |rest, _| rest * 10 % divisor;
        return (unit..exponent).fold(digits % divisor, rest) == 0;
    };
    let divisor = 10_i128
        .checked_pow(finer)
        .and_then(|power| divisor.checked_mul(power));
    divisor.map_or(digits == 0, |divisor| digits % divisor == 0)
}

/// The number's digits, and the power of ten by which they are multiplied.
fn decimal(number: &Number) -> Option<(i128, i32)> {
    let text = number.to_string();
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let places = i32::try_from(fraction.len()).ok()?;
    let digits = format!("{whole}{fraction}").parse().ok()?;
    Some((digits, exponent.parse::<i32>().ok()? - places))
}

/// The number, if it is a whole number in any notation and not too large: very large doubles have no fraction either.
fn whole(number: &Number) -> Option<i128> {
    let signed = number.as_i64().map(i128::from);
    let exact = signed.or_else(|| number.as_u64().map(i128::from));
    exact.or_else(|| Some(float(number) as i128).filter(|whole| *whole as f64 == float(number)))
}

fn float(number: &Number) -> f64 {
    number.as_f64().unwrap_or(f64::NAN) // every number has an f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn scalar(schema: &Value) -> Scalar {
        Scalar::new(schema.as_object().unwrap()).unwrap()
    }

    /// Whether the library for JSON Schema accepts the value.
    fn library_accepts(schema: &Value, value: &Value) -> bool {
        let options = jsonschema::draft202012::options().should_validate_formats(true);
        options.build(schema).unwrap().is_valid(value)
    }

    fn number() -> impl Strategy<Value = Value> {
        prop_oneof![
            (-20_i64..20).prop_map(Value::from),
            (-80_i64..80).prop_map(|quarters| json!(quarters as f64 / 4.0)),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            Just(json!(1e300)),
        ]
    }

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            4 => number(),
            4 => "[ab1\u{e4}\u{1f600}\u{663} \u{a0}/\\\\]{0,4}".prop_map(Value::from),
            1 => any::<bool>().prop_map(Value::from),
            1 => Just(Value::Null),
            1 => Just(json!([1])),
            1 => Just(json!({})),
        ]
    }

    fn numeric() -> impl Strategy<Value = Value> {
        let keyword = prop::sample::select(vec![
            "minimum",
            "maximum",
            "exclusiveMinimum",
            "exclusiveMaximum",
        ]);
        let kind = prop::sample::select(vec!["integer", "number"]);
        let divisor = prop::sample::select(vec![json!(1), json!(2), json!(7), json!(0.25)]);
        let bounds = prop::collection::vec((keyword, number()), 0..3);
        (kind, bounds, prop::option::of(divisor)).prop_map(|(kind, bounds, divisor)| {
            let mut schema = json!({ "type": kind });
            bounds
                .into_iter()
                .for_each(|(keyword, bound)| schema[keyword] = bound);
            if let Some(divisor) = divisor {
                schema["multipleOf"] = divisor;
            }
            schema
        })
    }

    fn textual() -> impl Strategy<Value = Value> {
        let pattern = prop::sample::select(vec![
            "^a",
            "b$",
            "^[ab]{1,2}$",
            "ä|x",
            "^\\w*$",
            "",
            "\\d",
            "^\\D+$",
            "[\\w-]\\W",
            "\\s",
            "^\\S",
            "[^\\s]",
            "\\\\",
            "\\/|\\.",
        ]);
        let length = || prop::option::of(0_u64..4);
        (prop::option::of(pattern), length(), length()).prop_map(|(pattern, least, most)| {
            let mut schema = json!({ "type": "string" });
            let rules = [
                ("pattern", pattern.map(Value::from)),
                ("minLength", least.map(Value::from)),
                ("maxLength", most.map(Value::from)),
            ];
            for (keyword, argument) in rules {
                if let Some(argument) = argument {
                    schema[keyword] = argument;
                }
            }
            schema
        })
    }

    fn listed() -> impl Strategy<Value = Value> {
        let kind = prop::sample::select(vec!["string", "integer", "number", "boolean"]);
        let values = prop::collection::vec(value(), 1..4);
        (kind, values, prop::option::of(value())).prop_map(|(kind, values, one)| {
            let mut schema = json!({ "type": kind, "enum": values });
            if let Some(one) = one {
                schema["const"] = one;
            }
            schema
        })
    }

    proptest! {
        #[test]
        fn schemas_agree_with_the_library_for_json_schema(
            schema in prop_oneof![numeric(), textual(), listed()], values in prop::collection::vec(value(), 20),
        ) {
            let scalar = scalar(&schema);
            for value in values {
                prop_assert_eq!(scalar.check(&value).is_ok(), library_accepts(&schema, &value), "{} {}", schema, value);
            }
        }
    }

    #[test]
    fn a_multiple_is_computed_without_rounding_errors() {
        let fits = |value: Value, divisor: Value| {
            let multiples = scalar(&json!({ "type": "number", "multipleOf": divisor }));
            multiples.check(&value).is_ok()
        };
        for (value, divisor) in [
            (json!(0.07), json!(0.01)),
            (json!(-19.99), json!(0.01)),
            (json!(111848.18), json!(0.01)),
            (json!(1e6), json!(0.01)),
            (json!(1e300), json!(2.5)),
            (json!(0), json!(1e-300)),
            (json!(u64::MAX), json!(5)),
        ] {
            assert!(fits(value.clone(), divisor.clone()), "{value} {divisor}");
        }
        for (value, divisor) in [
            (json!(0.075), json!(0.01)),
            (json!(5.0000000001), json!(1)),
            (json!(1e-10), json!(0.25)),
            (json!(1e-300), json!(1)),
            (json!(1e300), json!(7)),
            (json!(i64::MAX), json!(2)),
        ] {
            assert!(!fits(value.clone(), divisor.clone()), "{value} {divisor}");
        }
    }

    #[test]
    fn a_refusal_names_the_rule_and_not_the_value() {
        let refusal = |schema: Value, value: Value| scalar(&schema).check(&value).unwrap_err();
        let cases = [
            (
                json!({ "type": "integer" }),
                json!("CANARY"),
                "it must be a whole number",
            ),
            (
                json!({ "type": "integer" }),
                json!(1.5),
                "it must be a whole number",
            ),
            (json!({ "type": "string" }), json!(1), "it must be a text"),
            (
                json!({ "type": "boolean" }),
                json!("CANARY"),
                "it must be true or false",
            ),
            (
                json!({ "type": "integer", "maximum": 255 }),
                json!(300),
                "it must be 255 at most",
            ),
            (
                json!({ "type": "string", "pattern": "^x$" }),
                json!("CANARY"),
                "it must match ^x$",
            ),
            (
                json!({ "type": "string", "format": "date" }),
                json!("CANARY"),
                "it must be a date such as 2026-11-24",
            ),
            (
                json!({ "type": "string", "enum": ["a", "b"] }),
                json!("CANARY"),
                r#"it must be one of: "a", "b""#,
            ),
            (
                json!({ "type": "string", "minLength": 2 }),
                json!("😀"),
                "it must have 2 characters at least",
            ),
        ];
        for (schema, value, words) in cases {
            assert_eq!(refusal(schema, value), words);
        }
    }
}
