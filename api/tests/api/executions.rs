//! `GET /scopes/{scope}/executions` and `GET /scopes/{scope}/executions/{name}`.

use emulator::Operation;
use serde_json::Value;

use crate::helpers::{TestApp, instant_job, json, link, problem};

fn names(answer: &Value) -> Vec<&str> {
    let executions = answer["executions"].as_array().unwrap();
    executions
        .iter()
        .map(|execution| execution["name"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_scope_lists_its_own_executions_newest_first() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    let mut mine = Vec::new();
    for scope in ["acme", "globex", "acme", "Acme", "acme"] {
        let execution = app.start(scope).await;
        mine.extend((scope == "acme").then(|| execution["name"].as_str().unwrap().to_owned()));
    }
    mine.reverse();
    let answer = json(app.get("/scopes/acme/executions")).await;
    assert_eq!(names(&answer), mine);
    assert_eq!(answer["nextPage"], Value::Null);
    let none = json(app.get("/scopes/initech/executions")).await;
    assert_eq!(none["executions"].as_array().map(Vec::len), Some(0));
}

#[tokio::test]
async fn pages_have_each_execution_once() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    let scope = |i: usize| ["acme", "globex"][usize::from(i.is_multiple_of(3))].to_owned();
    app.emulator
        .add_past_executions("test-job", 350, |i| vec![("SCOPE".to_owned(), scope(i))])
        .unwrap();
    let (mut seen, mut path) = (Vec::new(), "/scopes/acme/executions?limit=30".to_owned());
    loop {
        let answer = json(app.get(&path)).await;
        seen.extend(names(&answer).into_iter().map(str::to_owned));
        app.start("acme").await; // new executions must not shift the pages
        let Some(page) = answer["nextPage"].as_str() else {
            break;
        };
        path = format!("/scopes/acme/executions?limit=30&page={page}");
    }
    let expected = (0..350).filter(|i| scope(*i) == "acme").count();
    let unique: std::collections::HashSet<_> = seen.iter().collect();
    assert_eq!((seen.len(), unique.len()), (expected, expected));
}

#[tokio::test]
async fn listing_a_scope_without_executions_takes_few_reads() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    app.emulator
        .add_past_executions("test-job", 1_000, |_| {
            vec![("SCOPE".to_owned(), "globex".to_owned())]
        })
        .unwrap();
    let before = app.calls(Operation::List);
    let answer = json(app.get("/scopes/acme/executions")).await;
    assert_eq!(names(&answer), Vec::<&str>::new());
    assert_eq!(answer["nextPage"], Value::Null);
    let reads = app.calls(Operation::List) - before;
    assert!(reads <= 3, "{reads} reads of the list");
}

#[tokio::test]
async fn an_execution_of_another_scope_is_answered_like_a_missing_one() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    let execution = app.start("acme").await;
    let name = execution["name"].as_str().unwrap();
    let foreign = app
        .get(&format!("/scopes/globex/executions/{name}"))
        .send()
        .await
        .unwrap();
    let unknown = app
        .get("/scopes/globex/executions/test-job-zzzzz")
        .send()
        .await
        .unwrap();
    let mut bodies = Vec::new();
    for response in [foreign, unknown] {
        let mut body = problem(response, "execution-not-found").await;
        body["requestId"].take();
        bodies.push(body);
    }
    assert_eq!(bodies[0], bodies[1]);
}

#[tokio::test]
async fn a_name_that_is_not_of_the_job_is_never_sent_to_cloud_run() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    let long = "a".repeat(10_000);
    let names = [
        "x",
        "other-job-abcde",
        "test-job",
        "test-job-",
        "test-job-..%2f..",
        "test-job-A",
        "test-job-a%20b",
        &long,
    ];
    for name in names {
        let response = app
            .get(&format!("/scopes/acme/executions/{name}"))
            .send()
            .await
            .unwrap();
        problem(response, "execution-not-found").await;
    }
    assert_eq!(app.calls(Operation::Any), 0);
}

#[tokio::test]
async fn an_execution_without_a_scope_is_not_found_and_not_listed() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    app.emulator
        .add_past_executions("test-job", 1, |_| Vec::new())
        .unwrap();
    let name = app.emulator.executions()[0].name.clone();
    let response = app
        .get(&format!("/scopes/acme/executions/{name}"))
        .send()
        .await
        .unwrap();
    problem(response, "execution-not-found").await;
}

#[tokio::test]
async fn an_unreachable_cloud_run_is_answered_as_upstream_unavailable() {
    let app = TestApp::with(instant_job(), |config| {
        config.cloud_run.base_url = Some("http://127.0.0.1:1".to_owned())
    })
    .await;
    let response = app.get("/scopes/acme/executions").send().await.unwrap();
    problem(response, "upstream-unavailable").await;
}

#[tokio::test]
async fn a_head_request_for_executions_is_answered_like_get_without_a_body() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    let execution = app.start("acme").await;
    let url = format!("{}{}", app.url, link(&execution, "self"));
    let response = app.http.head(url).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.text().await.unwrap(), "");
}

#[tokio::test]
async fn an_unknown_path_under_a_valid_scope_is_not_found() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    for path in [
        "/scopes/acme/executions/x/unknown",
        "/scopes/acme/executions/",
        "/scopes/acme/x",
    ] {
        problem(app.get(path).send().await.unwrap(), "not-found").await;
    }
    problem(
        app.get("/scopes/a/b/executions").send().await.unwrap(),
        "invalid-scope",
    )
    .await;
    assert_eq!(app.calls(Operation::Any), 0);
}
