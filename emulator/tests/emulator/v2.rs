use std::time::Duration;

use emulator::{Settings, State};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::helpers::{PATIENCE, World, answer, settings, shell, until_dead};

const AT: &str = "/v2/projects/demo/locations/us-east4";

fn job() -> Value {
    json!({
        "labels": { "team": "a" }, "annotations": { "note": "b" }, "client": "test", "launchStage": 3,
        "template": {
            "labels": { "run": "c" }, "parallelism": 2, "taskCount": 3,
            "template": {
                "containers": [{
                    "image": "us-docker.pkg.dev/p/r/sh:latest", "name": "main",
                    "env": [{ "name": "A", "value": "job" }], "resources": { "limits": { "memory": "1Gi" } },
                    "volumeMounts": [{ "name": "v", "mountPath": "/v" }]
                }],
                "volumes": [{ "name": "v", "emptyDir": {} }], "maxRetries": 0, "timeout": "30s", "executionEnvironment": 2
            }
        }
    })
}

impl World {
    async fn v2(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let request = self.request(method, &format!("{AT}/{path}"));
        match body {
            Some(body) => answer(request.json(&body)).await,
            None => answer(request).await,
        }
    }

    async fn v2_get(&self, path: &str) -> Value {
        let (status, body) = self.v2(Method::GET, path, None).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }

    /// The body of a call that must succeed.
    async fn v2_post(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.v2(Method::POST, path, Some(body)).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        answer
    }

    async fn refused(&self, method: Method, path: &str, body: Option<Value>) -> (u16, String) {
        let (status, refusal) = self.v2(method, path, body).await;
        let name = refusal["error"]["status"].as_str().unwrap_or_default();
        (status.as_u16(), name.to_owned())
    }

    /// Runs the job `sh`, and returns its operation when that is done.
    async fn v2_run(&self, body: Value) -> Value {
        let operation = self.v2_post("jobs/sh:run", body).await;
        let wait = format!("operations/{}:wait", id(&operation));
        let done = self.v2_post(&wait, json!({ "timeout": "20s" })).await;
        assert_eq!(done["done"], true, "{done}");
        done
    }
}

/// The last segment of a resource name.
fn id(resource: &Value) -> String {
    let name = resource["name"].as_str().unwrap();
    name.rsplit('/').next().unwrap().to_owned()
}

fn named(conditions: &Value, kind: &str) -> Value {
    let conditions = conditions["conditions"].as_array().unwrap();
    let mut found = conditions.iter().filter(|known| known["type"] == kind);
    found.next().cloned().unwrap_or_default()
}

#[tokio::test]
async fn a_job_can_be_created_read_changed_listed_and_deleted() {
    let world = World::of(shell("true")).await;
    let operation = world.v2_post("jobs?jobId=mine", job()).await;
    assert_eq!(operation["done"], true);
    assert_eq!(operation["metadata"], operation["response"]);
    let kind = "type.googleapis.com/google.cloud.run.v2.Job";
    assert_eq!(operation["response"]["@type"], kind);
    let created = world.v2_get("jobs/mine").await;
    assert_eq!(
        created["name"],
        "projects/demo/locations/us-east4/jobs/mine"
    );
    for (key, value) in [
        ("generation", json!("1")),
        ("observedGeneration", json!("1")),
        ("labels", json!({ "team": "a" })),
        ("annotations", json!({ "note": "b" })),
        ("client", json!("test")),
        ("launchStage", json!("BETA")),
        ("reconciling", json!(false)),
        ("latestCreatedExecution", json!({})),
    ] {
        assert_eq!(created[key], value, "{key}");
    }
    assert_eq!(created["terminalCondition"]["state"], "CONDITION_SUCCEEDED");
    assert!(created["uid"].is_string() && created["etag"].is_string());
    let task = &created["template"]["template"];
    for (key, value) in [
        ("timeout", json!("30s")),
        ("maxRetries", json!(0)),
        ("executionEnvironment", json!("EXECUTION_ENVIRONMENT_GEN2")),
        ("volumes", json!([{ "name": "v", "emptyDir": {} }])),
    ] {
        assert_eq!(task[key], value, "{key}");
    }

    // Sending back the job that was read changes nothing.
    let operation = world
        .v2(Method::PATCH, "jobs/mine", Some(created.clone()))
        .await;
    assert_eq!(operation.1["response"]["generation"], "1", "{operation:?}");
    let mut changed = created;
    changed["template"]["template"]["maxRetries"] = json!("2");
    let operation = world.v2(Method::PATCH, "jobs/mine", Some(changed)).await.1;
    assert_eq!(operation["response"]["generation"], "2");
    assert_eq!(
        operation["response"]["template"]["template"]["maxRetries"],
        2
    );

    let jobs = world
        .v2_get("jobs?pageSize=0&pageToken=&showDeleted=false&%24alt=json%3Benum-encoding%3Dint")
        .await;
    let names: Vec<String> = jobs["jobs"].as_array().unwrap().iter().map(id).collect();
    assert_eq!(names, ["mine", "sh"]);
    let operation = world.v2(Method::DELETE, "jobs/mine?etag=any", None).await.1;
    assert!(operation["response"]["deleteTime"].is_string());
    let gone = world.refused(Method::GET, "jobs/mine", None).await;
    assert_eq!(gone, (404, "NOT_FOUND".into()));
}

#[tokio::test]
async fn v1_and_v2_show_each_others_jobs() {
    let world = World::of(shell("true")).await;
    world.v2_post("jobs?jobId=mine", job()).await;
    let seen = world.get("jobs/mine").await.1;
    assert_eq!(
        seen["metadata"]["annotations"]["run.googleapis.com/client-name"],
        "test"
    );
    let execution = &seen["spec"]["template"]["spec"];
    assert_eq!(
        (&execution["taskCount"], &execution["parallelism"]),
        (&json!(3), &json!(2))
    );
    let task = &execution["template"]["spec"];
    assert_eq!(task["timeoutSeconds"], "30");
    // v1 has its own form for volumes.
    assert_eq!(task.get("volumes"), None);
    let container = &task["containers"][0];
    assert_eq!(container["resources"]["limits"]["memory"], "1Gi");
    assert_eq!(container["env"][0]["value"], "job");

    let (status, replaced) = answer(world.request(Method::PUT, "jobs/mine").json(&seen)).await;
    assert_eq!(status, StatusCode::OK, "{replaced}");
    let again = world.v2_get("jobs/mine").await;
    assert_eq!(again["client"], "test");
    assert_eq!(
        again["template"]["template"]["containers"][0]["name"],
        "main"
    );
    let labels = again["labels"].as_object().unwrap();
    assert_eq!(labels.keys().collect::<Vec<_>>(), ["team"]);
}

#[tokio::test]
async fn a_patch_creates_a_missing_job_only_with_allow_missing() {
    let world = World::of(shell("true")).await;
    let missing = world.refused(Method::PATCH, "jobs/mine", Some(job())).await;
    assert_eq!(missing, (404, "NOT_FOUND".into()));
    let allowed = world
        .v2(Method::PATCH, "jobs/mine?allowMissing=true", Some(job()))
        .await;
    assert_eq!(allowed.1["response"]["generation"], "1", "{allowed:?}");
    assert_eq!(id(&world.v2_get("jobs/mine").await), "mine");
}

#[tokio::test]
async fn validate_only_changes_nothing() {
    let world = World::of(shell("exec sleep 60")).await;
    let created = world
        .v2_post("jobs?jobId=mine&validateOnly=true", job())
        .await;
    assert_eq!(
        (&created["done"], id(&created["response"])),
        (&json!(true), "mine".into())
    );
    let operation = format!("operations/{}", id(&created));
    assert_eq!(world.refused(Method::GET, &operation, None).await.0, 404);
    assert_eq!(world.refused(Method::GET, "jobs/mine", None).await.0, 404);
    let taken = world
        .refused(Method::POST, "jobs?jobId=sh&validateOnly=true", Some(job()))
        .await;
    assert_eq!(taken, (409, "ALREADY_EXISTS".into()));

    let run = json!({ "validateOnly": true, "overrides": { "taskCount": 2 } });
    let run = world.v2_post("jobs/sh:run", run).await;
    assert_eq!(run["response"]["taskCount"], 2);
    assert!(world.emulator.executions().is_empty());
    world
        .v2(Method::DELETE, "jobs/sh?validateOnly=true", None)
        .await;
    world.v2_get("jobs/sh").await;

    let execution = id(&world.v2_post("jobs/sh:run", json!({})).await["metadata"]);
    let path = format!("jobs/sh/executions/{execution}");
    world
        .v2_post(&format!("{path}:cancel"), json!({ "validateOnly": true }))
        .await;
    world
        .v2(Method::DELETE, &format!("{path}?validateOnly=true"), None)
        .await;
    assert_eq!(world.v2_get(&path).await["reconciling"], true);
}

#[tokio::test]
async fn jobs_that_google_would_refuse_are_refused() {
    let world = World::of(shell("true")).await;
    let changes: [(&str, Value); 12] = [
        ("/colour", json!("red")),
        ("/template/colour", json!("red")),
        ("/template/template/colour", json!("red")),
        ("/template/template/containers/0/colour", json!("red")),
        ("/template/template/containers/0/image", json!("")),
        ("/template/template/containers", json!([])),
        ("/template/template/timeout", json!("30")),
        ("/template/template/timeout", json!("604801s")),
        ("/template/taskCount", json!(-1)),
        ("/labels", json!({ "run.googleapis.com/job": "x" })),
        ("/launchStage", json!("SOON")),
        ("/runExecutionToken", json!("first")),
    ];
    for (pointer, value) in changes {
        let mut job = job();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        job.pointer_mut(parent).unwrap()[key] = value.clone();
        let refused = world
            .refused(Method::POST, "jobs?jobId=mine", Some(job))
            .await;
        assert_eq!(
            refused,
            (400, "INVALID_ARGUMENT".into()),
            "{pointer} {value}"
        );
    }
    for body in [json!([]), json!("job"), json!(1)] {
        for path in ["jobs?jobId=mine", "jobs/sh:run", "jobs/sh:setIamPolicy"] {
            let refused = world.refused(Method::POST, path, Some(body.clone())).await;
            assert_eq!(refused, (400, "INVALID_ARGUMENT".into()), "{path} {body}");
        }
    }
    let mut odd = job();
    odd["template"]["template"]["containers"][0]["resources"] = json!("much");
    let (status, created) = world.v2(Method::POST, "jobs?jobId=odd", Some(odd)).await;
    assert_eq!(status, StatusCode::OK, "{created}");
    let unnamed = world.refused(Method::POST, "jobs", Some(job())).await;
    assert_eq!(unnamed, (400, "INVALID_ARGUMENT".into()));
}

#[tokio::test]
async fn a_run_returns_an_operation_that_is_done_when_the_execution_ends() {
    let world = World::with(Settings {
        pending: Duration::from_millis(300),
        ..settings(shell("exit $CODE"))
    })
    .await;
    // Prefect sends neither a body nor a content type.
    let (status, started) = world.v2(Method::POST, "jobs/sh:run", None).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(started.get("done"), None);
    let execution = &started["metadata"];
    let kind = "type.googleapis.com/google.cloud.run.v2.Execution";
    assert_eq!(execution["@type"], kind);
    let name = execution["name"].as_str().unwrap();
    let short = id(execution);
    let full = format!("projects/demo/locations/us-east4/jobs/sh/executions/{short}");
    assert_eq!(name, full);
    for (key, value) in [
        ("job", json!("sh")),
        ("generation", json!("1")),
        ("reconciling", json!(true)),
        ("parallelism", json!(1)),
        ("taskCount", json!(1)),
    ] {
        assert_eq!(execution[key], value, "{key}");
    }
    for key in ["uid", "etag", "createTime", "logUri", "template"] {
        assert!(!execution[key].is_null(), "{key}");
    }
    assert_eq!(
        named(execution, "Completed")["state"],
        "CONDITION_RECONCILING"
    );

    let code = |code: &str| json!({ "overrides": { "containerOverrides": [{ "env": [{ "name": "CODE", "value": code }] }] } });
    let done = world.v2_run(code("0")).await;
    assert_eq!(done.get("error"), None);
    assert_eq!(done["response"], done["metadata"]);
    let succeeded = &done["response"];
    assert_eq!(
        (&succeeded["reconciling"], &succeeded["succeededCount"]),
        (&json!(false), &json!(1))
    );
    assert_eq!(
        named(succeeded, "Completed")["state"],
        "CONDITION_SUCCEEDED"
    );
    assert!(succeeded["completionTime"].is_string());

    let done = world.v2_run(code("3")).await;
    assert_eq!(
        (done.get("response"), &done["error"]["code"]),
        (None, &json!(10))
    );
    let completed = named(&done["metadata"], "Completed");
    assert_eq!(
        (&completed["state"], &completed["executionReason"]),
        (&json!("CONDITION_FAILED"), &json!("NON_ZERO_EXIT_CODE"))
    );
    let job = world.v2_get("jobs/sh").await;
    assert_eq!(job["executionCount"], 3);
    let latest = &job["latestCreatedExecution"];
    assert_eq!(latest["name"], id(&done["metadata"]));
    assert_eq!(latest["completionStatus"], "EXECUTION_FAILED");
}

#[tokio::test]
async fn a_timeout_ends_the_operation_with_code_4_and_a_cancellation_with_a_response() {
    let mut sleeping = shell("echo $$; exec sleep 60");
    sleeping.timeout_seconds = 1;
    let world = World::of(sleeping).await;
    let done = world.v2_run(json!({})).await;
    assert_eq!(done["error"]["code"], 4, "{done}");
    assert_eq!(
        named(&done["metadata"], "Completed").get("executionReason"),
        None
    );

    let overrides = json!({ "overrides": { "timeout": "30s" } });
    let operation = world.v2_post("jobs/sh:run", overrides).await;
    let execution = id(&operation["metadata"]);
    assert_eq!(operation["metadata"]["template"]["timeout"], "30s");
    world.until_lines(&execution, 1).await;
    let path = format!("jobs/sh/executions/{execution}");
    let cancel = world.v2_post(&format!("{path}:cancel"), json!({})).await;
    let wait = format!("operations/{}:wait", id(&cancel));
    let cancelled = world.v2_post(&wait, json!({})).await;
    assert_eq!(
        (cancelled["done"].clone(), cancelled.get("error")),
        (json!(true), None)
    );
    let run = world
        .v2_get(&format!("operations/{}", id(&operation)))
        .await;
    assert_eq!((run["done"].clone(), run.get("error")), (json!(true), None));
    let completed = named(&run["response"], "Completed");
    assert_eq!(completed["executionReason"], "CANCELLED");
    assert_eq!(run["response"]["cancelledCount"], 1);
    let late = world
        .refused(Method::POST, &format!("{path}:cancel"), Some(json!({})))
        .await;
    assert_eq!(late, (400, "FAILED_PRECONDITION".into()));
}

#[tokio::test]
async fn overrides_have_the_form_of_v2() {
    let mut own = shell("true");
    own.args = vec!["own".into()];
    let world = World::of(own).await;
    let run = |overrides: Value| json!({ "overrides": overrides });
    let started = world
        .v2_post(
            "jobs/sh:run",
            run(json!({ "task_count": 2, "container_overrides": [{ "clear_args": true }] })),
        )
        .await;
    assert_eq!(started["metadata"]["taskCount"], 2);
    let container = &started["metadata"]["template"]["containers"][0];
    assert_eq!(container.get("args"), None);
    for refused in [
        json!({ "timeoutSeconds": 30 }),
        json!({ "timeout": 30 }),
        json!({ "timeout": "30m" }),
        json!({ "timeout": "0.5s" }),
        json!({ "containerOverrides": [{ "name": "nosuch" }] }),
        json!({ "containerOverrides": [{ "args": ["a"], "clearArgs": true }] }),
        json!({ "parallelism": 1 }),
    ] {
        let refusal = world
            .refused(Method::POST, "jobs/sh:run", Some(run(refused.clone())))
            .await;
        assert_eq!(refusal, (400, "INVALID_ARGUMENT".into()), "{refused}");
    }
    assert_eq!(world.emulator.executions().len(), 1);
}

#[tokio::test]
async fn executions_and_tasks_can_be_read_only_under_their_parents() {
    let world = World::of(shell("test $CLOUD_RUN_TASK_INDEX = 0")).await;
    world.v2_post("jobs?jobId=other", job()).await;
    let run = json!({ "overrides": { "taskCount": 2 } });
    let execution = id(&world.v2_run(run).await["metadata"]);
    let under = format!("jobs/sh/executions/{execution}");
    let tasks = world.v2_get(&format!("{under}/tasks")).await;
    let tasks = tasks["tasks"].as_array().unwrap();
    assert_eq!(id(&tasks[1]), format!("{execution}-task1"));
    assert_eq!(
        (tasks[0].get("index"), &tasks[1]["index"]),
        (None, &json!(1))
    );
    for (key, value) in [
        ("job", "sh"),
        ("execution", &execution),
        ("timeout", "600s"),
    ] {
        assert_eq!(tasks[1][key], value, "{key}");
    }
    assert_eq!(tasks[0]["lastAttemptResult"], json!({ "status": {} }));
    let failed = &tasks[1]["lastAttemptResult"];
    assert_eq!(
        (&failed["exitCode"], &failed["status"]["code"]),
        (&json!(1), &json!(10))
    );
    let one = world
        .v2_get(&format!("{under}/tasks/{execution}-task1"))
        .await;
    assert_eq!(&one, &tasks[1]);

    for anywhere in ["jobs/-/executions", "jobs/sh/executions"] {
        let listed = world.v2_get(anywhere).await;
        assert_eq!(
            listed["executions"].as_array().unwrap().len(),
            1,
            "{anywhere}"
        );
    }
    let all = world.v2_get("jobs/-/executions/-/tasks").await;
    assert_eq!(all["tasks"].as_array().unwrap().len(), 2);
    assert_eq!(world.v2_get("jobs/other/executions").await, json!({}));
    for missing in [
        &format!("jobs/other/executions/{execution}"),
        &format!("jobs/sh/executions/{execution}/tasks/{execution}-task2"),
        "jobs/sh/executions/sh-nosuc",
        "jobs/nosuch",
        "operations/nosuch",
    ] {
        let refused = world.refused(Method::GET, missing, None).await;
        assert_eq!(refused, (404, "NOT_FOUND".into()), "{missing}");
    }
}

#[tokio::test]
async fn deleting_an_execution_cancels_it_and_completes_its_operation() {
    let world = World::of(shell("echo $$; exec sleep 60")).await;
    let operation = world.v2_post("jobs/sh:run", json!({})).await;
    let execution = id(&operation["metadata"]);
    let pid = world.until_lines(&execution, 1).await.remove(0);
    let path = format!("jobs/sh/executions/{execution}");
    let deleted = world.v2(Method::DELETE, &path, None).await.1;
    assert!(deleted["response"]["deleteTime"].is_string(), "{deleted}");
    until_dead(&pid).await;
    assert_eq!(world.refused(Method::GET, &path, None).await.0, 404);
    let run = world
        .v2_get(&format!("operations/{}", id(&operation)))
        .await;
    assert_eq!((run["done"].clone(), run.get("error")), (json!(true), None));
    assert_eq!(
        named(&run["response"], "Completed")["state"],
        "CONDITION_FAILED"
    );
}

#[tokio::test]
async fn operations_can_be_listed_waited_for_and_deleted() {
    let world = World::of(shell("exec sleep 60")).await;
    world.v2_post("jobs?jobId=mine", job()).await;
    let run = world.v2_post("jobs/sh:run", json!({})).await;
    let listed = world.v2_get("operations").await;
    let listed: Vec<String> = listed["operations"]
        .as_array()
        .unwrap()
        .iter()
        .map(id)
        .collect();
    assert_eq!((listed.len(), &listed[0]), (2, &id(&run)));
    let began = Instant::now();
    let wait = format!("operations/{}:wait", id(&run));
    let still = world.v2_post(&wait, json!({ "timeout": "1s" })).await;
    assert_eq!(still.get("done"), None);
    assert!(began.elapsed() >= Duration::from_secs(1));
    let still = world.v2_post(&wait, json!({ "timeout": "0.250s" })).await;
    assert_eq!(still.get("done"), None);
    let path = format!("operations/{}", id(&run));
    assert_eq!(
        world.v2(Method::DELETE, &path, None).await,
        (StatusCode::OK, json!({}))
    );
    assert_eq!(world.refused(Method::GET, &path, None).await.0, 404);
    assert_eq!(world.emulator.executions()[0].state, State::Running);
}

#[tokio::test]
async fn v1_and_v2_share_the_policy_of_a_job() {
    let world = World::of(shell("true")).await;
    let bindings = json!([{ "role": "roles/run.invoker", "members": ["user:a@example.com"] }]);
    let policy = json!({ "policy": { "bindings": bindings } });
    let set = world.v2_post("jobs/sh:setIamPolicy", policy).await;
    assert_eq!((&set["bindings"], &set["version"]), (&bindings, &json!(1)));
    let read = world
        .v2_get("jobs/sh:getIamPolicy?options.requestedPolicyVersion=3")
        .await;
    assert_eq!(read, set);
    let v1 = "/v1/projects/demo/locations/us-east4/jobs/sh:getIamPolicy";
    assert_eq!(world.get(v1).await.1, set);
    let asked = json!({ "permissions": ["run.jobs.run"] });
    let tested = world
        .v2_post("jobs/sh:testIamPermissions", asked.clone())
        .await;
    assert_eq!(tested, asked);
    let tested = world.v2_post("jobs/sh:testIamPermissions", json!({})).await;
    assert_eq!(tested, json!({}));
}

#[tokio::test]
async fn a_body_that_is_an_array_starts_nothing() {
    let world = World::of(shell("true")).await;
    for path in [
        "jobs/sh:run",
        "/v2/projects/demo/locations/us-east4/jobs/sh:run",
    ] {
        assert_eq!(world.post(path, json!([])).await.0, StatusCode::BAD_REQUEST);
    }
    assert!(world.emulator.executions().is_empty());
    let two = json!({ "overrides": { "taskCount": 2.0 } });
    assert_eq!(
        world.v2_post("jobs/sh:run", two).await["metadata"]["taskCount"],
        2
    );
}

/// All names in a list, read in pages of two. `between` is called after the first page.
async fn all_pages(
    world: &World,
    list: &str,
    key: &str,
    between: impl AsyncFn(&World),
) -> Vec<String> {
    let v1 = !list.starts_with("/v2");
    let (size, token) = if v1 {
        ("limit", "continue")
    } else {
        ("pageSize", "pageToken")
    };
    let mut names = Vec::new();
    let mut next = String::new();
    for page in 0.. {
        let (status, body) = world.get(&format!("{list}?{size}=2&{token}={next}")).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        for item in body[key].as_array().into_iter().flatten() {
            let name = if v1 {
                &item["metadata"]["name"]
            } else {
                &item["name"]
            };
            names.push(
                name.as_str()
                    .unwrap()
                    .rsplit('/')
                    .next()
                    .unwrap()
                    .to_owned(),
            );
        }
        if page == 0 {
            between(world).await;
        }
        let token = if v1 {
            &body["metadata"]["continue"]
        } else {
            &body["nextPageToken"]
        };
        match token.as_str() {
            Some(token) => token.clone_into(&mut next),
            None => break,
        }
    }
    names
}

#[tokio::test]
async fn pages_repeat_no_item_while_jobs_are_created_and_run() {
    let world = World::of(shell("true")).await;
    for name in ["a", "b", "c"] {
        world.v2_post(&format!("jobs?jobId={name}"), job()).await;
    }
    let first = id(&world
        .v2_run(json!({ "overrides": { "taskCount": 3 } }))
        .await["metadata"]);
    let count = std::sync::atomic::AtomicUsize::new(0);
    let more = async |world: &World| {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        world
            .v2_post(&format!("jobs?jobId=new{number}"), job())
            .await;
        world.v2_run(json!({})).await;
    };
    let jobs = all_pages(&world, "jobs", "items", more).await;
    assert_eq!(jobs, ["c", "b", "a", "sh"]);
    let jobs = all_pages(&world, &format!("{AT}/jobs"), "jobs", more).await;
    assert_eq!(jobs, ["new0", "c", "b", "a", "sh"]);
    // Two executions of one task each have started since the one with three tasks.
    let tasks = all_pages(&world, "tasks", "items", more).await;
    assert_eq!(tasks.len(), 5, "{tasks:?}");
    let own: Vec<String> = (0..3).map(|index| format!("{first}-task{index}")).collect();
    assert_eq!(tasks[2..], own);
    let listed = format!("{AT}/jobs/-/executions/-/tasks");
    let tasks = all_pages(&world, &listed, "tasks", more).await;
    assert_eq!(tasks.len(), 6, "{tasks:?}");
    let executions = all_pages(
        &world,
        &format!("{AT}/jobs/sh/executions"),
        "executions",
        more,
    )
    .await;
    assert_eq!((executions.len(), executions.last()), (5, Some(&first)));
    for listed in [
        "jobs?pageToken=x",
        "jobs?pageSize=-1",
        "operations?pageSize=x",
    ] {
        let refused = world.refused(Method::GET, listed, None).await;
        assert_eq!(refused, (400, "INVALID_ARGUMENT".into()), "{listed}");
    }
}

#[tokio::test]
async fn an_execution_that_v1_started_has_an_operation_in_v2() {
    let world = World::of(shell("true")).await;
    let name = world.run(json!({})).await;
    let execution = world.get(&format!("executions/{name}")).await.1;
    let operation = execution["metadata"]["annotations"]["run.googleapis.com/operation-id"]
        .as_str()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let operation = world.v2_get(&format!("operations/{operation}")).await;
        assert_eq!(id(&operation["metadata"]), name);
        if operation["done"] == true {
            break;
        }
        assert!(Instant::now() < deadline, "{operation}");
        sleep(Duration::from_millis(10)).await;
    }
}
