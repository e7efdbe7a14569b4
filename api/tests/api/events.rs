//! `GET …/events`, and `?wait=`.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use api::App;
use api::http::page_token;
use emulator::{Emulator, Fault, Job, Operation, Rule};
use futures_util::future::join_all;
use reqwest::Response;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::auth;
use crate::helpers::{
    JOB, PATIENCE, TestApp, config, eventually, instant_job, link, problem, real_job,
};

/// How soon after a run's end its watchers receive it.
const END: Duration = Duration::from_secs(2);

/// A stream of server-sent events, read as a browser reads it.
pub struct Events {
    response: Response,
    buffer: String,
    /// The `Last-Event-ID` of a client that reconnects.
    pub last_id: Option<String>,
    comments: Vec<String>,
}

#[derive(Debug)]
pub struct Event {
    pub kind: String,
    pub data: Value,
}

impl Events {
    pub async fn open(app: &TestApp, execution: &Value) -> Self {
        Self::of(app.get(link(execution, "events")).send().await.unwrap())
    }

    pub async fn resume(url: &str, execution: &Value, id: &str) -> Self {
        let http = api::gcp::http_client::HttpClients::new().unwrap().reqwest;
        let request = http.get(format!("{url}{}", link(execution, "events")));
        Self::of(request.header("last-event-id", id).send().await.unwrap())
    }

    pub fn of(response: Response) -> Self {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(
            response.headers()["cache-control"],
            "no-store, no-transform"
        );
        Self {
            response,
            buffer: String::new(),
            last_id: None,
            comments: Vec::new(),
        }
    }

    /// The next event. None when the stream has ended without an error. Comments are skipped.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let block = timeout(PATIENCE, self.block())
                .await
                .expect("an event in time")?;
            let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
            let comments = block.lines().filter_map(|line| line.strip_prefix(": "));
            self.comments.extend(comments.map(str::to_owned));
            if let Some(id) = field("id: ") {
                self.last_id = Some(id.to_owned());
            }
            if let Some(kind) = field("event: ") {
                return Some(Event {
                    kind: kind.to_owned(),
                    data: serde_json::from_str(field("data: ").unwrap()).unwrap(),
                });
            }
        }
    }

    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.buffer.split_once("\n\n") {
                let block = block.to_owned();
                self.buffer = rest.to_owned();
                return Some(block);
            }
            let chunk = self.response.chunk().await.unwrap()?;
            self.buffer.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// Everything to the end of the stream.
    pub async fn rest(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }

    /// The texts of the lines to come, until one contains `text`.
    pub async fn lines_until(&mut self, text: &str) -> Vec<String> {
        let mut lines = Vec::new();
        while !lines
            .last()
            .is_some_and(|line: &String| line.contains(text))
        {
            let event = self.next().await.expect("the stream has not ended");
            lines.extend((event.kind == "log").then(|| text_of(&event)));
        }
        lines
    }
}

fn text_of(event: &Event) -> String {
    event.data["text"].as_str().unwrap().to_owned()
}

pub fn texts(events: &[Event]) -> Vec<String> {
    let lines = events.iter().filter(|event| event.kind == "log");
    lines.map(text_of).collect()
}

/// The states in the order in which they came, each once.
fn states(events: &[Event]) -> Vec<&str> {
    let executions = events.iter().filter(|event| event.kind == "execution");
    let mut states: Vec<_> = executions
        .map(|event| event.data["state"].as_str().unwrap())
        .collect();
    states.dedup();
    states
}

/// Checks that a stream was complete: the states only advance, no line came twice, and `end` came once, as the last event.
pub fn check(events: &[Event], state: &str) {
    let order = ["pending", "running", state];
    let ranks: Vec<_> = states(events)
        .iter()
        .map(|state| order.iter().position(|other| other == state).unwrap())
        .collect();
    assert!(ranks.is_sorted_by(|a, b| a < b), "{:?}", states(events));
    assert_eq!(states(events).last(), Some(&state));
    let lines: Vec<_> = events.iter().filter(|event| event.kind == "log").collect();
    let different: HashSet<_> = lines.iter().map(|line| line.data.to_string()).collect();
    assert_eq!(different.len(), lines.len(), "a line came twice");
    let ends = events.iter().filter(|event| event.kind == "end").count();
    let last = events.last().unwrap();
    assert_eq!(
        (ends, &last.kind[..], &last.data["state"]),
        (1, "end", &json!(state))
    );
}

/// The sample job, which works for so long.
async fn working(seconds: u32) -> (TestApp, Value) {
    let app = TestApp::with(real_job(), |config| {
        let env = &mut config.overrides.env;
        env.insert("SLEEP_SECONDS".to_owned(), seconds.to_string().into());
    })
    .await;
    let execution = app.start("acme").await;
    (app, execution)
}

/// A job that prints so many numbered lines, and then works for so long.
async fn printing(lines: u32, seconds: u32, log_reads_per_minute: u32) -> (TestApp, Value) {
    let script = format!("seq -f 'line %05g' 1 {lines}; sleep {seconds}");
    let app = TestApp::with(Job::new(JOB, ["sh", "-c", &script]), |config| {
        config.limits.log_reads_per_minute = log_reads_per_minute;
    })
    .await;
    let execution = app.start("acme").await;
    (app, execution)
}

fn numbered(lines: u32) -> Vec<String> {
    (1..=lines).map(|line| format!("line {line:05}")).collect()
}

/// A second service with the same Cloud Run, in the same process.
async fn another_server(emulator: &Emulator) -> (String, oneshot::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = oneshot::channel();
    let app = App::new(&config(emulator)).unwrap();
    tokio::spawn(api::serve(
        listener,
        app,
        async move { drop(stopped.await) },
    ));
    (url, stop)
}

async fn many(app: &TestApp, execution: &Value, count: usize) -> Vec<Events> {
    join_all((0..count).map(|_| Events::open(app, execution))).await
}

/// Checks that the execution's end, by its timestamp, was not long ago.
fn check_in_time(execution: &Value) {
    let ended: jiff::Timestamp = execution["completedAt"].as_str().unwrap().parse().unwrap();
    let late: Duration = jiff::Timestamp::now()
        .duration_since(ended)
        .try_into()
        .unwrap();
    let delayed = delayed();
    assert!(late < END + delayed, "{late:?}, {delayed:?} of it delayed");
}

/// How long this test, including service and emulator, was ready to run while others had the processor. It is subtracted, since a
/// busy machine is not a fault of the service.
fn delayed() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text
        .split(' ')
        .nth(1)
        .and_then(|nanoseconds| nanoseconds.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or_default())
}

#[tokio::test]
async fn a_run_is_followed_from_its_start_to_its_end() {
    let (app, execution) = working(2).await;
    let mut stream = Events::open(&app, &execution).await;
    let events = stream.rest().await;
    check_in_time(&events.last().unwrap().data);
    check(&events, "succeeded");
    assert_eq!(events[0].kind, "execution");
    assert!(states(&events).contains(&"running"));
    let lines = texts(&events);
    for line in ["SCOPE = acme", "  ARG: --scope=acme", "working: 2 of 2 s"] {
        assert!(lines.iter().any(|other| other == line), "{line}: {lines:?}");
    }
    assert_eq!(lines, app.lines(&execution).await);
}

#[tokio::test]
async fn a_failed_run_ends_its_stream_with_the_reason() {
    let app = TestApp::with(real_job(), |config| {
        let code = json!({ "type": "integer", "minimum": 0, "maximum": 255 });
        config.parameters.insert("code".to_owned(), code);
        config
            .overrides
            .env
            .insert("FAIL_WITH".to_owned(), "{code}".into());
    })
    .await;
    let request = app.post("/scopes/acme/process").json(&json!({ "code": 3 }));
    let execution = crate::helpers::json(request).await;
    let events = Events::open(&app, &execution).await.rest().await;
    check(&events, "failed");
    assert_eq!(events.last().unwrap().data["reason"], "NonZeroExitCode");
    assert!(texts(&events).contains(&"FAIL_WITH = 3".to_owned()));
}

#[tokio::test]
async fn the_stream_of_a_finished_run_has_all_events_at_once() {
    let (app, execution) = printing(2500, 0, 60_000).await;
    app.until(&execution, "succeeded").await;
    let events = Events::open(&app, &execution).await.rest().await;
    check(&events, "succeeded");
    assert_eq!(texts(&events), numbered(2500));
}

#[tokio::test]
async fn failures_upstream_neither_end_a_stream_nor_become_a_state() {
    let faults = [
        Fault::status(500),
        Fault::status(503),
        Fault::Hang,
        Fault::Garbage,
        Fault::Reset,
    ];
    join_all(faults.map(async |fault| {
        let (app, execution) = working(6).await;
        let mut stream = Events::open(&app, &execution).await;
        stream.lines_until("working: 1").await;
        let failing = |operation| Rule::new(operation, fault.clone());
        app.emulator.faults().add(failing(Operation::Get).first(3));
        app.emulator.faults().add(failing(Operation::Logs).first(1));
        let events = stream.rest().await;
        check(&events, "succeeded");
        let lines: Vec<_> = (2..=6).map(|n| format!("working: {n} of 6 s")).collect();
        assert_eq!(texts(&events), lines, "{fault:?}");
    }))
    .await;
}

#[tokio::test]
async fn a_stream_opens_although_the_first_reads_fail() {
    join_all([Fault::status(500), Fault::Hang].map(async |fault| {
        let (app, execution) = working(0).await;
        let failing = Rule::new(Operation::Get, fault).first(3);
        app.emulator.faults().add(failing);
        let events = Events::open(&app, &execution).await.rest().await;
        check(&events, "succeeded");
        assert_eq!(texts(&events), app.lines(&execution).await);
    }))
    .await;
}

#[tokio::test]
async fn unreadable_lines_do_not_delay_the_end() {
    join_all(
        [Fault::status(403), Fault::status(500), Fault::Hang].map(async |fault| {
            let (app, execution) = working(1).await;
            let failing = Rule::new(Operation::Logs, fault.clone());
            app.emulator.faults().add(failing);
            let mut stream = Events::open(&app, &execution).await;
            let events = stream.rest().await;
            check_in_time(&events.last().unwrap().data);
            check(&events, "succeeded");
            assert!(texts(&events).is_empty());
            let end = &events.last().unwrap().data;
            assert_eq!(end["linesComplete"], false, "{fault:?}");
            let log_uri = end["logUri"].as_str().unwrap();
            let expected = [
                "lines may be missing",
                &format!("all lines are at {log_uri}"),
            ];
            assert_eq!(stream.comments, expected, "{fault:?}");
        }),
    )
    .await;
}

#[tokio::test]
async fn many_watchers_of_an_execution_share_one_reader() {
    let (app, execution) = working(4).await;
    let begun = Instant::now();
    let streams = many(&app, &execution, 100).await;
    let all = join_all(streams.into_iter().map(|mut stream| async move {
        let events = stream.rest().await;
        check_in_time(&events.last().unwrap().data);
        events
    }))
    .await;
    let seconds = begun.elapsed().as_secs() + 1;
    let (gets, logs) = (app.calls(Operation::Get), app.calls(Operation::Logs));
    assert!((2..=seconds).contains(&gets), "{gets} reads in {seconds} s");
    assert!(logs <= seconds, "{logs} reads of lines in {seconds} s");
    let lines = texts(&all[0]);
    for events in &all {
        check(events, "succeeded");
        assert_eq!(texts(events), lines);
    }
}

#[tokio::test]
async fn nothing_is_read_without_a_watcher() {
    let (app, execution) = working(60).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(Events::open(&app, &execution).await);
    }
    streams[0].lines_until("working: 1").await;
    streams.pop();
    let reads = app.calls(Operation::Get);
    eventually(|| app.calls(Operation::Get) > reads + 1).await; // the other watchers still get events
    drop(streams);
    tokio::time::sleep(Duration::from_secs(1)).await; // by then the service must have noticed
    let calls = app.calls(Operation::Any);
    tokio::time::sleep(Duration::from_secs(3)).await; // three times as long as it takes to read again
    assert_eq!(app.calls(Operation::Any), calls);
}

#[tokio::test]
async fn no_lines_are_read_for_a_client_that_takes_none() {
    // Much more than fits into the buffers of two sockets.
    const LINES: u32 = 6_000;
    let script = format!("seq -f %03000.0f 1 {LINES}");
    let app = TestApp::with(Job::new(JOB, ["sh", "-c", &script]), |config| {
        config.limits.log_reads_per_minute = 60_000;
    })
    .await;
    let execution = app.start("acme").await;
    app.until(&execution, "succeeded").await;
    let mut slow = Events::open(&app, &execution).await;
    let begun = Instant::now();
    let (mut reads, mut since) = (0, begun);
    while since.elapsed() < Duration::from_secs(2) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if reads != app.calls(Operation::Logs) {
            (reads, since) = (app.calls(Operation::Logs), Instant::now());
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "the service does not stop reading"
        );
    }
    assert!((1..30).contains(&reads), "{reads} pages of a hundred lines");
    // Another client is not delayed by it, and the slow one gets all lines later.
    let fast = Events::open(&app, &execution).await.rest().await;
    for events in [fast, slow.rest().await] {
        check(&events, "succeeded");
        let lines = texts(&events)
            .into_iter()
            .map(|line| line.parse::<u32>().unwrap());
        assert!(lines.eq(1..=LINES), "lines are missing");
    }
}

#[tokio::test]
async fn a_late_watcher_gets_all_lines() {
    let (app, execution) = printing(20_000, 60, 60_000).await;
    let begun = Instant::now();
    let mut first = Events::open(&app, &execution).await;
    let lines = first.lines_until("line 20000").await;
    assert!(lines == numbered(20_000));
    let mut second = Events::open(&app, &execution).await;
    assert!(second.lines_until("line 20000").await == numbered(20_000));
    let seconds = begun.elapsed().as_secs() + 1;
    assert!(app.calls(Operation::Get) <= seconds);
}

#[tokio::test]
async fn a_stream_continues_after_the_last_event_on_any_server() {
    let (app, execution) = working(5).await;
    let mut first = Events::open(&app, &execution).await;
    let mut lines = first.lines_until("working: 1").await;
    let id = first.last_id.clone().unwrap();
    drop(first);
    let mut second = Events::resume(&app.url, &execution, &id).await;
    lines.extend(second.lines_until("working: 3").await);
    let id = second.last_id.clone().unwrap();
    drop(second);
    let (url, _stop) = another_server(&app.emulator).await;
    let events = Events::resume(&url, &execution, &id).await.rest().await;
    lines.extend(texts(&events));
    assert_eq!(events[0].kind, "execution", "the state comes first");
    assert_eq!(lines, app.lines(&execution).await);
    // A browser reconnects after the end, too.
    let after = Events::resume(&url, &execution, &id).await.rest().await;
    assert_eq!(texts(&after), texts(&events));
}

#[tokio::test]
async fn a_stream_continues_after_any_of_its_events() {
    let (app, execution) = printing(1500, 0, 60_000).await;
    app.until(&execution, "succeeded").await;
    let mut stream = Events::open(&app, &execution).await;
    let (mut ids, mut end) = (Vec::new(), None);
    while let Some(event) = stream.next().await {
        ids.extend((event.kind == "log").then(|| stream.last_id.clone().unwrap()));
        end = stream.last_id.clone();
    }
    for at in [1, 2, 999, 1000, 1001, 1499, 1500] {
        let mut stream = Events::resume(&app.url, &execution, &ids[at - 1]).await;
        assert_eq!(texts(&stream.rest().await), numbered(1500)[at..], "{at}");
        assert_eq!(stream.last_id, end);
    }
}

#[tokio::test]
async fn streams_end_when_the_server_drains_and_continue_on_another() {
    let (mut app, execution) = working(60).await;
    let mut streams = many(&app, &execution, 100).await;
    streams[0].lines_until("working: 1").await;
    app.stop();
    let begun = Instant::now();
    let rests = join_all(streams.iter_mut().map(Events::rest)).await;
    assert!(
        begun.elapsed() < Duration::from_secs(1) + delayed(),
        "{:?}",
        begun.elapsed()
    );
    assert!(rests.iter().flatten().all(|event| event.kind != "end"));
    let url = app.url.strip_prefix("http://").unwrap().to_owned();
    let begun = Instant::now();
    while tokio::net::TcpStream::connect(&url).await.is_ok() {
        assert!(
            begun.elapsed() < PATIENCE,
            "the server still accepts connections"
        );
    }
    // On another server the stream continues with the next line.
    let (url, _stop) = another_server(&app.emulator).await;
    let mut stream = Events::resume(&url, &execution, streams[0].last_id.as_ref().unwrap()).await;
    let line = stream.lines_until("working").await;
    let next = texts(&rests[0]).len() + 2;
    assert_eq!(line, [format!("working: {next} of 60 s")]);
}

#[tokio::test]
async fn a_silent_stream_is_kept_alive() {
    let app = TestApp::with(Job::new(JOB, ["sh", "-c", "exec sleep 60"]), |_| {}).await;
    let execution = app.start("acme").await;
    app.until(&execution, "running").await;
    let mut stream = Events::open(&app, &execution).await;
    stream.next().await.unwrap();
    let begun = Instant::now();
    let block = timeout(PATIENCE, stream.block()).await.unwrap();
    assert_eq!(block.as_deref(), Some(":"));
    assert!(
        begun.elapsed() > Duration::from_secs(14),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_stream_ends_with_the_cancellation() {
    let (app, execution) = working(60).await;
    let mut stream = Events::open(&app, &execution).await;
    stream.lines_until("working: 1").await;
    let cancelled = app.post(link(&execution, "cancel")).send().await.unwrap();
    assert_eq!(cancelled.status(), 202);
    let events = stream.rest().await;
    check(&events, "cancelled");
    check_in_time(&events.last().unwrap().data);
    assert!(texts(&events).contains(&"stopped by SIGTERM".to_owned()));
}

#[tokio::test]
async fn a_spent_log_budget_delays_only_lines() {
    let app = TestApp::with(real_job(), |config| {
        config.limits.log_reads_per_minute = 1;
        config
            .overrides
            .env
            .insert("SLEEP_SECONDS".to_owned(), "3".into());
    })
    .await;
    let executions = join_all((0..5).map(|_| app.start("acme"))).await;
    let streams = executions.iter().map(async |execution| {
        let events = Events::open(&app, execution).await.rest().await;
        check_in_time(&events.last().unwrap().data);
        check(&events, "succeeded");
        texts(&events).len()
    });
    let lines = join_all(streams).await;
    assert!(lines.contains(&0), "{lines:?}: the budget was for one read");
    // The watchers do not use the half of the budget that is for requests.
    assert!(!app.lines(&executions[0]).await.is_empty());
    let refused = app.get(link(&executions[0], "logs")).send().await.unwrap();
    problem(refused, "rate-limited").await;
    assert!(
        app.calls(Operation::Logs) <= 3,
        "{}",
        app.calls(Operation::Logs)
    );
}

#[tokio::test]
async fn a_stream_waits_for_an_execution_that_was_just_started_here() {
    let (app, execution) = working(1).await;
    app.emulator
        .faults()
        .add(Rule::new(Operation::Get, Fault::status(404)).first(2));
    check(
        &Events::open(&app, &execution).await.rest().await,
        "succeeded",
    );
    app.emulator
        .faults()
        .add(Rule::new(Operation::Get, Fault::status(404)).first(1));
    let (url, _stop) = another_server(&app.emulator).await;
    let elsewhere = app.http.get(format!("{url}{}", link(&execution, "events")));
    problem(elsewhere.send().await.unwrap(), "execution-not-found").await;
}

#[tokio::test]
async fn an_execution_that_is_deleted_ends_its_streams_without_an_end() {
    let (app, execution) = working(60).await;
    let mut stream = Events::open(&app, &execution).await;
    stream.lines_until("working: 1").await;
    app.emulator
        .faults()
        .add(Rule::new(Operation::Get, Fault::status(404)));
    assert!(stream.rest().await.iter().all(|event| event.kind == "log"));
    let again = app.get(link(&execution, "events")).send().await.unwrap();
    problem(again, "execution-not-found").await;
}

#[tokio::test]
async fn an_execution_of_another_scope_cannot_be_watched() {
    let (app, execution) = working(60).await;
    let _watched = Events::open(&app, &execution).await;
    let name = execution["name"].as_str().unwrap();
    let mut bodies = Vec::new();
    for path in [
        format!("/scopes/globex/executions/{name}/events"),
        format!("/scopes/globex/executions/{name}?wait=5"),
        "/scopes/acme/executions/test-job-zzzzz/events".to_owned(),
        "/scopes/acme/executions/nonsense/events".to_owned(),
        "/scopes/acme/executions/test-job-zzzzz?wait=5".to_owned(),
    ] {
        let mut body = problem(app.get(&path).send().await.unwrap(), "execution-not-found").await;
        body["requestId"].take();
        bodies.push(body);
    }
    assert!(bodies.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test]
async fn bad_input_never_reaches_the_upstream() {
    let (app, execution) = printing(1, 0, 50).await;
    app.until(&execution, "succeeded").await;
    let mut stream = Events::open(&app, &execution).await;
    stream.rest().await;
    let other = app.start("acme").await;
    let calls = app.calls(Operation::Any);
    for wait in [
        "0",
        "61",
        "x",
        "-1",
        "1.5",
        "",
        "99999999999999999999",
        "1&wait=2",
    ] {
        let path = format!("{}?wait={wait}", link(&execution, "self"));
        problem(app.get(&path).send().await.unwrap(), "malformed-request").await;
    }
    let good = stream.last_id.unwrap();
    let long_ago = page_token::encode(
        &format!("events/{}", execution["name"].as_str().unwrap()),
        &(("-009999-06-01T00:00:00Z", "x"), false),
    );
    let flipped = format!(
        "{}{}",
        if good.starts_with('0') { '1' } else { '0' },
        &good[1..]
    );
    let long = "0".repeat(10_000);
    for id in [
        "1",
        "garbage",
        "00",
        "\u{e9}",
        &flipped,
        &good[2..],
        &long,
        &long_ago,
    ] {
        let request = app.get(link(&execution, "events"));
        let request = request.header("last-event-id", id.as_bytes());
        problem(request.send().await.unwrap(), "malformed-request").await;
    }
    let twice = app.get(link(&execution, "events"));
    let twice = twice
        .header("last-event-id", &good)
        .header("last-event-id", &good);
    problem(twice.send().await.unwrap(), "malformed-request").await;
    let foreign = app
        .get(link(&other, "events"))
        .header("last-event-id", &good);
    problem(foreign.send().await.unwrap(), "malformed-request").await;
    let query = format!("{}?wait=1", link(&execution, "events"));
    problem(app.get(&query).send().await.unwrap(), "malformed-request").await;
    assert_eq!(app.calls(Operation::Any), calls);
}

#[tokio::test]
async fn an_answer_with_wait_comes_at_the_end_of_the_run_or_of_the_time() {
    let (app, execution) = working(3).await;
    let wait = |seconds: u32| app.get(&format!("{}?wait={seconds}", link(&execution, "self")));
    let begun = Instant::now();
    let running = crate::helpers::json(wait(1)).await;
    assert!(
        (Duration::from_millis(900)..Duration::from_millis(1900) + delayed())
            .contains(&begun.elapsed()),
        "{:?}",
        begun.elapsed()
    );
    assert_ne!(running["state"], "succeeded");
    let waiting = join_all((0..100).map(|_| crate::helpers::json(wait(60)))).await;
    for ended in waiting {
        assert_eq!(ended["state"], "succeeded");
        check_in_time(&ended);
    }
    let seconds = begun.elapsed().as_secs() + 2;
    assert!(app.calls(Operation::Get) <= seconds);
    assert_eq!(app.calls(Operation::Logs), 0);
}

#[tokio::test]
async fn an_answer_with_wait_comes_when_the_server_drains() {
    let (mut app, execution) = working(60).await;
    let request = app.get(&format!("{}?wait=60", link(&execution, "self")));
    let waiting = tokio::spawn(crate::helpers::json(request));
    eventually(|| app.calls(Operation::Get) > 1).await;
    app.stop();
    let begun = Instant::now();
    let answered = waiting.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1) + delayed());
    assert_eq!(answered["state"], "running");
}

#[tokio::test]
async fn nothing_is_read_for_a_client_that_has_left_while_it_waited() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    let execution = app.start("acme").await;
    app.emulator
        .faults()
        .add(Rule::new(Operation::Get, Fault::status(500)));
    for path in [
        link(&execution, "events").to_owned(),
        format!("{}?wait=60", link(&execution, "self")),
    ] {
        let before = app.calls(Operation::Get);
        let waiting = tokio::spawn(app.get(&path).send());
        eventually(|| app.calls(Operation::Get) > before + 1).await;
        waiting.abort();
        tokio::time::sleep(Duration::from_secs(1)).await; // by then the service must have noticed
        let calls = app.calls(Operation::Any);
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(app.calls(Operation::Any), calls, "{path}");
    }
}

#[tokio::test]
async fn the_end_comes_after_the_last_lines_however_late_they_are_shown() {
    join_all([0, 1, 3, 8].map(async |lag: u64| {
        let app = TestApp::with(real_job(), |config| {
            let env = &mut config.overrides.env;
            env.insert("SLEEP_SECONDS".to_owned(), "4".into());
            env.insert("FAIL_WITH".to_owned(), "3".into());
        })
        .await;
        let late = Fault::Invisible { ms: lag * 1000 };
        app.emulator.faults().add(Rule::new(Operation::Logs, late));
        let execution = app.start("acme").await;
        let mut stream = Events::open(&app, &execution).await;
        let events = stream.rest().await;
        let end = &events.last().unwrap().data;
        let ended: jiff::Timestamp = end["completedAt"].as_str().unwrap().parse().unwrap();
        let after: Duration = jiff::Timestamp::now()
            .duration_since(ended)
            .try_into()
            .unwrap();
        check(&events, "failed");
        app.emulator.faults().clear();
        assert_eq!(texts(&events), app.lines(&execution).await, "{lag} s late");
        assert_eq!(end["linesComplete"], true, "{lag} s late");
        assert!(stream.comments.is_empty(), "{lag} s late");
        let most = Duration::from_secs(lag) + END + Duration::from_secs(1) + delayed();
        assert!(
            after < most,
            "{lag} s late: the end came {after:?} after it"
        );
    }))
    .await;
}

#[tokio::test]
async fn the_end_waits_for_lines_that_have_become_later_than_before() {
    let app = TestApp::with(real_job(), |config| {
        let env = &mut config.overrides.env;
        env.insert("SLEEP_SECONDS".to_owned(), "5".into());
    })
    .await;
    for lag in [0, 2500] {
        let late = Fault::Invisible { ms: lag };
        app.emulator.faults().add(Rule::new(Operation::Logs, late));
        let execution = app.start("acme").await;
        let events = Events::open(&app, &execution).await.rest().await;
        app.emulator.faults().clear();
        let lines = app.lines(&execution).await;
        assert_eq!(texts(&events), lines, "{lag} ms late");
    }
}

#[tokio::test]
async fn a_client_that_has_received_the_end_gets_204() {
    let (app, execution) = printing(3, 0, 50).await;
    app.until(&execution, "succeeded").await;
    let mut stream = Events::open(&app, &execution).await;
    stream.rest().await;
    let id = stream.last_id.unwrap();
    let events = link(&execution, "events");
    let logs = app.calls(Operation::Logs);
    for request in [
        app.get(events).header("last-event-id", &id),
        app.get(&format!("{events}?lastEventId={id}")),
    ] {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 204);
        assert_eq!(response.text().await.unwrap(), "");
    }
    assert_eq!(app.calls(Operation::Logs), logs);
    let elsewhere = events.replace("acme", "globex");
    let request = app.get(&elsewhere).header("last-event-id", &id);
    problem(request.send().await.unwrap(), "execution-not-found").await;
}

#[tokio::test]
async fn the_last_event_id_may_be_in_the_query_and_may_be_empty() {
    let (app, execution) = printing(5, 0, 60_000).await;
    app.until(&execution, "succeeded").await;
    let events = link(&execution, "events");
    let mut stream = Events::open(&app, &execution).await;
    stream.next().await.unwrap();
    let first = stream.last_id.clone().unwrap();
    stream.next().await.unwrap();
    let second = stream.last_id.clone().unwrap();
    let lines = async |request: reqwest::RequestBuilder| {
        texts(&Events::of(request.send().await.unwrap()).rest().await)
    };
    let query = |id: &str| app.get(&format!("{events}?lastEventId={id}"));
    assert_eq!(lines(query("")).await, numbered(5));
    assert_eq!(
        lines(app.get(events).header("last-event-id", "")).await,
        numbered(5)
    );
    assert_eq!(
        lines(query(&first)).await,
        numbered(5),
        "before the first line"
    );
    assert_eq!(lines(query(&second)).await, numbered(5)[1..]);
    let both = query(&first).header("last-event-id", &second);
    assert_eq!(lines(both).await, numbered(5)[1..], "the header goes first");
    let bad = query("garbage").send().await.unwrap();
    problem(bad, "malformed-request").await;
}

#[tokio::test]
async fn the_first_event_of_a_stream_has_a_reconnection_time() {
    let (app, execution) = printing(1, 0, 50).await;
    let response = app.get(link(&execution, "events")).send().await.unwrap();
    let text = response.text().await.unwrap();
    assert!(text.starts_with("retry: 1000\nid: "), "{text}");
    assert!(text.contains("\nevent: execution\ndata: {"), "{text}");
}

#[tokio::test]
async fn a_stream_ends_when_its_callers_token_expires() {
    let app_and_issuer = auth::spawn_with(
        auth::all_to_u1(),
        Job::new(JOB, ["sh", "-c", "exec sleep 60"]),
    );
    let (app, _issuer) = app_and_issuer.await;
    let start = app
        .post("/scopes/acme/process")
        .bearer_auth(auth::token("u1"));
    let execution = crate::helpers::json(start).await;
    let token = auth::changed("exp", (crate::issuer::now() + 3).into());
    let request = app.get(link(&execution, "events")).bearer_auth(&token);
    let mut stream = Events::of(request.send().await.unwrap());
    let began = Instant::now();
    let events = stream.rest().await;
    assert!(events.iter().all(|event| event.kind != "end"));
    assert_eq!(stream.comments, ["to be continued"]);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}
