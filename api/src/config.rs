//! The settings, in layers: `default.toml`, the file named by `API_CONFIG`, `API__SECTION__KEY`, Cloud Run's `PORT`.
//! The only file that reads the environment.

use std::env;
use std::fs;
use std::net::IpAddr;

use config::{Environment, File, FileFormat};
use reqwest::Url;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::auth::Operation;
use crate::metadata::is_name;
use crate::starts::OnRunning;

const DEFAULTS: &str = include_str!("../default.toml");
/// A caller waits that long at most; Cloud Run's front end and browsers wait longer.
const MAX_DEADLINE_SECONDS: u64 = 60;
/// Longer than anybody waits before repeating a request, and shorter than a key lives.
const MAX_QUIET_SECONDS: u64 = 3600;
/// A thousand a second: more than any quota allows, and no overflow.
const MAX_LOG_READS_PER_MINUTE: u32 = 60_000;
/// Where Cloud Run's metadata server answers when `GCE_METADATA_HOST` does not say otherwise (Google's container contract).
const METADATA_HOST: &str = "metadata.google.internal";

/// Every setting, as read; `default.toml` explains each.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Address to listen on.
    pub host: String,
    /// Port to listen on.
    pub port: u16,
    /// What to log, as `tracing` filters are written.
    pub log: String,
    /// Who may call.
    pub auth: Auth,
    /// Pages of other origins.
    pub cors: Cors,
    /// How much is too much.
    pub limits: Limits,
    /// The job and where it is.
    pub cloud_run: CloudRun,
    /// Where the job's lines are read.
    pub cloud_logging: CloudLogging,
    /// What of the scope and the parameters reaches the job.
    pub overrides: Overrides,
    /// The declared parameters: a JSON Schema for each.
    #[serde(deserialize_with = "table")]
    pub parameters: Map<String, Value>,
    /// Starting an execution.
    pub start: Start,
    /// Where keys are claimed.
    pub idempotency: Idempotency,
    /// What the surroundings say of themselves.
    #[serde(skip)]
    pub platform: Platform,
}

/// `[auth]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// `public`, `iam` or `jwt`; empty refuses to start.
    pub mode: String,
    /// The tokens of mode `jwt`.
    pub jwt: Jwt,
    /// The claim in which a token lists its scopes; empty: none does.
    pub scope_claim: String,
    /// What claims grant; in the environment the path of a TOML file.
    #[serde(deserialize_with = "grants")]
    pub grants: Vec<Grant>,
}

/// `[auth.jwt]`: empty is what the preset says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwt {
    /// `google`, `firebase` or `iap`; empty: everything by hand.
    pub preset: String,
    /// Who must have made the token: its `iss`.
    pub issuer: String,
    /// For whom it must have been made: one of its `aud`.
    pub audience: String,
    /// Where the issuer's keys are.
    pub jwks_url: String,
    /// `RS256` or `ES256`.
    pub algorithm: String,
    /// The header that has the token; `Authorization` has it after `Bearer`.
    pub header: String,
}

/// `[[auth.grants]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// A claim's name, or a JSON pointer to it.
    pub claim: String,
    /// What it must be, or have in its list.
    pub value: Value,
    /// Scopes, or `*` alone for all.
    pub scopes: Vec<String>,
    /// What may be done to them.
    pub operations: Vec<Operation>,
}

/// `[cors]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    /// Origins whose pages may call, each exactly as browsers send it.
    #[serde(deserialize_with = "comma_list")]
    pub origins: Vec<String>,
}

/// `[limits]`: each at least 1.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Requests of one caller per minute.
    pub caller_per_minute: u32,
    /// Starts for one scope per minute.
    pub scope_per_minute: u32,
    /// Requests at one time.
    pub in_flight: u32,
    /// Event streams and waiting requests at one time.
    pub streams: u32,
    /// Reads of Cloud Logging per minute.
    pub log_reads_per_minute: u32,
}

/// `[cloud_run]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloudRun {
    /// The job to start.
    pub job: String,
    /// Its project id; empty: the metadata server is asked.
    pub project: String,
    /// Its region; empty: the metadata server is asked.
    pub region: String,
    /// The container to override; empty: the only one.
    pub container: String,
    /// Cloud Run's API; empty: the regional one.
    pub base_url: String,
}

/// `[cloud_logging]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloudLogging {
    /// Cloud Logging's API.
    pub base_url: String,
}

/// `[overrides]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overrides {
    /// Templates of the arguments.
    #[serde(deserialize_with = "list")]
    pub args: Vec<String>,
    /// Templates of the environment.
    #[serde(deserialize_with = "table")]
    pub env: Map<String, Value>,
    /// Tasks of each execution.
    pub task_count: Option<u32>,
    /// Seconds for each attempt of a task.
    pub timeout_seconds: Option<u32>,
}

/// `[start]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// Seconds for a start in all.
    pub deadline_seconds: u64,
    /// Seconds after which a send that nobody saw succeed is taken for failed.
    pub quiet_seconds: u64,
    /// What to do when the scope has an unfinished execution.
    pub on_running: OnRunning,
}

/// `[idempotency]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Idempotency {
    /// Where keys are claimed.
    pub store: Store,
}

/// Where keys are claimed before anything is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    /// In this process; right for one instance.
    Memory,
    /// In Firestore; right for many.
    Firestore,
}

/// What is no setting but said by the surroundings, under names that Google chose.
#[derive(Clone, Debug)]
pub struct Platform {
    /// Whether this is Cloud Run: `K_SERVICE` is set there.
    pub cloud_run: bool,
    /// `host:port` of the metadata server, from `GCE_METADATA_HOST`.
    pub metadata_host: String,
    /// `host:port` of a Firestore emulator, from `FIRESTORE_EMULATOR_HOST`.
    pub firestore_host: Option<String>,
}

impl Default for Platform {
    fn default() -> Self {
        Self {
            cloud_run: false,
            metadata_host: METADATA_HOST.to_owned(),
            firestore_host: None,
        }
    }
}

/// A setting that keeps the service from starting: which one, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{setting} ({variable}): {cure}", variable = variable(setting))]
pub struct Invalid {
    setting: String,
    cure: String,
}

impl Invalid {
    /// `setting` is the dotted key; `cure` says what is wrong and how to mend it.
    pub(crate) fn new(setting: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            setting: setting.into(),
            cure: cure.into(),
        }
    }
}

impl Config {
    /// What `default.toml` says and nothing else: for tests and for programs that embed the service.
    pub fn defaults() -> Result<Self, Invalid> {
        read(config::Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml)))
    }

    /// All layers. Values are not yet checked against each other: `App::new` does that.
    pub fn load() -> Result<Self, Invalid> {
        let mut builder =
            config::Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
        if let Some(path) = optional("API_CONFIG")? {
            builder = builder.add_source(File::new(&path, FileFormat::Toml).required(true));
        }
        let Variables { templates, others } = own_variables()?;
        let environment = Environment::with_prefix("API")
            .prefix_separator("__")
            .separator("__");
        builder = builder.add_source(environment.source(Some(others)));
        let overriding =
            |name: &str, error: config::ConfigError| Invalid::new(name, error.to_string());
        for (name, template) in templates {
            let key = format!("overrides.env.{name}");
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

impl Config {
    /// What can be said of single settings without the rest.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        let name = |setting, text: &str, what| match text {
            "" => Ok(()),
            text if is_name(text) => Ok(()),
            _ => Err(Invalid::new(
                setting,
                format!("is no {what}: use lower-case letters, digits and hyphens"),
            )),
        };
        if self.cloud_run.job.is_empty() {
            return Err(Invalid::new(
                "cloud_run.job",
                "must be set to the name of the Cloud Run job to start",
            ));
        }
        name("cloud_run.job", &self.cloud_run.job, "job's name")?;
        name("cloud_run.project", &self.cloud_run.project, "project's id")?;
        name("cloud_run.region", &self.cloud_run.region, "region")?;
        name(
            "cloud_run.container",
            &self.cloud_run.container,
            "container's name",
        )?;
        if self.start.quiet_seconds > MAX_QUIET_SECONDS {
            return Err(Invalid::new(
                "start.quiet_seconds",
                format!("must be 0 to {MAX_QUIET_SECONDS}"),
            ));
        }
        if !(1..=MAX_DEADLINE_SECONDS).contains(&self.start.deadline_seconds) {
            return Err(Invalid::new(
                "start.deadline_seconds",
                format!("must be 1 to {MAX_DEADLINE_SECONDS}"),
            ));
        }
        if !(1..=MAX_LOG_READS_PER_MINUTE).contains(&self.limits.log_reads_per_minute) {
            return Err(Invalid::new(
                "limits.log_reads_per_minute",
                format!("must be 1 to {MAX_LOG_READS_PER_MINUTE}"),
            ));
        }
        if !self.cloud_run.base_url.is_empty() {
            self.upstream("cloud_run.base_url", &self.cloud_run.base_url)?;
        }
        self.upstream("cloud_logging.base_url", &self.cloud_logging.base_url)?;
        if !self.auth.jwt.jwks_url.is_empty() {
            self.upstream("auth.jwt.jwks_url", &self.auth.jwt.jwks_url)?;
        }
        let emulators = [
            (
                "GCE_METADATA_HOST",
                self.platform.metadata_host != METADATA_HOST,
            ),
            (
                "FIRESTORE_EMULATOR_HOST",
                self.platform.firestore_host.is_some(),
            ),
        ];
        match emulators
            .iter()
            .find(|(_, set)| *set && self.platform.cloud_run)
        {
            Some((variable, _)) => Err(Invalid::new(
                *variable,
                "is for emulators: remove it on Cloud Run",
            )),
            None => Ok(()),
        }
    }

    /// What is sent there is secret, or what comes from there is trusted: over TLS, or to this very machine, which on
    /// Cloud Run nobody means.
    fn upstream(&self, setting: &str, text: &str) -> Result<(), Invalid> {
        let url: Url = text
            .parse()
            .map_err(|_| Invalid::new(setting, "must be a URL such as https://host"))?;
        let plain = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        if !plain {
            return Err(Invalid::new(
                setting,
                "must be a URL without user, query and fragment",
            ));
        }
        match (is_loopback(&url), url.scheme()) {
            (true, _) if self.platform.cloud_run => Err(Invalid::new(
                setting,
                "is loopback, for emulators: remove it on Cloud Run",
            )),
            (true, "http") | (_, "https") => Ok(()),
            _ => Err(Invalid::new(
                setting,
                "must be https (http only to loopback)",
            )),
        }
    }
}

/// Whether the URL's host is this very machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Our variables as the environment has them.
struct Variables {
    /// `API__OVERRIDES__ENV__NAME`, by NAME. Apart, since the config crate folds keys to lower case, and the name of a
    /// variable of the job has a case.
    templates: Vec<(String, String)>,
    others: config::Map<String, String>,
}

fn own_variables() -> Result<Variables, Invalid> {
    let (mut templates, mut others) = (Vec::new(), config::Map::new());
    for (name, value) in env::vars_os() {
        let Some(name) = name.to_str().filter(|name| name.starts_with("API__")) else {
            continue;
        };
        let value = value
            .into_string()
            .map_err(|_| Invalid::new(name, "must be valid UTF-8"))?;
        match name.strip_prefix("API__OVERRIDES__ENV__") {
            Some(job_variable) => templates.push((job_variable.to_owned(), value)),
            None => drop(others.insert(name.to_owned(), value)),
        }
    }
    Ok(Variables { templates, others })
}

/// The port that Cloud Run says to listen on.
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

/// A variable that is not one of ours; absent when empty, as shells and deploy tools often leave them.
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

/// Says of the config crate's errors which setting they are about.
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

/// `cloud_run.job` as it is named in the environment; what is no setting's key stays as it is.
fn variable(setting: &str) -> String {
    match setting {
        "configuration" => "API_CONFIG or API__…".to_owned(),
        name if name.bytes().all(|c| c.is_ascii_uppercase() || c == b'_') => {
            "environment".to_owned()
        }
        key => format!("API__{}", key.replace('.', "__").to_uppercase()),
    }
}

/// A TOML array, or in the environment texts between commas.
fn comma_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(text) => {
            let items = text.split(',').map(str::trim);
            Ok(items
                .filter(|item| !item.is_empty())
                .map(str::to_owned)
                .collect())
        }
        value => serde_json::from_value(value).map_err(D::Error::custom),
    }
}

/// A TOML array, or in the environment a text that is one.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    toml_value(deserializer)
}

/// TOML tables, or in the environment the path of a file that has them as `[[grants]]`.
fn grants<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Grant>, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Grants {
        grants: Vec<Grant>,
    }
    let path = match Value::deserialize(deserializer)? {
        Value::String(path) => path,
        tables => return serde_json::from_value(tables).map_err(D::Error::custom),
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

/// A TOML table, or in the environment a text that is an inline one.
fn table<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
    let mut table: Map<String, Value> = toml_value(deserializer)?;
    for value in table.values_mut() {
        // `API__PARAMETERS__LIMIT={ type = "integer" }`: one entry of the table, still as text.
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
    let value = match Value::deserialize(d)? {
        Value::String(text) => parse_toml(&text)
            .map_err(|error| D::Error::custom(format!("is no TOML value: {}", error.message())))?,
        value => value,
    };
    serde_json::from_value(value).map_err(D::Error::custom)
}

/// A TOML value on its own, such as `["--all"]`.
fn parse_toml(text: &str) -> Result<Value, toml::de::Error> {
    let document: Map<String, Value> = toml::from_str(&format!("value = {text}"))?;
    Ok(document
        .into_iter()
        .next()
        .map_or(Value::Null, |(_, value)| value))
}
