//! Regular expressions in the syntax of RE2, which Cloud Logging has, for the crate `regex`.
//!
//! Both are of one family and take time in proportion to the text. They differ in what the classes of Perl mean, and
//! in what is special within brackets.

use regex::{Regex, RegexBuilder};

/// What a compiled expression may take of the memory; a filter can have many.
const LARGEST: usize = 1024 * 1024; // bytes

/// The expression between the double quotes of a filter: a backslash belongs to the expression, but before a quote.
pub(super) fn unquoted(written: &str) -> String {
    written.replace("\\\"", "\"")
}

/// Compiles an expression of RE2.
pub(super) fn compile(expression: &str) -> Result<Regex, String> {
    let refused = |reason: String| {
        let last = reason.lines().last().unwrap_or_default().trim().to_owned();
        format!("the regular expression '{expression}' is not understood here: {last}")
    };
    let translated = translated(expression).map_err(|reason| refused(reason.into()))?;
    RegexBuilder::new(&translated)
        .size_limit(LARGEST)
        .build()
        .map_err(|error| refused(error.to_string()))
}

/// The same expression as `regex` wants it.
fn translated(expression: &str) -> Result<String, &'static str> {
    let mut translated = String::new();
    let mut characters = expression.chars().peekable();
    let mut in_brackets = false;
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                let escaped = characters.next().ok_or("a backslash is its end")?;
                match class(escaped) {
                    Some(class) => translated.push_str(class),
                    None => translated.extend(['\\', escaped]),
                }
            }
            '[' if !in_brackets => {
                in_brackets = true;
                translated.push('[');
                translated.extend(characters.next_if_eq(&'^'));
                // A bracket that comes first closes nothing.
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
            // Special to `regex` and not to RE2.
            '[' | '&' | '~' if in_brackets => translated.extend(['\\', character]),
            '-' if in_brackets && characters.peek() == Some(&'-') => {
                return Err("two dashes follow each other in brackets");
            }
            _ => translated.push(character),
        }
    }
    Ok(translated)
}

/// What Perl's class of that letter is in RE2: ASCII only. `regex` would take all of Unicode.
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
