//! The settings, typed. `load` reads their layers, `check` refuses what cannot work.

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
    /// The named processes; what one leaves out is as at the top level.
    pub processes: BTreeMap<String, Process>,
    /// What the surroundings say of themselves.
    #[serde(skip)]
    pub platform: Platform,
}

/// What a request does to a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Starts executions.
    Start,
    /// Reads executions, their events and their lines.
    Read,
    /// Asks for an execution's end.
    Cancel,
}

/// What to do when the scope has an unfinished execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnRunning {
    /// Start another.
    Allow,
    /// Refuse, and name it.
    Reject,
    /// Answer with it.
    Join,
    /// Cancel it, wait for its end, then start.
    Replace,
}

impl OnRunning {
    /// The word for it in queries and settings.
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
    /// Whoever Cloud Run's IAM lets through.
    Iam,
    /// Whoever brings a token whose claims are granted something.
    Jwt,
}

impl AuthMode {
    /// What can be chosen, for errors.
    pub(crate) const CHOICES: &str = "public (anyone who reaches the service may start the job), \
         iam (whoever Cloud Run's IAM lets through), jwt (whoever brings a token that auth.grants allows)";

    /// The word for it in settings.
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
    /// Which kind of proof is asked for; none refuses to start.
    #[serde(deserialize_with = "empty_as_none")]
    pub mode: Option<AuthMode>,
    /// The tokens of mode `jwt`.
    pub jwt: Jwt,
    /// The claim in which a token lists its scopes; none if no token does.
    #[serde(deserialize_with = "empty_as_none")]
    pub scope_claim: Option<String>,
    /// What claims grant; in the environment the path of a TOML file.
    #[serde(deserialize_with = "grants")]
    pub grants: Vec<Grant>,
}

/// `[auth.jwt]`: what is not set is what the preset says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwt {
    /// The identity provider; none if it is described by hand.
    #[serde(deserialize_with = "empty_as_none")]
    pub preset: Option<Preset>,
    /// Who must have made the token: its `iss`.
    #[serde(deserialize_with = "empty_as_none")]
    pub issuer: Option<String>,
    /// For whom it must have been made: one of its `aud`.
    #[serde(deserialize_with = "empty_as_none")]
    pub audience: Option<String>,
    /// Where the issuer's keys are.
    #[serde(deserialize_with = "empty_as_none")]
    pub jwks_url: Option<String>,
    /// What the issuer signs with.
    #[serde(deserialize_with = "empty_as_none")]
    pub algorithm: Option<Algorithm>,
    /// The header that has the token; `Authorization` has it after `Bearer`.
    #[serde(deserialize_with = "empty_as_none")]
    pub header: Option<String>,
    /// What scope tokens are signed with: the current one, and others that are still believed.
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

/// What an identity provider signs with.
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
    /// What it must be, or have in its list.
    pub value: Value,
    /// Scopes, or `*` alone for all.
    pub scopes: Vec<String>,
    /// What may be done to them.
    pub operations: Vec<Operation>,
    /// Processes; absent for all.
    pub processes: Option<Vec<String>>,
}

/// `[cors]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    /// Origins whose pages may call, each exactly as browsers send it.
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
    /// Proxies of the operator's own before Cloud Run's.
    pub trusted_proxies: u32,
}

/// `[cloud_run]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloudRun {
    /// The job to start.
    pub job: String,
    /// Its project id; if none, the metadata server is asked.
    #[serde(deserialize_with = "empty_as_none")]
    pub project: Option<String>,
    /// Its region; if none, the metadata server is asked.
    #[serde(deserialize_with = "empty_as_none")]
    pub region: Option<String>,
    /// The container to override; if none, the only one.
    #[serde(deserialize_with = "empty_as_none")]
    pub container: Option<String>,
    /// Cloud Run's API; if none, the regional one.
    #[serde(deserialize_with = "empty_as_none")]
    pub base_url: Option<String>,
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
    #[serde(deserialize_with = "choice")]
    pub on_running: OnRunning,
    /// Unfinished executions of one process in one scope before `on_running` decides.
    pub max_running: u32,
}

/// `[processes.NAME]`: what it leaves out is as at the top level.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// The job to start.
    pub job: Option<String>,
    /// The container to override; `Some(None)` is the only one, whatever the top level says.
    #[serde(default, deserialize_with = "optional_setting")]
    pub container: Option<Option<String>>,
    /// Templates, task count and timeout, each by itself.
    #[serde(default)]
    pub overrides: ProcessOverrides,
    /// The declared parameters.
    #[serde(default, deserialize_with = "optional_table")]
    pub parameters: Option<Map<String, Value>>,
    /// What to do when the scope has `max_running` unfinished executions of the process.
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

/// A process with what it takes over from the top level.
pub(crate) struct WholeProcess {
    pub(crate) job: String,
    pub(crate) container: Option<String>,
    pub(crate) overrides: Overrides,
    pub(crate) parameters: Map<String, Value>,
    pub(crate) on_running: OnRunning,
    pub(crate) max_running: u32,
}

impl Process {
    /// The process with what it leaves out.
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
    /// Where keys are claimed.
    #[serde(deserialize_with = "choice")]
    pub store: Store,
    /// Whether the headers of Cloud Scheduler and Cloud Tasks are a key where there is none.
    pub from_google: bool,
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
