//! The program itself: what it refuses to start with, and how it ends.

use std::process::{Command, Output};

fn api(variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_api"));
    command
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

const ENOUGH: [(&str, &str); 2] = [
    ("API__AUTH__MODE", "public"),
    ("API__CLOUD_RUN__JOB", "test-job"),
];

#[test]
fn settings_that_cannot_work_keep_it_from_starting_and_say_so_in_one_line() {
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("API__AUTH__MODE", "")], "API__AUTH__MODE"),
        (&[("API__AUTH__MODE", "none")], "API__AUTH__MODE"),
        (&[("API__CLOUD_RUN__JOB", "")], "API__CLOUD_RUN__JOB"),
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
        (&[("API__LOG", "api=loud")], "API__LOG"),
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
fn a_port_in_use_is_told_with_the_port() {
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
fn help_and_version_are_told() {
    for (argument, text) in [
        ("--help", "API__CLOUD_RUN__JOB"),
        ("--version", env!("CARGO_PKG_VERSION")),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_api"))
            .arg(argument)
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
