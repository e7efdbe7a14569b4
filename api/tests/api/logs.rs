//! `GET …/logs`.

use emulator::{Job, Operation};
use serde_json::Value;

use crate::helpers::{JOB, TestApp, json, link, problem};

/// A job that prints so many numbered lines, each this long.
async fn printing(lines: u32, bytes: u32) -> (TestApp, Value) {
    let script = format!("seq 1 {lines} | while read n; do printf '%0{bytes}d\\n' $n; done");
    let app = TestApp::with(Job::new(JOB, ["sh", "-c", &script]), |_| {}).await;
    let execution = app.start("acme").await;
    app.until(&execution, "succeeded").await;
    (app, execution)
}

#[tokio::test]
async fn lines_have_a_time_a_severity_and_a_task() {
    let script =
        r#"echo plain; echo '{"severity":"ERROR","message":"structured"}'; echo to stderr >&2"#;
    let app = TestApp::with(Job::new(JOB, ["sh", "-c", script]), |_| {}).await;
    let execution = app.start("acme").await;
    app.until(&execution, "succeeded").await;
    let answer = json(app.get(link(&execution, "logs"))).await;
    let lines = answer["lines"].as_array().unwrap();
    let find = |text: &str| lines.iter().find(|line| line["text"] == text).unwrap();
    assert_eq!(find("structured")["severity"], "ERROR");
    assert_eq!(find("plain")["task"], 0);
    assert!(find("to stderr")["time"].as_str().unwrap().ends_with('Z'));
}

#[tokio::test]
async fn pages_of_lines_are_in_order_and_whole() {
    let (app, execution) = printing(2500, 5).await;
    let (mut texts, mut path) = (Vec::new(), link(&execution, "logs").to_owned());
    loop {
        let answer = json(app.get(&path)).await;
        let lines = answer["lines"].as_array().unwrap().iter();
        texts.extend(lines.map(|line| line["text"].as_str().unwrap().parse::<u32>().unwrap()));
        let Some(page) = answer["nextPage"].as_str() else {
            break;
        };
        path = format!("{}?page={page}", link(&execution, "logs"));
    }
    assert_eq!(texts, (1..=2500).collect::<Vec<_>>());
}

#[tokio::test]
async fn text_is_the_lines_alone() {
    let (app, execution) = printing(3, 2).await;
    let response = app
        .get(link(&execution, "logs"))
        .header("accept", "text/plain")
        .send()
        .await
        .unwrap();
    assert_eq!(
        response.headers()["content-type"],
        "text/plain; charset=utf-8"
    );
    assert_eq!(response.text().await.unwrap(), "01\n02\n03\n");
}

#[tokio::test]
async fn lines_too_large_for_one_answer_come_in_smaller_pages() {
    let (app, execution) = printing(200, 60_000).await;
    let answer = json(app.get(link(&execution, "logs"))).await;
    assert_eq!(answer["lines"].as_array().map(Vec::len), Some(100));
    assert!(answer["nextPage"].is_string());
}

#[tokio::test]
async fn bad_pages_never_reach_the_upstream() {
    let (app, execution) = printing(1, 1).await;
    let before = app.calls(Operation::Any);
    for query in [
        "page=",
        "page=x",
        "page=00",
        "page=%00%ff",
        "cursor=a",
        "page=a&page=b",
    ] {
        let response = app
            .get(&format!("{}?{query}", link(&execution, "logs")))
            .send()
            .await
            .unwrap();
        problem(response, "malformed-request").await;
    }
    assert_eq!(app.calls(Operation::Any), before);
}

#[tokio::test]
async fn an_unknown_field_of_a_query_is_answered_with_those_that_are_known() {
    let (app, execution) = printing(1, 1).await;
    let list = "/scopes/acme/executions";
    for (path, fields) in [(link(&execution, "logs"), "page"), (list, "limit, page")] {
        let asked = app.get(&format!("{path}?cursor=a")).send().await.unwrap();
        let told = problem(asked, "malformed-request").await;
        let detail = told["detail"].as_str().unwrap();
        assert!(
            detail.ends_with(&format!("Fields of this query: {fields}.")),
            "{detail}"
        );
    }
}

#[tokio::test]
async fn another_scopes_lines_are_not_to_be_had() {
    let (app, execution) = printing(1, 1).await;
    let path = link(&execution, "logs").replace("acme", "globex");
    problem(app.get(&path).send().await.unwrap(), "execution-not-found").await;
    assert_eq!(app.calls(Operation::Logs), 0);
}
