//! The program: the settings with which it refuses to start, and its exit.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::helpers::PATIENCE;

/// The output of the program, which must end by itself: it would serve for ever if it accepted the settings.
fn api(variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_api"));
    let mut program = command
        .env_clear()
        .envs(variables.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while program.try_wait().unwrap().is_none() {
        if began.elapsed() > PATIENCE {
            program.kill().unwrap();
            panic!("the program accepts {variables:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    program.wait_with_output().unwrap()
}

const ENOUGH: [(&str, &str); 2] = [
    ("API__AUTH__MODE", "public"),
    ("API__CLOUD_RUN__JOB", "test-job"),
];

/// All settings of mode `jwt` except grants.
const JWT: [(&str, &str); 3] = [
    ("API__AUTH__MODE", "jwt"),
    ("API__AUTH__JWT__PRESET", "google"),
    ("API__AUTH__JWT__AUDIENCE", "https://svc.example"),
];

#[test]
fn an_invalid_setting_ends_the_program_with_one_line() {
    let cases: &[(&[(&str, &str)], &str)] = &[
        (
            &[("API__AUTH__MODE", "")],
            "auth.mode (API__AUTH__MODE): must be chosen: public (anyone",
        ),
        (
            &[("API__AUTH__MODE", "none")],
            "auth.mode (API__AUTH__MODE): `none` is unknown; choose: public (anyone",
        ),
        (&[("API__AUTH__MODE", "jwt")], "API__AUTH__JWT__ISSUER"),
        (&JWT, "API__AUTH__GRANTS"),
        (
            &[JWT[0], JWT[1], ("API__AUTH__SCOPE_CLAIM", "tenant")],
            "API__AUTH__JWT__AUDIENCE",
        ),
        (
            &[
                JWT[0],
                ("API__AUTH__JWT__ISSUER", "https://issuer.example"),
                JWT[2],
            ],
            "API__AUTH__JWT__JWKS_URL",
        ),
        (&[("API__AUTH__JWT__LEEWAY", "7")], "leeway"),
        (&[("API__LOG", "verbose")], "API__LOG"),
        (&[("API__LOG", "info,hyper")], "API__LOG"),
        (
            &[("API__CORS__ORIGINS", "https://*.example.com")],
            "API__CORS__ORIGINS",
        ),
        (
            &[JWT[0], ("API__AUTH__JWT__SECRET", "too-short")],
            "API__AUTH__JWT__SECRET",
        ),
        (
            &[JWT[0], ("API__AUTH__JWT__PRESET", "goggle")],
            "auth.jwt.preset (API__AUTH__JWT__PRESET): `goggle` is unknown; choose google, firebase or iap, or set issuer",
        ),
        (
            &[
                JWT[0],
                JWT[1],
                JWT[2],
                ("API__AUTH__JWT__ALGORITHM", "HS256"),
            ],
            "auth.jwt.algorithm (API__AUTH__JWT__ALGORITHM): must be RS256 or ES256",
        ),
        (
            &[JWT[0], JWT[1], JWT[2], ("API__AUTH__JWT__HEADER", "a b")],
            "API__AUTH__JWT__HEADER",
        ),
        (
            &[("API__AUTH__JWT__JWKS_URL", "http://example.com/keys")],
            "API__AUTH__JWT__JWKS_URL",
        ),
        (
            &[
                ("K_SERVICE", "x"),
                ("API__AUTH__JWT__JWKS_URL", "http://127.0.0.1:1/keys"),
            ],
            "API__AUTH__JWT__JWKS_URL",
        ),
        (
            &[("API__AUTH__GRANTS", "/nonexistent.toml")],
            "/nonexistent.toml",
        ),
        (&[("API__CLOUD_RUN__JOB", "")], "API__CLOUD_RUN__JOB"),
        (
            &[("API__PROCESSES", "{ import = { job = '' } }")],
            "processes.import.job",
        ),
        (
            &[("API__PROCESSES", "import")],
            "processes (API__PROCESSES): is not a table such as { import",
        ),
        (
            &[("API__PROCESSES__IMPORT", "import-job")],
            "processes.import (API__PROCESSES__IMPORT): is not a table",
        ),
        (
            &[(
                "API__PARAMETERS",
                "{ a = { type = 'string', pattern = '(?=x)' } }",
            )],
            "parameters.a",
        ),
        (&[("API__CLOUD_RUN__JOB", "Job/..")], "API__CLOUD_RUN__JOB"),
        (&[("API__CLOUD_RUN__JOBB", "x")], "jobb"),
        (
            &[("API__CLOUD_RUN__BASE_URL", "http://example.com")],
            "API__CLOUD_RUN__BASE_URL",
        ),
        (
            &[(
                "API__CLOUD_RUN__BASE_URL",
                "https://user:CANARY@example.com",
            )],
            "API__CLOUD_RUN__BASE_URL",
        ),
        (
            &[("API__CLOUD_LOGGING__BASE_URL", "nonsense")],
            "API__CLOUD_LOGGING__BASE_URL",
        ),
        (
            &[
                ("K_SERVICE", "x"),
                ("API__CLOUD_RUN__BASE_URL", "http://127.0.0.1:1"),
            ],
            "API__CLOUD_RUN__BASE_URL",
        ),
        (
            &[("K_SERVICE", "x"), ("GCE_METADATA_HOST", "127.0.0.1:1")],
            "GCE_METADATA_HOST",
        ),
        (
            &[("API__OVERRIDES__ENV__LD_PRELOAD", "CANARY")],
            "overrides.env.LD_PRELOAD",
        ),
        (&[("API__OVERRIDES__ARGS", "[oops")], "API__OVERRIDES__ARGS"),
        (
            &[("API__OVERRIDES__ARGS", "['{nope}']")],
            "API__OVERRIDES__ARGS",
        ),
        (
            &[("API__PARAMETERS", "{ a = { type = 'strin' } }")],
            "parameters.a",
        ),
        (
            &[("API__START__DEADLINE_SECONDS", "0")],
            "API__START__DEADLINE_SECONDS",
        ),
        (&[("API__CORS__ORIGINS", "*")], "API__CORS__ORIGINS"),
        (&[("API__CORS__ORIGINS", "null")], "API__CORS__ORIGINS"),
        (
            &[(
                "API__CORS__ORIGINS",
                "https://a.example,https://b.example/page",
            )],
            "https://b.example",
        ),
        (&[("API__LIMITS__IN_FLIGHT", "0")], "API__LIMITS__IN_FLIGHT"),
        (&[("API__LIMITS__STREAMS", "-1")], "limits.streams"),
        (
            &[("API__LIMITS__LOG_READS_PER_MINUTE", "0")],
            "API__LIMITS__LOG_READS_PER_MINUTE",
        ),
        (&[("API__LOG", "api=loud")], "API__LOG"),
        (&[("API_AUTH_MODE", "iam")], "write API__AUTH__MODE"),
        (&[("API__AUTH_MODE", "iam")], "write API__AUTH__MODE"),
        (
            &[("api__limits__streams", "5")],
            "write API__LIMITS__STREAMS",
        ),
        (
            &[("API__IDEMPOTENCY__STORE", "redis")],
            "expected `memory` or `firestore`",
        ),
        (
            &[("API__START__ON_RUNNING", "skip")],
            "expected one of `allow`, `reject`, `join`, `replace`",
        ),
        (
            &[("GCE_METADATA_HOST", "http://127.0.0.1:8787")],
            "GCE_METADATA_HOST (environment): must be host:port",
        ),
        (&[("GCE_METADATA_HOST", "a b")], "GCE_METADATA_HOST"),
        (
            &[("GCE_METADATA_HOST", "localhost:99999")],
            "GCE_METADATA_HOST",
        ),
        (
            &[("FIRESTORE_EMULATOR_HOST", "127.0.0.1:8080/")],
            "FIRESTORE_EMULATOR_HOST",
        ),
        (
            &[(
                "API__PARAMETERS",
                "{ a = { type = 'integer', minimum = 2, exclusiveMaximum = 2 } }",
            )],
            "parameters.a (API__PARAMETERS__A): allows no value",
        ),
        (
            &[(
                "API__PARAMETERS",
                "{ a = { type = 'string', minLength = 2, maxLength = 1 } }",
            )],
            "parameters.a (API__PARAMETERS__A): allows no value",
        ),
        (
            &[(
                "API__PARAMETERS",
                "{ a = { type = 'string', enum = ['x', 1] } }",
            )],
            "parameters.a (API__PARAMETERS__A): its enum has a value that is not valid: it must be a text",
        ),
        (&[("PORT", "http")], "port"),
        (&[("API_CONFIG", "/nonexistent.toml")], "/nonexistent.toml"),
    ];
    for (variables, named) in cases {
        let output = api(&[&ENOUGH[..], variables].concat());
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{variables:?}");
        assert!(
            message.contains(named) && message.lines().count() == 1,
            "{variables:?}: {message}"
        );
        assert!(!message.contains("CANARY"), "{message}");
    }
}

#[test]
fn a_variable_may_be_written_in_the_usual_forms() {
    for variables in [
        (
            "API__CORS__ORIGINS",
            "https://a.example.com, https://b.example.com",
        ),
        ("API__CORS__ORIGINS", r#"["https://a.example.com"]"#),
        ("API__OVERRIDES__ARGS", r#"["--scope={scope}"]"#),
        ("API__OVERRIDES__ENV", "{ A = '{scope}' }"),
        ("API__OVERRIDES__ENV", r#"{"A": "{scope}"}"#),
        ("API__PARAMETERS", r#"{"limit": {"type": "integer"}}"#),
        ("API__PROCESSES", "{ import = { job = 'import-job' } }"),
        ("API__PROCESSES", r#"{"import": {"job": "import-job"}}"#),
        ("API__PROCESSES__IMPORT", "{ job = 'import-job' }"),
        ("API__PROCESSES__IMPORT", r#"{"max_running": 2}"#),
        ("API__START__ON_RUNNING", "Reject"),
        ("GCE_METADATA_HOST", "127.0.0.1"),
        ("GCE_METADATA_HOST", "[::1]:1"),
        ("FIRESTORE_EMULATOR_HOST", "localhost:8080"),
        (
            "API__PARAMETERS",
            "{ a = { type = 'integer', minimum = 2, maximum = 2, enum = [2] } }",
        ),
        ("API_PORT", "tcp://10.0.0.1:80"), // set by platforms that link containers, and not ours
    ] {
        let check = Command::new(env!("CARGO_BIN_EXE_api"))
            .arg("check")
            .env_clear()
            .envs(ENOUGH)
            .envs([("GCE_METADATA_HOST", "127.0.0.1:1"), variables])
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&check.stdout).into_owned();
        let error = String::from_utf8_lossy(&check.stderr);
        assert!(
            output.starts_with("✓ settings"),
            "{variables:?}: {output} {error}"
        );
    }
}

#[test]
fn a_settings_file_that_is_not_toml_is_refused_with_its_line_number_only() {
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("broken.toml");
    std::fs::write(&file, "[auth]\nmode = \"jwt\"\njwt.secret = \"CANARY\n").unwrap();
    let output = api(&[ENOUGH[0], ("API_CONFIG", file.to_str().unwrap())]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains("API_CONFIG") && message.contains("broken.toml is not TOML: see line 3"),
        "{message}"
    );
    assert!(!message.contains("CANARY"), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
}

#[test]
fn an_empty_variable_counts_as_absent() {
    let empty = [
        "AUTH__JWT__PRESET",
        "AUTH__JWT__ISSUER",
        "AUTH__JWT__AUDIENCE",
        "AUTH__JWT__JWKS_URL",
        "AUTH__JWT__ALGORITHM",
        "AUTH__JWT__HEADER",
        "AUTH__JWT__SECRET",
        "AUTH__SCOPE_CLAIM",
        "AUTH__GRANTS",
        "CLOUD_RUN__PROJECT",
        "CLOUD_RUN__REGION",
        "CLOUD_RUN__CONTAINER",
        "CLOUD_RUN__BASE_URL",
    ];
    let check = Command::new(env!("CARGO_BIN_EXE_api"))
        .arg("check")
        .env_clear()
        .envs(ENOUGH)
        .envs(empty.map(|name| (format!("API__{name}"), "")))
        .env("GCE_METADATA_HOST", "127.0.0.1:1")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&check.stdout).into_owned();
    let error = String::from_utf8_lossy(&check.stderr);
    assert!(output.starts_with("✓ settings"), "{output} {error}");
}

#[test]
fn invalid_grants_end_the_program_with_their_place() {
    let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let grant = |fields: &str| format!("claim = \"sub\"\nvalue = \"u1\"\n{fields}");
    let good = grant("scopes = [\"*\"]\noperations = [\"start\"]");
    for (name, fields, named) in [
        (
            "operation",
            grant("scopes = [\"*\"]\noperations = [\"write\"]"),
            "write",
        ),
        ("missing", grant("scopes = [\"*\"]"), "operations"),
        ("unknown", format!("{good}\nscope = \"acme\""), "scope"),
        (
            "scope",
            grant("scopes = [\"a/b\"]\noperations = [\"start\"]"),
            "`scopes` of grant 1",
        ),
    ] {
        let tables = [
            ("grants", "API__AUTH__GRANTS"),
            ("auth.grants", "API_CONFIG"),
        ];
        for (table, variable) in tables {
            let path = directory.join(format!("{name}-{table}.toml"));
            std::fs::write(&path, format!("[[{table}]]\n{fields}\n")).unwrap();
            let output = api(&[&ENOUGH[1..], &JWT, &[(variable, path.to_str().unwrap())]].concat());
            let message = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{name}");
            assert!(
                message.contains(named) && message.lines().count() == 1,
                "{name}: {message}"
            );
        }
    }
}

#[test]
fn a_port_in_use_is_named_in_the_error() {
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = api(&[&ENOUGH[..], &[("PORT", &port)]].concat());
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(1) && message.contains(&port),
        "{message}"
    );
}

#[test]
fn the_document_is_printed_without_any_call() {
    let parameters = ("API__PARAMETERS", "{ limit = { type = 'integer' } }");
    let templates = ("API__OVERRIDES__ARGS", "['{limit}']");
    let mut command = Command::new(env!("CARGO_BIN_EXE_api"));
    let variables = ENOUGH.into_iter().chain([parameters, templates]);
    let output = command.env_clear().envs(variables).arg("openapi").output();
    let document: serde_json::Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    let declared = &document["components"]["schemas"]["Parameters"]["properties"];
    assert_eq!(declared["limit"]["type"], "integer");
}

#[test]
fn help_and_version_are_printed() {
    for (argument, text) in [
        ("--help", "API__CLOUD_RUN__JOB"),
        ("check --help", "API__CLOUD_RUN__JOB"),
        ("token --help", "--operations start,read"),
        ("--version", env!("CARGO_PKG_VERSION")),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_api"))
            .args(argument.split(" "))
            .output()
            .unwrap();
        assert!(
            output.status.success() && String::from_utf8(output.stdout).unwrap().contains(text)
        );
    }
    assert_eq!(
        Command::new(env!("CARGO_BIN_EXE_api"))
            .arg("--port")
            .output()
            .unwrap()
            .status
            .code(),
        Some(1)
    );
}

const SECRET: &str = "kG7vX2pQ9sL4mZ8wR1tY6uB3nC5dF0hJ";

#[test]
fn a_secret_that_can_be_guessed_is_refused_with_the_command_for_another_and_never_printed() {
    for secret in [
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "passwordpasswordpasswordpassword1234",
        "short-CANARY-1",
    ] {
        for more in [&[][..], &[SECRET][..]] {
            let secrets = [&[secret], more].concat().join(",");
            let output = api(&[JWT[0], ENOUGH[1], ("API__AUTH__JWT__SECRET", &secrets)]);
            let printed = [output.stdout, output.stderr].concat();
            let printed = String::from_utf8(printed).unwrap();
            assert!(!output.status.success());
            assert!(printed.contains("openssl rand -base64 32"), "{printed}");
            assert!(
                !printed.contains(secret) && !printed.contains(SECRET),
                "{printed}"
            );
        }
    }
}

fn token(arguments: &[&str], secret: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_api"));
    command.env_clear().arg("token").args(arguments);
    command
        .env("API__AUTH__JWT__SECRET", secret)
        .output()
        .unwrap()
}

#[test]
fn api_token_refuses_to_make_a_token_that_the_service_would_refuse() {
    for arguments in [
        &[][..],
        &["a/b"],
        &["acme", "--operations", "stop"],
        &["acme", "--operations", ""],
        &["acme", "--minutes", "0"],
        &["acme", "--minutes", "1441"],
        &["acme", "--minutes", "soon"],
        &["acme", "--process", "Import"],
        &["acme", "--key", "a b"],
        &["acme", "--key"],
        &["acme", "--secret", SECRET],
    ] {
        let output = token(arguments, SECRET);
        assert!(
            !output.status.success() && output.stdout.is_empty(),
            "{arguments:?}"
        );
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            error.contains("usage: api token SCOPE") && !error.contains("panicked"),
            "{error}"
        );
    }
    for secret in ["", "short", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"] {
        let output = token(&["acme"], secret);
        assert!(!output.status.success() && output.stdout.is_empty());
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("API__AUTH__JWT__SECRET"), "{error}");
    }
}
