//! What of a scope and its parameters reaches the job: templates, compiled at start-up, rendered per start.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::config::{self, Invalid};
use crate::http::problem::{Kind, Problem};
use crate::parameters::{self, Parameters};
use crate::scope::Scope;

/// The variable that says for whom an execution is; an execution is found again by it.
pub const SCOPE: &str = "SCOPE";
/// The variable that says which start an execution came from.
pub const INVOCATION_ID: &str = "INVOCATION_ID";
/// What an argument or a value mostly has, in bytes; more is no problem.
const TYPICAL_VALUE_BYTES: usize = 64;
/// The longest value of a variable, in bytes (Kubernetes' EnvVar as Cloud Run takes it); arguments are held to it too.
const MAX_VALUE_BYTES: usize = 32_768;
/// The most variables of a job's container (Cloud Run, "Configure environment variables for jobs").
const MAX_VARIABLES: usize = 1_000;
/// The most tasks of an execution (Cloud Run, "Quotas and limits").
const MAX_TASKS: u32 = 10_000;
/// The longest timeout of a task's attempt, in seconds: seven days (Cloud Run, "Set task timeout").
const MAX_TIMEOUT_SECONDS: u32 = 7 * 24 * 3600;

/// Names that are Cloud Run's, ours, or change how a program is loaded or where it connects.
const RESERVED: &[&str] = &[
    INVOCATION_ID,
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

/// What one start asks of Cloud Run beyond the job's own settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overrides {
    /// Replace the job's arguments, unless empty.
    pub args: Vec<String>,
    /// Added to the job's environment, overriding by name.
    pub env: Vec<(String, String)>,
    /// Tasks of this execution.
    pub task_count: Option<u32>,
    /// Seconds for each attempt of a task.
    pub timeout_seconds: Option<u32>,
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
    pub fn new(settings: &config::Overrides, parameters: &Parameters) -> Result<Self, Invalid> {
        let mut args = Vec::new();
        for text in &settings.args {
            args.push(Template::new("overrides.args", text, parameters)?);
        }
        let mut env = Vec::new();
        for (name, value) in &settings.env {
            env.push((name.clone(), variable(name, value, parameters)?));
        }
        env.retain(|(name, _)| name != SCOPE); // it is set on every start, whatever the templates say
        if env.len() + 2 > MAX_VARIABLES {
            return Err(Invalid::new(
                "overrides.env",
                format!("has more than {} variables", MAX_VARIABLES - 2),
            ));
        }
        let templates = Self {
            args,
            env,
            task_count: within("overrides.task_count", settings.task_count, MAX_TASKS)?,
            timeout_seconds: within(
                "overrides.timeout_seconds",
                settings.timeout_seconds,
                MAX_TIMEOUT_SECONDS,
            )?,
        };
        templates.use_what_is_required(parameters)?;
        Ok(templates)
    }

    /// A caller who must send a parameter that goes nowhere was promised something.
    fn use_what_is_required(&self, parameters: &Parameters) -> Result<(), Invalid> {
        let all = || {
            self.args
                .iter()
                .chain(self.env.iter().map(|(_, template)| template))
        };
        match parameters
            .required()
            .find(|name| !all().any(|template| template.names(name)))
        {
            None => Ok(()),
            Some(unused) => {
                let cure = format!(
                    "is required but no template uses it: put {{{unused}}} into overrides.args or overrides.env"
                );
                Err(Invalid::new(format!("parameters.{unused}"), cure))
            }
        }
    }

    /// The overrides of one start. `invocation_id` marks the execution as this start's; `trace` is the request's, if it has one.
    pub fn render(
        &self,
        scope: &Scope,
        values: &Map<String, Value>,
        invocation_id: String,
        trace: Option<&str>,
    ) -> Result<Overrides, Problem> {
        let mut args = Vec::with_capacity(self.args.len());
        for template in &self.args {
            args.extend(template.render(scope, values, trace)?);
        }
        let mut env = Vec::with_capacity(self.env.len() + 2);
        env.push((SCOPE.to_owned(), scope.to_string()));
        env.push((INVOCATION_ID.to_owned(), invocation_id));
        for (name, template) in &self.env {
            env.extend(
                template
                    .render(scope, values, trace)?
                    .map(|value| (name.clone(), value)),
            );
        }
        Ok(Overrides {
            args,
            env,
            task_count: self.task_count,
            timeout_seconds: self.timeout_seconds,
        })
    }
}

fn variable(name: &str, value: &Value, parameters: &Parameters) -> Result<Template, Invalid> {
    let setting = format!("overrides.env.{name}");
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

/// Whether the name is Cloud Run's or ours, or has power over the program that gets it. Case is ignored, as `https_proxy` shows.
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

/// A text with placeholders: `{scope}`, `{trace}`, `{parameter}`; `{{` and `}}` are the braces themselves.
#[derive(Debug)]
struct Template(Vec<Part>);

#[derive(Debug)]
enum Part {
    Text(String),
    Scope,
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
        self.0
            .iter()
            .any(|part| matches!(part, Part::Parameter(name) if name == parameter))
    }

    /// One pass: what a value contains is never looked at for placeholders. Nothing if a parameter, or the trace, is absent.
    fn render(
        &self,
        scope: &Scope,
        values: &Map<String, Value>,
        trace: Option<&str>,
    ) -> Result<Option<String>, Problem> {
        let mut text = String::with_capacity(TYPICAL_VALUE_BYTES);
        for part in &self.0 {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Scope => text.push_str(scope.as_str()),
                Part::Trace => match trace {
                    Some(trace) => text.push_str(trace),
                    None => return Ok(None),
                },
                Part::Parameter(name) => match values.get(name) {
                    Some(value) => text.push_str(&argument(name, value)?),
                    None => return Ok(None),
                },
            }
        }
        if text.len() > MAX_VALUE_BYTES {
            let detail = format!(
                "The parameters are too long: an argument or variable takes {MAX_VALUE_BYTES} bytes."
            );
            return Err(Problem::new(Kind::ValidationFailed, detail));
        }
        Ok(Some(text))
    }
}

fn placeholder(setting: &str, name: &str, parameters: &Parameters) -> Result<Part, Invalid> {
    match name {
        "scope" => Ok(Part::Scope),
        name if parameters.declares(name) => Ok(Part::Parameter(name.to_owned())),
        "trace" => Ok(Part::Trace), // unless there is a parameter of this name
        name => {
            let cure = format!(
                "names an undeclared parameter `{name}`: declare it under [parameters], or write {{{{ and }}}} for braces"
            );
            Err(Invalid::new(setting, cure))
        }
    }
}

/// A parameter as text.
fn argument<'a>(name: &str, value: &'a Value) -> Result<Cow<'a, str>, Problem> {
    match value {
        Value::String(text) if text.contains('\0') => Err(Problem::new(
            Kind::ValidationFailed,
            format!("The parameter {name} must not contain the NUL character."),
        )),
        Value::String(text) => Ok(Cow::Borrowed(text)),
        Value::Number(number) => Ok(Cow::Owned(parameters::number_text(number))),
        other => Ok(Cow::Owned(other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn templates(toml: &str) -> Result<Templates, Invalid> {
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
        Templates::new(&overrides, &Parameters::new(&parameters)?)
    }

    fn render(toml: &str, values: Value) -> Overrides {
        let Value::Object(values) = values else {
            panic!("an object")
        };
        templates(toml)
            .unwrap()
            .render(&"acme".parse().unwrap(), &values, "id".to_owned(), None)
            .unwrap()
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
    fn a_start_without_parameters_leaves_out_what_needs_them() {
        let overrides = render(BOTH, json!({}));
        assert_eq!(overrides.args, ["--scope=acme", "{acme}"]);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            overrides.env,
            [
                pair("SCOPE", "acme"),
                pair("INVOCATION_ID", "id"),
                pair("PLAIN", "as it is")
            ]
        );
    }

    #[test]
    fn the_trace_of_a_request_can_be_given_on_and_a_parameter_of_that_name_comes_first() {
        let trace = |toml: &str, values: Value, trace: Option<&str>| {
            let (scope, templates) = ("acme".parse().unwrap(), templates(toml).unwrap());
            let rendered =
                templates.render(&scope, values.as_object().unwrap(), String::new(), trace);
            rendered.unwrap().args
        };
        let plain = "[overrides]\nargs = ['--trace={trace}']\nenv = {}";
        assert_eq!(trace(plain, json!({}), Some("0af7")), ["--trace=0af7"]);
        assert!(trace(plain, json!({}), None).is_empty());
        let declared = format!("{plain}\n[parameters]\ntrace = {{ type = 'string' }}");
        let given = json!({"trace": "mine"});
        assert_eq!(trace(&declared, given, Some("0af7")), ["--trace=mine"]);
    }

    #[test]
    fn values_are_put_in_once_and_never_read_again() {
        let overrides = render(
            BOTH,
            json!({"document": "{scope} $(id) {limit} \"'\n", "limit": 5}),
        );
        assert_eq!(
            overrides.args[1..3],
            ["{scope} $(id) {limit} \"'\n", "--limit=5"]
        );
    }

    #[test]
    fn numbers_are_written_as_a_person_would() {
        let limit = |value: Value| render(BOTH, json!({"limit": value})).args[1].clone();
        assert_eq!(limit(json!(5.0)), "--limit=5");
        assert_eq!(limit(json!(0.5)), "--limit=0.5");
        assert_eq!(limit(json!(-7)), "--limit=-7");
        assert_eq!(limit(json!(u64::MAX)), "--limit=18446744073709551615");
    }

    #[test]
    fn a_value_no_process_could_be_given_is_refused() {
        let templates = templates(BOTH).unwrap();
        for value in ["a\0b".to_owned(), "a".repeat(MAX_VALUE_BYTES + 1)] {
            let values = Map::from_iter([("document".to_owned(), value.into())]);
            let refused = templates
                .render(&"acme".parse().unwrap(), &values, "id".to_owned(), None)
                .unwrap_err();
            assert_eq!(refused.kind, Kind::ValidationFailed);
        }
    }

    #[test]
    fn a_template_that_cannot_work_names_its_setting_and_the_cure() {
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
            let message = templates(&toml)
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
        /// No template and no value makes it panic, and what a value contains is never read as a placeholder.
        #[test]
        fn any_template_is_compiled_or_refused(text in "[{}a-z ]{0,24}", document in "\\PC{0,24}") {
            let toml = format!("[overrides]\nargs = ['{text}']\nenv = {{}}\n[parameters]\ndocument = {{ type = 'string' }}");
            let Ok(templates) = templates(&toml) else { return Ok(()) };
            let values = Map::from_iter([("document".to_owned(), document.clone().into())]);
            let rendered = templates.render(&"acme".parse().unwrap(), &values, "id".to_owned(), None).unwrap();
            let expected = text.replace("{{", "\u{1}").replace("}}", "\u{2}").replace("{scope}", "acme");
            let expected = expected.replace("{document}", "\u{3}").replace('\u{1}', "{").replace('\u{2}', "}");
            if !text.contains("{{{") && !text.contains("}}}") {
                assert_eq!(rendered.args[0], expected.replace('\u{3}', &document));
            }
        }
    }
}
