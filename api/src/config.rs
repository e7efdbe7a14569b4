//! The settings as types. `load` reads their layers, and `check` refuses settings that cannot work.

mod check;
mod load;
mod secrets;

use std::collections::BTreeMap;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(crate) use self::check::is_loopback;
use self::load::{
    choice, comma_list, empty_as_none, grants, list, optional_choice, optional_list,
    optional_setting, optional_table, table, variable,
};
pub use self::secrets::Secrets;

/// The host of Cloud Run's metadata server unless `GCE_METADATA_HOST` is set (Google's container contract).
const METADATA_HOST: &str = "metadata.google.internal";

/// All settings. `default.toml` explains each.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Address to listen on.
    pub host: String,
    /// Port to listen on.
    pub port: u16,
    /// The filter of log lines, in the syntax of `tracing`.
    pub log: String,
    /// Who may call.
    pub auth: Auth,
    /// Pages of other origins.
    pub cors: Cors,
    /// Limits of rates and of concurrent requests.
    pub limits: Limits,
    /// The job, its project and its region.
    pub cloud_run: CloudRun,
    /// The API from which the job's lines are read.
    pub cloud_logging: CloudLogging,
    /// Templates that pass the scope and the parameters to the job.
    pub overrides: Overrides,
    /// The declared parameters: a JSON Schema for each.
    #[serde(deserialize_with = "table")]
    pub parameters: Map<String, Value>,
    /// How executions are started.
    pub start: Start,
    /// Idempotency keys.
    pub idempotency: Idempotency,
    /// The named processes. A setting that a process leaves out is that of the top level.
    pub processes: BTreeMap<String, Process>,
    /// Values that the platform provides.
    #[serde(skip)]
    pub platform: Platform,
}

/// An operation in a scope, as grants name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Starts executions.
    Start,
    /// Reads executions, their events and their lines.
    Read,
    /// Cancels executions.
    Cancel,
}

/// What to do if the scope has an unfinished execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnRunning {
    /// Start another execution.
    Allow,
    /// Refuse the start, and name the unfinished execution.
    Reject,
    /// Answer with the unfinished execution.
    Join,
    /// Cancel the unfinished execution, wait for its end, and then start.
    Replace,
}

impl OnRunning {
    /// Its name in queries and settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Reject => "reject",
            Self::Join => "join",
            Self::Replace => "replace",
        }
    }
}

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMode {
    /// Anyone.
    Public,
    /// Callers whom Cloud Run's IAM lets through.
    Iam,
    /// Callers with a token whose claims are granted something.
    Jwt,
}

impl AuthMode {
    /// The choices, for error messages.
    pub(crate) const CHOICES: &str = "public (anyone who reaches the service may start the job), \
         iam (callers whom Cloud Run's IAM lets through), jwt (callers with a token that auth.grants allows)";

    /// Its name in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Iam => "iam",
            Self::Jwt => "jwt",
        }
    }
}

impl FromStr for AuthMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Public, Self::Iam, Self::Jwt];
        let named = all.into_iter().find(|mode| mode.as_str() == text);
        named.ok_or_else(|| format!("`{text}` is unknown; choose: {}", Self::CHOICES))
    }
}

/// `[auth]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// The authentication mode. Without one the service does not start.
    #[serde(deserialize_with = "empty_as_none")]
    pub mode: Option<AuthMode>,
    /// The tokens of mode `jwt`.
    pub jwt: Jwt,
    /// The claim in which a token lists its scopes. None if tokens list no scopes.
    #[serde(deserialize_with = "empty_as_none")]
    pub scope_claim: Option<String>,
    /// The grants. In the environment this is the path of a TOML file.
    #[serde(deserialize_with = "grants")]
    pub grants: Vec<Grant>,
}

/// `[auth.jwt]`: a setting that is absent has the preset's value.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwt {
    /// The identity provider. None if the other settings describe it.
    #[serde(deserialize_with = "empty_as_none")]
    pub preset: Option<Preset>,
    /// The accepted `iss` of tokens.
    #[serde(deserialize_with = "empty_as_none")]
    pub issuer: Option<String>,
    /// The accepted `aud` of tokens.
    #[serde(deserialize_with = "empty_as_none")]
    pub audience: Option<String>,
    /// The URL of the issuer's keys.
    #[serde(deserialize_with = "empty_as_none")]
    pub jwks_url: Option<String>,
    /// The issuer's signature algorithm.
    #[serde(deserialize_with = "empty_as_none")]
    pub algorithm: Option<Algorithm>,
    /// The header with the token. In `Authorization` it comes after `Bearer`.
    #[serde(deserialize_with = "empty_as_none")]
    pub header: Option<String>,
    /// The secrets of scope tokens: the current one, and others that are still accepted.
    pub secret: Secrets,
}

/// The identity providers whose issuer, keys and header are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Google's ID tokens.
    Google,
    /// Firebase Authentication.
    Firebase,
    /// Identity-Aware Proxy.
    Iap,
}

impl FromStr for Preset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "google" => Ok(Self::Google),
            "firebase" => Ok(Self::Firebase),
            "iap" => Ok(Self::Iap),
            _ => Err(format!(
                "`{text}` is unknown; choose google, firebase or iap, or set issuer and jwks_url"
            )),
        }
    }
}

/// The signature algorithm of an identity provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
}

impl FromStr for Algorithm {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "RS256" => Ok(Self::Rs256),
            "ES256" => Ok(Self::Es256),
            _ => Err("must be RS256 or ES256"),
        }
    }
}

/// `[[auth.grants]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// A claim's name, or a JSON pointer to it.
    pub claim: String,
    /// The value that the claim must be or contain.
    pub value: Value,
    /// Scopes, or only `*` for all.
    pub scopes: Vec<String>,
    /// The operations that are allowed in them.
    pub operations: Vec<Operation>,
    /// Processes. If absent, the grant is for all.
    pub processes: Option<Vec<String>>,
}

/// `[cors]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    /// The origins whose pages may call, exactly as browsers send them.
    #[serde(deserialize_with = "comma_list")]
    pub origins: Vec<String>,
}

/// `[limits]`: each at least 1, but for `trusted_proxies`.
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
    /// The operator's proxies in front of Cloud Run's.
    pub trusted_proxies: u32,
}

/// `[cloud_run]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloudRun {
    /// The job to start.
    pub job: String,
    /// Its project id. If None, the metadata server is asked.
    #[serde(deserialize_with = "empty_as_none")]
    pub project: Option<String>,
    /// Its region. If None, the metadata server is asked.
    #[serde(deserialize_with = "empty_as_none")]
    pub region: Option<String>,
    /// The container to override. If None, the job's only container.
    #[serde(deserialize_with = "empty_as_none")]
    pub container: Option<String>,
    /// The URL of Cloud Run's API. If None, the regional endpoint.
    #[serde(deserialize_with = "empty_as_none")]
    pub base_url: Option<String>,
}

/// `[cloud_logging]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloudLogging {
    /// The URL of Cloud Logging's API.
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
    /// The longest time for a whole start, in seconds.
    pub deadline_seconds: u64,
    /// After this many seconds, an unanswered send can no longer have an effect.
    pub quiet_seconds: u64,
    /// What to do if the scope has an unfinished execution.
    #[serde(deserialize_with = "choice")]
    pub on_running: OnRunning,
    /// Unfinished executions of one process in one scope before `on_running` decides.
    pub max_running: u32,
}

/// `[processes.NAME]`: a setting that is absent has the value of the top level.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// The job to start.
    pub job: Option<String>,
    /// The container to override. `Some(None)` is the job's only container, even if the top level names one.
    #[serde(default, deserialize_with = "optional_setting")]
    pub container: Option<Option<String>>,
    /// Templates, task count and timeout. Each can be absent by itself.
    #[serde(default)]
    pub overrides: ProcessOverrides,
    /// The declared parameters.
    #[serde(default, deserialize_with = "optional_table")]
    pub parameters: Option<Map<String, Value>>,
    /// What to do if the scope has `max_running` unfinished executions of the process.
    #[serde(default, deserialize_with = "optional_choice")]
    pub on_running: Option<OnRunning>,
    /// Unfinished executions of the process in one scope before `on_running` decides.
    pub max_running: Option<u32>,
}

/// `[processes.NAME.overrides]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessOverrides {
    /// Templates of the arguments.
    #[serde(default, deserialize_with = "optional_list")]
    pub args: Option<Vec<String>>,
    /// Templates of the environment.
    #[serde(default, deserialize_with = "optional_table")]
    pub env: Option<Map<String, Value>>,
    /// Tasks of each execution.
    pub task_count: Option<u32>,
    /// Seconds for each attempt of a task.
    pub timeout_seconds: Option<u32>,
}

/// A process with the settings that it inherits from the top level.
pub(crate) struct WholeProcess {
    pub(crate) job: String,
    pub(crate) container: Option<String>,
    pub(crate) overrides: Overrides,
    pub(crate) parameters: Map<String, Value>,
    pub(crate) on_running: OnRunning,
    pub(crate) max_running: u32,
}

impl Process {
    /// Adds the settings that the process leaves out.
    pub(crate) fn within(&self, config: &Config) -> WholeProcess {
        let (own, top) = (&self.overrides, &config.overrides);
        WholeProcess {
            job: or(&self.job, &config.cloud_run.job),
            container: or(&self.container, &config.cloud_run.container),
            overrides: Overrides {
                args: or(&own.args, &top.args),
                env: or(&own.env, &top.env),
                task_count: own.task_count.or(top.task_count),
                timeout_seconds: own.timeout_seconds.or(top.timeout_seconds),
            },
            parameters: or(&self.parameters, &config.parameters),
            on_running: self.on_running.unwrap_or(config.start.on_running),
            max_running: self.max_running.unwrap_or(config.start.max_running),
        }
    }
}

fn or<T: Clone>(own: &Option<T>, top: &T) -> T {
    own.as_ref().unwrap_or(top).clone()
}

/// `[idempotency]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Idempotency {
    /// Where the leases of keys are kept.
    #[serde(deserialize_with = "choice")]
    pub store: Store,
    /// Whether a start without a key takes one from the headers of Cloud Scheduler and Cloud Tasks.
    pub from_google: bool,
}

/// Where the leases of idempotency keys are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    /// In this process, for one instance.
    Memory,
    /// In Firestore, for many instances.
    Firestore,
}

/// Values of the platform's own environment variables, whose names Google chose. They are not settings.
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

/// A setting that prevents the service from starting, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{setting} ({variable}): {cure}", variable = variable(setting))]
pub struct Invalid {
    setting: String,
    cure: String,
}

impl Invalid {
    /// `setting` is the dotted key; `cure` says what is wrong and how to correct it.
    pub(crate) fn new(setting: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            setting: setting.into(),
            cure: cure.into(),
        }
    }
}
