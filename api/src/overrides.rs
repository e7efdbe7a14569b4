//! Templates that pass the scope and the parameters to the job. They are compiled when the service starts, and rendered for each
//! start.

use std::borrow::Cow;

use serde_json::Value;

use crate::config::{self, Invalid};
use crate::parameters::{self, Parameters, Supplied};
use crate::scope::{ProcessName, Scope};

/// The variable with the scope of an execution. Executions of a scope are found by it.
pub const SCOPE: &str = "SCOPE";
/// The variable with the id of the start.
pub const INVOCATION_ID: &str = "INVOCATION_ID";
/// The variable with the name of the process. The unnamed process does not set it.
pub const PROCESS: &str = "PROCESS";
/// The variable with the supplied parameters as one JSON object. It is set if parameters are declared.
pub const PARAMETERS: &str = "PARAMETERS";
/// The most parameters that a refusal names.
const MAX_NAMED: usize = 10;
/// The largest sum of the arguments and the values of variables of one start, in bytes. Cloud Run's list of executions repeats them
/// all, and a page of the list must not exceed the largest answer that is read.
const MAX_START_BYTES: usize = 64 * 1024;
/// The initial capacity for an argument or a value, in bytes.
const TYPICAL_VALUE_BYTES: usize = 64;
/// The longest value of a variable, in bytes (Cloud Run's limit for Kubernetes' EnvVar). It applies to arguments, too.
const MAX_VALUE_BYTES: usize = 32_768;
/// The most variables of a job's container (Cloud Run, "Configure environment variables for jobs").
const MAX_VARIABLES: usize = 1_000;
/// How many of these the service sets itself.
const OWN_VARIABLES: usize = 4;
/// The most tasks of an execution (Cloud Run, "Quotas and limits").
const MAX_TASKS: u32 = 10_000;
/// The longest timeout of a task's attempt, in seconds: seven days (Cloud Run, "Set task timeout").
const MAX_TIMEOUT_SECONDS: u32 = 7 * 24 * 3600;

/// Reserved names of variables: those of Cloud Run and of the service, and those that change how a program is loaded or where it
/// connects.
const RESERVED: &[&str] = &[
    INVOCATION_ID,
    PARAMETERS,
    PROCESS,
    "BASH_ENV",
    "CDPATH",
    "CLASSPATH",
    "ENV",
    "HOME",
    "IFS",
    "PATH",
    "PORT",
    "PS4",
    "SHELL",
    "SHELLOPTS",
];
const RESERVED_PREFIXES: &[&str] = &[
    "CLOUDSDK_",
    "CLOUD_RUN_",
    "DYLD_",
    "GCE_",
    "GOOGLE_",
    "K_",
    "LD_",
    "PERL5",
    "PYTHON",
    "RUBY",
    "SSL_CERT_",
    "X_GOOGLE_",
];

/// The overrides of one start, which replace or extend the job's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overrides {
    /// Replace the job's arguments.
    pub args: Args,
    /// Variables that are added to the job's environment, and replace those of the same name.
    pub env: Vec<(Cow<'static, str>, String)>,
    /// The number of tasks of this execution.
    pub task_count: Option<u32>,
    /// Seconds for each attempt of a task.
    pub timeout_seconds: Option<u32>,
}

/// The arguments of one start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Args {
    /// The job's own arguments, because there are no templates.
    OfTheJob,
    /// These arguments replace the job's, even if there are none: the job's own could do something that was not asked for.
    These(Vec<String>),
}

/// The templates cannot be rendered for a start. The text is for the caller.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unrenderable(String);

/// The values for the placeholders of the templates.
pub struct Inputs<'a> {
    /// The scope of the start.
    pub scope: &'a Scope,
    /// The name of the process. None for the unnamed process.
    pub process: Option<&'a ProcessName>,
    /// The subject that the caller's token names, if there is a token.
    pub caller: Option<&'a str>,
    /// The parameters that the caller supplied.
    pub supplied: &'a Supplied,
    /// The id of the start.
    pub invocation_id: String,
    /// The trace of the request, if it has one.
    pub trace: Option<&'a str>,
}

/// The operator's templates, compiled.
pub struct Templates {
    args: Vec<Template>,
    env: Vec<(String, Template)>,
    task_count: Option<u32>,
    timeout_seconds: Option<u32>,
}

impl Templates {
    /// Compiles and checks the templates against the declared parameters; the error names the setting and the cure.
    /// `prefix` is put before the names of the settings.
    pub fn new(
        prefix: &str,
        settings: &config::Overrides,
        parameters: &Parameters,
    ) -> Result<Self, Invalid> {
        let setting = |key: &str| format!("{prefix}overrides.{key}");
        let mut args = Vec::new();
        for text in &settings.args {
            args.push(Template::new(&setting("args"), text, parameters)?);
        }
        let mut env = Vec::new();
        for (name, value) in &settings.env {
            let setting = setting(&format!("env.{name}"));
            env.push((name.clone(), variable(setting, name, value, parameters)?));
        }
        env.retain(|(name, _)| name != SCOPE); // the service sets it on every start
        if env.len() + OWN_VARIABLES > MAX_VARIABLES {
            return Err(Invalid::new(
                setting("env"),
                format!("has more than {} variables", MAX_VARIABLES - OWN_VARIABLES),
            ));
        }
        let templates = Self {
            args,
            env,
            task_count: within(&setting("task_count"), settings.task_count, MAX_TASKS)?,
            timeout_seconds: within(
                &setting("timeout_seconds"),
                settings.timeout_seconds,
                MAX_TIMEOUT_SECONDS,
            )?,
        };
        templates.use_what_is_required(prefix, parameters)?;
        Ok(templates)
    }

    /// Refuses a required parameter that no template uses: callers would have to send a value that has no effect.
    fn use_what_is_required(&self, prefix: &str, parameters: &Parameters) -> Result<(), Invalid> {
        match parameters.required().find(|name| !self.uses(name)) {
            None => Ok(()),
            Some(unused) => {
                let cure = format!(
                    "is required but no template uses it: put {{{unused}}} into overrides.args or overrides.env"
                );
                Err(Invalid::new(format!("{prefix}parameters.{unused}"), cure))
            }
        }
    }

    /// The overrides of one start.
    pub fn render(
        &self,
        parameters: &Parameters,
        inputs: Inputs<'_>,
    ) -> Result<Overrides, Unrenderable> {
        let mut args = Vec::with_capacity(self.args.len());
        for template in &self.args {
            args.extend(template.render(parameters, &inputs)?);
        }
        let mut env = Vec::with_capacity(self.env.len() + OWN_VARIABLES);
        env.push((SCOPE.into(), inputs.scope.to_string()));
        env.push((INVOCATION_ID.into(), inputs.invocation_id.clone()));
        if let Some(process) = inputs.process {
            env.push((PROCESS.into(), process.to_string()));
        }
        if !parameters.is_empty() {
            let supplied = inputs.supplied.to_json();
            if supplied.len() <= MAX_VALUE_BYTES {
                env.push((PARAMETERS.into(), supplied));
            } else {
                self.need_no_variable(inputs.supplied)?;
            }
        }
        let own = env.len();
        for (name, template) in &self.env {
            let value = template.render(parameters, &inputs)?;
            env.extend(value.map(|value| (name.clone().into(), value)));
        }
        self.check_size(&args, &env[own..], parameters, inputs.supplied)?;
        Ok(Overrides {
            args: if self.args.is_empty() {
                Args::OfTheJob
            } else {
                Args::These(args)
            },
            env,
            task_count: self.task_count,
            timeout_seconds: self.timeout_seconds,
        })
    }

    /// Refuses parameters that only the variable PARAMETERS would pass to the job, if they are too long for it.
    fn need_no_variable(&self, supplied: &Supplied) -> Result<(), Unrenderable> {
        let unused: Vec<_> = supplied.names().filter(|name| !self.uses(name)).collect();
        if unused.is_empty() {
            return Ok(());
        }
        let unused: Vec<_> = unused.into_iter().take(MAX_NAMED).collect();
        Err(Unrenderable(format!(
            "The parameters may have {MAX_VALUE_BYTES} bytes together, as JSON, if no argument or variable of the job is made \
             of one of them: {}.",
            unused.join(", ")
        )))
    }

    fn check_size(
        &self,
        args: &[String],
        env: &[(Cow<'_, str>, String)],
        parameters: &Parameters,
        supplied: &Supplied,
    ) -> Result<(), Unrenderable> {
        let values_of_env = env.iter().map(|(_, value)| value);
        let bytes: usize = args.iter().chain(values_of_env).map(String::len).sum();
        if bytes <= MAX_START_BYTES {
            return Ok(());
        }
        let length = |name: &&str| {
            let text = parameters.value(supplied, name).and_then(Value::as_str);
            text.map_or(0, str::len)
        };
        let mut names: Vec<_> = parameters.names().filter(|name| self.uses(name)).collect();
        names.sort_by_key(|name| std::cmp::Reverse(length(name)));
        names.truncate(MAX_NAMED);
        Err(Unrenderable(format!(
            "The arguments and variables of the job add up to {bytes} bytes, and {MAX_START_BYTES} is the most. \
             Send less in the parameters, or the address of what is long: {}.",
            names.join(", ")
        )))
    }

    fn uses(&self, parameter: &str) -> bool {
        let env = self.env.iter().map(|(_, template)| template);
        self.args
            .iter()
            .chain(env)
            .any(|template| template.names(parameter))
    }
}

fn variable(
    setting: String,
    name: &str,
    value: &Value,
    parameters: &Parameters,
) -> Result<Template, Invalid> {
    let Some(text) = value.as_str() else {
        return Err(Invalid::new(
            setting,
            r#"must be a text, such as "{scope}""#,
        ));
    };
    if !is_variable_name(name) {
        return Err(Invalid::new(
            setting,
            "a variable's name is letters, digits and _, and begins with no digit",
        ));
    }
    if is_reserved(name) {
        return Err(Invalid::new(
            setting,
            "is reserved or dangerous to a program; choose another name",
        ));
    }
    if name == SCOPE && text != "{scope}" {
        return Err(Invalid::new(
            setting,
            r#"is always "{scope}": executions are found by it; choose another name"#,
        ));
    }
    Template::new(&setting, text, parameters)
}

fn is_variable_name(name: &str) -> bool {
    let legal = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    name.bytes().next().is_some_and(|c| !c.is_ascii_digit()) && name.bytes().all(legal)
}

/// Whether the name is reserved. Case is ignored, since programs also read `https_proxy`.
fn is_reserved(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    RESERVED.contains(&name.as_str())
        || RESERVED_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
        || name.ends_with("_OPTIONS")
        || name.contains("PROXY")
}

fn within(setting: &str, value: Option<u32>, most: u32) -> Result<Option<u32>, Invalid> {
    match value {
        Some(number) if number == 0 || number > most => Err(Invalid::new(
            setting,
            format!("must be 1 to {most}; leave it out for the job's own"),
        )),
        value => Ok(value),
    }
}

/// A text with the placeholders `{scope}`, `{caller}`, `{trace}` and `{parameter}`; `{{` and `}}` stand for braces.
#[derive(Debug)]
struct Template(Vec<Part>);

#[derive(Debug)]
enum Part {
    Text(String),
    Scope,
    Caller,
    Trace,
    Parameter(String),
}

impl Template {
    fn new(setting: &str, text: &str, parameters: &Parameters) -> Result<Self, Invalid> {
        let unbalanced = || {
            Invalid::new(
                setting,
                format!("`{text}` has an unbalanced brace; write {{{{ or }}}} for a brace itself"),
            )
        };
        let (mut parts, mut literal) = (Vec::new(), String::new());
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let tail = &rest[at..];
            if tail.starts_with("{{") || tail.starts_with("}}") {
                literal.push_str(&tail[..1]);
                rest = &tail[2..];
                continue;
            }
            let (name, after) = tail
                .strip_prefix('{')
                .and_then(|tail| tail.split_once('}'))
                .ok_or_else(unbalanced)?;
            parts.push(Part::Text(std::mem::take(&mut literal)));
            parts.push(placeholder(setting, name, parameters)?);
            rest = after;
        }
        literal.push_str(rest);
        parts.push(Part::Text(literal));
        if text.contains('\0') {
            return Err(Invalid::new(setting, "must not contain the NUL character"));
        }
        Ok(Self(parts))
    }

    fn names(&self, parameter: &str) -> bool {
        self.parameters().any(|name| name == parameter)
    }

    fn parameters(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Parameter(name) => Some(&name[..]),
            _ => None,
        })
    }

    /// Renders in one pass, so that placeholders in a value are not replaced. None if a parameter, the caller or the trace is absent.
    fn render(
        &self,
        parameters: &Parameters,
        inputs: &Inputs<'_>,
    ) -> Result<Option<String>, Unrenderable> {
        let mut text = String::with_capacity(TYPICAL_VALUE_BYTES);
        for part in &self.0 {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Scope => text.push_str(inputs.scope.as_str()),
                Part::Caller => match inputs.caller {
                    Some(caller) => text.push_str(caller),
                    None => return Ok(None),
                },
                Part::Trace => match inputs.trace {
                    Some(trace) => text.push_str(trace),
                    None => return Ok(None),
                },
                Part::Parameter(name) => match parameters.value(inputs.supplied, name) {
                    Some(value) => text.push_str(&argument(name, value)?),
                    None => return Ok(None),
                },
            }
        }
        if text.len() > MAX_VALUE_BYTES {
            let names: Vec<_> = self.parameters().collect();
            return Err(Unrenderable(format!(
                "An argument or variable of the job takes {MAX_VALUE_BYTES} bytes at most. Send less in: {}.",
                names.join(", ")
            )));
        }
        Ok(Some(text))
    }
}

fn placeholder(setting: &str, name: &str, parameters: &Parameters) -> Result<Part, Invalid> {
    match name {
        "scope" => Ok(Part::Scope),
        name if parameters.declares(name) => Ok(Part::Parameter(name.to_owned())),
        "caller" => Ok(Part::Caller), // a parameter named `caller` or `trace` takes precedence
        "trace" => Ok(Part::Trace),
        name => {
            let cure = format!(
                "names an undeclared parameter `{name}`: declare it under [parameters], or write {{{{ and }}}} for braces"
            );
            Err(Invalid::new(setting, cure))
        }
    }
}

/// A parameter as text.
fn argument<'a>(name: &str, value: &'a Value) -> Result<Cow<'a, str>, Unrenderable> {
    match value {
        Value::String(text) if text.contains('\0') => Err(Unrenderable(format!(
            "The parameter {name} must not contain the NUL character."
        ))),
        Value::String(text) => Ok(Cow::Borrowed(text)),
        Value::Number(number) => Ok(Cow::Owned(parameters::number_text(number))),
        other => Ok(Cow::Owned(other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    fn compile(toml: &str) -> Result<(Templates, Parameters), Invalid> {
        #[derive(serde::Deserialize)]
        struct Sections {
            overrides: config::Overrides,
            #[serde(default)]
            parameters: Map<String, Value>,
        }
        let Sections {
            overrides,
            parameters,
        } = toml::from_str(toml).unwrap();
        let parameters = Parameters::new("", &parameters)?;
        Ok((Templates::new("", &overrides, &parameters)?, parameters))
    }

    fn try_render(toml: &str, body: Value, trace: Option<&str>) -> Result<Overrides, Unrenderable> {
        let (templates, parameters) = compile(toml).unwrap();
        let inputs = Inputs {
            scope: &"acme".parse().unwrap(),
            process: None,
            caller: None,
            supplied: &parameters.check(body.to_string().as_bytes()).unwrap(),
            invocation_id: "id".to_owned(),
            trace,
        };
        templates.render(&parameters, inputs)
    }

    fn render(toml: &str, body: Value) -> Overrides {
        try_render(toml, body, None).unwrap()
    }

    fn args(overrides: Overrides) -> Vec<String> {
        match overrides.args {
            Args::These(args) => args,
            Args::OfTheJob => panic!("there are templates"),
        }
    }

    const BOTH: &str = r#"
        [overrides]
        args = ["--scope={scope}", "{document}", "--limit={limit}", "{{{scope}}}"]
        env = { SCOPE = "{scope}", LIMIT = "{limit}", PLAIN = "as it is" }
        [parameters]
        document = { type = "string" }
        limit = { type = "number" }
    "#;

    #[test]
    fn templates_whose_parameters_are_absent_are_left_out() {
        let overrides = render(BOTH, json!({}));
        let pair = |name: &str, value: &str| (Cow::from(name.to_owned()), value.to_owned());
        assert_eq!(
            overrides.env,
            [
                pair("SCOPE", "acme"),
                pair("INVOCATION_ID", "id"),
                pair("PARAMETERS", "{}"),
                pair("PLAIN", "as it is")
            ]
        );
        assert_eq!(args(overrides), ["--scope=acme", "{acme}"]);
    }

    #[test]
    fn no_templates_leave_the_job_its_arguments_and_templates_replace_them_all() {
        let none = "[overrides]\nargs = []\nenv = {}";
        assert_eq!(render(none, json!({})).args, Args::OfTheJob);
        let optional =
            "[overrides]\nargs = ['{a}']\nenv = {}\n[parameters]\na = { type = 'string' }";
        assert_eq!(render(optional, json!({})).args, Args::These(vec![]));
    }

    #[test]
    fn the_supplied_parameters_are_one_variable_and_defaults_are_not_among_them() {
        let toml = "[overrides]\nargs = []\nenv = {}\n[parameters]\nb = { type = 'string' }\na = { type = 'integer' }\nc = { type = 'integer', default = 1 }";
        let overrides = render(toml, json!({"b": "x", "a": 1}));
        let expected = (PARAMETERS.into(), r#"{"a":1,"b":"x"}"#.to_owned());
        assert_eq!(overrides.env.last(), Some(&expected));
    }

    #[test]
    fn a_start_with_too_many_bytes_is_refused_and_the_longest_parameter_is_named_first() {
        let toml = "[overrides]\nargs = ['{a}', '{a}', '{b}']\nenv = {}\n[parameters]\nb = { type = 'string' }\na = { type = 'string' }";
        let long = "x".repeat(MAX_VALUE_BYTES);
        assert!(try_render(toml, json!({"a": long}), None).is_ok());
        let refused = try_render(toml, json!({"a": long, "b": "y"}), None).unwrap_err();
        let words = refused.to_string();
        assert!(
            words.contains("65537 bytes") && words.ends_with("long: a, b."),
            "{words}"
        );
    }

    #[test]
    fn a_template_can_use_the_trace_and_a_parameter_of_that_name_takes_precedence() {
        let trace = |toml: &str, body: Value, trace: Option<&str>| {
            args(try_render(toml, body, trace).unwrap())
        };
        let plain = "[overrides]\nargs = ['--trace={trace}']\nenv = {}";
        assert_eq!(trace(plain, json!({}), Some("0af7")), ["--trace=0af7"]);
        assert!(trace(plain, json!({}), None).is_empty());
        let declared = format!("{plain}\n[parameters]\ntrace = {{ type = 'string' }}");
        let given = json!({"trace": "mine"});
        assert_eq!(trace(&declared, given, Some("0af7")), ["--trace=mine"]);
    }

    #[test]
    fn placeholders_in_a_value_are_not_replaced() {
        let body = json!({"document": "{scope} $(id) {limit} \"'\n", "limit": 5});
        assert_eq!(
            args(render(BOTH, body))[1..3],
            ["{scope} $(id) {limit} \"'\n", "--limit=5"]
        );
    }

    #[test]
    fn numbers_are_written_without_exponents_and_trailing_zeros() {
        let limit = |value: Value| args(render(BOTH, json!({"limit": value})))[1].clone();
        assert_eq!(limit(json!(5.0)), "--limit=5");
        assert_eq!(limit(json!(0.5)), "--limit=0.5");
        assert_eq!(limit(json!(-7)), "--limit=-7");
        assert_eq!(limit(json!(u64::MAX)), "--limit=18446744073709551615");
    }

    #[test]
    fn a_value_with_a_nul_or_too_many_bytes_is_refused() {
        for value in ["a\0b".to_owned(), "a".repeat(MAX_VALUE_BYTES + 1)] {
            let refused = try_render(BOTH, json!({"document": value}), None).unwrap_err();
            assert!(refused.to_string().contains("document"), "{refused}");
        }
    }

    #[test]
    fn an_invalid_template_is_refused_with_its_setting_and_the_cure() {
        let args = |text: &str| format!("[overrides]\nargs = ['{text}']\nenv = {{}}");
        let env = |text: &str| format!("[overrides]\nargs = []\nenv = {{ {text} }}");
        let cases = [
            (
                args("{nope}"),
                "overrides.args",
                "undeclared parameter `nope`",
            ),
            (args("{"), "overrides.args", "unbalanced"),
            (args("a}b"), "overrides.args", "unbalanced"),
            (args("{}"), "overrides.args", "undeclared"),
            (env("'A B' = ''"), "overrides.env.A B", "letters"),
            (env("1A = ''"), "overrides.env.1A", "letters"),
            (env("'' = ''"), "overrides.env.", "letters"),
            (env("A = 1"), "overrides.env.A", "must be a text"),
            (env("SCOPE = 'x'"), "overrides.env.SCOPE", "{scope}"),
            (
                "[overrides]\nargs = []\nenv = {}\ntask_count = 10001".to_owned(),
                "overrides.task_count",
                "10000",
            ),
            (
                "[overrides]\nargs = []\nenv = {}\ntimeout_seconds = 0".to_owned(),
                "overrides.timeout_seconds",
                "must be 1",
            ),
            (
                format!(
                    "{}\n[parameters]\nx = {{ type = 'string', required = true }}",
                    args("a")
                ),
                "parameters.x",
                "no template uses it",
            ),
        ];
        for (toml, setting, cure) in cases {
            let message = compile(&toml)
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default();
            assert!(
                message.starts_with(setting) && message.contains(cure),
                "{toml}: {message}"
            );
        }
    }

    #[test]
    fn names_with_power_over_a_program_are_reserved() {
        let names = [
            "LD_PRELOAD",
            "PATH",
            "ENV",
            "IFS",
            "NODE_OPTIONS",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "GOOGLE_CLOUD_PROJECT",
            "HTTP_PROXY",
            "https_proxy",
            "GCE_METADATA_HOST",
            "PORT",
            "K_SERVICE",
            "K_REVISION",
            "CLOUD_RUN_JOB",
            "CLOUD_RUN_EXECUTION",
            "INVOCATION_ID",
            "X_GOOGLE_FOO",
            "PYTHONPATH",
            "BASH_ENV",
            "SSL_CERT_FILE",
            "HOME",
        ];
        for name in names {
            assert!(is_reserved(name), "{name}");
        }
        for name in ["SCOPE", "LIMIT", "DOCUMENT", "KEY", "MY_PORT", "APP_PATH"] {
            assert!(!is_reserved(name), "{name}");
        }
    }

    proptest::proptest! {
        /// No template and no value causes a panic, and a placeholder in a value is never replaced.
        #[test]
        fn any_template_is_compiled_or_refused(text in "[{}a-z ]{0,24}", document in "\\PC{0,24}") {
            let toml = format!("[overrides]\nargs = ['{text}']\nenv = {{}}\n[parameters]\ndocument = {{ type = 'string' }}");
            if compile(&toml).is_err() { return Ok(()) };
            let rendered = args(render(&toml, json!({"document": document.clone()})));
            let expected = text.replace("{{", "\u{1}").replace("}}", "\u{2}").replace("{scope}", "acme");
            let expected = expected.replace("{document}", "\u{3}").replace('\u{1}', "{").replace('\u{2}', "}");
            if !text.contains("{{{") && !text.contains("}}}") {
                assert_eq!(&rendered[0], &expected.replace('\u{3}', &document));
            }
        }
    }
}
