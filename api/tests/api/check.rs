//! `api check`: the doctor's findings and cures.

use std::process::Output;

use api::check::{Report, check};
use api::config::{AuthMode, Config, Preset};
use axum::response::IntoResponse;
use emulator::{Emulator, Fault, FaultBody, Job, Operation, Rule, Settings};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::helpers::{JOB, TestApp, client, config, real_job};
use crate::issuer::{Answer, Issuer};

async fn emulator(job: Job) -> Emulator {
    let settings = Settings {
        jobs: vec![job],
        ..Settings::default()
    };
    Emulator::start(settings).await.unwrap()
}

async fn report(emulator: &Emulator, configure: impl FnOnce(&mut Config)) -> Report {
    let mut config = config(emulator);
    configure(&mut config);
    check(Ok(config)).await
}

fn finding<'a>(report: &'a Value, subject: &str) -> &'a Value {
    let findings = report["findings"].as_array().unwrap();
    findings
        .iter()
        .find(|finding| finding["subject"] == subject)
        .unwrap_or_else(|| panic!("nothing on {subject}: {report:#}"))
}

/// The doctor's verdict on one subject, and the cure.
async fn verdict(emulator: &Emulator, subject: &str) -> (String, String) {
    let report = report(emulator, |_| {}).await.json();
    let found = finding(&report, subject);
    assert_eq!(report["ok"], found["verdict"] != "failed", "{report:#}");
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (text("verdict"), text("cure"))
}

fn answered(code: u16, body: Value) -> Fault {
    Fault::answer(code, FaultBody::Text(body.to_string()))
}

/// A role with only the permissions for the service's reads.
const READER: &str = "--role=projects/demo/roles/testInvokeJobApi";

/// An error of Google's that names its cause (google.rpc.ErrorInfo). Its message contains nothing to search for.
fn because(reason: &str) -> Value {
    let info = json!({ "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "googleapis.com" });
    json!({ "error": { "code": 403, "status": "PERMISSION_DENIED", "message": "No.", "details": [info] } })
}

/// An emulator in which the nth call about the job meets the fault: 1 reads the job, 2 tests starting, 3 tests cancelling.
fn nth(n: u64, fault: Fault) -> Rule {
    Rule {
        nth: Some(n),
        ..Rule::new(Operation::Other, fault)
    }
}

#[tokio::test]
async fn a_correct_setup_passes_and_the_check_starts_nothing() {
    let emulator = emulator(real_job()).await;
    let report = report(&emulator, |_| {}).await;
    assert!(report.is_well(), "{report}");
    let text = report.to_string();
    let (ok, other): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.starts_with("✓ "));
    assert_eq!(ok.len(), 13, "{text}");
    // The job has not run yet, and nothing else shows that its image takes arguments.
    assert!(
        other.len() == 1 && other[0].starts_with("? arguments: "),
        "{text}"
    );
    let calls = emulator.counters();
    assert_eq!(
        (calls.calls(Operation::Run), calls.calls(Operation::Cancel)),
        (0, 0)
    );
    assert!(emulator.executions().is_empty());
}

#[tokio::test]
async fn each_missing_thing_is_named_with_the_command_that_corrects_it() {
    let off = because("SERVICE_DISABLED");
    let grant = "gcloud run jobs add-iam-policy-binding test-job --member=serviceAccount:";
    let cases = [
        (
            nth(1, Fault::status(404)),
            "job",
            "failed",
            "gcloud run jobs deploy test-job --image=IMAGE",
        ),
        (nth(1, Fault::status(403)), "job", "failed", READER),
        (nth(1, Fault::status(500)), "job", "failed", ""),
        (
            nth(1, answered(403, off.clone())),
            "job",
            "failed",
            "gcloud services enable run.googleapis.com --project=demo",
        ),
        (
            Rule::new(Operation::Logs, answered(403, off)),
            "logs",
            "failed",
            "gcloud services enable logging.googleapis.com --project=demo",
        ),
        (
            Rule::new(Operation::List, answered(403, because("CONSUMER_INVALID"))),
            "list",
            "failed",
            "gcloud projects describe demo",
        ),
        (
            nth(2, answered(200, json!({ "permissions": ["run.jobs.run"] }))),
            "start",
            "failed",
            grant,
        ),
        (
            nth(2, answered(200, json!({}))),
            "start",
            "failed",
            "--role=roles/run.jobsExecutorWithOverrides",
        ),
        (nth(2, Fault::status(403)), "start", "warning", ""),
        (nth(3, answered(200, json!({}))), "cancel", "failed", grant),
        (nth(3, Fault::status(400)), "cancel", "warning", ""),
        (
            Rule::new(Operation::List, Fault::status(403)),
            "list",
            "failed",
            "gcloud projects add-iam-policy-binding demo",
        ),
        (
            Rule::new(Operation::Get, Fault::status(403)),
            "follow",
            "failed",
            READER,
        ),
        (
            Rule::new(Operation::Logs, Fault::status(403)),
            "logs",
            "failed",
            READER,
        ),
        (
            Rule::new(Operation::Token, Fault::status(404)),
            "token",
            "failed",
            "GCE_METADATA_HOST",
        ),
    ];
    let emulator = emulator(real_job()).await;
    for (rule, subject, expected, cure) in cases {
        emulator.faults().clear();
        emulator.faults().add(rule);
        let (verdict, shown) = verdict(&emulator, subject).await;
        assert_eq!(verdict, expected, "{subject}");
        assert!(
            shown.contains(cure) && shown.is_empty() == cure.is_empty(),
            "{subject}: {shown}"
        );
    }
}

#[tokio::test]
async fn a_job_with_retries_low_parallelism_or_large_variables_causes_a_warning() {
    let job = Job {
        task_count: 5,
        parallelism: 2,
        max_retries: 3,
        env: vec![("RULES".to_owned(), "x".repeat(17_000))],
        ..Job::new(JOB, ["true"])
    };
    let emulator = emulator(job).await;
    let large = report(&emulator, |_| {}).await.json();
    assert_eq!(finding(&large, "size")["verdict"], "warning");
    for (subject, flag) in [("retries", "--max-retries=0"), ("tasks", "--parallelism=0")] {
        let (verdict, cure) = verdict(&emulator, subject).await;
        assert_eq!(verdict, "warning", "{subject}");
        assert!(
            cure.starts_with("gcloud run jobs update test-job") && cure.contains(flag),
            "{cure}"
        );
    }
    let fewer = report(&emulator, |config| config.overrides.task_count = Some(2)).await;
    assert_eq!(finding(&fewer.json(), "tasks")["verdict"], "ok");
}

#[tokio::test]
async fn the_container_of_the_settings_must_be_one_of_the_jobs() {
    let emulator = emulator(real_job()).await;
    let wrong = report(&emulator, |config| {
        config.cloud_run.container = Some("absent".to_owned())
    })
    .await;
    let wrong = wrong.json();
    assert_eq!(finding(&wrong, "container")["verdict"], "failed");
    assert_eq!(wrong["ok"], false);

    let spec = |containers: Value| json!({ "spec": { "template": { "spec": { "template": { "spec": { "containers": containers, "maxRetries": 0 } } } } } });
    let two = spec(json!([{ "name": "main" }, { "name": "proxy" }]));
    for (container, verdict) in [
        (None, "failed"),
        (Some("main"), "ok"),
        (Some("x"), "failed"),
    ] {
        emulator.faults().clear();
        emulator.faults().add(nth(1, answered(200, two.clone())));
        let report = report(&emulator, |config| {
            config.cloud_run.container = container.map(str::to_owned)
        });
        let report = report.await.json();
        let found = finding(&report, "container");
        assert_eq!(found["verdict"], verdict, "{container:?}");
        let is_named = found["cure"] == "export API__CLOUD_RUN__CONTAINER=main";
        assert_eq!(is_named, verdict == "failed", "{found}");
    }
}

/// Deploys the job with this container, as gcloud would.
async fn deploy(emulator: &Emulator, container: Value) {
    let spec = json!({ "template": { "spec": { "template": { "spec": { "containers": [container], "maxRetries": 0 } } } } });
    let job = json!({ "apiVersion": "run.googleapis.com/v1", "kind": "Job", "metadata": { "name": JOB }, "spec": spec });
    let job_url = format!(
        "{}/apis/run.googleapis.com/v1/namespaces/demo/jobs/{JOB}",
        emulator.url()
    );
    let answer = client().put(job_url).json(&job).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
}

async fn open_emulator() -> Emulator {
    let settings = Settings {
        jobs: vec![real_job()],
        allow_anonymous: true,
        ..Settings::default()
    };
    Emulator::start(settings).await.unwrap()
}

#[tokio::test]
async fn the_jobs_command_and_options_show_that_arguments_reach_a_program() {
    let emulator = open_emulator().await;
    let cases = [
        (json!({ "command": ["python3", "/app/main.py"] }), "ok"),
        (json!({ "command": ["python3"], "args": ["main.py"] }), "ok"),
        (json!({ "args": ["--verbose"] }), "ok"),
        // In an image without an ENTRYPOINT the first argument can be the program.
        (json!({ "args": ["python3", "main.py"] }), "unknown"),
        (json!({}), "unknown"),
    ];
    for (mut container, verdict) in cases {
        container["image"] = json!("images/test-job");
        deploy(&emulator, container.clone()).await;
        let with_arguments = report(&emulator, |_| {}).await;
        assert!(with_arguments.is_well(), "{with_arguments}");
        let with_arguments = with_arguments.json();
        let found = finding(&with_arguments, "arguments");
        assert_eq!(found["verdict"], verdict, "{container}: {found}");
        let text = found["found"].as_str().unwrap();
        assert_eq!(
            text.contains("test-job must have an ENTRYPOINT"),
            verdict == "unknown",
            "{text}"
        );
        let without = report(&emulator, |config| config.overrides.args.clear()).await;
        let without = without.json();
        let found = finding(&without, "arguments");
        assert_eq!(found["verdict"], "ok", "{container}: {found}");
    }
}

#[tokio::test]
async fn failed_executions_cause_a_warning_about_arguments_until_one_succeeds() {
    let app = TestApp::with(real_job(), |config| {
        let env = &mut config.overrides.env;
        env.insert("FAIL_WITH".to_owned(), json!("{code}"));
        let code = json!({ "code": { "type": "integer" } });
        config.parameters = code.as_object().unwrap().clone();
    })
    .await;
    let run = async |app: &TestApp, body: Value, state: &str| {
        let started = app.post("/scopes/acme/process").json(&body).send().await;
        let execution: Value = started.unwrap().json().await.unwrap();
        app.until(&execution, state).await;
    };
    run(&app, json!({ "code": 3 }), "failed").await;
    let failed = report(&app.emulator, |_| {}).await;
    assert!(failed.is_well(), "{failed}");
    let failed = failed.json();
    let found = finding(&failed, "arguments");
    assert_eq!(found["verdict"], "warning", "{found}");
    let cure = found["cure"].as_str().unwrap();
    for way in [
        "ENTRYPOINT [",
        "gcloud run jobs update test-job --command=PROGRAM --region=us-east4 --project=demo",
        "overrides.args = []",
    ] {
        assert!(cure.contains(way), "{cure}");
    }

    run(&app, json!({}), "succeeded").await;
    run(&app, json!({ "code": 3 }), "failed").await;
    let (verdict, _) = verdict(&app.emulator, "arguments").await;
    assert_eq!(verdict, "ok");

    // The executions of one process prove nothing about another process.
    let named = report(&app.emulator, |config| {
        let import = api::config::Process::default();
        config.processes.insert("import".to_owned(), import);
    });
    let text = named.await.to_string();
    for line in [
        "✓ arguments: the unnamed process: ",
        "? arguments: import: no execution ",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[tokio::test]
async fn a_job_that_sets_a_variable_of_the_service_causes_a_warning() {
    let emulator = open_emulator().await;
    let mut container =
        json!({ "image": "images/test-job", "env": [{ "name": "MODE", "value": "full" }] });
    deploy(&emulator, container.clone()).await;
    let harmless = report(&emulator, |_| {}).await.json();
    let findings = harmless["findings"].as_array().unwrap();
    assert!(
        findings
            .iter()
            .all(|finding| finding["subject"] != "variables"),
        "{harmless:#}"
    );
    for names in [
        &["PROCESS"][..],
        &["SCOPE", "PROCESS", "INVOCATION_ID", "PARAMETERS"],
    ] {
        let env = names
            .iter()
            .map(|name| json!({ "name": name, "value": "x" }));
        container["env"] = env.collect();
        deploy(&emulator, container.clone()).await;
        let report = report(&emulator, |_| {}).await;
        assert!(report.is_well(), "{report}");
        let report = report.json();
        let found = finding(&report, "variables");
        assert_eq!(found["verdict"], "warning");
        let text = found["found"].as_str().unwrap();
        assert!(text.contains(&names.join(", ")), "{text}");
        let cure = format!(
            "gcloud run jobs update test-job --remove-env-vars={} --region=us-east4 --project=demo",
            names.join(",")
        );
        assert_eq!(found["cure"], cure);
    }
}

/// No role that the doctor proposes allows more than the role that the deploy script grants.
#[tokio::test]
async fn no_wider_role_is_proposed_than_the_deploy_script_gives() {
    const SCRIPT: &str = include_str!("../../../build-deploy-api.sh");
    let line = SCRIPT.lines().find(|line| line.starts_with("permissions="));
    let (_, permissions) = line.unwrap().split_once('=').unwrap();
    let emulator = emulator(real_job()).await;
    for operation in [
        Operation::Get,
        Operation::List,
        Operation::Logs,
        Operation::Other,
    ] {
        emulator
            .faults()
            .add(Rule::new(operation, Fault::status(403)));
    }
    let report = report(&emulator, |_| {}).await;
    let text = report.to_string();
    for role in text.split("--role=").skip(1) {
        let role = role.split_whitespace().next().unwrap();
        assert!(
            [
                "projects/demo/roles/testInvokeJobApi",
                "roles/run.jobsExecutorWithOverrides"
            ]
            .contains(&role),
            "{role}"
        );
    }
    assert!(
        text.contains(&format!("--permissions={permissions} ")),
        "{text}"
    );
    // If no read is allowed, the first cure is to check the project's name.
    let project = finding(&report.json(), "project").clone();
    assert_eq!(project["verdict"], "failed");
    let cure = project["cure"].as_str().unwrap();
    assert!(cure.starts_with("gcloud projects describe demo"), "{cure}");
}

/// The doctor's cure depends on the failure, and names the host and port.
#[tokio::test]
async fn an_unreachable_server_is_named_with_the_setting_of_its_address() {
    let emulator = emulator(real_job()).await;
    let closed = "127.0.0.1:1";
    type Change = fn(&mut Config, String);
    let cases: [(&str, Change, &str); 3] = [
        (
            "list",
            |config, url| config.cloud_run.base_url = Some(url),
            "unset API__CLOUD_RUN__BASE_URL",
        ),
        (
            "logs",
            |config, url| config.cloud_logging.base_url = url,
            "unset API__CLOUD_LOGGING__BASE_URL",
        ),
        (
            "store",
            |config, url| {
                config.idempotency.store = api::config::Store::Firestore;
                config.platform.firestore_host = url.strip_prefix("http://").map(str::to_owned);
            },
            "unset FIRESTORE_EMULATOR_HOST",
        ),
    ];
    // A server that is not the API, and a port without a listener.
    let page = axum::Router::new().fallback(async || axum::response::Html("<p>a page</p>"));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, page).await });
    for (subject, change, cure) in cases {
        for host in [closed, &other] {
            let report = report(&emulator, |config| change(config, format!("http://{host}"))).await;
            let report = report.json();
            let found = finding(&report, subject);
            assert_eq!(found["verdict"], "failed", "{found}");
            assert!(found["cure"].as_str().unwrap().starts_with(cure), "{found}");
            if host == closed {
                assert!(found["found"].as_str().unwrap().contains(host), "{found}");
            }
        }
    }
}

#[tokio::test]
async fn without_a_metadata_server_the_other_checks_are_reported_as_not_made() {
    let emulator = emulator(real_job()).await;
    let report = report(&emulator, |config| {
        config.platform.metadata_host = "127.0.0.1:1".to_owned()
    });
    let report = report.await.json();
    for subject in ["token", "place", "the rest"] {
        assert_eq!(finding(&report, subject)["verdict"], "failed");
    }
    // The project's name would not help: there is no token.
    assert_eq!(finding(&report, "place").get("cure"), None);
    let cure = finding(&report, "token")["cure"].as_str().unwrap();
    assert!(cure.starts_with("./build-deploy-api.sh --check"), "{cure}");
    assert!(
        finding(&report, "token")["found"]
            .as_str()
            .unwrap()
            .contains("GCE_METADATA_HOST")
    );
}

#[tokio::test]
async fn the_check_reports_who_may_call_and_fetches_the_issuers_keys() {
    let (emulator, issuer) = (emulator(real_job()).await, Issuer::start().await);
    let jwt = |config: &mut Config| {
        config.auth.mode = Some(AuthMode::Jwt);
        config.auth.jwt.preset = Some(Preset::Google);
        config.auth.jwt.audience = Some("https://svc.example".to_owned());
        config.auth.jwt.jwks_url = Some(issuer.jwks_url.clone());
        config.auth.scope_claim = Some("scopes".to_owned());
    };
    let well = report(&emulator, jwt).await.json();
    assert_eq!(finding(&well, "access")["verdict"], "ok", "{well:#}");
    assert_eq!(issuer.fetches(), 1);
    for answer in [
        Answer::Status(404),
        Answer::Text("<html>"),
        Answer::Keys(Vec::new()),
    ] {
        issuer.answer(answer);
        let ill = report(&emulator, jwt).await.json();
        let found = finding(&ill, "access");
        assert_eq!(
            (&found["verdict"], &ill["ok"]),
            (&json!("failed"), &json!(false))
        );
        assert!(
            found["cure"].as_str().unwrap().contains(&issuer.jwks_url),
            "{found}"
        );
    }
    let iam = report(&emulator, |config| config.auth.mode = Some(AuthMode::Iam)).await;
    assert!(
        iam.to_string()
            .contains("✓ access: callers whom Cloud Run's IAM lets through")
    );
}

/// An issuer that serves its discovery document, or none.
async fn discovery(issuer: Option<&'static str>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = format!("http://{}", listener.local_addr().unwrap());
    let described = issuer.map(|issuer| match issuer {
        "itself" => json!({ "issuer": host }),
        other => json!({ "issuer": other }),
    });
    let answer = async move || match &described {
        Some(described) => axum::Json(described.clone()).into_response(),
        None => axum::http::StatusCode::NOT_FOUND.into_response(),
    };
    let router = axum::Router::new().route(
        "/.well-known/openid-configuration",
        axum::routing::get(answer),
    );
    tokio::spawn(async move { axum::serve(listener, router).await });
    host
}

#[tokio::test]
async fn an_issuer_or_an_audience_that_no_token_can_have_is_reported() {
    let (emulator, keys) = (emulator(real_job()).await, Issuer::start().await);
    let cases = [
        (Some("itself"), "ok", ""),
        (
            Some("https://issuer.example/"),
            "failed",
            "export API__AUTH__JWT__ISSUER=https://issuer.example/",
        ),
        (None, "warning", "curl --fail http://127.0.0.1:"),
    ];
    for (described, verdict, cure) in cases {
        let issuer = discovery(described).await;
        let report = report(&emulator, |config| {
            config.auth.mode = Some(AuthMode::Jwt);
            config.auth.jwt.issuer = Some(issuer);
            config.auth.jwt.audience = Some("https://a.example,https://b.example".to_owned());
            config.auth.jwt.jwks_url = Some(keys.jwks_url.clone());
            config.auth.scope_claim = Some("scopes".to_owned());
        });
        let report = report.await.json();
        let found = finding(&report, "issuer");
        assert_eq!(found["verdict"], verdict, "{found}");
        assert!(
            found["cure"].as_str().unwrap_or_default().starts_with(cure),
            "{found}"
        );
        let audience = finding(&report, "audience");
        assert_eq!(audience["verdict"], "warning");
        assert_eq!(
            audience["cure"],
            "export API__AUTH__JWT__AUDIENCE=https://a.example"
        );
    }
}

#[tokio::test]
async fn settings_only_makes_no_call() {
    let settings = [
        ("API__AUTH__MODE", "public"),
        ("API__CLOUD_RUN__JOB", "first-job"),
        ("API__PROCESSES", "{ import = { job = 'import-job' } }"),
        ("API__LIMITS__STREAMS", "12"),
        ("GCE_METADATA_HOST", "127.0.0.1:1"), // a call would wait and fail
    ];
    let check = async |more: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_api"));
        let command = command
            .env_clear()
            .envs(settings)
            .envs(more.iter().copied());
        let output = command
            .args(["check", "--settings-only", "--json"])
            .output()
            .await
            .unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), report)
    };
    let (status, report) = check(&[]).await;
    assert_eq!(status, Some(0), "{report:#}");
    let expected = json!({ "jobs": ["first-job", "import-job"], "inFlight": 256, "streams": 12 });
    assert_eq!(report["settings"], expected);
    for (variable, value, setting) in [
        ("API__LOG", "verbose", "log"),
        ("API__LOG", "info,api=verbose", "log"),
        ("API__NONSENSE", "1", "nonsense"),
        (
            "API__START__DEADLINE_SECONDS",
            "100",
            "start.deadline_seconds",
        ),
    ] {
        let (status, report) = check(&[(variable, value)]).await;
        assert_eq!(status, Some(1), "{variable}");
        let found = finding(&report, "settings").to_string();
        assert!(found.contains(setting), "{found}");
        assert_eq!(report.get("settings"), None);
    }
}

#[tokio::test]
async fn the_job_of_every_process_is_checked() {
    let settings = Settings {
        jobs: vec![real_job(), Job::new("import-job", ["true"])],
        ..Settings::default()
    };
    let emulator = Emulator::start(settings).await.unwrap();
    let own = |job: &str| api::config::Process {
        job: Some(job.to_owned()),
        ..api::config::Process::default()
    };
    let report = report(&emulator, |config| {
        config
            .processes
            .insert("import".to_owned(), own("import-job"));
        config.processes.insert("missing".to_owned(), own("no-job"));
    });
    let text = report.await.to_string();
    for line in [
        "✓ job: the unnamed process: test-job exists",
        "✓ job: import: import-job exists",
        "! retries: import: a task that fails runs up to 3 more times",
        "✗ job: missing: ",
        "    gcloud run jobs deploy no-job ",
    ] {
        assert!(
            text.lines().any(|found| found.starts_with(line)),
            "{line} in {text}"
        );
    }
}

/// A Firestore that gives this answer to every commit and every get.
async fn firestore(status: u16, body: Value) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let status = axum::http::StatusCode::from_u16(status).unwrap();
    let answer = axum::Router::new().fallback(async move || (status, axum::Json(body)));
    tokio::spawn(async move { axum::serve(listener, answer).await });
    host
}

#[tokio::test]
async fn the_store_is_checked_if_it_is_firestore() {
    let google = |code: u16, status: &str, message: &str| json!({ "error": { "code": code, "status": status, "message": message } });
    let cases = [
        (
            200,
            json!({ "commitTime": "2026-01-02T03:04:05Z", "writeResults": [{}, {}] }),
            "ok",
            "",
        ),
        (
            404,
            google(404, "NOT_FOUND", "no such database"),
            "failed",
            "gcloud firestore databases create --location=us-east4 --project=demo",
        ),
        (
            403,
            google(
                403,
                "PERMISSION_DENIED",
                "Missing or insufficient permissions.",
            ),
            "failed",
            "'--condition=expression=resource.name == \"projects/demo/databases/(default)\",title=one-database'",
        ),
        (
            403,
            because("SERVICE_DISABLED"),
            "failed",
            "gcloud services enable firestore.googleapis.com",
        ),
    ];
    let emulator = emulator(real_job()).await;
    for (status, body, verdict, cure) in cases {
        let host = firestore(status, body).await;
        let report = report(&emulator, |config| {
            config.idempotency.store = api::config::Store::Firestore;
            config.platform.firestore_host = Some(host);
        });
        let report = report.await.json();
        let found = finding(&report, "store");
        assert_eq!(found["verdict"], verdict, "{found}");
        assert!(
            found["cure"].as_str().unwrap_or_default().contains(cure),
            "{found}"
        );
    }
}

async fn program(emulator: &Emulator, job: &str, arguments: &[&str]) -> Output {
    let variables = [
        ("API__AUTH__MODE", "public".to_owned()),
        ("API__CLOUD_RUN__JOB", job.to_owned()),
        ("API__CLOUD_RUN__BASE_URL", emulator.url()),
        ("API__CLOUD_LOGGING__BASE_URL", emulator.url()),
        ("GCE_METADATA_HOST", emulator.host()),
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_api"));
    command
        .env_clear()
        .envs(variables)
        .args(arguments)
        .output()
        .await
        .unwrap()
}

#[tokio::test]
async fn the_program_ends_with_1_if_anything_failed() {
    let emulator = emulator(real_job()).await;
    let well = program(&emulator, JOB, &["check"]).await;
    assert_eq!(well.status.code(), Some(0), "{well:?}");
    assert!(
        String::from_utf8(well.stdout)
            .unwrap()
            .contains("✓ place: project demo, region us-east4\n")
    );

    let ill = program(&emulator, "other-job", &["check"]).await;
    assert_eq!(ill.status.code(), Some(1));
    let text = String::from_utf8(ill.stdout).unwrap();
    assert!(
        text.contains("✗ job: ") && text.contains("\n    gcloud run jobs deploy other-job "),
        "{text}"
    );

    let ill = program(&emulator, "other-job", &["check", "--json"]).await;
    assert_eq!(ill.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&ill.stdout).unwrap();
    assert_eq!(
        (&report["ok"], &finding(&report, "job")["verdict"]),
        (&json!(false), &json!("failed"))
    );

    let unset = program(&emulator, "", &["check", "--json"]).await;
    let report: Value = serde_json::from_slice(&unset.stdout).unwrap();
    let found = finding(&report, "settings")["found"].as_str().unwrap();
    assert!(
        unset.status.code() == Some(1) && found.contains("API__CLOUD_RUN__JOB"),
        "{found}"
    );
}
