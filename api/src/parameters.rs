//! The parameters an operator declares, and the body of a caller checked against them.

mod format;
mod pattern;
mod schema;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, json};

use self::schema::Scalar;
use crate::config::Invalid;
use crate::http::problem::{Kind, Problem};

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
    pub fn new(declarations: &Map<String, Value>) -> Result<Self, Invalid> {
        let (mut declared, mut properties, mut required) = (Vec::new(), Map::new(), Vec::new());
        for (name, declaration) in declarations {
            let (parameter, schema) = declare(name, declaration)
                .map_err(|cure| Invalid::new(format!("parameters.{name}"), cure))?;
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

    /// A body that passes, made of the parameters' own examples, defaults and choices, if that gives one.
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
        self.allow(&example).is_ok().then_some(example.into())
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

    /// The values of a body. An empty body is an empty object.
    pub fn check(&self, body: &[u8]) -> Result<Given, Problem> {
        let given = if body.trim_ascii().is_empty() {
            Value::Object(Map::new())
        } else {
            parse(body)?
        };
        match given {
            Value::Object(values) => self.allow(&values).map(|()| Given(values)),
            _ => Err(Problem::new(Kind::ValidationFailed, self.unexpected())),
        }
    }

    /// The given values with the defaults of those that were not given.
    pub fn complete(&self, given: Given) -> Map<String, Value> {
        let Given(mut values) = given;
        for declared in &self.declared {
            if let Some(default) = &declared.default
                && !values.contains_key(&declared.name)
            {
                values.insert(declared.name.clone(), default.clone());
            }
        }
        values
    }

    /// Names the parameter and the rule, never the value.
    fn allow(&self, values: &Map<String, Value>) -> Result<(), Problem> {
        let refuse = |detail| Err(Problem::new(Kind::ValidationFailed, detail));
        for (name, value) in values {
            let Some(declared) = self.find(name) else {
                return refuse(self.unexpected());
            };
            if let Err(rule) = declared.scalar.check(value) {
                return refuse(format!("The parameter {name} is not valid: {rule}."));
            }
        }
        match self.required().all(|name| values.contains_key(name)) {
            true => Ok(()),
            false => refuse(self.unexpected()),
        }
    }

    fn unexpected(&self) -> String {
        let names: Vec<_> = self
            .declared
            .iter()
            .map(|declared| &declared.name[..])
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

/// A parameter as it is declared, and its schema; the error is the cure.
fn declare(name: &str, declaration: &Value) -> Result<(Declared, Map<String, Value>), String> {
    let mut characters = name.bytes();
    let legal = characters.next().is_some_and(|c| c.is_ascii_alphabetic())
        && characters.all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'-')
        && name.len() <= 64;
    if !legal || name == "scope" {
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
    let default = schema.get("default").cloned();
    if let Some(rule) = default
        .as_ref()
        .and_then(|default| scalar.check(default).err())
    {
        return Err(format!("its own default does not pass: {rule}"));
    }
    let declared = Declared {
        name: name.to_owned(),
        scalar,
        required,
        default,
    };
    Ok((declared, schema))
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
