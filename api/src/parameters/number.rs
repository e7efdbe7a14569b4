//! Exact numbers: a number that would reach the job with another value is refused.

use serde_json::{Number, Value};

/// Why a JSON text cannot be passed on.
#[derive(Debug)]
pub enum Unusable {
    /// It is a number with more digits, or a larger exponent, than a double or a 64-bit integer keeps.
    Inexact,
    /// It is not JSON.
    NotJson(serde_json::Error),
}

/// Parses a JSON text. A zero with a sign becomes 0.
pub fn value(json: &str) -> Result<Value, Unusable> {
    if !json.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        return serde_json::from_str(json).map_err(Unusable::NotJson);
    }
    if let Ok(whole) = json.parse::<i64>() {
        return Ok(whole.into()); // the usual case
    }
    let written = Decimal::parse(json).ok_or(Unusable::Inexact)?;
    if written.digits.is_empty() {
        return Ok(0.into());
    }
    // The number's syntax was checked before, so only its size can be wrong.
    let number: Number = serde_json::from_str(json).map_err(|_| Unusable::Inexact)?;
    match Decimal::parse(&text(&number)) {
        Some(kept) if kept == written => Ok(number.into()),
        _ => Err(Unusable::Inexact),
    }
}

/// The text of a number for the job. An integer has neither point nor exponent: JSON's 5.0 and 5e0 become 5.
pub fn text(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() && float.fract() == 0.0 => float.to_string(),
        _ => number.to_string(),
    }
}

/// A decimal number without leading and trailing zeros: the digits, times ten to the power of `exponent`.
#[derive(Debug, PartialEq)]
struct Decimal {
    negative: bool,
    /// Empty for 0.
    digits: String,
    exponent: i64,
}

impl Decimal {
    /// Parses a JSON number. None if its exponent is too large.
    fn parse(text: &str) -> Option<Self> {
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (negative, mantissa) = match mantissa.strip_prefix('-') {
            Some(mantissa) => (true, mantissa),
            None => (false, mantissa),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{fraction}");
        let significant = all.trim_start_matches('0');
        let digits = significant.trim_end_matches('0');
        if digits.is_empty() {
            return Some(Self {
                negative: false,
                digits: String::new(),
                exponent: 0,
            });
        }
        let zeros = i64::try_from(significant.len() - digits.len()).ok()?;
        let places = i64::try_from(fraction.len()).ok()?;
        let exponent = exponent.parse::<i64>().ok()?;
        Some(Self {
            negative,
            digits: digits.to_owned(),
            exponent: exponent.checked_add(zeros)?.checked_sub(places)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn passed_on(json: &str) -> Option<String> {
        let value = value(json).ok()?;
        Some(text(value.as_number()?))
    }

    #[test]
    fn a_number_is_passed_on_as_it_was_sent_or_not_at_all() {
        let kept = [
            ("0", "0"),
            ("-0", "0"),
            ("-0.0", "0"),
            ("0e999999999999999999999", "0"),
            ("0.1", "0.1"),
            ("1e2", "100"),
            ("5.0", "5"),
            ("1E+2", "100"),
            ("12.50", "12.5"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("18446744073709551615", "18446744073709551615"),
            ("9007199254740993", "9007199254740993"),
            ("1e23", "100000000000000000000000"),
            ("1e-7", "1e-7"),
        ];
        for (sent, arrives) in kept {
            assert_eq!(passed_on(sent).as_deref(), Some(arrives), "{sent}");
        }
        for sent in [
            "18446744073709551617",
            "-9223372036854775809",
            "103547991597142817347",
            "12345678901234567.89",
            "9007199254740993.0",
            "0.1000000000000000055511151231257827",
            "1e400",
            "-1e400",
            "1e-400",
            "1e99999999999999999999999",
        ] {
            assert_eq!(passed_on(sent), None, "{sent}");
        }
    }

    proptest! {
        #[test]
        fn two_different_numbers_never_become_one(one in "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,12})?([eE][+-]?[0-9]{1,2})?", other in "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,12})?") {
            let (a, b) = (passed_on(&one), passed_on(&other));
            if a.is_some() && a == b {
                prop_assert_eq!(Decimal::parse(&one), Decimal::parse(&other));
            }
        }

        #[test]
        fn a_double_survives(double in any::<f64>().prop_filter("finite", |f| f.is_finite())) {
            let sent = serde_json::to_string(&double).unwrap();
            let arrives = passed_on(&sent).unwrap();
            prop_assert_eq!(arrives.parse::<f64>().unwrap(), double);
        }
    }
}
