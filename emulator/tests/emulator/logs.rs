use emulator::{Fault, Operation, Rule};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::helpers::{World, shell};

async fn list(world: &World, body: Value) -> Value {
    let (status, answer) = world.post("/v2/entries:list", body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

fn texts(answer: &Value) -> Vec<&str> {
    let entries = answer["entries"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    entries
        .iter()
        .map(|entry| entry["textPayload"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn lines_are_read_by_execution_in_either_order_and_in_pages() {
    let world = World::of(shell("for i in 1 2 3 4 5; do echo line $i; done")).await;
    let (name, other) = (world.run(json!({})).await, world.run(json!({})).await);
    world.finished(&name).await;
    world.finished(&other).await;
    // The filter that gcloud sends.
    let filter = format!(
        "resource.type = cloud_run_job AND labels.\"run.googleapis.com/execution_name\" = {name} AND \
         resource.labels.location = us-east4 AND severity >= DEFAULT AND timestamp>=\"2020-01-01T00:00:00.000000Z\""
    );
    for (order, expected) in [
        ("timestamp asc", ["1", "2", "3", "4", "5"]),
        ("timestamp desc", ["5", "4", "3", "2", "1"]),
    ] {
        let mut found = Vec::new();
        let mut token = json!("");
        while !token.is_null() {
            let body = json!({ "resourceNames": ["projects/demo"], "filter": filter, "orderBy": order, "pageSize": 2, "pageToken": token });
            let page = list(&world, body).await;
            found.extend(texts(&page).into_iter().map(str::to_owned));
            token = page["nextPageToken"].clone();
        }
        assert_eq!(
            found,
            expected.map(|number| format!("line {number}")),
            "{order}"
        );
    }
    let everything = list(&world, json!({ "resourceNames": ["projects/demo"] })).await;
    assert_eq!(texts(&everything).len(), 10);
}

#[tokio::test]
async fn an_entry_has_the_fields_of_a_log_entry_of_google() {
    let world = World::of(shell("echo plain; echo '{\"severity\":\"warning\",\"message\":\"m\",\"n\":1,\"logging.googleapis.com/trace\":\"t\",\"logging.googleapis.com/labels\":{\"a\":\"b\",\"run.googleapis.com/execution_name\":\"x\"}}' >&2")).await;
    let name = world.run(json!({})).await;
    world.finished(&name).await;
    let all = list(&world, json!({ "resourceNames": ["projects/demo"] })).await;
    let entries = all["entries"].as_array().unwrap();
    let plain = entries
        .iter()
        .find(|entry| entry["textPayload"] == "plain")
        .unwrap();
    assert_eq!(
        plain["logName"],
        "projects/demo/logs/run.googleapis.com%2Fstdout"
    );
    let labels = json!({ "project_id": "demo", "location": "us-east4", "job_name": "sh" });
    assert_eq!(
        plain["resource"],
        json!({ "type": "cloud_run_job", "labels": labels })
    );
    assert_eq!(
        plain["labels"]["run.googleapis.com/execution_name"],
        json!(name)
    );
    assert_eq!(plain["labels"]["run.googleapis.com/task_index"], "0");
    assert_eq!(plain.get("severity"), None);
    assert_eq!(
        plain["timestamp"].as_str().unwrap().len(),
        "2026-01-02T03:04:05.123456789Z".len()
    );

    let warnings = list(
        &world,
        json!({ "resourceNames": ["projects/demo"], "filter": "severity>=WARNING labels.a=b" }),
    )
    .await;
    let [structured] = &warnings["entries"].as_array().unwrap()[..] else {
        panic!("one entry: {warnings}")
    };
    assert_eq!(structured["severity"], "WARNING");
    assert_eq!(structured["jsonPayload"], json!({ "message": "m", "n": 1 }));
    assert_eq!(
        (&structured["trace"], &structured["labels"]["a"]),
        (&json!("t"), &json!("b"))
    );
    assert_eq!(
        structured["labels"]["run.googleapis.com/execution_name"],
        json!(name)
    );
    assert!(structured["logName"].as_str().unwrap().ends_with("stderr"));
    assert_ne!(structured["insertId"], plain["insertId"]);
}

#[tokio::test]
async fn a_reader_can_continue_after_the_last_entry_it_has_seen() {
    let world = World::of(shell("echo 1; echo 2; echo 3")).await;
    let name = world.run(json!({})).await;
    world.finished(&name).await;
    let all = list(&world, json!({ "resourceNames": ["projects/demo"] })).await;
    let seen = all["entries"][0]["timestamp"].as_str().unwrap();
    let filter = format!("timestamp > \"{seen}\"");
    let rest = list(
        &world,
        json!({ "resourceNames": ["projects/demo"], "filter": filter }),
    )
    .await;
    assert_eq!(texts(&rest), ["2", "3"]);
    let filter = format!(
        "insertId != \"{}\" AND timestamp >= \"{seen}\" AND textPayload:3",
        all["entries"][0]["insertId"].as_str().unwrap()
    );
    let rest = list(
        &world,
        json!({ "resourceNames": ["projects/demo"], "filter": filter }),
    )
    .await;
    assert_eq!(texts(&rest), ["3"]);
}

#[tokio::test]
async fn invalid_utf_8_is_replaced_and_long_lines_are_split() {
    let world = World::of(shell(
        "printf 'a\\377b\\n'; head -c 600000 /dev/zero | tr '\\0' x; echo; printf 'no newline'",
    ))
    .await;
    let name = world.run(json!({})).await;
    world.finished(&name).await;
    let lines = world.lines(&name).await;
    assert_eq!(lines[0], "a\u{fffd}b");
    assert_eq!(lines.last().unwrap(), "no newline");
    let long = &lines[1..lines.len() - 1];
    assert_eq!(long.iter().map(String::len).sum::<usize>(), 600_000);
    assert!(long.len() == 3 && long.iter().all(|line| line.len() <= 256 * 1024));
}

#[tokio::test]
async fn an_unsupported_list_request_is_refused() {
    let world = World::of(shell("true")).await;
    for body in [
        json!({}),
        json!({ "resourceNames": ["projects/demo"], "filter": "severity = LOUD OR severity = INFO" }),
        json!({ "resourceNames": ["projects/demo"], "filter": " ".repeat(20_001) }),
        json!({ "resourceNames": ["projects/demo"], "orderBy": "severity" }),
        json!({ "resourceNames": ["projects/demo"], "pageSize": 1001 }),
        json!({ "resourceNames": ["projects/demo"], "pageToken": "nonsense" }),
        json!({ "resourceNames": ["projects/demo"], "filters": "severity = INFO" }),
        json!([["projects/demo"]]),
    ] {
        let (status, refusal) = world.post("/v2/entries:list", body.clone()).await;
        assert_eq!(
            (status, &refusal["error"]["status"]),
            (StatusCode::BAD_REQUEST, &json!("INVALID_ARGUMENT")),
            "{body}"
        );
    }
    let (status, _) = world
        .post(
            "/v2/entries:list",
            json!({ "resourceNames": ["projects/other"] }),
        )
        .await;
    assert_eq!(status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn filters_select_the_entries_that_google_would_select() {
    let world = World::of(shell(
        "echo Hello 1; echo hello 2; echo '{\"message\":\"three\",\"n\":3,\"severity\":\"ERROR\"}'; echo '{\"message\":\"four\",\"n\":4}'",
    ))
    .await;
    let name = world.run(json!({})).await;
    world.finished(&name).await;
    for (filter, expected) in [
        ("labels.foo!=\"x\"", 0),
        ("textPayload!=\"\"", 2),
        ("textPayload:*", 2),
        ("labels.\"run.googleapis.com/task_index\":*", 4),
        ("resource.type=\"CLOUD_RUN_JOB\"", 4),
        ("textPayload=\"HELLO 1\"", 1),
        ("textPayload=~\"^hello \\d$\"", 1),
        ("jsonPayload.n>3 OR severity=ERROR", 2),
        ("NOT (textPayload:hello OR jsonPayload.message=four)", 1),
        (
            "timestamp>=\"2020-01-01\" -logName:\"cloudaudit.googleapis.com\"",
            4,
        ),
        ("timestamp<\"2020-01-01\"", 0),
        (
            "log_id(\"run.googleapis.com/stdout\") -- only this stream",
            4,
        ),
        ("\"three\"", 1),
    ] {
        for order in ["timestamp asc", "timestamp desc"] {
            let body =
                json!({ "resourceNames": ["projects/demo"], "filter": filter, "orderBy": order });
            let answer = list(&world, body).await;
            let found = answer["entries"].as_array().map_or(0, Vec::len);
            assert_eq!(found, expected, "{filter} {order}");
        }
    }
}

#[tokio::test]
async fn pages_miss_and_repeat_no_entry_in_either_order() {
    let world = World::of(shell("echo 1; echo 2; echo 3")).await;
    let names = [world.run(json!({})).await, world.run(json!({})).await];
    for name in &names {
        world.finished(name).await;
    }
    let mut oldest_first = pages(&world, "timestamp asc", "").await;
    assert_eq!(oldest_first.len(), 6);
    let bound = oldest_first[2].clone();
    let since = format!("timestamp>=\"{bound}\"");
    assert_eq!(
        pages(&world, "timestamp asc", &since).await,
        oldest_first[2..]
    );
    let mut newest_first = pages(&world, "timestamp desc", &since).await;
    newest_first.reverse();
    assert_eq!(newest_first, oldest_first[2..]);
    oldest_first.sort();
    oldest_first.dedup();
    assert_eq!(oldest_first.len(), 6);
    // A page token that lies before the filter's bound.
    let body = json!({ "resourceNames": ["projects/demo"], "filter": since, "orderBy": "timestamp desc", "pageToken": "1000" });
    assert_eq!(list(&world, body).await, json!({}));
}

/// The times of all entries, read in pages of one entry.
async fn pages(world: &World, order: &str, filter: &str) -> Vec<String> {
    let (mut times, mut token) = (Vec::new(), json!(""));
    while !token.is_null() {
        let body = json!({ "resourceNames": ["projects/demo"], "filter": filter, "orderBy": order, "pageSize": 1, "pageToken": token });
        let page = list(world, body).await;
        let entries = page["entries"].as_array().unwrap();
        times.extend(
            entries
                .iter()
                .map(|entry| entry["timestamp"].as_str().unwrap().to_owned()),
        );
        token = page["nextPageToken"].clone();
    }
    times
}

#[tokio::test]
async fn an_invisible_fault_hides_lines_until_they_are_old_enough() {
    let world = World::of(shell("echo early; sleep 1; echo late")).await;
    let name = world.run(json!({})).await;
    world.finished(&name).await;
    let late = Fault::Invisible { ms: 700 };
    let faults = world.emulator.faults();
    faults.add(Rule::new(Operation::Logs, late));
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let answer = list(&world, json!({ "resourceNames": ["projects/demo"] })).await;
        let now = texts(&answer).into_iter().map(str::to_owned).collect();
        if seen != now {
            seen = now;
            let expected = ["early", "late"];
            assert_eq!(seen, expected[..seen.len()]);
        }
    }
    let answer = world.post(
        "/v2/entries:list",
        json!({ "resourceNames": ["projects/demo"] }),
    );
    let newest = answer.await.1["entries"][1]["timestamp"].clone();
    let newest: jiff::Timestamp = newest.as_str().unwrap().parse().unwrap();
    let age = jiff::Timestamp::now().duration_since(newest);
    assert!(age >= jiff::SignedDuration::from_millis(700), "{age}");
}
