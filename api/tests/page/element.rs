//! `<process-button>`: once and only once, through double clicks, reloads, restarts and outages; in any page.

use emulator::{Fault, Operation, Rule};
use serde_json::json;

use crate::browser::Browser;
use crate::scripted::{Answer, Scene, accepted, execution, problem};
use crate::world::World;

/// WebDriver's names of keys.
const TAB: &str = "\u{E004}";
const ENTER: &str = "\u{E007}";
const SPACE: &str = " ";

/// A page of somebody else with the element in it.
const HOST: &str = "<!doctype html><meta charset=utf-8><title>Host</title>
    <script type=module src=button.js></script>
    <process-button scope=acme label=Import log></process-button>";

/// The service's own page, its job taking so many seconds.
async fn opened(world: &World, seconds: u32) -> Option<Browser> {
    let browser = Browser::start().await?;
    browser.open(&world.url("/?scope=acme")).await;
    browser.until("element && state === 'idle'").await;
    browser
        .until("document.querySelector('[name=seconds]')")
        .await;
    browser.fill("[name=seconds]", &seconds.to_string()).await;
    Some(browser)
}

/// A page that plays a scene.
async fn watching(scene: &Scene) -> Option<Browser> {
    let browser = Browser::start().await?;
    browser.open(&scene.url).await;
    browser.until("state === 'idle'").await;
    Some(browser)
}

#[tokio::test]
async fn a_double_click_starts_one() {
    let world = World::start().await;
    let Some(browser) = opened(&world, 1).await else {
        return;
    };
    browser.double_click("part('start')").await;
    browser.until("state === 'succeeded'").await;
    assert_eq!(world.started(), 1);
    browser.click("part('start')").await;
    world.until_started(2).await; // the next click is a new intent
}

#[tokio::test]
async fn a_reload_while_running_goes_on() {
    let world = World::start().await;
    let Some(browser) = opened(&world, 8).await else {
        return;
    };
    browser.click("part('start')").await;
    browser
        .until("text('lines').includes('working: 1 of 8 s')")
        .await;
    let name = browser.value("element.execution.name").await;
    browser.reload().await;
    browser
        .until("state === 'running' && text('lines').includes('working: 1 of 8 s')")
        .await;
    assert_eq!(browser.value("element.execution.name").await, name);
    browser.until("state === 'succeeded'").await;
    assert_eq!(
        browser
            .value("text('lines').split('working: 1 of 8 s').length")
            .await,
        2,
        "each line once"
    );
    browser.open(&world.url("/?scope=acme")).await;
    browser.until("state === 'idle'").await; // what has ended is not taken up again
    assert_eq!(world.started(), 1);
}

#[tokio::test]
async fn a_reload_while_starting_neither_loses_nor_doubles_the_start() {
    let world = World::start().await;
    let Some(browser) = opened(&world, 1).await else {
        return;
    };
    let slow = Fault::Delay { ms: 1500 };
    world.emulator.faults().add(Rule::new(Operation::Run, slow));
    browser.click("part('start')").await;
    browser.until("state === 'starting'").await;
    browser.reload().await;
    browser.until("state === 'succeeded'").await;
    assert_eq!(world.started(), 1);
}

#[tokio::test]
async fn a_restart_of_the_service_while_watching_is_survived() {
    let mut world = World::start().await;
    let Some(browser) = opened(&world, 6).await else {
        return;
    };
    browser.click("part('start')").await;
    browser
        .until("text('lines').includes('working: 1 of 6 s')")
        .await;
    world.stop_service().await;
    browser
        .until("text('problem').includes('cannot be reached. Trying again')")
        .await;
    world.start_service().await;
    browser
        .until("state === 'running' && text('problem') === ''")
        .await;
    browser
        .until("state === 'succeeded' && text('lines').includes('working: 6 of 6 s')")
        .await;
    assert_eq!(
        browser
            .value("text('lines').split('working: 1 of 6 s').length")
            .await,
        2,
        "each line once"
    );
    assert_eq!(world.started(), 1);
}

#[tokio::test]
async fn a_click_while_the_service_is_away_starts_one_when_it_is_back() {
    let mut world = World::start().await;
    let Some(browser) = opened(&world, 1).await else {
        return;
    };
    world.stop_service().await;
    browser.click("part('start')").await;
    browser
        .until("text('problem').includes('cannot be reached. Trying again')")
        .await;
    browser.screenshot("service-away").await;
    world.start_service().await;
    browser
        .until("state === 'succeeded' && text('problem') === ''")
        .await;
    assert_eq!(world.started(), 1);
}

#[tokio::test]
async fn a_click_after_giving_up_repeats_the_same_wish() {
    let scene = Scene::play(HOST, vec![], vec![]).await;
    let Some(browser) = watching(&scene).await else {
        return;
    };
    browser.click("part('start')").await;
    browser
        .until("text('problem').includes('Trying again')")
        .await;
    browser.click("part('cancel')").await;
    browser
        .until("state === 'refused' && part('cancel').hidden")
        .await;
    let tried = scene.seen().len();
    browser.reload().await;
    browser.until("state === 'idle'").await;
    assert_eq!(scene.seen().len(), tried, "a reload is not a click");
    browser.click("part('start')").await;
    browser.until("state === 'starting'").await;
    until_seen(&scene, tried + 1).await;
    let seen = scene.seen();
    assert!(
        seen.iter().all(|request| request.key == seen[0].key),
        "{seen:?}"
    );
    browser
        .script(
            "element.parameters = { document: 'other' }; await element.cancel(); element.start()",
        )
        .await;
    until_seen(&scene, seen.len() + 1).await;
    assert_ne!(
        scene.seen().last().unwrap().key,
        seen[0].key,
        "another wish has another key"
    );
}

#[tokio::test]
async fn every_interruption_is_survived_and_nothing_is_sent_or_shown_twice() {
    let line = |n: u32| json!({"time": "2026-01-01T00:00:01Z", "severity": "INFO", "task": 0, "text": format!("\u{2028}line {n}")});
    let starts = vec![
        Answer::Plain(503, "text/html", "<h1>Service Unavailable</h1>".into()),
        problem(409, "idempotency-in-progress", true),
        Answer::Plain(202, "application/json", "{\"name\": \"test-jo".into()),
        accepted(),
    ];
    let first = format!(
        ": hello\r\n\r\nid: a1\r\nevent: log\r\ndata: {}\r\n\r\n",
        line(1)
    );
    let (half, rest) = first.split_at(first.len() - 30);
    let running = execution("running").to_string();
    let (this, that) = running.split_at(running.find(",\"").unwrap() + 1);
    let others = vec![
        problem(404, "execution-not-found", false),
        Answer::Plain(502, "text/html", "Bad Gateway".into()),
        Answer::Stream(vec![
            half.into(),
            rest[..rest.len() - 3].into(),
            rest[rest.len() - 3..].into(), // a CRLF in two pieces
            format!("event:execution\ndata:{this}\ndata: {that}\n\n"), // data in two lines
            format!(": beat\n\nid: a2\nevent: log\ndata: {}\n", line(9)), // breaks off: not an event
        ]),
        problem(400, "malformed-request", false), // another revision does not know our place
        Answer::Stream(vec![
            format!(
                "id: b1\nevent: log\ndata: {}\n\nid: b2\nevent: log\ndata: {}\n\n",
                line(1),
                line(2)
            ),
            format!("id: b3\nevent: end\ndata: {}\n\n", execution("succeeded")),
        ]),
    ];
    let scene = Scene::play(HOST, starts, others).await;
    let Some(browser) = watching(&scene).await else {
        return;
    };
    browser.script("window.told = []; for (const type of ['starting', 'started', 'changed', 'ended'])
        document.addEventListener(`process-${type}`, ({ detail }) => told.push(`${type} ${detail?.state ?? ''}`.trim()))").await;
    browser.click("part('start')").await;
    browser
        .until("state === 'running' && text('lines').includes('line 1')")
        .await;
    assert_eq!(
        browser.value("text('status')").await,
        "Running: 1 of 2 tasks done, 1 running"
    );
    browser.until("state === 'succeeded'").await;
    let lines = browser
        .value("[...part('lines').children].map((line) => line.textContent.slice(-6))")
        .await;
    assert_eq!(lines, json!(["line 1", "line 2"]));
    let told = browser.value("told").await;
    assert_eq!(
        told,
        json!([
            "starting",
            "started pending",
            "changed pending",
            "changed running",
            "changed succeeded",
            "ended succeeded"
        ])
    );
    let (posts, streams): (Vec<_>, Vec<_>) = scene
        .seen()
        .into_iter()
        .partition(|request| request.key.is_some());
    assert_eq!(posts.len(), 4);
    assert!(
        posts
            .iter()
            .all(|post| post.key == posts[0].key && post.body == "{}"),
        "{posts:?}"
    );
    let places: Vec<_> = streams
        .iter()
        .map(|request| request.last_event_id.as_deref())
        .collect();
    assert_eq!(places, [None, None, None, Some("a1"), None]);
}

#[tokio::test]
async fn the_end_is_the_end_though_lines_still_come() {
    let ended = format!(
        "id: 1\nevent: execution\ndata: {}\n\n",
        execution("succeeded")
    );
    let line = json!({"time": "2026-01-01T00:00:01Z", "text": "last words"});
    let others = vec![
        Answer::Stream(vec![ended]),
        Answer::Stream(vec![format!("id: 2\nevent: log\ndata: {line}\n\n")]),
        problem(403, "scope-forbidden", false),
    ];
    let scene = Scene::play(HOST, vec![accepted()], others).await;
    let Some(browser) = watching(&scene).await else {
        return;
    };
    browser
        .script("window.ended = 0; element.addEventListener('process-ended', () => { ended++; })")
        .await;
    browser.click("part('start')").await;
    browser.until("state === 'succeeded'").await;
    assert_eq!(browser.value("part('start').ariaDisabled").await, "false");
    assert_eq!(browser.value("part('cancel').hidden").await, true);
    browser.until("text('lines').includes('last words')").await;
    until_seen(&scene, 4).await;
    browser.until("text('problem') === ''").await;
    assert_eq!(
        browser.value("[state, ended]").await,
        json!(["succeeded", 1])
    );
}

#[tokio::test]
async fn what_waits_for_another_run_is_said_and_not_tried_again() {
    let scene = Scene::play(HOST, vec![problem(409, "scope-busy", true)], vec![]).await;
    let Some(browser) = watching(&scene).await else {
        return;
    };
    browser.click("part('start')").await;
    browser.until("state === 'refused'").await;
    assert_eq!(
        browser.value("text('problem')").await,
        "This is scope-busy."
    );
    assert_eq!(scene.seen().len(), 1);
}

#[tokio::test]
async fn a_token_given_before_or_after_goes_with_every_request() {
    let html = format!("{HOST}<script>
        document.querySelector('process-button').getToken = async () => 'fresh'; // the module has not run yet
        document.querySelector('process-button').parameters = {{ document: 'a' }}</script>");
    let scene = Scene::play(&html, vec![accepted()], vec![]).await;
    let Some(browser) = watching(&scene).await else {
        return;
    };
    browser.click("part('start')").await;
    until_seen(&scene, 2).await;
    let seen = scene.seen();
    assert!(
        seen.iter()
            .all(|request| request.authorization.as_deref() == Some("Bearer fresh")),
        "{seen:?}"
    );
    assert_eq!(seen[0].body, r#"{"document":"a"}"#);
    assert_eq!(
        seen[1].path,
        "/scopes/acme/executions/test-job-x7k2p/events"
    );
}

#[tokio::test]
async fn the_keyboard_is_enough_and_never_loses_its_place() {
    let world = World::start().await;
    let Some(browser) = opened(&world, 60).await else {
        return;
    };
    browser
        .script("document.querySelector('#parameters > :last-child [name]').focus()")
        .await;
    browser.keys(TAB).await;
    let focused = "element.shadowRoot.activeElement?.part.value";
    assert_eq!(browser.value(focused).await, "start");
    browser.keys(ENTER).await;
    browser.until("state === 'running'").await;
    assert_eq!(browser.value(focused).await, "start");
    assert_eq!(browser.value("part('start').ariaBusy").await, "true");
    browser.keys(ENTER).await; // does nothing now
    browser.keys(TAB).await;
    assert_eq!(browser.value(focused).await, "cancel");
    browser.keys(SPACE).await;
    browser.until("state === 'cancelled'").await;
    assert_eq!(browser.value(focused).await, "start");
    assert_eq!(world.started(), 1);
}

#[tokio::test]
async fn a_page_of_another_origin_can_have_the_button() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let stranger = Scene::play(HOST, vec![], vec![]).await;
    let mut origin = stranger.url.clone();
    origin.pop();
    let world = World::with(|config| config.cors.origins = vec![origin]).await;
    let html = HOST.replace("src=button.js", &format!("src={}", world.url("/button.js")));
    let listed = stranger.show(&html);
    browser.open(&listed).await;
    browser.until("state === 'idle'").await;
    browser.click("part('start')").await;
    browser
        .until("state === 'succeeded' && text('lines').includes('SCOPE = acme')")
        .await;
    assert_eq!(world.started(), 1);
    // The same page from an origin that nobody listed: the browser keeps the two apart.
    let unlisted = Scene::play(HOST, vec![], vec![]).await;
    browser
        .open(&unlisted.show(&HOST.replace(
            "<process-button",
            &format!("<process-button api={}", world.url("/")),
        )))
        .await;
    browser.until("state === 'idle'").await;
    browser.click("part('start')").await;
    browser
        .until("text('problem').includes('cannot be reached')")
        .await;
    assert_eq!(world.started(), 1);
}

/// Waits until the scene has seen so many requests.
async fn until_seen(scene: &Scene, count: usize) {
    let began = std::time::Instant::now();
    while scene.seen().len() < count {
        assert!(began.elapsed().as_secs() < 20, "only {:?}", scene.seen());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
