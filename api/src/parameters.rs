//! The parameters that the operator declares, and the check of a caller's body against them.

mod format;
mod number;
mod pattern;
mod schema;

use std::collections::BTreeSet;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

pub use self::number::text as number_text;
use self::schema::Scalar;
use crate::config::Invalid;

/// The longest name of a parameter, in bytes.
const MAX_NAME_BYTES: usize = 64;
/// The most undeclared fields that a refusal names.
const MAX_UNKNOWN_NAMES: usize = 10;

/// The declared parameters, compiled.
pub struct Parameters {
    declared: Vec<Declared>,
    schema: Value,
}

struct Declared {
    name: String,
    scalar: Scalar,
    required: bool,
    default: Option<Value>,
}

/// The checked values that a caller supplied, sorted by name.
#[derive(Debug)]
pub struct Supplied(Map<String, Value>);

impl Supplied {
    /// The values as one JSON object. Equal values give the same text, whatever the order and the spacing of the body.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.0).unwrap_or_default() // cannot fail: the names are texts
    }

    /// The names of the parameters.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(|name| &name[..])
    }
}

/// Why a body was refused. The text is for the caller. It names parameters and rules, but no values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The body is not one JSON object.
    #[error("{0}")]
    Malformed(String),
    /// All faults of an object that does not match the declared parameters.
    #[error("{}", .0.iter().map(|fault| &fault.detail[..]).collect::<Vec<_>>().join(" "))]
    Faults(Vec<Fault>),
}

/// One fault of the supplied parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The parameter that it is about. None if it is about the whole body.
    pub parameter: Option<String>,
    /// What is wrong and what to do, in one or two sentences.
    pub detail: String,
}

impl Parameters {
    /// Compiles the declarations. An error names the wrong one and how to correct it.
    /// `prefix` is put before the names of the settings.
    pub fn new(prefix: &str, declarations: &Map<String, Value>) -> Result<Self, Invalid> {
        let (mut declared, mut properties, mut required) = (Vec::new(), Map::new(), Vec::new());
        for (name, declaration) in declarations {
            let (parameter, schema) = declare(name, declaration)
                .map_err(|cure| Invalid::new(format!("{prefix}parameters.{name}"), cure))?;
            if parameter.required {
                required.push(Value::from(name.as_str()));
            }
            properties.insert(name.clone(), Value::Object(schema));
            declared.push(parameter);
        }
        let schema = json!({
            "type": "object", "properties": properties, "required": required, "additionalProperties": false,
        });
        Ok(Self { declared, schema })
    }

    /// The JSON Schema of the body.
    pub fn schema(&self) -> &Value {
        &self.schema
    }

    /// A valid body made of the parameters' examples, defaults and choices. None if these do not give a valid one.
    pub fn example(&self) -> Option<Value> {
        let given = |schema: &Value| {
            let choices = ["/examples/0", "/default", "/enum/0", "/const"];
            choices
                .iter()
                .find_map(|path| schema.pointer(path))
                .cloned()
        };
        let properties = self.schema["properties"].as_object().into_iter().flatten();
        let example: Map<_, _> = properties
            .filter_map(|(name, schema)| Some((name.clone(), given(schema)?)))
            .collect();
        self.faults(&example, &[])
            .is_empty()
            .then_some(example.into())
    }

    /// Whether no parameters are declared.
    pub fn is_empty(&self) -> bool {
        self.declared.is_empty()
    }

    /// Whether a parameter of this name is declared.
    pub fn declares(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn find(&self, name: &str) -> Option<&Declared> {
        self.declared.iter().find(|declared| declared.name == name)
    }

    /// The names of the parameters a body must have.
    pub fn required(&self) -> impl Iterator<Item = &str> {
        let required = self.declared.iter().filter(|declared| declared.required);
        required.map(|declared| &declared.name[..])
    }

    /// Parses and checks a body. An empty body counts as an empty object.
    pub fn check(&self, body: &[u8]) -> Result<Supplied, Refused> {
        let fields = if body.trim_ascii().is_empty() {
            Fields(Vec::new())
        } else {
            self.parse(body)?
        };
        let (mut values, mut faults) = (Map::new(), Vec::new());
        for (name, text) in fields.0 {
            match number::value(text.get()) {
                Ok(value) => drop(values.insert(name, value)),
                Err(number::Unusable::Inexact) => faults.push(inexact(&name, self)),
                Err(number::Unusable::NotJson(error)) => return Err(malformed(&error)),
            }
        }
        faults.extend(self.faults(&values, &faults));
        if faults.is_empty() {
            values.sort_keys();
            Ok(Supplied(values))
        } else {
            Err(Refused::Faults(faults))
        }
    }

    fn parse<'a>(&self, body: &'a [u8]) -> Result<Fields<'a>, Refused> {
        if body.trim_ascii_start().starts_with(b"{") {
            return serde_json::from_slice(body).map_err(|error| malformed(&error));
        }
        let text: &RawValue = serde_json::from_slice(body).map_err(|error| malformed(&error))?;
        match text.get() {
            "null" => Err(Refused::Malformed(
                "The body must be a JSON object, not null.".to_owned(),
            )),
            _ => Err(Refused::Faults(vec![Fault {
                parameter: None,
                detail: self.expected(),
            }])),
        }
    }

    /// The value of a parameter: the supplied one, or else its default.
    pub fn value<'a>(&'a self, supplied: &'a Supplied, name: &str) -> Option<&'a Value> {
        let default = || self.find(name)?.default.as_ref();
        supplied.0.get(name).or_else(default)
    }

    /// The names of the declared parameters.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.declared.iter().map(|declared| &declared.name[..])
    }

    /// All faults of the values, including those that are known already.
    fn faults(&self, values: &Map<String, Value>, known: &[Fault]) -> Vec<Fault> {
        let (mut faults, mut unknown) = (Vec::new(), Vec::new());
        for (name, value) in values {
            let Some(declared) = self.find(name) else {
                unknown.push(name);
                continue;
            };
            if let Err(rule) = declared.scalar.check(value) {
                faults.push(Fault::of(name, &format!("is not valid: {rule}")));
            }
        }
        let is_known = |name: &str| known.iter().any(|f| f.parameter.as_deref() == Some(name));
        for name in self.required() {
            if !values.contains_key(name) && !is_known(name) {
                faults.push(Fault::of(name, "is required"));
            }
        }
        let names = unknown.iter().take(MAX_UNKNOWN_NAMES);
        faults.extend(names.map(|name| Fault {
            parameter: may_be_repeated(name).then(|| (*name).clone()),
            detail: if may_be_repeated(name) {
                format!("The field {name} is not a declared parameter.")
            } else {
                "A field is not a declared parameter.".to_owned()
            },
        }));
        if !unknown.is_empty() || self.required().any(|name| !values.contains_key(name)) {
            faults.push(Fault {
                parameter: None,
                detail: self.expected(),
            });
        }
        faults
    }

    /// Describes a valid body.
    fn expected(&self) -> String {
        let names: Vec<_> = self.names().collect();
        let required: Vec<_> = self.required().collect();
        if names.is_empty() {
            return "No parameters are declared: the body must be empty or {}. The operator declares them under [parameters]."
                .to_owned();
        }
        let allowed = format!(
            "The body must be a JSON object with no other fields than: {}.",
            names.join(", ")
        );
        if required.is_empty() {
            return allowed;
        }
        format!("{allowed} Required: {}.", required.join(", "))
    }
}

impl Fault {
    fn of(parameter: &str, what: &str) -> Self {
        Self {
            parameter: Some(parameter.to_owned()),
            detail: format!("The parameter {parameter} {what}."),
        }
    }
}

/// Whether a parameter can have this name.
fn is_name(name: &str) -> bool {
    let mut characters = name.bytes();
    characters.next().is_some_and(|c| c.is_ascii_alphabetic())
        && characters.all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'-')
        && name.len() <= MAX_NAME_BYTES
}

/// Whether the name of an undeclared field may be repeated: it looks like a misspelt word, and not like a secret in the wrong place.
fn may_be_repeated(name: &str) -> bool {
    let digits = name.bytes().filter(u8::is_ascii_digit).count();
    is_name(name) && name.len() <= 32 && digits <= 4 && !name.contains('-')
}

/// The fault of a number that cannot be passed on without changing its value.
fn inexact(name: &str, parameters: &Parameters) -> Fault {
    let what = "is a number that cannot be passed on exactly: send it as text, as a parameter of type string";
    if parameters.declares(name) {
        Fault::of(name, what)
    } else {
        Fault {
            parameter: None,
            detail: parameters.expected(),
        }
    }
}

/// Compiles the declaration of one parameter. The error says how to correct it.
fn declare(name: &str, declaration: &Value) -> Result<(Declared, Map<String, Value>), String> {
    if !is_name(name) || name == "scope" {
        let cure = "a parameter's name is 1 to 64 letters, digits, _ or -, begins with a letter, and is not `scope`";
        return Err(cure.to_owned());
    }
    let Value::Object(mut schema) = declaration.clone() else {
        return Err(r#"must be a table such as { type = "string" }"#.to_owned());
    };
    let required = match schema.shift_remove("required") {
        None => false,
        Some(Value::Bool(required)) => required,
        Some(_) => return Err("`required` must be true or false".to_owned()),
    };
    let scalar = Scalar::new(&schema)?;
    if scalar.is_contradictory() {
        return Err("allows no value: its minimum is greater than its maximum".to_owned());
    }
    let listed = schema.get("enum").and_then(Value::as_array);
    let mut listed = listed.into_iter().flatten().chain(schema.get("const"));
    if let Some(rule) = listed.find_map(|value| scalar.check(value).err()) {
        return Err(format!("its enum has a value that is not valid: {rule}"));
    }
    let default = schema.get("default").cloned();
    if let Some(rule) = default
        .as_ref()
        .and_then(|default| scalar.check(default).err())
    {
        return Err(format!("its default is not valid: {rule}"));
    }
    let declared = Declared {
        name: name.to_owned(),
        scalar,
        required,
        default,
    };
    Ok((declared, schema))
}

/// Describes a parse error. The parser's message is not used, since it names Rust types and may quote the body.
fn malformed(error: &serde_json::Error) -> Refused {
    let what = match error.classify() {
        Category::Eof => "ends too early",
        Category::Data => "has a name twice",
        Category::Syntax | Category::Io => "is not JSON",
    };
    let (line, column) = (error.line(), error.column());
    Refused::Malformed(format!(
        "The body {what}: see line {line}, column {column}. Send one JSON object in UTF-8 that has each name once."
    ))
}

/// The fields of an object, with the texts of their values. Each name is unique.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueNames)
    }
}

/// Refuses an object that has a name twice, since two parsers could read different values from it.
struct UniqueNames;

impl<'de> Visitor<'de> for UniqueNames {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut fields, mut seen) = (Vec::new(), BTreeSet::new());
        while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom("a name occurs twice"));
            }
            fields.push((name, value));
        }
        Ok(Fields(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(toml: &str) -> Map<String, Value> {
        toml::from_str(toml).unwrap()
    }

    fn parameters() -> Parameters {
        let declarations = r#"
            document = { type = "string", pattern = "^[a-z]{1,8}$", required = true }
            limit = { type = "integer", minimum = 1, maximum = 1000, default = 100 }
        "#;
        Parameters::new("", &declared(declarations)).unwrap()
    }

    #[test]
    fn a_body_that_fits_gets_its_defaults() {
        let parameters = parameters();
        let supplied = parameters.check(br#" {"document":"a"} "#).unwrap();
        assert_eq!(parameters.value(&supplied, "document"), Some(&json!("a")));
        assert_eq!(parameters.value(&supplied, "limit"), Some(&json!(100)));
    }

    #[test]
    fn all_faults_are_named_and_no_value_is_repeated() {
        let body = r#"{"limit":"CANARY","sleep":"CANARY","CANARY value":1}"#;
        let Refused::Faults(faults) = parameters().check(body.as_bytes()).unwrap_err() else {
            panic!("{body} is JSON");
        };
        let details: Vec<_> = faults.iter().map(|fault| &fault.detail[..]).collect();
        assert_eq!(
            details,
            [
                "The parameter limit is not valid: it must be a whole number.",
                "The parameter document is required.",
                "The field sleep is not a declared parameter.",
                "A field is not a declared parameter.",
                "The body must be a JSON object with no other fields than: document, limit. Required: document.",
            ]
        );
        let about: Vec<_> = faults.iter().map(|f| f.parameter.as_deref()).collect();
        assert_eq!(
            about,
            [Some("limit"), Some("document"), Some("sleep"), None, None]
        );
    }

    #[test]
    fn a_body_that_is_not_an_object_is_refused_with_what_is_expected() {
        for body in ["", "{}", "[]", "\"CANARY\"", "1", "true"] {
            let refused = parameters().check(body.as_bytes()).unwrap_err();
            assert!(matches!(refused, Refused::Faults(_)), "{body}");
            let detail = refused.to_string();
            assert!(
                detail.contains("document, limit") && !detail.contains("CANARY"),
                "{detail}"
            );
        }
    }

    #[test]
    fn a_number_that_cannot_be_passed_on_exactly_is_refused() {
        let refused = parameters().check(br#"{"document":"a","limit":18446744073709551617}"#);
        let detail = refused.unwrap_err().to_string();
        assert!(
            detail.starts_with("The parameter limit is a number that cannot be passed on exactly"),
            "{detail}"
        );
    }

    #[test]
    fn a_body_that_is_not_json_is_malformed() {
        let deep = "[".repeat(10_000);
        let deep_value = format!(
            r#"{{"limit":{}{}}}"#,
            "[".repeat(10_000),
            "]".repeat(10_000)
        );
        let texts = [
            "{",
            "{} x",
            "{}{}",
            "{'a':1}",
            "{/*x*/}",
            r#"{"a":1,}"#,
            r#"{"a":NaN}"#,
            r#"{"a":01}"#,
            "\u{feff}{}",
            "null",
            r#"{"a":"\ud800"}"#,
            r#"{"limit":1,"limit":2}"#,
            &deep,
            &deep_value,
        ];
        for text in texts {
            let refused = parameters().check(text.as_bytes());
            assert!(matches!(refused, Err(Refused::Malformed(_))), "{text:.40}");
        }
        let refused = parameters().check(b"{\"a\":\"\xff\"}");
        assert!(matches!(refused, Err(Refused::Malformed(_))));
    }

    #[test]
    fn an_invalid_declaration_is_refused_with_its_setting_and_the_cure() {
        let cases = [
            ("scope = { type = \"string\" }", "not `scope`"),
            ("\"a b\" = { type = \"string\" }", "letters"),
            ("a = 1", "must be a table"),
            ("a = {}", "needs a `type`"),
            ("a = { type = \"object\" }", "needs a `type`"),
            (
                "a = { type = \"string\", pattren = \"x\" }",
                "knows no `pattren`",
            ),
            (
                "a = { type = \"string\", pattern = \"(\" }",
                "`pattern` cannot be used",
            ),
            (
                "a = { type = \"string\", pattern = \"(?=x)\" }",
                "`pattern` cannot be used",
            ),
            (
                "a = { type = \"string\", pattern = 1 }",
                "`pattern` must be a text",
            ),
            (
                "a = { type = \"integer\", minimum = \"x\" }",
                "`minimum` must be a number",
            ),
            (
                "a = { type = \"integer\", multipleOf = 0 }",
                "greater than 0",
            ),
            (
                "a = { type = \"string\", maxLength = -1 }",
                "a whole number",
            ),
            ("a = { type = \"string\", enum = [] }", "a list"),
            (
                "a = { type = \"integer\", maxLength = 1 }",
                "is for the types: string",
            ),
            (
                "a = { type = \"string\", format = \"dat\" }",
                "knows no `dat`",
            ),
            ("a = { type = \"integer\", default = \"x\" }", "default"),
            ("a = { type = \"string\", required = 1 }", "true or false"),
        ];
        for (toml, cure) in cases {
            let message = Parameters::new("", &declared(toml))
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default();
            assert!(
                message.starts_with("parameters.") && message.contains(cure),
                "{toml}: {message}"
            );
        }
    }
}
