//! Translates regular expressions from RE2, which Cloud Logging uses, for the crate `regex`.
//!
//! Both match in linear time. They differ in the meaning of Perl's character classes and in the characters that are
//! special within brackets.

use regex::{Regex, RegexBuilder};

/// The memory limit of a compiled expression, because a filter can have many.
const LARGEST: usize = 1024 * 1024; // bytes

/// The expression between the double quotes of a filter. A backslash belongs to the expression, except before a
/// quote.
pub(super) fn unquoted(written: &str) -> String {
    written.replace("\\\"", "\"")
}

/// Compiles an expression of RE2.
pub(super) fn compile(expression: &str) -> Result<Regex, String> {
    let refused = |reason: String| {
        let last = reason.lines().last().unwrap_or_default().trim().to_owned();
        format!("the regular expression '{expression}' is not supported: {last}")
    };
    let translated = translated(expression).map_err(|reason| refused(reason.into()))?;
    RegexBuilder::new(&translated)
        .size_limit(LARGEST)
        .build()
        .map_err(|error| refused(error.to_string()))
}

/// The same expression in the syntax of `regex`.
fn translated(expression: &str) -> Result<String, &'static str> {
    let mut translated = String::new();
    let mut characters = expression.chars().peekable();
    let mut in_brackets = false;
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                let escaped = characters.next().ok_or("it ends with a backslash")?;
                match class(escaped) {
                    Some(class) => translated.push_str(class),
                    None => translated.extend(['\\', escaped]),
                }
            }
            '[' if !in_brackets => {
                in_brackets = true;
                translated.push('[');
                translated.extend(characters.next_if_eq(&'^'));
                // A closing bracket that comes first is a literal.
                if characters.next_if_eq(&']').is_some() {
                    translated.push_str("\\]");
                }
            }
            ']' if in_brackets => {
                in_brackets = false;
                translated.push(']');
            }
            // A class such as [:alpha:], up to its own end.
            '[' if characters.peek() == Some(&':') => {
                translated.push('[');
                for character in characters.by_ref() {
                    translated.push(character);
                    if character == ']' {
                        break;
                    }
                }
            }
            // These are special in `regex` but not in RE2.
            '[' | '&' | '~' if in_brackets => translated.extend(['\\', character]),
            '-' if in_brackets && characters.peek() == Some(&'-') => {
                return Err("two dashes follow each other in brackets");
            }
            _ => translated.push(character),
        }
    }
    Ok(translated)
}

/// Perl's character class with this letter, as RE2 defines it: ASCII only, where `regex` would include Unicode.
fn class(letter: char) -> Option<&'static str> {
    Some(match letter {
        'd' => "[0-9]",
        'D' => "[^0-9]",
        'w' => "[0-9A-Za-z_]",
        'W' => "[^0-9A-Za-z_]",
        's' => r"[\t\n\x0C\r ]",
        'S' => r"[^\t\n\x0C\r ]",
        'b' => r"(?-u:\b)",
        'B' => r"(?-u:\B)",
        _ => return None,
    })
}
