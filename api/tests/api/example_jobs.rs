//! The jobs in `examples/jobs`, run like their images: by the ENTRYPOINT of the Dockerfile, with Cloud Run's environment.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use emulator::Job;
use tokio::process::Command;

use crate::helpers::{JOB, TestApp, link};

/// An example whose language is installed.
struct Example {
    folder: PathBuf,
    /// The ENTRYPOINT, with the paths of this machine.
    command: Vec<String>,
}

/// The examples whose language is installed. In CI all must be.
async fn examples() -> Vec<Example> {
    let tell_python = ["-c", "import sys; print(sys.executable)"];
    let tell_node = ["--print", "process.execPath"];
    let candidates = [
        ("python", "python3", &tell_python[..]),
        ("node", "node", &tell_node[..]),
    ];
    let mut examples = Vec::new();
    for (name, program, version) in candidates {
        match Command::new(program).args(version).output().await {
            Ok(output) => {
                let path = String::from_utf8(output.stdout).unwrap();
                examples.push(Example::read(name, path.trim()));
            }
            Err(error) => {
                assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{program}");
                eprintln!("skipped: {program}: {error}");
            }
        }
    }
    examples
}

impl Example {
    /// `program` is the path of the interpreter. A launcher that finds it by environment variables would fail in a task.
    fn read(name: &str, program: &str) -> Self {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = package.parent().unwrap().join("examples/jobs").join(name);
        let dockerfile = std::fs::read_to_string(folder.join("Dockerfile")).unwrap();
        let entrypoint = dockerfile
            .lines()
            .find_map(|line| line.strip_prefix("ENTRYPOINT "));
        let mut command: Vec<String> = serde_json::from_str(entrypoint.unwrap()).unwrap();
        program.clone_into(&mut command[0]);
        for word in &mut command[1..] {
            if let Some(file) = word.strip_prefix("/app/") {
                assert!(dockerfile.contains(&format!("\nCOPY {file} .\n")), "{file}");
                *word = folder.join(file).display().to_string();
            }
        }
        Self { folder, command }
    }

    /// The service with the job, each of whose pages takes so long.
    async fn service(&self, seconds_per_page: f64) -> TestApp {
        let parameters = format!(r#"{{"pages": 3, "seconds_per_page": {seconds_per_page}}}"#);
        let job = Job {
            max_retries: 0,
            env: vec![
                ("PARAMETERS".to_owned(), parameters),
                ("CLAIMS_DIR".to_owned(), self.claims("service")),
            ],
            ..Job::new(JOB, &self.command)
        };
        TestApp::with(job, |_| {}).await
    }

    /// A directory for this test alone.
    fn claims(&self, test: &str) -> String {
        let name = self.folder.file_name().unwrap().to_str().unwrap();
        let claims = format!("{}/claims/{test}/{name}", env!("CARGO_TARGET_TMPDIR"));
        let _ = std::fs::remove_dir_all(&claims);
        claims
    }

    /// Runs a task of an execution to its end, without a service.
    async fn task(&self, variables: &[(&str, &str)]) -> Output {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).arg("--scope=acme");
        command.env_clear().envs(variables.iter().copied());
        command.output().await.unwrap()
    }
}

#[tokio::test]
async fn an_example_works_under_the_service_and_reports_what_it_does() {
    for example in examples().await {
        let app = example.service(0.01).await;
        let execution = app.start("acme").await;
        app.until(&execution, "succeeded").await;
        let shown = ["3 pages to do", "page 1", "page 2", "page 3", "finished"];
        assert_eq!(app.lines(&execution).await, shown);
    }
}

#[tokio::test]
async fn a_cancelled_example_prints_that_and_ends() {
    for example in examples().await {
        let app = example.service(60.0).await;
        let execution = app.start("acme").await;
        app.until(&execution, "running").await;
        while app.lines(&execution).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await; // its signal handler is set once it has printed something
        }
        let cancel = app.post(link(&execution, "cancel")).send().await.unwrap();
        assert_eq!(cancel.status(), 202);
        app.until(&execution, "cancelled").await;
        let lines = app.lines(&execution).await;
        assert!(lines.last().unwrap().starts_with("stopped"), "{lines:?}");
    }
}

#[tokio::test]
async fn an_example_does_nothing_if_another_execution_has_its_start() {
    for example in examples().await {
        let claims = example.claims("repetition");
        let task = async |execution: &str, index: &str| {
            let variables = [
                ("INVOCATION_ID", "i"),
                ("CLOUD_RUN_EXECUTION", execution),
                ("CLOUD_RUN_TASK_INDEX", index),
                ("CLOUD_RUN_TASK_COUNT", "2"),
                ("PARAMETERS", r#"{"seconds_per_page": 0}"#),
                ("CLAIMS_DIR", &claims),
            ];
            let output = example.task(&variables).await;
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout)
                .unwrap()
                .contains("processResult")
        };
        assert!(task("one", "0").await, "the first execution works");
        assert!(!task("two", "0").await, "the second one does not");
        assert!(
            task("one", "0").await,
            "a retry of the first one's task does"
        );
        assert!(task("one", "1").await, "and so does its other task");
    }
}
