//! google-cloud-run-v2, Google's Rust library: with the endpoint as its only option; it finds credentials as on
//! Google Cloud.

use std::error::Error;

use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::paginator::ItemPaginator;
use google_cloud_lro::{Poller, PollingResult};
use google_cloud_run_v2::client::{Executions, Jobs, Tasks};
use google_cloud_run_v2::model::condition::State;
use google_cloud_run_v2::model::run_job_request::{Overrides, overrides::ContainerOverride};
use google_cloud_run_v2::model::{
    Condition, Container, EnvVar, Execution, ExecutionTemplate, Job, TaskTemplate,
};
use google_cloud_wkt::Duration;

const PARENT: &str = "projects/demo/locations/us-east4";

struct Clients {
    jobs: Jobs,
    executions: Executions,
    tasks: Tasks,
}

impl Clients {
    async fn create(&self, name: &str, task: TaskTemplate) -> Result<(), Box<dyn Error>> {
        let container = Container::new().set_image("us-docker.pkg.dev/demo/images/probe");
        let task = task.set_containers([container]);
        let template = ExecutionTemplate::new().set_template(task);
        let create = self.jobs.create_job().set_parent(PARENT);
        let create = create
            .set_job_id(name)
            .set_job(Job::new().set_template(template));
        let job = create.poller().until_done().await?;
        assert_eq!(job.name, format!("{PARENT}/jobs/{name}"));
        assert_eq!(
            job.terminal_condition.map(|ready| ready.state),
            Some(State::ConditionSucceeded)
        );
        Ok(())
    }

    fn run(
        &self,
        job: &str,
        variable: (&str, &str),
        overrides: Overrides,
    ) -> impl Poller<Execution, Execution> {
        let env = EnvVar::new().set_name(variable.0).set_value(variable.1);
        let container = ContainerOverride::new().set_env([env]);
        let run = self.jobs.run_job().set_name(format!("{PARENT}/jobs/{job}"));
        run.set_overrides(overrides.set_container_overrides([container]))
            .poller()
    }
}

fn completed(execution: &Execution) -> &Condition {
    let completed = |condition: &&Condition| condition.r#type == "Completed";
    execution
        .conditions
        .iter()
        .find(completed)
        .expect("a condition Completed")
}

fn code(result: google_cloud_run_v2::Result<Execution>) -> Option<Code> {
    result.err()?.status().map(|status| status.code)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .expect("the first provider");
    let endpoint = std::env::var("EMULATOR_URL")?;
    let clients = Clients {
        jobs: Jobs::builder().with_endpoint(&endpoint).build().await?,
        executions: Executions::builder()
            .with_endpoint(&endpoint)
            .build()
            .await?,
        tasks: Tasks::builder().with_endpoint(&endpoint).build().await?,
    };
    clients
        .create("rust", TaskTemplate::new().set_max_retries(0))
        .await?;
    clients
        .create("flaky", TaskTemplate::new().set_max_retries(2))
        .await?;

    // Success, with several tasks and overrides.
    let overrides = Overrides::new()
        .set_task_count(3)
        .set_timeout(Duration::clamp(30, 0));
    let execution = clients
        .run("rust", ("CODE", "0"), overrides)
        .until_done()
        .await?;
    assert_eq!((execution.succeeded_count, execution.task_count), (3, 3));
    assert_eq!(completed(&execution).state, State::ConditionSucceeded);
    let template = execution.template.as_ref().expect("a template");
    assert_eq!(template.timeout, Some(Duration::clamp(30, 0)));
    let read = clients
        .executions
        .get_execution()
        .set_name(&execution.name)
        .send()
        .await?;
    assert_eq!(read.uid, execution.uid);
    let tasks = clients
        .tasks
        .list_tasks()
        .set_parent(&execution.name)
        .send()
        .await?
        .tasks;
    assert_eq!(
        tasks.iter().map(|task| task.index).collect::<Vec<_>>(),
        [0, 1, 2]
    );

    // A failure ends with code 10, a timeout with 4, and a cancellation with a response.
    let failed = clients
        .run("rust", ("CODE", "3"), Overrides::new())
        .until_done()
        .await;
    assert_eq!(code(failed), Some(Code::Aborted));
    let second = Overrides::new().set_timeout(Duration::clamp(1, 0));
    let late = clients
        .run("rust", ("SECONDS", "60"), second)
        .until_done()
        .await;
    assert_eq!(code(late), Some(Code::DeadlineExceeded));
    let mut poller = clients.run("rust", ("SECONDS", "60"), Overrides::new());
    let Some(PollingResult::InProgress(Some(running))) = poller.poll().await else {
        panic!("the execution runs");
    };
    assert!(running.reconciling);
    let cancel = clients
        .executions
        .cancel_execution()
        .set_name(&running.name);
    cancel.poller().until_done().await?;
    let cancelled = poller.until_done().await?;
    assert_eq!(completed(&cancelled).state, State::ConditionFailed);
    assert_eq!(completed(&cancelled).message, "Cancelled by user.");

    // Two attempts fail, the third succeeds.
    let flaky = clients.run("flaky", ("GOOD_ATTEMPT", "2"), Overrides::new());
    assert_eq!(flaky.until_done().await?.retried_count, 1);

    // Lists in pages.
    let list = clients.executions.list_executions();
    let mut pages = list
        .set_parent(format!("{PARENT}/jobs/-"))
        .set_page_size(2)
        .by_item();
    let mut names = std::collections::BTreeSet::new();
    while let Some(execution) = pages.next().await {
        assert!(names.insert(execution?.name), "an execution comes twice");
    }
    assert_eq!(names.len(), 5);

    // The rest of the surface.
    let name = format!("{PARENT}/jobs/rust");
    let mut job = clients.jobs.get_job().set_name(&name).send().await?;
    job.labels.insert("team".into(), "a".into());
    let job = clients
        .jobs
        .update_job()
        .set_job(job)
        .poller()
        .until_done()
        .await?;
    assert_eq!((job.generation, job.labels["team"].as_str()), (1, "a"));
    clients
        .executions
        .delete_execution()
        .set_name(&execution.name)
        .poller()
        .until_done()
        .await?;
    clients
        .jobs
        .delete_job()
        .set_name(&name)
        .poller()
        .until_done()
        .await?;
    let gone = clients.jobs.get_job().set_name(&name).send().await;
    assert_eq!(
        gone.err().and_then(|error| error.http_status_code()),
        Some(404)
    );
    Ok(())
}
