//! Runs the real gcloud CLI against the emulator, as a user would.
//!
//! A call of gcloud costs more than a second of CPU, so all checks share one emulator and one sequence of commands.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use emulator::{Emulator, Job, Operation, Settings, State};
use tokio::process::Command;
use tokio::time::timeout;

/// The time limit of a gcloud command. gcloud itself would poll longer, so reaching it means that it polls in vain.
const PATIENCE: Duration = Duration::from_secs(90);
const IMAGE: &str = "us-docker.pkg.dev/demo/images/test-job:latest";

struct Gcloud {
    emulator: Emulator,
    configuration: PathBuf,
}

/// The exit code and the output of a gcloud command.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Said {
    /// Checks the exit code, and that the output contains the phrase.
    #[track_caller]
    fn expect(self, code: i32, phrase: &str) -> Self {
        assert!(
            !self.stderr.contains("crashed") && !self.stderr.contains("Traceback"),
            "{self:?}"
        );
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(
            self.stderr.contains(phrase) || self.stdout.contains(phrase),
            "no {phrase:?} in {self:?}"
        );
        self
    }
}

impl Gcloud {
    /// Runs `gcloud run jobs …` against the emulator.
    async fn jobs(&self, arguments: &[&str]) -> Said {
        self.run(&[&["run", "jobs"], arguments].concat()).await
    }

    /// Runs `gcloud …` against the emulator.
    async fn run(&self, arguments: &[&str]) -> Said {
        let mut command = Command::new("gcloud");
        command
            .args(arguments)
            .kill_on_drop(true)
            .stdin(std::process::Stdio::null());
        command
            .env("http_proxy", self.emulator.url())
            .env("no_proxy", "localhost,127.0.0.1")
            .env_remove("NO_PROXY");
        command.env("CLOUDSDK_CONFIG", &self.configuration);
        for (name, value) in [
            ("API_ENDPOINT_OVERRIDES_RUN", "http://run.googleapis.com/"),
            (
                "API_ENDPOINT_OVERRIDES_LOGGING",
                "http://logging.googleapis.com/",
            ),
            (
                "API_ENDPOINT_OVERRIDES_CLOUDRESOURCEMANAGER",
                "http://cloudresourcemanager.googleapis.com/",
            ),
            ("AUTH_DISABLE_CREDENTIALS", "true"),
            ("CORE_PROJECT", "demo"),
            ("RUN_REGION", "us-east4"),
            ("CORE_DISABLE_PROMPTS", "1"),
            ("CORE_SHOULD_PROMPT_TO_ENABLE_API", "false"),
            ("CORE_DISABLE_USAGE_REPORTING", "true"),
            ("COMPONENT_MANAGER_DISABLE_UPDATE_CHECK", "true"),
        ] {
            command.env(format!("CLOUDSDK_{name}"), value);
        }
        said(command).await
    }

    /// The number of calls of an operation that `work` makes, and its result.
    async fn calls(&self, operation: Operation, work: impl Future<Output = Said>) -> (u64, Said) {
        let before = self.emulator.counters().calls(operation);
        let said = work.await;
        (self.emulator.counters().calls(operation) - before, said)
    }

    fn state(&self, execution: &str) -> State {
        self.emulator
            .executions()
            .into_iter()
            .find(|known| known.name == execution)
            .unwrap()
            .state
    }
}

/// Runs the command to its end.
async fn said(mut command: Command) -> Said {
    let output = timeout(PATIENCE, command.output())
        .await
        .unwrap_or_else(|_| panic!("{command:?} does not end"))
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said {
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

/// A directory that is removed after the test.
struct Temporary(PathBuf);

impl Temporary {
    fn new(test: &str) -> Self {
        let name = format!("emulator-gcloud-{test}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether gcloud is installed. In CI it must be.
fn gcloud_is_here() -> bool {
    match std::process::Command::new("gcloud")
        .arg("--version")
        .output()
    {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "gcloud is not on the PATH"
            );
            println!("skipped: gcloud is not on the PATH");
            false
        }
        found => found.unwrap().status.success(),
    }
}

#[tokio::test]
async fn every_gcloud_command_ends_as_it_does_with_google() {
    if !gcloud_is_here() {
        return;
    }
    let configuration = Temporary::new("story");
    let job = Job::new("test-job", [emulator::job_binary().unwrap()]);
    let settings = Settings {
        jobs: vec![job],
        allow_anonymous: true,
        ..Settings::default()
    };
    let emulator = Emulator::start(settings).await.unwrap();
    let gcloud = Gcloud {
        emulator,
        configuration: configuration.path().into(),
    };
    jobs_are_deployed_created_and_updated(&gcloud).await;
    executions_succeed_and_are_shown(&gcloud).await;
    failures_are_reported(&gcloud).await;
    executions_are_cancelled_and_deleted(&gcloud).await;
    logs_are_read_by_filters(&gcloud).await;
    an_exported_job_can_be_replaced(&gcloud).await;
    services_regions_and_logs_are_listed(&gcloud).await;
    policies_are_bound(&gcloud).await;
    a_missing_job_is_reported(&gcloud).await;
    jobs_are_deleted(&gcloud).await;
}

async fn jobs_are_deployed_created_and_updated(gcloud: &Gcloud) {
    let deploy = [
        "deploy",
        "hello",
        "--image",
        IMAGE,
        "--tasks",
        "2",
        "--max-retries",
        "0",
        "--task-timeout",
        "30m",
    ];
    gcloud
        .jobs(&deploy)
        .await
        .expect(0, "has successfully been deployed.");
    gcloud
        .jobs(&deploy)
        .await
        .expect(0, "has successfully been deployed.");
    gcloud
        .jobs(&["create", "other", "--image", IMAGE, "--set-env-vars", "A=1"])
        .await
        .expect(0, "has successfully been created.");
    gcloud
        .jobs(&["create", "other", "--image", IMAGE])
        .await
        .expect(1, "Job [other] already exists.");
    gcloud
        .jobs(&["update", "other", "--tasks", "3"])
        .await
        .expect(0, "has successfully been updated.");
    let described = gcloud
        .jobs(&["describe", "other"])
        .await
        .expect(0, "Job other in region us-east4");
    assert!(
        described.stdout.contains("Tasks:           3"),
        "{described:?}"
    );
    let listed = gcloud
        .jobs(&["list", "--format=value(metadata.name)"])
        .await
        .expect(0, "hello");
    assert_eq!(listed.stdout.lines().count(), 3, "{listed:?}");
}

async fn executions_succeed_and_are_shown(gcloud: &Gcloud) {
    let execute = [
        "execute",
        "hello",
        "--wait",
        "--args=--scope=acme,x",
        "--update-env-vars=SCOPE=acme,B=2",
        "--tasks",
        "3",
        "--task-timeout",
        "10m",
    ];
    let (runs, _) = gcloud
        .calls(Operation::Run, async {
            gcloud
                .jobs(&execute)
                .await
                .expect(0, "has successfully completed.")
        })
        .await;
    assert_eq!(runs, 1);
    let execution = gcloud.emulator.executions().pop().unwrap();
    assert_eq!(
        (
            execution.state,
            execution.task_count,
            execution.timeout_seconds
        ),
        (State::Succeeded, 3, 600)
    );
    assert_eq!(
        (execution.args, &execution.env["SCOPE"]),
        (
            vec!["--scope=acme".to_owned(), "x".to_owned()],
            &"acme".to_owned()
        )
    );

    let name = execution.name.as_str();
    gcloud
        .jobs(&["executions", "list", "--job", "hello"])
        .await
        .expect(0, name)
        .expect(0, "3 / 3");
    gcloud
        .jobs(&["executions", "describe", name])
        .await
        .expect(0, "3 tasks completed successfully");
    let tasks = gcloud
        .jobs(&[
            "executions",
            "tasks",
            "list",
            "--execution",
            name,
            "--format=value(metadata.name)",
        ])
        .await;
    let names: Vec<String> = (0..3).map(|index| format!("{name}-task{index}")).collect();
    assert_eq!(tasks.stdout.lines().collect::<Vec<_>>(), names, "{tasks:?}");
    let logs = gcloud
        .jobs(&["logs", "read", "hello", "--limit", "100"])
        .await
        .expect(0, "  ARG: --scope=acme");
    assert_eq!(logs.stdout.matches("SCOPE = acme").count(), 3, "{logs:?}");

    gcloud
        .jobs(&["execute", "hello"])
        .await
        .expect(0, "has successfully started running.");
    let (gets, said) = gcloud
        .calls(Operation::Get, async {
            gcloud
                .jobs(&[
                    "execute",
                    "hello",
                    "--async",
                    "--format=value(metadata.name)",
                ])
                .await
                .expect(0, "is being started asynchronously.")
        })
        .await;
    assert_eq!(
        (gets, said.stdout.trim()),
        (0, gcloud.emulator.executions().pop().unwrap().name.as_str())
    );
}

async fn failures_are_reported(gcloud: &Gcloud) {
    for (variables, message) in [
        (
            "FAIL_WITH=3",
            "failed with message: The container exited with an error.",
        ),
        (
            "SLEEP_SECONDS=60",
            "failed with message: The configured timeout was reached.",
        ),
    ] {
        let variables = format!("--update-env-vars={variables}");
        let execute = [
            "execute",
            "hello",
            "--wait",
            &variables,
            "--task-timeout",
            "1s",
            "--tasks",
            "1",
        ];
        let (runs, said) = gcloud.calls(Operation::Run, gcloud.jobs(&execute)).await;
        said.expect(1, "The execution failed.");
        assert_eq!(runs, 1);
        let execution = gcloud.emulator.executions().pop().unwrap();
        assert_eq!(execution.state, State::Failed);
        let described = gcloud
            .jobs(&["executions", "describe", &execution.name])
            .await
            .expect(0, message);
        assert!(
            described.stdout.contains("1 task failed to complete"),
            "{described:?}"
        );
    }
}

async fn executions_are_cancelled_and_deleted(gcloud: &Gcloud) {
    let execute = [
        "execute",
        "hello",
        "--async",
        "--update-env-vars=SLEEP_SECONDS=600",
        "--format=value(metadata.name)",
    ];
    let started = gcloud.jobs(&execute).await;
    let name = started.stdout.trim();
    gcloud
        .jobs(&["executions", "cancel", name])
        .await
        .expect(0, &format!("Cancelled execution [{name}]."));
    assert_eq!(gcloud.state(name), State::Cancelled);
    let described = gcloud
        .jobs(&["executions", "describe", name])
        .await
        .expect(0, "2 tasks cancelled");
    assert!(
        described.stdout.contains("Cancelled by user."),
        "{described:?}"
    );
    let again = gcloud.jobs(&["executions", "cancel", name]).await;
    again
        .expect(1, "FAILED_PRECONDITION")
        .expect(1, "cannot be cancelled because it is not running.");
    gcloud
        .jobs(&["executions", "delete", name])
        .await
        .expect(0, &format!("Deleted execution [{name}]."));
    gcloud
        .jobs(&["executions", "describe", name])
        .await
        .expect(1, "Cannot find execution");
}

async fn logs_are_read_by_filters(gcloud: &Gcloud) {
    let run = [
        "execute",
        "hello",
        "--wait",
        "--tasks=1",
        "--args=--scope=filtered",
    ];
    gcloud
        .jobs(&run)
        .await
        .expect(0, "has successfully completed.");
    let name = gcloud.emulator.executions().pop().unwrap().name;
    let execution = format!("labels.\"run.googleapis.com/execution_name\"={name}");
    for (filter, lines) in [
        ("textPayload=\"  arg: --scope=FILTERED\"", 1),
        (
            "textPayload=~\"^  ARG: --scope=f\" NOT logName:\"cloudaudit.googleapis.com\"",
            1,
        ),
        (
            "(textPayload:\"CLOUD_RUN_JOB =\" OR textPayload:\"--scope=\") severity=DEFAULT",
            2,
        ),
        ("labels.nope!=x", 0),
        ("jsonPayload.message:* timestamp>=\"2020-01-01\"", 0),
    ] {
        let filter = format!("{execution} AND {filter}");
        let read = ["logging", "read", &filter, "--format=value(textPayload)"];
        let read = gcloud.run(&read).await.expect(0, "");
        assert_eq!(read.stdout.lines().count(), lines, "{filter}: {read:?}");
    }
    let read = gcloud.run(&["logging", "read", "colour=red"]).await;
    read.expect(1, "a log entry has no field 'colour'");
}

async fn an_exported_job_can_be_replaced(gcloud: &Gcloud) {
    let exported = gcloud
        .jobs(&["describe", "other", "--format", "export"])
        .await
        .expect(0, "name: other");
    let file = gcloud.configuration.join("other.yaml");
    std::fs::write(&file, exported.stdout.replace("value: '1'", "value: '2'")).unwrap();
    gcloud
        .jobs(&["replace", file.to_str().unwrap()])
        .await
        .expect(0, "has been successfully updated.");
    gcloud
        .jobs(&["describe", "other", "--format", "export"])
        .await
        .expect(0, "value: '2'");
}

async fn services_regions_and_logs_are_listed(gcloud: &Gcloud) {
    gcloud
        .run(&["run", "services", "list"])
        .await
        .expect(0, "Listed 0 items.");
    gcloud
        .run(&["run", "regions", "list"])
        .await
        .expect(0, "us-east4");
    gcloud
        .run(&["logging", "logs", "list"])
        .await
        .expect(0, "projects/demo/logs/run.googleapis.com%2Fstdout");
}

async fn policies_are_bound(gcloud: &Gcloud) {
    let member = "serviceAccount:api@demo.iam.gserviceaccount.com";
    let bind = [
        "add-iam-policy-binding",
        "hello",
        "--member",
        member,
        "--role",
        "roles/run.jobsExecutorWithOverrides",
    ];
    gcloud.jobs(&bind).await.expect(0, member);
}

async fn a_missing_job_is_reported(gcloud: &Gcloud) {
    gcloud
        .jobs(&["describe", "nope"])
        .await
        .expect(1, "Cannot find job [nope].");
    let (runs, said) = gcloud
        .calls(Operation::Run, gcloud.jobs(&["execute", "nope"]))
        .await;
    said.expect(1, "NOT_FOUND: Resource 'nope' of kind 'JOB' in region 'us-east4' in project 'demo' does not exist.");
    assert_eq!(runs, 1);
}

async fn jobs_are_deleted(gcloud: &Gcloud) {
    // gcloud itself polls the job until it is deleted.
    gcloud
        .jobs(&["delete", "hello"])
        .await
        .expect(0, "Deleted job [hello].");
}

/// Uses a new shell with only the lines that the emulator prints for pasting.
#[tokio::test]
async fn gcloud_gets_its_tokens_from_the_metadata_server_with_the_lines_of_the_banner() {
    if !gcloud_is_here() {
        return;
    }
    let directory = Temporary::new("banner");
    let job = Job::new("test-job", [emulator::job_binary().unwrap()]);
    let settings = Settings {
        jobs: vec![job],
        ..Settings::default()
    };
    let emulator = Emulator::start(settings).await.unwrap();
    let banner = emulator.instructions();
    let (_, exports) = banner.split_once("For gcloud:\n").unwrap();
    let paste = async |commands: &str| {
        let mut shell = Command::new("sh");
        shell
            .args(["-ec", &format!("{exports}\n{commands}")])
            .env_remove("NO_PROXY")
            .env("TMPDIR", directory.path())
            .kill_on_drop(true)
            .stdin(std::process::Stdio::null());
        said(shell).await
    };
    let account = "123456789012-compute@developer.gserviceaccount.com";
    paste("gcloud auth list --format='value(account,status)'; gcloud auth print-access-token")
        .await
        .expect(0, account)
        .expect(0, "ya29.emulator-");
    let token = paste("gcloud auth print-identity-token --audiences=https://api.example.com").await;
    assert_eq!(token.stdout.trim().split('.').count(), 3, "{token:?}");
    paste("gcloud run jobs execute test-job --wait; gcloud run jobs logs read test-job")
        .await
        .expect(0, "has successfully completed.")
        .expect(0, "CLOUD_RUN_JOB = test-job");
}
