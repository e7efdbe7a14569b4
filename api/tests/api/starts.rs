//! Each way in which a start can fail, caused by the emulator: no key starts two executions, and no start is lost.

use std::time::{Duration, Instant};

use emulator::{Fault, FaultBody, Operation, Rule};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::helpers::{TestApp, eventually, instant_job, link, problem, real_job};
use crate::store::{Fate, Way};

/// The service with deadlines that are short enough for a test.
async fn app() -> TestApp {
    TestApp::with(instant_job(), |config| {
        config.start.deadline_seconds = 5;
        config.start.quiet_seconds = 2;
    })
    .await
}

fn retry_after(code: u16, seconds: &str) -> Fault {
    let headers = [("retry-after".to_owned(), seconds.to_owned())].into();
    Fault::Status {
        code,
        headers,
        body: FaultBody::Google,
    }
}

fn html(code: u16) -> Fault {
    Fault::answer(code, FaultBody::Html)
}

fn run(fault: Fault) -> Rule {
    Rule::new(Operation::Run, fault)
}

#[tokio::test]
async fn a_repeated_key_names_the_same_execution() {
    let app = app().await;
    let first = app.accepted("k").await;
    for key in ["k", "\"k\""] {
        let again = app.keyed(key).await;
        assert_eq!(
            (
                again.status().as_u16(),
                &again.headers()["idempotent-replayed"]
            ),
            (202, &"true".parse().unwrap())
        );
        assert_eq!(
            again.headers()["location"].to_str().unwrap(),
            link(&first, "self")
        );
        assert_eq!(again.json::<Value>().await.unwrap()["name"], first["name"]);
    }
    assert_eq!(app.runs(), (1, 1));
    assert_ne!(app.accepted("l").await["name"], first["name"]);
}

#[tokio::test]
async fn without_a_key_a_start_is_one_call_and_each_request_a_start() {
    let app = app().await;
    assert_ne!(
        app.start("acme").await["name"],
        app.start("acme").await["name"]
    );
    assert_eq!((app.runs(), app.calls(Operation::List)), ((2, 2), 0));
}

#[tokio::test]
async fn a_key_belongs_to_one_caller_scope_and_request() {
    let app = TestApp::with(instant_job(), |config| {
        let declared = json!({ "a": { "type": "integer" }, "b": { "type": "string" } });
        config.parameters = declared.as_object().unwrap().clone();
    })
    .await;
    let send = |scope: &str, query: &str, body: &str| {
        let request = app
            .post(&format!("/scopes/{scope}/process{query}"))
            .header("idempotency-key", "k");
        request
            .header("content-type", "application/json")
            .body(body.to_owned())
            .send()
    };
    let first: Value = send("acme", "", r#"{"a":1,"b":"x"}"#)
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let same = send("acme", "", " { \"b\" : \"x\",\n\"a\":1 } ")
        .await
        .unwrap();
    assert_eq!(same.headers()["idempotent-replayed"], "true");
    assert_eq!(same.json::<Value>().await.unwrap()["name"], first["name"]);
    for (query, body) in [
        ("", r#"{"a":2,"b":"x"}"#),
        ("", "{}"),
        ("?on_running=join", r#"{"a":1,"b":"x"}"#),
    ] {
        problem(
            send("acme", query, body).await.unwrap(),
            "idempotency-key-reused",
        )
        .await;
    }
    let other: Value = send("globex", "", r#"{"a":2}"#)
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(other["scope"], "globex");
    assert_eq!(app.runs(), (2, 2));
}

#[tokio::test]
async fn an_invalid_idempotency_key_is_refused() {
    let app = app().await;
    let data: Value = serde_json::from_str(include_str!("../data/nasty-inputs.json")).unwrap();
    let mut accepted = std::collections::HashSet::new();
    for item in data["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|item| item["group"] == "idem")
    {
        let value = item["header_values"][0].as_str().unwrap();
        let value = reqwest::header::HeaderValue::from_bytes(value.as_bytes()).unwrap();
        let response = app
            .post("/scopes/acme/process")
            .header("idempotency-key", value)
            .send()
            .await
            .unwrap();
        let status = response.status().as_u16();
        assert!(
            item["status"].as_array().unwrap().contains(&status.into()),
            "{item}: {status}"
        );
        match status {
            202 => {
                accepted.insert(response.json::<Value>().await.unwrap()["name"].to_string());
            }
            _ => drop(problem(response, "idempotency-key-invalid").await),
        }
    }
    let twice = app
        .post("/scopes/acme/process")
        .header("idempotency-key", "a")
        .header("idempotency-key", "b");
    problem(twice.send().await.unwrap(), "idempotency-key-invalid").await;
    assert_eq!(
        app.counters().runs,
        accepted.len() as u64,
        "a quoted key and a bare one are the same"
    );
}

#[tokio::test]
async fn a_key_can_be_used_again_after_a_refused_request() {
    for (code, slug) in [
        (400, "upstream-rejected"),
        (403, "upstream-misconfigured"),
        (404, "upstream-misconfigured"),
    ] {
        let app = app().await;
        app.emulator.faults().add(run(Fault::status(code)));
        problem(app.keyed("k").await, slug).await;
        assert_eq!(app.runs(), (1, 0));
        app.emulator.faults().clear();
        app.accepted("k").await;
        assert_eq!(app.runs(), (2, 1));
    }
}

#[tokio::test]
async fn a_key_still_names_an_execution_that_failed() {
    let app = TestApp::with(real_job(), |config| {
        config
            .overrides
            .env
            .insert("FAIL_WITH".to_owned(), "1".into());
    })
    .await;
    let first = app.accepted("k").await;
    app.until(&first, "failed").await;
    let again = app.accepted("k").await;
    assert_eq!(
        (&again["name"], &again["state"]),
        (&first["name"], &json!("failed"))
    );
}

#[tokio::test]
async fn a_start_is_sent_again_with_the_same_id_if_the_list_stays_empty_after_an_error() {
    let outcomes =
        [Fault::status(500), Fault::status(503), html(502), html(504)].map(async |fault| {
            let app = TestApp::with(instant_job(), |_| {}).await;
            app.emulator.faults().add(run(fault).first(1));
            let execution = app.accepted("k").await;
            assert_eq!(app.runs(), (2, 1));
            let arrivals = app.counters().arrivals;
            let calls: Vec<_> = arrivals
                .iter()
                .filter(|call| matches!(call.operation, Operation::Run | Operation::List))
                .collect();
            let runs: Vec<_> = calls
                .iter()
                .enumerate()
                .filter(|(_, call)| call.operation == Operation::Run)
                .collect();
            assert!(
                runs[1].0 > runs[0].0 + 3,
                "looked in the list in between: {calls:?}"
            );
            assert!(
                runs[1].1.at - runs[0].1.at >= Duration::from_secs(5),
                "the list was watched for long enough: {calls:?}"
            );
            assert!(
                runs.iter()
                    .all(|(_, call)| call.invocation.as_deref()
                        == execution["invocationId"].as_str())
            );
        });
    join_all(outcomes).await;
}

#[tokio::test]
async fn an_execution_whose_answer_was_lost_is_found_by_its_invocation_id() {
    let lost = [
        Fault::status(500),
        Fault::status(503),
        html(502),
        html(504),
        Fault::Garbage,
        Fault::Truncated { sent: 20 },
        Fault::Reset,
        Fault::Huge { bytes: 100 << 20 },
    ];
    let cases = lost
        .into_iter()
        .flat_map(|fault| [(fault.clone(), Some("k")), (fault, None)]);
    let outcomes = cases.map(async |(fault, key)| {
        let app = app().await;
        app.emulator
            .faults()
            .add(run(fault.clone()).after().first(1));
        let execution = match key {
            Some(key) => app.accepted(key).await,
            None => app.start("acme").await,
        };
        assert_eq!(app.runs(), (1, 1), "{fault:?}");
        assert_eq!(execution["name"], app.emulator.executions()[0].name);
    });
    join_all(outcomes).await;
}

#[tokio::test]
async fn an_unanswered_start_is_not_sent_again_within_the_quiet_time() {
    for fault in [Fault::Hang, Fault::Reset] {
        let app = app().await;
        app.emulator.faults().add(run(fault).first(1));
        let sent = Instant::now();
        let body = problem(app.keyed("k").await, "start-outcome-unknown").await;
        assert!(
            sent.elapsed() < Duration::from_secs(6),
            "within the deadline"
        );
        assert_eq!((&body["retryable"], app.runs()), (&json!(true), (1, 0)));
        app.until_accepted("k").await;
        assert_eq!(app.runs(), (2, 1));
    }
}

#[tokio::test]
async fn a_repetition_within_the_quiet_time_sends_nothing() {
    let app = TestApp::with(instant_job(), |config| config.start.deadline_seconds = 3).await;
    app.emulator.faults().add(run(Fault::Reset).first(1));
    problem(app.keyed("k").await, "start-outcome-unknown").await;
    let again = app.keyed("k").await;
    let wait: u64 = again.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((20..=30).contains(&wait), "{wait}");
    problem(again, "start-outcome-unknown").await;
    assert_eq!(app.runs(), (1, 0));
}

#[tokio::test]
async fn an_execution_created_late_but_within_the_quiet_time_is_found() {
    let app = app().await;
    app.emulator
        .faults()
        .add(run(Fault::Reset).late(Duration::from_millis(1500)).first(1));
    let execution = app.until_accepted("k").await;
    assert_eq!(app.runs(), (1, 1));
    assert_eq!(execution["name"], app.emulator.executions()[0].name);
}

/// The answer is lost, and the list does not show the execution for three seconds.
#[tokio::test]
async fn an_execution_that_is_listed_late_is_found_in_time() {
    let app = app().await;
    app.emulator
        .faults()
        .add(run(Fault::Invisible { ms: 3000 }).first(1));
    let way = Way::to(&app.emulator.host()).await;
    way.fate([Fate::Passes, Fate::LostAfter], Fate::Passes); // the look-up of the key, then the start
    let service = app
        .another(|config| {
            config.cloud_run.base_url = Some(format!("http://{}", way.host));
            config.start.deadline_seconds = 2;
            config.start.quiet_seconds = 5;
        })
        .await;
    problem(service.keyed("k").await, "start-outcome-unknown").await;
    let found = service.until_accepted("k").await;
    assert_eq!(found["name"], app.emulator.executions()[0].name);
    assert_eq!(app.runs(), (1, 1));
}

#[tokio::test]
async fn a_host_name_that_does_not_resolve_starts_nothing() {
    let app = app().await;
    // RFC 2606 reserves this name, so that it never exists.
    let service = app
        .another(|config| config.cloud_run.base_url = Some("https://run.invalid".to_owned()))
        .await;
    // How soon it fails depends on the machine's resolver. The images are tested with a resolver that does not answer.
    problem(service.keyless().await, "upstream-unavailable").await;
}

#[tokio::test]
async fn without_a_connection_a_start_is_tried_three_times_and_the_list_is_not_read() {
    let app = TestApp::with(instant_job(), |config| {
        config.cloud_run.base_url = Some("http://127.0.0.1:1".to_owned())
    })
    .await;
    problem(app.keyless().await, "upstream-unavailable").await;
    assert_eq!(app.calls(Operation::List), 0);
}

#[tokio::test]
async fn a_throttled_start_is_sent_again_if_the_deadline_permits() {
    let app = app().await;
    app.emulator
        .faults()
        .add(run(retry_after(429, "1")).first(1));
    app.start("acme").await;
    let arrivals = app.counters().arrivals;
    let at: Vec<_> = arrivals
        .iter()
        .filter(|call| call.operation == Operation::Run)
        .map(|call| call.at)
        .collect();
    assert!(
        at.len() == 2 && at[1] - at[0] >= Duration::from_secs(1),
        "{at:?}"
    );

    app.emulator.faults().clear();
    app.emulator
        .faults()
        .add(run(retry_after(429, &u64::MAX.to_string())).first(1));
    let never = app.keyless().await;
    problem(never, "upstream-throttled").await;
    app.emulator.faults().clear();
    app.emulator.faults().add(run(retry_after(429, "3600")));
    let sent = Instant::now();
    let response = app.keyless().await;
    assert!(sent.elapsed() < Duration::from_secs(1));
    assert_eq!(response.headers()["retry-after"], "300");
    problem(response, "upstream-throttled").await;
}

#[tokio::test]
async fn an_answer_that_is_not_the_apis_is_an_upstream_protocol_error() {
    let redirect = |code| {
        let headers = [("location".to_owned(), "http://127.0.0.1:1/".to_owned())].into();
        Fault::Status {
            code,
            headers,
            body: FaultBody::Html,
        }
    };
    for fault in [html(200), redirect(302), redirect(307), redirect(308)] {
        let app = app().await;
        app.emulator.faults().add(run(fault));
        let body = problem(app.keyed("k").await, "upstream-protocol").await;
        assert!(!body.to_string().contains("html"), "{body}");
        assert_eq!(app.runs(), (1, 0));
    }
}

#[tokio::test]
async fn a_trickling_answer_ends_at_the_deadline() {
    let app = app().await;
    app.emulator
        .faults()
        .add(run(Fault::Drip { interval_ms: 1000 }).after().first(1));
    let sent = Instant::now();
    app.accepted("k").await; // found in the list meanwhile
    assert!(sent.elapsed() < Duration::from_secs(5));
    assert_eq!(app.runs(), (1, 1));
}

#[tokio::test]
async fn a_list_that_cannot_be_read_permits_no_second_send() {
    let app = app().await;
    app.accepted("first").await; // so that only the look-ups after the send fail
    app.emulator.faults().add(run(Fault::status(500)).after());
    for nth in 2..30 {
        app.emulator
            .faults()
            .add(Rule::new(Operation::List, Fault::status(500)).nth(nth));
    }
    problem(app.keyed("k").await, "start-outcome-unknown").await;
    problem(app.keyed("k").await, "start-outcome-unknown").await;
    assert_eq!(app.runs(), (2, 2));
    app.emulator.faults().clear();
    let found = app.accepted("k").await;
    assert_eq!(
        (app.runs(), &found["name"]),
        ((2, 2), &json!(app.emulator.executions()[1].name))
    );
}

#[tokio::test]
async fn a_start_is_not_sent_if_the_list_cannot_be_read_for_its_key() {
    let app = app().await;
    app.emulator
        .faults()
        .add(Rule::new(Operation::List, Fault::status(503)));
    problem(app.keyed("k").await, "upstream-unavailable").await;
    assert_eq!(app.runs(), (0, 0));
}

#[tokio::test]
async fn another_process_finds_what_this_one_started() {
    let app = app().await;
    app.emulator
        .add_past_executions("test-job", 900, |i| {
            vec![("SCOPE".to_owned(), format!("s{i}"))]
        })
        .unwrap();
    let first = app.accepted("k").await;
    for i in 0..250 {
        app.start(&format!("other-{i}")).await; // the execution is on the third page now
    }
    let other = app.another(|_| {}).await;
    let again = other.keyed("k").await;
    assert_eq!(again.headers()["idempotent-replayed"], "true");
    assert_eq!(again.json::<Value>().await.unwrap()["name"], first["name"]);
    assert_eq!(app.counters().runs, 251);
}

#[tokio::test]
async fn a_look_up_costs_one_page_however_many_executions_there_are() {
    let app = app().await;
    app.emulator
        .add_past_executions("test-job", 1000, |i| {
            vec![("SCOPE".to_owned(), format!("s{i}"))]
        })
        .unwrap();
    app.accepted("first").await;
    let before = app.calls(Operation::List);
    for i in 0..20 {
        app.accepted(&format!("k{i}")).await;
    }
    assert_eq!(app.calls(Operation::List) - before, 20);
}

#[tokio::test]
async fn a_thousand_concurrent_requests_with_one_key_start_one_execution() {
    let app = app().await;
    app.emulator.faults().add(run(Fault::Delay { ms: 300 }));
    let responses = join_all((0..1000).map(|_| app.keyed("k"))).await;
    let mut names = std::collections::HashSet::new();
    for response in responses {
        match response.status().as_u16() {
            202 => drop(names.insert(response.json::<Value>().await.unwrap()["name"].to_string())),
            _ => drop(problem(response, "idempotency-in-progress").await),
        }
    }
    assert_eq!((names.len(), app.runs()), (1, (1, 1)));
}

#[tokio::test]
async fn a_request_waits_two_seconds_for_a_start_in_flight_with_the_same_key() {
    let app = app().await;
    app.emulator.faults().add(run(Fault::Hang).first(1));
    let first = tokio::spawn({
        let request = app
            .post("/scopes/acme/process")
            .header("idempotency-key", "k");
        async move { request.send().await.unwrap() }
    });
    eventually(|| app.calls(Operation::Run) == 1).await;
    let sent = Instant::now();
    problem(app.keyed("k").await, "idempotency-in-progress").await;
    assert!((Duration::from_millis(1900)..Duration::from_secs(3)).contains(&sent.elapsed()));
    let other = app
        .post("/scopes/acme/process?on_running=join")
        .header("idempotency-key", "k")
        .send()
        .await
        .unwrap();
    problem(other, "idempotency-key-reused").await;
    problem(first.await.unwrap(), "start-outcome-unknown").await;
}

/// The HTTP client re-sends a request that it has not begun to write. One that it was writing when the connection closed may have
/// arrived, and the caller's repetition resolves that.
#[tokio::test]
async fn a_connection_that_closes_when_it_is_reused_neither_loses_nor_doubles_a_start() {
    let app = TestApp::with(instant_job(), |config| {
        config.start.deadline_seconds = 2;
        config.start.quiet_seconds = 1;
    })
    .await;
    app.emulator.faults().add(run(Fault::HangUp { ms: 5 }));
    for round in 0..60 {
        app.until_accepted(&round.to_string()).await;
        tokio::time::sleep(Duration::from_millis(round % 10)).await;
    }
    assert_eq!(app.counters().runs, 60);
    assert!(
        app.counters()
            .runs_by_invocation
            .values()
            .all(|runs| *runs == 1)
    );
    assert!(
        app.counters().connections > 15,
        "connections were closed and made anew"
    );
}

/// Executions run until they are stopped.
fn sleeping(config: &mut api::config::Config) {
    let env = &mut config.overrides.env;
    env.insert("SLEEP_SECONDS".to_owned(), "60".into());
}

/// A job that runs until it is stopped.
async fn long_running() -> TestApp {
    TestApp::with(real_job(), sleeping).await
}

#[tokio::test]
async fn a_start_in_a_busy_scope_is_rejected_joins_or_replaces() {
    let app = long_running().await;
    let other = app.start("globex").await;
    let first: Value = app.on_running("reject").await.json().await.unwrap();
    let body = problem(app.on_running("reject").await, "scope-busy").await;
    assert_eq!(body["execution"], first["links"]["self"]);

    let joined = app.on_running("join").await;
    assert_eq!(joined.status(), 200);
    assert_eq!(joined.json::<Value>().await.unwrap()["name"], first["name"]);

    let second = app.on_running("replace").await;
    assert_eq!(second.status(), 202);
    let second: Value = second.json().await.unwrap();
    assert_ne!(second["name"], first["name"]);
    assert_eq!(app.show(&first).await["state"], "cancelled");
    assert_eq!(app.on_running("allow").await.status(), 202);
    assert_eq!(app.counters().runs, 4);
    assert!(!matches!(
        app.show(&other).await["state"].as_str(),
        Some("cancelled")
    ));
}

#[tokio::test]
async fn a_scope_whose_execution_has_ended_accepts_a_start() {
    let app = app().await;
    for what in ["reject", "join", "replace"] {
        let execution: Value = app.on_running(what).await.json().await.unwrap();
        app.until(&execution, "succeeded").await;
    }
    assert_eq!(app.counters().runs, 3);
}

#[tokio::test]
async fn reject_lets_one_of_twenty_concurrent_requests_start() {
    let app = long_running().await;
    let responses = join_all((0..20).map(|_| app.on_running("reject"))).await;
    let accepted = responses
        .iter()
        .filter(|response| response.status() == 202)
        .count();
    assert!(
        responses
            .iter()
            .all(|response| matches!(response.status().as_u16(), 202 | 409))
    );
    assert_eq!((accepted, app.counters().runs), (1, 1));
}

#[tokio::test]
async fn an_execution_from_before_this_process_counts_as_unfinished() {
    let app = long_running().await;
    let first = app.start("acme").await;
    let other = app
        .another(|config| config.start.on_running = api::config::OnRunning::Reject)
        .await;
    let response = other
        .http
        .post(format!("{}/scopes/acme/process", other.url))
        .send()
        .await
        .unwrap();
    let body = problem(response, "scope-busy").await;
    assert_eq!(body["execution"], first["links"]["self"]);
}

#[tokio::test]
async fn an_unknown_value_of_on_running_is_refused() {
    let app = app().await;
    for query in [
        "on_running=maybe",
        "on_running=",
        "on_running=Reject",
        "on_running=join&on_running=join",
        "dry_run=1",
    ] {
        let response = app
            .post(&format!("/scopes/acme/process?{query}"))
            .send()
            .await
            .unwrap();
        problem(response, "malformed-request").await;
    }
    assert_eq!(app.calls(Operation::Any), 0);
}

/// The service with a short deadline for starts.
async fn hasty(deadline_seconds: u64) -> TestApp {
    TestApp::with(instant_job(), |config| {
        config.start.deadline_seconds = deadline_seconds;
        config.start.quiet_seconds = 2;
    })
    .await
}

#[tokio::test]
async fn an_execution_that_is_listed_but_cannot_be_read_counts_as_started() {
    let app = app().await;
    app.emulator
        .faults()
        .add(run(Fault::status(503)).after().first(1));
    app.emulator
        .faults()
        .add(Rule::new(Operation::Get, Fault::status(404)));
    problem(app.keyed("k").await, "start-outcome-unknown").await;
    app.emulator.faults().clear();
    app.accepted("k").await;
    assert_eq!(app.runs(), (1, 1));
}

#[tokio::test]
async fn the_quiet_time_begins_at_the_last_possible_send() {
    let app = hasty(3).await;
    // The first send is refused, the token for the second comes slowly, and the execution of the second appears late.
    let faults = app.emulator.faults();
    faults.add(run(Fault::status(401)).nth(1));
    faults.add(Rule::new(Operation::Token, Fault::Delay { ms: 1200 }).nth(2));
    faults.add(run(Fault::Reset).late(Duration::from_millis(1800)).nth(2));
    problem(app.keyed("k").await, "start-outcome-unknown").await;
    app.until_accepted("k").await;
    assert_eq!(app.runs(), (2, 1));
}

#[tokio::test]
async fn a_list_read_within_the_quiet_time_does_not_permit_another_send() {
    let app = hasty(2).await;
    app.emulator
        .faults()
        .add(run(Fault::Reset).late(Duration::from_millis(1800)).first(1));
    let sent = Instant::now();
    problem(app.keyed("k").await, "start-outcome-unknown").await;
    // Asked before the quiet time is over and before the commit, answered after both.
    app.emulator
        .faults()
        .add(Rule::new(Operation::List, Fault::Delay { ms: 900 }).after());
    tokio::time::sleep_until((sent + Duration::from_millis(1500)).into()).await;
    problem(app.keyed("k").await, "start-outcome-unknown").await;
    assert!(sent.elapsed() > Duration::from_secs(2));
    app.emulator.faults().clear();
    app.until_accepted("k").await;
    assert_eq!(app.runs(), (1, 1));
}

#[tokio::test]
async fn a_token_that_comes_after_the_deadline_sends_nothing() {
    let app = hasty(1).await;
    app.emulator
        .faults()
        .add(Rule::new(Operation::Token, Fault::Delay { ms: 1500 }));
    let response = app.keyless().await;
    assert_eq!(response.status(), 503);
    assert_eq!(app.runs(), (0, 0));
}

#[tokio::test]
async fn an_endless_list_is_an_upstream_protocol_error() {
    let app = app().await;
    let page = FaultBody::Text(r#"{"items":[],"metadata":{"continue":"p1"}}"#.to_owned());
    let endless = Fault::answer(200, page);
    app.emulator
        .faults()
        .add(Rule::new(Operation::List, endless));
    problem(app.keyed("k").await, "upstream-protocol").await;
    assert_eq!(app.runs(), (0, 0));
}

#[tokio::test]
async fn a_start_with_an_ambiguous_outcome_keeps_its_scope_busy() {
    let app = TestApp::with(real_job(), |config| {
        let env = &mut config.overrides.env;
        env.insert("SLEEP_SECONDS".to_owned(), "60".into());
        config.start.deadline_seconds = 2;
        config.start.quiet_seconds = 4;
    })
    .await;
    app.emulator
        .faults()
        .add(run(Fault::Reset).late(Duration::from_secs(3)).first(1));
    problem(app.on_running("reject").await, "start-outcome-unknown").await;
    let body = problem(app.on_running("reject").await, "scope-busy").await;
    assert!(body["execution"].is_null());
    eventually(|| app.counters().runs == 1).await;
    let body = problem(app.on_running("reject").await, "scope-busy").await;
    assert!(body["execution"].is_string(), "{body}");
    assert_eq!(app.runs(), (1, 1));
}

#[tokio::test]
async fn a_key_that_joined_an_execution_keeps_naming_it() {
    let app = long_running().await;
    let first = app.start("acme").await;
    let join = || {
        app.post("/scopes/acme/process?on_running=join")
            .header("idempotency-key", "k")
            .send()
    };
    assert_eq!(join().await.unwrap().status(), 200);
    app.post(link(&first, "cancel")).send().await.unwrap();
    app.until(&first, "cancelled").await;
    let again = join().await.unwrap();
    assert_eq!(
        (
            again.status().as_u16(),
            &again.headers()["idempotent-replayed"]
        ),
        (200, &"true".parse().unwrap())
    );
    assert_eq!(again.json::<Value>().await.unwrap()["name"], first["name"]);
    assert_eq!(app.runs(), (1, 1));
}

/// An execution that may still appear cannot be cancelled, and so not be replaced.
#[tokio::test]
async fn replace_is_refused_while_a_start_of_the_scope_is_ambiguous() {
    let app = TestApp::with(real_job(), |config| {
        let env = &mut config.overrides.env;
        env.insert("SLEEP_SECONDS".to_owned(), "60".into());
        config.start.deadline_seconds = 2;
    })
    .await;
    let running = app.start("acme").await;
    app.emulator.faults().add(run(Fault::Reset).first(1));
    problem(app.keyless().await, "start-outcome-unknown").await;
    problem(app.on_running("replace").await, "scope-busy").await;
    assert_ne!(app.show(&running).await["state"], "cancelled");
    assert_eq!(app.counters().runs, 1);
}

/// Cloud Run begins the execution, answers with an error, and lists the execution late.
#[tokio::test]
async fn an_execution_that_is_listed_late_after_an_error_answer_is_not_started_twice() {
    let cases = [
        (1_000, Some("k")),
        (2_500, Some("k")),
        (2_500, None),
        (8_000, Some("k")),
    ];
    let outcomes = cases.map(async |(ms, key)| {
        let app = TestApp::with(instant_job(), |_| {}).await;
        app.emulator
            .faults()
            .add(run(Fault::Invisible { ms }).first(1));
        let way = Way::to(&app.emulator.host()).await;
        let look_up = key.map(|_| Fate::Passes);
        way.fate(look_up.into_iter().chain([Fate::FailsAfter]), Fate::Passes);
        let service = app
            .another(|config| config.cloud_run.base_url = Some(format!("http://{}", way.host)))
            .await;
        let execution = match key {
            Some(key) => service.accepted(key).await,
            None => service.start("acme").await,
        };
        assert_eq!(app.runs(), (1, 1), "{ms} {key:?}");
        assert_eq!(execution["name"], app.emulator.executions()[0].name);
    });
    join_all(outcomes).await;
}

/// The name of each execution, and its state.
fn states(app: &TestApp) -> Vec<(String, emulator::State)> {
    let executions = app.emulator.executions().into_iter();
    executions
        .map(|execution| (execution.name, execution.state))
        .collect()
}

/// Checks that only this one of two executions survives, and that each service answers the key with it.
async fn survives(services: [&TestApp; 2], name: &Value) {
    let of_name = |wanted: bool| {
        let states = states(services[0]).into_iter();
        states.filter(move |(other, _)| (name == other) == wanted)
    };
    eventually(|| of_name(false).all(|(_, state)| state == emulator::State::Cancelled)).await;
    assert_eq!(states(services[0]).len(), 2);
    assert!(of_name(true).all(|(_, state)| state != emulator::State::Cancelled));
    for service in services {
        assert_eq!(service.accepted("k").await["name"], *name);
    }
    assert_eq!(services[0].counters().runs, 2);
}

/// During a rollout two processes with the memory store do not know of each other's starts.
#[tokio::test]
async fn the_older_of_two_executions_by_two_concurrent_processes_survives() {
    let app = long_running().await;
    app.emulator
        .faults()
        .add(run(Fault::Delay { ms: 2_000 }).first(1));
    let other = app.another(sleeping).await;
    let slow = tokio::spawn(
        app.post("/scopes/acme/process")
            .header("idempotency-key", "k")
            .send(),
    );
    eventually(|| app.calls(Operation::Run) == 1).await;
    let older = other.accepted("k").await;
    let slow = slow.await.unwrap().unwrap();
    assert_eq!(slow.status(), 202);
    assert_eq!(slow.json::<Value>().await.unwrap()["name"], older["name"]);
    survives([&app, &other], &older["name"]).await;
}

/// After a clean restart the list may not show yet what the process before this one started.
#[tokio::test]
async fn the_older_of_two_executions_around_a_restart_survives() {
    let mut app = long_running().await;
    app.emulator
        .faults()
        .add(run(Fault::Invisible { ms: 3_000 }).first(1));
    let older = app.accepted("k").await;
    app.stop();
    let next = app.another(sleeping).await;
    let younger = next.accepted("k").await;
    assert_ne!(younger["name"], older["name"]);
    tokio::time::sleep(Duration::from_secs(3)).await; // until the list shows the older one
    let repeated = next.accepted("k").await;
    assert_eq!(repeated["name"], older["name"]);
    survives([&next, &next], &older["name"]).await;
}

#[tokio::test]
async fn a_start_adopts_no_execution_of_another_scope() {
    let id = app().await.accepted("k").await["invocationId"].clone();
    let app = app().await;
    let forged = |scope: &'static str| {
        let id = id.as_str().unwrap().to_owned();
        let env = move |_| {
            let scope = ("SCOPE".to_owned(), scope.to_owned());
            vec![scope, ("INVOCATION_ID".to_owned(), id.clone())]
        };
        app.emulator
            .add_past_executions("test-job", 1, env)
            .unwrap();
    };
    forged("globex");
    let first = app.accepted("k").await;
    assert_eq!((&first["scope"], app.runs()), (&json!("acme"), (1, 1)));
    let again = app.another(|_| {}).await.accepted("k").await;
    assert_eq!((&again["name"], app.runs()), (&first["name"], (1, 1)));
}

#[tokio::test]
async fn a_scope_starts_and_lists_despite_many_large_executions_of_others() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    let own = app.start("victim").await;
    app.emulator
        .add_past_executions("test-job", 150, |i| {
            let large = |name: &str| (name.to_owned(), "x".repeat(30_000));
            vec![
                ("SCOPE".to_owned(), format!("s{i}")),
                large("A"),
                large("B"),
            ]
        })
        .unwrap();
    for service in [&app, &app.another(|_| {}).await] {
        let response = service
            .post("/scopes/victim/process?on_running=reject")
            .header("idempotency-key", format!("k{}", app.counters().runs))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 202);
        let mut path = "/scopes/victim/executions?limit=100".to_owned();
        let mut names = Vec::new();
        loop {
            let page: Value = service
                .get(&path)
                .send()
                .await
                .unwrap()
                .json()
                .await
                .unwrap();
            names.extend(page["executions"].as_array().unwrap().clone());
            let Some(next) = page["nextPage"].as_str() else {
                break;
            };
            path = format!("/scopes/victim/executions?limit=100&page={next}");
        }
        assert!(names.iter().any(|listed| listed["name"] == own["name"]));
    }
    let before = app.calls(Operation::List);
    app.accepted("next").await;
    assert_eq!(
        app.calls(Operation::List) - before,
        1,
        "the size is remembered"
    );
}

#[tokio::test]
async fn many_executions_whose_end_was_not_seen_cost_one_list() {
    let app = app().await;
    for _ in 0..60 {
        app.start("acme").await;
    }
    let ended = |app: &TestApp| {
        states(app)
            .iter()
            .all(|(_, state)| *state == emulator::State::Succeeded)
    };
    eventually(|| ended(&app)).await;
    let before = app.calls(Operation::Get);
    assert_eq!(app.on_running("reject").await.status(), 202);
    assert!(app.calls(Operation::Get) - before <= 4);
}

#[tokio::test]
async fn a_scope_has_at_most_max_running_unfinished_executions() {
    let app = TestApp::with(real_job(), |config| {
        let env = &mut config.overrides.env;
        env.insert("SLEEP_SECONDS".to_owned(), "60".into());
        config.start.max_running = 3;
        config
            .processes
            .insert("import".to_owned(), Default::default());
    })
    .await;
    let responses = join_all((0..50).map(|_| app.on_running("reject"))).await;
    let count = |code: u16| {
        let of_code = responses
            .iter()
            .filter(|response| response.status() == code);
        of_code.count()
    };
    assert_eq!((count(202), count(409)), (3, 47));
    assert_eq!(app.on_running("join").await.status(), 200);
    let names: Vec<_> = states(&app).into_iter().map(|(name, _)| name).collect();
    assert_eq!(app.on_running("replace").await.status(), 202);
    let cancelled = |(name, state)| (state == emulator::State::Cancelled).then_some(name);
    let cancelled: Vec<_> = states(&app).into_iter().filter_map(cancelled).collect();
    assert_eq!(cancelled.len(), 1, "one is replaced, not all: {names:?}");
    // Executions of another process of the same scope and job are counted separately.
    let import = app.post("/scopes/acme/process/import?on_running=reject");
    assert_eq!(import.send().await.unwrap().status(), 202);
    assert_eq!(app.counters().runs, 5);
}
