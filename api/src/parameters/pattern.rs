//! Translates the patterns of ECMA-262, which JSON Schema uses, for a regex engine whose time is linear in the text, so that no body
//! can make a pattern run for long. The crate `jsonschema-regex` (0.61) is for the same, but refuses `[]`, `[^]` and `[\b]`, and leaves `\<` as the
//! beginning of a word.

use std::iter::Peekable;
use std::str::Chars;

/// The characters that ECMA-262 counts as spaces (sections 12.2 and 12.3).
const SPACES: &str = r"\t\n\x0b\x0c\r \u{a0}\u{1680}\u{2000}-\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}\u{feff}";
/// The meaning of `.` in ECMA-262: any character except line ends.
const ANY: &str = r"[^\n\r\u{2028}\u{2029}]";

/// Translates a pattern for the engine. The two syntaxes differ in `.` and in the character classes, which are ASCII in ECMA-262,
/// and in brackets, where only `\`, `-`, `]` and the first `^` are special in ECMA-262.
pub fn translated(pattern: &str) -> String {
    let mut text = String::with_capacity(pattern.len());
    let mut characters = pattern.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '\\' => match characters.next() {
                Some(edge @ ('b' | 'B')) => {
                    text.extend(["(?-u:\\", edge.encode_utf8(&mut [0; 4]), ")"])
                }
                escaped => escape(escaped, &mut text),
            },
            '.' => text.push_str(ANY),
            '[' => brackets(&mut characters, &mut text),
            c => text.push(c),
        }
    }
    text
}

/// Translates a class in brackets, from after its opening bracket.
fn brackets(characters: &mut Peekable<Chars<'_>>, text: &mut String) {
    let excludes = characters.next_if_eq(&'^').is_some();
    if characters.next_if_eq(&']').is_some() {
        text.push_str(if excludes { r"[\s\S]" } else { r"[^\s\S]" });
        return;
    }
    text.push_str(if excludes { "[^" } else { "[" });
    // Whether a `-` here would be between the two ends of a range.
    let mut has_begun = false;
    while let Some(c) = characters.next() {
        match c {
            ']' => return text.push(']'),
            '-' if has_begun && characters.peek() != Some(&']') => {
                text.push('-');
                let end = characters.next();
                one(end, characters, text);
                has_begun = false;
            }
            c => {
                one(Some(c), characters, text);
                has_begun = true;
            }
        }
    }
}

/// Translates one character or one class between brackets.
fn one(c: Option<char>, characters: &mut Peekable<Chars<'_>>, text: &mut String) {
    match c {
        Some('\\') => match characters.next() {
            Some('b') => text.push_str(r"\x08"),
            escaped => escape(escaped, text),
        },
        Some(c @ ('[' | '&' | '~' | '-' | '^')) => text.extend(['\\', c]),
        c => text.extend(c),
    }
}

fn escape(escaped: Option<char>, text: &mut String) {
    match escaped {
        Some('d') => text.push_str("[0-9]"),
        Some('D') => text.push_str("[^0-9]"),
        Some('w') => text.push_str("[0-9A-Za-z_]"),
        Some('W') => text.push_str("[^0-9A-Za-z_]"),
        Some('s') => text.extend(["[", SPACES, "]"]),
        Some('S') => text.extend(["[^", SPACES, "]"]),
        Some(c @ ('<' | '>')) => text.push(c),
        other => text.extend(['\\'].into_iter().chain(other)),
    }
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;

    #[test]
    fn brackets_and_dots_have_their_meaning_of_ecma_262() {
        for (pattern, fits, others) in [
            (r"^.$", "aä\t&", "\n\r\u{2028}\u{2029}"),
            (r"^[.]$", ".", "a"),
            (r"^[!&&?]$", "!&?", "a"),
            (r"^[--/]$", "-./", ",a"),
            (r"^[!--]$", "!+-", ".a"),
            (r"^[a~~b]$", "a~b", "c"),
            (r"^[[a]$", "[a", "b]"),
            (r"^[a^]$", "a^", "b"),
            (r"^[^^]$", "ab", "^"),
            (r"^[a-]$", "a-", "b"),
            (r"^[-a]$", "-a", "b"),
            (r"^[a-c-e]$", "abc-e", "d"),
            (r"^[\w-]$", "a_9-", "ä+"),
            (r"^[\]\\]$", r"]\", "a"),
            (r"^[\b]$", "\u{8}", "b"),
            (r"^[^]$", "a\n", ""),
            (r"^[]$", "", "a]"),
            (r"^\<|\>$", "<>", "a"),
        ] {
            let compiled = Regex::new(&translated(pattern)).unwrap();
            let is_match = |c: char| compiled.is_match(c.encode_utf8(&mut [0; 4]));
            assert!(fits.chars().all(is_match), "{pattern} {compiled}");
            assert!(!others.chars().any(is_match), "{pattern} {compiled}");
        }
    }
}
