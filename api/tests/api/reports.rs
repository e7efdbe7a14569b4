//! Progress and results that a job reports, and starts that wait for the end.

use std::time::{Duration, Instant};

use emulator::{Fault, Job, Operation, Rule};
use serde_json::{Value, json};

use crate::events::{Event, Events, check, texts};
use crate::helpers::{self, JOB, TestApp, eventually, instant_job, link, problem, real_job};

/// A job that runs this script in so many tasks.
async fn script(script: &str, tasks: u32) -> (TestApp, Value) {
    let job = Job {
        task_count: tasks,
        ..Job::new(JOB, ["sh", "-c", script])
    };
    let app = TestApp::with(job, |config| config.limits.log_reads_per_minute = 6_000).await;
    let execution = app.start("acme").await;
    (app, execution)
}

fn progress(events: &[Event]) -> Vec<&Value> {
    let events = events.iter().filter(|event| event.kind == "progress");
    events.map(|event| &event.data).collect()
}

#[tokio::test]
async fn the_sample_job_reports_progress_and_a_result() {
    let app = TestApp::with(real_job(), |config| {
        let env = &mut config.overrides.env;
        env.insert("SLEEP_SECONDS".to_owned(), "4".into());
        env.insert("PROGRESS".to_owned(), "1".into());
    })
    .await;
    let execution = app.start("acme").await;
    let mut stream = Events::open(&app, &execution).await;
    let mut seen = None;
    while seen.is_none() {
        let event = stream.next().await.unwrap();
        seen = (event.kind == "progress").then_some(event.data);
    }
    let seen = seen.unwrap();
    assert_eq!(seen["total"], 4);
    assert!(seen["message"].is_string(), "{seen}");
    // A read of the execution has the progress while it is watched.
    for shown in [
        app.show(&execution).await,
        helpers::json(app.get("/scopes/acme/executions")).await["executions"][0].clone(),
    ] {
        assert!(
            shown["progress"]["done"].as_u64() >= seen["done"].as_u64(),
            "{shown}"
        );
    }
    let events = stream.rest().await;
    let end = &events.last().unwrap().data;
    assert_eq!(end["progress"]["done"], 4);
    assert_eq!(end["results"][0]["task"], 0);
    assert_eq!(end["results"][0]["value"], json!({ "seconds": 4 }));
    let answer = helpers::json(app.get(&format!("{}/result", link(&execution, "self")))).await;
    assert_eq!(answer["results"], end["results"]);
    drop(stream);
    let shown = app.show(&execution).await;
    assert_eq!(shown["progress"], Value::Null, "it is not watched any more");
}

#[tokio::test]
async fn the_progress_of_several_tasks_is_added_and_each_has_a_result() {
    let (app, execution) = script(
        r#"i=$CLOUD_RUN_TASK_INDEX
           echo '{"message":"begins","processProgress":{"done":1,"total":10}}'
           echo '{"message":"ends","processProgress":{"done":10,"total":10},"processResult":"early"}'
           echo "{\"processResult\":{\"of\":$i}}""#,
        3,
    )
    .await;
    app.until(&execution, "succeeded").await;
    let events = Events::open(&app, &execution).await.rest().await;
    check(&events, "succeeded");
    let reported = progress(&events);
    let last = reported.last().unwrap();
    assert_eq!((&last["done"], &last["total"]), (&json!(30), &json!(30)));
    let path = format!("{}/result", link(&execution, "self"));
    let answer = helpers::json(app.get(&path)).await;
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 3);
    for (task, result) in results.iter().enumerate() {
        assert_eq!(result["task"], task);
        assert_eq!(
            result["value"],
            json!({ "of": task }),
            "the last of the task"
        );
        assert!(result["time"].as_str().unwrap().ends_with('Z'));
    }
    assert_eq!(events.last().unwrap().data["results"], answer["results"]);
    // The structured lines are lines as well.
    let lines = texts(&events);
    assert_eq!(lines.iter().filter(|line| *line == "begins").count(), 3);
}

#[tokio::test]
async fn without_a_result_the_answer_is_404_and_malformed_reports_stay_lines() {
    let (app, execution) = script(
        r#"echo '{"message":"a","processProgress":{"done":"x"}}'; echo '{"message":"b","processProgress":7}'
           printf '{"message":"c","processResult":"%020000d"}\n' 0"#,
        1,
    )
    .await;
    app.until(&execution, "succeeded").await;
    let events = Events::open(&app, &execution).await.rest().await;
    check(&events, "succeeded");
    assert_eq!(texts(&events), ["a", "b", "c"]);
    assert!(progress(&events).is_empty());
    let end = &events.last().unwrap().data;
    assert_eq!(
        (&end["results"], &end["progress"]),
        (&Value::Null, &Value::Null)
    );
    let path = format!("{}/result", link(&execution, "self"));
    let reads = app.calls(Operation::Logs);
    problem(app.get(&path).send().await.unwrap(), "result-not-found").await;
    assert_eq!(app.calls(Operation::Logs), reads + 1, "one read");
    let elsewhere = path.replace("acme", "globex");
    problem(
        app.get(&elsewhere).send().await.unwrap(),
        "execution-not-found",
    )
    .await;
    let query = app.get(&format!("{path}?page=x")).send().await.unwrap();
    problem(query, "malformed-request").await;
}

#[tokio::test]
async fn an_empty_list_is_a_result() {
    for empty in ["[]", "[[]]"] {
        let print = format!(r#"echo '{{"processResult":{empty}}}'"#);
        let (app, execution) = script(&print, 1).await;
        app.until(&execution, "succeeded").await;
        let path = format!("{}/result", link(&execution, "self"));
        let result = helpers::json(app.get(&path)).await;
        assert_eq!(result["results"][0]["value"].to_string(), empty);
    }
}

#[tokio::test]
async fn a_line_that_is_nested_very_deep_hides_no_other() {
    let nested = format!("{}{}", "[".repeat(125), "]".repeat(125));
    let line = format!(r#"{{"nested":{nested}}}"#);
    let print = format!("echo before; echo '{line}'; echo after");
    let (app, execution) = script(&print, 1).await;
    let events = Events::open(&app, &execution).await.rest().await;
    check(&events, "succeeded");
    assert_eq!(texts(&events), ["before", &line, "after"]);
    let lines = helpers::json(app.get(link(&execution, "logs"))).await;
    assert_eq!(lines["lines"][1]["text"], line);
}

#[tokio::test]
async fn a_resumed_stream_has_earlier_reports() {
    let (app, execution) = script(
        r#"echo '{"message":"half","processProgress":0.5,"processResult":{"url":"https://example.com"}}'
           echo last; sleep 3"#,
        1,
    )
    .await;
    let mut stream = Events::open(&app, &execution).await;
    stream.lines_until("last").await;
    let id = stream.last_id.clone().unwrap();
    drop(stream);
    let another = app.another(|_| {}).await;
    let events = Events::resume(&another.url, &execution, &id)
        .await
        .rest()
        .await;
    assert!(texts(&events).is_empty());
    assert_eq!(
        progress(&events),
        [&json!({ "done": 0.5, "message": "half" })]
    );
    let end = &events.last().unwrap().data;
    assert_eq!(end["results"][0]["value"]["url"], "https://example.com");
}

#[tokio::test]
async fn ten_thousand_reports_cause_few_progress_events() {
    let line = r#"{\"message\":\"page %d\",\"processProgress\":{\"done\":%d,\"total\":10000}}"#;
    let (app, execution) = script(
        &format!(r#"seq 10000 | awk '{{ printf "{line}\n", $1, $1 }}'"#),
        1,
    )
    .await;
    app.until(&execution, "succeeded").await;
    let events = Events::open(&app, &execution).await.rest().await;
    check(&events, "succeeded");
    assert_eq!(texts(&events).len(), 10_000);
    let reported = progress(&events);
    // One for each page that was read at most, and each is further than the one before.
    assert!(reported.len() <= 20, "{}", reported.len());
    let done = reported
        .iter()
        .map(|progress| progress["done"].as_u64().unwrap());
    assert!(done.is_sorted_by(|a, b| a < b));
    let end = &events.last().unwrap().data;
    let expected = json!({ "done": 10_000, "total": 10_000, "message": "page 10000" });
    assert_eq!(end["progress"], expected);
}

#[tokio::test]
async fn a_start_with_wait_is_answered_at_the_end_of_the_run_or_of_the_time() {
    let (app, _) = script("sleep 2", 1).await;
    let start = |query: &str, key: &str| {
        let path = format!("/scopes/acme/process?{query}");
        app.post(&path).header("idempotency-key", key)
    };
    let began = Instant::now();
    let answer = start("wait=1", "k1").send().await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(answer.status(), 202);
    let location = answer.headers()["location"].to_str().unwrap().to_owned();
    let early: Value = answer.json().await.unwrap();
    assert!(["pending", "running"].contains(&early["state"].as_str().unwrap()));
    assert_eq!(location, link(&early, "self"));

    // With another value of wait it is still the same request.
    let answer = start("wait=30", "k1").send().await.unwrap();
    assert_eq!(answer.status(), 202);
    assert_eq!(answer.headers()["idempotent-replayed"], "true");
    assert_eq!(answer.headers()["location"], location.as_str());
    let ended: Value = answer.json().await.unwrap();
    assert_eq!(ended["name"], early["name"]);
    assert_eq!(ended["state"], "succeeded");
    let at_once = Instant::now();
    let answer: Value = start("", "k1").send().await.unwrap().json().await.unwrap();
    assert_eq!(answer["name"], early["name"]);
    assert!(at_once.elapsed() < Duration::from_secs(2));

    let runs = app.counters().runs;
    for wait in ["0", "61", "x", "", "-1", "1&wait=2"] {
        let refused = start(&format!("wait={wait}"), "k2").send().await.unwrap();
        problem(refused, "malformed-request").await;
    }
    assert_eq!(app.counters().runs, runs);
}

#[tokio::test]
async fn a_client_that_disconnects_while_it_waits_does_not_stop_its_execution() {
    let (app, _) = script("sleep 2", 1).await;
    let waiting = tokio::spawn(
        app.post("/scopes/acme/process?wait=60")
            .header("idempotency-key", "left")
            .send(),
    );
    eventually(|| app.counters().runs == 2).await;
    waiting.abort();
    let again = app.post("/scopes/acme/process?wait=60");
    let ended = helpers::json(again.header("idempotency-key", "left")).await;
    assert_eq!(ended["state"], "succeeded");
    assert_eq!(app.counters().runs, 2);
}

#[tokio::test]
async fn a_start_with_wait_is_a_success_even_if_the_execution_cannot_be_read() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    let fault = Fault::status(500);
    app.emulator.faults().add(Rule::new(Operation::Get, fault));
    let answer = app
        .post("/scopes/acme/process?wait=2")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 202);
    assert!(answer.headers().contains_key("location"));
}

#[tokio::test]
async fn starts_with_wait_do_not_count_as_in_flight() {
    let app = TestApp::with(Job::new(JOB, ["sh", "-c", "exec sleep 60"]), |config| {
        config.limits.in_flight = 2;
    })
    .await;
    let waiting: Vec<_> = (0..4)
        .map(|_| tokio::spawn(app.post("/scopes/acme/process?wait=60").send()))
        .collect();
    eventually(|| app.counters().runs == 4).await;
    let list = app.get("/scopes/acme/executions").send().await.unwrap();
    assert_eq!(list.status(), 200);
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}
