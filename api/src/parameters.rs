//! The parameters an operator declares, and the body of a caller checked against them.

use jsonschema::{PatternOptions, Validator};
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, json};

use crate::config::Invalid;
use crate::problem::{Kind, Problem};

/// The keywords that a parameter's schema may use. An unknown one is most likely misspelt, and would check nothing.
const KEYWORDS: &[&str] = &[
    "type",
    "title",
    "description",
    "default",
    "examples",
    "required",
    "enum",
    "const",
    "pattern",
    "format",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
];
/// A parameter ends up in an argument or a variable, so it is one scalar.
const TYPES: &[&str] = &["string", "integer", "number", "boolean"];

/// The declared parameters, compiled.
pub struct Parameters {
    schema: Value,
    validator: Validator,
    defaults: Map<String, Value>,
}

/// The values a caller gave, checked.
#[derive(Debug)]
pub struct Given(Map<String, Value>);

impl Given {
    /// The same text for the same values, in whatever order they come and however they are spaced.
    pub fn canonical(&self) -> String {
        let mut fields: Vec<_> = self.0.iter().collect();
        fields.sort_by_key(|(name, _)| *name);
        fields
            .iter()
            .map(|(name, value)| format!("{name:?}:{value},"))
            .collect()
    }
}

impl Parameters {
    /// Compiles the declarations; says which of them is wrong and how to mend it.
    pub fn new(declared: &Map<String, Value>) -> Result<Self, Invalid> {
        let (mut properties, mut required, mut defaults) = (Map::new(), Vec::new(), Map::new());
        for (name, declaration) in declared {
            let mut schema = declaration_of(name, declaration)?;
            if schema.remove("required") == Some(Value::Bool(true)) {
                required.push(Value::from(name.as_str()));
            }
            if let Some(default) = schema.get("default") {
                defaults.insert(name.clone(), default.clone());
            }
            properties.insert(name.clone(), Value::Object(schema));
        }
        let schema = json!({
            "type": "object", "properties": properties, "required": required, "additionalProperties": false,
        });
        let validator = compile("parameters", &schema)?;
        Ok(Self {
            schema,
            validator,
            defaults,
        })
    }

    /// The JSON Schema of the body.
    pub fn schema(&self) -> &Value {
        &self.schema
    }

    /// A body that passes, made of the parameters' own examples, defaults and choices, if that gives one.
    pub fn example(&self) -> Option<Value> {
        let given = |schema: &Value| {
            let choices = ["/examples/0", "/default", "/enum/0", "/const"];
            choices
                .iter()
                .find_map(|path| schema.pointer(path))
                .cloned()
        };
        let properties = self.schema["properties"].as_object();
        let example = properties
            .into_iter()
            .flatten()
            .filter_map(|(name, schema)| Some((name.clone(), given(schema)?)))
            .collect();
        self.validator.is_valid(&example).then_some(example)
    }

    /// Whether a parameter of this name is declared.
    pub fn declares(&self, name: &str) -> bool {
        self.schema["properties"].get(name).is_some()
    }

    /// The names of the parameters a body must have.
    pub fn required(&self) -> impl Iterator<Item = &str> {
        self.schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
    }

    /// The values of a body. An empty body is an empty object.
    pub fn check(&self, body: &[u8]) -> Result<Given, Problem> {
        let given = if body.trim_ascii().is_empty() {
            Value::Object(Map::new())
        } else {
            parse(body)?
        };
        self.validator
            .validate(&given)
            .map_err(|error| self.refusal(&error))?;
        match given {
            Value::Object(values) => Ok(Given(values)),
            _ => Err(Problem::new(
                Kind::ValidationFailed,
                "The body must be a JSON object.",
            )),
        }
    }

    /// The given values with the defaults of those that were not given.
    pub fn complete(&self, given: Given) -> Map<String, Value> {
        let Given(mut values) = given;
        for (name, default) in &self.defaults {
            if !values.contains_key(name) {
                values.insert(name.clone(), default.clone());
            }
        }
        values
    }

    /// Names the parameter and the rule, never the value: it may be long, hostile or secret.
    fn refusal(&self, error: &jsonschema::ValidationError<'_>) -> Problem {
        let place = error.instance_path().to_string();
        let detail = match place.strip_prefix('/').filter(|name| self.declares(name)) {
            Some(name) => format!("The parameter {name} is not valid: {}.", error.masked()),
            None => self.unexpected(),
        };
        Problem::new(Kind::ValidationFailed, detail)
    }

    fn unexpected(&self) -> String {
        let names: Vec<_> = self.schema["properties"]
            .as_object()
            .into_iter()
            .flat_map(Map::keys)
            .cloned()
            .collect();
        let required: Vec<_> = self.required().collect();
        match (names.is_empty(), required.is_empty()) {
            (true, _) => "No parameters are declared: the body must be empty or {}.".to_owned(),
            (_, true) => format!(
                "The body must be a JSON object with no other fields than: {}.",
                names.join(", ")
            ),
            _ => format!(
                "The body must be a JSON object with no other fields than: {}. Required: {}.",
                names.join(", "),
                required.join(", "),
            ),
        }
    }
}

fn declaration_of(name: &str, declaration: &Value) -> Result<Map<String, Value>, Invalid> {
    let invalid = |cure: String| Invalid::new(format!("parameters.{name}"), cure);
    let mut characters = name.bytes();
    let legal = characters.next().is_some_and(|c| c.is_ascii_alphabetic())
        && characters.all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'-')
        && name.len() <= 64;
    if !legal || name == "scope" {
        let cure = "a parameter's name is 1 to 64 letters, digits, _ or -, begins with a letter, and is not `scope`";
        return Err(invalid(cure.to_owned()));
    }
    let Value::Object(schema) = declaration else {
        return Err(invalid(
            r#"must be a table such as { type = "string" }"#.to_owned(),
        ));
    };
    if let Some(unknown) = schema.keys().find(|key| !KEYWORDS.contains(&key.as_str())) {
        return Err(invalid(format!(
            "knows no `{unknown}`; use some of: {}",
            KEYWORDS.join(", ")
        )));
    }
    if !schema
        .get("type")
        .and_then(Value::as_str)
        .is_some_and(|kind| TYPES.contains(&kind))
    {
        return Err(invalid(format!(
            "needs a `type`, one of: {}",
            TYPES.join(", ")
        )));
    }
    if schema
        .get("required")
        .is_some_and(|required| !required.is_boolean())
    {
        return Err(invalid("`required` must be true or false".to_owned()));
    }
    let mut own = schema.clone();
    own.remove("required");
    let validator = compile(&format!("parameters.{name}"), &Value::Object(own))?;
    if let Some(error) = schema
        .get("default")
        .and_then(|default| validator.validate(default).err())
    {
        return Err(invalid(format!("its own default does not pass: {error}")));
    }
    Ok(schema.clone())
}

/// Patterns run on an engine whose time is linear in the text, so that no pattern can be made to hang on a body.
fn compile(setting: &str, schema: &Value) -> Result<Validator, Invalid> {
    jsonschema::draft202012::options()
        .with_pattern_options(PatternOptions::regex())
        .should_validate_formats(true)
        .build(schema)
        .map_err(|error| Invalid::new(setting, format!("is no valid JSON Schema: {error}")))
}

fn parse(body: &[u8]) -> Result<Value, Problem> {
    let malformed = |error: serde_json::Error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        let detail = format!(
            "The body must be one JSON object in UTF-8, each name once; it is not at {place}."
        );
        Problem::new(Kind::MalformedJson, detail)
    };
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = UniqueNames
        .deserialize(&mut deserializer)
        .map_err(malformed)?;
    deserializer.end().map_err(malformed)?;
    if value.is_null() {
        return Err(Problem::new(
            Kind::MalformedJson,
            "The body must be a JSON object, not null.",
        ));
    }
    Ok(value)
}

/// Reads any JSON value but an object that has a name twice: two readers could each see another value in it.
struct UniqueNames;

impl<'de> DeserializeSeed<'de> for UniqueNames {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for UniqueNames {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element_seed(UniqueNames)? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let value = fields.next_value_seed(UniqueNames)?;
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a name occurs twice"));
            }
        }
        Ok(object.into())
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
        Parameters::new(&declared(declarations)).unwrap()
    }

    #[test]
    fn a_body_that_fits_gets_its_defaults() {
        let parameters = parameters();
        let values = parameters.complete(parameters.check(br#" {"document":"a"} "#).unwrap());
        assert_eq!(
            Value::Object(values),
            json!({"document": "a", "limit": 100})
        );
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name_and_never_echoed() {
        let detail = |body: &str| {
            let problem = parameters().check(body.as_bytes()).unwrap_err();
            assert_eq!(problem.kind, Kind::ValidationFailed, "{body}");
            format!("{problem:?}")
        };
        for body in [
            r#"{"document":"CANARY"}"#,
            r#"{"document":"a","limit":0}"#,
            r#"{"document":"a","limit":"CANARY"}"#,
        ] {
            let detail = detail(body);
            assert!(
                detail.contains("The parameter ") && !detail.contains("CANARY"),
                "{detail}"
            );
        }
        for body in [
            "",
            "{}",
            "[]",
            "\"CANARY\"",
            "1",
            r#"{"document":"a","CANARY":1}"#,
        ] {
            let detail = detail(body);
            assert!(
                detail.contains("document, limit") && detail.contains("Required: document"),
                "{detail}"
            );
            assert!(!detail.contains("CANARY"), "{detail}");
        }
    }

    #[test]
    fn what_is_no_json_is_malformed() {
        let deep = "[".repeat(10_000);
        let texts = [
            "{",
            "{} x",
            "{}{}",
            "{'a':1}",
            "{/*x*/}",
            r#"{"a":1,}"#,
            r#"{"a":NaN}"#,
            "\u{feff}{}",
            "null",
            r#"{"a":"\ud800"}"#,
            r#"{"limit":1,"limit":2}"#,
            r#"{"a":{"b":1,"b":1}}"#,
            &deep,
        ];
        for text in texts {
            assert_eq!(
                parameters().check(text.as_bytes()).unwrap_err().kind,
                Kind::MalformedJson,
                "{text:.40}"
            );
        }
        assert_eq!(
            parameters().check(b"{\"a\":\"\xff\"}").unwrap_err().kind,
            Kind::MalformedJson
        );
    }

    #[test]
    fn a_declaration_that_cannot_work_names_itself_and_the_cure() {
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
                "valid JSON Schema",
            ),
            (
                "a = { type = \"string\", pattern = \"(?=x)\" }",
                "valid JSON Schema",
            ),
            (
                "a = { type = \"integer\", minimum = \"x\" }",
                "valid JSON Schema",
            ),
            ("a = { type = \"integer\", default = \"x\" }", "default"),
            ("a = { type = \"string\", required = 1 }", "true or false"),
        ];
        for (toml, cure) in cases {
            let message = Parameters::new(&declared(toml))
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
