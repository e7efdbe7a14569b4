//! The values of the keyword `format` that are checked.

use std::net::{Ipv4Addr, Ipv6Addr};

use jiff::civil;

/// The longest host name and the longest of its labels, in bytes (RFC 1035, section 2.3.4).
const MAX_HOST_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

type Check = fn(&str) -> bool;

/// A format: its name, its description and its check.
const FORMATS: &[(&str, &str, Check)] = &[
    ("date", "a date such as 2026-11-24", is_date),
    (
        "date-time",
        "a time such as 2026-11-24T09:30:00Z",
        is_date_time,
    ),
    ("email", "an email address", is_email),
    ("hostname", "the name of a host", is_host),
    ("ipv4", "an IPv4 address", |text| {
        text.parse::<Ipv4Addr>().is_ok()
    }),
    ("ipv6", "an IPv6 address", |text| {
        text.parse::<Ipv6Addr>().is_ok()
    }),
    ("uri", "a URI such as https://example.com/path", is_uri),
    ("uuid", "a UUID", is_uuid),
];

/// A format by its name.
#[derive(Clone, Copy)]
pub struct Format {
    words: &'static str,
    check: Check,
}

impl Format {
    /// The format of JSON Schema's name.
    pub fn new(name: &str) -> Result<Self, String> {
        let found = FORMATS.iter().find(|(known, ..)| *known == name);
        let names = || {
            FORMATS
                .iter()
                .map(|(known, ..)| *known)
                .collect::<Vec<_>>()
                .join(", ")
        };
        let (_, words, check) = found.ok_or_else(|| {
            format!(
                "`format` knows no `{name}`; use one of: {}, or a `pattern`",
                names()
            )
        })?;
        Ok(Self {
            words,
            check: *check,
        })
    }

    /// Whether the text has the format.
    pub fn fits(self, text: &str) -> bool {
        (self.check)(text)
    }

    /// The description of the format.
    pub fn words(self) -> &'static str {
        self.words
    }
}

/// RFC 3339's full-date.
fn is_date(text: &str) -> bool {
    has_shape(text, "0000-00-00") && text.parse::<civil::Date>().is_ok()
}

/// RFC 3339's date-time. A leap second is only valid at the end of a day in UTC. jiff reads it as second 59.
fn is_date_time(text: &str) -> bool {
    let Some(plain) = without_fraction(text) else {
        return false;
    };
    let has_sign = |sign| has_shape(&plain, &format!("0000-00-00T00:00:00{sign}00:00"));
    let is_ahead = has_sign('+');
    if !is_ahead && !has_sign('-') {
        return false;
    }
    let parse = |clock: &str| clock.parse::<civil::Time>();
    let (Ok(time), Ok(offset)) = (parse(&plain[11..19]), parse(&plain[20..])) else {
        return false;
    };
    let offset = offset.duration_since(civil::Time::midnight());
    let utc = time.wrapping_sub(if is_ahead { offset } else { -offset });
    is_date(&plain[..10]) && (&plain[17..19] != "60" || utc == civil::time(23, 59, 59, 0))
}

/// The date-time without a fraction of a second, and with an offset from UTC in digits.
fn without_fraction(text: &str) -> Option<String> {
    let (start, rest) = text.split_at_checked("0000-00-00T00:00:00".len())?;
    let digits = |c: char| c.is_ascii_digit();
    let offset = match rest.strip_prefix('.') {
        Some(fraction) if fraction.starts_with(digits) => fraction.trim_start_matches(digits),
        _ => rest,
    };
    let plain = [start, offset].concat().to_ascii_uppercase();
    Some(plain.replace('Z', "+00:00"))
}

/// Whether the text has the shape: a digit for each 0, a hexadecimal digit for each x, and all other characters as they are.
fn has_shape(text: &str, shape: &str) -> bool {
    let fits = |(c, wanted): (u8, u8)| match wanted {
        b'0' => c.is_ascii_digit(),
        b'x' => c.is_ascii_hexdigit(),
        _ => c == wanted,
    };
    text.len() == shape.len() && text.bytes().zip(shape.bytes()).all(fits)
}

fn is_email(text: &str) -> bool {
    let legal = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&c);
    text.rsplit_once('@').is_some_and(|(local, host)| {
        let dots = local.starts_with('.') || local.ends_with('.') || local.contains("..");
        (1..=64).contains(&local.len()) && local.bytes().all(legal) && !dots && is_host(host)
    })
}

fn is_host(text: &str) -> bool {
    let legal = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
    let label = |label: &str| {
        (1..=MAX_LABEL_BYTES).contains(&label.len())
            && label.bytes().all(legal)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= MAX_HOST_BYTES && text.split('.').all(label)
}

/// An absolute URI as RFC 3986 writes it: its characters, and a scheme.
fn is_uri(text: &str) -> bool {
    let legal = |c: u8| c.is_ascii_alphanumeric() || b"._~:/?#[]@!$&'()*+,;=%-".contains(&c);
    let escaped = |rest: &str| rest.get(..2).is_some_and(|digits| has_shape(digits, "xx"));
    text.bytes().all(legal)
        && text.split('%').skip(1).all(escaped)
        && text.parse::<reqwest::Url>().is_ok()
}

fn is_uuid(text: &str) -> bool {
    has_shape(text, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Checks each text against each format, and compares the result with the library for JSON Schema.
    #[test]
    fn formats_agree_with_the_library_for_json_schema() {
        let texts = [
            "",
            "x",
            "2026-11-24",
            "2026-02-29",
            "2024-02-29",
            "2026-1-1",
            "20261124",
            "2026-11-24T09:30:00Z",
            "2026-11-24t09:30:00.123z",
            "2026-11-24T09:30:00+02:00",
            "2026-11-24T24:00:00Z",
            "2026-11-24T09:30Z",
            "2026-11-24T09:30:00",
            "2026-11-24 09:30:00Z",
            "2026-11-24ä09:30:00Z",
            "2026-11-24T09:30:00.Z",
            "2026-11-24T09:30:00ä",
            "2016-12-31T23:59:60Z",
            "2016-12-31T12:59:60Z",
            "2017-01-01T00:59:60+01:00",
            "2026-11-24T09:30:00+24:00",
            "2026-11-24T09:60:00Z",
            "2026-11-24T09:30:61Z",
            "2026-11-24T09:30:00+23:59",
            "2026-11-24T09:30:00+02:60",
            "2026-11-24T09:30:00-00:00",
            "2026-11-24T09:30:00+2:00",
            "2026-11-24T09:30:00.1234567890123Z",
            "2026-11-24T09:30:00,5Z",
            "2026-02-29T09:30:00Z",
            "2026-11-24T",
            "2016-12-31T15:59:60-08:00",
            "2016-12-31T15:59:60.5-08:00",
            "2016-12-31T15:59:60+08:00",
            "0000-01-01T00:00:00+23:59",
            "9999-12-31T23:59:59Z",
            "9999-12-31T23:59:59-23:59",
            "a@b",
            "a@example.com",
            "a.b+c@example.com",
            ".a@example.com",
            "a..b@example.com",
            "a@-example.com",
            "@b",
            "a@",
            "example.com",
            "a-b.example",
            "-a.example",
            "a_b.example",
            "xn--bcher-kva.example",
            "127.0.0.1",
            "127.0.0.256",
            "127.0.0.01",
            "::1",
            "2001:db8::1",
            "::ffff:192.0.2.1",
            "1::2::3",
            "https://example.com/a?b=c#d",
            "https://example.com/ä",
            "mailto:a@example.com",
            "//example.com",
            "/a",
            "a b:c",
            "https://example.com/%zz",
            "https://[::1]:80/",
            "urn:isbn:0451450523",
            "5f0cb1c2-8a41-4d9a-9a55-0123456789ab",
            "5F0CB1C2-8A41-4D9A-9A55-0123456789AB",
            "5f0cb1c28a414d9a9a550123456789ab",
        ];
        for (name, ..) in FORMATS {
            let format = Format::new(name).unwrap();
            let schema = json!({ "type": "string", "format": name });
            let library = jsonschema::draft202012::options()
                .should_validate_formats(true)
                .build(&schema);
            let library = library.unwrap();
            for text in texts {
                assert_eq!(
                    format.fits(text),
                    library.is_valid(&json!(text)),
                    "{name} {text:?}"
                );
            }
        }
    }

    #[test]
    fn an_unknown_format_is_refused_with_the_known_ones() {
        let error = Format::new("dat").err().unwrap();
        assert!(
            error.contains("`dat`") && error.contains("date, date-time"),
            "{error}"
        );
    }
}
