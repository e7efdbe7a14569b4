use std::ffi::OsString;
use std::time::Duration;

use emulator::{Job, Settings};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::helpers::{World, alive, condition, env, settings, shell, until_dead};

#[tokio::test]
async fn a_task_gets_exactly_the_environment_of_cloud_run() {
    let job = emulator::job_binary().unwrap();
    let mut job = Job::new("sh", [job]);
    job.env = vec![
        ("FROM_JOB".into(), "1".into()),
        ("BOTH".into(), "job".into()),
    ];
    let world = World::of(job).await;
    let mut overrides = env(&[("SCOPE", "acme"), ("BOTH", "run")]);
    overrides["containerOverrides"][0]["args"] = json!(["--scope=acme"]);
    let name = world.run(overrides).await;
    world.finished(&name).await;
    let execution = format!("CLOUD_RUN_EXECUTION = {name}");
    let host = world.emulator.host();
    let metadata = ["HOST", "IP"].map(|which| format!("GCE_METADATA_{which} = {host}"));
    let expected = [
        "BOTH = run",
        &execution,
        "CLOUD_RUN_JOB = sh",
        "CLOUD_RUN_TASK_ATTEMPT = 0",
        "CLOUD_RUN_TASK_COUNT = 1",
        "CLOUD_RUN_TASK_INDEX = 0",
        "FROM_JOB = 1",
        &metadata[0],
        &metadata[1],
        "SCOPE = acme",
        "  ARG: --scope=acme",
    ];
    assert_eq!(world.lines(&name).await, expected);
}

#[tokio::test]
async fn a_task_inherits_only_the_named_variables() {
    let world = World::with(Settings {
        inherit_env: vec!["CARGO_PKG_NAME".into(), "NOT_SET_ANYWHERE".into()],
        ..settings(shell(
            "echo ${CARGO_PKG_NAME-none} ${CARGO_PKG_VERSION-none} ${NOT_SET_ANYWHERE-none}",
        ))
    })
    .await;
    let name = world.run(json!({})).await;
    world.finished(&name).await;
    assert_eq!(world.lines(&name).await, ["emulator none none"]);
    // The job's own variables override them.
    let name = world.run(env(&[("CARGO_PKG_NAME", "own")])).await;
    world.finished(&name).await;
    assert_eq!(world.lines(&name).await, ["own none none"]);
}

#[tokio::test]
async fn a_containers_own_command_runs_only_with_the_setting() {
    for (allow_commands, line) in [(true, "own one"), (false, "image one")] {
        let world = World::with(Settings {
            allow_commands,
            ..settings(Job::new("sh", ["sh", "-c", "echo image $1", "sh"]))
        })
        .await;
        let command = json!(["sh", "-c", "echo own $1", "sh"]);
        let container = json!({ "image": "r/sh", "command": command, "args": ["one"] });
        let job = json!({ "metadata": { "name": "mine" }, "spec": { "template": { "spec": { "template": { "spec": { "containers": [container] } } } } } });
        let (status, created) = world.post("jobs", job).await;
        assert_eq!(status, StatusCode::OK, "{created}");
        let task = &created["spec"]["template"]["spec"]["template"]["spec"];
        assert_eq!(task["containers"][0]["command"], command);
        let (_, execution) = world.post("jobs/mine:run", json!({})).await;
        let name = execution["metadata"]["name"].as_str().unwrap();
        world.finished(name).await;
        assert_eq!(world.lines(name).await, [line]);
    }
}

#[tokio::test]
async fn a_failing_task_is_retried_and_then_fails_the_execution() {
    let world = World::of(Job {
        max_retries: 2,
        ..shell("echo $CLOUD_RUN_TASK_INDEX:$CLOUD_RUN_TASK_ATTEMPT; exit $CLOUD_RUN_TASK_INDEX")
    })
    .await;
    let name = world.run(json!({ "taskCount": 2 })).await;
    let execution = world.finished(&name).await;
    let completed = condition(&execution, "Completed");
    assert_eq!(
        (&completed["status"], &completed["reason"]),
        (&json!("False"), &json!("NonZeroExitCode"))
    );
    assert_eq!(
        completed["message"],
        json!(format!(
            "Task {name}-task1 failed with message: The container exited with an error."
        ))
    );
    let counts = ["succeededCount", "failedCount", "retriedCount"]
        .map(|count| execution["status"][count].clone());
    assert_eq!(counts, [json!(1), json!(1), json!(1)]);
    assert_eq!(condition(&execution, "Retry")["reason"], "ImmediateRetry");
    let mut lines = world.lines(&name).await;
    lines.sort();
    assert_eq!(lines, ["0:0", "1:0", "1:1", "1:2"]);

    let (_, tasks) = world
        .get(&format!(
            "tasks?labelSelector=run.googleapis.com/execution%20%3D%20{name}&limit=100"
        ))
        .await;
    assert_eq!(
        (&tasks["kind"], tasks["items"].as_array().unwrap().len()),
        (&json!("TasksList"), 2)
    );
    let failed = format!(
        "tasks?labelSelector=run.googleapis.com/execution%20%3D%20{name},run.googleapis.com/runningState%20in%20(Failed,Cancelled)"
    );
    let (_, failed) = world.get(&failed).await;
    let [task] = &failed["items"].as_array().unwrap()[..] else {
        panic!("one task: {failed}")
    };
    assert_eq!(task["metadata"]["name"], json!(format!("{name}-task1")));
    assert_eq!(
        task["metadata"]["labels"]["run.googleapis.com/runningState"],
        "Failed"
    );
    assert_eq!(
        (&task["status"]["index"], &task["status"]["retried"]),
        (&json!(1), &json!(2))
    );
    let result = json!({ "exitCode": 1, "status": { "code": 10, "message": "The container exited with an error." } });
    assert_eq!(task["status"]["lastAttemptResult"], result);
    let (status, first) = world.get(&format!("tasks/{name}-task0")).await;
    assert_eq!(
        (
            status,
            first["status"].get("index"),
            first["status"].get("retried")
        ),
        (StatusCode::OK, None, None)
    );
}

#[tokio::test]
async fn a_task_that_succeeds_at_the_second_attempt_succeeds() {
    let world = World::of(Job {
        max_retries: 3,
        ..shell("test $CLOUD_RUN_TASK_ATTEMPT = 1")
    })
    .await;
    let name = world.run(json!({})).await;
    let execution = world.finished(&name).await;
    assert_eq!(condition(&execution, "Completed")["status"], "True");
    let counts = ["succeededCount", "retriedCount"].map(|count| execution["status"][count].clone());
    assert_eq!(counts, [json!(1), json!(1)]);
    assert_eq!(execution["status"].get("failedCount"), None);
}

#[tokio::test]
async fn parallelism_limits_the_tasks_that_run_at_one_time() {
    let world = World::of(Job {
        parallelism: 2,
        task_count: 5,
        ..shell("echo on; sleep 0.1; echo off")
    })
    .await;
    let name = world.run(json!({})).await;
    let execution = world.finished(&name).await;
    assert_eq!(
        (
            &execution["spec"]["parallelism"],
            &execution["status"]["succeededCount"]
        ),
        (&json!(2), &json!(5))
    );
    let mut running = 0;
    let mut most = 0;
    for line in world.lines(&name).await {
        running += if line == "on" { 1 } else { -1 };
        most = most.max(running);
    }
    assert_eq!((running, most), (0, 2));
}

#[tokio::test]
async fn a_task_that_times_out_gets_sigterm_and_fails_without_a_reason() {
    let world = World::of(Job {
        timeout_seconds: 1,
        ..shell("trap 'echo asked; exit 0' TERM; while :; do sleep 0.05; done")
    })
    .await;
    let name = world.run(json!({})).await;
    let execution = world.finished(&name).await;
    let completed = condition(&execution, "Completed");
    assert_eq!(
        (&completed["status"], completed.get("reason")),
        (&json!("False"), None)
    );
    assert_eq!(
        completed["message"],
        json!(format!(
            "Task {name}-task0 failed with message: The configured timeout was reached."
        ))
    );
    assert_eq!(execution["status"]["failedCount"], 1);
    assert_eq!(world.lines(&name).await, ["asked"]);
    let (_, task) = world.get(&format!("tasks/{name}-task0")).await;
    assert_eq!(task["status"]["lastAttemptResult"]["status"]["code"], 4);
}

#[tokio::test]
async fn a_task_that_ignores_sigterm_is_killed_after_the_grace_period() {
    let grace = Duration::from_millis(300);
    let script = "trap '' TERM; echo ready; sleep 60 & echo $!; while :; do wait; done";
    let world = World::with(Settings {
        grace,
        ..settings(shell(script))
    })
    .await;
    let name = world.run(json!({})).await;
    let lines = world.until_lines(&name, 2).await;
    let asked = Instant::now();
    world
        .post(&format!("executions/{name}:cancel"), json!({}))
        .await;
    let execution = world.finished(&name).await;
    assert!(asked.elapsed() >= grace, "{:?}", asked.elapsed());
    assert_eq!(condition(&execution, "Completed")["reason"], "Cancelled");
    until_dead(&lines[1]).await;
}

#[tokio::test]
async fn the_end_of_a_task_kills_its_descendants() {
    let world = World::of(shell("sleep 60 & echo $!")).await;
    let name = world.run(json!({})).await;
    world.finished(&name).await;
    until_dead(&world.lines(&name).await[0]).await;
}

#[tokio::test]
async fn dropping_the_emulator_kills_children_and_their_descendants() {
    let world = World::of(shell("echo $$; sleep 60 & echo $!; echo ready; wait")).await;
    let name = world.run(json!({})).await;
    let lines = world.until_lines(&name, 3).await;
    drop(world);
    for pid in &lines[..2] {
        until_dead(pid).await;
    }
}

#[tokio::test]
async fn stopping_returns_when_the_children_have_ended() {
    let world = World::of(shell("echo $$; exec sleep 60")).await;
    let name = world.run(json!({ "taskCount": 50 })).await;
    let pids = world.until_lines(&name, 50).await;
    world.emulator.stop().await;
    let left: Vec<_> = pids.iter().filter(|pid| alive(pid)).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn stopping_frees_the_port() {
    let world = World::of(shell("true")).await;
    let port = world
        .emulator
        .host()
        .rsplit_once(':')
        .unwrap()
        .1
        .parse()
        .unwrap();
    let taken = emulator::Emulator::start(Settings {
        port,
        ..Settings::default()
    })
    .await
    .unwrap_err();
    assert!(taken.to_string().contains(&port.to_string()), "{taken}");
    world.emulator.stop().await;
    emulator::Emulator::start(Settings {
        port,
        ..Settings::default()
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_command_that_cannot_be_started_fails_the_attempt_and_logs_the_reason() {
    let world = World::of(Job {
        max_retries: 1,
        ..Job::new("sh", ["/nowhere/at-all"])
    })
    .await;
    let name = world.run(json!({})).await;
    let execution = world.finished(&name).await;
    assert_eq!(
        condition(&execution, "Completed")["reason"],
        "NonZeroExitCode"
    );
    let lines = world.lines(&name).await;
    assert_eq!(lines.len(), 2);
    assert!(
        lines[0].starts_with("emulator: cannot start /nowhere/at-all: "),
        "{lines:?}"
    );
}

#[tokio::test]
async fn a_signal_becomes_an_exit_code_above_128() {
    let world = World::of(shell("kill -9 $$")).await;
    let name = world.run(json!({})).await;
    world.finished(&name).await;
    let (_, task) = world.get(&format!("tasks/{name}-task0")).await;
    assert_eq!(task["status"]["lastAttemptResult"]["exitCode"], 137);
}

#[tokio::test]
async fn a_job_without_a_command_succeeds_without_a_process() {
    let world = World::of(Job::new("sh", Vec::<OsString>::new())).await;
    let name = world.run(json!({ "taskCount": 100 })).await;
    assert_eq!(world.finished(&name).await["status"]["succeededCount"], 100);
}

#[tokio::test]
async fn tasks_are_listed_in_pages() {
    let world = World::of(Job::new("sh", Vec::<OsString>::new())).await;
    let name = world.run(json!({ "taskCount": 5 })).await;
    let mut indices: Vec<Value> = Vec::new();
    let mut token = String::new();
    loop {
        let path = format!(
            "tasks?limit=2&labelSelector=run.googleapis.com/execution%3D{name}&continue={token}"
        );
        let (_, page) = world.get(&path).await;
        indices.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|task| task["status"].get("index").cloned().unwrap_or(json!(0))),
        );
        match page["metadata"]["continue"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(indices, [0, 1, 2, 3, 4].map(|index| json!(index)));
}
