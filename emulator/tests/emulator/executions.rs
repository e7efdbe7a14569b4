use std::time::Duration;

use emulator::{Job, Settings, State};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::helpers::{World, answer, client, condition, env, settings, shell};

#[tokio::test]
async fn a_run_returns_a_pending_execution_that_can_be_read_at_once() {
    let mut job = shell("true");
    job.env = vec![("A".into(), "job".into()), ("B".into(), "job".into())];
    job.args = vec!["own".into()];
    let world = World::with(Settings {
        pending: Duration::from_secs(60),
        ..settings(job)
    })
    .await;
    let overrides = json!({
        "containerOverrides": [{ "name": "sh", "args": ["x", "y"], "env": [{ "name": "B", "value": "run" }, { "name": "C", "value": "run" }] }],
        "taskCount": 3, "timeoutSeconds": 700
    });
    let (status, execution) = world
        .post("jobs/sh:run?alt=json", json!({ "overrides": overrides }))
        .await;
    assert_eq!(status, StatusCode::OK, "{execution}");
    let name = execution["metadata"]["name"].as_str().unwrap();
    assert!(name.len() == 8 && name.starts_with("sh-"), "{name}");
    assert_eq!(execution["metadata"]["namespace"], "123456789012");
    assert_eq!(
        execution["metadata"]["labels"]["cloud.googleapis.com/location"],
        "us-east4"
    );
    assert_eq!(
        execution["metadata"]["labels"]["run.googleapis.com/job"],
        "sh"
    );
    assert_eq!(execution["spec"]["taskCount"], 3);
    let task = &execution["spec"]["template"]["spec"];
    assert_eq!(task["timeoutSeconds"], "700");
    assert_eq!(task["containers"][0]["args"], json!(["x", "y"]));
    let merged = json!([{ "name": "A", "value": "job" }, { "name": "B", "value": "run" }, { "name": "C", "value": "run" }]);
    assert_eq!(task["containers"][0]["env"], merged);
    assert!(
        task["containers"][0]["image"]
            .as_str()
            .unwrap()
            .contains("@sha256:")
    );
    let status = &execution["status"];
    assert_eq!(
        status["observedGeneration"],
        execution["metadata"]["generation"]
    );
    assert!(status["logUri"].as_str().unwrap().contains(name));
    assert_eq!(condition(&execution, "Completed")["status"], "Unknown");
    assert_eq!(condition(&execution, "Started")["status"], "Unknown");
    for absent in [
        "startTime",
        "completionTime",
        "runningCount",
        "succeededCount",
        "failedCount",
        "cancelledCount",
        "retriedCount",
    ] {
        assert_eq!(status.get(absent), None, "{absent}");
    }
    // The project's number, which the answer contains, works as well as its id.
    let by_number =
        format!("/apis/run.googleapis.com/v1/namespaces/123456789012/executions/{name}");
    assert_eq!(
        world.get(&by_number).await,
        (StatusCode::OK, execution.clone())
    );
    let [record] = &world.emulator.executions()[..] else {
        panic!("one execution")
    };
    assert_eq!(
        (record.state, record.overrides.clone()),
        (State::Pending, overrides)
    );
    assert_eq!(
        (&record.env["B"], &record.args[..]),
        (&"run".to_owned(), &["x".to_owned(), "y".to_owned()][..])
    );
}

#[tokio::test]
async fn a_successful_execution_has_the_condition_completed_with_googles_message() {
    let world = World::of(shell("exit 0")).await;
    let name = world.run(json!({ "taskCount": 2 })).await;
    let execution = world.finished(&name).await;
    let completed = condition(&execution, "Completed");
    assert_eq!(
        (&completed["status"], completed.get("reason")),
        (&json!("True"), None)
    );
    assert!(
        completed["message"]
            .as_str()
            .unwrap()
            .starts_with("Execution completed successfully in ")
    );
    assert_eq!(execution["status"]["succeededCount"], 2);
    for kind in ["ResourcesAvailable", "Started", "ContainerReady"] {
        assert_eq!(condition(&execution, kind)["status"], "True", "{kind}");
    }
    let latest = &world.get("jobs/sh").await.1["status"]["latestCreatedExecution"];
    assert_eq!(
        (&latest["name"], &latest["completionStatus"]),
        (&json!(name), &json!("EXECUTION_SUCCEEDED"))
    );
}

#[tokio::test]
async fn overrides_replace_keep_or_clear_the_arguments() {
    let mut job = Job::new("sh", ["sh", "-c", "echo \"[$*]\"", "sh"]);
    job.args = vec!["own".into(), "two words".into()];
    let world = World::of(job).await;
    for (container, line) in [
        (json!({}), "[own two words]"),
        (json!({ "args": [] }), "[own two words]"),
        (json!({ "args": ["$HOME; x"] }), "[$HOME; x]"),
        (json!({ "clearArgs": true }), "[]"),
    ] {
        let name = world
            .run(json!({ "containerOverrides": [container] }))
            .await;
        world.finished(&name).await;
        assert_eq!(world.lines(&name).await, [line], "{container}");
    }
}

#[tokio::test]
async fn overrides_that_cloud_run_would_refuse_start_nothing() {
    let world = World::of(shell("true")).await;
    let many: Vec<Value> = (0..1001)
        .map(|index| json!({ "name": format!("V{index}"), "value": "" }))
        .collect();
    let refused = [
        env(&[("CLOUD_RUN_TASK_INDEX", "7")]),
        env(&[("X_GOOGLE_THING", "7")]),
        env(&[("", "7")]),
        env(&[("A=B", "7")]),
        env(&[("A", "nul\0")]),
        env(&[("A", &"x".repeat(32 * 1024 + 1))]),
        json!({ "containerOverrides": [{ "env": many }] }),
        json!({ "containerOverrides": [{ "env": [{ "name": "A", "valueFrom": { "secretKeyRef": {} } }] }] }),
        json!({ "containerOverrides": [{ "args": ["nul\0"] }] }),
        json!({ "containerOverrides": [{ "args": ["a"], "clearArgs": true }] }),
        json!({ "containerOverrides": [{}, {}] }),
        json!({ "containerOverrides": [{ "command": ["rm"] }] }),
        json!({ "containerOverrides": [{ "name": "nosuch" }] }),
        json!({ "taskCount": 10_001 }),
        json!({ "taskCount": -1 }),
        json!({ "timeoutSeconds": 604_801 }),
        json!({ "timeoutSeconds": "600s" }),
        json!({ "labels": {} }),
    ];
    for overrides in refused {
        let (status, refusal) = world
            .post("jobs/sh:run", json!({ "overrides": overrides }))
            .await;
        let shown = overrides.to_string().chars().take(100).collect::<String>();
        assert_eq!(
            (status, &refusal["error"]["status"]),
            (StatusCode::BAD_REQUEST, &json!("INVALID_ARGUMENT")),
            "{shown}"
        );
    }
    assert_eq!(world.emulator.counters().runs, 0);
    assert_eq!(world.emulator.executions(), []);
}

#[tokio::test]
async fn a_missing_resource_is_refused_with_googles_message() {
    let world = World::of(shell("true")).await;
    let (status, refusal) = world.post("jobs/nope:run", json!({})).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let message =
        "Resource 'nope' of kind 'JOB' in region 'us-east4' in project 'demo' does not exist.";
    assert_eq!(
        refusal,
        json!({ "error": { "code": 404, "message": message, "status": "NOT_FOUND" } })
    );
    for path in [
        "executions/nope",
        "executions/nope:cancel",
        "tasks/nope-task0",
        "tasks/nope",
    ] {
        let method = if path.contains(':') {
            Method::POST
        } else {
            Method::GET
        };
        let (status, refusal) = answer(world.request(method, path)).await;
        assert_eq!(
            (status, &refusal["error"]["status"]),
            (StatusCode::NOT_FOUND, &json!("NOT_FOUND")),
            "{path}"
        );
    }
}

#[tokio::test]
async fn another_project_or_region_is_refused() {
    let world = World::of(shell("true")).await;
    let other = "/apis/run.googleapis.com/v1/namespaces/other/executions";
    assert_eq!(world.get(other).await.0, StatusCode::FORBIDDEN);
    let elsewhere = world
        .request(Method::GET, "executions")
        .header("host", "us-west1-run.googleapis.com");
    assert_eq!(answer(elsewhere).await.0, StatusCode::NOT_FOUND);
    let here = world
        .request(Method::GET, "executions")
        .header("host", "us-east4-run.googleapis.com");
    assert_eq!(answer(here).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_list_returns_newest_first_in_pages() {
    let world = World::of(shell("true")).await;
    let mut newest_first = Vec::new();
    for _ in 0..5 {
        newest_first.insert(0, world.run(json!({})).await);
    }
    let mut listed = Vec::new();
    let mut token = String::new();
    loop {
        let path = format!(
            "executions?limit=2&labelSelector=run.googleapis.com/job%20%3D%20sh&continue={token}"
        );
        let (status, page) = world.get(&path).await;
        assert_eq!(
            (status, &page["kind"]),
            (StatusCode::OK, &json!("ExecutionsList"))
        );
        let items = page["items"].as_array().unwrap();
        listed.extend(
            items
                .iter()
                .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()),
        );
        // A new execution does not shift the pages that follow.
        world.run(json!({})).await;
        match page["metadata"]["continue"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(listed, newest_first);

    let (_, none) = world
        .get("executions?labelSelector=run.googleapis.com/job%3Dother")
        .await;
    assert_eq!(
        (&none["items"], &none["metadata"]),
        (&json!([]), &json!({}))
    );
    assert_eq!(
        world.get("executions?labelSelector=a%20b").await.0,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        world.get("executions?continue=nonsense").await.0,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn a_thousand_past_executions_can_be_added_and_older_ones_are_evicted() {
    let world = World::of(shell("true")).await;
    let env = |index: usize| vec![("SCOPE".to_owned(), format!("scope-{index}"))];
    world.emulator.add_past_executions("sh", 1200, env).unwrap();
    assert!(world.emulator.add_past_executions("nope", 1, env).is_err());
    let kept = world.emulator.executions();
    assert_eq!(kept.len(), 1000);
    assert!(
        kept.iter()
            .all(|execution| execution.state == State::Succeeded)
    );
    let name = world.run(json!({})).await;
    let (_, page) = world.get("executions?limit=2").await;
    assert_eq!(page["items"][0]["metadata"]["name"], json!(name));
    let second = &page["items"][1];
    assert_eq!(
        second["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"],
        "scope-0"
    );
    assert_eq!(second["status"]["succeededCount"], 1);
    world.finished(&name).await;
    assert_eq!(world.emulator.executions().len(), 1000);
}

#[tokio::test]
async fn cancelling_ends_the_tasks_and_sets_the_reason_cancelled() {
    let world = World::of(shell(
        "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done",
    ))
    .await;
    let name = world.run(json!({ "taskCount": 2 })).await;
    world
        .until(&name, |execution| execution["status"]["runningCount"] == 2)
        .await;
    world.until_lines(&name, 2).await;
    let (status, cancelling) = world
        .post(&format!("executions/{name}:cancel"), json!({}))
        .await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(condition(&cancelling, "Completed")["status"], "Unknown");
    let execution = world.finished(&name).await;
    let completed = condition(&execution, "Completed");
    assert_eq!(
        (&completed["status"], &completed["reason"]),
        (&json!("False"), &json!("Cancelled"))
    );
    assert_eq!(completed["message"], "Cancelled by user.");
    assert_eq!(execution["status"]["cancelledCount"], 2);
    assert_eq!(execution["status"].get("runningCount"), None);

    let (status, refusal) = world
        .post(&format!("executions/{name}:cancel"), json!({}))
        .await;
    assert_eq!(
        (status, &refusal["error"]["status"]),
        (StatusCode::BAD_REQUEST, &json!("FAILED_PRECONDITION"))
    );
    let message = format!("Execution '{name}' cannot be cancelled because it is not running.");
    assert_eq!(refusal["error"]["message"], json!(message));
}

#[tokio::test]
async fn an_execution_cancelled_while_pending_has_started_false() {
    let world = World::with(Settings {
        pending: Duration::from_secs(60),
        ..settings(shell("echo ran"))
    })
    .await;
    let name = world.run(json!({})).await;
    world
        .post(&format!("executions/{name}:cancel"), json!({}))
        .await;
    let execution = world.finished(&name).await;
    assert_eq!(condition(&execution, "Completed")["reason"], "Cancelled");
    assert_eq!(condition(&execution, "Started")["status"], "False");
    assert_eq!(execution["status"]["cancelledCount"], 1);
    assert!(world.lines(&name).await.is_empty());
}

#[tokio::test]
async fn deleting_an_execution_removes_it_and_kills_its_processes() {
    let world = World::of(shell("echo $$; exec sleep 60")).await;
    let name = world.run(json!({})).await;
    let pid = world.until_lines(&name, 1).await.remove(0);
    let (status, answer) = world.delete(&format!("executions/{name}")).await;
    assert_eq!(
        (status, &answer["status"]),
        (StatusCode::OK, &json!("Success"))
    );
    assert_eq!(
        world.get(&format!("executions/{name}")).await.0,
        StatusCode::NOT_FOUND
    );
    crate::helpers::until_dead(&pid).await;
}

#[tokio::test]
async fn a_run_beyond_the_quota_of_executions_is_refused_with_429() {
    let world = World::with(Settings {
        max_running_executions: 2,
        pending: Duration::from_secs(60),
        ..settings(shell("true"))
    })
    .await;
    let first = world.run(json!({})).await;
    world.run(json!({})).await;
    let (status, refusal) = world.post("jobs/sh:run", json!({})).await;
    assert_eq!(
        (status, &refusal["error"]["status"]),
        (StatusCode::TOO_MANY_REQUESTS, &json!("RESOURCE_EXHAUSTED"))
    );
    world.delete(&format!("executions/{first}")).await;
    world.run(json!({})).await;
}

#[tokio::test]
async fn requests_of_pages_in_a_browser_are_refused() {
    let world = World::with(Settings {
        allow_anonymous: true,
        ..settings(shell("true"))
    })
    .await;
    let url = format!(
        "{}/apis/run.googleapis.com/v1/namespaces/demo/jobs/sh:run",
        world.emulator.url()
    );
    let send = |header: (&'static str, &'static str)| {
        client()
            .post(&url)
            .header(header.0, header.1)
            .body("{}")
            .send()
    };
    assert_eq!(
        send(("origin", "https://evil.example"))
            .await
            .unwrap()
            .status(),
        StatusCode::FORBIDDEN
    );
    assert_eq!(
        send(("host", "evil.example:8787")).await.unwrap().status(),
        StatusCode::FORBIDDEN
    );
    assert_eq!(world.emulator.counters().runs, 0);
    assert_eq!(
        send(("host", "localhost:8787")).await.unwrap().status(),
        StatusCode::OK
    );
}

#[tokio::test]
async fn two_hundred_executions_complete_in_seconds() {
    let world = World::of(Job::new("sh", ["true"])).await;
    let began = std::time::Instant::now();
    let names = futures_util::future::join_all((0..200).map(|_| world.run(json!({})))).await;
    for name in &names {
        world.finished(name).await;
    }
    // The goal is less than twenty seconds for a thousand on two cores; other tests run at the same time.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
}
