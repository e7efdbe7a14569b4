//! The parser of filters.

use super::fields::Field;
use super::{Comparison, Expression, Operator, pattern};

/// The deepest nesting of parentheses, because each level takes stack space.
const DEEPEST: usize = 50;

/// The value of a comparison, or a text without a field name.
pub(super) struct Literal<'a> {
    /// As in the filter, without the quotes around it.
    written: &'a str,
    quoted: bool,
}

/// Parses a filter. An empty one matches every entry.
pub(super) fn parse(text: &str) -> Result<Expression, String> {
    let mut parser = Parser {
        rest: text,
        depth: 0,
    };
    parser.skip_blanks();
    if parser.rest.is_empty() {
        return Ok(Expression::All(Vec::new()));
    }
    let expression = parser.all(&Parser::restriction)?;
    if parser.rest.is_empty() {
        Ok(expression)
    } else {
        Err(parser.unexpected())
    }
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

/// Parses a single restriction, or in parentheses after an operator a single value.
type Single<'a, 'f> = &'f dyn Fn(&mut Parser<'a>) -> Result<Expression, String>;

impl<'a> Parser<'a> {
    /// Parts joined by AND, which may be left out. It binds weaker than OR.
    fn all(&mut self, single: Single<'a, '_>) -> Result<Expression, String> {
        let mut parts = vec![self.any(single)?];
        while !(self.rest.is_empty() || self.rest.starts_with(')')) {
            self.keyword("AND");
            parts.push(self.any(single)?);
        }
        Ok(only_or(parts, Expression::All))
    }

    fn any(&mut self, single: Single<'a, '_>) -> Result<Expression, String> {
        let mut parts = vec![self.negated(single)?];
        while self.keyword("OR") {
            parts.push(self.negated(single)?);
        }
        Ok(only_or(parts, Expression::Any))
    }

    fn negated(&mut self, single: Single<'a, '_>) -> Result<Expression, String> {
        let negated = self.keyword("NOT") || self.minus()?;
        let part = self.grouped(single)?;
        self.skip_blanks();
        Ok(if negated {
            Expression::Not(Box::new(part))
        } else {
            part
        })
    }

    fn grouped(&mut self, single: Single<'a, '_>) -> Result<Expression, String> {
        let Some(inner) = self.rest.strip_prefix('(') else {
            return single(self);
        };
        if self.depth == DEEPEST {
            return Err(format!("parentheses are nested more than {DEEPEST} deep"));
        }
        self.rest = inner;
        self.depth += 1;
        self.skip_blanks();
        let group = self.all(single)?;
        self.depth -= 1;
        self.rest = self
            .rest
            .strip_prefix(')')
            .ok_or("a parenthesis is not closed")?;
        Ok(group)
    }

    /// A comparison, a function, or a text without a field name.
    fn restriction(&mut self) -> Result<Expression, String> {
        let begin = self.rest;
        if let Ok(path) = self.path()
            && let Some(operator) = self.operator()
        {
            return self.comparison(&path, operator);
        }
        self.rest = begin;
        let alone = self.literal()?;
        if !alone.quoted && self.rest.starts_with('(') {
            return self.function(alone.written);
        }
        self.end_of_literal()?;
        let text = alone.text()?;
        Ok(Expression::Anywhere(text.to_lowercase()))
    }

    /// The rest of a comparison after its operator: a value, or several in parentheses.
    fn comparison(&mut self, path: &[String], operator: Operator) -> Result<Expression, String> {
        let field = Field::resolve(path)?;
        self.grouped(&|parser| {
            let literal = parser.literal()?;
            parser.end_of_literal()?;
            Comparison::new(field.clone(), operator, &literal).map(Expression::Field)
        })
    }

    /// Names separated by dots, each with or without double quotes.
    fn path(&mut self) -> Result<Vec<String>, String> {
        let mut path = Vec::new();
        loop {
            let name = if self.rest.starts_with('"') {
                self.literal()?.text()?
            } else {
                let end = self.rest.find(|c| c == '.' || ends_word(c));
                self.take(end.unwrap_or(self.rest.len())).to_owned()
            };
            if name.is_empty() {
                return Err(self.unexpected());
            }
            path.push(name);
            let Some(rest) = self.rest.strip_prefix('.') else {
                return Ok(path);
            };
            self.rest = rest;
        }
    }

    fn function(&mut self, name: &str) -> Result<Expression, String> {
        if name != "log_id" {
            return Err(format!("the function {name} is not supported"));
        }
        self.rest = self.rest.trim_start_matches('(');
        self.skip_blanks();
        let id = self.literal()?;
        self.skip_blanks();
        match self.rest.strip_prefix(')') {
            Some(rest) if id.quoted => {
                self.rest = rest;
                Ok(Expression::LogId(id.text()?.to_lowercase()))
            }
            _ => Err("log_id takes one text in double quotes".into()),
        }
    }

    /// A text in double quotes, or a word.
    fn literal(&mut self) -> Result<Literal<'a>, String> {
        if let Some(inner) = self.rest.strip_prefix('"') {
            let mut escaped = false;
            let end = inner.find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            let end = end.ok_or("a double quote is not closed")?;
            self.rest = &inner[end + 1..];
            return Ok(Literal {
                written: &inner[..end],
                quoted: true,
            });
        }
        let end = self.rest.find(ends_word).unwrap_or(self.rest.len());
        let word = &self.rest[..end];
        if word.is_empty() || matches!(word, "AND" | "OR" | "NOT") {
            return Err(self.unexpected());
        }
        Ok(Literal {
            written: self.take(end),
            quoted: false,
        })
    }

    /// Refuses a special character directly after a value, as in `a:b` or `a"b"`.
    fn end_of_literal(&mut self) -> Result<(), String> {
        match self.rest.chars().next() {
            None | Some(')') => Ok(()),
            Some(next) if next.is_whitespace() => Ok(()),
            Some(next) => Err(format!(
                "'{next}' is not expected after a value: put a value with special characters into double quotes"
            )),
        }
    }

    /// Consumes an operator, with or without blanks around it.
    fn operator(&mut self) -> Option<Operator> {
        self.skip_blanks();
        // Longer operators come first, because some begin with a shorter one.
        const OPERATORS: [(&str, Operator); 9] = [
            ("=~", Operator::Matches),
            ("!~", Operator::MatchesNot),
            ("!=", Operator::NotEqual),
            (">=", Operator::AtLeast),
            ("<=", Operator::AtMost),
            ("=", Operator::Equal),
            (">", Operator::More),
            ("<", Operator::Less),
            (":", Operator::Has),
        ];
        let (operator, rest) = OPERATORS
            .iter()
            .find_map(|(sign, operator)| Some((*operator, self.rest.strip_prefix(sign)?)))?;
        self.rest = rest;
        self.skip_blanks();
        Some(operator)
    }

    /// Consumes the keyword if it comes next.
    fn keyword(&mut self, word: &str) -> bool {
        let after = self.rest.strip_prefix(word).filter(|after| {
            let next = after.chars().next();
            next.is_none_or(|next| next.is_whitespace() || matches!(next, '(' | '"'))
        });
        self.rest = after.unwrap_or(self.rest);
        self.skip_blanks();
        after.is_some()
    }

    /// Consumes a minus if it comes next. It means NOT and directly precedes the part that it negates.
    fn minus(&mut self) -> Result<bool, String> {
        let Some(after) = self.rest.strip_prefix('-') else {
            return Ok(false);
        };
        if after.starts_with(|next: char| next.is_whitespace() || next.is_ascii_digit()) {
            return Err("'-' means NOT and stands before a comparison or a text: put a negative number into double quotes".into());
        }
        self.rest = after;
        Ok(true)
    }

    fn take(&mut self, end: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    /// Consumes white space and comments, which begin with two dashes and end with the line.
    fn skip_blanks(&mut self) {
        loop {
            self.rest = self.rest.trim_start();
            let Some(comment) = self.rest.strip_prefix("--") else {
                return;
            };
            let end = comment.find('\n').unwrap_or(comment.len());
            self.rest = &comment[end..];
        }
    }

    fn unexpected(&self) -> String {
        match self.rest.split_whitespace().next() {
            Some(next) => format!("'{next}' is not expected"),
            None => "it ends too early".into(),
        }
    }
}

impl<'a> Literal<'a> {
    /// Whether it is the star that stands for any value.
    pub(super) fn is_star(&self) -> bool {
        !self.quoted && self.written == "*"
    }

    /// The text, with its escape sequences resolved.
    pub(super) fn text(&self) -> Result<String, String> {
        if self.quoted {
            unescaped(self.written)
        } else if self.written.contains('*') {
            Err("a star is supported only alone after a colon: put a literal star into double quotes".into())
        } else {
            Ok(self.written.to_owned())
        }
    }

    /// The text of a regular expression, which has backslashes of its own.
    pub(super) fn raw_text(&self) -> Result<String, String> {
        if self.quoted {
            Ok(pattern::unquoted(self.written))
        } else {
            Err("a regular expression must be in double quotes".into())
        }
    }
}

/// The single part, or the parts joined.
fn only_or(
    mut parts: Vec<Expression>,
    join: impl FnOnce(Vec<Expression>) -> Expression,
) -> Expression {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        last => {
            parts.extend(last);
            join(parts)
        }
    }
}

/// Whether the character ends a word outside of quotes.
fn ends_word(character: char) -> bool {
    character.is_whitespace() || "()\"'=!<>:~,[]{}\\&|;".contains(character)
}

/// Resolves the escape sequences, which are those of C and `\uXXXX`.
fn unescaped(written: &str) -> Result<String, String> {
    let mut text = String::new();
    let mut rest = written;
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        let mut characters = after.chars();
        let (character, length) = match characters.next() {
            Some(same @ ('"' | '\\' | '\'' | '?')) => (Some(same), 1),
            Some('a') => (Some('\u{7}'), 1),
            Some('b') => (Some('\u{8}'), 1),
            Some('f') => (Some('\u{c}'), 1),
            Some('n') => (Some('\n'), 1),
            Some('r') => (Some('\r'), 1),
            Some('t') => (Some('\t'), 1),
            Some('v') => (Some('\u{b}'), 1),
            Some('u') => (code(after.get(1..5)), 5),
            Some('U') => (code(after.get(1..9)), 9),
            _ => (None, 0),
        };
        text.push(character.ok_or_else(|| {
            let shown: String = after.chars().take(1).collect();
            format!("'\\{shown}' is not an escape sequence: write a backslash as \\\\")
        })?);
        rest = &after[length..];
    }
    text.push_str(rest);
    Ok(text)
}

fn code(digits: Option<&str>) -> Option<char> {
    let digits = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
    char::from_u32(u32::from_str_radix(digits, 16).ok()?)
}
