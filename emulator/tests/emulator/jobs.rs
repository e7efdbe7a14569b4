use emulator::{Job, Settings};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::helpers::{World, answer, settings, shell};

fn created_by_gcloud(name: &str) -> Value {
    json!({
        "apiVersion": "run.googleapis.com/v1", "kind": "Job",
        "metadata": { "name": name, "namespace": "demo", "labels": {}, "annotations": { "run.googleapis.com/client-name": "gcloud" } },
        "spec": { "template": {
            "metadata": { "annotations": {}, "labels": { "client.knative.dev/nonce": "abc_def_ghi" } },
            "spec": { "template": { "spec": {
                "containers": [{ "image": "us-docker.pkg.dev/p/r/sh:latest", "name": "" }], "nodeSelector": {}, "timeoutSeconds": "30"
            } } }
        } },
        "status": { "latestCreatedExecution": {} }
    })
}

#[tokio::test]
async fn a_job_gets_googles_defaults_and_can_be_read_replaced_and_deleted() {
    let world = World::of(shell("true")).await;
    let (status, job) = world.post("jobs", created_by_gcloud("mine")).await;
    assert_eq!(status, StatusCode::OK, "{job}");
    assert_eq!(job["spec"]["template"]["spec"]["taskCount"], 1);
    let task = &job["spec"]["template"]["spec"]["template"]["spec"];
    assert_eq!(
        (&task["maxRetries"], &task["timeoutSeconds"]),
        (&json!(3), &json!("30"))
    );
    assert_eq!(task["containers"][0].get("name"), None);
    assert_eq!(
        job["metadata"]["generation"],
        job["status"]["observedGeneration"]
    );
    assert_eq!(job["status"]["conditions"][0]["type"], "Ready");

    let (status, refusal) = world.post("jobs", created_by_gcloud("mine")).await;
    assert_eq!(
        (status, &refusal["error"]["status"]),
        (StatusCode::CONFLICT, &json!("ALREADY_EXISTS"))
    );

    let mut changed = world.get("jobs/mine").await.1;
    assert_eq!(changed, job);
    changed["spec"]["template"]["spec"]["taskCount"] = json!(4);
    let (status, changed) = answer(world.request(Method::PUT, "jobs/mine").json(&changed)).await;
    assert_eq!(
        (status, &changed["metadata"]["generation"]),
        (StatusCode::OK, &json!(2)),
        "{changed}"
    );
    assert_eq!(changed["status"]["observedGeneration"], 2);

    assert_eq!(world.delete("jobs/mine").await.0, StatusCode::OK);
    assert_eq!(world.get("jobs/mine").await.0, StatusCode::NOT_FOUND);
    let names: Vec<_> = world.get("jobs").await.1["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| job["metadata"]["name"].clone())
        .collect();
    assert_eq!(names, ["sh"]);
}

#[tokio::test]
async fn jobs_that_cloud_run_would_refuse_are_refused() {
    let world = World::of(shell("true")).await;
    let changes: [(&str, Value); 11] = [
        ("/metadata/name", json!("Capital")),
        ("/metadata/name", json!("ends-")),
        ("/metadata/name", json!("a".repeat(64))),
        ("/spec/template/spec/taskCount", json!(10_001)),
        ("/spec/template/spec/taskCount", json!(0)),
        ("/spec/startExecutionToken", json!("first")),
        ("/spec/template/spec/parallelism", json!(2)),
        (
            "/spec/template/spec/template/spec/timeoutSeconds",
            json!("604801"),
        ),
        ("/spec/template/spec/template/spec/maxRetries", json!(11)),
        ("/spec/template/spec/template/spec/containers", json!([])),
        (
            "/spec/template/spec/template/spec/containers/0/env",
            json!([{ "name": "CLOUD_RUN_JOB", "value": "x" }]),
        ),
    ];
    for (pointer, value) in changes {
        let mut job = created_by_gcloud("mine");
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        job.pointer_mut(parent).unwrap()[key] = value.clone();
        let (status, refusal) = world.post("jobs", job).await;
        assert_eq!(
            (status, &refusal["error"]["status"]),
            (StatusCode::BAD_REQUEST, &json!("INVALID_ARGUMENT")),
            "{pointer} {value}"
        );
    }
    let garbage = world.request(Method::POST, "jobs").body("{");
    assert_eq!(answer(garbage).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn an_image_runs_the_command_of_the_job_with_its_name_or_of_the_first() {
    let named = |name: &str| Job::new(name, ["sh", "-c", &format!("echo I am {name}")]);
    let world = World::with(Settings {
        jobs: vec![named("first"), named("second")],
        ..settings(shell(""))
    })
    .await;
    for (image, line) in [
        ("us-docker.pkg.dev/p/r/second:v1", "I am second"),
        ("other", "I am first"),
        ("r/second@sha256:00", "I am second"),
    ] {
        let mut job = created_by_gcloud("sh");
        job["spec"]["template"]["spec"]["template"]["spec"]["containers"][0]["image"] =
            json!(image);
        assert_eq!(world.post("jobs", job).await.0, StatusCode::OK);
        let name = world.run(json!({})).await;
        world.finished(&name).await;
        assert_eq!(world.lines(&name).await, [line], "{image}");
        world.delete("jobs/sh").await;
    }
}

#[tokio::test]
async fn deleting_a_job_deletes_its_executions() {
    let world = World::of(shell("echo $$; exec sleep 60")).await;
    let name = world.run(json!({})).await;
    let pid = world.until_lines(&name, 1).await.remove(0);
    assert_eq!(world.delete("jobs/sh").await.0, StatusCode::OK);
    crate::helpers::until_dead(&pid).await;
    assert_eq!(
        world.get(&format!("executions/{name}")).await.0,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn a_policy_is_stored_and_a_stale_etag_is_refused() {
    let world = World::of(shell("true")).await;
    let path = "/v1/projects/demo/locations/us-east4/jobs/sh";
    let (_, first) = world.get(&format!("{path}:getIamPolicy")).await;
    let bindings = json!([{ "role": "roles/run.invoker", "members": ["user:a@example.com"] }]);
    let policy = json!({ "policy": { "bindings": bindings, "etag": first["etag"] } });
    assert_eq!(
        world
            .post(&format!("{path}:setIamPolicy"), policy.clone())
            .await
            .0,
        StatusCode::OK
    );
    let (status, refusal) = world.post(&format!("{path}:setIamPolicy"), policy).await;
    assert_eq!(
        (status, &refusal["error"]["status"]),
        (StatusCode::CONFLICT, &json!("ABORTED"))
    );
    assert_eq!(
        world.get(&format!("{path}:getIamPolicy")).await.1["bindings"],
        bindings
    );
}
