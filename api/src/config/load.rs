//! Reads the layers of settings: `default.toml`, the file named by `API_CONFIG`, `API__SECTION__KEY`, Cloud Run's `PORT`.
//! The only file that reads the environment.

use std::collections::HashMap;
use std::env;
use std::fmt::Display;
use std::fs;
use std::str::FromStr;

use config::{Environment, File, FileFormat};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::{Config, Grant, Invalid, METADATA_HOST, Platform};

const DEFAULTS: &str = include_str!("../../default.toml");

impl Config {
    /// Only the values of `default.toml`, for tests and for programs that embed the service.
    pub fn defaults() -> Result<Self, Invalid> {
        read(config::Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml)))
    }

    /// Reads all layers. `App::new` checks the values against each other.
    pub fn load() -> Result<Self, Invalid> {
        let mut builder =
            config::Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
        if let Some(path) = optional("API_CONFIG")? {
            let text = settings_file(&path)?;
            builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
        }
        let Variables {
            templates,
            mut others,
        } = own_variables()?;
        for table in inline_processes(&mut others)? {
            builder = builder.add_source(File::from_str(&table, FileFormat::Toml));
        }
        let environment = Environment::with_prefix("API")
            .prefix_separator("__")
            .separator("__");
        builder = builder.add_source(environment.source(Some(others)));
        let overriding =
            |name: &str, error: config::ConfigError| Invalid::new(name, error.to_string());
        for (key, template) in templates {
            builder = builder
                .set_override(&key, template)
                .map_err(|e| overriding(&key, e))?;
        }
        builder = builder
            .set_override_option("port", platform_port()?)
            .map_err(|e| overriding("port", e))?;
        let mut config = read(builder)?;
        config.platform = platform()?;
        Ok(config)
    }
}

/// The environment variables that are settings.
struct Variables {
    /// `API__OVERRIDES__ENV__NAME`, also of processes, by the setting's key. They are kept apart, since the config crate converts
    /// keys to lower case, and the names of the job's variables are case-sensitive.
    templates: Vec<(String, String)>,
    others: config::Map<String, String>,
}

fn own_variables() -> Result<Variables, Invalid> {
    let (mut templates, mut others) = (Vec::new(), config::Map::new());
    let settings = setting_variables()?;
    for (name, value) in env::vars_os() {
        let Some(name) = name.to_str() else { continue };
        if let Some(right) = settings.get(&words(name)).filter(|right| *right != name) {
            return Err(Invalid::new(name, format!("is not read: write {right}")));
        }
        if !name.starts_with("API__") {
            continue;
        }
        let value = value
            .into_string()
            .map_err(|_| Invalid::new(name, "must be valid UTF-8"))?;
        match name.split_once("OVERRIDES__ENV__") {
            Some((before, job_variable)) => {
                let section = before.strip_prefix("API__").unwrap_or_default();
                let section = section.replace("__", ".").to_lowercase();
                let key = format!("{section}overrides.env.{job_variable}");
                templates.push((key, value));
            }
            None => drop(others.insert(name.to_owned(), value)),
        }
    }
    Ok(Variables { templates, others })
}

/// The text of the settings file. An error names the line number but does not quote the line, which may hold a secret.
fn settings_file(path: &str) -> Result<String, Invalid> {
    let invalid = |what: String| Invalid::new("API_CONFIG", format!("{path} {what}"));
    let text = fs::read_to_string(path).map_err(|e| invalid(format!("cannot be read: {e}")))?;
    toml::from_str::<toml::Table>(&text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map_or(1, |before| before.matches('\n').count() + 1);
        invalid(format!(
            "is not TOML: see line {line}: {}",
            one_line(error.message())
        ))
    })?;
    Ok(text)
}

/// Takes `API__PROCESSES` and each `API__PROCESSES__NAME` that is a table out of the variables, as TOML: the first has all
/// processes, the others one each.
fn inline_processes(variables: &mut config::Map<String, String>) -> Result<Vec<String>, Invalid> {
    const ALL: &str = "API__PROCESSES";
    let is_table = |name: &String| {
        let process = name.strip_prefix(ALL).and_then(|n| n.strip_prefix("__"));
        name == ALL || process.is_some_and(|process| !process.contains("__"))
    };
    let mut names: Vec<_> = variables.keys().filter(|n| is_table(n)).cloned().collect();
    names.sort(); // API__PROCESSES comes first, so that the variable of one process overrides it
    let table = |name: String| {
        let text = variables.shift_remove(&name).unwrap_or_default();
        let key = name.trim_start_matches("API__").to_lowercase();
        let key = key.replace("__", ".");
        let example = match &name[..] {
            ALL => r#"{ import = { job = "my-job" } }"#,
            _ => r#"{ job = "my-job" }"#,
        };
        let invalid =
            |why: &str| Invalid::new(&key, format!("is not a table such as {example}: {why}"));
        let value = parse_toml(&text).map_err(|error| invalid(&one_line(error.message())))?;
        let nested = key.split('.').rev().fold(value, |value, part| {
            Value::Object(Map::from_iter([(part.to_owned(), value)]))
        });
        toml::to_string(&nested).map_err(|error| invalid(&one_line(&error.to_string())))
    };
    names.into_iter().map(table).collect()
}

/// Puts a library's message on one line, like all errors of settings.
fn one_line(message: &str) -> String {
    let lines: Vec<_> = message.lines().map(str::trim).collect();
    lines.join(", ")
}

/// The variable of each setting, by its words: API_AUTH_MODE is a misspelt API__AUTH__MODE. Settings of one word are left out,
/// since container platforms set variables such as API_PORT for other purposes.
fn setting_variables() -> Result<HashMap<String, String>, Invalid> {
    fn collect(key: &str, value: &toml::Value, variables: &mut HashMap<String, String>) {
        match value {
            toml::Value::Table(table) if key != "overrides.env" => {
                for (name, value) in table {
                    collect(&format!("{key}.{name}"), value, variables);
                }
            }
            _ => {
                let variable = variable(key.trim_start_matches('.'));
                variables.insert(words(&variable), variable);
            }
        }
    }
    let defaults: toml::Table = toml::from_str(DEFAULTS)
        .map_err(|error| Invalid::new("configuration", error.to_string()))?;
    let mut variables = HashMap::new();
    for (section, value) in defaults.iter().filter(|(_, value)| value.is_table()) {
        collect(section, value, &mut variables);
    }
    Ok(variables)
}

/// The words of a variable's name, without regard to case and to the number of underscores between them.
fn words(name: &str) -> String {
    let words: Vec<_> = name.split('_').filter(|word| !word.is_empty()).collect();
    words.join("_").to_uppercase()
}

/// The port from Cloud Run's variable PORT.
fn platform_port() -> Result<Option<u16>, Invalid> {
    let invalid = |_| Invalid::new("PORT", "must be a port, such as 8080");
    optional("PORT")?
        .map(|text| text.parse().map_err(invalid))
        .transpose()
}

fn platform() -> Result<Platform, Invalid> {
    let metadata_host = optional("GCE_METADATA_HOST")?.unwrap_or_else(|| METADATA_HOST.to_owned());
    let firestore_host = optional("FIRESTORE_EMULATOR_HOST")?;
    Ok(Platform {
        cloud_run: env::var_os("K_SERVICE").is_some(),
        metadata_host,
        firestore_host,
    })
}

/// A variable that is not a setting. An empty one counts as absent, since shells and deploy tools often leave empty ones.
fn optional(name: &str) -> Result<Option<String>, Invalid> {
    match env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(Invalid::new(name, "must be valid UTF-8")),
    }
}

fn read(builder: config::ConfigBuilder<config::builder::DefaultState>) -> Result<Config, Invalid> {
    let built = builder.build().map_err(unreadable)?;
    built.try_deserialize().map_err(unreadable)
}

/// Adds the setting to an error of the config crate.
fn unreadable(error: config::ConfigError) -> Invalid {
    match error {
        config::ConfigError::At {
            error,
            key: Some(key),
            ..
        } => Invalid::new(key, error.to_string()),
        config::ConfigError::Type {
            key: Some(key),
            expected,
            ..
        } => Invalid::new(key, format!("must be {expected}")),
        config::ConfigError::NotFound(key) => Invalid::new(key, "is missing"),
        other => Invalid::new("configuration", other.to_string()),
    }
}

/// The environment's name of a setting such as `cloud_run.job`. A name that is not a setting's key stays as it is.
pub(super) fn variable(setting: &str) -> String {
    match setting {
        "configuration" => "API_CONFIG or API__…".to_owned(),
        name if name.bytes().all(|c| c.is_ascii_uppercase() || c == b'_') => {
            "environment".to_owned()
        }
        key => format!("API__{}", key.replace('.', "__").to_uppercase()),
    }
}

/// A TOML array, or in the environment its text, or values separated by commas.
pub(super) fn comma_list<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    match Value::deserialize(d)? {
        Value::String(text) if !text.trim_start().starts_with('[') => {
            let items = text.split(',').map(str::trim);
            Ok(items
                .filter(|item| !item.is_empty())
                .map(str::to_owned)
                .collect())
        }
        value => from_toml(value),
    }
}

/// One of the type's values, in upper or lower case.
pub(super) fn choice<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let word = String::deserialize(deserializer)?.to_lowercase();
    let choice = serde_json::from_value(Value::String(word));
    choice.map_err(|error| D::Error::custom(format!("is not one of its values: {error}")))
}

/// A text. An empty one means that the setting is absent.
pub(super) fn empty_as_none<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(D::Error::custom)
}

/// A TOML array, or in the environment its text.
pub(super) fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    toml_value(deserializer)
}

/// The same for a setting that may be absent.
pub(super) fn optional_choice<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    choice(deserializer).map(Some)
}

pub(super) fn optional_setting<'de, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<Option<String>>, D::Error> {
    empty_as_none(d).map(Some)
}

pub(super) fn optional_list<'de, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<Vec<String>>, D::Error> {
    list(d).map(Some)
}

pub(super) fn optional_table<'de, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<Map<String, Value>>, D::Error> {
    table(d).map(Some)
}

/// TOML tables, or in the environment the path of a file with tables `[[grants]]`.
pub(super) fn grants<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Grant>, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Grants {
        grants: Vec<Grant>,
    }
    let path = match Value::deserialize(deserializer)? {
        Value::String(path) if !path.trim_start().starts_with('[') => path,
        tables => return from_toml(tables),
    };
    if path.is_empty() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(&path)
        .map_err(|error| D::Error::custom(format!("{path} cannot be read: {error}")))?;
    let file: Grants = toml::from_str(&text).map_err(|error| {
        D::Error::custom(format!("{path} has wrong [[grants]]: {}", error.message()))
    })?;
    Ok(file.grants)
}

/// A TOML table, or in the environment the text of an inline table.
pub(super) fn table<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Map<String, Value>, D::Error> {
    let mut table: Map<String, Value> = toml_value(deserializer)?;
    for value in table.values_mut() {
        // `API__PARAMETERS__LIMIT={ type = "integer" }` gives one entry of the table, whose value is still text.
        if let Some(inline) = value
            .as_str()
            .filter(|text| text.trim_start().starts_with('{'))
            && let Ok(parsed) = parse_toml(inline)
        {
            *value = parsed;
        }
    }
    Ok(table)
}

fn toml_value<'de, D: Deserializer<'de>, T: DeserializeOwned>(d: D) -> Result<T, D::Error> {
    from_toml(Value::deserialize(d)?)
}

/// A value of the settings file, or its text in the environment.
fn from_toml<T: DeserializeOwned, E: serde::de::Error>(value: Value) -> Result<T, E> {
    let value = match value {
        Value::String(text) => parse_toml(&text).map_err(|error| {
            E::custom(format!(
                "is neither a TOML value nor JSON: {}",
                error.message()
            ))
        })?,
        value => value,
    };
    serde_json::from_value(value).map_err(E::custom)
}

/// Parses one TOML value such as `["--all"]`, or JSON such as `{"A": "b"}`, which many people write instead.
fn parse_toml(text: &str) -> Result<Value, toml::de::Error> {
    if let Ok(value @ (Value::Array(_) | Value::Object(_))) = serde_json::from_str(text) {
        return Ok(value);
    }
    let document: Map<String, Value> = toml::from_str(&format!("value = {text}"))?;
    Ok(document
        .into_iter()
        .next()
        .map_or(Value::Null, |(_, value)| value))
}
