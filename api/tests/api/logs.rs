//! `GET …/logs`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use emulator::{Fault, FaultBody, Job, Operation, Rule};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::auth;
use crate::helpers::{self, JOB, PATIENCE, TestApp, link, problem};

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
    let answer = helpers::json(app.get(link(&execution, "logs"))).await;
    let lines = answer["lines"].as_array().unwrap();
    let find = |text: &str| lines.iter().find(|line| line["text"] == text).unwrap();
    assert_eq!(find("structured")["severity"], "ERROR");
    assert_eq!(find("plain")["task"], 0);
    assert!(find("to stderr")["time"].as_str().unwrap().ends_with('Z'));
}

#[tokio::test]
async fn the_message_of_usual_loggers_is_the_text() {
    let script = r#"echo '{"level":30,"msg":"of pino"}'; echo '{"event":"of structlog","level":"info"}'; echo '{"level":30}'"#;
    let app = TestApp::with(Job::new(JOB, ["sh", "-c", script]), |_| {}).await;
    let execution = app.start("acme").await;
    app.until(&execution, "succeeded").await;
    let answer = helpers::json(app.get(link(&execution, "logs"))).await;
    let lines = answer["lines"].as_array().unwrap().iter();
    let texts: Vec<_> = lines.map(|line| line["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["of pino", "of structlog", r#"{"level":30}"#]);
}

#[tokio::test]
async fn an_entry_without_text_or_labels_is_a_line_all_the_same() {
    let (app, execution) = printing(1, 2).await;
    let entries = json!({ "entries": [
        { "timestamp": "2026-01-01T00:00:00Z", "protoPayload": { "methodName": "/Jobs.RunJob" } },
        { "timestamp": "2026-01-01T00:00:01Z", "textPayload": "a", "labels": null },
    ] });
    let answer = Fault::answer(200, FaultBody::Text(entries.to_string()));
    let rule = Rule::new(Operation::Logs, answer);
    app.emulator.faults().add(rule);
    let answer = helpers::json(app.get(link(&execution, "logs"))).await;
    assert_eq!(
        answer["lines"][0]["text"],
        r#"{"methodName":"/Jobs.RunJob"}"#
    );
    assert_eq!(answer["lines"][1]["text"], "a");
}

#[tokio::test]
async fn pages_of_lines_are_in_order_and_whole() {
    let (app, execution) = printing(2500, 5).await;
    let (mut texts, mut path) = (Vec::new(), link(&execution, "logs").to_owned());
    loop {
        let answer = helpers::json(app.get(&path)).await;
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
async fn plain_text_has_only_the_lines() {
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
async fn text_or_json_follows_the_accept_header() {
    let (app, execution) = printing(1, 2).await;
    for (accept, expected) in [
        ("Text/Plain", "text/plain"),
        (
            "text/plain;q=0.4, application/json;q=0.5",
            "application/json",
        ),
        ("application/json;q=0.4, text/plain", "text/plain"),
        ("application/json, text/plain, */*", "application/json"),
        ("text/plain, application/json", "text/plain"),
        ("text/plain;q=0", "application/json"),
        ("text/html", "application/json"),
        ("text/*", "text/plain"),
        ("text/*, */*;q=0.1", "text/plain"),
        ("*/*", "application/json"),
        ("*/*, text/plain", "text/plain"),
        ("text/plain;q=0.5, */*", "application/json"),
        ("text/plain;Q=0.5, application/json", "application/json"),
        ("text/html, */*;q=0.8", "application/json"),
    ] {
        let request = app.get(link(&execution, "logs")).header("accept", accept);
        let response = request.send().await.unwrap();
        let kind = response.headers()["content-type"].to_str().unwrap();
        assert!(kind.starts_with(expected), "{accept}: {kind}");
    }
}

#[tokio::test]
async fn a_page_has_a_mebibyte_of_lines_at_most_and_its_size_is_found_once() {
    let (app, execution) = printing(300, 7_500).await;
    let (mut pages, mut lines, mut path) = (0, 0, link(&execution, "logs").to_owned());
    loop {
        let answer = app.get(&path).send().await.unwrap();
        assert!(answer.content_length().unwrap() < 1_200_000);
        let answer: Value = answer.json().await.unwrap();
        lines += answer["lines"].as_array().unwrap().len();
        pages += 1;
        let Some(page) = answer["nextPage"].as_str() else {
            break;
        };
        path = format!("{}?page={page}", link(&execution, "logs"));
    }
    assert_eq!((pages, lines), (3, 300));
    assert_eq!(
        app.calls(Operation::Logs),
        pages + 1,
        "one page was too large"
    );

    let (app, execution) = printing(20, 200_000).await;
    let answer = helpers::json(app.get(link(&execution, "logs"))).await;
    assert_eq!(answer["lines"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn an_expired_page_is_a_malformed_request() {
    let (app, execution) = printing(1001, 5).await;
    let refused = Fault::status(400);
    let answer = helpers::json(app.get(link(&execution, "logs"))).await;
    let page = answer["nextPage"].as_str().unwrap();
    app.emulator
        .faults()
        .add(Rule::new(Operation::Logs, refused.clone()));
    let again = app.get(&format!("{}?page={page}", link(&execution, "logs")));
    problem(again.send().await.unwrap(), "malformed-request").await;
    // Without a page there is no token that could be wrong.
    let first = app.get(link(&execution, "logs")).send().await.unwrap();
    problem(first, "upstream-rejected").await;

    app.emulator
        .add_past_executions(JOB, 350, |_| vec![("SCOPE".to_owned(), "acme".to_owned())])
        .unwrap();
    let mut page = String::new();
    for _ in 0..11 {
        let answer =
            helpers::json(app.get(&format!("/scopes/acme/executions?limit=30{page}"))).await;
        page = format!("&page={}", answer["nextPage"].as_str().unwrap());
    }
    app.emulator
        .faults()
        .add(Rule::new(Operation::List, refused));
    let again = app.get(&format!("/scopes/acme/executions?limit=30{page}"));
    problem(again.send().await.unwrap(), "malformed-request").await;
}

#[tokio::test]
async fn callers_share_the_log_budget_and_a_single_one_may_use_all_of_it() {
    let grant = |subject: &str| json!({ "claim": "sub", "value": subject, "scopes": ["*"], "operations": ["start", "read"] });
    let grants = json!([grant("greedy"), grant("modest")]);
    let (app, _issuer) = auth::spawn(grants).await;
    let start = app
        .post("/scopes/acme/process")
        .bearer_auth(auth::token("greedy"));
    let execution = helpers::json(start).await;
    let logs = |caller: &str| {
        app.get(link(&execution, "logs"))
            .bearer_auth(auth::token(caller))
    };
    // First the saved reads are used: five for requests, of fifty a minute.
    let mut served = 0;
    let alone = Instant::now();
    while served < 5 {
        served += u32::from(logs("greedy").send().await.unwrap().status() == 200);
    }
    assert!(alone.elapsed() < PATIENCE);
    let stop = AtomicBool::new(false);
    let greedy = join_all((0..8).map(async |_| {
        while !stop.load(Ordering::Relaxed) {
            let answer = logs("greedy").send().await.unwrap();
            if answer.status() != 200 {
                let wait = &answer.headers()["retry-after"];
                assert!(wait.to_str().unwrap().parse::<u64>().unwrap() >= 1);
                problem(answer, "rate-limited").await;
            }
        }
    }));
    let modest = async {
        for _ in 0..5 {
            let answer = logs("modest").send().await.unwrap();
            assert_eq!(answer.status(), 200, "the other caller blocked it");
        }
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(greedy, modest);
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
async fn an_unknown_query_field_is_refused_with_the_known_ones() {
    let (app, execution) = printing(1, 1).await;
    let list = "/scopes/acme/executions";
    for (path, fields) in [
        (link(&execution, "logs"), "page"),
        (list, "limit, page, process, state"),
    ] {
        let asked = app.get(&format!("{path}?cursor=a")).send().await.unwrap();
        let refused = problem(asked, "malformed-request").await;
        let detail = refused["detail"].as_str().unwrap();
        assert!(
            detail.ends_with(&format!("The fields of this query are: {fields}.")),
            "{detail}"
        );
    }
}

#[tokio::test]
async fn lines_of_another_scope_cannot_be_read() {
    let (app, execution) = printing(1, 1).await;
    let path = link(&execution, "logs").replace("acme", "globex");
    problem(app.get(&path).send().await.unwrap(), "execution-not-found").await;
    assert_eq!(app.calls(Operation::Logs), 0);
}
